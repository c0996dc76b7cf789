"""The policy file's form: what an administrator writes, and every fault of it at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from keycore.domain.ids import InstanceId, KeyId, parse_instance_id, parse_key_id
from keycore.errors import InvalidRequestError, SettingsError
from keyrest.claims import is_printable_subject
from keyrest.roles import Role

_NAMES = ("subject", "group", "service_account")

_SERVICE_ACCOUNT = re.compile(
    r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
)
"""A namespace (RFC 1123 label) and the name of a service account (RFC 1123 subdomain)."""

_MEMBER_NAMES = "member_names"
"""pydantic's type for the one fault of ours that is about a member and not a field."""


def _known_issuer(name: str, info: ValidationInfo) -> str:
    context: Collection[str] = info.context or ()
    if name not in context:
        raise ValueError("the settings (rest.issuers) have no issuer of that name")
    return name


def _printable(value: str) -> str:
    if not is_printable_subject(value):
        raise ValueError("must be 1 to 255 printable characters")
    return value


def _service_account(value: str) -> str:
    if not _SERVICE_ACCOUNT.fullmatch(value):
        raise ValueError('must be "namespace/name"')
    return value


def _only_name(value: str | None, info: ValidationInfo) -> str | None:
    """Check the last of the three names together with the two before it.

    One that is at fault itself is not in ``info.data``; it was given.
    """
    others = [info.data.get(name, "at fault") for name in _NAMES[:-1]]
    if sum(name is not None for name in (*others, value)) != 1:
        raise PydanticCustomError(
            _MEMBER_NAMES, "needs exactly one of subject, group and service_account"
        )
    return value


def _parsed_by(parse: Callable[[str], str]) -> Callable[[str], str]:
    def validate(value: str) -> str:
        try:
            return parse(value)
        except InvalidRequestError:
            raise ValueError("must be a UUID such as 0b1f8f4c-…, with hyphens") from None

    return validate


def _instances_of_role(
    value: tuple[InstanceId, ...] | None, info: ValidationInfo
) -> tuple[InstanceId, ...] | None:
    role = info.data.get("role")
    if role is Role.CLUSTER_ADMINISTRATOR and value is not None:
        raise ValueError("a ClusterAdministrator has every instance: leave it away")
    if role not in (None, Role.CLUSTER_ADMINISTRATOR) and not value:
        raise ValueError("must name at least one instance; only a ClusterAdministrator has all")
    return value


def _keys_of_instance(value: tuple[KeyId, ...], info: ValidationInfo) -> tuple[KeyId, ...]:
    if info.data.get("role") is Role.CLUSTER_ADMINISTRATOR:
        raise ValueError("a ClusterAdministrator has every key: leave it away")
    if not value:
        raise ValueError("must name at least one key; leave it away for all keys")
    if "instances" in info.data and len(info.data["instances"] or ()) != 1:
        raise ValueError("needs exactly one instance, the one that the keys are in")
    return value


def _not_empty(value: tuple[Member, ...]) -> tuple[Member, ...]:
    # pydantic's own min_length would also complain about members that are faulty.
    if not value:
        raise ValueError("must hold at least one")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Member(_Section):
    """One caller, or all callers of a group."""

    issuer: Annotated[str, AfterValidator(_known_issuer)]
    """Name of the issuer in the settings. Another issuer's same subject is somebody else."""

    subject: Annotated[str, AfterValidator(_printable)] | None = None
    """The ``sub`` claim, exactly."""

    group: Annotated[str, AfterValidator(_printable)] | None = None
    """One of the caller's groups, exactly."""

    service_account: Annotated[
        Annotated[str, AfterValidator(_service_account)] | None, AfterValidator(_only_name)
    ] = Field(default=None, validate_default=True)
    """A Kubernetes service account, as ``namespace/name``."""


class Binding(_Section):
    """Gives one role to some members."""

    role: Role

    instances: Annotated[
        tuple[Annotated[InstanceId, AfterValidator(_parsed_by(parse_instance_id))], ...] | None,
        AfterValidator(_instances_of_role),
    ] = Field(default=None, validate_default=True)
    """Where the role counts; ``None`` for a ClusterAdministrator, who has all instances."""

    keys: (
        Annotated[
            tuple[Annotated[KeyId, AfterValidator(_parsed_by(parse_key_id))], ...],
            AfterValidator(_keys_of_instance),
        ]
        | None
    ) = None
    """The only keys that the role counts for; ``None`` for the whole instance."""

    members: Annotated[tuple[Member, ...], AfterValidator(_not_empty)]


class PolicyDocument(_Section):
    """The whole file. Bindings add up, and there is no way to forbid."""

    bindings: tuple[Binding, ...]
    """Not optional, so that a file that was emptied by accident is a fault."""


def parse_policy(content: bytes, issuers: Collection[str], *, source: str) -> PolicyDocument:
    """Return the document in ``content``.

    Args:
        content: TOML in UTF-8.
        issuers: the names that members may use.
        source: where it comes from, for the message.

    Raises:
        SettingsError: it has faults; the message lists all of them with their places.
    """
    try:
        raw = tomllib.loads(content.decode("utf-8"))
        return PolicyDocument.model_validate(raw, context=issuers)
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        lines = "\n".join(f"  {_place_of(fault)}: {_words_for(fault)}" for fault in faults)
        message = f"the policy file {source} has faults:\n{lines}"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"the policy file {source} is not TOML: {error}"
    except RecursionError:
        message = f"the policy file {source} is nested too deeply"
    raise SettingsError(message, hint="docs/rest-identity.md describes the file")


def _place_of(fault: ErrorDetails) -> str:
    """Return where a fault is, counting from one as people do."""
    parts: Sequence[int | str] = fault["loc"]
    if fault["type"] == _MEMBER_NAMES:
        parts = parts[:-1]
    words: list[str] = []
    for part in parts:
        if isinstance(part, int):
            words[-1] = f"{words[-1].removesuffix('s')} {part + 1}"
        else:
            words.append(part)
    return ", ".join(words)


_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "there is no such field",
    "string_type": "must be a text",
    "tuple_type": "must be a list",
    "model_type": "must be a table",
    "enum": f"must be one of {', '.join(Role)}",
}
"""pydantic's types of faults in words that fit a TOML file."""


def _words_for(fault: ErrorDetails) -> str:
    # pydantic puts these words before the messages of our own checks.
    return _WORDS.get(fault["type"], fault["msg"].removeprefix("Value error, "))
