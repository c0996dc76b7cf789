"""A PKCS#11 module that misbehaves on demand, in front of a real one.

It is a shared library of our own (`faulty_module/`), which a process loads in place of the
real module. A test orders faults and reads counters through a file that both have mapped,
so an order takes effect at the next call of a process that runs already.
"""

import mmap
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Final

from testbed.downloads import keep
from testbed.errors import BinaryUnavailableError
from testbed.progress import BuildProgress

_SOURCES: Final = Path(__file__).resolve().parent / "faulty_module"
_SOURCE: Final = _SOURCES / "faulty_module.c"
_FUNCTIONS: Final = _SOURCES / "functions.h"
_LIBRARY: Final = "faulty_module.so"
_COMPILE: Final = ("cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror")
_BUILD_SECONDS_MAX: Final = 60.0

FUNCTIONS: Final = tuple(re.findall(r"(?m)^F\((C_\w+)\)$", _FUNCTIONS.read_text()))
"""The functions of PKCS#11 v2.40 in the order of CK_FUNCTION_LIST."""

ALL: Final = "C_*"
"""Stands for all of them."""

ALWAYS: Final = -1
"""As `times`: until `reset`."""

_FIELDS: Final = (
    *("calls", "inside", "inside_most", "delay_microseconds", "releases"),
    *("hang.after", "hang.times", "hang.value"),
    *("failure.after", "failure.times", "failure.value"),
    *("action.after", "action.times", "action.value"),
    *("unused.0", "unused.1"),
)
"""A record of the library's source, field by field; each has 8 bytes."""

_WORD_BYTES: Final = 8

_WITHOUT_SESSION: Final = frozenset(
    {*FUNCTIONS[: FUNCTIONS.index("C_CloseSession")], "C_CloseAllSessions", "C_WaitForSlotEvent"}
)


class Code(IntEnum):
    """Return values that a token in trouble gives (PKCS#11 v2.40, 2); any other int will do too."""

    GENERAL_ERROR = 0x05
    FUNCTION_FAILED = 0x06
    DEVICE_ERROR = 0x30
    DEVICE_MEMORY = 0x31
    DEVICE_REMOVED = 0x32
    KEY_HANDLE_INVALID = 0x60
    OBJECT_HANDLE_INVALID = 0x82
    OPERATION_ACTIVE = 0x90
    OPERATION_NOT_INITIALIZED = 0x91
    PIN_INCORRECT = 0xA0
    SESSION_CLOSED = 0xB0
    SESSION_HANDLE_INVALID = 0xB3
    TOKEN_NOT_PRESENT = 0xE0
    USER_NOT_LOGGED_IN = 0x101


class Action(IntEnum):
    """What is done to the real module right before a call is forwarded to it."""

    CLOSE_SESSIONS = 1
    """Close every session of the slot; the process has lost login and objects then."""

    LOGOUT = 2
    """Log the process out of the token."""

    STRAND = 3
    """Begin the operation of a `C_…Init` once already; the caller meets an active one."""


