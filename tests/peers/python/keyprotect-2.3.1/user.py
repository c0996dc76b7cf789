"""One caller with the client, and how a refusal is checked."""

from typing import Any

import keyprotect
from redstone.client import KeyProtect
from stories import raised

PLAINTEXT = b"0123456789abcdef"


class Credentials:
    """What the client asks for the bearer credential of each request."""

    def __init__(self, credential) -> None:
        self._credential = credential

    def get_token(self):
        return self._credential


class User:
    """One caller with the client."""

    def __init__(self, world, role="Administrator", instance="instance", ca="ca") -> None:
        self.world = world
        self.kp = keyprotect.Client(
            credentials=Credentials(world["credentials"][role]),
            region="local",
            service_instance_id=world[instance],
            endpoint_url=world["url"],
            verify=world[ca],
        )

    def as_role(self, role):
        return User(self.world, role)

    def root_key(self, **options: Any):
        return self.kp.create(name="root key", root=True, **options)["id"]


def refused(status, code, call, target=None):
    """Check how the client reports a refusal, and return the text that it shows."""
    fault = raised(KeyProtect.KeyProtectError, call)
    response = fault.http_error.response
    resource = response.json()["resources"][0]
    reason = resource["reasons"][0]
    assert (response.status_code, reason["code"], reason["status"]) == (status, code, status)
    assert target is None or reason["target"] == target
    assert str(fault) == resource["errorMsg"]
    return str(fault)
