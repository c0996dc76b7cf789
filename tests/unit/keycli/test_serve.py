"""Which faces ``keyplane serve`` runs, and with which command lines."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from testbed.loopback import free_port
from tests.unit.keycli.conftest import Run

EXAMPLES = Path(__file__).parents[3] / "examples"

ISSUER = '[[rest.issuers]]\nname = "idp"\nurl = "https://idp.example.org"\naudience = "keyplane"\n'


class Supervised:
    """What was to be supervised, and how the supervisor is to end."""

    def __init__(self) -> None:
        self.commands: Mapping[str, Sequence[str]] = {}
        self.addresses: list[Any] = []
        self.code = 0
        self.leader = ""
        self.patient = False

    def __call__(
        self,
        commands: Mapping[str, Sequence[str]],
        *,
        listeners: Sequence[socket.socket] = (),
        leader: str = "",
        patient: bool = False,
    ) -> int:
        self.commands = commands
        self.leader, self.patient = leader, patient
        self.addresses = [listener.getsockname() for listener in listeners]
        self.numbers = [str(listener.fileno()) for listener in listeners]
        for listener in listeners:
            listener.close()
        return self.code


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> Supervised:
    supervised = Supervised()
    monkeypatch.setattr("keycli.supervisor.supervise", supervised)
    return supervised


def configure(config: Path, more: str) -> None:
    config.write_text(config.read_text() + more)


def test_without_a_name_provider_and_operator_are_served(run: Run, supervised: Supervised) -> None:
    assert run("serve").code == 0

    assert list(supervised.commands) == ["provider", "operator"]


def test_without_a_name_rest_is_served_too_if_it_has_an_issuer(
    run: Run, supervised: Supervised, config: Path
) -> None:
    configure(config, ISSUER)

    assert run("serve").code == 0

    assert list(supervised.commands) == ["provider", "operator", "rest"]


def test_each_face_is_started_with_the_same_settings(
    run: Run, supervised: Supervised, config: Path
) -> None:
    run("--config", str(config), "--debug", "serve", "rest", "provider", "rest")

    program = [sys.executable, "-P", "-m", "keycli.main", "--config", str(config), "--debug"]
    assert supervised.commands == {
        "rest": [*program, "serve", "rest"],
        "provider": [*program, "serve", "provider"],
    }


# --- taking over --------------------------------------------------------------


@pytest.fixture
def provided(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, bool]]:
    """With which options a provider was to run in this process."""
    provided: list[dict[str, bool]] = []

    def provide(_: object, **options: bool) -> int:
        provided.append(options)
        return 0

    monkeypatch.setattr("keyplugin.main.run", provide)
    # The test process keeps its own logging.
    monkeypatch.setattr("keycli.logs.configure_logs", lambda *_, **__: None)
    return provided


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("standby", [False, True])
def test_a_provider_takes_over_and_stands_by_when_it_is_told_to(
    run: Run, provided: list[dict[str, bool]], takeover: bool, standby: bool
) -> None:
    options = ["--takeover"] * takeover + ["--standby"] * standby

    assert run("serve", "provider", *options).code == 0

    assert provided == [{"takeover": takeover, "standby": standby, "supervised": False}]


def test_a_supervisor_learns_of_a_takeover_by_the_exit_code(
    run: Run, provided: list[dict[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keycli.supervisor.end_with_parent", lambda _: None)
    monkeypatch.setattr("keyplugin.main.run", lambda _, **options: 76 * options["supervised"])

    assert run("serve", "provider", "--parent", "1").code == 76
    assert run("serve", "provider").code == 0


def test_of_several_faces_the_provider_alone_takes_over(run: Run, supervised: Supervised) -> None:
    run("serve", "--takeover")

    assert supervised.commands["provider"][-3:] == ["serve", "provider", "--takeover"]
    assert supervised.commands["operator"][-2:] == ["serve", "operator"]
    assert (supervised.leader, supervised.patient) == ("provider", True)


def test_without_a_takeover_a_wrong_setup_is_not_waited_out(
    run: Run, supervised: Supervised
) -> None:
    run("serve")

    assert "--takeover" not in supervised.commands["provider"]
    assert (supervised.leader, supervised.patient) == ("provider", False)


@pytest.mark.parametrize(
    "arguments",
    [("operator", "--takeover"), ("rest", "--standby"), ("provider", "operator", "--standby")],
    ids=" ".join,
)
def test_an_option_that_cannot_be_followed_is_refused(
    run: Run, supervised: Supervised, arguments: tuple[str, ...]
) -> None:
    assert run("serve", *arguments).code == 2

    assert supervised.commands == {}


@pytest.mark.parametrize(
    "example",
    ["keyplane-provider.service", "keyplane-provider@.service", "keyplane-provider-pod.yaml"],
)
def test_the_examples_start_a_provider(
    run: Run, provided: list[dict[str, bool]], example: str
) -> None:
    text = (EXAMPLES / example).read_text(encoding="utf-8")
    (words,) = re.findall(r"(?:bin/keyplane |command: \[keyplane, )(.*?)\]?$", text, re.MULTILINE)

    assert run(*words.replace(",", "").split()).code == 0

    assert len(provided) == 1


# --- how it ends --------------------------------------------------------------


def test_the_code_of_the_supervisor_is_the_end(run: Run, supervised: Supervised) -> None:
    supervised.code = 2

    assert run("serve").code == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_rest_without_an_issuer_is_refused_with_the_fix(
    run: Run, config: Path, workers: int
) -> None:
    configure(config, f"[rest]\nworkers = {workers}\n")

    ended = run("serve", "rest")

    assert (ended.code, ended.out) == (2, "")
    assert "error: the REST face has no issuer of bearer tokens" in ended.err
    assert "fix: add a section [[rest.issuers]]" in ended.err


def test_workers_inherit_all_sockets_each_with_its_own_first(
    run: Run, supervised: Supervised, config: Path
) -> None:
    port = free_port()
    configure(config, f"[rest]\nworkers = 3\nport = {port}\n{ISSUER}")

    assert run("serve", "rest").code == 0

    a, b, c = supervised.numbers
    assert supervised.addresses == [("127.0.0.1", port)] * 3
    assert {name: listeners(line) for name, line in supervised.commands.items()} == {
        "rest-1": [a, b, c],
        "rest-2": [b, c, a],
        "rest-3": [c, a, b],
    }


def listeners(command_line: Sequence[str]) -> list[str]:
    return options_of(command_line, "--listener")


def options_of(command_line: Sequence[str], name: str) -> list[str]:
    end = command_line.index("rest") + 1
    options, values = command_line[end::2], command_line[end + 1 :: 2]
    assert set(options) == {"--listener", "--worker"}
    return [value for option, value in zip(options, values, strict=True) if option == name]


def test_every_worker_knows_its_number_so_that_each_has_a_health_port(
    run: Run, supervised: Supervised, config: Path
) -> None:
    configure(config, f"[rest]\nworkers = 3\nport = {free_port()}\n{ISSUER}")

    assert run("serve", "rest").code == 0

    assert {name: options_of(line, "--worker") for name, line in supervised.commands.items()} == {
        "rest-1": ["0"],
        "rest-2": ["1"],
        "rest-3": ["2"],
    }


def test_a_port_that_is_taken_ends_with_2(run: Run, supervised: Supervised, config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        configure(config, f"[rest]\nworkers = 2\nport = {other.getsockname()[1]}\n{ISSUER}")

        ended = run("serve", "rest")

    assert ended.code == 2
    assert "another process listens on port" in ended.err
    assert supervised.commands == {}


def test_what_is_for_the_supervisor_alone_is_not_in_the_help(run: Run) -> None:
    shown = run("serve", "--help").out

    assert "--listener" not in shown
    assert "--worker" not in shown
    assert "--parent" not in shown
