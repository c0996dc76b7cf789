"""Proves in a process of its own that a lost token is back and whole.

A module notices what has become of its tokens only when it is initialised again, and that
destroys the working copies that still serve. So somebody else looks first. This module is
also the program that looks: it gets what to look for on its standard input.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from keycore.adapters.pin_file import PinFile
from keycore.adapters.pkcs11_connection import Connection, TokenPlace
from keycore.adapters.pkcs11_module import Pkcs11Module
from keycore.adapters.pkcs11_profiles import profile_named
from keycore.errors import KeyplaneError, PinRejectedError, SettingsError

SECONDS_MAX = 20.0
"""How long a look may take; one that hangs is killed."""

NOT_BACK = "the token is gone; check that the HSM is connected and its token present"
"""Said of a token of which nothing better is known."""


class Presence:
    """Looks for the token of a connection."""

    def __init__(self, connection: Connection) -> None:
        """Look for the very token that ``connection`` has identified."""
        self._connection = connection

    def fault(self) -> str:
        """Look once, for :data:`SECONDS_MAX` at most; return what is wrong, empty for nothing."""
        try:
            done = subprocess.run(  # noqa: S603 - our own program
                # -P: nothing in the working directory may pass for one of our modules.
                (sys.executable, "-P", "-m", __name__),
                input=json.dumps(self._connection.to_recognise()),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                errors="replace",
                timeout=SECONDS_MAX,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return NOT_BACK
        return "" if done.returncode == 0 else done.stdout.strip() or NOT_BACK


def main() -> int:
    """Look for the token that standard input describes; say on standard output what is wrong."""
    # Whoever waits for the answer gives up as well, and may be gone: nobody then may
    # find the PIN's lock held by a process that hangs in the module.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    signal.alarm(int(SECONDS_MAX))
    wanted = json.loads(sys.stdin.read())
    try:
        connection = Connection(
            Pkcs11Module(Path(wanted["module"])),
            TokenPlace(wanted["label"], wanted["serial"]),
            PinFile(Path(wanted["pin_file"]), Path(wanted["marker"])),
        )
        connection.recognise(profile_named(wanted["profile"]), bytes.fromhex(wanted["canary"]))
    except (PinRejectedError, SettingsError) as error:
        print(f"{error.message}; {error.hint}")  # noqa: T201
        return 1
    except KeyplaneError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
