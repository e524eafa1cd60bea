"""All code that speaks to Redis."""
