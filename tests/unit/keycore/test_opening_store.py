"""A store that need not be there at the start, and may be another one later."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing

import pytest

from keycore.adapters.opening_store import OpeningStore
from keycore.domain.ids import VersionId
from keycore.errors import StoreSetupError, StoreUnavailableError
from keycore.ports import Store
from testbed.waiting import wait_until
from tests.fakes.memory_store import MemoryStore

RETRY_SECONDS = 0.01

WITHIN_SECONDS = 5.0

Opening = Callable[[Callable[[], Store]], OpeningStore]


@pytest.fixture
def opening() -> Iterator[Opening]:
    """Begins to open a store, and closes it after the test."""
    with ExitStack() as stack:
        yield lambda open_store: stack.enter_context(
            closing(OpeningStore(open_store, retry_seconds=RETRY_SECONDS))
        )


def answers(store: OpeningStore) -> bool:
    try:
        store.changes_since(0)
    except StoreUnavailableError:
        return False
    return True


@pytest.mark.parametrize(
    "error", [StoreSetupError("of another schema"), PermissionError(13, "not for you")]
)
def test_whatever_keeps_it_from_opening_it_is_tried_again(
    opening: Opening, error: Exception
) -> None:
    attempts: list[Exception | None] = [error, error, None]

    def open_store() -> MemoryStore:
        failure = attempts.pop(0)
        if failure is not None:
            raise failure
        return MemoryStore()

    store = opening(open_store)

    wait_until(lambda: answers(store), what="the store", within_seconds=WITHIN_SECONDS)
    assert attempts == []


def test_until_it_is_open_every_use_is_refused_at_once_with_the_reason(opening: Opening) -> None:
    def open_store() -> MemoryStore:
        raise StoreSetupError("of another schema", hint="run the right release")

    store = opening(open_store)

    assert store.wait(WITHIN_SECONDS) == "of another schema; run the right release"
    assert isinstance(store.error, StoreSetupError)
    with pytest.raises(StoreUnavailableError, match="of another schema"):
        store.reading()


def test_nobody_waits_for_a_store_that_hangs(opening: Opening) -> None:
    release = threading.Event()

    def open_store() -> MemoryStore:
        release.wait()
        return MemoryStore()

    store = opening(open_store)

    assert store.wait(0.05) == "the store is being opened"
    assert not answers(store)
    release.set()
    wait_until(lambda: answers(store), what="the store", within_seconds=WITHIN_SECONDS)


def test_one_that_does_not_answer_any_more_is_opened_anew(opening: Opening) -> None:
    """A backup was put in the place of the file: an open one would never see it."""
    opened: list[MemoryStore] = []

    def open_store() -> MemoryStore:
        opened.append(MemoryStore())
        return opened[-1]

    store = opening(open_store)
    assert store.wait(WITHIN_SECONDS) == ""

    opened[0].lost = True

    wait_until(lambda: answers(store), what="another store", within_seconds=WITHIN_SECONDS)
    assert len(opened) == 2


def test_one_that_answers_is_left_alone(opening: Opening) -> None:
    asked = threading.Semaphore(0)

    class Counting(MemoryStore):
        def uses(self, version_ids: Iterable[VersionId]) -> Mapping[VersionId, int]:
            asked.release()
            return super().uses(version_ids)

    opened: list[Counting] = []

    def open_store() -> Counting:
        opened.append(Counting())
        return opened[-1]

    opening(open_store)

    for _ in range(3):
        assert asked.acquire(timeout=WITHIN_SECONDS)
    assert len(opened) == 1
