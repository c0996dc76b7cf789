"""What Prometheus is told about the operator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyoperator.errors import DISPOSITIONS
from keyoperator.metrics import FAMILIES, FORGOTTEN_SECONDS, OK, KnownKeys, OperatorMetrics
from keyoperator.reconcile import Reconciler
from keywatch.looks import Look
from tests.fakes.fixed_clock import FixedClock
from tests.fakes.installation import FakeInstallation, fake_installation
from tests.scraping import Scraped, declared
from tests.unit.keyoperator.builders import NOW, UID, a_key, a_manifest
from tests.unit.keyoperator.test_reconcile import FakeCluster

RECONCILES = "keyplane_operator_reconciles_total"
KEYS = "keyplane_operator_keys"
EXPIRY = "keyplane_operator_key_expiry_timestamp_seconds"


class Counted:
    """An operator on fakes whose looks are counted."""

    def __init__(self) -> None:
        self.here: FakeInstallation = fake_installation()
        self.metrics = OperatorMetrics()
        core = self.here.core
        self.keys = KnownKeys(core.clock, resync_seconds=30.0)
        store = Look("the store", core.cache.refresh, core.clock, explain=str)
        store.take()
        self.metrics.follow(core, self.keys, store)
        self.reconciler = Reconciler(core, FakeCluster(), metrics=self.metrics, keys=self.keys)

    def look(self, manifest: dict[str, Any] | None = None) -> None:
        self.reconciler.reconcile(manifest or a_manifest())

    def scrape(self) -> Scraped:
        return Scraped(self.metrics.all.render())

    def outcomes(self) -> dict[str, float]:
        return {s.labels["outcome"]: s.value for s in self.scrape().of(RECONCILES)}

    def ready(self) -> dict[str, float]:
        return {s.labels["ready"]: s.value for s in self.scrape().of(KEYS)}


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_every_look_is_counted_and_timed(counted: Counted) -> None:
    assert counted.outcomes() == {OK: 0}

    counted.look()
    counted.look()

    assert counted.outcomes() == {OK: 2}
    assert counted.scrape().value("keyplane_operator_reconcile_seconds_count") == 2


def test_a_look_that_fails_is_counted_by_the_reason_of_its_condition(counted: Counted) -> None:
    counted.here.token.lost = True
    counted.look()

    assert counted.outcomes() == {OK: 0, "TokenUnavailable": 1}
    assert counted.ready() == {"True": 0, "False": 1, "Unknown": 0}


def test_a_timer_that_finds_nothing_to_do_is_no_look(counted: Counted) -> None:
    counted.reconciler.look_again(a_manifest())

    assert counted.outcomes() == {OK: 0}


def test_keys_are_counted_by_their_condition_ready(counted: Counted) -> None:
    counted.look()

    assert counted.ready() == {"True": 1, "False": 0, "Unknown": 0}


def test_a_key_that_was_deleted_is_counted_no_more(counted: Counted) -> None:
    counted.look()
    counted.reconciler.delete(a_manifest())

    assert sum(counted.ready().values()) == 0
    assert counted.outcomes() == {OK: 2}


def test_a_key_whose_deletion_fails_stays_counted(counted: Counted) -> None:
    counted.look()
    counted.here.store.lost = True
    counted.reconciler.delete(a_manifest())

    assert sum(counted.ready().values()) == 1
    assert counted.outcomes()["StoreUnavailable"] == 1


def test_everything_that_is_shown_is_declared_and_everything_declared_is_shown(
    counted: Counted,
) -> None:
    counted.look()
    counted.keys.note(UID, "True", a_key(expires_at=NOW + timedelta(days=1)))
    counted.metrics.observe_token("sign", "ok", 0.001)

    assert counted.scrape().described() == declared(FAMILIES)


def test_no_name_of_the_cluster_is_told(counted: Counted) -> None:
    counted.look()

    text = counted.scrape().text
    identity = a_manifest()["metadata"]
    for name in (identity["uid"], identity["namespace"] + "/", '"' + identity["name"]):
        assert name not in text


def test_outcomes_are_the_words_of_the_one_table(counted: Counted) -> None:
    """So they are bounded, and never hold a message."""
    reasons = {disposition.reason for disposition in DISPOSITIONS.values()}

    assert all(reason.isalpha() for reason in reasons)
    assert len(reasons) < 40


# --- what is remembered of Keys ------------------------------------------------------


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture
def keys(clock: FixedClock) -> KnownKeys:
    return KnownKeys(clock, resync_seconds=30.0)


def expiry(keys: KnownKeys) -> object:
    return {family.name: value for family, value in keys.told().items()}[EXPIRY]


def count(keys: KnownKeys) -> dict[str, float]:
    values = {family.name: value for family, value in keys.told().items()}[KEYS]
    assert isinstance(values, dict)
    return {labels[0]: number for labels, number in values.items()}


def test_the_first_expiry_that_is_still_to_come_is_told(keys: KnownKeys, clock: FixedClock) -> None:
    assert expiry(keys) is None
    for uid, days in (("past", -1), ("late", 30), ("soon", 2)):
        keys.note(uid, "True", a_key(expires_at=NOW + timedelta(days=days)))
    keys.note("never", "True", a_key(expires_at=None))

    assert expiry(keys) == (NOW + timedelta(days=2)).timestamp()

    clock.advance(days=2)
    keys.note("late", "True", a_key(expires_at=datetime(2031, 1, 1, tzinfo=UTC)))
    assert expiry(keys) == datetime(2031, 1, 1, tzinfo=UTC).timestamp()


def test_an_expiry_stays_known_while_the_key_cannot_be_read(keys: KnownKeys) -> None:
    keys.note("one", "True", a_key(expires_at=NOW + timedelta(days=2)))
    keys.note("one", "False", None)

    assert expiry(keys) == (NOW + timedelta(days=2)).timestamp()
    assert count(keys) == {"True": 0, "False": 1, "Unknown": 0}


def test_a_key_that_no_timer_looks_at_any_more_is_forgotten(
    keys: KnownKeys, clock: FixedClock
) -> None:
    keys.note("gone", "True", None)
    clock.advance(seconds=FORGOTTEN_SECONDS)
    keys.note("here", "True", None)
    assert count(keys)["True"] == 2

    clock.advance(seconds=1)
    assert count(keys)["True"] == 1


def test_keys_are_remembered_for_as_long_as_the_timers_need(clock: FixedClock) -> None:
    keys = KnownKeys(clock, resync_seconds=FORGOTTEN_SECONDS)
    keys.note("one", "True", None)
    clock.advance(seconds=3 * FORGOTTEN_SECONDS)

    assert count(keys)["True"] == 1
