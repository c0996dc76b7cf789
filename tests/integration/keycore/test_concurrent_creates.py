"""Creates that meet in one SQLite store: one request makes one key, one alias has one key."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from keycore.adapters.sql_store import SqlStore
from keycore.bootstrap import Core, wire
from keycore.domain.ids import InstanceId, new_uuid
from keycore.domain.instances import Installation, Instance
from keycore.domain.keys import Key
from keycore.errors import AlreadyExistsError
from keycore.ports import KeyFilter
from keycore.service.caller import Caller
from keycore.service.creation import NewKey
from keycore.service.records import Records
from keycore.settings import ProviderSettings, Settings
from tests.fakes.fixed_clock import FixedClock
from tests.fakes.memory_audit import MemoryAuditLog
from tests.fakes.memory_token import InsecureMemoryToken

CALLER = Caller("rest", "issuer:alice")
HOME = InstanceId(new_uuid())
AT_ONCE = 8


@pytest.fixture
def cores(sqlite_store: SqlStore) -> list[Core]:
    """Cores on one store, as several processes have them."""
    token, clock = InsecureMemoryToken(), FixedClock()
    with Records(sqlite_store, token).writing() as unit:
        unit.save_instance(Instance(HOME, "home", None, clock.now()))
        unit.save_installation(Installation(new_uuid(), "memory", "0", clock.now()))
    settings = Settings(state_dir=Path("/nonexistent"), provider=ProviderSettings(node="node-a"))
    return [wire(settings, sqlite_store, token, MemoryAuditLog(), clock) for _ in range(AT_ONCE)]


def at_once(cores: list[Core], create: Callable[[Core], Key]) -> list[Key | AlreadyExistsError]:
    """Run ``create`` on all cores at the same moment, and return what each got."""
    ready = Barrier(len(cores))

    def one(core: Core) -> Key | AlreadyExistsError:
        ready.wait(10)
        try:
            return create(core)
        except AlreadyExistsError as error:
            return error

    with ThreadPoolExecutor(len(cores)) as pool:
        return list(pool.map(one, cores))


def test_one_request_sent_to_many_processes_at_once_makes_one_key(cores: list[Core]) -> None:
    made = at_once(
        cores, lambda core: core.keys.create(CALLER, HOME, NewKey("name"), idempotency_key="1")
    )

    assert made == [made[0]] * AT_ONCE
    assert cores[0].keys.count(CALLER, KeyFilter()) == 1


def test_one_alias_wanted_by_many_at_once_goes_to_one_key(cores: list[Core]) -> None:
    made = at_once(
        cores, lambda core: core.keys.create(CALLER, HOME, NewKey("name", aliases=("mine",)))
    )

    winners = [key for key in made if isinstance(key, Key)]
    assert len(winners) == 1
    assert cores[0].keys.resolve("mine", within=HOME) == winners[0].id
    assert cores[0].keys.count(CALLER, KeyFilter()) == 1
