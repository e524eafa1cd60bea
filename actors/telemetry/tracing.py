"""OpenTelemetry spans: run, turn, and below it step, spawn and authorize, across all processes.

Off unless the environment variable `TRACING` names a function, as ``package.module:function``. It
is called once in every process of a host, and sets up OpenTelemetry there as anybody would: a
tracer provider and its exporters. The context of a run's starter, and of the turn that spawns a
sub-agent, goes along to the run.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from retinue.actors.domain.errors import InvalidValue

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

TRACING = "RETINUE_TRACING"

_OFF = contextlib.nullcontext(None)
_PARENT = "traceparent"
_tracer: Tracer | None = None


def set_up() -> None:
    """Call the function that `TRACING` names; InvalidValue if there is none."""
    global _tracer
    named = os.environ.get(TRACING)
    if not named or _tracer is not None:
        return
    module, _, function = named.partition(":")
    try:
        from opentelemetry.trace import get_tracer

        getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidValue(
            f"{TRACING}={named}: there is no such function, or no OpenTelemetry: {error}",
            field=TRACING,
        ) from error
    _tracer = get_tracer("retinue")


def span(
    name: str, parent: str = "", **attributes: str | int
) -> AbstractContextManager[Span | None]:
    """A span for the time of a block, below ``parent`` or else below the current one."""
    return _OFF if _tracer is None else _span(_tracer, name, parent, attributes)


def now() -> int:
    """The start time of a span that `ended` is told of later; 0 while tracing is off."""
    return 0 if _tracer is None else time.time_ns()


def ended(name: str, began: int, **attributes: str | int) -> None:
    """Records a span that ``began`` then and ends now."""
    if _tracer is not None and began:
        _tracer.start_span(name, attributes=attributes, start_time=began).end()


def current() -> str:
    """The current span for another process (a W3C ``traceparent``); '' if there is none.

    Works also for a client that uses OpenTelemetry without this module's help.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(_PARENT, "")


@contextlib.contextmanager
def _span(
    tracer: Tracer, name: str, parent: str, attributes: dict[str, str | int]
) -> Iterator[Span]:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({_PARENT: parent}) if parent else None
    with tracer.start_as_current_span(name, context, attributes=attributes) as one:
        yield one
