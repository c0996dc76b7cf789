"""How metrics are described: once, for the process that shows them and for the documentation.

Every name is ``keyplane_<part>_<what>[_<unit>][_total]``. Those that begin with
``process_`` have the names that every Prometheus client gives them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a metric is, in the words of the text format."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: as it is scraped; that of a counter ends with ``_total``, and samples of a
            histogram have the usual endings besides.
        text: what it tells; for the text format and for ``docs/metrics.md``.
        labels: their names; each has few values, none of which a caller chooses.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()


BUILD: Final = Family(
    "keyplane_build_info",
    Kind.GAUGE,
    "1 for the version that runs and the face that it serves.",
    ("version", "face"),
)

PROCESS: Final = (
    Family("process_cpu_seconds_total", Kind.COUNTER, "CPU time of the process."),
    Family("process_max_fds", Kind.GAUGE, "File descriptors that it may open."),
    Family("process_open_fds", Kind.GAUGE, "File descriptors that it has open."),
    Family("process_resident_memory_bytes", Kind.GAUGE, "Memory in use."),
    Family("process_start_time_seconds", Kind.GAUGE, "When it started, in Unix time."),
    Family("process_virtual_memory_bytes", Kind.GAUGE, "Address space in use."),
)
"""What the library itself tells of the process."""


def by_name(families: Iterable[Family]) -> list[Family]:
    """Return the families sorted by name.

    Raises:
        ValueError: two of them have one name.
    """
    found = sorted(families, key=lambda family: family.name)
    names = [family.name for family in found]
    if len(set(names)) != len(names):
        raise ValueError("two metrics have one name")
    return found
