"""The client: what it does in a wave, and its process, which is killed and started again."""
