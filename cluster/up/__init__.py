"""What `up` starts: a supervisor, and the cluster that it keeps up."""
