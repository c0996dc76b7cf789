"""Cached keys: never older than the bound, and nothing of a changed key is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest

from keycore.bootstrap import Core
from keycore.domain.keys import Key, KeyState
from keycore.errors import (
    IntegrityError,
    KeyDeletedError,
    KeyNotFoundError,
    KeyStateError,
    StoreUnavailableError,
)
from keycore.ports import Changes
from keycore.service.key_cache import CAPACITY, IDLE_SECONDS, MAX_AGE_SECONDS, KeyCache
from keycore.service.keys import Edits
from keycore.service.records import Records
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import another_instance, root_key, tamper_key

Change = Callable[[Core, Key], object]

CHANGES: dict[str, Change] = {
    "deleted": lambda core, key: core.keys.delete(CALLER, key.id),
    "suspended": lambda core, key: core.keys.suspend(CALLER, key.id),
    "rotated": lambda core, key: core.keys.rotate(CALLER, key.id),
    "edited": lambda core, key: core.keys.edit(CALLER, key.id, Edits(name="new name")),
}


def counting_loads(here: FakeInstallation, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Return a list that grows by one with every read transaction."""
    loads: list[None] = []
    reading = here.store.reading

    def counted() -> object:
        loads.append(None)
        return reading()

    monkeypatch.setattr(here.store, "reading", counted)
    return loads


def test_the_bound_leaves_room_within_the_promised_second() -> None:
    assert MAX_AGE_SECONDS == 0.5
    assert CAPACITY == 10_000


