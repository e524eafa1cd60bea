"""Actions that people have allowed, for a session or for longer."""
