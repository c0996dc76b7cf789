"""Key manifests as values, and values as a status: the only place that knows field names.

The API server has validated every manifest against ``crds/keys.yaml``. It is
parsed strictly all the same, since the CRD in a cluster can be older or newer
than this code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from keycore.domain.ids import parse_key_id
from keycore.domain.keys import Key, KeyKind, KeyVersion
from keycore.errors import InvalidRequestError
from keyoperator.status import Condition, ConditionType, Finding
from keyoperator.wanted import Identity, Previous, SecretRef, Wanted

GROUP = "kms.keyplane.dev"
VERSION = "v1"
PLURAL = "keys"

FINALIZER = f"{GROUP}/key"
"""Keeps a deleted resource in place until its key is dealt with."""

VERSIONS_SHOWN_MAX = 50
"""A key that rotates every ten seconds would soon outgrow what etcd takes as one object."""

Manifest = Mapping[str, object]
"""A whole Key as the API server shows it."""

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_INTERVAL = re.compile(r"([1-9][0-9]{0,6})([smhd])")


class _Fields(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


def _parse_interval(text: object) -> timedelta:
    match = _INTERVAL.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("must be a whole number and one unit out of s, m, h and d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie in the years 1 to 9999") from None


class _Rotation(_Fields):
    interval: Annotated[timedelta, BeforeValidator(_parse_interval)] | None = None
    trigger: str | None = None


class _SecretRef(_Fields):
    name: str
    key: str


class _Import(_Fields):
    secret_ref: _SecretRef


class _Spec(_Fields):
    display_name: str | None = None
    description: str | None = None
    type: Literal["Root", "Standard"] = "Root"
    expiration_date: Annotated[AwareDatetime, AfterValidator(_in_utc)] | None = None
    rotation: _Rotation = _Rotation()
    material: Annotated[_Import | None, Field(alias="import")] = None
    state: Literal["Active", "Suspended"] | None = None
    deletion_policy: Literal["Delete", "Retain"] = "Delete"
    adopt: str | None = None


class _Metadata(_Fields):
    namespace: str
    name: str
    uid: str
    generation: int


class _KeyWithMetadata(_Fields):
    metadata: _Metadata


class _KeyWithSpec(_Fields):
    spec: _Spec = _Spec()


class _Condition(_Fields):
    type: str
    status: str
    reason: str
    message: str
    observed_generation: int = 0
    last_transition_time: AwareDatetime


class _Status(_Fields):
    key_id: Annotated[str | None, Field(alias="keyID")] = None
    current_version: int | None = None
    observed_generation: int | None = None
    conditions: tuple[_Condition, ...] = ()


class _KeyWithStatus(_Fields):
    status: _Status = _Status()


def parse_identity(manifest: Manifest) -> Identity:
    """Return which resource it is; the API server gives every resource these fields."""
    metadata = _KeyWithMetadata.model_validate(manifest).metadata
    return Identity(metadata.namespace, metadata.name, metadata.uid, metadata.generation)


def parse_wanted(manifest: Manifest) -> Wanted:
    """Return what a Key asks for.

    Raises:
        InvalidRequestError: a field has a value that this version does not know.
    """
    try:
        spec = _KeyWithSpec.model_validate(manifest).spec
    except ValidationError as error:
        raise _invalid(error) from None
    secret = spec.material.secret_ref if spec.material else None
    return Wanted(
        parse_identity(manifest),
        kind=KeyKind(spec.type.lower()),
        display_name=spec.display_name,
        description=spec.description,
        expires_at=spec.expiration_date,
        rotation_interval=spec.rotation.interval,
        rotation_trigger=spec.rotation.trigger,
        material=None if secret is None else SecretRef(secret.name, secret.key),
        suspended=None if spec.state is None else spec.state == "Suspended",
        retain=spec.deletion_policy == "Retain",
        adopt=None if spec.adopt is None else parse_key_id(spec.adopt),
    )


def parse_previous(manifest: Manifest) -> Previous:
    """Return what the status says; one that this version did not write counts as empty."""
    try:
        status = _KeyWithStatus.model_validate(manifest).status
        key_id = None if status.key_id is None else parse_key_id(status.key_id)
    except (ValidationError, InvalidRequestError):
        return Previous()
    return Previous(
        key_id=key_id,
        current_version=status.current_version,
        observed_generation=status.observed_generation,
        conditions=tuple(
            _parse_condition(condition)
            for condition in status.conditions
            if condition.type in set(ConditionType)
        ),
    )


def is_being_deleted(manifest: Manifest) -> bool:
    """Tell whether somebody has asked to delete the resource."""
    return _metadata(manifest).get("deletionTimestamp") is not None


def is_held(manifest: Manifest) -> bool:
    """Tell whether the resource cannot vanish before we have let it go."""
    finalizers = _metadata(manifest).get("finalizers")
    return isinstance(finalizers, Sequence) and FINALIZER in finalizers


def render_status(
    identity: Identity,
    conditions: Sequence[Condition],
    *,
    key: Key | None,
    next_rotation: datetime | None,
) -> dict[str, object]:
    """Return the fields of the status that are known.

    Args:
        identity: for the generation that the status answers.
        conditions: all of them.
        key: the key as it is; ``None`` leaves what stands there about it.
        next_rotation: when the interval asks for the next version, ``None`` for never.
    """
    known: dict[str, object] = {
        "observedGeneration": identity.generation,
        "conditions": [_render_condition(condition) for condition in conditions],
    }
    if key is not None:
        known |= {
            "keyID": key.id,
            "instanceID": key.instance_id,
            "currentVersion": key.current.number,
            "versions": [_render_version(v) for v in key.versions[-VERSIONS_SHOWN_MAX:]],
            "lastRotationTime": key.rotated_at and render_time(key.rotated_at),
            "nextRotationTime": next_rotation and render_time(next_rotation),
        }
    return known


def status_changes(manifest: Manifest, status: Mapping[str, object]) -> dict[str, object]:
    """Return the merge patch (RFC 7396) that makes the status of ``manifest`` say ``status``."""
    present = manifest.get("status")
    before = present if isinstance(present, Mapping) else {}
    return {field: value for field, value in status.items() if before.get(field) != value}


def render_time(time: datetime) -> str:
    """Return a time as Kubernetes writes it: RFC 3339, UTC, whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe_kind(kind: KeyKind) -> str:
    """Return the value of ``spec.type`` for a kind of key."""
    return kind.value.capitalize()


