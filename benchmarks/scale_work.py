"""What `benchmarks.scale` does with one store: fill it, use it, open it anew.

Each public function is to run in a process of its own: a PKCS#11 module and its login
belong to a process, and memory can be told of a whole process only.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from secrets import SystemRandom
from typing import Final, TypeAlias

from rich.console import Console
from rich.progress import Progress, track

from benchmarks.hot_paths import CALLER, SEED, microseconds
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

ROUNDS: Final = 5
HOT_KEYS: Final = 100
"""Keys in use; the caches of a process hold more."""

HOT_CALLS: Final = 1_000
COLD_CALLS: Final = 20
WRITES: Final = 10
READS: Final = 3

SAMPLE: Final = HOT_KEYS + ROUNDS * (COLD_CALLS + WRITES)
"""Keys that are wrapped with or rotated."""

_BATCH: Final = 200
_KIB_IN_MIB: Final = 1024

Place: TypeAlias = tuple[InstanceId, KeyId]
Case: TypeAlias = tuple[str, int, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one thing costs.

    Attributes:
        unit: what ``value`` counts: ``µs``, ``ms``, ``s`` or ``MiB``.
        grows: whether it is spent on every key there is, so that a ratio is no measure.
    """

    name: str
    value: float
    unit: str
    grows: bool = False


def prepare(settings: Settings) -> None:
    """Make an empty installation."""
    initialise(settings, CALLER)


def fill(settings: Settings, count: int) -> Cost:
    """Add instances with :data:`INSTANCE_KEYS` keys until ``count`` keys are there."""
    started = time.perf_counter()
    with open_core(settings, "cli") as core:
        present = core.keys.count(CALLER, KeyFilter())
        missing = max(0, count - present)
        records = Records(core.store, core.token)
        console = Console(stderr=True)
        for start in track(range(0, missing, _BATCH), f"making {missing} keys", console=console):
            _add(core, records, min(_BATCH, missing - start))
    return Cost("fill the store", time.perf_counter() - started, "s", grows=True)


def _add(core: Core, records: Records, count: int) -> None:
    maker, now = KeyMaker(core.token), core.clock.now()
    with records.writing() as unit:
        for first in range(0, count, INSTANCE_KEYS):
            instance = Instance(InstanceId(new_uuid()), "bench", None, now)
            unit.save_instance(instance)
            for _ in range(min(INSTANCE_KEYS, count - first)):
                unit.save_key(maker.make(instance.id, NewKey("bench"), by="bench", now=now))


def copy(source: Settings, target: Settings) -> Cost:
    """Copy a store into an empty database, as ``keyplane store migrate`` does.

    Each row must be signed once only, and SQLite is the faster one to fill.
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
    return Cost("fill the store", time.perf_counter() - started, "s", grows=True)


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


def measure(settings: Settings, chosen: Sequence[Place]) -> list[Cost]:
    """Use a store as its faces do, and return what each use case costs, and the memory.

    Times are medians of rounds. The first cost is the token's own, which no store changes,
    and the second the wrap that has a bound.
    """
    with open_core(settings, "cli") as core:
        # As a worker of the REST face does it: a key's first use then waits for no disk.
        core.budget.open_credit()
        cases = list(_cases(core, chosen))
        for instance, key in chosen[:HOT_KEYS]:
            core.wrapping.wrap(CALLER, instance, key, SEED)
        rounds = [
            _round(core, cases)
            for _ in track(range(ROUNDS), "measuring", console=Console(stderr=True))
        ]
        costs = [
            Cost(name, statistics.median(column), "µs")
            for (name, _, _), column in zip(cases, zip(*rounds, strict=True), strict=True)
        ]
        return [*costs, Cost("resident memory after all of it", _resident(), "MiB")]


def _round(core: Core, cases: Sequence[Case]) -> list[float]:
    times = [microseconds(calls, call) for _, calls, call in cases]
    core.budget.settle()
    return times


def _cases(core: Core, chosen: Sequence[Place]) -> Iterator[Case]:
    hot, rest = cycle(chosen[:HOT_KEYS]), iter(chosen[HOT_KEYS:])
    version = core.keys.get(CALLER, chosen[0][1]).current
    known = WrappedKey(version.id, version.wrapped or b"")
    yield "encryption in the token alone", HOT_CALLS, lambda: core.token.encrypt(known, SEED, b"")
    yield "wrap, key in use", HOT_CALLS, lambda: _wrap(core, next(hot))
    yield "wrap, first use of a key", COLD_CALLS, lambda: _wrap(core, next(rest))
    own = core.instances.create(CALLER, "writes").id
    yield "create a key", WRITES, lambda: core.keys.create(CALLER, own, NewKey("one"))
    yield "rotate a key", WRITES, lambda: core.keys.rotate(CALLER, next(rest)[1])
    yield from _reads(core, chosen[0][0])


def _reads(core: Core, instance: InstanceId) -> Iterator[Case]:
    one, every = KeyFilter(instance), KeyFilter()
    last = max(0, core.keys.count(CALLER, every) - INSTANCE_KEYS)
    newest = core.store.changes_since(0).sequence

    def page(wanted: KeyFilter, offset: int = 0) -> object:
        return core.keys.page(CALLER, wanted, offset=offset, limit=INSTANCE_KEYS)

    yield "page of an instance", READS, lambda: page(one)
    yield "first page of all instances", READS, lambda: page(every)
    yield "last page of all instances", READS, lambda: page(every, last)
    yield "count of an instance", READS, lambda: core.keys.count(CALLER, one)
    yield "count of all instances", READS, lambda: core.keys.count(CALLER, every)
    yield "what changed since the last look", READS, lambda: core.store.changes_since(newest)
    yield "what changed, first look", READS, lambda: core.store.changes_since(0)


def _wrap(core: Core, place: Place) -> object:
    return core.wrapping.wrap(CALLER, *place, SEED)


def _resident() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / _KIB_IN_MIB


def open_anew(settings: Settings, place: Place) -> float:
    """Return the milliseconds that opening the core and the first wrap take.

    The interpreter has started and imported everything before.
    """
    started = time.perf_counter()
    with open_core(settings, "cli") as core:
        _wrap(core, place)
        return (time.perf_counter() - started) * 1000
