"""An installation of keyplane in a directory of its own, driven through its command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from testbed.errors import CommandFailedError
from testbed.processes import ChildProcess

_COMMAND_SECONDS_MAX: Final = 120.0

_CONFIGURATION = """\
state_dir = "{directory}/state"

[provider]
socket = "{directory}/run/kms.sock"
node = "{node}"

[operator]
kubeconfig = "{kubeconfig}"
resync = "{resync}"
"""


class KeyplaneInstallation:
    """State, configuration and faces of one node, as an administrator has them."""

    def __init__(
        self, directory: Path, kubeconfig: Path, *, node: str = "demo-node", resync: str = "PT5S"
    ) -> None:
        """Write the configuration file, without starting anything.

        Args:
            directory: For state, socket and logs; a short path, because a unix
                socket's path has at most 108 bytes.
            kubeconfig: What the operator will use; it need not exist yet.
            node: This node's name among the provider's nodes.
            resync: How often the operator looks at every Key, as ISO 8601.
        """
        self.directory = directory
        self.config = directory / "keyplane.toml"
        self.socket = directory / "run" / "kms.sock"
        self.config.write_text(
            _CONFIGURATION.format(
                directory=directory, kubeconfig=kubeconfig, node=node, resync=resync
            ),
            encoding="utf-8",
        )

    def run(self, *arguments: str) -> str:
        """Run one command and return what it wrote to standard output.

        Args:
            arguments: As on the command line, without the program's name.

        Raises:
            CommandFailedError: It failed; the message is what it wrote to
                standard error.
        """
        done = subprocess.run(
            self._command(*arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=_environment(),
            timeout=_COMMAND_SECONDS_MAX,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailedError(f"keyplane {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def run_json(self, *arguments: str) -> Any:
        """Run one command with `--output json` and return what it answered."""
        return json.loads(self.run(*arguments, "--output", "json"))

    def face(self, name: str) -> ChildProcess:
        """Describe the process that serves one face, `provider` or `operator`."""
        return ChildProcess(
            f"keyplane-{name}",
            self._command("serve", name),
            directory=self.directory / "logs",
            environment=_environment(),
        )

    def _command(self, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "keycli.main", "--config", str(self.config), *arguments)


def _environment() -> dict[str, str]:
    """Return our environment without settings of another installation."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KEYPLANE_")}
