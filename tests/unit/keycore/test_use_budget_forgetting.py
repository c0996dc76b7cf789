"""The count of encryptions in a process that uses more versions than it keeps in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import pytest

from keycore.domain.ids import VersionId
from keycore.domain.keys import Key
from keycore.errors import KeyExhaustedError, StoreUnavailableError, StoreUnconfirmedError
from keycore.service import use_budget
from keycore.service.use_budget import CREDIT_USES, RESERVED_MAX, UseBudget
from tests.fakes.installation import FakeInstallation
from tests.unit.keycore.examples import root_key

BLOCK = 2 * CREDIT_USES


def on_credit(here: FakeInstallation, **bounds: int) -> UseBudget:
    budget = UseBudget(here.store, block=BLOCK, **bounds)
    budget.open_credit()
    return budget


def counted(here: FakeInstallation, key: Key) -> int:
    """Return the uses that the store has given away."""
    return here.store.uses([key.current.id])[key.current.id]


def refusing(error: Exception) -> Callable[[dict[VersionId, int]], None]:
    def refuse(_: dict[VersionId, int]) -> None:
        raise error

    return refuse


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses of two versions are kept in hand for long."""
    monkeypatch.setattr(use_budget, "VERSIONS_MAX", 2)


def used_once(budget: UseBudget, keys: Sequence[Key]) -> None:
    for key in keys:
        budget.take(key.current.id)
    budget.settle()


def used_up(budget: UseBudget, key: Key, *, others: Sequence[Key]) -> int:
    """Use a key until its bound, forgotten now and then, and return how often that went."""
    for used in count():
        try:
            budget.take(key.current.id)
        except KeyExhaustedError:
            return used
        if used % BLOCK == 0:
            used_once(budget, others)
    raise AssertionError


@pytest.mark.usefixtures("few")
def test_what_the_oldest_versions_have_left_is_given_back(here: FakeInstallation) -> None:
    keys = [root_key(here) for _ in range(5)]
    budget = on_credit(here)
    used_once(budget, keys)

    assert [counted(here, key) for key in keys] == [1, 1, 1, BLOCK, BLOCK]
    assert set(budget._left) == {key.current.id for key in keys[3:]}


@pytest.mark.usefixtures("few")
def test_a_version_that_is_used_again_and_again_is_never_counted_too_low(
    here: FakeInstallation,
) -> None:
    keys = [root_key(here) for _ in range(4)]
    budget = on_credit(here)
    for times in range(1, 8):
        used_once(budget, keys)
        # What is used beyond the count is the credit of this one start.
        assert all(counted(here, key) + CREDIT_USES >= times for key in keys)


@pytest.mark.usefixtures("few")
def test_a_forgotten_version_can_still_make_all_its_ciphertexts_and_no_more(
    here: FakeInstallation,
) -> None:
    keys = [root_key(here) for _ in range(4)]
    budget = on_credit(here, limit=5 * BLOCK)
    used_once(budget, keys)
    used_once(budget, keys[2:])

    used = 1 + used_up(budget, keys[0], others=keys[2:])

    assert 4 * BLOCK <= used <= 5 * BLOCK + CREDIT_USES


@pytest.mark.usefixtures("few")
def test_nothing_is_lost_when_the_store_does_not_take_back(
    here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [root_key(here) for _ in range(4)]
    budget = on_credit(here)
    monkeypatch.setattr(here.store, "give_back_uses", refusing(StoreUnavailableError("away")))

    with pytest.raises(StoreUnavailableError):
        used_once(budget, keys)

    assert all(budget._left[key.current.id] == CREDIT_USES - 1 + BLOCK for key in keys)


@pytest.mark.usefixtures("few")
def test_a_version_that_was_used_while_nothing_was_taken_back_gets_no_second_credit(
    here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [root_key(here) for _ in range(4)]
    budget = on_credit(here)

    def use_and_refuse(_: dict[VersionId, int]) -> None:
        budget.take(keys[0].current.id)
        raise StoreUnavailableError("away")

    monkeypatch.setattr(here.store, "give_back_uses", use_and_refuse)
    with pytest.raises(StoreUnavailableError):
        used_once(budget, keys)

    assert budget._left[keys[0].current.id] == CREDIT_USES - 2 + BLOCK


@pytest.mark.usefixtures("few")
def test_what_may_have_been_taken_back_is_not_used(
    here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [root_key(here) for _ in range(4)]
    budget = on_credit(here)
    monkeypatch.setattr(here.store, "give_back_uses", refusing(StoreUnconfirmedError("lost")))

    with pytest.raises(StoreUnconfirmedError):
        used_once(budget, keys)

    assert set(budget._left) == {key.current.id for key in keys[2:]}


@pytest.mark.usefixtures("few")
def test_a_version_at_its_bound_is_not_forgotten(here: FakeInstallation) -> None:
    """It would get another credit."""
    keys = [root_key(here) for _ in range(4)]
    here.store._tables.uses[keys[0].current.id] = RESERVED_MAX
    budget = on_credit(here)
    used_once(budget, keys)

    assert not budget.has(keys[0].current.id)
