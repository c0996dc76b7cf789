"""What to do about a key, and what to say about it: pure functions of what was seen.

:mod:`keyoperator.reconcile` gathers, asks :func:`next_actions`, carries them
out, looks again, and ends with :func:`find_conditions`. Nothing here reads a
clock, a store or the cluster, so every rule is one line of a test table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from keycore.domain.ids import KeyId
from keycore.domain.keys import Key, KeyKind, KeyState
from keycore.service.keys import Edits
from keycore.service.providers import ProviderOverview
from keyoperator.resource import Wanted, describe_kind, render_time
from keyoperator.status import ConditionType, Finding


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of a Key's key at one moment.

    Attributes:
        key: the key that the resource owns, a tombstone too; ``None`` for none.
        former: the key that the status names, although the resource owns none.
        adoptable: the key that ``spec.adopt`` names, while the resource owns none.
        users: the KMS providers that need the key.
    """

    key: Key | None = None
    former: KeyId | None = None
    adoptable: Key | None = None
    users: tuple[ProviderOverview, ...] = ()


@dataclass(frozen=True, slots=True)
class Create:
    """Make the key; the trigger of the moment counts as carried out."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """Take over an existing key; the trigger of the moment counts as carried out."""

    key_id: KeyId


@dataclass(frozen=True, slots=True)
class Edit:
    """Set properties to what the resource says."""

    edits: Edits

    @property
    def fields(self) -> str:
        """The fields of the resource that the key did not follow, for an event."""
        values = (
            ("displayName", self.edits.name),
            ("description", self.edits.description),
            ("expirationDate", self.edits.expires_at),
        )
        return ", ".join(f"spec.{field}" for field, value in values if value is not None)


@dataclass(frozen=True, slots=True)
class Resume:
    """Make the key active again."""


@dataclass(frozen=True, slots=True)
class Rotate:
    """Make a new version; ``marker`` is the trigger that asked for it, ``None`` for the age."""

    marker: str | None


@dataclass(frozen=True, slots=True)
class Suspend:
    """Make the key refuse everything."""


Action = Create | Adopt | Edit | Resume | Rotate | Suspend


@dataclass(frozen=True, slots=True)
class Release:
    """End the management of the key and keep it."""

    key_id: KeyId


@dataclass(frozen=True, slots=True)
class Delete:
    """Destroy the key's material for ever."""

    key_id: KeyId


def next_actions(wanted: Wanted, observed: Observed, now: datetime) -> tuple[Action, ...]:
    """Return what brings the key closer to what is wanted, in order; empty when nothing does.

    A key that was deleted or taken away from the resource is never made again:
    whatever it has encrypted would stay lost, and nobody would notice.
    """
    if observed.key is None:
        return _first_actions(wanted, observed)
    if observed.key.state is KeyState.DESTROYED:
        return ()
    key = observed.key
    candidates = (
        _edit(wanted, key),
        Resume() if wanted.suspended is False and key.state is KeyState.SUSPENDED else None,
        _rotation(wanted, observed, key, now),
        Suspend() if wanted.suspended and key.state is KeyState.ACTIVE else None,
    )
    return tuple(action for action in candidates if action is not None)


def last_action(wanted: Wanted, key: Key | None) -> Release | Delete | None:
    """Return what a deleted resource still has to do with its key, ``None`` for nothing.

    A resource that never got or adopted its key owns none, so a key that it only
    names in ``spec.adopt`` is safe.
    """
    if key is None or key.state is KeyState.DESTROYED:
        return None
    return Release(key.id) if wanted.retain else Delete(key.id)


def next_rotation(wanted: Wanted, key: Key) -> datetime | None:
    """Return when the age of the newest version asks for the next one, ``None`` for never."""
    if wanted.rotation_interval is None or not _can_ever_rotate(wanted, key):
        return None
    return key.versions[-1].created_at + wanted.rotation_interval


def find_conditions(wanted: Wanted, observed: Observed, now: datetime) -> tuple[Finding, ...]:
    """Return the findings about the conditions Ready and Rotating, after everything was done."""
    found = (policy(wanted, observed, now) for policy in _FAULTS)
    ready = next((finding for finding in found if finding is not None), None)
    return (ready or _key_is_active(observed), _find_rotating(wanted, observed, now))


def explain_failure(reason: str, message: str) -> Finding:
    """Return the finding of a look that an error has ended."""
    return Finding(ConditionType.READY, False, reason, message)


def explain_blocked_deletion(reason: str, message: str) -> Finding:
    """Return the finding of a deletion that an error has ended."""
    return Finding(ConditionType.DELETION_BLOCKED, True, reason, message)


def _first_actions(wanted: Wanted, observed: Observed) -> tuple[Action, ...]:
    if observed.former is not None:
        return ()
    if wanted.adopt is None:
        return (Create(),)
    if observed.adoptable is None or observed.adoptable.kind is not wanted.kind:
        return ()
    return (Adopt(observed.adoptable.id),)


def _edit(wanted: Wanted, key: Key) -> Edit | None:
    edits = Edits(
        name=_if_other(wanted.display_name, key.name),
        description=_if_other(wanted.description, key.description),
        expires_at=_if_other(wanted.expires_at, key.expires_at),
    )
    return None if edits == Edits() else Edit(edits)


def _if_other[T](wanted: T | None, present: T | None) -> T | None:
    return wanted if wanted != present else None


def _rotation(wanted: Wanted, observed: Observed, key: Key, now: datetime) -> Rotate | None:
    if wanted.suspended or key.state_at(now) is not KeyState.ACTIVE:
        return None
    if not _can_ever_rotate(wanted, key) or _waits_for_nodes(observed):
        return None
    return _due_rotation(wanted, key, now)


