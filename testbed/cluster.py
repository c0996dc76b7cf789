"""A whole control plane: etcd, API servers and the controllers that tests need.

There are no nodes and no pods: what is here is exactly what stores, encrypts,
migrates and collects objects.
"""

import os
import subprocess
from pathlib import Path
from typing import Final

from kubernetes import client

from testbed.apiserver import ApiServer, ApiServerSettings, Readiness
from testbed.binaries import Binaries
from testbed.controllermanager import ControllerManager
from testbed.credentials import make_credentials, write_kubeconfig
from testbed.errors import CommandFailedError
from testbed.etcd import Etcd
from testbed.loopback import HOST, free_port, require_loopback
from testbed.startable import Startable

_KUBECTL_SECONDS_MAX: Final = 120.0


class Cluster(Startable):
    """A control plane that lives in one directory, on loopback addresses only.

    It starts at the beginning of a `with` block and stops at its end. Stopped,
    it can be started again with the same data and the same addresses. It
    cannot outlive this process, even if that is killed.
    """

    def __init__(
        self,
        directory: Path,
        binaries: Binaries,
        *,
        encryption_config: Path | None = None,
        controller_manager: bool = True,
        apiserver_flags: tuple[str, ...] = (),
    ) -> None:
        """Choose addresses and make secrets, without starting anything.

        Args:
            directory: For data, secrets and logs; made when missing.
            binaries: What to run.
            encryption_config: An EncryptionConfiguration for the API server,
                which reloads it after a change; None stores everything plain.
            controller_manager: Whether kube-controller-manager runs as well.
            apiserver_flags: More flags of every API server.
        """
        self.directory = directory.absolute()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.kubeconfig = self.directory / "kubeconfig"
        """For any client, with the authority embedded; mode 0600."""
        self._binaries = binaries
        self._credentials = make_credentials(self.directory)
        self._etcd = Etcd(self.directory, binaries.etcd)
        port = free_port()
        self._settings = ApiServerSettings(
            binary=binaries.kube_apiserver,
            directory=self.directory,
            etcd_url=self._etcd.url,
            credentials=self._credentials,
            issuer=f"https://{HOST}:{port}",
            flags=apiserver_flags,
        )
        self.apiservers = [ApiServer("kube-apiserver", port, self._settings, encryption_config)]
        """The first one is the one that kubeconfig, kubectl and client talk to."""
        self.controller_manager = (
            ControllerManager(self.directory, binaries.kube_controller_manager, self.kubeconfig)
            if controller_manager
            else None
        )
        """None when the cluster has none."""

    @property
    def server(self) -> str:
        """The URL of the first API server."""
        return self.apiservers[0].url

    @property
    def etcd_url(self) -> str:
        """The client URL of etcd on the loopback address."""
        return self._etcd.url

    def start(self, *, until: Readiness = "/readyz") -> None:
        """Start everything and wait until it serves; after a failure nothing runs.

        Args:
            until: What the API servers are waited for; `/livez` for a start
                with an encryption provider that is down.

        Raises:
            ProcessDiedError: A part ended; the message quotes its log.
            DeadlineExceededError: A part was not ready in time.
        """
        try:
            self._etcd.start()
            for apiserver in self.apiservers:
                apiserver.start(until=until)
            write_kubeconfig(
                self.kubeconfig,
                server=require_loopback(self.server),
                ca=self.apiservers[0].ca,
                token=self._credentials.admin_token,
            )
            if self.controller_manager:
                self.controller_manager.start()
        except BaseException:
            # Also after Ctrl-C: the caller never got a cluster that it could stop.
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything that runs, clients before servers; the data stay."""
        if self.controller_manager:
            self.controller_manager.stop()
        for apiserver in reversed(self.apiservers):
            apiserver.stop()
        self._etcd.stop()

    def restart_apiserver(self, *, until: Readiness = "/readyz") -> None:
        """Restart the first API server, which empties all its caches.

        Args:
            until: See `start`.
        """
        self.apiservers[0].restart(until=until)

    def add_apiserver(
        self, *, encryption_config: Path | None = None, until: Readiness = "/readyz"
    ) -> ApiServer:
        """Start one more API server on the same etcd, as on a second node.

        Args:
            encryption_config: Its own EncryptionConfiguration.
            until: See `start`.

        Returns:
            The API server, which stops with the cluster.
        """
        name = f"kube-apiserver-{len(self.apiservers) + 1}"
        apiserver = ApiServer(name, free_port(), self._settings, encryption_config)
        self.apiservers.append(apiserver)
        apiserver.start(until=until)
        return apiserver

    def etcd_get(self, prefix: str) -> dict[str, bytes]:
        """Read raw values from etcd, as a thief of its disk would see them.

        Args:
            prefix: Such as `/registry/secrets/default/`.

        Returns:
            Values by key; empty when there are none.
        """
        return self._etcd.get(prefix)

    def kubectl(self, *arguments: str, input: str | None = None) -> str:  # noqa: A002
        """Run kubectl against this cluster as the administrator.

        Args:
            arguments: As on the command line, without the program's name.
            input: What it reads from standard input, named as in subprocess;
                None gives it none.

        Returns:
            What it wrote to standard output.

        Raises:
            CommandFailedError: It failed; the message is what it wrote to
                standard error.
        """
        command = (
            str(self._binaries.kubectl),
            f"--kubeconfig={self.kubeconfig}",
            f"--cache-dir={self.directory / 'kubectl-cache'}",
            *arguments,
        )
        done = subprocess.run(
            command,
            input=input or "",
            # A test must not depend on what is configured on this machine.
            env=os.environ | {"KUBECONFIG": str(self.kubeconfig), "KUBERC": "off"},
            capture_output=True,
            text=True,
            timeout=_KUBECTL_SECONDS_MAX,
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailedError(f"kubectl {' '.join(arguments[:3])}: {done.stderr.strip()}")
        return done.stdout

    def client(self) -> client.ApiClient:
        """Make a Python client with the administrator's rights.

        The authority is named explicitly and proxies are switched off, so that
        no environment variable can lead it elsewhere.

        Returns:
            A client for the first API server; the caller closes it.
        """
        configuration = client.Configuration(
            host=require_loopback(self.server),
            api_key={"authorization": f"Bearer {self._credentials.admin_token}"},
            ssl_ca_cert=str(self.apiservers[0].ca),
        )
        configuration.proxy = None
        return client.ApiClient(configuration)
