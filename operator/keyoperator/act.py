"""Carries out what was decided about a key. Every action can be repeated safely."""

from __future__ import annotations

from contextlib import suppress

from keycore.bootstrap import Core
from keycore.domain.keys import Key
from keycore.errors import KeyDeletedError, RotationPendingError
from keycore.service.creation import NewKey
from keyoperator.decide import (
    Action,
    Adopt,
    Create,
    Delete,
    Edit,
    Release,
    Resume,
    Rotate,
    Suspend,
)
from keyoperator.gather import ClusterReader, Gatherer, caller_for
from keyoperator.wanted import Wanted


class Actor:
    """Changes keys on behalf of one resource at a time."""

    def __init__(self, core: Core, cluster: ClusterReader, gatherer: Gatherer) -> None:
        """Change the keys of ``core``, with key material from ``cluster``."""
        self._keys = core.keys
        self._cluster = cluster
        self._gatherer = gatherer

    def carry_out(self, wanted: Wanted, action: Action, key: Key | None) -> None:
        """Do one thing.

        Args:
            wanted: the resource.
            action: what to do.
            key: the resource's key; ``None`` when the action is to get one.

        Raises:
            ClusterError: namespace or Secret could not be read, where that is needed.
            InvalidRequestError: the core does not take a value of the resource.
            KeyNotFoundError, ConflictError: the key is not what was seen any more, or
                its state forbids the action.
            IntegrityError: a record was changed.
            UnavailableError: token or store did not answer.
        """
        if key is None:
            self._get_key(wanted, action)
        else:
            self._change_key(wanted, action, key)

    def let_go(self, wanted: Wanted, action: Release | Delete) -> None:
        """End the resource's hold on its key.

        Raises:
            KeyInUseError: a KMS provider needs the key that is to be deleted.
            KeyNotFoundError: the store does not know the key any more.
            IntegrityError: a record was changed.
            UnavailableError: token or store did not answer.
        """
        caller = caller_for(wanted.identity)
        match action:
            case Release(key_id):
                self._keys.release(caller, key_id)
            case Delete(key_id):
                # Another face was faster.
                with suppress(KeyDeletedError):
                    self._keys.delete(caller, key_id)

    def _get_key(self, wanted: Wanted, action: Action) -> None:
        caller, identity = caller_for(wanted.identity), wanted.identity
        match action:
            case Create():
                instance_id = self._gatherer.instance_id(identity)
                self._keys.create(caller, instance_id, self._new_key(wanted))
            case Adopt(key_id):
                self._keys.adopt(
                    caller,
                    key_id,
                    identity.owner,
                    within=self._gatherer.instance_id(identity),
                    rotation_marker=wanted.rotation_trigger,
                )

    def _change_key(self, wanted: Wanted, action: Action, key: Key) -> None:
        caller, keys, within = caller_for(wanted.identity), self._keys, key.instance_id
        match action:
            case Edit(edits):
                keys.edit(caller, key.id, edits, within=within)
            case Resume():
                keys.resume(caller, key.id, within=within)
            case Suspend():
                keys.suspend(caller, key.id, within=within)
            case Rotate(marker):
                material = self._material(wanted)
                # Another face was faster; the next look finds its rotation and waits.
                with suppress(RotationPendingError):
                    keys.rotate(caller, key.id, within=within, material=material, marker=marker)

    def _new_key(self, wanted: Wanted) -> NewKey:
        return NewKey(
            name=wanted.display_name or wanted.identity.name,
            kind=wanted.kind,
            description=wanted.description,
            expires_at=wanted.expires_at,
            material=self._material(wanted),
            owner=wanted.identity.owner,
            rotation_marker=wanted.rotation_trigger,
        )

    def _material(self, wanted: Wanted) -> bytes | None:
        if wanted.material is None:
            return None
        return self._cluster.material(wanted.identity.namespace, wanted.material)
