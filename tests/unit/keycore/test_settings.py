"""Settings: where they come from, and that a fault is told completely and without values."""

from __future__ import annotations

import os
import re
import socket
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from keycore import settings as settings_module
from keycore.domain.providers import OutagePolicy
from keycore.errors import SettingsError
from keycore.settings import ProviderSettings, Settings, load_settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's environment nor its own installation take part."""
    for name in os.environ:
        if name.startswith("KEYPLANE_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(settings_module, "DEFAULT_CONFIG_FILE", tmp_path / "default.toml")


def write(path: Path, text: str) -> Path:
    """Write a configuration file."""
    path.write_text(text, encoding="utf-8")
    return path


def fault(path: Path | None = None) -> SettingsError:
    """Load settings that must be refused."""
    with pytest.raises(SettingsError) as refused:
        load_settings(path)
    return refused.value


def test_without_file_and_environment_the_defaults_hold() -> None:
    settings = load_settings()

    assert settings.state_dir == Path("/var/lib/keyplane")
    assert settings.database == Path("/var/lib/keyplane/keyplane.db")
    assert settings.audit_dir == Path("/var/lib/keyplane/audit")
    assert settings.pin_file == Path("/var/lib/keyplane/pins/user.pin")
    assert settings.pins_dir == Path("/var/lib/keyplane/pins")
    assert (settings.token.label, settings.token.serial) == ("keyplane", None)
    assert (settings.provider.name, settings.provider.node) == (
        "keyplane",
        socket.gethostname().lower(),
    )
    assert settings.provider.socket == Path("/run/keyplane/kms.sock")
    assert (settings.provider.socket_mode, settings.provider.socket_group) == ("0600", None)
    assert settings.provider.outage is OutagePolicy.COAST
    assert settings.provider.health_address == "127.0.0.1:28675"
    assert settings.keyring == Path(
        f"/var/lib/keyplane/keyring/keyplane.{socket.gethostname().lower()}.json"
    )
    assert (settings.token.profile, settings.token.parallelism) == ("auto", 1)
    assert settings.token.deadline == timedelta(seconds=2)
    assert (settings.operator.kubeconfig, settings.operator.resync) == (
        None,
        timedelta(seconds=30),
    )
    assert (settings.log.level, settings.log.format) == ("info", "console")


def test_a_file_overrides_the_defaults(tmp_path: Path) -> None:
    file = write(
        tmp_path / "own.toml",
        'state_dir = "/srv/keyplane"\n'
        '[token]\nlabel = "hsm"\npin_file = "/run/pin"\n'
        '[operator]\nresync = "PT5M"\n',
    )

    settings = load_settings(file)

    assert (settings.state_dir, settings.token.label) == (Path("/srv/keyplane"), "hsm")
    assert settings.pin_file == Path("/run/pin")
    assert settings.operator.resync == timedelta(minutes=5)
    assert settings.provider.name == "keyplane"


def test_the_environment_overrides_the_file_field_by_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "own.toml", '[provider]\nname = "from-file"\nnode = "file-node"\n')
    monkeypatch.setenv("KEYPLANE_PROVIDER__NAME", "from-environment")
    monkeypatch.setenv("KEYPLANE_STATE_DIR", "/srv/environment")

    settings = load_settings(file)

    assert (settings.provider.name, settings.provider.node) == ("from-environment", "file-node")
    assert settings.state_dir == Path("/srv/environment")


def test_the_default_file_is_read_when_it_exists(tmp_path: Path) -> None:
    write(tmp_path / "default.toml", 'state_dir = "/srv/default"\n')

    assert load_settings().state_dir == Path("/srv/default")


def test_the_environment_names_another_file_and_an_argument_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "default.toml", 'state_dir = "/srv/default"\n')
    named = write(tmp_path / "named.toml", 'state_dir = "/srv/named"\n')
    given = write(tmp_path / "given.toml", 'state_dir = "/srv/given"\n')
    monkeypatch.setenv("KEYPLANE_CONFIG", str(named))

    assert load_settings().state_dir == Path("/srv/named")
    assert load_settings(given).state_dir == Path("/srv/given")


def test_a_named_file_that_is_missing_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing.toml"

    assert str(missing) in fault(missing).message
    monkeypatch.setenv("KEYPLANE_CONFIG", str(missing))
    assert str(missing) in fault().message
    assert "KEYPLANE_CONFIG" in fault().hint


