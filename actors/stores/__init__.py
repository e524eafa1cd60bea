"""The shared stores as actors: thin shells around the state machines of `retinue.actors.domain`."""
