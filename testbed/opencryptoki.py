"""openCryptoki's software token: a second PKCS#11 implementation, and one without AES-GCM.

Its daemon hands its list of slots to every client, and takes it from one file. So the
daemon gets a file of ours in a mount namespace of its own, with a single slot whose token
has a name of its own; the clients need nothing, and the machine's tokens stay as they are.
"""

import ctypes
import os
import secrets
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import pkcs11

from keycore.adapters.pkcs11_module import finalise
from testbed.downloads import cache_directory, exclusive
from testbed.errors import ControlPlaneError
from testbed.processes import ChildProcess
from testbed.progress import BuildProgress
from testbed.startable import Startable

MODULES: Final = (
    Path("/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so"),
    Path("/usr/lib/aarch64-linux-gnu/pkcs11/libopencryptoki.so"),
    Path("/usr/lib/pkcs11/libopencryptoki.so"),
)

LABEL: Final = "keyplane"

_DAEMON: Final = "/usr/sbin/pkcsslotd"
_SYSTEM_CONFIGURATION: Final = Path("/etc/opencryptoki/opencryptoki.conf")

_NAME: Final = "keyplane-testbed"
_SLOT: Final = 3
_CONFIGURATION: Final = f"""\
version opencryptoki-3.8
slot {_SLOT}
{{
stdll = libpkcs11_sw.so
tokname = {_NAME}
}}
"""

_TOKEN_DIRECTORY: Final = Path("/var/lib/opencryptoki") / _NAME
_LOCK_DIRECTORY: Final = Path("/var/lock/opencryptoki") / _NAME
_SHARED_MEMORY: Final = Path("/dev/shm") / f"var.lib.opencryptoki.{_NAME}"  # noqa: S108
_PROCESS_ID: Final = Path("/run/pkcsslotd.pid")
_SOCKET: Final = Path("/run/pkcsslotd.socket")

_FIRST_SO_PIN: Final = "87654321"
"""What every new token has."""

_PIN_DIGITS: Final = 8
"""The most that this token takes."""

_START_SECONDS: Final = 15.0
_GRACE_SECONDS: Final = 5.0


def obstacle() -> str:
    """Tell why the token cannot be had on this machine; empty when it can."""
    if os.geteuid() != 0:
        return "openCryptoki's daemon and its directories need root"
    if not Path(_DAEMON).is_file() or not _module_or_none():
        return "openCryptoki is not installed; run: scripts/bootstrap tests"
    return ""


