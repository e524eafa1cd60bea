"""What people have allowed, for a session or for longer."""
