"""The real actors under a deterministic scheduler, with every fault that their world can have.

`loop` is the scheduler, `faults` a journal and a network that fail, `world` the cluster with its
crashes and zombies, `workload` what agents and clients do in it, `checker` what must be true of it.
Run it with ``python -m tests.simulation --seed N --schedules K``.
"""
