"""``python -m retinue``: the command line."""

from retinue.cluster.cli.app import main

main()
