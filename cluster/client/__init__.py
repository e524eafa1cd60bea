"""The client and its handles."""
