"""Ray: what runs on it, and how it is joined."""
