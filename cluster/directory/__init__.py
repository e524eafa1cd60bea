"""Where sessions are, and where the next ones go."""
