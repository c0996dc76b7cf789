"""Callers of the REST face who are known by name, and a policy that tests write down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keycore.errors import UnauthenticatedError
from keyrest.identity import Identity
from keyrest.policy import Policy
from keyrest.policy_document import Binding

ISSUER = "idp"


@dataclass
class NamedCallers:
    """Believes whoever brings his own name as a credential, unless it is not on the list.

    ``broken`` is raised instead of an answer; ``issuer_faults`` is what probes see.
    """

    names: set[str] = field(default_factory=set)
    issuer_faults: dict[str, str] = field(default_factory=dict)
    broken: Exception | None = None

    async def authenticate(self, authorization: str | None) -> Identity:
        if self.broken is not None:
            raise self.broken
        if authorization is None:
            raise UnauthenticatedError("missing")
        scheme, _, name = authorization.partition(" ")
        if scheme.lower() != "bearer" or name not in self.names:
            raise UnauthenticatedError("signature")
        return Identity(ISSUER, name, frozenset(), float("inf"))

    def faults(self) -> dict[str, str]:
        return self.issuer_faults


@dataclass
class WrittenPolicy:
    """A policy in force."""

    current: Policy = field(default_factory=Policy)
    fault: str = ""

    def write(self, bindings: Iterable[Mapping[str, Any]]) -> None:
        """Replace it; ``members`` of each binding are names of callers."""
        self.current = Policy([_binding(**binding) for binding in bindings])


def _binding(members: Iterable[str], **parts: Any) -> Binding:
    named = [{"issuer": ISSUER, "subject": name} for name in members]
    return Binding.model_validate({**parts, "members": named}, context=[ISSUER])