def test_all_faults_are_told_in_one_message_without_a_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value in the wrong place may be a PIN."""
    file = write(
        tmp_path / "own.toml",
        '[log]\nlevel = "SECRET1"\nformat = "SECRET2"\n'
        '[token]\npin = "SECRET3"\n'
        '[operator]\nresync = "SECRET4"\n',
    )
    monkeypatch.setenv("KEYPLANE_PROVIDER__SOCKET_MODE", "SECRET5")

    message = fault(file).message

    for place in (
        "log.level",
        "log.format",
        "token.pin",
        "operator.resync",
        "provider.socket_mode",
    ):
        assert len(re.findall(f"^  {re.escape(place)}: .", message, re.MULTILINE)) == 1, place
    assert len(message.splitlines()) == 6
    assert "SECRET" not in message


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("nonsense = 1\n", id="top"),
        pytest.param("[provider]\nnonsense = 1\n", id="section"),
        pytest.param("[nonsense]\nname = 1\n", id="new-section"),
    ],
)
def test_an_unknown_key_in_the_file_is_a_fault(tmp_path: Path, text: str) -> None:
    """A misspelt setting would otherwise silently be the default."""
    assert "nonsense: there is no such setting" in fault(write(tmp_path / "own.toml", text)).message


def test_an_unknown_field_in_the_environment_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYPLANE_PROVIDER__NONSENSE", "SECRET")

    error = fault()

    assert "provider.nonsense" in error.message
    assert "SECRET" not in error.message


def test_a_file_that_is_no_toml_is_named_without_its_content(tmp_path: Path) -> None:
    file = write(tmp_path / "own.toml", "pin = SECRET\n")

    error = fault(file)

    assert str(file) in error.message
    assert "SECRET" not in error.message
    assert error.__cause__ is None


def test_a_section_given_as_broken_json_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYPLANE_TOKEN", "{SECRET")

    error = fault()

    assert "cannot be read" in error.message
    assert "SECRET" not in error.message


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        pytest.param("@keyplane", "must be an absolute path", id="abstract"),
        pytest.param("kms.sock", "must be an absolute path", id="relative"),
        pytest.param("unix:///run/kms.sock", "must be an absolute path", id="url"),
        pytest.param("/" + "x" * 100, "is longer than 100 bytes", id="too-long"),
        pytest.param("/" + "é" * 50, "is longer than 100 bytes", id="too-long-in-utf-8"),
    ],
)
def test_a_socket_path_that_cannot_be_protected_or_bound_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, path: str, reason: str
) -> None:
    monkeypatch.setenv("KEYPLANE_PROVIDER__SOCKET", path)

    error = fault()

    assert f"provider.socket: {reason}" in error.message


def test_a_socket_path_at_the_bound_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = "/" + "x" * 99
    monkeypatch.setenv("KEYPLANE_PROVIDER__SOCKET", longest)

    assert load_settings().provider.socket == Path(longest)


@pytest.mark.parametrize("mode", ["600", "0888", "0o600", "rw-------", "06000"])
def test_a_socket_mode_is_four_octal_digits(mode: str) -> None:
    with pytest.raises(ValidationError):
        ProviderSettings(socket_mode=mode)


def test_a_resync_takes_time() -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"operator": {"resync": "PT0S"}})


def test_settings_never_change_once_read() -> None:
    settings = load_settings()

    with pytest.raises(ValidationError):
        settings.state_dir = Path("/elsewhere")
    with pytest.raises(ValidationError):
        settings.provider.name = "elsewhere"


def test_a_module_of_ones_own_is_not_the_embedded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYPLANE_TOKEN__MODULE", "/usr/lib/hsm.so")

    settings = load_settings()

    assert (settings.embedded, settings.module) == (False, Path("/usr/lib/hsm.so"))


def test_the_embedded_module_is_the_first_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first.so", tmp_path / "second.so"
    monkeypatch.setattr(settings_module, "_SOFTHSM_PATHS", (first, second))
    settings = load_settings()

    assert (settings.embedded, settings.module) == (True, first)
    second.touch()
    assert settings.module == second


def test_a_name_that_cannot_be_a_provider_or_a_node_is_a_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KEYPLANE_PROVIDER__NAME", "with:colon")
    monkeypatch.setenv("KEYPLANE_PROVIDER__NODE", "my_host")

    message = fault().message

    assert "provider.name: a provider name has" in message
    assert "provider.node: a node name has" in message


def test_a_host_name_that_is_no_node_name_is_made_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "My_Host-")

    assert load_settings().provider.node == "my-host"


def test_a_misspelt_variable_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYPLANE_STATEDIR", "/var/lib/elsewhere")

    assert "KEYPLANE_STATEDIR" in fault().message


def test_a_relative_state_directory_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYPLANE_STATE_DIR", "state")

    assert "state_dir: must be an absolute path" in fault().message


@pytest.mark.parametrize(
    "address",
    ["28675", "localhost:28675", "127.0.0.1:70000", "127.0.0.1:http", "127.0.0.1:-1"],
)
def test_an_address_for_health_needs_an_ip_address_and_a_port(tmp_path: Path, address: str) -> None:
    file = write(tmp_path / "keyplane.toml", f'[provider]\nhealth_address = "{address}"\n')

    assert "provider.health_address: must be an IP address and a port" in fault(file).message


@pytest.mark.parametrize("address", ["", "127.0.0.1:0", "0.0.0.0:28675", "[::1]:28675"])
def test_health_can_be_served_on_any_address_or_on_none(tmp_path: Path, address: str) -> None:
    file = write(tmp_path / "keyplane.toml", f'[provider]\nhealth_address = "{address}"\n')

    assert load_settings(file).provider.health_address == address


@pytest.mark.parametrize(
    "line", ["parallelism = 0", "parallelism = 65", "deadline = 0.01", 'profile = "rsa"']
)
def test_a_token_setting_out_of_bounds_is_refused(tmp_path: Path, line: str) -> None:
    file = write(tmp_path / "keyplane.toml", f"[token]\n{line}\n")

    assert f"token.{line.split(maxsplit=1)[0]}" in fault(file).message
