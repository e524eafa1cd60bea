"""A session as a state machine, and its contents."""
