"""The processes behind `up`: a supervisor, and the cluster that it keeps up."""
