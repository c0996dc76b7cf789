"""A certified OpenID Connect provider as a process: npm's ``oidc-provider`` over HTTPS."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from keycore.settings import IssuerSettings
from testbed.authority import Authority
from testbed.loopback import HOST, free_port, request
from testbed.npm import install, node_program
from testbed.processes import ChildProcess
from testbed.startable import Startable

AUDIENCE = "keyplane"

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA", "Ed25519")

PEER = Path(__file__).parents[2] / "peers" / "oidc"
"""Its program and the packages that it needs."""

_SECRET = "worth-nothing-elsewhere"
_START_SECONDS_MAX = 30


def signing_keys(generation: str) -> list[Key]:
    """Return one private key of each type, with ids that name the generation."""

    def named(kind: str) -> dict[str, Any]:
        return {"kid": f"{kind}-{generation}", "use": "sig"}

    return [
        RSAKey.generate_key(2048, named("rsa")),
        ECKey.generate_key("P-256", named("ec")),
        OKPKey.generate_key("Ed25519", named("ed")),
    ]


class OidcProvider(Startable):
    """Runs while entered; has one client for each algorithm, named like it."""

    def __init__(self, directory: Path, *, hosts: Sequence[str] = (HOST,)) -> None:
        """Prepare a provider in an empty directory.

        Args:
            directory: For its files and its log, away from the output of the tests.
            hosts: What its certificate is for.
        """
        authority = Authority(directory, "tests' authority")
        pair = authority.server("provider", hosts)
        self.ca_file = authority.certificate_file
        self.port = free_port()
        self.clients: dict[str, dict[str, Any]] = {
            algorithm: {
                "secret": _SECRET,
                "algorithm": algorithm,
                "audience": AUDIENCE,
                "seconds": 600,
                "claims": {"groups": ["ops"]},
            }
            for algorithm in ALGORITHMS
        }
        self.keys = signing_keys("1")
        self._files = {"certificate": str(pair.certificate), "key": str(pair.key)}
        self._configuration = directory / "configuration.json"
        self._ready = directory / "ready"
        program = install(PEER) / "server.js"
        self._process = ChildProcess(
            "oidc-provider",
            (node_program(), program, self._configuration, self._ready),
            directory=directory,
        )

    @property
    def url(self) -> str:
        """Its issuer identifier."""
        return f"https://{HOST}:{self.port}"

    def settings(self, name: str = "idp", **changed: Any) -> IssuerSettings:
        """Return what an administrator writes to trust it."""
        return IssuerSettings(
            **{
                "name": name,
                "url": self.url,
                "audience": AUDIENCE,
                "ca_file": self.ca_file,
                **changed,
            }
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._ready.unlink(missing_ok=True)
        self._write_configuration()
        self._process.start()
        self._wait_for("0")

    def stop(self) -> None:
        self._process.stop()

    def publish(self, keys: Sequence[Key]) -> None:
        """Make it publish these keys from now on, and sign by the first that fits."""
        generation = str(int(self._ready.read_text()) + 1)
        self.keys = list(keys)
        self._write_configuration()
        process_id = self._process.process_id
        assert process_id is not None
        os.kill(process_id, signal.SIGHUP)
        self._wait_for(generation)

    def credential(self, client: str) -> str:
        """Let a client ask for an access token, and return the Authorization header."""
        password = base64.b64encode(f"{client}:{_SECRET}".encode()).decode()
        status, body = request(
            f"{self.url}/token",
            body=b"grant_type=client_credentials",
            headers={
                "Authorization": f"Basic {password}",
                "Content-Type": "application/x-www-form-urlencoded",
            },
            ca=self.ca_file,
        )
        assert status == 200, body
        return f"Bearer {json.loads(body)['access_token']}"

    def _write_configuration(self) -> None:
        keys = [key.as_dict(private=True) for key in self.keys]
        configuration = {"port": self.port, "clients": self.clients, "keys": keys, **self._files}
        self._configuration.write_text(json.dumps(configuration), encoding="utf-8")

    def _wait_for(self, generation: str) -> None:
        self._process.wait_until(
            lambda: self._ready.exists() and self._ready.read_text() == generation,
            what="the OpenID Connect provider answers",
            within_seconds=_START_SECONDS_MAX,
        )
