"""Where Retinue's sessions live: Ray, Redis, the client and the command line."""
