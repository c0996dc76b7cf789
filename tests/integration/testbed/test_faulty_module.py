"""The faulty module in front of SoftHSM2: what is ordered happens, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import pytest

from keycore.settings import Settings
from testbed import faulty_module
from testbed.errors import BinaryUnavailableError
from testbed.faulty_module import ALL, ALWAYS, FUNCTIONS, Action, Code, FaultyModule
from testbed.waiting import wait_until
from tests.integration.testbed import token_user

WITHIN_SECONDS = 20.0


class TokenUser:
    """One process of ``token_user.py``."""

    def __init__(self, module: FaultyModule, settings: Settings) -> None:
        """Start it on the token of ``settings``."""
        arguments = (str(module.path), settings.token.label, str(settings.pin_file))
        self.process = subprocess.Popen(
            [sys.executable, token_user.__file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **module.environment,
                "SOFTHSM2_CONF": str(settings.state_dir / "softhsm2.conf"),
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave no process behind, whatever it hangs in."""
        self.process.kill()
        self.process.communicate()

    def begin(self, operation: str) -> None:
        """Let it do something."""
        print(operation, file=_pipe(self.process.stdin), flush=True)

    def outcome(self) -> str:
        """Return what has come of it."""
        return _pipe(self.process.stdout).readline().strip()

    def do(self, operation: str) -> str:
        """Let it do something and return what has come of it."""
        self.begin(operation)
        return self.outcome()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@pytest.fixture
def module(tmp_path: Path, softhsm_settings: Settings) -> FaultyModule:
    return FaultyModule(tmp_path, softhsm_settings.module)


@pytest.fixture
def user(module: FaultyModule, softhsm_settings: Settings) -> Iterator[TokenUser]:
    """A process that has logged in through the module and has done something already."""
    with TokenUser(module, softhsm_settings) as user:
        assert user.do("encrypt") == "ok"
        module.reset()
        yield user


def test_every_function_of_the_standard_is_known_once() -> None:
    assert len(FUNCTIONS) == len(set(FUNCTIONS)) == 68
    assert (FUNCTIONS[0], FUNCTIONS[30], FUNCTIONS[67]) == (
        "C_Initialize",
        "C_Encrypt",
        "C_WaitForSlotEvent",
    )


def test_calls_are_forwarded_and_counted(module: FaultyModule, user: TokenUser) -> None:
    assert user.do("encrypt") == "ok"

    assert module.calls("C_EncryptInit") == module.calls("C_DecryptInit") == 1
    assert module.calls("C_Login") == 0
    assert module.total_calls() == sum(module.calls(name) for name in FUNCTIONS)
    assert module.inside(ALL) == 0


def test_what_ctypes_calls_is_counted_too(module: FaultyModule, user: TokenUser) -> None:
    assert user.do("crowd") == "ok"

    assert module.calls("C_GetFunctionStatus") == token_user.THREADS


def test_a_delay_holds_a_call_up_until_it_is_taken_back(
    module: FaultyModule, user: TokenUser
) -> None:
    module.delay("C_GenerateRandom", 150)
    began = time.monotonic()
    assert user.do("random") == "ok"
    slow = time.monotonic() - began

    module.delay("C_GenerateRandom", 0)
    began = time.monotonic()
    assert user.do("random") == "ok"

    assert slow >= 0.15
    assert time.monotonic() - began < 0.15


def test_a_failure_comes_as_often_and_as_late_as_ordered(
    module: FaultyModule, user: TokenUser
) -> None:
    module.fail("C_GenerateRandom", Code.DEVICE_ERROR, times=2, after=1)

    outcomes = [user.do("random") for _ in range(2)]
    outstanding = module.outstanding("C_GenerateRandom")
    outcomes += [user.do("random") for _ in range(3)]

    assert (outstanding, module.outstanding(ALL)) == (1, 0)
    assert outcomes == ["ok", "DeviceError", "DeviceError", "ok", "ok"]
    assert module.calls("C_GenerateRandom") == 5


def test_a_failure_for_all_calls_lasts_until_the_reset(
    module: FaultyModule, user: TokenUser
) -> None:
    module.fail(ALL, Code.TOKEN_NOT_PRESENT, times=ALWAYS)
    gone = [user.do("random"), user.do("reopen"), user.do("encrypt")]
    module.reset()

    assert gone == ["TokenNotPresent"] * 3
    assert user.do("random") == "ok"


def test_a_call_hangs_until_it_is_released(module: FaultyModule, user: TokenUser) -> None:
    module.hang("C_GenerateRandom")
    user.begin("random")
    wait_until(
        lambda: module.inside("C_GenerateRandom") == 1,
        what="the call is inside",
        within_seconds=WITHIN_SECONDS,
    )

    module.release("C_GenerateRandom")

    assert user.outcome() == "ok"
    assert user.do("random") == "ok"
    assert module.inside("C_GenerateRandom") == 0


def test_of_several_calls_only_as_many_hang_as_ordered(
    module: FaultyModule, user: TokenUser
) -> None:
    module.hang("C_GetFunctionStatus", times=1, after=2)
    user.begin("crowd")
    wait_until(
        lambda: (
            module.calls("C_GetFunctionStatus") == token_user.THREADS
            and module.inside("C_GetFunctionStatus") == 1
        ),
        what="one call is left inside",
        within_seconds=WITHIN_SECONDS,
    )

    module.release(ALL)

    assert user.outcome() == "ok"


def test_threads_are_inside_at_the_same_time(module: FaultyModule, user: TokenUser) -> None:
    module.hang("C_GetFunctionStatus")
    user.begin("crowd")
    wait_until(
        lambda: module.inside("C_GetFunctionStatus") == token_user.THREADS,
        what="all calls are inside",
        within_seconds=WITHIN_SECONDS,
    )

    module.release("C_GetFunctionStatus")

    assert user.outcome() == "ok"
    assert module.inside_most("C_GetFunctionStatus") == token_user.THREADS


@pytest.mark.parametrize(
    ("name", "action", "outcome"),
    [
        pytest.param("C_GenerateRandom", Action.CLOSE_SESSIONS, "SessionHandleInvalid", id="close"),
        # SoftHSM2 hides private objects from whoever is not logged in.
        pytest.param("C_EncryptInit", Action.LOGOUT, "ObjectHandleInvalid", id="logout"),
        pytest.param("C_EncryptInit", Action.STRAND, "OperationActive", id="strand"),
    ],
)
def test_the_state_of_the_real_module_is_spoilt_for_good(
    module: FaultyModule, user: TokenUser, name: str, action: Action, outcome: str
) -> None:
    operation = "random" if name == "C_GenerateRandom" else "encrypt"
    module.act(name, action)

    assert user.do(operation) == outcome
    assert user.do(operation) == outcome


def test_an_action_that_does_not_fit_is_refused(module: FaultyModule) -> None:
    with pytest.raises(ValueError, match="CLOSE_SESSIONS cannot be done at C_OpenSession"):
        module.act("C_OpenSession", Action.CLOSE_SESSIONS)
    with pytest.raises(ValueError, match="STRAND cannot be done at C_Encrypt"):
        module.act("C_Encrypt", Action.STRAND)
    with pytest.raises(ValueError, match="has no function C_Encypt"):
        module.calls("C_Encypt")


def test_a_machine_without_compiler_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(BinaryUnavailableError, match="scripts/bootstrap tests"):
        faulty_module.build_faulty_module()
