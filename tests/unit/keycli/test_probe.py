"""``keyplane probe``: its argument, its answer and its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keycli.commands import probe
from keycore.diagnosis.findings import Finding, Verdict, fault, ok, warning
from tests.unit.keycli.conftest import Run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the prober was called with; it finds nothing."""
    calls: list[dict[str, Any]] = []

    def record(socket: Path, **options: Any) -> list[Finding]:
        calls.append({"socket": socket, **options})
        return []

    monkeypatch.setattr("keyplugin.prober.probe", record)
    return calls


def find(monkeypatch: pytest.MonkeyPatch, **verdicts: Verdict) -> None:
    """Let the prober find something."""
    findings = [Finding(check, verdict) for check, verdict in verdicts.items()]
    monkeypatch.setattr("keyplugin.prober.probe", lambda *_, **__: findings)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/run/kms.sock", "/run/kms.sock"),
        ("unix:///run/kms.sock", "/run/kms.sock"),
        ("@kms", "@kms"),
        ("unix:///@kms", "@kms"),
    ],
)
def test_a_socket_may_be_given_as_the_api_servers_endpoint(
    run: Run, asked: list[dict[str, Any]], given: str, path: str
) -> None:
    run("probe", given)

    assert asked[0]["socket"] == Path(path)


def test_a_relative_path_is_one_of_the_working_directory(
    run: Run, asked: list[dict[str, Any]]
) -> None:
    run("probe", "kms.sock")

    assert asked[0]["socket"] == Path("kms.sock").absolute()


def test_the_usual_probe_makes_enough_calls_for_a_percentile_and_waits_like_the_api_server(
    run: Run, asked: list[dict[str, Any]]
) -> None:
    run("probe", "/run/kms.sock")
    run("probe", "/run/kms.sock", "--count", "7", "--status-only", "--timeout", "0.5")

    usual, other = ({**call, "announce": None, "socket": None} for call in asked)
    assert usual == {
        "socket": None,
        "count": probe.COUNT,
        "status_only": False,
        "timeout_seconds": 3.0,
        "announce": None,
    }
    assert (other["count"], other["status_only"], other["timeout_seconds"]) == (7, True, 0.5)


@pytest.mark.parametrize(
    ("found", "options", "code"),
    [
        ({"Encrypt": ok("fine")}, [], 0),
        ({"Encrypt": warning("odd")}, [], 0),
        ({"Encrypt": warning("odd")}, ["--strict"], 2),
        ({"Encrypt": fault("bad"), "key_id": warning("odd")}, [], 2),
        ({"server": fault("nobody listens")}, [], 3),
        ({"Status": fault("not answered")}, [], 3),
    ],
    ids=["ok", "warning", "strict", "fault", "nobody", "no answer"],
)
def test_the_exit_code_tells_how_it_ended(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    found: dict[str, Verdict],
    options: list[str],
    code: int,
) -> None:
    find(monkeypatch, **found)

    assert run("probe", "/run/kms.sock", *options).code == code


def test_the_answer_tells_the_reason_of_each_rule(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    find(monkeypatch, Encrypt=fault("the ciphertext is empty", "it is thrown away"))

    answer = run("probe", "/run/kms.sock", "-o", "json").json
    shown = run("probe", "/run/kms.sock").out

    assert answer == {
        "outcome": "fault",
        "findings": [
            {
                "check": "Encrypt",
                "outcome": "fault",
                "what": "the ciphertext is empty",
                "reason": "it is thrown away",
            }
        ],
    }
    assert "fault: Encrypt: the ciphertext is empty\n  reason: it is thrown away\n" in shown


def test_it_needs_no_installation_and_no_settings(
    run: Run, config: Path, asked: list[dict[str, Any]]
) -> None:
    config.write_text("this is no TOML")

    assert run("probe", "/run/kms.sock").code == 0
