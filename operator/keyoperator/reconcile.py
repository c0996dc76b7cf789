"""One way of looking at a Key for every occasion: gather, decide, act, and tell.

Created, changed, found at a start or looked at again by a timer: the same steps
run. Each of them can be repeated, and the process may be killed between any two;
what it has done is found in the core by the owner's name, never remembered here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from keycore.bootstrap import Core
from keycore.domain.ids import InstanceId
from keycore.domain.keys import Key, KeyKind, KeyState
from keycore.errors import (
    KeyDeletedError,
    KeyNotFoundError,
    KeyplaneError,
    RotationPendingError,
)
from keycore.service.caller import Caller
from keycore.service.keys import NewKey
from keycore.service.providers import ProviderOverview
from keyoperator.decide import (
    Action,
    Adopt,
    Create,
    Delete,
    Edit,
    Observed,
    Release,
    Resume,
    Rotate,
    Suspend,
    last_action,
    next_actions,
    next_rotation,
)
from keyoperator.errors import INTERNAL_ERROR, explain, find_disposition
from keyoperator.events import Event, derive_events
from keyoperator.findings import explain_blocked_deletion, explain_failure, find_conditions
from keyoperator.resource import (
    Identity,
    Manifest,
    Previous,
    SecretRef,
    Wanted,
    is_being_deleted,
    is_held,
    parse_identity,
    parse_previous,
    parse_wanted,
    render_status,
    status_changes,
)
from keyoperator.status import Finding, merge_conditions

logger = logging.getLogger(__name__)

_ROUNDS_MAX = 3
"""Made, then edited, then rotated: more rounds never bring anything new. A key that
does not keep what it is told is looked at again by the timer."""

_LOCKS = 64
"""More than there are threads, so that two Keys seldom wait for one another."""


class ClusterReader(Protocol):
    """What is read from Kubernetes; see :class:`keyoperator.cluster.Cluster`."""

    def namespace_uid(self, name: str) -> InstanceId:
        """Return the UID of a namespace."""

    def material(self, namespace: str, ref: SecretRef) -> bytes:
        """Return the key material in a Secret."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a handler has to write and to raise.

    Attributes:
        status: a merge patch of the status; empty when it says all this already.
        failure: what kept the key from being as wanted.
    """

    status: Mapping[str, object] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    failure: Exception | None = None


class Reconciler:
    """Brings keys and Key resources together. Its methods may run in several threads."""

    def __init__(self, core: Core, cluster: ClusterReader) -> None:
        """Work on the keys of ``core`` and read from ``cluster``."""
        self._core = core
        self._cluster = cluster
        # kopf runs the timer of a resource beside its other handlers. A lock for
        # each resource keeps one from deciding on what the other is changing.
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    def reconcile(self, manifest: Manifest) -> Outcome:
        """Bring a key to what its resource says, and say how it is.

        Args:
            manifest: the resource; may be a live view, it is read under the lock.
        """
        with self._lock(manifest):
            manifest = dict(manifest)
            # A timer can be late: after the resource's key was dealt with, making or
            # adopting one would leave it without anybody to delete it.
            if is_being_deleted(manifest) or not is_held(manifest):
                return Outcome()
            return self._reconcile(manifest)

    def delete(self, manifest: Manifest) -> Outcome:
        """Deal with the key of a resource that is being deleted.

        Without a failure in the outcome the resource may go.
        """
        with self._lock(manifest):
            manifest = dict(manifest)
            identity = parse_identity(manifest)
            try:
                event = self._let_go(parse_wanted(manifest))
            except Exception as error:  # noqa: BLE001 - every fault has to keep the resource
                found = _find_failure(identity, error, explain_blocked_deletion)
                return self._outcome(manifest, None, (found,), failure=error)
            return Outcome(events=() if event is None else (event,))

    def _lock(self, manifest: Manifest) -> threading.Lock:
        return self._locks[hash(parse_identity(dict(manifest)).uid) % _LOCKS]

    def _reconcile(self, manifest: Manifest) -> Outcome:
        identity, wanted = parse_identity(manifest), None
        done: list[Event] = []
        try:
            wanted = parse_wanted(manifest)
            observed = self._bring_about(wanted, parse_previous(manifest), done)
        except Exception as error:  # noqa: BLE001 - every fault has to end in the status
            found = _find_failure(identity, error, explain_failure)
            key = self._owned_key(identity)
            return self._outcome(manifest, wanted, (found,), key=key, done=done, failure=error)
        findings = find_conditions(wanted, observed, self._core.clock.now())
        return self._outcome(manifest, wanted, findings, key=observed.key, done=done)

    def _bring_about(self, wanted: Wanted, previous: Previous, done: list[Event]) -> Observed:
        for _ in range(_ROUNDS_MAX):
            observed = self._observe(wanted, previous)
            actions = next_actions(wanted, observed, self._core.clock.now())
            if not actions:
                return observed
            for action in actions:
                self._carry_out(wanted, action, observed.key)
                done.extend(_tell(wanted, previous, action))
        return self._observe(wanted, previous)

    def _observe(self, wanted: Wanted, previous: Previous) -> Observed:
        key = self._core.keys.owned_by(wanted.identity.owner)
        if key is not None:
            return Observed(key=key, users=self._users(key))
        if previous.key_id is not None:
            return Observed(former=previous.key_id)
        return Observed(adoptable=self._adoptable(wanted))

    def _users(self, key: Key) -> tuple[ProviderOverview, ...]:
        if key.kind is not KeyKind.ROOT or key.state is KeyState.DESTROYED:
            return ()
        return tuple(self._core.providers.users_of(key.id))

    def _adoptable(self, wanted: Wanted) -> Key | None:
        if wanted.adopt is None:
            return None
        instance_id = self._instance_id(wanted)
        try:
            return self._core.keys.get(_caller(wanted), wanted.adopt, within=instance_id)
        except KeyNotFoundError as error:
            # It may exist in another instance, which is not ours to tell.
            error.message += f" in instance {instance_id} of this namespace"
            error.hint = (
                "correct spec.adopt in a new Key, or have an administrator bind the namespace to "
                "the key's instance: keyplane instance bind <instance id> --namespace "
                f"{wanted.identity.namespace}"
            )
            raise

    def _instance_id(self, wanted: Wanted) -> InstanceId:
        namespace = wanted.identity.namespace
        uid = self._cluster.namespace_uid(namespace)
        return self._core.instances.of_namespace(_caller(wanted), namespace, uid).id

    def _carry_out(self, wanted: Wanted, action: Action, key: Key | None) -> None:
        caller, keys = _caller(wanted), self._core.keys
        match action:
            case Create():
                keys.create(caller, self._instance_id(wanted), self._new_key(wanted))
            case Adopt(key_id):
                keys.adopt(
                    caller,
                    key_id,
                    wanted.identity.owner,
                    within=self._instance_id(wanted),
                    rotation_marker=wanted.rotation_trigger,
                )
            case _ if key is not None:
                self._change(wanted, action, key)

    def _change(self, wanted: Wanted, action: Action, key: Key) -> None:
        caller, keys, within = _caller(wanted), self._core.keys, key.instance_id
        match action:
            case Edit(edits):
                keys.edit(caller, key.id, edits, within=within)
            case Resume():
                keys.resume(caller, key.id, within=within)
            case Suspend():
                keys.suspend(caller, key.id, within=within)
            case Rotate(marker):
                material = self._material(wanted)
                # Somebody else was faster. The next look finds it pending and waits.
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

    def _let_go(self, wanted: Wanted) -> Event | None:
        caller = _caller(wanted)
        key = self._core.keys.owned_by(wanted.identity.owner)
        match last_action(wanted, key):
            case Release(key_id):
                self._core.keys.release(caller, key_id)
                message = f"Key {key_id} is kept, and no resource manages it any more"
                return Event("Normal", "Released", message)
            case Delete(key_id):
                # Another face may have been faster.
                with suppress(KeyDeletedError):
                    self._core.keys.delete(caller, key_id)
                return Event("Normal", "Deleted", f"Key {key_id} was destroyed")
            case None:
                return None

    def _owned_key(self, identity: Identity) -> Key | None:
        """Return the key for a status that is about a failure; without one if need be."""
        try:
            return self._core.keys.owned_by(identity.owner)
        except KeyplaneError:
            return None

    def _outcome(
        self,
        manifest: Manifest,
        wanted: Wanted | None,
        findings: tuple[Finding, ...],
        *,
        key: Key | None = None,
        done: list[Event] | None = None,
        failure: Exception | None = None,
    ) -> Outcome:
        identity, previous = parse_identity(manifest), parse_previous(manifest)
        now = self._core.clock.now()
        conditions = merge_conditions(previous.conditions, findings, identity.generation, now)
        due = next_rotation(wanted, key) if wanted is not None and key is not None else None
        status = render_status(identity, conditions, key=key, next_rotation=due)
        derived = derive_events(previous, key, conditions, adopts=bool(wanted and wanted.adopt))
        events = (*(done or ()), *derived)
        return Outcome(status_changes(manifest, status), events, failure)


def _caller(wanted: Wanted) -> Caller:
    return Caller("operator", str(wanted.identity))


def _tell(wanted: Wanted, previous: Previous, action: Action) -> list[Event]:
    """Return the event of an action that the status does not show by itself."""
    drifted = previous.observed_generation == wanted.identity.generation
    match action:
        case Edit():
            fields = action.fields
        case (Resume() | Suspend()) if drifted:
            fields = "spec.state"
        case _:
            return []
    if drifted:
        message = f"The key was changed elsewhere; set back to what the resource says: {fields}"
        return [Event("Normal", "DriftCorrected", message)]
    return [Event("Normal", "Updated", f"The key was changed to follow {fields}")]


def _find_failure(
    identity: Identity, error: Exception, finding: Callable[[str, str], Finding]
) -> Finding:
    reason = find_disposition(error).reason
    if reason == INTERNAL_ERROR:
        logger.error("%s: unexpected fault", identity, exc_info=error)
    return finding(reason, explain(error))
