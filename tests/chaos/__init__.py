"""Ray and Redis under load, with everything in them killed: nothing may be lost, or done twice.

There are `stages`, each a ground with a table of what can hit it. `grounds` has what is up: three
nodes with a line to Redis that can be cut, and what `retinue up` starts on one machine. `faults`
has the tables: one for everywhere, one for each ground. `plan` says which fault comes when, by the
seed alone, and `run` makes it so. Meanwhile a client in a process of its own, killed as anything
else, keeps families of agents going (`work`). They write what they tried and what they were told
to a `ledger` outside of the system, and `checks` compares it with what Redis has in the end.

``python -m tests.chaos --rounds N --seed S`` runs it; with ``--plan`` it prints the rounds, a line
of JSON each, and no more. ``python -m tests.chaos.demo`` does to the survey of `make demo` what a
user might see.
"""
