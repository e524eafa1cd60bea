"""Carries the figures of `retinue.actors.telemetry.metrics` to Ray.

Ray serves them to Prometheus with ``ray_`` in front of their names.

A histogram goes as three gauges with Prometheus's names for it: otherwise Ray would be called for
each observation; so it is called for each bucket, every `EVERY_S` seconds.
"""

from __future__ import annotations

import threading
from itertools import accumulate

from ray.util.metrics import Counter, Gauge

from retinue.actors.telemetry import metrics

EVERY_S = 5.0


class Exporter:
    """Reports changes to Ray each time, for the life of a process."""

    def __init__(self) -> None:
        self._counters = {
            one.name: Counter(one.name, one.text, _tags(one.label)) for one in metrics.COUNTERS
        }
        self._gauges = {
            one.name: Gauge(one.name, one.text, _tags(one.label)) for one in metrics.GAUGES
        }
        self._histograms = {
            one.name: (
                Gauge(f"{one.name}_bucket", one.text, ("le",)),
                Gauge(f"{one.name}_sum", one.text),
                Gauge(f"{one.name}_count", one.text),
            )
            for one in metrics.HISTOGRAMS
        }
        self._told: dict[tuple[str, str], float] = {}

    def start(self) -> None:
        """Export from a thread of its own from now on."""
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def export(self) -> None:
        """Export all current figures once."""
        for counter in metrics.COUNTERS:
            for label, value in list(counter.values.items()):
                grown = value - self._told.get((counter.name, label), 0)
                if grown:
                    self._told[counter.name, label] = value
                    self._counters[counter.name].inc(grown, _tagged(counter.label, label))
        for gauge in metrics.GAUGES:
            for label, value in list(gauge.values.items()):
                self._gauges[gauge.name].set(value, _tagged(gauge.label, label))
        for histogram in metrics.HISTOGRAMS:
            self._export_histogram(histogram)

    def _export_histogram(self, histogram: metrics.Histogram) -> None:
        counts = list(accumulate(histogram.counts))
        if not counts[-1]:
            return
        buckets, total, count = self._histograms[histogram.name]
        bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
        for bound, value in zip(bounds, counts, strict=True):
            buckets.set(value, {"le": bound})
        total.set(histogram.total)
        count.set(counts[-1])

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(EVERY_S):
            self.export()


def _tags(label: str) -> tuple[str, ...]:
    return (label,) if label else ()


def _tagged(name: str, value: str) -> dict[str, str]:
    return {name: value} if name else {}
