"""A process of its own that talks to the PKCS#11 module, asked with a deadline.

A call inside a module cannot be cancelled, and a module that crashes takes its process
along. Both happen to the child here, and the examination goes on without the token.
Requests and answers are lines of JSON on the child's standard input and output.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import Any, Final

from keycore.bootstrap import pin_file
from keycore.diagnosis.findings import CannotLookError
from keycore.errors import (
    KeyplaneError,
    PinRejectedError,
    SettingsError,
    TokenSetupError,
    TokenUnavailableError,
)
from keycore.settings import Settings

ANSWER_SECONDS: Final = 10.0
"""How long one question may take. A token that serves kube-apiserver needs less than 3."""

_PROGRAM: Final = "keycore.adapters.pkcs11_examination"

_ENDING_SECONDS: Final = 2.0

_ERRORS: Final[dict[str, type[KeyplaneError]]] = {
    cls.code: cls for cls in (PinRejectedError, SettingsError, TokenSetupError)
}
"""What the child may raise besides that the token is not available."""


class TokenProcess:
    """Asks the child, one question at a time. After a question without an answer it is gone."""

    def __init__(self, settings: Settings, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        """Start the child; the module is not touched before the first question.

        Args:
            settings: which module, token and PIN file.
            answer_seconds: how long each question may take.
        """
        self._answer_seconds = answer_seconds
        self._asked = ""
        self._gone = False
        self._rest = b""
        # Here rather than in the child, which may be killed.
        self._scratch = tempfile.TemporaryDirectory(prefix="keyplane-doctor-")
        place = {**_place(settings), "scratch": self._scratch.name}
        # -P: nothing in the working directory may pass for one of our modules.
        self._child = subprocess.Popen(  # noqa: S603 - our own program
            (sys.executable, "-P", "-m", _PROGRAM, json.dumps(place)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Modules write what they like there.
            stderr=subprocess.DEVNULL,
        )

    def ask(self, question: str, **details: Any) -> dict[str, Any]:
        """Return the child's answer.

        Args:
            question: name of one of its functions.
            details: that function's arguments.

        Raises:
            SetupError: what the function raised.
            TokenUnavailableError: what it raised, or it never came back, or the module
                has crashed the process.
            CannotLookError: the child is gone since an earlier question.
        """
        if self._gone:
            raise CannotLookError("the module, which did not answer before")
        self._asked = question
        try:
            self._send({"question": question, **details})
            answer = json.loads(self._line())
        except TokenUnavailableError:
            self._gone = True
            raise
        if "error" in answer:
            error = _ERRORS.get(answer["error"], TokenUnavailableError)
            raise error(answer["message"], hint=answer["hint"])
        result: dict[str, Any] = answer["answer"]
        return result

    def sign(self, data: bytes) -> bytes:  # noqa: ARG002
        """Refuse: an examination writes nothing that would have to be signed."""
        raise AssertionError("an examination signs nothing")

    def is_signed(self, data: bytes, mac: bytes) -> bool:
        """Tell whether ``mac`` is the record MAC of ``data``.

        Raises:
            TokenUnavailableError: as :meth:`ask`.
        """
        verified: bool = self.ask("verify", data=data.hex(), mac=mac.hex())["verified"]
        return verified

    def close(self) -> None:
        """End the child, whatever it is doing."""
        for stream in (self._child.stdin, self._child.stdout):
            with suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()
        try:
            # A child that is well logs out and ends when its standard input does.
            self._child.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
        self._scratch.cleanup()

    def _send(self, request: dict[str, Any]) -> None:
        if self._child.stdin is None:
            raise AssertionError("the child was started with a pipe")
        try:
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            self._child.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._ended() from None

    def _line(self) -> bytes:
        """Return the next line of the child.

        Raises:
            TokenUnavailableError: there is none within the deadline, or never.
        """
        if self._child.stdout is None:
            raise AssertionError("the child was started with a pipe")
        descriptor = self._child.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(self._answer_seconds):
                    raise self._hung()
                received = os.read(descriptor, 65536)
                if not received:
                    raise self._ended()
                self._rest += received
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _hung(self) -> TokenUnavailableError:
        self._kill()
        return TokenUnavailableError(
            f"the module did not come back within {self._answer_seconds:.0f} seconds "
            f"({self._asked})",
            hint="check the HSM and its network; every process that uses it hangs like this one",
        )

    def _ended(self) -> TokenUnavailableError:
        try:
            code = self._child.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            return self._hung()
        if code < 0:
            how = f"the module crashed the process (signal {-code}, {_name_of(-code)})"
        else:
            how = f"the module ended the process (exit code {code})"
        return TokenUnavailableError(
            f"{how} ({self._asked})",
            hint="install another version of the module, or ask its maker; "
            "it would crash the provider as well",
        )

    def _kill(self) -> None:
        self._child.kill()
        # One that hangs in a device driver cannot even be killed.
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(_ENDING_SECONDS)


def _place(settings: Settings) -> dict[str, str | None]:
    """Return what the child needs to know; no secret is in it."""
    file = pin_file(settings)
    return {
        "module": str(settings.module),
        "label": settings.token.label,
        "serial": settings.token.serial,
        "profile": settings.token.profile,
        "pin_file": str(file.path),
        "marker": str(file.marker),
        "embedded_in": str(settings.state_dir) if settings.embedded else None,
    }


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
