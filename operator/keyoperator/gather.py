"""Gathers what decisions about a Key rest on: its key, and who uses that."""

from __future__ import annotations

from typing import Protocol

from keycore.bootstrap import Core
from keycore.domain.ids import InstanceId, KeyId
from keycore.domain.keys import Key, KeyKind, KeyState
from keycore.errors import KeyNotFoundError
from keycore.service.caller import Caller
from keycore.service.providers import ProviderOverview
from keyoperator.decide import Observed
from keyoperator.wanted import Identity, Previous, SecretRef, Wanted


class ClusterReader(Protocol):
    """What is read from Kubernetes; see :class:`keyoperator.cluster.Cluster` for the errors."""

    def namespace_uid(self, name: str) -> InstanceId:
        """Return the UID of a namespace."""

    def material(self, namespace: str, ref: SecretRef) -> bytes:
        """Return the key material in a Secret."""


class Gatherer:
    """Looks at the core on behalf of one resource at a time."""

    def __init__(self, core: Core, cluster: ClusterReader) -> None:
        """Look at ``core``, and at ``cluster`` for the instances of namespaces."""
        self._core = core
        self._cluster = cluster

    def observe(self, wanted: Wanted, previous: Previous) -> Observed:
        """Return what there is.

        Raises:
            KeyNotFoundError: ``spec.adopt`` names no key of the namespace's instance.
            ClusterError: the namespace could not be read, where that is needed.
            IntegrityError: a record was changed.
            UnavailableError: token or store did not answer.
        """
        key = self._core.keys.owned_by(wanted.identity.owner)
        if key is not None:
            return Observed(key=key, users=self._users(key))
        if previous.key_id is not None:
            return Observed(former=previous.key_id)
        if wanted.adopt is not None:
            return Observed(adoptable=self._adoptable(wanted.identity, wanted.adopt))
        return Observed()

    def instance_id(self, identity: Identity) -> InstanceId:
        """Return the instance of the resource's namespace, made at first sight.

        Raises:
            ClusterError: the namespace could not be read.
            IntegrityError: a record was changed.
            UnavailableError: token or store did not answer.
        """
        uid = self._cluster.namespace_uid(identity.namespace)
        instances = self._core.instances
        return instances.of_namespace(caller_for(identity), identity.namespace, uid).id

    def _users(self, key: Key) -> tuple[ProviderOverview, ...]:
        if key.kind is not KeyKind.ROOT or key.state is KeyState.DESTROYED:
            return ()
        return tuple(self._core.providers.users_of(key.id))

    def _adoptable(self, identity: Identity, key_id: KeyId) -> Key:
        instance_id = self.instance_id(identity)
        try:
            return self._core.keys.get(caller_for(identity), key_id, within=instance_id)
        except KeyNotFoundError as error:
            # Whether another instance has it is not for this namespace to know.
            error.message += f" in instance {instance_id}, which namespace {identity.namespace} has"
            error.hint = (
                "correct spec.adopt in a new Key, or have an administrator bind the namespace to "
                "the key's instance: keyplane instance bind <instance id> --namespace "
                f"{identity.namespace}"
            )
            raise


def caller_for(identity: Identity) -> Caller:
    """Return who asks the core for something, for its audit lines."""
    return Caller("operator", str(identity))
