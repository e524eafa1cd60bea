"""The survey of `make demo` for `retinue run`, with every agent in a process of its own."""

from __future__ import annotations

import survey as example
from retinue import Task
from retinue.actors.agent.turn import AgentFunction


def _task(agent: AgentFunction, prompt: str, label: str) -> Task:
    """As the example makes it, but with the isolation of the root."""
    return Task(agent, prompt, label=label, timeout=3600)


example._task = _task
survey = example.survey
