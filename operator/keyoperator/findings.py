"""What to say about a key: pure functions that find the conditions Ready and Rotating.

Each policy knows one thing that can be wrong, and the first that speaks decides.
Messages are for whoever reads ``kubectl describe``: they say what to do next.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from keycore.domain.keys import Key, KeyState
from keyoperator.decide import Observed, bound_users, can_rotate, due_rotation, waits_for_nodes
from keyoperator.resource import Wanted, describe_kind, render_time
from keyoperator.status import ConditionType, Finding


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
    if asks and not can_rotate(wanted, key):
        return _cannot_rotate(key)
    if waits_for_nodes(observed) and due_rotation(wanted, key, now):
        message = f"A rotation is due, but the binding before it {_waiting(observed)}"
        return Finding(ConditionType.ROTATING, False, "Deferred", message)
    return Finding(ConditionType.ROTATING, False, "Idle", "No rotation is under way.")


def _cannot_rotate(key: Key) -> Finding:
    return Finding(
        ConditionType.ROTATING,
        False,
        "PayloadRequired",
        f"spec.rotation has no effect: key {key.id} was imported and needs new material for "
        "each version. Rotate it with: keyplane keys rotate",
    )


def _waiting(observed: Observed) -> str:
    """Return the second half of a sentence that names the nodes waited for, and the fix."""
    waits = [user for user in bound_users(observed) if user.waiting_for]
    nodes = sorted({node for user in waits for node in user.waiting_for})
    if not nodes:
        return "is about to be loaded everywhere."
    providers = ", ".join(user.provider.name for user in waits)
    return (
        f"waits until node {', '.join(nodes)} of KMS provider {providers} has loaded it. Start "
        "keyplane there, or remove a node that will not come back: "
        f"keyplane nodes remove {nodes[0]}"
    )
