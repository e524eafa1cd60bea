"""The real actors under a deterministic scheduler, with every fault that their world can have.

`loop` is the scheduler, `faults` a journal and a network that fail, `world` the cluster with its
crashes and zombies, `agents` and `clients` what is done in it, `checker` what must be true of it,
and `broken` the mistakes that it must see.
Run it with ``python -m tests.simulation --seed N --schedules K``.
"""
