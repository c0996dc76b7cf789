"""The reference in docs/ cannot fall behind the program."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from keycli.errors import ExitCode
from keycore.domain.keys import Key
from keycore.settings import Settings, load_settings
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycli.command_tree import GLOBAL, all_commands, options_of
from tests.unit.keycli.conftest import Run

DOCS = Path(__file__).parents[3] / "docs"
CLI = (DOCS / "cli.md").read_text(encoding="utf-8")
CONFIGURATION = (DOCS / "configuration.md").read_text(encoding="utf-8")
COMMAND_SECTIONS: dict[str, str] = dict(
    re.findall(r"^### keyplane ([a-z -]+)\n(.*?)(?=^##|\Z)", CLI, re.MULTILINE | re.DOTALL)
)


def options_told(section: str) -> set[str]:
    """Return the options that the table of a section lists."""
    return {
        option
        for row in re.findall(r"^\| (`-.*?) \|", section, re.MULTILINE)
        for option in re.findall(r"(?<!\w)--[a-z-]+", row)
    }


def test_every_command_has_a_section_and_no_section_is_stale() -> None:
    assert sorted(COMMAND_SECTIONS) == sorted(" ".join(path) for path in all_commands())


@pytest.mark.parametrize("path", all_commands(), ids=" ".join)
def test_the_section_of_a_command_lists_its_options(path: tuple[str, ...]) -> None:
    assert options_told(COMMAND_SECTIONS[" ".join(path)]) == options_of(path)


def test_the_global_options_are_listed() -> None:
    told = options_told(CLI.split("## Exit codes")[0])

    assert told | {"-o"} == GLOBAL


def test_every_exit_code_is_listed() -> None:
    assert re.findall(r"^\| (\d+) \|", CLI, re.MULTILINE) == [str(int(code)) for code in ExitCode]


def test_every_json_key_is_documented(run: Run, here: FakeInstallation, key: Key) -> None:
    here.core.providers.bind(CALLER, "keyplane", key.id)
    here.core.kms.refresh()
    answers = [
        run(*line, "-o", "json").json
        for line in (("status",), ("keys", "list"), ("instance", "list"), ("nodes", "list"))
    ]

    assert [name for name in sorted(json_keys(answers)) if f"`{name}`" not in CLI] == []


def json_keys(value: object) -> set[str]:
    match value:
        case dict():
            return set(value) | json_keys(list(value.values()))
        case list():
            return {name for each in value for name in json_keys(each)}
    return set()


# --- settings ---------------------------------------------------------------------


def fields(model: type[BaseModel] = Settings, path: str = "") -> dict[str, FieldInfo]:
    """Return every setting by its dotted name."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= fields(field.annotation, f"{path}{name}.")
        else:
            found[f"{path}{name}"] = field
    return found


ROWS = {
    setting: (default, environment)
    for setting, default, environment in re.findall(
        r"^\| `([a-z_.]+)` \| (.*?) \| .*? \| `([A-Z_]+)` \|$", CONFIGURATION, re.MULTILINE
    )
}


def test_every_setting_has_a_row_and_no_row_is_stale() -> None:
    assert sorted(ROWS) == sorted(fields())


@pytest.mark.parametrize("name", sorted(fields()))
def test_the_row_of_a_setting_names_its_environment_variable(name: str) -> None:
    assert ROWS[name][1] == f"KEYPLANE_{name.upper().replace('.', '__')}"


@pytest.mark.parametrize("name", sorted(set(fields()) - {"provider.node"}))
def test_the_row_of_a_setting_tells_its_default(name: str) -> None:
    match fields()[name].default:
        case None | ():
            expected = "none"
        case bool() as chosen:
            expected = f"`{str(chosen).lower()}`"
        case timedelta() as length:
            expected = f"`PT{length.seconds}S`"
        case value:
            expected = f"`{value}`"

    assert ROWS[name][0] == expected


def test_the_default_that_differs_by_machine_is_told_in_words() -> None:
    assert fields()["provider.node"].default_factory is not None
    assert ROWS["provider.node"][0] == "the host name"


@pytest.mark.parametrize("name", sorted(fields()))
def test_every_setting_is_explained(name: str) -> None:
    explained = CONFIGURATION.split("## What they mean")[1]

    assert f"`{name}`" in explained


def test_the_example_is_accepted(config: Path) -> None:
    example = re.search(r"```toml\n(.*?)```", CONFIGURATION, re.DOTALL)
    assert example is not None
    config.write_text(example[1])

    assert load_settings(config).provider.node == "cp-1"
