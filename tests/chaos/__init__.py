"""A real three-node Ray cluster and a real Redis, under load, with everything in it killed.

`plan` says which fault comes when, `cluster` is what they happen to, `faults` makes them happen.
`driver` is a client in a process of its own that keeps families of agents (`workload`, `errands`)
going, and is killed as well. Agents and client write what they tried and what they were told to a
`ledger` outside of the system, and `checker` compares it with what Redis has in the end (`books`).
Run it with ``python -m tests.chaos --rounds N --seed S``.
"""
