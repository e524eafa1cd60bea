"""The side of the runtime that agents see: turns, tasks, and how an agent is shipped."""
