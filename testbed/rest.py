"""Keyplane's REST face as a process, with an installation and an issuer of its own.

For tests, load and the demo: two lines give a server that real clients can talk to,
and callers of every role.
"""

import json
import ssl
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Self

import httpx

from testbed.audit import audit_lines
from testbed.credentials import write_private
from testbed.errors import NotLoopbackError
from testbed.issuer import AUDIENCE, Issuer
from testbed.keyplane import KeyplaneInstallation
from testbed.loopback import HOST, free_port, request
from testbed.startable import Startable

ROLES: Final = ("ClusterAdministrator", "Administrator", "Editor", "Viewer")
"""The roles; the policy gives each to the group of the same name."""

_ISSUER_NAME: Final = "testbed"
_READY_WITHIN_SECONDS: Final = 20.0
_REQUEST_SECONDS_MAX: Final = 30.0

Options = Mapping[str, str | int | float | bool | Sequence[str]]
"""Settings below `[rest]` by their names, such as `workers` or `tls.client_ca`."""


class RestService(Startable):
    """One REST face on loopback, from `keyplane init` to the last answer.

    It trusts one issuer. Whoever is in a group named after a role has that role in
    every instance that was made here. It can be stopped and started again.

    Attributes:
        state_dir: The installation's state directory.
        ca_file: PEM file with what clients trust. By default the certificate that
            keyplane makes for itself, which is there once the service has started; a
            test that sets `tls.certificate` sets this too.
        issuer: Signs the callers' credentials.
        installation: Runs `keyplane` commands on the same state.
        process: The server.
        policy_file: Who may do what; see `write_policy`.
        instances: Ids of instances by their names.
    """

    def __init__(
        self, directory: Path, *, instances: Sequence[str] = (), options: Options | None = None
    ) -> None:
        """Write the configuration; nothing is made or started yet.

        Args:
            directory: For everything: state, logs, certificates. Short, because
                sockets' paths are.
            instances: Names of instances to be made beside the default one.
            options: Settings of the REST face that the test wants otherwise.
        """
        self.directory = directory
        self.state_dir = directory / "state"
        self.ca_file = self.state_dir / "tls" / "tls.crt"
        self.issuer = Issuer(directory / "issuer")
        self.installation = KeyplaneInstallation(directory, directory / "kubeconfig")
        self.process = self.installation.face("rest")
        self.policy_file = directory / "policy.toml"
        self.instances: dict[str, str] = {}
        self._wanted_instances = tuple(instances)
        self._port = free_port()
        self._configure(options or {})

    @property
    def root_url(self) -> str:
        """Where `/readyz` is, without a slash at the end."""
        return f"https://{HOST}:{self._port}"

    @property
    def base_url(self) -> str:
        """What clients are pointed at; `/api/v2/keys` follows."""
        return f"{self.root_url}/kms"

    @property
    def instance_id(self) -> str:
        """The default instance."""
        return self.instances["default"]

    def __enter__(self) -> Self:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def start(self) -> None:
        """Make the installation if there is none yet, start issuer and server, and wait.

        Raises:
            CommandFailedError: The installation could not be made.
            ProcessDiedError: The server ended.
            DeadlineExceededError: It is not ready within 20 s.
        """
        if not self.instances:
            self._install()
        self.issuer.start()
        self.process.start()
        self.process.wait_until(
            self.is_ready, what="the REST face is ready", within_seconds=_READY_WITHIN_SECONDS
        )

    def stop(self) -> None:
        """Stop the server in order, then the issuer."""
        self.process.stop()
        self.issuer.stop()

    def is_ready(self) -> bool:
        """Tell whether `/readyz` answers that all is well."""
        try:
            status, _ = request(f"{self.root_url}/readyz", ca=self.ca_file)
        except NotLoopbackError:
            raise
        except OSError:
            # The certificate is not there yet, nobody listens, or it is just being closed.
            return False
        return status == httpx.codes.OK

    def create_instance(self, name: str) -> str:
        """Make an instance, in which every role's group has its role.

        A running server takes a moment to read the policy again.

        Args:
            name: Its name; also the key in `instances`.

        Returns:
            Its id.
        """
        created = self.installation.run_json("instance", "create", name)
        self.instances[name] = str(created["id"])
        self.write_policy(self.default_policy())
        return self.instances[name]

    def credential(
        self,
        subject: str = "alice",
        *,
        groups: Iterable[str] = ("Administrator",),
        ttl: timedelta = timedelta(minutes=10),
        claims: Mapping[str, Any] | None = None,
    ) -> str:
        """Sign a bearer credential; see `testbed.issuer.Issuer.credential`."""
        return self.issuer.credential(subject, groups=groups, ttl=ttl, claims=claims)

    def client(
        self, role: str | None = "Administrator", *, instance: str = "default"
    ) -> httpx.Client:
        """Make an HTTP client that sends the headers of a caller.

        Args:
            role: One of `ROLES`; None sends no credential.
            instance: Name of one of `instances`.

        Returns:
            A client whose paths begin after `base_url`; the caller closes it.
        """
        headers = {"icp-instance": self.instances[instance]}
        if role is not None:
            credential = self.credential(role.lower(), groups=[role])
            headers["authorization"] = f"Bearer {credential}"
        return httpx.Client(
            base_url=self.base_url,
            headers=headers,
            verify=ssl.create_default_context(cafile=self.ca_file),
            timeout=_REQUEST_SECONDS_MAX,
            # Proxies and authorities of the environment are for other servers.
            trust_env=False,
        )

    def audit_lines(self) -> list[dict[str, Any]]:
        """Read what the REST face has recorded so far, without checkpoints."""
        return audit_lines(self.state_dir, "rest")

    def default_policy(self) -> str:
        """Return the policy that gives each role to the group of its name."""
        return "".join(self._binding(role) for role in ROLES)

    def write_policy(self, text: str) -> None:
        """Replace the policy file in one step.

        Args:
            text: TOML, valid or not.
        """
        write_private(self.policy_file, text.encode())

    def _binding(self, role: str) -> str:
        instances = json.dumps(list(self.instances.values()))
        where = "" if role == "ClusterAdministrator" else f"instances = {instances}\n"
        member = f'members = [{{ issuer = "{_ISSUER_NAME}", group = "{role}" }}]\n'
        return f'[[bindings]]\nrole = "{role}"\n{where}{member}\n'

    def _configure(self, options: Options) -> None:
        settings = {
            "address": HOST,
            "port": self._port,
            "policy_file": str(self.policy_file),
            "health_address": self.installation.rest_health.removeprefix("http://"),
            **options,
        }
        issuer = {
            "name": _ISSUER_NAME,
            "url": self.issuer.url,
            "audience": AUDIENCE,
            "ca_file": str(self.issuer.ca_file),
        }
        text = f"\n[rest]\n{_toml(settings)}\n[[rest.issuers]]\n{_toml(issuer)}"
        with self.installation.config.open("a", encoding="utf-8") as file:
            file.write(text)

    def _install(self) -> None:
        made = self.installation.run_json("init")
        self.instances["default"] = str(made["instance"]["id"])
        for name in self._wanted_instances:
            self.create_instance(name)
        self.write_policy(self.default_policy())


def _toml(settings: Options) -> str:
    # JSON's texts, numbers, booleans and lists are TOML too, and a dotted name is a table.
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
