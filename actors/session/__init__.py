"""A live session: its host, its runs, and what its turns ask for."""
