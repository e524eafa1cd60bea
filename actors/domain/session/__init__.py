"""A session as a state machine, and what it holds."""
