"""Money and permissions that stores lend for a time."""
