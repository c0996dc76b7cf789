"""What a larger store costs: every use case with a thousand keys and with many more.

`python -m benchmarks.scale` fills a SQLite store with a real SoftHSM2 token, a hundred keys
to an instance, and copies it to a PostgreSQL server that it starts. In both it creates,
lists, counts, wraps and rotates through the services, and opens the core anew. Each cost
stands beside its ratio to the cost in the smallest store. Nothing is left behind.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final, ParamSpec, TypeAlias, TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks import scale_work as work
from benchmarks.scale_work import Cost
from keycore.settings import Settings, StoreSettings
from testbed.postgresql import PostgreSql

KEYS: Final = (1_000, 100_000)
ENGINES: Final = ("sqlite", "postgresql")
KEYS_MIN: Final = 1_000
"""Fewer would be used up by the measurement."""

STARTS: Final = 5

WRAP_RATIO_MAX: Final = 1.5
"""How much longer a wrap may take in the largest store than in the smallest."""

_MIB: Final = 2**20

Results: TypeAlias = dict[str, list[list[Cost]]]
"""By engine: the costs in the store of each size."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Filled:
    """A store with as many keys as are wanted.

    Attributes:
        size: its bytes on disk.
        filling: what it cost to bring it there.
    """

    settings: Settings
    size: int
    filling: Cost


def apart(function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """Call ``function`` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments, **options).result()


def fill_sqlite(settings: Settings, count: int) -> Filled:
    """Make what is missing to ``count`` keys."""
    filling = apart(work.fill, settings, count)
    return Filled(settings, settings.database.stat().st_size, filling)


@contextmanager
def copied(source: Settings, server: PostgreSql) -> Iterator[Filled]:
    """Yield a copy of a store in a database of the server, which is gone afterwards."""
    name = "scale"
    place = StoreSettings(
        postgresql=server.create_database(name), password_file=server.password_file
    )
    settings = source.model_copy(update={"store": place})
    filling = apart(work.copy, source, settings)
    # What the server does by itself some minutes after many writes.
    server.ask("VACUUM ANALYZE", database=name)
    size = int(server.ask("SELECT pg_database_size(%s)", values=[name])[0][0])
    yield Filled(settings, size, filling)
    server.drop_database(name)


def costs(store: Filled) -> list[Cost]:
    """Return what everything costs in a store."""
    chosen = apart(work.choose, store.settings)
    measured = apart(work.measure, store.settings, chosen)
    opened = [apart(work.open_anew, store.settings, place) for place in chosen[:STARTS]]
    return [
        *measured,
        Cost("open the core, to the first wrap", statistics.median(opened), "ms"),
        Cost("the store on disk", store.size / _MIB, "MiB", grows=True),
        store.filling,
    ]


def measure(directory: Path, engines: Sequence[str], sizes: Sequence[int]) -> Results:
    """Return, for each engine, the costs in a store of each size."""
    console = Console(stderr=True)
    results: Results = {name: [] for name in engines}
    settings = Settings(state_dir=directory / "state")
    apart(work.prepare, settings)
    with ExitStack() as stack:
        server = None
        if "postgresql" in engines:
            server = stack.enter_context(PostgreSql(directory / "server"))
        for size in sizes:
            console.print(f"{size} keys")
            store = fill_sqlite(settings, size)
            if "sqlite" in engines:
                results["sqlite"].append(costs(store))
            if server is not None:
                with copied(settings, server) as copy:
                    results["postgresql"].append(costs(copy))
    return results


def table(title: str, sizes: Sequence[int], columns: Sequence[Sequence[Cost]]) -> Table:
    """Return a line for each cost: its value in each store, and the ratio to the first."""
    shown = Table("cost", "unit", title=title)
    for size in sizes:
        shown.add_column(f"{size} keys", justify="right")
        if size != sizes[0]:
            shown.add_column("ratio", justify="right")
    for row in zip(*columns, strict=True):
        cells = [f"{row[0].value:.1f}"]
        for cost in row[1:]:
            cells += [f"{cost.value:.1f}", "" if cost.grows else f"{ratio(row[0], cost):.2f}"]
        shown.add_row(row[0].name, row[0].unit, *cells)
    return shown


def ratio(first: Cost, other: Cost) -> float:
    """Return how many times ``first`` the other one is."""
    return other.value / first.value


def verdict(columns: Sequence[Sequence[Cost]]) -> str:
    """Tell whether a wrap keeps its bound, in encryptions by the token of the same minute.

    What else the machine does changes from one store to the next, and costs both the same.
    """
    (token, wrap), (last_token, last_wrap) = columns[0][:2], columns[-1][:2]
    worst = ratio(wrap, last_wrap) / ratio(token, last_token)
    kept = "kept" if worst <= WRAP_RATIO_MAX else "NOT KEPT"
    return (
        f"{wrap.name}: {worst:.2f} times, beside the token's own speed; "
        f"at most {WRAP_RATIO_MAX} is {kept}"
    )


def report(sizes: Sequence[int], results: Results) -> str:
    """Return everything as JSON."""
    return json.dumps(
        {
            name: [
                {
                    "keys": size,
                    "costs": [
                        {
                            "name": cost.name,
                            "unit": cost.unit,
                            "value": cost.value,
                            "ratio": None if cost.grows else ratio(first, cost),
                        }
                        for first, cost in zip(columns[0], column, strict=True)
                    ],
                }
                for size, column in zip(sizes, columns, strict=True)
            ]
            for name, columns in results.items()
        },
        indent=2,
        ensure_ascii=False,
    )


def _size(text: str) -> int:
    value = int(text)
    if value < KEYS_MIN:
        raise argparse.ArgumentTypeError(f"at least {KEYS_MIN} keys")
    return value


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=_size, nargs="+", default=KEYS, help="sizes of the store")
    parser.add_argument("--engines", choices=ENGINES, nargs="+", default=ENGINES)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    chosen = parser.parse_args()
    sizes = sorted(set(chosen.keys))
    with tempfile.TemporaryDirectory(prefix="kp-scale-") as directory:
        results = measure(Path(directory), chosen.engines, sizes)
    for name, columns in results.items():
        Console().print(table(name, sizes, columns), verdict(columns))
    if chosen.json:
        chosen.json.write_text(report(sizes, results) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
