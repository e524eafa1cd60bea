"""A live session: its host, its runs, and the services that its turns ask for."""
