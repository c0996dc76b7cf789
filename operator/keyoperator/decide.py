"""What to do about a key: pure functions of what is wanted and what was seen.

:mod:`keyoperator.reconcile` gathers, asks :func:`next_actions`, carries them
out and looks again. Nothing here reads a clock, a store or the cluster, so every
rule is one line of a test table.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from keycore.domain.ids import KeyId
from keycore.domain.keys import Key, KeyKind, KeyState
from keycore.service.keys import Edits
from keycore.service.providers import ProviderOverview
from keyoperator.wanted import Wanted

ValueT = TypeVar("ValueT")


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
    if wanted.rotation_interval is None or not can_rotate(wanted, key):
        return None
    return key.versions[-1].created_at + wanted.rotation_interval


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


def _if_other(wanted: ValueT | None, present: ValueT | None) -> ValueT | None:
    return wanted if wanted != present else None


def _rotation(wanted: Wanted, observed: Observed, key: Key, now: datetime) -> Rotate | None:
    if wanted.suspended or key.state_at(now) is not KeyState.ACTIVE:
        return None
    if not can_rotate(wanted, key) or waits_for_nodes(observed):
        return None
    return due_rotation(wanted, key, now)


def due_rotation(wanted: Wanted, key: Key, now: datetime) -> Rotate | None:
    """Return the rotation that trigger or age ask for, whether it is possible now or not."""
    if wanted.rotation_trigger not in (None, key.rotation_marker):
        return Rotate(wanted.rotation_trigger)
    due = next_rotation(wanted, key)
    return Rotate(None) if due is not None and due <= now else None


def can_rotate(wanted: Wanted, key: Key) -> bool:
    """Tell whether the resource can rotate such a key at all, whatever its state."""
    has_material = not key.imported or wanted.material is not None
    return key.kind is KeyKind.ROOT and has_material


def waits_for_nodes(observed: Observed) -> bool:
    """Tell whether the key, or a provider bound to it, waits for nodes to load something."""
    rotating = observed.key is not None and observed.key.pending is not None
    return rotating or any(user.provider.pending for user in bound_users(observed))


def bound_users(observed: Observed) -> list[ProviderOverview]:
    """Return the providers that encrypt with the key; others only still open with it."""
    key = observed.key
    return [user for user in observed.users if key is not None and user.provider.key_id == key.id]
