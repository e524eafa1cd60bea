"""A cluster of this machine: its state directory, its processes, its memory."""
