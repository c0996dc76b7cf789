"""What `benchmarks.scale` does with one store: fill it, use it, open it anew.

Each public function is to run in a process of its own: a PKCS#11 module and its login
belong to a process, and memory can be told of a whole process only.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from secrets import SystemRandom
from typing import Final, TypeAlias

from rich.console import Console
from rich.progress import Progress, track

from benchmarks.hot_paths import CALLER, SEED, microseconds
from benchmarks.scale_report import TOKEN, WRAP, Cost, Group
from keycore.adapters.sql_store import SqlStore
from keycore.bootstrap import Core, open_core, store_place
from keycore.domain.ids import InstanceId, KeyId, new_uuid
from keycore.domain.instances import Instance
from keycore.initialise import initialise
from keycore.ports import KeyFilter, WrappedKey
from keycore.service.creation import KeyMaker, NewKey
from keycore.service.records import Records
from keycore.settings import Settings

INSTANCE_KEYS: Final = 100
"""Keys in each instance, and in each page."""

TURNS: Final = 100
TURNS_UNCOUNTED: Final = 5
"""The first ones, in which caches fill."""

TURN_CALLS: Final = 100
TURN_COLD_CALLS: Final = 3
HOT_KEYS: Final = 100
"""Keys in use; the caches of a process hold more."""

ROUNDS: Final = 9
WRITES: Final = 10
READS: Final = 3

SAMPLE: Final = HOT_KEYS + (TURNS + TURNS_UNCOUNTED) * TURN_COLD_CALLS + ROUNDS * WRITES
"""Keys that are wrapped with or rotated."""

_BATCH: Final = 200
_KIB_IN_MIB: Final = 1024

Place: TypeAlias = tuple[InstanceId, KeyId]


@dataclass(frozen=True, slots=True)
class Case:
    """One use case, and how often it is called to measure it once."""

    name: str
    group: Group
    calls: int
    call: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Filling:
    """How many keys were brought into a store, and in how many seconds."""

    keys: int
    seconds: float


def prepare(settings: Settings) -> None:
    """Make an empty installation."""
    initialise(settings, CALLER)


def fill(settings: Settings, count: int) -> Filling:
    """Add instances with :data:`INSTANCE_KEYS` keys until ``count`` keys are there.

    It may be interrupted, and goes on where it was.
    """
    with open_core(settings, "cli") as core:
        started = time.perf_counter()
        present = core.keys.count(CALLER, KeyFilter())
        missing = max(0, count - present)
        records = Records(core.store, core.token)
        console = Console(stderr=True)
        for start in track(range(0, missing, _BATCH), f"making {missing} keys", console=console):
            _add(core, records, min(_BATCH, missing - start))
        return Filling(missing, time.perf_counter() - started)


def _add(core: Core, records: Records, count: int) -> None:
    maker, now = KeyMaker(core.token), core.clock.now()
    with records.writing() as unit:
        for first in range(0, count, INSTANCE_KEYS):
            instance = Instance(InstanceId(new_uuid()), "bench", None, now)
            unit.save_instance(instance)
            for _ in range(min(INSTANCE_KEYS, count - first)):
                unit.save_key(maker.make(instance.id, NewKey("bench"), by="bench", now=now))


def copy(source: Settings, target: Settings) -> Filling:
    """Copy a store into an empty database, as ``keyplane store migrate`` does.

    Each row must be signed once only, and SQLite is the faster one to fill. Both can be
    used afterwards.
    """
    started = time.perf_counter()
    with (
        closing(SqlStore.open(store_place(source))) as ours,
        closing(SqlStore.create(store_place(target))) as theirs,
        Progress(console=Console(stderr=True)) as progress,
    ):
        shown = {what: progress.add_task(what, total=None) for what in ("copied", "compared")}

        def tell(what: str, done: int, of: int) -> None:
            progress.update(shown[what], completed=done, total=of)

        ours.move_to(theirs, retire=lambda: None, progress=tell)
    seconds = time.perf_counter() - started
    with open_core(target, "cli") as core:
        return Filling(core.keys.count(CALLER, KeyFilter()), seconds)


def is_copied(target: Settings) -> bool:
    """Tell whether a database has a copy; it has a whole one or none."""
    return SqlStore.holds_installation(store_place(target))


def choose(settings: Settings) -> list[Place]:
    """Return :data:`SAMPLE` keys of as many instances as can be, in random order."""
    chance = SystemRandom()
    chosen: list[Place] = []
    with open_core(settings, "cli") as core:
        instances = core.instances.all()
        each = 2 * SAMPLE // len(instances) + 1
        for instance in chance.sample(instances, len(instances)):
            if len(chosen) >= SAMPLE:
                break
            wanted = KeyFilter(instance.id)
            keys = core.keys.page(CALLER, wanted, limit=INSTANCE_KEYS).keys
            chosen += [(instance.id, key.id) for key in chance.sample(keys, min(each, len(keys)))]
    chance.shuffle(chosen)
    return chosen[:SAMPLE]


def serve(settings: Settings, chosen: Sequence[Place], asked: Connection) -> None:
    """Use a store as its faces do, a little whenever ``asked`` to, until it is told nothing.

    It is asked for ``turn``, ``round`` or ``costs``, and answers the last one with them.
    """
    with open_core(settings, "cli") as core:
        # As a worker of the REST face does it: a key's first use then waits for no disk.
        core.budget.open_credit()
        use = Use(core, chosen)
        answers: dict[str, Callable[[], object]] = {
            "turn": use.turn,
            "round": use.round,
            "costs": use.costs,
        }
        # Whoever asks may have failed on another store.
        with suppress(EOFError):
            while what := asked.recv():
                asked.send(answers[what]())


class Use:
    """Measures use cases on one store, piece by piece."""

    def __init__(self, core: Core, chosen: Sequence[Place]) -> None:
        """Use ``core``, with the keys that were ``chosen``."""
        rest = iter(chosen[HOT_KEYS:])
        self._core = core
        self._turns = list(_wraps(core, chosen, rest))
        self._rounds = list(_writes(core, rest)) + list(_reads(core, chosen[0][0]))
        self._times: dict[str, list[float]] = defaultdict(list)
        for place in chosen[:HOT_KEYS]:
            _wrap(core, place)

    def turn(self) -> None:
        """Measure the wraps, and the token's own work beside them, for some milliseconds."""
        self._measure(self._turns)

    def round(self) -> None:
        """Measure everything else once."""
        self._measure(self._rounds)
        self._core.budget.settle()

    def costs(self) -> list[Cost]:
        """Return the medians, and the memory of this process, which has done all this."""
        return [
            *(self._cost(case, TURNS_UNCOUNTED) for case in self._turns),
            *(self._cost(case, 0) for case in self._rounds),
            Cost("resident memory after all of it", _memory("VmRSS"), "MiB", Group.SPACE),
            Cost("peak of the resident memory", _memory("VmHWM"), "MiB", Group.SPACE),
        ]

    def _measure(self, cases: Sequence[Case]) -> None:
        for case in cases:
            self._times[case.name].append(microseconds(case.calls, case.call))

    def _cost(self, case: Case, uncounted: int) -> Cost:
        median = statistics.median(self._times[case.name][uncounted:])
        return Cost(case.name, median, "µs", case.group)


