"""The count of encryptions under one version: never too low, whatever crashes (SP 800-38D)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from keycore.domain.envelope import Face
from keycore.domain.ids import VersionId
from keycore.domain.keys import Key
from keycore.errors import KeyExhaustedError, StoreUnavailableError, TokenUnavailableError
from keycore.service.cipher import EnvelopeCipher
from keycore.service.use_budget import (
    CREDIT_USES,
    NOTED_RATIO_MIN,
    RESERVED_AHEAD,
    RESERVED_MAX,
    STARTS_MAX,
    UseBudget,
)
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import root_key


@pytest.fixture
def key(here: FakeInstallation) -> Key:
    """A root key that was never used."""
    return root_key(here)


def counted(here: FakeInstallation, version_id: VersionId) -> int:
    """Return the uses that the store has given away."""
    return here.store.uses([version_id])[version_id]


def use_up(here: FakeInstallation, key: Key) -> None:
    """Leave no use of the key's current version."""
    here.store._tables.uses[key.current.id] = 2**32


def taken(budget: UseBudget, version_id: VersionId) -> int:
    """Take uses until the bound and return how many there were."""
    count = 0
    while True:
        try:
            budget.take(version_id)
        except KeyExhaustedError:
            return count
        count += 1


def test_the_block_and_the_bound_are_the_settled_ones(here: FakeInstallation, key: Key) -> None:
    budget = UseBudget(here.store)
    budget.take(key.current.id)

    assert counted(here, key.current.id) == RESERVED_AHEAD == 2**16
    here.store._tables.uses[key.current.id] = RESERVED_MAX - 3
    assert taken(budget, key.current.id) == RESERVED_AHEAD - 1 + 3
    assert counted(here, key.current.id) == RESERVED_MAX == 3 * 2**30


def test_a_block_is_reserved_before_its_first_use_and_lasts(
    here: FakeInstallation, key: Key
) -> None:
    budget = UseBudget(here.store, block=10)

    counts = []
    for _ in range(21):
        budget.take(key.current.id)
        counts.append(counted(here, key.current.id))

    assert counts == [10] * 10 + [20] * 10 + [30]


def test_the_bound_is_met_exactly_and_then_refuses(here: FakeInstallation, key: Key) -> None:
    budget = UseBudget(here.store, block=10, limit=25)

    assert taken(budget, key.current.id) == 25
    with pytest.raises(KeyExhaustedError, match="25") as refused:
        budget.take(key.current.id)
    assert "rotate" in refused.value.hint
    assert counted(here, key.current.id) == 25


def test_each_version_has_a_bound_of_its_own(here: FakeInstallation, key: Key) -> None:
    other = root_key(here)
    budget = UseBudget(here.store, block=10, limit=5)

    assert taken(budget, key.current.id) == 5
    assert taken(budget, other.current.id) == 5


def test_a_crash_counts_too_many_and_never_too_few(here: FakeInstallation, key: Key) -> None:
    """A new process cannot know what the last one used, so its whole block is lost."""
    used = 0
    for _ in range(3):
        process = UseBudget(here.store, block=10, limit=100)
        for _ in range(4):
            process.take(key.current.id)
            used += 1
        assert counted(here, key.current.id) >= used

    last = UseBudget(here.store, block=10, limit=100)

    assert used + taken(last, key.current.id) == 100 - 3 * 6


def test_two_processes_never_exceed_the_bound_together(here: FakeInstallation, key: Key) -> None:
    one, other = (UseBudget(here.store, block=7, limit=50) for _ in range(2))
    for _ in range(12):
        one.take(key.current.id)
        other.take(key.current.id)

    assert 24 + taken(one, key.current.id) + taken(other, key.current.id) == 50


def test_threads_of_one_process_never_exceed_the_bound(here: FakeInstallation, key: Key) -> None:
    budget = UseBudget(here.store, block=7, limit=500)
    ready = threading.Barrier(4)

    def race() -> int:
        ready.wait(timeout=10)
        return taken(budget, key.current.id)

    with ThreadPoolExecutor(4) as threads:
        counts = [threads.submit(race) for _ in range(4)]

    assert sum(count.result() for count in counts) == 500


def test_a_prepared_block_outlives_the_store(here: FakeInstallation, key: Key) -> None:
    budget = UseBudget(here.store, block=3)
    budget.prepare(key.current.id)
    here.store.lost = True

    for _ in range(3):
        budget.take(key.current.id)
    with pytest.raises(StoreUnavailableError):
        budget.take(key.current.id)


def test_preparing_again_reserves_nothing_while_uses_are_left(
    here: FakeInstallation, key: Key
) -> None:
    budget = UseBudget(here.store, block=3)
    for _ in range(5):
        budget.prepare(key.current.id)

    assert counted(here, key.current.id) == 3


def test_preparing_an_exhausted_version_says_so(here: FakeInstallation, key: Key) -> None:
    use_up(here, key)

    with pytest.raises(KeyExhaustedError):
        UseBudget(here.store).prepare(key.current.id)


