"""Decides what a caller may do, by looking up and never by searching."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from keycore.domain.ids import InstanceId, KeyId
from keycore.errors import AccessDeniedError
from keyrest.identity import SERVICE_ACCOUNT_PREFIX, Identity
from keyrest.policy_document import Binding, Member
from keyrest.roles import PERMISSIONS, Permission, Role

_NOTHING: frozenset[Permission] = frozenset()


@dataclass(slots=True)
class _Grants:
    """What one subject or one group may do, where."""

    everywhere: frozenset[Permission] = _NOTHING
    instances: dict[InstanceId, frozenset[Permission]] = field(default_factory=dict)
    keys: dict[tuple[InstanceId, KeyId], frozenset[Permission]] = field(default_factory=dict)

    def add(self, binding: Binding) -> None:
        permissions = PERMISSIONS[binding.role]
        if binding.role is Role.CLUSTER_ADMINISTRATOR:
            self.everywhere |= permissions
        for instance_id in binding.instances or ():
            if binding.keys is None:
                self.instances[instance_id] = permissions | self._in(instance_id)
            for key_id in binding.keys or ():
                place = (instance_id, key_id)
                self.keys[place] = permissions | self.keys.get(place, _NOTHING)

    def allow(self, permission: Permission, instance_id: InstanceId, key_id: KeyId | None) -> bool:
        if permission in self.everywhere or permission in self._in(instance_id):
            return True
        return key_id is not None and permission in self.keys.get((instance_id, key_id), _NOTHING)

    def names_keys_in(self, instance_id: InstanceId) -> bool:
        return any(instance == instance_id for instance, _ in self.keys)

    def _in(self, instance_id: InstanceId) -> frozenset[Permission]:
        return self.instances.get(instance_id, _NOTHING)


class Policy:
    """Who may do what. Never changes; a changed file makes another one."""

    def __init__(self, bindings: Iterable[Binding] = ()) -> None:
        """Allow what ``bindings`` say, and nothing else."""
        self._subjects: Mapping[str, dict[str, _Grants]]
        self._groups: Mapping[str, dict[str, _Grants]]
        self._subjects = defaultdict(dict)
        self._groups = defaultdict(dict)
        for binding in bindings:
            for member in binding.members:
                self._grants_for(member).add(binding)

    def ensure(
        self,
        identity: Identity,
        permission: Permission,
        instance_id: InstanceId,
        key_id: KeyId | None = None,
    ) -> None:
        """Let the caller pass, or refuse it.

        Whether instance and key exist makes no difference, so a refusal tells nothing
        about them.

        Args:
            identity: the caller.
            permission: what it wants to do.
            instance_id: where.
            key_id: the key it is about; ``None`` for the instance as a whole, which
                grants for single keys do not reach.

        Raises:
            AccessDeniedError: none of the caller's roles allows it.
        """
        for grants in self._grants_of(identity):
            if grants.allow(permission, instance_id, key_id):
                return
        raise AccessDeniedError(
            f"the caller has no role that allows {permission} in instance {instance_id}"
        )

    def names_keys(self, identity: Identity, instance_id: InstanceId) -> bool:
        """Tell whether the caller has a role for single keys of the instance."""
        return any(grants.names_keys_in(instance_id) for grants in self._grants_of(identity))

    def _grants_of(self, identity: Identity) -> Iterator[_Grants]:
        own = self._subjects.get(identity.issuer, {}).get(identity.subject)
        if own is not None:
            yield own
        groups = self._groups.get(identity.issuer, {})
        for group in identity.groups & groups.keys():
            yield groups[group]

    def _grants_for(self, member: Member) -> _Grants:
        table, name = self._subjects, member.subject
        if member.group is not None:
            table, name = self._groups, member.group
        elif member.service_account is not None:
            name = SERVICE_ACCOUNT_PREFIX + member.service_account.replace("/", ":")
        return table[member.issuer].setdefault(name or "", _Grants())
