"""A token that hangs or stumbles is told within a bounded time, and the rest goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from keycore.bootstrap import pin_file
from keycore.diagnosis.findings import CannotLookError
from keycore.diagnosis.token_process import TokenProcess
from keycore.errors import TokenUnavailableError
from keycore.settings import Settings, TokenSettings
from testbed.faulty_module import ALWAYS, Code, FaultyModule

QUESTIONS = ("module", "token", "login", "mechanisms", "objects", "open", "round_trip")


@pytest.fixture
def module(
    softhsm_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FaultyModule:
    """A module that misbehaves on demand, before the one of an installation."""
    module = FaultyModule(tmp_path, softhsm_settings.module)
    for name, value in module.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SOFTHSM2_CONF", str(softhsm_settings.state_dir / "softhsm2.conf"))
    return module


@pytest.fixture
def process(softhsm_settings: Settings, module: FaultyModule) -> Iterator[TokenProcess]:
    """The child on that module, with a short patience."""
    token = TokenSettings(module=module.path, pin_file=pin_file(softhsm_settings).path)
    settings = softhsm_settings.model_copy(update={"token": token})
    with closing(TokenProcess(settings, answer_seconds=3)) as process:
        yield process


def objects_in(settings: Settings) -> list[Path]:
    """Return the files in which SoftHSM2 keeps what outlives a process."""
    return sorted((settings.state_dir / "tokens").rglob("*.object"))


def ask_all(process: TokenProcess) -> None:
    for question in QUESTIONS:
        process.ask(question)


def test_a_call_that_never_returns_ends_within_the_deadline(
    process: TokenProcess, module: FaultyModule
) -> None:
    module.hang("C_Login")
    for question in ("module", "token"):
        process.ask(question)
    started = time.monotonic()

    with pytest.raises(TokenUnavailableError, match=r"within 3 seconds \(login\)"):
        process.ask("login")

    assert time.monotonic() - started < 8
    module.release("C_Login")


def test_after_a_question_without_an_answer_nothing_more_is_asked(
    process: TokenProcess, module: FaultyModule
) -> None:
    module.hang("C_Initialize")
    with pytest.raises(TokenUnavailableError):
        process.ask("module")

    with pytest.raises(CannotLookError):
        process.ask("token")

    module.release("C_Initialize")


def test_an_operation_that_failed_does_not_spoil_the_next_question(
    process: TokenProcess, module: FaultyModule
) -> None:
    for question in QUESTIONS[:-1]:
        process.ask(question)
    module.fail("C_Encrypt", Code.DEVICE_ERROR, times=ALWAYS)

    with pytest.raises(TokenUnavailableError, match="DeviceError"):
        process.ask("round_trip")

    assert process.is_signed(b"data", bytes(32)) is False


def test_it_leaves_no_object_in_the_token_and_logs_in_once(
    process: TokenProcess, module: FaultyModule, softhsm_settings: Settings
) -> None:
    before = objects_in(softhsm_settings)

    ask_all(process)
    for question in ("guarantee", "known_answers", "random"):
        process.ask(question)

    assert module.calls("C_Login") == 1
    assert module.calls("C_CreateObject") > 0
    assert objects_in(softhsm_settings) == before


def test_an_examination_signs_nothing(process: TokenProcess) -> None:
    with pytest.raises(AssertionError):
        process.sign(b"data")
