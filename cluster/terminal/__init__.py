"""What people see in a terminal, and are asked there."""
