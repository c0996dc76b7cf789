"""One caller with the client, and how a refusal is checked."""

import io
import json
from typing import Any

from ibm_cloud_sdk_core import ApiException
from ibm_cloud_sdk_core.authenticators import BearerTokenAuthenticator
from keyprotect.ibm_key_protect_api_v2 import IbmKeyProtectApiV2
from stories import (
    KEY_TYPE,
    base64_of,
    raised,
)

PLAINTEXT = base64_of(b"0123456789abcdef")


def body(document):
    return io.BytesIO(json.dumps(document).encode("utf-8"))


def key_body(**resource: Any):
    metadata = {"collectionType": KEY_TYPE, "collectionTotal": 1}
    return body({"metadata": metadata, "resources": [{"type": KEY_TYPE, **resource}]})


class User:
    """One caller with the client, and the few lines that everybody writes around it."""

    def __init__(self, world, role="Administrator", instance="instance") -> None:
        self.world = world
        self.instance = world[instance]
        credential = world["credentials"][role]
        self.kp = IbmKeyProtectApiV2(authenticator=BearerTokenAuthenticator(credential))
        self.kp.set_service_url(world["url"])
        self.kp.set_http_config({"verify": world["ca"], "timeout": 30})

    def as_role(self, role):
        return User(self.world, role)

    def create(self, *, prefer=None, **resource: Any):
        made = self.kp.create_key(self.instance, key_body(**resource), prefer=prefer)
        assert made.get_status_code() == 201
        document = made.get_result().json()
        assert document["metadata"] == {"collectionType": KEY_TYPE, "collectionTotal": 1}
        return document["resources"][0]

    def root_key(self, **resource: Any):
        return self.create(name="root key", extractable=False, **resource)["id"]

    def act(self, action, key_id, **fields: Any):
        method = getattr(self.kp, f"{action}_key")
        sent = {f"key_action_{action}_body": body(fields)} if fields else {}
        response = method(key_id, self.instance, **sent)
        if response.get_status_code() == 204:
            return None
        return response.get_result().json()

    def get(self, key_id):
        return self.kp.get_key(key_id, self.instance).get_result().json()["resources"][0]

    def page(self, **query: Any):
        response = self.kp.get_keys(self.instance, **query)
        document = response.get_result().json()
        assert document["metadata"]["collectionTotal"] == len(document["resources"])
        return document["resources"], int(response.get_headers()["Key-Total"])


def refused(status, code, call, target=None):
    """Check how the client reports a refusal, and return what the service says of it."""
    fault = raised(ApiException, call)
    resource = fault.http_response.json()["resources"][0]
    reason = resource["reasons"][0]
    assert (fault.status_code, reason["code"], reason["status"]) == (status, code, status)
    assert reason["message"]
    assert target is None or reason["target"] == target
    assert fault.http_response.headers["Correlation-Id"]
    return resource["errorMsg"]
