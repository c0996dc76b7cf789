"""The seed's four roles and what each of them may do (``rest-contract`` 1.1, Roles)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Role(StrEnum):
    """The roles of the seed document, as the policy file names them."""

    CLUSTER_ADMINISTRATOR = "ClusterAdministrator"
    ADMINISTRATOR = "Administrator"
    EDITOR = "Editor"
    VIEWER = "Viewer"


class Permission(StrEnum):
    """One thing that a caller may want to do."""

    CREATE = "create"
    """Generate or import a key."""

    LIST = "list"
    """List and count keys."""

    READ = "read"
    """Get a key with its metadata and versions; of a standard key the payload too."""

    WRAP = "wrap"
    UNWRAP = "unwrap"
    REWRAP = "rewrap"
    ROTATE = "rotate"
    DELETE = "delete"

    SUSPEND = "suspend"
    """Disable and enable a key."""

    ALIAS = "alias"
    """Add and remove aliases of a key."""


_CRYPTOGRAPHY = frozenset({Permission.WRAP, Permission.UNWRAP, Permission.REWRAP})
_EDITING = frozenset({Permission.CREATE, Permission.LIST, Permission.READ, Permission.ALIAS})

PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.CLUSTER_ADMINISTRATOR: frozenset(Permission),
    Role.ADMINISTRATOR: frozenset(Permission),
    Role.EDITOR: _CRYPTOGRAPHY | _EDITING,
    # NB: a Viewer can decrypt, and neither list keys nor read their metadata.
    Role.VIEWER: _CRYPTOGRAPHY,
}
"""What each role may do. A ClusterAdministrator may do it in every instance."""