def _due_rotation(wanted: Wanted, key: Key, now: datetime) -> Rotate | None:
    if wanted.rotation_trigger not in (None, key.rotation_marker):
        return Rotate(wanted.rotation_trigger)
    due = next_rotation(wanted, key)
    return Rotate(None) if due is not None and due <= now else None


def _can_ever_rotate(wanted: Wanted, key: Key) -> bool:
    has_material = not key.imported or wanted.material is not None
    return key.kind is KeyKind.ROOT and has_material


def _waits_for_nodes(observed: Observed) -> bool:
    """Tell whether the key, or a provider bound to it, waits for an earlier step."""
    key = observed.key
    if key is None or key.pending is not None:
        return key is not None
    bound = (user.provider for user in observed.users if user.provider.key_id == key.id)
    return any(provider.pending is not None for provider in bound)


# --- condition Ready --------------------------------------------------------


def _ready(holds: bool, reason: str, message: str) -> Finding:
    return Finding(ConditionType.READY, holds, reason, message)


def _key_is_lost(wanted: Wanted, observed: Observed, now: datetime) -> Finding | None:
    if observed.key is not None or observed.former is None:
        return None
    return _ready(
        False,
        "KeyLost",
        f"The store knows no key of this resource any more; it was key {observed.former}. "
        "Restore the store from its newest backup, or delete this Key and create one with "
        f"spec.adopt: {observed.former}.",
    )


def _key_has_another_type(wanted: Wanted, observed: Observed, now: datetime) -> Finding | None:
    adoptable = observed.adoptable
    if observed.key is not None or adoptable is None or adoptable.kind is wanted.kind:
        return None
    return _ready(
        False,
        "TypeMismatch",
        f"Key {adoptable.id} has the type {describe_kind(adoptable.kind)} and was not adopted. "
        f"Delete this Key and create it with spec.type: {describe_kind(adoptable.kind)}.",
    )


def _key_was_deleted(wanted: Wanted, observed: Observed, now: datetime) -> Finding | None:
    if observed.key is None or observed.key.state is not KeyState.DESTROYED:
        return None
    return _ready(
        False,
        "KeyDeleted",
        f"Key {observed.key.id} was deleted, but not through this resource; its material is "
        "gone and it is not made again. Delete this Key; create another one for a new key.",
    )


def _key_is_suspended(wanted: Wanted, observed: Observed, now: datetime) -> Finding | None:
    if observed.key is None or observed.key.state is not KeyState.SUSPENDED:
        return None
    where = "by spec.state" if wanted.suspended else "elsewhere"
    return _ready(
        False,
        "KeyStateSuspended",
        f"Key {observed.key.id} was suspended {where} and refuses everything. "
        "Set spec.state: Active to resume it.",
    )


def _key_has_expired(wanted: Wanted, observed: Observed, now: datetime) -> Finding | None:
    key = observed.key
    if key is None or key.expires_at is None or key.state_at(now) is not KeyState.DEACTIVATED:
        return None
    return _ready(
        False,
        "Expired",
        f"Key {key.id} expired at {render_time(key.expires_at)} and only decrypts. "
        "Set spec.expirationDate to a later time, or use another key.",
    )


_FAULTS: tuple[Callable[[Wanted, Observed, datetime], Finding | None], ...] = (
    # Without a key of its own a resource can say nothing else.
    _key_is_lost,
    _key_has_another_type,
    # A deleted key is nothing else any more.
    _key_was_deleted,
    # A suspended key stays suspended when it expires.
    _key_is_suspended,
    _key_has_expired,
)


def _key_is_active(observed: Observed) -> Finding:
    if observed.key is None:
        return _ready(False, "NoKey", "The key was not made yet. It is tried again soon.")
    key = observed.key
    return _ready(
        True, "KeyActive", f"Key {key.id} is active; version {key.current.number} encrypts."
    )


# --- condition Rotating -----------------------------------------------------


def _find_rotating(wanted: Wanted, observed: Observed, now: datetime) -> Finding:
    key = observed.key
    if key is not None and key.pending is not None:
        message = f"Version {key.pending.number} {_waiting(observed)}"
        return Finding(ConditionType.ROTATING, True, "WaitingForNodes", message)
    if key is None or key.state is KeyState.DESTROYED:
        return Finding(ConditionType.ROTATING, False, "NoKey", "There is no key to rotate.")
    asks = wanted.rotation_trigger or wanted.rotation_interval
    if asks and not _can_ever_rotate(wanted, key):
        return _cannot_rotate(key)
    if _waits_for_nodes(observed) and _due_rotation(wanted, key, now):
        message = f"A rotation is due, but the binding before it {_waiting(observed)}"
        return Finding(ConditionType.ROTATING, False, "Deferred", message)
    return Finding(ConditionType.ROTATING, False, "Idle", "No rotation is under way.")


def _cannot_rotate(key: Key) -> Finding:
    return Finding(
        ConditionType.ROTATING,
        False,
        "PayloadRequired",
        f"spec.rotation has no effect: key {key.id} was imported and needs new material for "
        "each version. Rotate it with: keyplane keys rotate.",
    )


def _waiting(observed: Observed) -> str:
    """Return the second half of a sentence that names the nodes waited for, and the fix."""
    waits = [user for user in observed.users if user.waiting_for]
    nodes = sorted({node for user in waits for node in user.waiting_for})
    if not nodes:
        return "is about to be loaded everywhere."
    providers = ", ".join(user.provider.name for user in waits)
    return (
        f"waits until node {', '.join(nodes)} of KMS provider {providers} has loaded it. Start "
        "keyplane there, or remove a node that will not come back: "
        f"keyplane nodes remove {nodes[0]}."
    )
