"""The budget of one workspace, and a session's lease of it."""