def test_a_version_that_the_store_does_not_know_gets_no_use(here: FakeInstallation) -> None:
    with pytest.raises(KeyExhaustedError):
        UseBudget(here.store).take(VersionId("0c000000-0000-4000-8000-000000000009"))


def test_an_encryption_that_fails_is_counted_all_the_same(here: FakeInstallation, key: Key) -> None:
    """The token may have made the ciphertext and failed to hand it over."""
    cipher = EnvelopeCipher(here.token, UseBudget(here.store, block=1))
    here.token.lost = True

    for _ in range(3):
        with pytest.raises(TokenUnavailableError):
            cipher.encrypt(Face.REST, key, key.current, b"data key", ())

    assert counted(here, key.current.id) == 3


# --- what callers see at the bound ---------------------------------------------------


def test_at_the_bound_wrap_is_refused_and_unwrap_works(here: FakeInstallation, key: Key) -> None:
    process = here.another_process()
    ciphertext = here.core.wrapping.wrap(CALLER, key.instance_id, key.id, b"data key").ciphertext
    use_up(here, key)

    with pytest.raises(KeyExhaustedError):
        process.wrapping.wrap(CALLER, key.instance_id, key.id, b"data key")
    with pytest.raises(KeyExhaustedError):
        process.wrapping.rewrap(CALLER, key.instance_id, key.id, ciphertext)
    opened = process.wrapping.unwrap(CALLER, key.instance_id, key.id, ciphertext)
    assert opened.plaintext == b"data key"


def test_a_rotation_makes_an_exhausted_key_wrap_again(here: FakeInstallation, key: Key) -> None:
    use_up(here, key)
    here.core.keys.rotate(CALLER, key.id)

    assert here.core.wrapping.wrap(CALLER, key.instance_id, key.id).ciphertext


@pytest.mark.parametrize("fault", ["exhausted", "store-lost"])
def test_an_old_ciphertext_opens_although_it_cannot_be_carried_over(
    here: FakeInstallation, key: Key, fault: str
) -> None:
    """The new ciphertext is an extra; without a use left for it, unwrap works still."""
    ciphertext = here.core.wrapping.wrap(CALLER, key.instance_id, key.id, b"data key").ciphertext
    rotated = here.core.keys.rotate(CALLER, key.id)
    use_up(here, rotated)
    here.core.cache.key(key.id)
    here.store.lost = fault == "store-lost"

    opened = here.core.wrapping.unwrap(CALLER, key.instance_id, key.id, ciphertext)

    assert (opened.plaintext, opened.rewrapped) == (b"data key", None)


# --- on credit ---------------------------------------------------------------------


def on_credit(here: FakeInstallation, **bounds: int) -> UseBudget:
    budget = UseBudget(here.store, **bounds)
    budget.open_credit()
    return budget


def test_all_that_can_be_reserved_or_lost_on_credit_is_within_the_bound() -> None:
    assert RESERVED_MAX + STARTS_MAX * CREDIT_USES == 2**32


def test_the_first_uses_on_credit_need_no_store(here: FakeInstallation, key: Key) -> None:
    budget = on_credit(here)
    here.store.lost = True

    assert budget.has(key.current.id)
    for _ in range(CREDIT_USES):
        budget.take(key.current.id)

    assert not budget.has(key.current.id)
    with pytest.raises(StoreUnavailableError):
        budget.take(key.current.id)


def test_the_credit_is_given_once_for_each_version_and_start(
    here: FakeInstallation, key: Key
) -> None:
    """A second one would not be counted anywhere."""
    budget = on_credit(here, block=10, limit=30)

    assert taken(budget, key.current.id) == CREDIT_USES + 30
    budget.settle()

    assert taken(budget, key.current.id) == 0


