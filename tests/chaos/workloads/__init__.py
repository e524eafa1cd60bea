"""What agents do, a kind of work in each file, and the errands that are made of it."""
