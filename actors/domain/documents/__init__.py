"""Sessions as documents that leave the system and come back."""