def test_settling_reserves_for_all_versions_in_one_write(
    here: FakeInstallation, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, budget = root_key(here), on_credit(here, block=10)
    writes: list[Sequence[VersionId]] = []
    reserve = here.store.reserve_uses

    def counting(versions: Sequence[VersionId], count: int, limit: int) -> dict[VersionId, int]:
        writes.append(versions)
        return reserve(versions, count, limit)

    monkeypatch.setattr(here.store, "reserve_uses", counting)
    for version_id in (key.current.id, other.current.id, key.current.id):
        budget.take(version_id)

    budget.settle()
    budget.settle()

    assert [set(write) for write in writes] == [{key.current.id, other.current.id}]
    assert counted(here, key.current.id) == counted(here, other.current.id) == 10


def test_a_version_at_its_bound_is_refused_once_it_is_settled(
    here: FakeInstallation, key: Key
) -> None:
    budget = on_credit(here)
    here.store._tables.uses[key.current.id] = RESERVED_MAX
    budget.take(key.current.id)

    budget.settle()

    with pytest.raises(KeyExhaustedError):
        budget.take(key.current.id)


def test_settling_waits_for_a_store_that_is_away(here: FakeInstallation, key: Key) -> None:
    budget = on_credit(here, block=10)
    budget.take(key.current.id)
    here.store.lost = True
    with pytest.raises(StoreUnavailableError):
        budget.settle()
    here.store.lost = False

    budget.settle()

    assert counted(here, key.current.id) == 10


def test_settling_warns_at_half_of_the_bound(here: FakeInstallation, key: Key) -> None:
    warned: list[int] = []
    budget = UseBudget(here.store, block=10, limit=20, warn=lambda _, used: warned.append(used))
    budget.open_credit()
    budget.take(key.current.id)

    budget.settle()

    assert warned == [10]


def test_without_a_counted_start_every_use_is_reserved_first(
    here: FakeInstallation, key: Key
) -> None:
    here.store.starts = STARTS_MAX
    budget = on_credit(here, block=10)

    budget.take(key.current.id)

    assert counted(here, key.current.id) == 10
    assert here.store.starts == STARTS_MAX


def test_every_start_that_opens_a_credit_is_counted(here: FakeInstallation) -> None:
    for _ in range(3):
        on_credit(here)

    assert here.store.starts == 3


def test_threads_on_credit_use_no_more_than_there_is(here: FakeInstallation, key: Key) -> None:
    budget = on_credit(here, block=7, limit=50)
    settled = threading.Event()

    def settle() -> None:
        while not settled.is_set():
            budget.settle()

    settler = threading.Thread(target=settle)
    settler.start()
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda _: taken(budget, key.current.id), range(4)))
    settled.set()
    settler.join()

    assert sum(counts) <= CREDIT_USES + 50
    assert counted(here, key.current.id) == 50


def test_a_version_that_nears_the_end_of_its_block_is_settled_before(
    here: FakeInstallation, key: Key
) -> None:
    """Whoever serves many callers in one thread must not wait for the disk there."""
    budget = on_credit(here, block=10)
    budget.take(key.current.id)
    budget.settle()
    here.store._tables.uses[key.current.id] = 10
    while budget.has(key.current.id) and counted(here, key.current.id) == 10:
        budget.take(key.current.id)
        budget.settle()

    assert counted(here, key.current.id) == 20
    assert budget.has(key.current.id)


def test_uses_that_were_reserved_stay_when_no_more_are_granted(
    here: FakeInstallation, key: Key
) -> None:
    budget = UseBudget(here.store, block=10, limit=10)
    budget.take(key.current.id)
    for _ in range(5):
        budget.take(key.current.id)
    with pytest.raises(KeyExhaustedError):
        budget.prepare(key.current.id)

    assert taken(budget, key.current.id) == 4


def test_a_slow_reservation_stops_nobody_who_has_uses(
    here: FakeInstallation, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, budget = root_key(here), UseBudget(here.store, block=10)
    budget.take(other.current.id)
    reserving, go_on = threading.Event(), threading.Event()
    reserve = here.store.reserve_uses

    def slow(versions: Sequence[VersionId], count: int, limit: int) -> dict[VersionId, int]:
        reserving.set()
        assert go_on.wait(10)
        return reserve(versions, count, limit)

    monkeypatch.setattr(here.store, "reserve_uses", slow)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(budget.take, key.current.id)
        try:
            assert reserving.wait(10)
            pool.submit(budget.take, other.current.id).result(timeout=10)
            assert not budget.has(key.current.id)
        finally:
            go_on.set()
        waiting.result(timeout=10)


# --- how much is used up ------------------------------------------------------------


def test_the_share_of_uses_is_known_after_a_reservation_and_not_before(
    here: FakeInstallation, key: Key
) -> None:
    budget = UseBudget(here.store, block=10, limit=40)
    assert budget.used_ratio(key.current.id) == 0.0

    budget.take(key.current.id)
    assert budget.used_ratio(key.current.id) == 10 / 40


def test_the_share_of_uses_counts_what_other_processes_have_reserved(
    here: FakeInstallation, key: Key
) -> None:
    UseBudget(here.store, block=20, limit=40).take(key.current.id)
    budget = UseBudget(here.store, block=10, limit=40)
    budget.take(key.current.id)

    assert budget.used_ratio(key.current.id) == 30 / 40


def test_what_is_hardly_used_takes_no_memory(here: FakeInstallation, key: Key) -> None:
    limit = round(10 / NOTED_RATIO_MIN)
    few, enough = (UseBudget(here.store, block=block, limit=limit) for block in (9, 1))

    few.take(key.current.id)
    assert few.used_ratio(key.current.id) == 0.0

    enough.take(key.current.id)
    assert enough.used_ratio(key.current.id) == NOTED_RATIO_MIN


def test_a_version_that_is_refused_has_used_up_all(here: FakeInstallation, key: Key) -> None:
    budget = UseBudget(here.store, block=10, limit=40)
    taken(budget, key.current.id)

    assert budget.used_ratio(key.current.id) == 1.0
