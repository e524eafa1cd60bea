"""The implementation of Retinue's sessions. Users import its public names from `retinue`."""
