"""An installation of keyplane in a directory of its own, driven through its command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Protocol

from testbed.downloads import cache_directory
from testbed.errors import CommandFailedError
from testbed.loopback import HOST, free_port
from testbed.processes import ChildProcess

_COMMAND_SECONDS_MAX: Final = 120.0

_CONFIGURATION = """\
state_dir = "{state}"

[provider]
socket = "{directory}/run/kms.sock"
node = "{node}"
outage = "{outage}"
health_address = "{health}"

[operator]
kubeconfig = "{kubeconfig}"
resync = "{resync}"
health_address = "{operator_health}"
"""

_STORE_CONFIGURATION = """
[store]
postgresql = "{connection}"
password_file = "{password}"
"""

_REST_CONFIGURATION = """
[rest]
port = {port}
health_address = "{rest_health}"

[[rest.issuers]]
name = "cluster"
url = "{issuer}"
audience = "{audience}"
ca_file = "{ca}"
credential_file = "{credential}"
"""


class Database(Protocol):
    """One of PostgreSQL, on one server or on several."""

    @property
    def connection(self) -> str:
        """The connection string, without the password."""

    @property
    def password_file(self) -> Path:
        """File with the password, mode 0600."""


class KeyplaneInstallation:
    """State, configuration and faces of one node, as an administrator has them."""

    def __init__(
        self,
        directory: Path,
        kubeconfig: Path,
        *,
        node: str = "demo-node",
        resync: str = "PT5S",
        outage: str = "Coast",
        beside: "KeyplaneInstallation | None" = None,
        store: Database | None = None,
    ) -> None:
        """Write the configuration file, without starting anything.

        Args:
            directory: For state, socket and logs; a short path, because a unix
                socket's path has at most 108 bytes.
            kubeconfig: What the operator will use; it need not exist yet.
            node: This node's name among the provider's nodes.
            resync: How often the operator looks at every Key, as ISO 8601.
            outage: What the provider does while the token is away.
            beside: Another node, whose store and token this one uses as well; socket
                and keyring are its own. None makes a first node.
            store: Where records live; None for a file in the state directory.
        """
        self.directory = directory
        self.config = directory / "keyplane.toml"
        self.socket = directory / "run" / "kms.sock"
        self.state: Path = beside.state if beside else directory / "state"
        self.health = f"http://{HOST}:{free_port()}"
        """Where the provider answers `/metrics`, `/livez` and `/readyz`."""
        self.operator_health = f"http://{HOST}:{free_port()}"
        """Where the operator does."""
        self.rest_health = f"http://{HOST}:{free_port()}"
        """Where the REST face does; further workers on the ports above."""
        self.config.write_text(
            _CONFIGURATION.format(
                directory=directory,
                state=self.state,
                kubeconfig=kubeconfig,
                node=node,
                resync=resync,
                outage=outage,
                health=self.health.removeprefix("http://"),
                operator_health=self.operator_health.removeprefix("http://"),
            ),
            encoding="utf-8",
        )
        if store is not None:
            with self.config.open("a", encoding="utf-8") as config:
                config.write(
                    _STORE_CONFIGURATION.format(
                        connection=store.connection, password=store.password_file
                    )
                )

    def join(self, first: "KeyplaneInstallation") -> None:
        """Become a further node of an installation in PostgreSQL.

        The token is copied, where real nodes would reach the same HSM.

        Args:
            first: The node on which `keyplane init` has run.
        """
        self.state.mkdir(mode=0o700, parents=True)
        shutil.copytree(first.state / "tokens", self.state / "tokens")
        self.run("join", "--pin-from", str(first.state / "pins" / "user.pin"))

    def configure_rest(
        self, port: int, *, issuer: str, ca: Path, credential: Path, audience: str
    ) -> None:
        """Add the REST face to the configuration; processes that run do not see it.

        Args:
            port: Where it will listen, on the loopback address.
            issuer: URL of the API server whose service accounts may call it.
            ca: The API server's authority.
            credential: File with a bearer credential that may read the issuer's keys.
            audience: What credentials must be made for.
        """
        with self.config.open("a", encoding="utf-8") as config:
            config.write(
                _REST_CONFIGURATION.format(
                    port=port,
                    rest_health=self.rest_health.removeprefix("http://"),
                    issuer=issuer,
                    ca=ca,
                    credential=credential,
                    audience=audience,
                )
            )

    @property
    def rest_ca(self) -> Path:
        """The certificate that the REST face makes for itself; its own authority."""
        return self.state / "tls" / "tls.crt"

    @property
    def policy(self) -> Path:
        """Who may do what through REST."""
        return self.state / "policy.toml"

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

    def face(self, name: str, *options: str, process: str = "") -> ChildProcess:
        """Describe the process that serves one face: `provider`, `operator` or `rest`.

        Args:
            name: The face.
            options: Of `keyplane serve`.
            process: Names its log, where one face has several processes.
        """
        return ChildProcess(
            f"keyplane-{process or name}",
            self._command("serve", name, *options),
            directory=self.directory / "logs",
            environment=_environment(),
        )

    def _command(self, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "keycli.main", "--config", str(self.config), *arguments)


def _environment() -> dict[str, str]:
    """Return our environment without settings of another installation."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("KEYPLANE_")
    }
    # Where Python may write no byte code, every command would compile all libraries anew,
    # which takes longer than all that it does.
    if environment.pop("PYTHONDONTWRITEBYTECODE", ""):
        environment.setdefault("PYTHONPYCACHEPREFIX", str(cache_directory() / "bytecode"))
    return environment
