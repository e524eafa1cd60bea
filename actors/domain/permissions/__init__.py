"""The permissions of agents: actions, and the rules and people that decide on them."""
