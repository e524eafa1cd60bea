"""Ray: the actors on it, and joining it."""
