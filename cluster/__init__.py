"""The home of Retinue's sessions: Ray, Redis, the client and the command line."""
