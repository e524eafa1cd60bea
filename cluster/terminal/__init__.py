"""Output and questions for people at a terminal."""