def _metadata(manifest: Manifest) -> Mapping[str, object]:
    metadata = manifest.get("metadata")
    return metadata if isinstance(metadata, Mapping) else {}


def _invalid(error: ValidationError) -> InvalidRequestError:
    faults = error.errors(include_input=False, include_url=False, include_context=False)
    fields = ", ".join(".".join(str(part) for part in fault["loc"]) for fault in faults)
    return InvalidRequestError(
        f"the resource has values that this version of keyplane does not know: {fields}",
        field=fields,
        hint="correct them, or bring the CRD and keyplane to the same version",
    )


def _parse_condition(condition: _Condition) -> Condition:
    finding = Finding(
        ConditionType(condition.type),
        condition.reason,
        condition.message,
        holds=condition.status == "True",
    )
    return Condition(finding, condition.observed_generation, condition.last_transition_time)


def _render_condition(condition: Condition) -> dict[str, object]:
    return {
        "type": condition.finding.type.value,
        "status": str(condition.finding.holds),
        "reason": condition.finding.reason,
        "message": condition.finding.message,
        "observedGeneration": condition.generation,
        "lastTransitionTime": render_time(condition.since),
    }


def _render_version(version: KeyVersion) -> dict[str, object]:
    return {
        "number": version.number,
        "id": version.id,
        "state": version.state.value.capitalize(),
        "createdAt": render_time(version.created_at),
    }
