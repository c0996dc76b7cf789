"""The real ``keyplane`` in a process of its own, on an installation in a directory of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND_SECONDS_MAX = 60


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Site:
    """State and settings of one node. The path is short, because a unix socket lies in it."""

    def __init__(self, directory: Path, *, node: str = "cp-1") -> None:
        self.node = node
        self.state = directory / "state"
        self.socket = directory / "kms.sock"
        self.config = directory / "keyplane.toml"
        self.configure()

    def configure(self, more: str = "", *, token: str = "") -> None:
        """Write the settings file anew.

        Args:
            more: lines to put at the end.
            token: lines of the section on the token.
        """
        self.config.write_text(
            f'state_dir = "{self.state}"\n'
            f'[provider]\nsocket = "{self.socket}"\nnode = "{self.node}"\nhealth_address = ""\n'
            f"[token]\n{token}\n{more}\n",
            encoding="utf-8",
        )

    def run(self, *arguments: str, typed: str = "") -> Ended:
        """Run one command line and wait for its end."""
        done = subprocess.run(
            self.command(*arguments),
            input=typed,
            capture_output=True,
            text=True,
            env=environment(),
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def command(self, *arguments: str) -> tuple[str, ...]:
        """Return the command line of a process."""
        return (sys.executable, "-m", "keycli.main", "--config", str(self.config), *arguments)

    @property
    def pin_file(self) -> Path:
        return self.state / "pins" / "user.pin"

    def contents(self) -> dict[str, str]:
        """Return mode and hash of every file of the state directory."""
        return {
            str(path.relative_to(self.state)): f"{path.stat().st_mode:o} {_digest(path)}"
            for path in sorted(self.state.rglob("*"))
        }


def environment() -> dict[str, str]:
    """Return our environment without anything that concerns an installation."""
    ours = ("KEYPLANE_", "SOFTHSM2_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
