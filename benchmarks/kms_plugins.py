"""The two KMS v2 providers that `benchmarks.kms` measures, on one token side by side."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.hot_paths import CALLER
from keycore.adapters.softhsm import use_embedded_softhsm
from keycore.bootstrap import open_core
from keycore.initialise import initialise
from keycore.service.creation import NewKey
from keycore.settings import load_settings
from testbed.downloads import cache_directory
from testbed.faulty_module import FaultyModule
from testbed.go import build_program
from testbed.processes import ChildProcess

DELAYED: Final = ("C_Encrypt", "C_Decrypt")
"""What a slow HSM takes its time for; the calls around them stay quick."""

_START_SECONDS_MAX: Final = 30.0

_CONFIGURATION: Final = """\
state_dir = "{directory}/state"

[provider]
socket = "{directory}/{name}.sock"
node = "bench"
health_address = ""

[token]
parallelism = {parallelism}
"""

_MODULE: Final = """\
module = "{module}"
pin_file = "{directory}/state/pins/user.pin"
"""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A provider that can be started, and where it will be reached."""

    name: str
    socket: Path
    process: ChildProcess

    @contextmanager
    def serving(self) -> Iterator[float]:
        """Serve for the length of the block; yields the seconds until it took a connection."""
        self.socket.unlink(missing_ok=True)
        started = time.perf_counter()
        with self.process:
            while not _takes_connections(self.socket):
                self.process.require_running()
                if time.perf_counter() - started > _START_SECONDS_MAX:
                    raise TimeoutError(self.process.describe_log())
                time.sleep(0.001)
            yield time.perf_counter() - started


def _takes_connections(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


class Token:
    """An initialised installation on SoftHSM2, with a key for both providers."""

    def __init__(self, directory: Path) -> None:
        """Initialise it, and bind a root key to the provider."""
        self.directory = directory
        settings = load_settings(self._configuration("init", 1))
        initialise(settings, CALLER)
        with open_core(settings, "cli") as core:
            key = core.keys.create(CALLER, core.instances.all()[0].id, NewKey("bench"))
            core.providers.bind(CALLER, settings.provider.name, key.id)
        self._wrapped = (key.versions[0].wrapped or b"").hex()
        # Both providers find the token through the environment when they name a module.
        use_embedded_softhsm(settings.state_dir)
        self._softhsm = Path("/usr/lib/softhsm/libsofthsm2.so")
        self.faults = FaultyModule(directory, self._softhsm)
        os.environ.update(self.faults.environment)

    def delay(self, milliseconds: float) -> None:
        """Make the faulty module as slow as a network HSM."""
        for function in DELAYED:
            self.faults.delay(function, milliseconds)

    def keyplane(self, *, parallelism: int = 1, slow: bool = False) -> Plugin:
        """Describe keyplane's provider."""
        name = f"keyplane-{parallelism}{'-slow' if slow else ''}"
        config = self._configuration(name, parallelism, module=self.faults.path if slow else None)
        command = (sys.executable, "-m", "keycli.main", "--config", config, "serve", "provider")
        environment = dict(os.environ)
        # As in production: byte code is there already.
        if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
            environment.setdefault("PYTHONPYCACHEPREFIX", str(cache_directory() / "bytecode"))
        return self._plugin("keyplane", name, command, environment)

    def go(self, *, sessions: int = 1, slow: bool = False) -> Plugin:
        """Describe the Go plugin."""
        name = f"go-{sessions}{'-slow' if slow else ''}"
        command = (
            build_program("goplugin", Path(__file__).parent / "goplugin", cgo=True),
            f"--socket={self.directory / name}.sock",
            f"--module={self.faults.path if slow else self._softhsm}",
            f"--pin-file={self.directory}/state/pins/user.pin",
            f"--wrapped={self._wrapped}",
            f"--sessions={sessions}",
        )
        return self._plugin("Go", name, command, dict(os.environ))

    def _plugin(
        self, name: str, file: str, command: tuple[str | Path, ...], environment: dict[str, str]
    ) -> Plugin:
        process = ChildProcess(
            file, command, directory=self.directory / "logs", environment=environment
        )
        return Plugin(name, self.directory / f"{file}.sock", process)

    def _configuration(self, name: str, parallelism: int, *, module: Path | None = None) -> Path:
        text = _CONFIGURATION + (_MODULE if module else "")
        config = self.directory / f"{name}.toml"
        config.write_text(
            text.format(
                directory=self.directory, name=name, parallelism=parallelism, module=module
            ),
            encoding="utf-8",
        )
        return config
