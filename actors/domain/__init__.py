"""The behaviour: pure, synchronous state machines. No I/O, clock, randomness or logging here.

Every durable thing (an *entity*) is a module with `State`, `Command`, `Event`, `decide` and
`evolve`:

* ``decide(state, command, now) -> (events, reply)`` looks, never touches;
* ``evolve(state, event) -> state`` is the only place a state changes. It owns the state it is
  given and may change it in place, so that the cost of a command does not grow with the state.

Times are integer microseconds since the epoch in UTC; money is integer nano-USD.
"""
