"""Instances (tenants) and the installation itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from keycore.domain.ids import InstanceId


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