class FaultyModule:
    """One library and one control file, for one or several processes of a test.

    Every method takes the name of a function, such as `C_Decrypt`, and `C_*` where it
    makes sense for all. The environment of the process that loads it must have
    `environment` in it.
    """

    def __init__(self, directory: Path, target: Path) -> None:
        """Build the library if that was not done yet, and make a control file.

        Args:
            directory: For the control file; it must exist.
            target: The real module.

        Raises:
            BinaryUnavailableError: There is no C compiler, or it refused the source.
        """
        self.path = build_faulty_module()
        """What to name as PKCS#11 module."""
        file = directory / "faulty-module.control"
        self.environment: Mapping[str, str] = {
            "FAULTY_MODULE_TARGET": str(target),
            "FAULTY_MODULE_CONTROL": str(file),
        }
        size = len(FUNCTIONS) * len(_FIELDS) * _WORD_BYTES
        file.write_bytes(bytes(size))
        with file.open("r+b") as opened:
            # Eight bytes at once are written at once, as the library reads them.
            self._words = memoryview(mmap.mmap(opened.fileno(), size)).cast("q")

    def calls(self, name: str) -> int:
        """Tell how often a function was called since the start or the last `reset`."""
        return sum(self._read(one, "calls") for one in _named(name))

    def total_calls(self) -> int:
        """Tell how many calls of all functions there were."""
        return self.calls(ALL)

    def inside(self, name: str) -> int:
        """Tell how many threads are inside a function now.

        A process that is killed there leaves them in the count.
        """
        return sum(self._read(one, "inside") for one in _named(name))

    def inside_most(self, name: str) -> int:
        """Tell how many threads were inside one function at the same time at most."""
        return max(self._read(one, "inside_most") for one in _named(name))

    def outstanding(self, name: str) -> int:
        """Tell how many of the faults that were ordered with a number have not come yet."""
        kinds = ("hang", "failure", "action")
        return sum(max(self._read(one, f"{k}.times"), 0) for one in _named(name) for k in kinds)

    def delay(self, name: str, milliseconds: float) -> None:
        """Make every call take longer, until it is set to 0."""
        for one in _named(name):
            self._write(one, "delay_microseconds", round(milliseconds * 1000))

    def fail(self, name: str, code: int, *, times: int = 1, after: int = 0) -> None:
        """Answer with an error instead of asking the real module.

        So an operation that was begun before goes on in the real module, as in one that
        has stumbled.

        Args:
            name: The function, or all of them with counts of their own.
            code: The return value; the usual ones are in `Code`.
            times: How many calls; `ALWAYS` for all.
            after: How many calls pass before.
        """
        for one in _named(name):
            self._order(one, "failure", code, times=times, after=after)

    def act(self, name: str, action: Action, *, times: int = 1, after: int = 0) -> None:
        """Spoil the state of the real module before a call reaches it.

        Args:
            name: A function whose first argument is a session; for `Action.STRAND` one that
                begins an operation.
            action: What to do.
            times: Before how many calls; `ALWAYS` for all.
            after: How many calls pass before.

        Raises:
            ValueError: The action does not fit the function.
        """
        if name in _WITHOUT_SESSION or (action is Action.STRAND and not name.endswith("Init")):
            raise ValueError(f"{action.name} cannot be done at {name}")
        (one,) = _named(name)
        self._order(one, "action", action, times=times, after=after)

    def hang(self, name: str, *, times: int = ALWAYS, after: int = 0) -> None:
        """Let calls not return before `release`.

        Args:
            name: The function.
            times: How many calls are caught; `ALWAYS` for all.
            after: How many calls pass before.
        """
        for one in _named(name):
            self._order(one, "hang", 1, times=times, after=after)

    def release(self, name: str) -> None:
        """Let the calls that hang go on, and catch no more."""
        for one in _named(name):
            self._write(one, "hang.times", 0)
            self._write(one, "releases", self._read(one, "releases") + 1)

    def reset(self) -> None:
        """Release what hangs, forget all orders, and count from 0.

        How many are inside goes on to be counted, and is the new most.
        """
        self.release(ALL)
        for one in FUNCTIONS:
            for order in ("failure", "action"):
                self._write(one, f"{order}.times", 0)
            self._write(one, "delay_microseconds", 0)
            self._write(one, "calls", 0)
            self._write(one, "inside_most", self._read(one, "inside"))

    def _order(self, name: str, kind: str, value: int, *, times: int, after: int) -> None:
        # Last comes what makes the library look at the rest.
        self._write(name, f"{kind}.times", 0)
        self._write(name, f"{kind}.after", after)
        self._write(name, f"{kind}.value", value)
        self._write(name, f"{kind}.times", times)

    def _read(self, name: str, field: str) -> int:
        return self._words[_place(name, field)]

    def _write(self, name: str, field: str, value: int) -> None:
        self._words[_place(name, field)] = value


def build_faulty_module() -> Path:
    """Return the library, after compiling it if that was not done yet.

    Raises:
        BinaryUnavailableError: There is no C compiler, or it refused the source.
    """
    made_from = (_SOURCE, _FUNCTIONS, *_COMPILE, platform.machine())
    return keep("faulty-module", made_from, _compile) / _LIBRARY


def _compile(directory: Path, progress: BuildProgress) -> None:
    if shutil.which(_COMPILE[0]) is None:
        raise BinaryUnavailableError(
            "There is no C compiler (cc), which builds the faulty PKCS#11 module of the tests: "
            "run scripts/bootstrap tests, or install gcc and libc6-dev."
        )
    done = subprocess.run(
        (*_COMPILE, "-o", str(directory / _LIBRARY), str(_SOURCE)),
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise BinaryUnavailableError(f"{_SOURCE.name} was not compiled:\n{done.stderr.strip()}")
    progress.say(f"Compiled {_SOURCE.name}")


def _named(name: str) -> Iterator[str]:
    if name != ALL and name not in FUNCTIONS:
        raise ValueError(f"PKCS#11 v2.40 has no function {name}")
    return iter(FUNCTIONS if name == ALL else (name,))


def _place(name: str, field: str) -> int:
    return FUNCTIONS.index(name) * len(_FIELDS) + _FIELDS.index(field)
