"""``keyplane serve provider`` as a process, which tests start, look at and kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from keycore.settings import Settings
from tests.integration.keyplugin.client import KmsClient

EXIT_SECONDS_MAX = 30


class ProviderProcess:
    """One process that serves one installation; entering it waits until it answers."""

    def __init__(
        self,
        settings: Settings,
        name: str = "first",
        *,
        options: Sequence[str] = (),
        program: Sequence[str] = ("-m", "keycli.main"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Serve as ``settings`` say.

        Args:
            settings: only those of provider and token that were given are passed on; the
                health address is passed on if it was given, and switched off else.
            name: tells the log files of one test apart.
            options: of the command ``serve provider``.
            program: what the interpreter runs.
            environment: what the process has besides ours.
        """
        self.socket = settings.provider.socket
        self._log = settings.state_dir / f"{name}.log"
        config = settings.state_dir / f"{name}.toml"
        config.write_text(_as_toml(settings), encoding="utf-8")
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("KEYPLANE_", "SOFTHSM2"))}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "--config", config, "serve", "provider", *options],
                stderr=log,
                stdout=log,
                env=clean | dict(environment or {}),
            )

    def __enter__(self) -> Self:
        """Wait until the provider answers."""
        with KmsClient(self.socket) as client:
            client.status(wait=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave no process behind."""
        self.process.kill()
        self.process.wait()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code; negative for death by a signal."""
        self.process.send_signal(number)
        return self.process.wait(EXIT_SECONDS_MAX)

    def wait(self) -> int:
        """Return the exit code of a process that ends by itself."""
        return self.process.wait(EXIT_SECONDS_MAX)

    @property
    def serves(self) -> bool:
        """Whether it has shown its socket."""
        return bool(self.logged("serving KMS v2"))

    def output(self) -> str:
        """Return everything it has printed."""
        return self._log.read_text(encoding="utf-8")

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        lines = [json.loads(line) for line in self.output().splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == event]


def _as_toml(settings: Settings) -> str:
    sections = {
        "provider": {"health_address": "", **_given(settings.provider)},
        "token": _given(settings.token),
        "log": {"format": "json"},
    }
    lines = [f"state_dir = {json.dumps(str(settings.state_dir))}"]
    for name, values in sections.items():
        lines.append(f"[{name}]")
        # A JSON text or number is one of TOML too.
        lines += [f"{field} = {json.dumps(value)}" for field, value in values.items()]
    return "\n".join(lines) + "\n"


def _given(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude_unset=True, exclude_none=True)
