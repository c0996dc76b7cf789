"""What ``keyplane doctor`` says of the socket: served, left behind, strange, and not there."""

from __future__ import annotations

import os
import socket as sockets
from contextlib import ExitStack
from pathlib import Path

import pytest

from keycore.diagnosis.examination import Examination
from keycore.diagnosis.findings import Check, Verdict, examine
from keycore.service.creation import NewKey
from keycore.settings import ProviderSettings
from keyplugin.socket_checks import SOCKET_CHECKS
from tests.fakes.installation import CALLER, FakeInstallation
from tests.integration.keyplugin.serving import served

KNOWN: tuple[Check[Examination], ...] = (
    Check("configuration", lambda _: []),
    Check("provider binding", lambda _: []),
)
"""Stand for the checks that these need."""


@pytest.fixture
def examination(here: FakeInstallation, socket: Path) -> Examination:
    """An examination of the installation whose provider is served at ``socket``."""
    socket.parent.chmod(0o700)
    examination = Examination(lambda: here.core.settings, None, here.clock, ExitStack())
    provider = ProviderSettings(socket=socket, node="node-a")
    examination.settings = here.core.settings.model_copy(update={"provider": provider})
    examination.provider = here.core.providers.overview("keyplane").provider
    return examination


def set_provider(examination: Examination, **settings: object) -> None:
    provider = examination.settings.provider.model_copy(update=settings)
    examination.settings = examination.settings.model_copy(update={"provider": provider})


def said(examination: Examination) -> dict[str, list[Verdict]]:
    found: dict[str, list[Verdict]] = {}
    for each in examine((*KNOWN, *SOCKET_CHECKS), examination):
        found.setdefault(each.check, []).append(each.verdict)
    return found


def outcomes(examination: Examination) -> dict[str, list[str]]:
    return {check: [v.outcome.value for v in each] for check, each in said(examination).items()}


def test_a_served_socket_is_well(
    here: FakeInstallation, examination: Examination, socket: Path
) -> None:
    with served(here.core.kms, socket):
        found = said(examination)

    assert {v.outcome for each in found.values() for v in each} == {"ok"}
    assert f"process {os.getpid()} " in found["socket"][1].what


def test_without_a_provider_that_runs_there_is_a_warning_and_no_fault(
    examination: Examination,
) -> None:
    assert outcomes(examination) == {
        "socket directory": ["ok"],
        "socket": ["warning", "skipped"],
        "provider": ["skipped"],
        "provider key_id": ["skipped"],
    }


def test_a_socket_that_was_left_behind_is_told_from_a_served_one(
    examination: Examination, socket: Path
) -> None:
    with sockets.socket(sockets.AF_UNIX) as left_behind:
        left_behind.bind(str(socket))
    socket.chmod(0o600)

    assert "left by a process that was killed" in said(examination)["socket"][1].what


def test_what_is_no_socket_is_a_fault(examination: Examination, socket: Path) -> None:
    socket.write_text("no socket")

    (found,) = said(examination)["socket"]

    assert (found.outcome, found.what) == ("fault", f"{socket} is not a socket")


def test_another_mode_than_the_settings_have_is_a_warning(
    here: FakeInstallation, examination: Examination, socket: Path
) -> None:
    set_provider(examination, socket_mode="0660")

    with served(here.core.kms, socket):
        *_, found = said(examination)["socket"]

    assert (found.outcome, "mode 0600, and provider.socket_mode is 0660" in found.what) == (
        "warning",
        True,
    )


def test_a_group_that_does_not_exist_is_a_fault(examination: Examination) -> None:
    set_provider(examination, socket_group="no-such-group")

    (found,) = said(examination)["socket directory"]

    assert (found.outcome, "no-such-group" in found.what) == ("fault", True)


def test_a_directory_in_which_everybody_may_replace_the_socket_is_a_fault(
    here: FakeInstallation, examination: Examination, socket: Path
) -> None:
    with served(here.core.kms, socket):
        socket.parent.chmod(0o777)
        found = outcomes(examination)

    assert found["socket directory"] == ["fault"]
    assert found["provider"] == ["ok"]


def test_a_directory_that_does_not_exist_yet_is_made_by_the_provider(
    examination: Examination, socket: Path
) -> None:
    set_provider(examination, socket=socket.parent / "run" / "kms.sock")

    (found,) = said(examination)["socket directory"]

    assert (found.outcome, "the provider makes it" in found.what) == ("ok", True)


def test_an_unhealthy_provider_is_a_fault_with_its_own_words(
    here: FakeInstallation, examination: Examination, socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(here.core.kms), "_token_fault", lambda _: "the token is gone")

    with served(here.core.kms, socket):
        found = said(examination)

    assert found["provider"][0].outcome == "fault"
    assert "healthz is 'the token is gone'" in found["provider"][0].what


def test_a_provider_that_has_not_learnt_of_a_rotation_is_a_warning(
    here: FakeInstallation, examination: Examination, socket: Path
) -> None:
    key = here.core.keys.create(CALLER, here.instance.id, NewKey("next"))
    with served(here.core.kms, socket):
        here.core.providers.bind(CALLER, "keyplane", key.id)
        here.another_process("node-a").kms.refresh()
        examination.provider = here.core.providers.overview("keyplane").provider

        (found,) = said(examination)["provider key_id"]

    assert (found.outcome, "another live key_id" in found.what) == ("warning", True)


def test_a_provider_of_another_installation_is_a_fault(
    here: FakeInstallation, examination: Examination, socket: Path
) -> None:
    other = here.core.keys.create(CALLER, here.instance.id, NewKey("other"))
    here.core.providers.bind(CALLER, "elsewhere", other.id)
    examination.provider = here.core.providers.overview("elsewhere").provider

    with served(here.core.kms, socket):
        (found,) = said(examination)["provider key_id"]

    assert (found.outcome, "not of this store" in found.what) == ("fault", True)
