"""The REST face on a core of fakes, with callers of every role in two instances."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from keycore.bootstrap import Core
from keycore.domain.ids import InstanceId, KeyId
from keycore.domain.keys import Key
from keycore.ports import AuditEvent
from keycore.service.creation import NewKey
from keycore.settings import Settings
from keyrest.app import rest_app
from tests.fakes.callers import NamedCallers, WrittenPolicy
from tests.fakes.installation import CALLER, FakeInstallation, fake_installation
from tests.fakes.memory_audit import MemoryAuditLog

PREFIX = "/kms/api/v2"

KEY_TYPE = "application/vnd.ibm.kms.key+json"

ROLES = ("ClusterAdministrator", "Administrator", "Editor", "Viewer")


def b64(data: bytes) -> str:
    """Return base64 as it stands in bodies."""
    return base64.b64encode(data).decode()


@dataclass
class RestSite:
    """Sends requests as somebody, into one of two instances.

    Each role is a caller of that name in the first instance, ``other-<role>`` in the
    second; ``Nobody`` is known and may do nothing.
    """

    core: Core
    instance: InstanceId
    other_instance: InstanceId
    audit: MemoryAuditLog
    callers: NamedCallers
    policy: WrittenPolicy
    app: Any
    runner: asyncio.Runner

    def send(
        self,
        method: str,
        path: str,
        *,
        caller: str | None = "Administrator",
        instance: str | None = "",
        headers: Mapping[str, str] | None = None,
        **parts: Any,
    ) -> httpx.Response:
        """Send one request; ``path`` begins after the prefix unless it names its own.

        Args:
            method: any.
            path: such as ``/keys``.
            caller: whose credential goes with it; ``None`` for no credential.
            instance: what ``Bluemix-Instance`` says; empty for the first instance,
                ``None`` for no header.
            headers: further ones.
            parts: what httpx takes, such as ``json``, ``content`` and ``params``.
        """
        sent = list((headers or {}).items())
        if caller is not None:
            sent.append(("authorization", f"Bearer {caller}"))
        if instance is not None:
            sent.append(("bluemix-instance", instance or self.instance))
        url = path if path.startswith(("/kms", "/api", "/livez", "/readyz")) else PREFIX + path
        return self.runner.run(self._send(method, url, headers=sent, **parts))

    async def _send(self, method: str, url: str, **parts: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://kms") as client:
            # Without what httpx adds by itself, so that absent headers are absent.
            client.headers.clear()
            return await client.request(method, url, **parts)

    def act(self, action: str, key: str, body: Any = None, **parts: Any) -> httpx.Response:
        """Perform an action; ``None`` sends no body."""
        sent = {} if body is None else {"json": body}
        return self.send("POST", f"/keys/{key}/actions/{action}", **sent, **parts)

    def root_key(self, name: str = "root key", **wanted: Any) -> Key:
        """Make a root key, not over REST."""
        instance = wanted.pop("instance", self.instance)
        return self.core.keys.create(CALLER, instance, NewKey(name, **wanted))

    def wrapped(self, key: KeyId, aad: list[str] | None = None, **parts: Any) -> str:
        """Return a ciphertext of the bytes ``data key``."""
        body = {"plaintext": b64(b"data key"), "aad": aad or []}
        return str(self.act("wrap", key, body, **parts).json()["ciphertext"])

    def audited(self) -> list[AuditEvent]:
        """Return and clear the audit lines so far."""
        events = list(self.audit.events)
        self.audit.events.clear()
        return events


@dataclass
class FakeSite(RestSite):
    """A site whose store, token and clock can be pulled at."""

    here: FakeInstallation

    def rotate_later(self, key_id: KeyId) -> None:
        """Rotate a key an hour later."""
        self.here.clock.advance(hours=1)
        assert self.act("rotate", key_id).status_code == 204


@contextmanager
def rest_site(*, settings: Settings | None = None, **app_parts: Any) -> Iterator[FakeSite]:
    """Open a site on fresh fakes."""
    here = fake_installation()
    core = here.core if settings is None else replace(here.core, settings=settings)
    with open_site(core, here.instance.id, here.audit, **app_parts) as site:
        yield FakeSite(**vars(site), here=here)


@contextmanager
def open_site(
    core: Core, instance: InstanceId, audit: MemoryAuditLog, **app_parts: Any
) -> Iterator[RestSite]:
    """Open a site on any core that writes its audit lines to ``audit``."""
    other = core.instances.create(CALLER, "other").id
    callers, policy = NamedCallers({"Nobody"}), WrittenPolicy()
    bindings: list[dict[str, Any]] = []
    for role in ROLES:
        for name, place in ((role, instance), (f"other-{role}", other)):
            callers.names.add(name)
            where = {} if role == "ClusterAdministrator" else {"instances": [place]}
            bindings.append({"role": role, "members": [name], **where})
    policy.write(bindings)
    audit.events.clear()
    with asyncio.Runner() as runner:
        app = rest_app(core, callers, policy, **app_parts)
        yield RestSite(core, instance, other, audit, callers, policy, app, runner)


def new_key(**resource: Any) -> dict[str, Any]:
    """Return the body of create, as every client sends it."""
    return {
        "metadata": {"collectionType": KEY_TYPE, "collectionTotal": 1},
        "resources": [{"type": KEY_TYPE, "name": "a key", **resource}],
    }


def reason(response: httpx.Response) -> dict[str, Any]:
    """Return the only reason of an error, after checking its one shape."""
    document = response.json()
    assert response.headers["content-type"] == "application/vnd.ibm.kms.error+json"
    assert document["metadata"] == {
        "collectionType": "application/vnd.ibm.kms.error+json",
        "collectionTotal": 1,
    }
    [resource] = document["resources"]
    [only] = resource["reasons"]
    assert isinstance(resource["errorMsg"], str)
    assert only["status"] == response.status_code
    found: dict[str, Any] = {**only, "errorMsg": resource["errorMsg"]}
    return found
