"""Upkeep keeps the provider fresh whatever happens, and tells the log what changed."""

from __future__ import annotations

import hashlib
import threading

import pytest
from structlog.testing import capture_logs

from keycore.domain.providers import key_id_hash
from keycore.ports import TokenCondition
from keyplugin.upkeep import Proving, Upkeep
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keyplugin.conftest import BindKey

DEADLINE_SECONDS = 5


@pytest.fixture
def upkeep(here: FakeInstallation) -> Upkeep:
    return Upkeep(here.core.kms)


def test_a_new_key_id_is_logged_as_the_hash_that_the_api_server_shows(
    here: FakeInstallation, upkeep: Upkeep, bind_key: BindKey
) -> None:
    bind_key()

    with capture_logs() as logs:
        upkeep.run_once()

    key_id = here.core.kms.status().key_id
    expected = "sha256:" + hashlib.sha256(key_id.encode()).hexdigest()
    changes = [line for line in logs if line["event"] == "key_id changed"]
    assert [line["key_id_hash"] for line in changes] == [expected]


def test_the_key_id_itself_is_in_no_log_line(
    here: FakeInstallation, upkeep: Upkeep, bind_key: BindKey
) -> None:
    bind_key()

    with capture_logs() as logs:
        upkeep.run_once()

    assert here.core.kms.status().key_id not in str(logs)


def test_bad_health_is_a_warning_and_good_health_is_news(
    here: FakeInstallation, upkeep: Upkeep, bind_key: BindKey
) -> None:
    bind_key()
    here.core.kms.refresh()
    upkeep.run_once()

    with capture_logs() as logs:
        for stalled in (3.0, 0.0):
            here.token.current = TokenCondition("a call hangs" if stalled else "", stalled)
            upkeep.run_once()

    changes = [line for line in logs if line["event"] == "health changed"]
    assert [(line["log_level"], line["healthz"]) for line in changes] == [
        ("warning", "a call hangs"),
        ("info", "ok"),
    ]


def test_what_needs_attention_is_logged_when_it_begins(
    here: FakeInstallation, upkeep: Upkeep, bind_key: BindKey
) -> None:
    bind_key()
    here.core.kms.refresh()
    upkeep.run_once()
    here.store.lost = True

    with capture_logs() as logs:
        for _ in range(3):
            upkeep.run_once()

    assert [line["event"] for line in logs] == ["needs attention"]
    assert "the store does not answer" in logs[0]["warning"]


def test_what_needs_attention_no_more_is_logged_when_it_ends(
    here: FakeInstallation, upkeep: Upkeep, bind_key: BindKey
) -> None:
    bind_key()
    here.core.kms.refresh()
    upkeep.run_once()
    here.store.lost = True
    upkeep.run_once()

    with capture_logs() as logs:
        here.store.lost = False
        for _ in range(3):
            upkeep.run_once()

    assert [(line["log_level"], line["event"]) for line in logs] == [("info", "attention over")]
    assert "the store does not answer" in logs[0]["warning"]


def test_another_reason_for_the_same_attention_is_not_its_end(
    here: FakeInstallation,
    upkeep: Upkeep,
    bind_key: BindKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bind_key()
    said = [["the store is away: refused"], ["the store is away: starting up"], []]
    monkeypatch.setattr(here.core.kms, "warnings", iter(said).__next__)

    with capture_logs() as logs:
        for _ in said:
            upkeep.run_once()

    events = [(line["event"], line["warning"]) for line in logs if "warning" in line]
    assert events == [
        ("needs attention", "the store is away: refused"),
        ("needs attention", "the store is away: starting up"),
        ("attention over", "the store is away: starting up"),
    ]


def test_nothing_is_logged_while_nothing_changes(upkeep: Upkeep, bind_key: BindKey) -> None:
    bind_key()
    upkeep.run_once()

    with capture_logs() as logs:
        upkeep.run_once()

    assert logs == []


def test_watching_for_changes_does_not_move_encrypt_to_another_activation(
    here: FakeInstallation, upkeep: Upkeep, bind_key: BindKey
) -> None:
    """The API server throws away a ciphertext under a key_id that Status has not told it."""
    key = bind_key()
    upkeep.run_once()
    reported = here.core.kms.status().key_id

    here.core.keys.rotate(CALLER, key.id)
    upkeep.run_once()
    upkeep.run_once()

    assert here.core.kms.outlook().key_id != reported
    assert here.core.kms.encrypt(CALLER, b"seed")[1] == reported
    assert here.core.kms.status().key_id == here.core.kms.encrypt(CALLER, b"seed")[1]


def test_an_unexpected_failure_is_logged_once_and_the_next_refresh_works(
    here: FakeInstallation,
    upkeep: Upkeep,
    bind_key: BindKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bind_key()

    with capture_logs() as logs:
        with monkeypatch.context() as broken:
            broken.setattr(here.store, "changes_since", lambda _: 1 / 0)
            upkeep.run_once()
            upkeep.run_once()
        upkeep.run_once()
    here.core.kms.prove()

    failures = [line for line in logs if line["log_level"] == "error"]
    assert [type(line["exc_info"]) for line in failures] == [ZeroDivisionError]
    assert here.core.kms.status().healthz == "ok"


@pytest.mark.parametrize(("kind", "method"), [(Upkeep, "refresh_ledger"), (Proving, "prove")])
def test_the_thread_goes_on_after_an_unexpected_failure(
    here: FakeInstallation,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Upkeep | Proving],
    method: str,
) -> None:
    calls = threading.Semaphore(0)

    def fail() -> None:
        calls.release()
        raise RuntimeError

    monkeypatch.setattr(here.core.kms, method, fail)

    with kind(here.core.kms, interval_seconds=0.001):
        survived = [calls.acquire(timeout=DEADLINE_SECONDS) for _ in range(3)]

    assert survived == [True, True, True]


def test_no_refresh_runs_after_leaving(here: FakeInstallation) -> None:
    with Upkeep(here.core.kms, interval_seconds=0.001) as upkeep:
        pass

    assert not upkeep._thread.is_alive()


def test_no_key_id_has_no_hash() -> None:
    assert key_id_hash("") == ""
