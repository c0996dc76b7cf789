"""Who may take a socket over, asked of the provider that serves it; without processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from keycore.bootstrap import Core
from keycore.errors import UnavailableError
from keycore.settings import ProviderSettings
from keyplugin import handover
from keyplugin.connections import await_no_connections, open_connections
from keyplugin.endpoint import claim_socket
from keyplugin.handover import ensure_no_worse, stand_by
from keyplugin.server import kms_server
from tests.fakes.installation import CALLER, FakeInstallation, fake_installation
from tests.integration.keyplugin.client import KmsClient
from tests.integration.keyplugin.serving import served


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "SAME_KEY_SECONDS", 0.5)


@pytest.fixture
def other(here: FakeInstallation) -> Core:
    """The core of a process that is about to take over from that of ``here``."""
    core = here.another_process("node-a")
    core.kms.refresh()
    return core


@pytest.fixture
def serving(here: FakeInstallation, socket: Path) -> Iterator[Path]:
    with served(here.core.kms, socket):
        yield socket


def rotate(core: Core) -> None:
    core.keys.rotate(CALLER, core.providers.overview(core.settings.provider.name).provider.key_id)


def test_a_healthy_process_may_replace_a_healthy_one(serving: Path, other: Core) -> None:
    ensure_no_worse(other.kms, serving, other.kms.refresh)


def test_a_sick_process_may_not_replace_a_healthy_one(
    here: FakeInstallation, serving: Path, other: Core
) -> None:
    other.kms._probe.fault = "the token decrypts wrongly"

    with pytest.raises(UnavailableError, match="was not replaced: the token decrypts wrongly"):
        ensure_no_worse(other.kms, serving, lambda: None)


def test_a_process_without_a_key_may_not_replace_one_that_has_one(serving: Path) -> None:
    unbound = fake_installation().core
    unbound.kms.refresh()

    with pytest.raises(UnavailableError, match="has no key"):
        ensure_no_worse(unbound.kms, serving, unbound.kms.refresh)


def test_a_sick_process_may_replace_a_sick_one(
    here: FakeInstallation, serving: Path, other: Core
) -> None:
    """It can hardly be worse, and a new start heals some faults."""
    for core in (here.core, other):
        core.kms._probe.fault = "the token decrypts wrongly"

    ensure_no_worse(other.kms, serving, lambda: None)


def test_any_process_with_a_key_may_replace_one_that_does_not_answer(
    socket: Path, other: Core
) -> None:
    other.kms._probe.fault = "the token decrypts wrongly"

    ensure_no_worse(other.kms, socket, lambda: None)


def test_a_process_that_is_behind_catches_up_first(
    here: FakeInstallation, serving: Path, other: Core
) -> None:
    rotate(here.core)
    here.core.kms.refresh()
    assert other.kms.outlook().key_id != here.core.kms.outlook().key_id

    ensure_no_worse(other.kms, serving, other.kms.refresh)

    assert other.kms.outlook().key_id == here.core.kms.outlook().key_id


def test_a_process_that_would_change_the_key_id_back_may_not_take_over(
    here: FakeInstallation, serving: Path, other: Core
) -> None:
    rotate(here.core)
    here.core.kms.refresh()

    with pytest.raises(UnavailableError, match="another key_id"):
        ensure_no_worse(other.kms, serving, lambda: None)


def test_asking_does_not_change_what_the_serving_process_encrypts_with(
    here: FakeInstallation, serving: Path, other: Core
) -> None:
    with KmsClient(serving) as client:
        key_id = client.status().key_id
        rotate(here.core)
        here.core.kms.refresh()

        ensure_no_worse(other.kms, serving, other.kms.refresh)

        assert client.encrypt().key_id == key_id


# --- leaving ------------------------------------------------------------------


def test_connections_are_counted_by_the_name_that_was_bound(
    here: FakeInstallation, socket: Path
) -> None:
    with (
        claim_socket(ProviderSettings(socket=socket)) as claim,
        kms_server(here.core.kms) as server,
    ):
        claim.bind(server.add_insecure_port)
        server.start()
        claim.publish()
        assert open_connections(claim.private) == 0

        with KmsClient(socket) as one, KmsClient(socket) as two:
            one.status()
            two.status()
            assert open_connections(claim.private) == 2
            assert await_no_connections(claim.private, within_seconds=0.2) == 2

        assert await_no_connections(claim.private, within_seconds=10) == 0


def test_a_process_that_stands_by_ends_when_nobody_serves(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "ABANDONED_SECONDS", 0.1)

    with pytest.raises(UnavailableError, match="nobody serves"):
        stand_by(ProviderSettings(socket=socket), threading.Event().wait)


def test_a_process_that_stands_by_waits_while_somebody_serves(
    serving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "ABANDONED_SECONDS", 0.0)
    rounds = iter([False] * 5 + [True])

    stand_by(ProviderSettings(socket=serving), lambda _: next(rounds))
