"""What stores lend for a time: money and permissions."""
