"""What an agent's author meets: turns, tasks, and how an agent travels."""
