"""What a Key resource asks for and what its status said, as values without field names."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from keycore.domain.ids import KeyId
from keycore.domain.keys import KeyKind
from keyoperator.status import Condition


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where the material of an imported key is: an entry of a Secret in the Key's namespace."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Which resource it is, and in which state of its spec."""

    namespace: str
    name: str
    uid: str
    generation: int

    @property
    def owner(self) -> str:
        """The name under which the core knows this resource; a recreated one has another."""
        return f"kubernetes/{self.uid}"

    def __str__(self) -> str:
        """Return what people call the resource."""
        return f"Key {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a Key asks for. ``None`` leaves that property of the key to others.

    Attributes:
        kind: never left to others, since it cannot change.
        rotation_interval: age of the newest version at which the next one is due.
        rotation_trigger: a changed text asks for one rotation.
        material: set for an imported key only.
        suspended: the wanted state.
        retain: whether the key outlives the resource.
        adopt: the existing key to manage instead of a new one.
    """

    identity: Identity
    kind: KeyKind = KeyKind.ROOT
    display_name: str | None = None
    description: str | None = None
    expires_at: datetime | None = None
    rotation_interval: timedelta | None = None
    rotation_trigger: str | None = None
    material: SecretRef | None = None
    suspended: bool | None = None
    retain: bool = False
    adopt: KeyId | None = None


@dataclass(frozen=True, slots=True)
class Previous:
    """What the status said before.

    Attributes:
        observed_generation: ``None`` until the first look has been written down.
    """

    key_id: KeyId | None = None
    current_version: int | None = None
    observed_generation: int | None = None
    conditions: tuple[Condition, ...] = ()
