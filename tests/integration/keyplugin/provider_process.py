"""``keyplane serve provider`` as a process, which tests start, look at and kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from keycore.settings import Settings
from tests.integration.keyplugin.client import KmsClient

EXIT_SECONDS_MAX = 30


class ProviderProcess:
    """One process that serves one installation; entering it waits until it answers."""

    def __init__(self, settings: Settings, name: str = "first") -> None:
        """Serve as ``settings`` say; ``name`` tells the log files of one test apart."""
        provider = settings.provider
        self.socket = provider.socket
        self._log = settings.state_dir / f"{name}.log"
        config = settings.state_dir / f"{name}.toml"
        config.write_text(
            f'state_dir = "{settings.state_dir}"\n'
            f'[provider]\nnode = "{provider.node}"\nsocket = "{provider.socket}"\n'
            f'socket_mode = "{provider.socket_mode}"\n[log]\nformat = "json"\n',
            encoding="utf-8",
        )
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("KEYPLANE_", "SOFTHSM2"))}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "keycli.main", "--config", config, "serve", "provider"],
                stderr=log,
                stdout=log,
                env=clean,
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

    def output(self) -> str:
        """Return everything it has printed."""
        return self._log.read_text(encoding="utf-8")

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        lines = [json.loads(line) for line in self.output().splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == event]
