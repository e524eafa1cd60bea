"""What Redis has in the end (`books`) against what the ledger says (`records`)."""
