"""The location of each session, and the placement of new ones."""
