"""One host of a site on PostgreSQL: a state directory, and the faces that work with it."""

from __future__ import annotations

import ssl
from http import HTTPStatus
from pathlib import Path

import httpx

from testbed.credentials import write_private
from testbed.issuer import AUDIENCE, Issuer
from testbed.keyplane import Database, KeyplaneInstallation
from testbed.kms_client import KmsLoad
from testbed.loopback import HOST, free_port, request
from testbed.unprivileged import children_of
from testbed.waiting import wait_until
from tests.scraping import Scraped

START_SECONDS_MAX = 30.0

DEADLINE_SECONDS = 2
"""What the store gets for an answer."""

REQUEST_SECONDS_MAX = 30.0
"""A request that takes longer hangs."""

_ISSUER = "testbed"
_GROUP = "callers"

# The first line goes on in the last table that is there, the store's.
_CONFIGURATION = """\
deadline = "PT{deadline}S"

[rest]
port = {port}
workers = {workers}
policy_file = "{policy}"
health_address = "{health}"

[[rest.issuers]]
name = "{name}"
url = "{issuer.url}"
audience = "{audience}"
ca_file = "{issuer.ca_file}"
"""

_POLICY = """\
[[bindings]]
role = "Administrator"
instances = ["{instance}"]
members = [{{ issuer = "{name}", group = "{group}" }}]
"""


class Host:
    """A provider and REST, and a load on the provider.

    Attributes:
        name: The directory's.
        keyplane: Its installation.
        provider: The provider's process.
        rest: The process that started the workers.
        kms: The load on the provider; not started.
    """

    def __init__(
        self, directory: Path, kubeconfig: Path, *, database: Database, issuer: Issuer, workers: int
    ) -> None:
        """Write the configuration, without making or starting anything.

        Args:
            directory: For everything; a short path, as a socket lies in it.
            kubeconfig: For an operator, if one is started here.
            database: Where records live.
            issuer: Names the callers.
            workers: How many processes serve REST.
        """
        directory.mkdir()
        self.name = directory.name
        self.keyplane = KeyplaneInstallation(directory, kubeconfig, node=self.name, store=database)
        self.provider = self.keyplane.face("provider")
        self.rest = self.keyplane.face("rest")
        self.kms = KmsLoad(
            self.keyplane.socket,
            directory=directory,
            concurrency=2,
            # An API server encrypts a few times a day; this is within the 128 uses that a
            # provider has in hand at the least while it waits for a store that says nothing.
            pause_seconds=0.1,
            status_every_seconds=0.2,
        )
        self._workers = workers
        self._policy = directory / "policy.toml"
        self._issuer = issuer
        self._port = free_port()
        with self.keyplane.config.open("a", encoding="utf-8") as config:
            config.write(
                _CONFIGURATION.format(
                    deadline=DEADLINE_SECONDS,
                    port=self._port,
                    workers=workers,
                    policy=self._policy,
                    health=self.keyplane.rest_health.removeprefix("http://"),
                    name=_ISSUER,
                    issuer=issuer,
                    audience=AUDIENCE,
                )
            )

    def let_callers_into(self, instance: str) -> None:
        """Write the policy."""
        policy = _POLICY.format(instance=instance, name=_ISSUER, group=_GROUP)
        write_private(self._policy, policy.encode())

    def await_provider(self) -> None:
        """Wait until the provider listens."""
        wait_until(
            self.keyplane.socket.is_socket,
            what=f"the socket of host {self.name}",
            within_seconds=START_SECONDS_MAX,
            watch=(self.provider,),
        )

    def await_rest(self) -> None:
        """Wait until every worker serves."""
        wait_until(
            lambda: self.rest.log.read_text().count("serving REST ") >= self._workers,
            what=f"REST of host {self.name}",
            within_seconds=START_SECONDS_MAX,
            watch=(self.rest,),
        )
        wait_until(self._is_ready, what="it is ready", within_seconds=START_SECONDS_MAX)

    def _is_ready(self) -> bool:
        url = f"https://{HOST}:{self._port}/readyz"
        return request(url, ca=self.keyplane.rest_ca)[0] == HTTPStatus.OK

    def client(self, instance: str) -> httpx.Client:
        """Make an HTTP client of REST here."""
        credential = self._issuer.credential("caller", groups=[_GROUP])
        return httpx.Client(
            base_url=f"https://{HOST}:{self._port}/kms",
            headers={"icp-instance": instance, "authorization": f"Bearer {credential}"},
            verify=ssl.create_default_context(cafile=self.keyplane.rest_ca),
            timeout=REQUEST_SECONDS_MAX,
            # Proxies and authorities of the environment are for other servers.
            trust_env=False,
        )

    def key_id_hash(self) -> str:
        """Tell which key_id the provider reports, by its hash."""
        scraped = Scraped(request(self.keyplane.health + "/metrics")[1])
        (shown,) = scraped.label_values("keyplane_kms_key_id_info", "key_id_hash")
        return shown

    def processes(self) -> dict[str, list[int]]:
        """Tell the process ids of each face, workers included."""
        provider, rest = self.provider.process_id, self.rest.process_id
        assert provider
        assert rest
        return {
            f"provider of {self.name}": [provider],
            f"REST of {self.name}": [rest, *sorted(children_of(rest))],
        }
