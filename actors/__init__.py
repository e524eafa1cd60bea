"""What Retinue's sessions do. `retinue` has what users need of it."""
