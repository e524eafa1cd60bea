"""The client, and the handles that it gives out."""
