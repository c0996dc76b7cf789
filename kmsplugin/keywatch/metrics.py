"""The metrics of one process, in a registry of their own.

What happens is counted as it happens. What the process knows is taken from its memory
when somebody asks, so a scrape makes no call to the HSM, the store or the cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from keywatch.families import BUILD, Family, Kind

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The text format that every Prometheus reads."""

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0)
"""Bounds of all histograms: upstream asks for a Decrypt within 10 ms and an Encrypt within
100 ms, and kube-apiserver gives up after 3 s (``kms-v2-contract``, when it calls)."""

Values = Mapping[tuple[str, ...], float]
"""Values by the values of the labels, in the order in which the family names them."""

Teller = Callable[[], Mapping[Family, float | Values | None]]
"""Tells what is known now, from memory. A family without labels has a number; ``None``,
and a family that is left out, means that there is nothing to tell."""

_MemoryFamily = CounterMetricFamily | GaugeMetricFamily


class Metrics:
    """All metrics of one process."""

    def __init__(self, face: str) -> None:
        """Begin with those of the process itself, which serves ``face``."""
        # The library's global registry would add to it whatever else is imported.
        self._registry = CollectorRegistry()
        # Otherwise each counter has a second one with the time at which it was made.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        ProcessCollector(registry=self._registry)
        self.gauge(BUILD).labels(version("keyplane"), face).set(1)

    def counter(self, family: Family) -> Counter:
        """Return a counter that the caller increases."""
        # The library adds the ending by itself.
        name = family.name.removesuffix("_total")
        return Counter(name, family.text, family.labels, registry=self._registry)

    def gauge(self, family: Family) -> Gauge:
        """Return a gauge that the caller sets."""
        return Gauge(family.name, family.text, family.labels, registry=self._registry)

    def histogram(self, family: Family) -> Histogram:
        """Return a histogram of seconds that the caller observes."""
        return Histogram(
            family.name, family.text, family.labels, buckets=SECONDS, registry=self._registry
        )

    def follow(self, families: Sequence[Family], tell: Teller) -> None:
        """Show what ``tell`` says of ``families``, whenever somebody asks.

        Raises:
            ValueError: one of them is there already.
        """
        self._registry.register(_FromMemory(families, tell))

    def render(self) -> bytes:
        """Return everything in the text format (:data:`CONTENT_TYPE`)."""
        return generate_latest(self._registry)


class _FromMemory(Collector):
    def __init__(self, families: Sequence[Family], tell: Teller) -> None:
        self._families = families
        self._tell = tell

    def describe(self) -> Iterator[_MemoryFamily]:
        """Return the families alone, by which the registry notices a second one."""
        for family in self._families:
            yield _told(family, None)

    def collect(self) -> Iterator[_MemoryFamily]:
        known = self._tell()
        for family in self._families:
            yield _told(family, known.get(family))


def _told(family: Family, value: float | Values | None) -> _MemoryFamily:
    kind = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    told = kind(family.name, family.text, labels=family.labels)
    values = value if isinstance(value, Mapping) else {} if value is None else {(): value}
    for labels, number in values.items():
        told.add_metric(list(labels), float(number))
    return told
