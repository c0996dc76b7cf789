"""Somebody who makes Key resources all the time, and asks for a rotation of each."""

from __future__ import annotations

import threading
from typing import Any

from kubernetes import client

from testbed.cluster import Cluster
from testbed.startable import Startable
from tests.e2e.operator_world import NAMESPACE, key_manifest

PAUSE_SECONDS = 1.0

Resource = dict[str, Any]

_KEYS = ("kms.keyplane.dev", "v1", NAMESPACE, "keys")


class KeyApplier(Startable):
    """Makes one after another; a rotation is asked for once, as soon as the Key is ready.

    Attributes:
        turned: names of those whose rotation was asked for.
    """

    def __init__(self, cluster: Cluster) -> None:
        """Prepare it; the cluster need not run yet."""
        self.turned: list[str] = []
        self._cluster = cluster
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="key-applier")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what was applied stays."""
        self._stopping.set()
        self._thread.join()

    def resources(self) -> list[Resource]:
        """Return all Keys."""
        with self._cluster.client() as api:
            return _listed(client.CustomObjectsApi(api))

    def is_served(self) -> bool:
        """Tell whether the operator has done all that was asked for."""
        return all(self._is_as_wanted(resource) for resource in self.resources())

    def _is_as_wanted(self, resource: Resource) -> bool:
        metadata, status = resource["metadata"], resource.get("status", {})
        versions = 2 if metadata["name"] in self.turned else 1
        return (
            is_ready(resource)
            and status["observedGeneration"] == metadata["generation"]
            and status["currentVersion"] >= versions
        )

    def _run(self) -> None:
        with self._cluster.client() as api:
            keys = client.CustomObjectsApi(api)
            number = 0
            while not self._stopping.wait(PAUSE_SECONDS):
                keys.create_namespaced_custom_object(*_KEYS, key_manifest(f"applied-{number}"))
                number += 1
                self._turn_one(keys)

    def _turn_one(self, keys: client.CustomObjectsApi) -> None:
        ready = [resource["metadata"]["name"] for resource in _listed(keys) if is_ready(resource)]
        waiting = [name for name in ready if name not in self.turned]
        if waiting:
            patch = {"spec": {"rotation": {"trigger": "once"}}}
            keys.patch_namespaced_custom_object(*_KEYS, waiting[0], patch)
            self.turned.append(waiting[0])


def is_ready(resource: Resource) -> bool:
    """Tell whether a Key has the condition Ready."""
    conditions = resource.get("status", {}).get("conditions", [])
    return ("Ready", "True") in {(each["type"], each["status"]) for each in conditions}


def _listed(keys: client.CustomObjectsApi) -> list[Resource]:
    listed: Any = keys.list_namespaced_custom_object(*_KEYS)
    found: list[Resource] = listed["items"]
    return found
