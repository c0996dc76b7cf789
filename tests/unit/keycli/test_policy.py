"""``keyplane policy check``: what a file grants, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.installation import FakeInstallation
from tests.unit.keycli.conftest import Run

INSTANCE = "0a000000-0000-4000-8000-000000000001"
KEY = "0b000000-0000-4000-8000-000000000002"

POLICY = f"""
[[bindings]]
role = "Viewer"
instances = ["{INSTANCE}"]
keys = ["{KEY}"]
members = [
  {{ issuer = "corp", subject = "alice" }},
  {{ issuer = "corp", service_account = "payments/api" }},
]

[[bindings]]
role = "ClusterAdministrator"
members = [{{ issuer = "corp", group = "root" }}]
"""


@pytest.fixture
def settings_with_issuer(config: Path) -> Path:
    config.write_text(
        config.read_text()
        + '[[rest.issuers]]\nname = "corp"\nurl = "https://corp.example"\naudience = "keyplane"\n'
    )
    return config


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_good_file_shows_what_it_grants(
    run: Run, settings_with_issuer: Path, tmp_path: Path
) -> None:
    ended = run("policy", "check", str(write(tmp_path / "policy.toml", POLICY)))

    assert ended.code == 0
    assert [line.split() for line in ended.out.splitlines()] == [
        ["ROLE", "INSTANCE", "KEY", "NAME"],
        ["Viewer", INSTANCE, KEY, "corp:", "alice"],
        ["Viewer", INSTANCE, KEY, "corp:", "service", "account", "payments/api"],
        ["ClusterAdministrator", "all", "all", "corp:", "group", "root"],
    ]


def test_the_json_holds_every_binding(run: Run, settings_with_issuer: Path, tmp_path: Path) -> None:
    ended = run("policy", "check", str(write(tmp_path / "policy.toml", POLICY)), "-o", "json")

    assert ended.json == [
        {
            "role": "Viewer",
            "instances": [INSTANCE],
            "keys": [KEY],
            "members": [
                {"issuer": "corp", "subject": "alice"},
                {"issuer": "corp", "serviceAccount": "payments/api"},
            ],
        },
        {
            "role": "ClusterAdministrator",
            "instances": None,
            "keys": None,
            "members": [{"issuer": "corp", "group": "root"}],
        },
    ]


def test_all_faults_are_told_with_exit_code_2(
    run: Run, settings_with_issuer: Path, tmp_path: Path
) -> None:
    faulty = POLICY.replace("Viewer", "Reader").replace('issuer = "corp", group', "group")

    ended = run("policy", "check", str(write(tmp_path / "policy.toml", faulty)))

    assert ended.code == 2
    assert "binding 1, role: must be one of" in ended.err
    assert "binding 2, member 1, issuer: is missing" in ended.err


def test_without_a_file_the_one_of_the_settings_is_read(
    run: Run, settings_with_issuer: Path
) -> None:
    ended = run("policy", "check")

    assert ended.code == 2
    assert "policy.toml cannot be read" in ended.err


def test_an_instance_that_does_not_exist_is_remarked_on(
    run: Run, here: FakeInstallation, settings_with_issuer: Path, tmp_path: Path
) -> None:
    """It may be made later; a mistyped one gives nobody anything."""
    ended = run("policy", "check", str(write(tmp_path / "policy.toml", POLICY)))

    assert ended.code == 0
    assert ended.err == f"note: binding 1: there is no instance {INSTANCE} yet\n"
    known = POLICY.replace(INSTANCE, here.instance.id)
    assert run("policy", "check", str(write(tmp_path / "policy.toml", known))).err == ""


def test_a_file_without_bindings_is_remarked_on(
    run: Run, settings_with_issuer: Path, tmp_path: Path
) -> None:
    ended = run("policy", "check", str(write(tmp_path / "policy.toml", "bindings = []")))

    assert (ended.code, ended.err) == (
        0,
        "note: the file has no bindings, so nobody may do anything\n",
    )