def _wraps(core: Core, chosen: Sequence[Place], rest: Iterator[Place]) -> Iterator[Case]:
    hot = cycle(chosen[:HOT_KEYS])
    version = core.keys.get(CALLER, chosen[0][1]).current
    known = WrappedKey(version.id, version.wrapped or b"")
    yield Case(TOKEN, Group.WRAPS, TURN_CALLS, lambda: core.token.encrypt(known, SEED, b""))
    yield Case(WRAP, Group.WRAPS, TURN_CALLS, lambda: _wrap(core, next(hot)))
    yield Case(
        "wrap, first use of a key", Group.WRAPS, TURN_COLD_CALLS, lambda: _wrap(core, next(rest))
    )


def _writes(core: Core, rest: Iterator[Place]) -> Iterator[Case]:
    own = core.instances.create(CALLER, "writes").id
    one = NewKey("one")
    yield Case("create a key", Group.WRITES, WRITES, lambda: core.keys.create(CALLER, own, one))
    yield Case(
        "rotate a key", Group.WRITES, WRITES, lambda: core.keys.rotate(CALLER, next(rest)[1])
    )


def _reads(core: Core, instance: InstanceId) -> Iterator[Case]:
    one, every = KeyFilter(instance), KeyFilter()
    last = max(0, core.keys.count(CALLER, every) - INSTANCE_KEYS)
    seen = core.store.changes_since(0).sequence

    def look() -> None:
        nonlocal seen
        seen = core.store.changes_since(seen).sequence

    def page(wanted: KeyFilter, offset: int = 0) -> object:
        return core.keys.page(CALLER, wanted, offset=offset, limit=INSTANCE_KEYS)

    for name, group, call in (
        ("page of an instance", Group.ONE, lambda: page(one)),
        ("count of an instance", Group.ONE, lambda: core.keys.count(CALLER, one)),
        ("first page of all instances", Group.ALL, lambda: page(every)),
        ("last page of all instances", Group.ALL, lambda: page(every, last)),
        ("count of all instances", Group.ALL, lambda: core.keys.count(CALLER, every)),
        ("what changed since the last look", Group.CHANGES, look),
        ("what changed, first look", Group.CHANGES, lambda: core.store.changes_since(0)),
    ):
        yield Case(name, group, READS, call)


def _wrap(core: Core, place: Place) -> object:
    return core.wrapping.wrap(CALLER, *place, SEED)


def _memory(what: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith(what))
    return int(line.split()[1]) / _KIB_IN_MIB


def open_anew(settings: Settings, place: Place) -> float:
    """Return the milliseconds that opening the core and the first wrap take.

    The interpreter has started and imported everything before.
    """
    started = time.perf_counter()
    with open_core(settings, "cli") as core:
        _wrap(core, place)
        return (time.perf_counter() - started) * 1000
