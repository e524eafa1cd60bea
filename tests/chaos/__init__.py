"""Ray and Redis under load, with everything in them killed: nothing may be lost, or done twice.

It is made of data. A *stage* is a ground with a table of what can hit it: `grounds` has what is up,
three nodes with a line to Redis that can be cut, and what `retinue up` starts on one machine;
`faults` has the tables, one for everywhere and one for each ground. `workloads` has what agents do,
each kind in a file, and the table that they are drawn from. A round is some of these faults at
times that depend on the seed alone (`plan`), while a `client` in a process of its own, killed as
anything else, keeps families of agents going. They write what they tried and what they were told
to a `ledger` outside of the system, and `checks` compares it with what Redis has in the end.

``python -m tests.chaos --rounds N --seed S`` runs it; ``--work`` and ``--faults`` name the kinds to
make it of, and with ``--plan`` it prints the rounds, a line of JSON each, and runs none.
``python -m tests.chaos.demo`` does to the survey of `make demo` what a user might see.
"""
