"""One kube-apiserver on the loopback address."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, Literal

from testbed.credentials import Credentials
from testbed.loopback import HOST, request
from testbed.processes import ChildProcess

_READY_SECONDS_MAX: Final = 120.0

Readiness = Literal["/readyz", "/livez"]
"""What a start waits for.

`/readyz` includes the health of every encryption provider: while one is down
it stays red, and a test of that very case waits for `/livez` instead.
"""


@dataclass(frozen=True, slots=True)
class ApiServerSettings:
    """What the API servers of one cluster have in common."""

    binary: Path
    directory: Path
    etcd_url: str
    credentials: Credentials
    issuer: str
    """Of service-account tokens; the URL of the cluster's first API server."""

    flags: tuple[str, ...] = ()
    """More flags of kube-apiserver."""


class ApiServer:
    """A kube-apiserver that can be stopped and started again on the same port."""

    def __init__(
        self, name: str, port: int, settings: ApiServerSettings, encryption_config: Path | None
    ) -> None:
        """Describe it without starting it.

        Args:
            name: What it is called; also the stem of its log's name.
            port: Its own port of the loopback address.
            settings: What it shares with the cluster's other API servers.
            encryption_config: An EncryptionConfiguration, which it reloads by
                itself after a change; None stores everything plain.
        """
        self.url = f"https://{HOST}:{port}"
        certificates = settings.directory / "certificates"
        self.ca = certificates / "apiserver.crt"
        """The self-signed certificate that the first API server makes, chain included."""
        self._token = settings.credentials.admin_token
        self.process = ChildProcess(
            name,
            (
                settings.binary,
                f"--etcd-servers={settings.etcd_url}",
                f"--bind-address={HOST}",
                f"--secure-port={port}",
                # Without these two it looks for an address of the machine to
                # publish, and fails on one that has no network.
                f"--advertise-address={HOST}",
                "--endpoint-reconciler-type=none",
                f"--cert-dir={certificates}",
                # Clients that watch would hold up its end for a minute otherwise.
                "--shutdown-watch-termination-grace-period=1s",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--authorization-mode=RBAC",
                f"--token-auth-file={settings.credentials.token_file}",
                f"--service-account-issuer={settings.issuer}",
                f"--service-account-key-file={settings.credentials.service_account_key}",
                f"--service-account-signing-key-file={settings.credentials.service_account_key}",
                # It would hold back every pod until a token controller has run.
                "--disable-admission-plugins=ServiceAccount",
                *_encryption_flags(encryption_config),
                *settings.flags,
            ),
            directory=settings.directory,
        )

    def start(self, *, until: Readiness = "/readyz") -> None:
        """Start it and wait until it serves.

        Args:
            until: Which of its health endpoints must be green.

        Raises:
            ProcessDiedError: It ended instead.
            DeadlineExceededError: It did not serve within 120 s.
        """
        self.process.start()
        self.process.wait_until(
            lambda: self._is_serving(until),
            what=f"{self.process.name} answers {until} with ok",
            within_seconds=_READY_SECONDS_MAX,
        )

    def stop(self) -> None:
        """Stop it; its port stays reserved for it."""
        self.process.stop()

    def restart(self, *, until: Readiness = "/readyz") -> None:
        """Stop it and start it again, which empties all its caches.

        Args:
            until: See `start`.
        """
        self.stop()
        self.start(until=until)

    def get(self, path: str) -> tuple[int, str]:
        """Read a path as the administrator.

        Args:
            path: Such as `/metrics` or `/readyz?verbose`.

        Returns:
            The status code and the body.

        Raises:
            OSError: It cannot be reached.
        """
        return self._request(path, None)

    def post(self, path: str, document: Mapping[str, object]) -> tuple[int, str]:
        """Send a document as the administrator.

        Args:
            path: Such as `/api/v1/namespaces/default/secrets`.
            document: What to create, as JSON.

        Returns:
            The status code and the body.

        Raises:
            OSError: It cannot be reached.
        """
        return self._request(path, json.dumps(document).encode())

    def _request(self, path: str, body: bytes | None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        status, answer = request(f"{self.url}{path}", body=body, headers=headers, ca=self.ca)
        return status, answer.decode()

    def _is_serving(self, until: Readiness) -> bool:
        # The namespace is made in the background after the start; what a test
        # creates right away would otherwise find no place to go. An encryption
        # provider that is down may cover namespaces as well, hence not then.
        paths = [str(until)]
        if until == "/readyz":
            paths.append("/api/v1/namespaces/default")
        try:
            return all(self.get(path)[0] == HTTPStatus.OK for path in paths)
        except OSError:
            # It does not listen yet, or its certificate is not written yet.
            return False


def _encryption_flags(encryption_config: Path | None) -> tuple[str, ...]:
    if encryption_config is None:
        return ()
    return (
        f"--encryption-provider-config={encryption_config}",
        "--encryption-provider-config-automatic-reload=true",
    )
