"""The work: a client in a process of its own, and what its agents do."""
