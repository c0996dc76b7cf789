"""Kubernetes events: what is worth telling, once for each change.

Most events are derived from how the status changes, and not from what was done
in this run: a run that is killed before it could tell is made up for by the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from keycore.domain.keys import Key
from keyoperator.status import Condition, ConditionType, Finding, find_condition
from keyoperator.wanted import Previous


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a Key.

    Attributes:
        kind: ``Warning`` when somebody has to do something.
        reason: one CamelCase word.
    """

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


def derive_events(
    previous: Previous, key: Key | None, conditions: Sequence[Condition], *, adopts: bool
) -> list[Event]:
    """Return the events that lead from the previous status to the new one.

    Args:
        previous: what the status said before.
        key: the key as it is.
        conditions: as they are.
        adopts: whether the resource takes an existing key instead of making one.
    """
    events = [] if key is None else _key_events(previous, key, adopts=adopts)
    for condition in conditions:
        before = find_condition(previous.conditions, condition.finding.type)
        event = _condition_event(before, condition.finding)
        if event is not None:
            events.append(event)
    return events


def _key_events(previous: Previous, key: Key, *, adopts: bool) -> list[Event]:
    if previous.key_id is None:
        reason = "Adopted" if adopts else "Created"
        place = f"in instance {key.instance_id}"
        return [Event("Normal", reason, f"{reason} key {key.id} {place}")]
    if previous.current_version is not None and key.current.number > previous.current_version:
        message = f"Version {key.current.number} of key {key.id} encrypts now"
        return [Event("Normal", "Rotated", message)]
    return []


def _condition_event(before: Finding | None, now: Finding) -> Event | None:
    if before is not None and (before.holds, before.reason) == (now.holds, now.reason):
        return None
    match now.type:
        case ConditionType.READY:
            return _ready_event(before, now)
        case ConditionType.ROTATING:
            return Event("Normal", "RotationPending", now.message) if now.holds else None
        case ConditionType.DELETION_BLOCKED:
            return Event("Warning", "DeletionBlocked", now.message) if now.holds else None


def _ready_event(before: Finding | None, now: Finding) -> Event | None:
    if now.reason == "KeyStateSuspended":
        return Event("Normal", "Suspended", now.message)
    if not now.holds:
        return Event("Warning", now.reason, now.message)
    if before is None:
        return None
    reason = "Resumed" if before.reason == "KeyStateSuspended" else "Ready"
    return Event("Normal", reason, now.message)
