"""What `benchmarks.scale` has measured: costs, their ratios, a table, a verdict and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

from rich.table import Table

WRAP: Final = "wrap, key in use"
TOKEN: Final = "encryption in the token alone"  # noqa: S105  (the HSM's, no credential)

WRAP_RATIO_MAX: Final = 1.5
"""How much longer a wrap may take in the largest store than in the smallest."""


class Group(StrEnum):
    """What belongs into one picture."""

    WRAPS = "wraps"
    WRITES = "writes"
    ONE = "reads of one instance"
    ALL = "reads of all instances"
    CHANGES = "changes and restart"
    SPACE = "memory and disk"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one thing costs.

    Attributes:
        unit: what ``value`` counts: ``µs``, ``ms`` or ``MiB``.
        grows: whether it is spent on every key there is, so that a ratio is no measure.
    """

    name: str
    value: float
    unit: str
    group: Group
    grows: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """A store and what everything costs in it."""

    keys: int
    costs: tuple[Cost, ...]

    def find(self, name: str) -> Cost | None:
        """Return the cost of that name, or ``None``: not everything is known of each store."""
        return next((cost for cost in self.costs if cost.name == name), None)


Results: TypeAlias = Mapping[str, Sequence[Measured]]
"""By engine: its stores, the smallest first."""


def names(stores: Sequence[Measured]) -> list[str]:
    """Return the names of all costs, in the order in which they were measured."""
    return list(dict.fromkeys(cost.name for store in stores for cost in store.costs))


def ratio(first: Cost | None, other: Cost | None) -> float | None:
    """Return how many times ``first`` the other one is, where that says something."""
    if first is None or other is None or other.grows:
        return None
    return other.value / first.value


def verdict(stores: Sequence[Measured]) -> str:
    """Tell whether a wrap keeps its bound.

    Both were measured in turns, so what else the machine did has cost both the same. The
    token knows nothing of the store, and its ratio tells how far that is true.
    """
    first, last = stores[0], stores[-1]
    worst, noise = (ratio(first.find(name), last.find(name)) for name in (WRAP, TOKEN))
    if last is first or worst is None or noise is None:
        return f"{WRAP}: there is nothing to compare it with"
    kept = "kept" if worst <= WRAP_RATIO_MAX else "NOT KEPT"
    return (
        f"{WRAP}: with {last.keys} keys {worst:.2f} times what it takes with {first.keys}, "
        f"the token alone {noise:.2f} times; at most {WRAP_RATIO_MAX} is {kept}"
    )


def table(title: str, stores: Sequence[Measured]) -> Table:
    """Return a line for each cost: its value in each store, and the ratio to the first."""
    shown = Table("cost", "unit", title=title)
    for store in stores:
        shown.add_column(f"{store.keys} keys", justify="right")
        if store is not stores[0]:
            shown.add_column("ratio", justify="right")
    for name in names(stores):
        row = [store.find(name) for store in stores]
        cells = [_cell(row[0])]
        for cost in row[1:]:
            times = ratio(row[0], cost)
            cells += [_cell(cost), "" if times is None else f"{times:.2f}"]
        shown.add_row(name, next(cost.unit for cost in row if cost), *cells)
    return shown


def _cell(cost: Cost | None) -> str:
    return "" if cost is None else f"{cost.value:.1f}"


def report(results: Results) -> str:
    """Return everything as JSON."""
    return json.dumps(
        {
            engine: [
                {
                    "keys": store.keys,
                    "costs": [
                        asdict(cost) | {"ratio": ratio(stores[0].find(cost.name), cost)}
                        for cost in store.costs
                    ],
                }
                for store in stores
            ]
            for engine, stores in results.items()
        },
        indent=2,
        ensure_ascii=False,
    )


def read_report(text: str) -> Results:
    """Return what :func:`report` has written."""
    return {
        engine: [
            Measured(store["keys"], tuple(_cost(cost) for cost in store["costs"]))
            for store in stores
        ]
        for engine, stores in json.loads(text).items()
    }


def _cost(fields: dict[str, Any]) -> Cost:
    return Cost(
        fields["name"], fields["value"], fields["unit"], Group(fields["group"]), fields["grows"]
    )
