"""What an agent may do: actions, and who decides on them."""
