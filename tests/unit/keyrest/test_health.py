"""Probes learn which check failed, and nothing more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from keycore.service.readiness import Finding, Outcome
from keyrest import health
from keyrest.answers import Answer
from keyrest.health import PROOF_SECONDS, Check, Health
from tests.fakes.installation import FakeInstallation, fake_installation


@pytest.fixture
def here() -> FakeInstallation:
    return fake_installation()


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def ready(runner: asyncio.Runner, checked: Health) -> tuple[int, dict[str, Any]]:
    """Return status and document of one probe."""
    answer: Answer = runner.run(checked.ready())
    assert answer.content_type == "application/json"
    return answer.status, orjson.loads(answer.body)


def failing(outcome: Outcome) -> Check:
    return lambda: Finding(outcome, "secret reason")


def test_a_living_process_says_so(here: FakeInstallation, runner: asyncio.Runner) -> None:
    here.token.lost = here.store.lost = True

    answer = runner.run(Health(here.core, {}).live())

    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')


def test_ready_names_every_check(here: FakeInstallation, runner: asyncio.Runner) -> None:
    status, document = ready(runner, Health(here.core, {"certificate": Finding}))

    assert status == 200
    assert document == {
        "status": "ok",
        "checks": {"token": "ok", "store": "ok", "certificate": "ok"},
    }


@pytest.mark.parametrize("part", ["token", "store"])
def test_without_token_or_store_nothing_is_ready(
    here: FakeInstallation, runner: asyncio.Runner, part: str
) -> None:
    getattr(here, part).lost = True

    status, document = ready(runner, Health(here.core, {}))

    assert status == 503
    assert document["status"] == "failed"
    assert document["checks"][part] == "failed"


def test_a_degraded_check_is_shown_and_stops_nothing(
    here: FakeInstallation, runner: asyncio.Runner
) -> None:
    status, document = ready(runner, Health(here.core, {"policy": failing(Outcome.DEGRADED)}))

    assert (status, document["status"]) == (200, "ok")
    assert document["checks"]["policy"] == "degraded"


def test_a_failed_check_is_enough(here: FakeInstallation, runner: asyncio.Runner) -> None:
    status, _ = ready(runner, Health(here.core, {"issuers": failing(Outcome.FAILED)}))

    assert status == 503


def test_the_reason_goes_to_the_log_once_and_not_to_the_probe(
    here: FakeInstallation, runner: asyncio.Runner
) -> None:
    checked = Health(here.core, {"policy": failing(Outcome.DEGRADED)})

    with capture_logs() as logs:
        documents = [ready(runner, checked)[1] for _ in range(3)]

    assert "secret reason" not in str(documents)
    assert [entry["why"] for entry in logs] == ["secret reason"]


def test_the_log_tells_when_all_is_well_again(
    here: FakeInstallation, runner: asyncio.Runner
) -> None:
    checked = Health(here.core, {})
    here.token.lost = True
    ready(runner, checked)
    here.token.lost = False
    here.clock.advance(seconds=PROOF_SECONDS + 1)

    with capture_logs() as logs:
        status, _ = ready(runner, checked)

    assert status == 200
    assert [(entry["check"], entry["outcome"]) for entry in logs] == [("token", "ok")]


def test_a_proof_counts_for_a_few_seconds_however_often_probes_come(
    here: FakeInstallation, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(here.token, "check", lambda: calls.append(None))
    checked = Health(here.core, {})

    for _ in range(5):
        ready(runner, checked)
    here.clock.advance(seconds=PROOF_SECONDS + 1)
    ready(runner, checked)

    assert len(calls) == 2


def test_a_token_that_hangs_is_not_waited_for(
    here: FakeInstallation, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(here.token, "check", lambda: released.wait(30))
    monkeypatch.setattr(health, "PATIENCE_SECONDS", 0.01)

    status, document = ready(runner, Health(here.core, {}))
    released.set()

    assert status == 503
    assert document["checks"]["token"] == "failed"
