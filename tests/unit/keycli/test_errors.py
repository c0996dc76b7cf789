"""Every end of a command line has its exit code and one clear message."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keycli.errors import EXIT_CODES, ExitCode, describe, exit_code_of
from keycore import errors as core
from keycore.bootstrap import Core
from keycore.errors import KeyplaneError
from tests.fakes.installation import FakeInstallation
from tests.unit.keycli.conftest import Run


def all_errors(cls: type[KeyplaneError] = KeyplaneError) -> Iterator[type[KeyplaneError]]:
    """Walk the core's tree; other faces' own subclasses are theirs to map."""
    for subclass in cls.__subclasses__():
        if subclass.__module__ == core.__name__:
            yield subclass
            yield from all_errors(subclass)


def bare(cls: type[KeyplaneError]) -> KeyplaneError:
    """Return an error without running its constructor."""
    return cls.__new__(cls)


@pytest.mark.parametrize("cls", list(all_errors()), ids=lambda cls: cls.__name__)
def test_every_error_of_the_core_has_an_exit_code(cls: type[KeyplaneError]) -> None:
    assert any(base in EXIT_CODES for base in cls.__mro__)


@pytest.mark.parametrize(
    ("cls", "code"),
    [
        (core.SettingsError, 2),
        (core.WrongUserError, 2),
        (core.NotInitialisedError, 2),
        (core.AlreadyInitialisedError, 2),
        (core.TokenSetupError, 2),
        (core.PinRejectedError, 2),
        (core.StoreSetupError, 2),
        (core.SocketInUseError, 2),
        (core.InvalidRequestError, 1),
        (core.KeyNotFoundError, 1),
        (core.KeyInUseError, 1),
        (core.KeyDeletedError, 1),
        (core.RotationPendingError, 1),
        (core.AlreadyExistsError, 1),
        (core.CiphertextRejectedError, 1),
        (core.IntegrityError, 4),
        (core.TokenUnavailableError, 3),
        (core.StoreUnavailableError, 3),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_exit_code_tells_what_kind_of_fault_it_is(cls: type[KeyplaneError], code: int) -> None:
    assert exit_code_of(bare(cls)) == code


def test_an_error_outside_the_table_counts_as_a_fault_of_ours() -> None:
    assert exit_code_of(KeyplaneError("?")) is ExitCode.INTERNAL


def test_a_message_without_a_hint_has_one_line() -> None:
    assert describe("it is so") == "error: it is so"


def test_a_refusal_is_one_message_with_its_hint_on_standard_error(run: Run) -> None:
    ended = run("provider", "show", "etcd")

    assert ended.code == 1
    assert ended.out == ""
    assert ended.err == (
        "error: provider etcd does not exist\n"
        "  fix: bind it to a key: keyplane provider set etcd --key <key id>\n"
    )


def test_a_store_that_does_not_answer_ends_with_3(run: Run, here: FakeInstallation) -> None:
    here.store.lost = True

    ended = run("keys", "list")

    assert (ended.code, ended.out) == (3, "")
    assert ended.err == "error: the store does not answer\n"


def test_a_token_that_does_not_answer_ends_with_3(run: Run, here: FakeInstallation) -> None:
    here.token.lost = True

    assert run("status").code == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("keys", "crate"), "no such command 'crate'"),
        (("keys", "show"), "missing argument 'KEY_ID'"),
        (("keys", "list", "--ouput", "json"), "no such option: --ouput"),
        (("keys", "list", "--output", "xml"), "invalid value for '--output'"),
        (("provider", "set", "keyplane"), "missing option '--key'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_command_line_ends_with_2_and_names_the_help(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    ended = run(*arguments)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {message}")
    assert f"fix: see: keyplane {arguments[0]}" in ended.err
    assert ended.err.endswith("--help\n")


SECRET = "0123456789abcdef"


@pytest.fixture
def broken(here: FakeInstallation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the core raise what nobody expects, with a secret in its text."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError(SECRET)

    monkeypatch.setattr(type(here.core.keys), "page", fail)


@pytest.mark.usefixtures("broken")
def test_an_unexpected_exception_ends_with_70_and_a_fixed_text(run: Run) -> None:
    ended = run("keys", "list")

    assert (ended.code, ended.out) == (70, "")
    assert ended.err == (
        "error: keyplane met a fault of its own and stopped\n"
        "  fix: run the command again with --debug and report what it prints\n"
    )


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("arguments", [("--debug", "keys", "list"), ("keys", "list", "--debug")])
def test_debug_shows_where_an_unexpected_exception_came_from(
    run: Run, arguments: tuple[str, ...]
) -> None:
    ended = run(*arguments)

    assert ended.code == 70
    assert "Traceback" in ended.err
    assert "list_keys" in ended.err


def test_ctrl_c_ends_quietly_with_130(
    run: Run, here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: Core) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(here.core.instances), "all", interrupt)

    ended = run("instance", "list")

    assert (ended.code, ended.out, ended.err) == (130, "", "")
