"""What a larger store costs: every use case with a thousand keys and with many more.

`python -m benchmarks.scale` fills a SQLite store of each size with a real SoftHSM2 token, a
hundred keys to an instance, and copies it to a PostgreSQL server that it starts. In all of
them it creates, lists, counts, wraps and rotates through the services, a little in one and
then in the next, and opens the core anew. Each cost stands beside its ratio to the cost in
the smallest store. Nothing is left behind, unless `--directory` tells where to keep the
stores: then only what is missing is filled.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from rich.console import Console
from rich.progress import track

from benchmarks import scale_work as work
from benchmarks.scale_report import Cost, Group, Measured, report, table, verdict
from keycore.settings import Settings, StoreSettings
from testbed.postgresql import PostgreSql

KEYS: Final = (1_000, 10_000, 100_000)
ENGINES: Final = ("sqlite", "postgresql")
KEYS_MIN: Final = 1_000
"""Fewer would be used up by the measurement."""

STARTS: Final = 5

_MIB: Final = 2**20

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Store:
    """A store with as many keys as are wanted.

    Attributes:
        size: its bytes on disk.
        filling: what each of its keys cost, as far as that is known.
    """

    keys: int
    settings: Settings
    size: int
    filling: Sequence[Cost]

    def costs(self) -> list[Cost]:
        """Return what is known without using it."""
        on_disk = Cost("the store on disk", self.size / _MIB, "MiB", Group.SPACE, grows=True)
        return [*self.filling, on_disk]


class Fillings:
    """A small file that remembers how long the filling of a store took, over several runs."""

    def __init__(self, file: Path) -> None:
        """Use ``file``, which need not exist."""
        self._file = file

    def add(self, engine: str, filling: work.Filling) -> None:
        """Remember that more keys were brought into the store of ``engine``."""
        if not filling.keys:
            return
        known = self._read()
        keys, seconds = known.get(engine, (0, 0.0))
        known[engine] = (keys + filling.keys, seconds + filling.seconds)
        self._file.write_text(json.dumps(known) + "\n", encoding="ascii")

    def cost(self, engine: str) -> list[Cost]:
        """Return what one key has cost; nothing where that is not known."""
        keys, seconds = self._read().get(engine, (0, 0.0))
        name = "fill the store, each key"
        return [Cost(name, seconds / keys * 1e6, "µs", Group.WRITES)] if keys else []

    def _read(self) -> dict[str, tuple[int, float]]:
        if not self._file.exists():
            return {}
        return dict(json.loads(self._file.read_text(encoding="ascii")))


def apart(function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """Call ``function`` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments, **options).result()


def fill_sqlite(directory: Path, count: int) -> Store:
    """Make what is missing to ``count`` keys in the store of that size."""
    own = directory / str(count)
    own.mkdir(parents=True, exist_ok=True)
    settings = Settings(state_dir=own / "state")
    if not settings.finished_marker.is_file():
        apart(work.prepare, settings)
    fillings = Fillings(own / "filling.json")
    fillings.add("sqlite", apart(work.fill, settings, count))
    return Store(count, settings, settings.database.stat().st_size, fillings.cost("sqlite"))


def copy_to(server: PostgreSql, source: Store) -> Store:
    """Make a copy of a store in a database of the server, unless it is there."""
    name = f"scale_{source.keys}"
    if not server.ask("SELECT 1 FROM pg_database WHERE datname = %s", values=[name]):
        server.create_database(name)
    place = StoreSettings(postgresql=server.connection_to(name), password_file=server.password_file)
    settings = another_host(source.settings, place)
    fillings = Fillings(settings.state_dir.parent / "filling.json")
    if not apart(work.is_copied, settings):
        fillings.add("postgresql", apart(work.copy, source.settings, settings))
        # What the server does by itself some minutes after many writes.
        server.ask("VACUUM ANALYZE", database=name)
    size = int(server.ask("SELECT pg_database_size(%s)", values=[name])[0][0])
    return Store(source.keys, settings, size, fillings.cost("postgresql"))


