"""What holds for every command: help, global options, and what is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.unit.keycli.command_tree import all_commands, groups
from tests.unit.keycli.conftest import Run

HEAVY = ("kopf", "kubernetes", "grpc", "sqlalchemy", "alembic", "pkcs11", "cryptography", "rich")


def test_without_arguments_the_help_is_shown(run: Run) -> None:
    ended = run()

    assert ended.code == 0
    assert ended.out.startswith("Usage: keyplane ")


@pytest.mark.parametrize("group", groups())
def test_a_group_without_a_command_shows_its_help(run: Run, group: str) -> None:
    ended = run(group)

    assert ended.code == 0
    assert ended.out.startswith(f"Usage: keyplane {group} ")


@pytest.mark.parametrize("path", all_commands(), ids=" ".join)
def test_the_help_of_every_command_ends_with_examples_of_it(
    run: Run, path: tuple[str, ...]
) -> None:
    ended = run(*path, "--help")

    assert ended.code == 0
    _, examples = ended.out.split("Examples:\n")
    assert f"keyplane {' '.join(path)}" in examples


@pytest.mark.parametrize("path", [(), *all_commands()], ids=" ".join)
def test_no_line_of_a_help_is_longer_than_80_columns(run: Run, path: tuple[str, ...]) -> None:
    lines = run(*path, "--help").out.splitlines()

    assert [line for line in lines if len(line) > 80 and "keyplane " not in line] == []


def test_no_short_help_in_the_list_of_commands_is_cut(run: Run) -> None:
    pages = [run(*path).out for path in ((), *((group,) for group in groups()))]

    assert not any("..." in page.split("Commands:")[1] for page in pages)


def test_version_prints_the_version_alone(run: Run) -> None:
    ended = run("--version")

    assert (ended.code, ended.out) == (0, f"keyplane {version('keyplane')}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--output", "json", "keys", "list"),
        ("keys", "list", "--output", "json"),
        ("-o", "json", "keys", "list"),
        ("--output", "table", "keys", "list", "--output", "json"),
    ],
    ids=" ".join,
)
def test_output_may_stand_before_or_after_the_command(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments).json == []


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_config_may_stand_before_or_after_the_command(
    run: Run, tmp_path: Path, before: bool
) -> None:
    other = tmp_path / "other.toml"
    other.write_text('[provider]\nname = "elsewhere"\n')
    command, option = ("encryption-config",), ("--config", str(other))

    ended = run(*option, *command) if before else run(*command, *option)

    assert 'name: "elsewhere"' in ended.out


def test_a_config_file_that_is_not_there_ends_with_2(run: Run) -> None:
    ended = run("status", "--config", "/nonexistent.toml")

    assert ended.code == 2
    assert "the configuration file /nonexistent.toml does not exist" in ended.err


def test_help_imports_nothing_heavy() -> None:
    # The seconds that an import takes differ by machine; what is imported does not.
    script = "import json, sys, keycli.main; print(json.dumps(list(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)

    assert set(json.loads(done.stdout)).isdisjoint(HEAVY)


def test_running_a_command_leaves_the_hook_for_exceptions_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = sys.__excepthook__
    monkeypatch.setattr(sys, "excepthook", hook)

    run("instance", "list")

    assert sys.excepthook is hook
