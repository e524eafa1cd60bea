"""What is up on each stage, with all that can be cut or killed in it."""