def another_host(first: Settings, place: StoreSettings) -> Settings:
    """Make a host with the token of ``first`` whose store is elsewhere, unless it is there."""
    state = first.state_dir.with_name("state-postgresql")
    if not state.exists():
        # The store's file would be one that was not moved yet, and SoftHSM2's configuration
        # names the directory in which it lies.
        shutil.copytree(
            first.state_dir,
            state,
            ignore=shutil.ignore_patterns("keyplane.db*", "audit", "softhsm2.conf", "*.lock"),
        )
    provider = first.provider.model_copy(update={"node": "scale-postgresql"})
    return first.model_copy(update={"state_dir": state, "store": place, "provider": provider})


@contextmanager
def used(store: Store, chosen: Sequence[work.Place]) -> Iterator[Callable[[str], Any]]:
    """Yield what asks a process of its own, which has the store open, to use it."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work.serve, args=(store.settings, chosen, theirs))
    process.start()
    theirs.close()
    try:
        yield lambda what: _answer(ours, what)
        ours.send("")
    finally:
        ours.close()
        process.join()


def _answer(process: Connection, what: str) -> Any:
    process.send(what)
    return process.recv()


def measure(stores: Sequence[Store]) -> list[Measured]:
    """Return what everything costs in each store, used in turns."""
    console = Console(stderr=True)
    chosen = [apart(work.choose, store.settings) for store in stores]
    with ExitStack() as stack:
        users = [
            stack.enter_context(used(store, places))
            for store, places in zip(stores, chosen, strict=True)
        ]
        for what, times in (("turn", work.TURNS_UNCOUNTED + work.TURNS), ("round", work.ROUNDS)):
            for _ in track(range(times), f"measuring, each {what}", console=console):
                for ask in users:
                    ask(what)
        costs = [ask("costs") for ask in users]
    opened = _open_anew(stores, chosen)
    return [
        Measured(store.keys, (*found, anew, *store.costs()))
        for store, found, anew in zip(stores, costs, opened, strict=True)
    ]


def _open_anew(stores: Sequence[Store], chosen: Sequence[Sequence[work.Place]]) -> list[Cost]:
    rounds = [
        [
            apart(work.open_anew, store.settings, places[start])
            for store, places in zip(stores, chosen, strict=True)
        ]
        for start in track(range(STARTS), "opening", console=Console(stderr=True))
    ]
    return [
        Cost("open the core, to the first wrap", statistics.median(times), "ms", Group.CHANGES)
        for times in zip(*rounds, strict=True)
    ]


def measure_all(
    directory: Path, engines: Sequence[str], sizes: Sequence[int]
) -> dict[str, list[Measured]]:
    """Return, for each engine, what everything costs in a store of each size."""
    filled = [fill_sqlite(directory, size) for size in sizes]
    stores = {"sqlite": filled}
    with ExitStack() as stack:
        if "postgresql" in engines:
            server = stack.enter_context(PostgreSql(directory / "server"))
            stores["postgresql"] = [copy_to(server, store) for store in filled]
        return {engine: measure(stores[engine]) for engine in engines}


def _size(text: str) -> int:
    value = int(text)
    if value < KEYS_MIN:
        raise argparse.ArgumentTypeError(f"at least {KEYS_MIN} keys")
    return value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=_size, nargs="+", default=KEYS, help="sizes of the stores")
    parser.add_argument("--engines", choices=ENGINES, nargs="+", default=ENGINES)
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="keep the stores there, and use what is there"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them there, as SVG")
    return parser.parse_args()


def main() -> None:
    """Measure everything and print the tables."""
    chosen = _arguments()
    sizes = sorted(set(chosen.keys))
    with ExitStack() as stack:
        directory = chosen.directory or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="kp-scale-"))
        )
        results = measure_all(directory.absolute(), chosen.engines, sizes)
    for engine, stores in results.items():
        Console().print(table(engine, stores), verdict(stores))
    if chosen.json:
        chosen.json.write_text(report(results) + "\n", encoding="utf-8")
    if chosen.plot:
        # The library takes long to import, and only the picture needs it.
        from benchmarks.scale_plot import draw  # noqa: PLC0415

        draw(results, chosen.plot)


if __name__ == "__main__":
    main()
