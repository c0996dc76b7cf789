"""What to say about a key: pure functions that find the conditions Ready and Rotating.

Each policy knows one thing that can be wrong, and the first that speaks decides.
Messages are for whoever reads ``kubectl describe``: they say what to do next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from keycore.domain.keys import Key, KeyState
from keyoperator.decide import Observed, bound_users, can_rotate, due_rotation, waits_for_nodes
from keyoperator.resource import describe_kind, render_time
from keyoperator.status import ConditionType, Finding
from keyoperator.wanted import Wanted


@dataclass(frozen=True, slots=True)
class _Look:
    """Everything that a policy may look at."""

    wanted: Wanted
    observed: Observed
    now: datetime


def find_conditions(wanted: Wanted, observed: Observed, now: datetime) -> tuple[Finding, ...]:
    """Return the findings about the conditions Ready and Rotating, after everything was done."""
    look = _Look(wanted, observed, now)
    faults = (policy(look) for policy in _FAULTS)
    ready = next((fault for fault in faults if fault is not None), None)
    return (ready or _find_no_fault(observed), _find_rotating(look))


def explain_failure(reason: str, message: str) -> Finding:
    """Return the finding of a look that an error has ended."""
    return Finding(ConditionType.READY, reason, message, holds=False)


def explain_blocked_deletion(reason: str, message: str) -> Finding:
    """Return the finding of a deletion that an error has ended."""
    return Finding(ConditionType.DELETION_BLOCKED, reason, message, holds=True)


# --- condition Ready --------------------------------------------------------


def _key_is_lost(look: _Look) -> Finding | None:
    if look.observed.key is not None or look.observed.former is None:
        return None
    former = look.observed.former
    return explain_failure(
        "KeyLost",
        f"The store knows no key of this resource any more; it was key {former}. Restore the "
        "store from its newest backup, or delete this Key and create one with "
        f"spec.adopt: {former}",
    )


def _key_has_another_type(look: _Look) -> Finding | None:
    adoptable = look.observed.adoptable
    if adoptable is None or adoptable.kind is look.wanted.kind:
        return None
    kind = describe_kind(adoptable.kind)
    return explain_failure(
        "TypeMismatch",
        f"Key {adoptable.id} has the type {kind} and was not adopted. Delete this Key and "
        f"create it with spec.type: {kind}",
    )


def _key_was_deleted(look: _Look) -> Finding | None:
    key = look.observed.key
    if key is None or key.state is not KeyState.DESTROYED:
        return None
    return explain_failure(
        "KeyDeleted",
        f"Key {key.id} was deleted, but not through this resource; its material is gone and it "
        "is not made again. Delete this Key, and create another one for a new key",
    )


def _key_is_suspended(look: _Look) -> Finding | None:
    key = look.observed.key
    if key is None or key.state is not KeyState.SUSPENDED:
        return None
    where = "by spec.state" if look.wanted.suspended else "elsewhere"
    return explain_failure(
        "KeyStateSuspended",
        f"Key {key.id} was suspended {where} and refuses everything. Set spec.state: Active to "
        "resume it",
    )


def _key_has_expired(look: _Look) -> Finding | None:
    key = look.observed.key
    if key is None or key.expires_at is None:
        return None
    if key.state_at(look.now) is not KeyState.DEACTIVATED:
        return None
    bound = ", ".join(user.provider.name for user in bound_users(look.observed))
    effect = f"still serves KMS provider {bound}" if bound else "only decrypts"
    return explain_failure(
        "Expired",
        f"Key {key.id} expired at {render_time(key.expires_at)} and {effect}. Set "
        "spec.expirationDate to a later time, or use another key",
    )


_FAULTS: tuple[Callable[[_Look], Finding | None], ...] = (
    # Without a key of its own a resource can say nothing else.
    _key_is_lost,
    _key_has_another_type,
    # A deleted key is nothing else any more.
    _key_was_deleted,
    # A suspended key stays suspended when it expires.
    _key_is_suspended,
    _key_has_expired,
)


def _find_no_fault(observed: Observed) -> Finding:
    key = observed.key
    if key is None:
        return explain_failure("NoKey", "The key was not made yet. It is tried again soon")
    message = f"Key {key.id} is active; version {key.current.number} encrypts"
    return Finding(ConditionType.READY, "KeyActive", message, holds=True)


# --- condition Rotating -----------------------------------------------------


def _find_rotating(look: _Look) -> Finding:
    key = look.observed.key
    if key is None or key.state is KeyState.DESTROYED:
        return _not_rotating("NoKey", "There is no key to rotate")
    if key.pending is not None:
        message = f"Version {key.pending.number} {_waiting(look.observed)}"
        return Finding(ConditionType.ROTATING, "WaitingForNodes", message, holds=True)
    return _find_obstacle(look, key) or _not_rotating("Idle", "No rotation is under way")


def _find_obstacle(look: _Look, key: Key) -> Finding | None:
    wanted, observed = look.wanted, look.observed
    asks = wanted.rotation_trigger or wanted.rotation_interval
    if asks and not can_rotate(wanted, key):
        return _not_rotating(
            "PayloadRequired",
            f"spec.rotation has no effect: key {key.id} was imported and needs new material for "
            f"each version. Rotate it with: keyplane keys rotate {key.id} --import-file FILE",
        )
    if waits_for_nodes(observed) and due_rotation(wanted, key, look.now):
        message = f"A rotation is due, but the binding before it {_waiting(observed)}"
        return _not_rotating("Deferred", message)
    return None


def _not_rotating(reason: str, message: str) -> Finding:
    return Finding(ConditionType.ROTATING, reason, message, holds=False)


def _waiting(observed: Observed) -> str:
    """Return the second half of a sentence that names the nodes waited for, and the fix."""
    waits = [user for user in bound_users(observed) if user.waiting_for]
    nodes = sorted({node for user in waits for node in user.waiting_for})
    if not nodes:
        return "is about to be loaded everywhere"
    providers = ", ".join(user.provider.name for user in waits)
    return (
        f"waits until node {', '.join(nodes)} of KMS provider {providers} has loaded it. Start "
        "keyplane there, or remove a node that will not come back: "
        f"keyplane nodes remove {nodes[0]} --provider {waits[0].provider.name}"
    )