class OpenCryptoki(Startable):
    """The daemon with one initialised token, for the length of a `with` block.

    Only one can run on a machine; a second one waits for its turn.

    Attributes:
        module: The shared library.
        pin_file: File with the user PIN, mode 0600.
    """

    def __init__(self, directory: Path) -> None:
        """Describe it without starting anything.

        Args:
            directory: For configuration, PIN file and log.
        """
        self.module = _module_or_none() or MODULES[0]
        self.pin_file = directory / "user.pin"
        self._configuration = directory / "opencryptoki.conf"
        self._turn = ExitStack()
        self._is_ours = False
        self._daemon = ChildProcess(
            "pkcsslotd",
            (
                "unshare",
                "--mount",
                "sh",
                "-c",
                'mount --bind "$0" "$1" && exec "$2" -f',
                self._configuration,
                _SYSTEM_CONFIGURATION,
                _DAEMON,
            ),
            directory=directory,
        )

    def start(self) -> None:
        """Start the daemon, and make a new token with a user PIN.

        Raises:
            ControlPlaneError: It is not installed, somebody else's daemon runs, or the
                token cannot be made.
            ProcessDiedError: The daemon ended; the machine may forbid mounts.
        """
        if reason := obstacle():
            raise ControlPlaneError(reason)
        turns = cache_directory() / "opencryptoki.lock"
        self._turn.enter_context(exclusive(turns, BuildProgress()))
        try:
            _require_no_daemon()
            self._is_ours = True
            _clear()
            self._prepare()
            self._daemon.start()
            self._daemon.wait_until(
                _SOCKET.exists, what="pkcsslotd listens", within_seconds=_START_SECONDS
            )
            self._make_token()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the daemon and remove the token.

        SIGTERM does not end it while a process has its module initialised. So this
        process finalises its own, and what still hangs on after that has the daemon killed.
        """
        if self._is_ours:
            _leave(self.module)
            self._daemon.stop(grace_seconds=_GRACE_SECONDS)
            _clear()
        self._is_ours = False
        self._turn.close()

    def kill(self) -> None:
        """End the daemon at once; the token stays for :meth:`restart`."""
        self._daemon.kill()

    def restart(self) -> None:
        """Start the daemon again, on the same token."""
        _SOCKET.unlink(missing_ok=True)
        self._daemon.start()
        self._daemon.wait_until(
            _SOCKET.exists, what="pkcsslotd listens", within_seconds=_START_SECONDS
        )

    def _prepare(self) -> None:
        self._configuration.parent.mkdir(parents=True, exist_ok=True)
        self._configuration.write_text(_CONFIGURATION, encoding="utf-8")
        (_TOKEN_DIRECTORY / "TOK_OBJ").mkdir(parents=True)
        _LOCK_DIRECTORY.mkdir(parents=True)
        for made in (_TOKEN_DIRECTORY, _TOKEN_DIRECTORY / "TOK_OBJ", _LOCK_DIRECTORY):
            shutil.chown(made, group="pkcs11")
            made.chmod(0o770)

    def _make_token(self) -> None:
        """Do what an administrator does with `pkcsconf`, which asks for PINs on a terminal."""
        pins = ["".join(secrets.choice("0123456789") for _ in range(_PIN_DIGITS)) for _ in "SU"]
        so_pin, user_pin = pins
        library: Any = pkcs11.lib(str(self.module))
        _leave(self.module)
        library.initialize()
        _init_token(self.module)
        token = library.get_token(token_label=LABEL)
        session = token.open(rw=True, so_pin=_FIRST_SO_PIN)
        session.set_pin(_FIRST_SO_PIN, so_pin)
        session.init_pin(user_pin)
        session.close()
        self.pin_file.touch(mode=0o600)
        self.pin_file.write_text(f"{user_pin}\n", encoding="ascii")


def _module_or_none() -> Path | None:
    return next((path for path in MODULES if path.is_file()), None)


def _leave(module: Path) -> None:
    """Finalise the module in this process; every session of it is lost by that."""
    finalise(module)
    # python-pkcs11 must know it too, and is told that there is nothing to finalise.
    with suppress(pkcs11.PKCS11Error):
        pkcs11.lib(str(module)).finalize()


def _init_token(module: Path) -> None:
    pin, label = _FIRST_SO_PIN.encode(), LABEL.encode().ljust(32)
    library = ctypes.CDLL(str(module))
    code = library.C_InitToken(ctypes.c_ulong(_SLOT), pin, ctypes.c_ulong(len(pin)), label)
    if code != 0:
        raise ControlPlaneError(f"openCryptoki could not make a token (code {code:#x}).")


def _require_no_daemon() -> None:
    """Refuse to go on beside a daemon that somebody else has started.

    Raises:
        ControlPlaneError: There is one.
    """
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _name_of(entry) == "pkcsslotd":
            raise ControlPlaneError(f"pkcsslotd already runs, as process {entry.name}.")


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _clear() -> None:
    """Remove what a daemon and a token of ours leave behind, after a crash too."""
    for directory in (_TOKEN_DIRECTORY, _LOCK_DIRECTORY):
        shutil.rmtree(directory, ignore_errors=True)
    for file in (_SHARED_MEMORY, _SOCKET, _PROCESS_ID):
        file.unlink(missing_ok=True)
