"""Instances (tenants) and the installation itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from keycore.domain.ids import InstanceId
from keycore.errors import InvalidRequestError

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Instance:
    """One tenant: a set of keys that no other tenant can see.

    Attributes:
        namespace: name of the Kubernetes namespace that an administrator bound to
            it; ``None`` when it is found by the namespace's UID alone.
    """

    id: InstanceId
    name: str
    namespace: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Installation:
    """The row that ends ``init``: it ties the store to the token whose key signed it."""

    id: str
    token_label: str
    token_serial: str
    created_at: datetime


def check_namespace(name: str) -> str:
    """Return ``name`` if Kubernetes would accept it as a namespace (RFC 1123 label).

    Raises:
        InvalidRequestError: it would not.
    """
    if not _NAMESPACE.fullmatch(name):
        raise InvalidRequestError(
            "a namespace has 1 to 63 characters a-z, 0-9 and '-', and no '-' at its ends",
            field="namespace",
        )
    return name
