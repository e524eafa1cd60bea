"""Ray and Redis under load, with everything in them killed: nothing may be lost, or done twice.

There are `stages`: three nodes with a line to Redis that can be cut (`cluster`), and what
`retinue up` starts on one machine (`local`). On each, `plan` says which fault comes when, and
`faults` makes it happen, with what can be hit everywhere (`hits`) or there alone (`node_hits`,
`local_hits`). `driver` is a client in a process of its own that keeps families of agents
(`workload`, `errands`) going, and is killed as well. Agents and client write what they tried and
what they were told to a `ledger` outside of the system, and `checker` compares it with what Redis
has in the end (`books`). Run it with ``python -m tests.chaos --rounds N --seed S``.

``python -m tests.chaos.demo`` does to the survey of `make demo` what a user might see.
"""