def test_a_key_is_read_from_the_store_once(
    here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = root_key(here)
    loads = counting_loads(here, monkeypatch)

    for _ in range(100):
        assert here.core.cache.key(key.id) == key
        here.clock.advance(seconds=1)

    assert len(loads) == 1


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_change_by_another_process_is_seen_within_the_bound(
    here: FakeInstallation, change: str
) -> None:
    here.store.tells_versions = False
    key = root_key(here)
    here.core.cache.key(key.id)
    CHANGES[change](here.another_process(), key)

    here.clock.advance(seconds=0.6)

    assert here.core.cache.key(key.id) == here.core.keys.get(CALLER, key.id) != key


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_change_by_another_process_is_seen_at_once_where_the_store_can_tell(
    here: FakeInstallation, change: str
) -> None:
    key = root_key(here)
    here.core.cache.key(key.id)

    CHANGES[change](here.another_process(), key)

    assert here.core.cache.key(key.id) == here.core.keys.get(CALLER, key.id) != key


def test_a_key_is_used_for_the_bound_where_the_store_cannot_tell(here: FakeInstallation) -> None:
    here.store.tells_versions = False
    key = root_key(here)
    here.core.cache.key(key.id)
    here.another_process().keys.suspend(CALLER, key.id)

    assert here.core.cache.key(key.id) == key


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_change_by_this_process_is_seen_at_once(here: FakeInstallation, change: str) -> None:
    key = root_key(here)
    here.core.cache.key(key.id)

    CHANGES[change](here.core, key)

    assert here.core.cache.key(key.id) == here.core.keys.get(CALLER, key.id) != key


@pytest.mark.parametrize("change", ["deleted", "suspended"])
def test_a_key_taken_away_by_another_process_stops_wrapping_within_the_bound(
    here: FakeInstallation, change: str
) -> None:
    here.store.tells_versions = False
    key = root_key(here)
    here.core.wrapping.wrap(CALLER, here.instance.id, key.id)
    CHANGES[change](here.another_process(), key)

    here.clock.advance(seconds=0.6)

    with pytest.raises(KeyDeletedError if change == "deleted" else KeyStateError):
        here.core.wrapping.wrap(CALLER, here.instance.id, key.id)


@pytest.mark.parametrize("change", list(CHANGES))
def test_working_copies_of_a_changed_key_are_forgotten(here: FakeInstallation, change: str) -> None:
    here.store.tells_versions = False
    key = root_key(here)
    other = root_key(here)
    here.core.cache.key(key.id)
    here.core.cache.key(other.id)
    CHANGES[change](here.another_process(), key)
    here.token.forgotten.clear()
    here.clock.advance(seconds=0.6)

    here.core.cache.key(other.id)

    assert here.token.forgotten == [key.current.id]


def test_a_key_within_the_bound_needs_no_store(here: FakeInstallation) -> None:
    key = root_key(here)
    here.core.wrapping.wrap(CALLER, here.instance.id, key.id)
    here.store.lost = True
    here.clock.advance(seconds=MAX_AGE_SECONDS)

    assert here.core.wrapping.wrap(CALLER, here.instance.id, key.id).ciphertext


def test_a_store_away_for_longer_than_the_bound_stops_everything(here: FakeInstallation) -> None:
    """Otherwise a key deleted elsewhere would go on working here."""
    key = root_key(here)
    here.core.wrapping.wrap(CALLER, here.instance.id, key.id)
    here.store.lost = True
    here.clock.advance(seconds=0.6)

    with pytest.raises(StoreUnavailableError):
        here.core.wrapping.wrap(CALLER, here.instance.id, key.id)


def test_a_store_that_comes_back_heals_the_cache(here: FakeInstallation) -> None:
    key = root_key(here)
    here.core.cache.key(key.id)
    here.store.lost = True
    here.clock.advance(seconds=0.6)
    with pytest.raises(StoreUnavailableError):
        here.core.cache.key(key.id)
    here.store.lost = False
    here.another_process().keys.suspend(CALLER, key.id)

    assert here.core.cache.key(key.id).state is KeyState.SUSPENDED


def test_a_key_unknown_here_needs_the_store(here: FakeInstallation) -> None:
    known, unknown = root_key(here), root_key(here)
    here.core.cache.key(known.id)
    here.store.lost = True

    with pytest.raises(StoreUnavailableError):
        here.core.cache.key(unknown.id)


def test_a_cached_key_does_not_exist_for_another_instance(here: FakeInstallation) -> None:
    key = root_key(here)
    here.core.cache.key(key.id, within=here.instance.id)

    with pytest.raises(KeyNotFoundError):
        here.core.cache.key(key.id, within=another_instance(here))


def test_a_key_changed_by_hand_is_refused_within_the_bound(here: FakeInstallation) -> None:
    key = root_key(here)
    here.core.cache.key(key.id)
    tamper_key(here, key.id, name="changed")
    here.clock.advance(seconds=0.6)

    with pytest.raises(IntegrityError):
        here.core.cache.key(key.id)


def test_the_keys_used_last_stay_when_the_cache_is_full(
    here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = KeyCache(
        here.store, Records(here.store, here.token), here.token, here.clock, capacity=2
    )
    one, two, three = (root_key(here) for _ in range(3))
    for key in (one, two, one, three):
        cache.key(key.id)
    loads = counting_loads(here, monkeypatch)

    cache.key(one.id)
    cache.key(three.id)
    assert loads == []
    cache.key(two.id)
    assert len(loads) == 1


def test_an_evicted_key_leaves_no_working_copy_behind(here: FakeInstallation) -> None:
    """Its deletion elsewhere would not be noticed here any more."""
    cache = KeyCache(
        here.store, Records(here.store, here.token), here.token, here.clock, capacity=1
    )
    one, two = root_key(here), root_key(here)
    cache.key(one.id)
    here.token.forgotten.clear()

    cache.key(two.id)

    assert here.token.forgotten == [one.current.id]


def test_the_age_of_what_was_read_counts_from_before_the_reading(
    here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = root_key(here)
    changes_since = here.store.changes_since
    asked = []

    def slow(sequence: int) -> object:
        asked.append(sequence)
        changes = changes_since(sequence)
        here.clock.advance(seconds=0.6)
        return changes

    monkeypatch.setattr(here.store, "changes_since", slow)
    here.core.cache.key(key.id)
    here.core.cache.key(key.id)

    assert len(asked) == 2


# --- without the store ------------------------------------------------------------------


def test_a_key_is_warm_when_neither_key_nor_count_needs_the_store(here: FakeInstallation) -> None:
    key = root_key(here)
    assert not here.core.wrapping.is_warm(key.id)

    here.core.wrapping.wrap(CALLER, here.instance.id, key.id)

    assert here.core.wrapping.is_warm(key.id)
    here.store.lost = True
    assert here.core.wrapping.wrap(CALLER, here.instance.id, key.id).ciphertext


def test_a_key_is_no_longer_warm_when_the_bound_has_passed(here: FakeInstallation) -> None:
    key = root_key(here)
    here.core.wrapping.wrap(CALLER, here.instance.id, key.id)

    here.clock.advance(seconds=0.6)

    assert not here.core.wrapping.is_warm(key.id)


def test_a_key_that_only_opened_something_here_is_not_warm(here: FakeInstallation) -> None:
    """An unwrap may carry over, and then needs to count."""
    key = root_key(here)

    here.core.cache.key(key.id)

    assert not here.core.wrapping.is_warm(key.id)


def test_a_change_that_is_committed_while_a_key_is_loaded_is_not_missed(
    here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key was read before its deletion, and put away after the look that told of it."""
    key = root_key(here)
    cache, other = here.core.cache, here.another_process()
    cache.refresh()
    reading = here.store.reading

    @contextmanager
    def overtaken() -> Iterator[object]:
        with reading() as rows:
            yield rows
        monkeypatch.undo()
        other.keys.delete(CALLER, key.id)
        cache.refresh()

    monkeypatch.setattr(here.store, "reading", overtaken)
    cache.drop(key.id)
    cache.key(key.id)

    assert cache.key(key.id).state is KeyState.DESTROYED


def test_a_slow_look_at_the_store_does_not_stop_those_who_need_none(
    here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = root_key(here)
    cache = here.core.cache
    cache.key(key.id)
    looking, go_on = threading.Event(), threading.Event()
    changes_since = here.store.changes_since

    def slow(sequence: int) -> Changes:
        looking.set()
        assert go_on.wait(10)
        return changes_since(sequence)

    monkeypatch.setattr(here.store, "changes_since", slow)
    refresher = threading.Thread(target=cache.refresh)
    refresher.start()
    try:
        assert looking.wait(10)
        found = ThreadPoolExecutor(1).submit(cache.key, key.id).result(timeout=10)
    finally:
        go_on.set()
        refresher.join()

    assert found == key


def test_the_versions_that_keys_in_the_cache_encrypt_with_are_told_from_memory(
    here: FakeInstallation,
) -> None:
    first, second = root_key(here), root_key(here)
    here.core.cache.key(first.id)
    assert here.core.cache.encrypting_versions() == {first.current.id}

    here.core.cache.key(second.id)
    here.clock.advance(hours=1)
    rotated = here.core.keys.rotate(CALLER, first.id)
    here.core.cache.key(first.id)
    here.store.lost = True

    assert here.core.cache.encrypting_versions() == {rotated.current.id, second.current.id}


def lost_writes(here: FakeInstallation) -> None:
    """The counter goes back, as on a standby that had not got everything."""
    here.store._tables.sequence -= 1


def too_many_writes(here: FakeInstallation) -> None:
    """More keys were written than the store names."""
    whole = here.store.changes_since
    here.store.changes_since = lambda sequence: replace(  # type: ignore[method-assign]
        whole(sequence), key_ids=frozenset(), too_many=True
    )


def another_server(here: FakeInstallation) -> None:
    """The counter stands where it stood, on a server that was started at another time."""
    here.store.epoch = "another"


@pytest.mark.parametrize("change", [lost_writes, another_server, too_many_writes])
def test_a_store_that_may_have_lost_writes_leaves_nothing_in_memory(
    here: FakeInstallation, change: Callable[[FakeInstallation], None]
) -> None:
    key = root_key(here)
    here.core.wrapping.wrap(CALLER, here.instance.id, key.id, b"data", [])
    change(here)
    here.store._tables.keys.pop(key.id)
    here.clock.advance(seconds=MAX_AGE_SECONDS + 0.1)

    with pytest.raises(KeyNotFoundError):
        here.core.cache.key(key.id)

    assert here.token.forgotten == [key.current.id]


def test_a_store_that_lost_writes_is_followed_again_afterwards(here: FakeInstallation) -> None:
    key = root_key(here)
    here.core.cache.key(key.id)
    here.store._tables.sequence -= 1
    here.clock.advance(seconds=MAX_AGE_SECONDS + 0.1)
    here.core.cache.key(key.id)

    here.another_process().keys.suspend(CALLER, key.id)
    here.clock.advance(seconds=MAX_AGE_SECONDS + 0.1)

    assert here.core.cache.key(key.id).state is KeyState.SUSPENDED


# --- kept fresh ahead of its use ----------------------------------------------------


@pytest.fixture
def looks(here: FakeInstallation, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the store was asked for, one entry for each time."""
    asked: list[int] = []
    whole = here.store.changes_since

    def counted(sequence: int) -> Changes:
        asked.append(sequence)
        return whole(sequence)

    monkeypatch.setattr(here.store, "changes_since", counted)
    return asked


def test_a_cache_in_use_is_kept_fresh_at_every_call(
    here: FakeInstallation, looks: list[int]
) -> None:
    key = root_key(here)
    for expected in (1, 2, 3):
        here.core.cache.key(key.id)
        looks.clear()
        here.clock.advance(seconds=MAX_AGE_SECONDS / 2)
        here.core.cache.keep_fresh()
        assert len(looks) == 1, expected


def test_a_cache_that_nobody_uses_asks_seldom(here: FakeInstallation, looks: list[int]) -> None:
    here.core.cache.refresh()
    looks.clear()
    for _ in range(7):
        here.clock.advance(seconds=IDLE_SECONDS / 4)
        here.core.cache.keep_fresh()

    assert len(looks) == 1


def test_a_store_that_is_away_is_told_at_every_call_until_it_is_back(
    here: FakeInstallation,
) -> None:
    here.core.cache.key(root_key(here).id)
    here.store.lost = True
    for _ in range(3):
        with pytest.raises(StoreUnavailableError):
            here.core.cache.keep_fresh()

    here.store.lost = False
    here.core.cache.keep_fresh()


def test_what_was_being_read_when_everything_was_dropped_is_not_kept(
    here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have come from the server of before, and nobody would ever name it again."""
    key, cache = root_key(here), here.core.cache
    cache.refresh()
    whole = here.store.reading

    @contextmanager
    def slow() -> Iterator[object]:
        with whole() as rows:
            yield rows
        another_server(here)
        cache.refresh()

    with monkeypatch.context() as patch:
        patch.setattr(here.store, "reading", slow)
        cache.key(key.id)

    assert not cache.encrypting_versions()
