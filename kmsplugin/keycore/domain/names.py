"""Names that Kubernetes knows too, and that follow its rules (RFC 1123)."""

from __future__ import annotations

import re

from keycore.errors import InvalidRequestError

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def check_provider_name(name: str) -> str:
    """Return ``name`` if it is a DNS label, which never holds the ``:`` that ends it in etcd.

    Raises:
        InvalidRequestError: it is not.
    """
    return _check_label(name, "a provider name", field="provider")


def check_namespace(name: str) -> str:
    """Return ``name`` if Kubernetes would accept it as a namespace, a DNS label.

    Raises:
        InvalidRequestError: it would not.
    """
    return _check_label(name, "a namespace", field="namespace")


def check_node_name(name: str) -> str:
    """Return ``name`` if Kubernetes would accept it for a node, a DNS subdomain.

    Raises:
        InvalidRequestError: it would not.
    """
    if not _SUBDOMAIN.fullmatch(name):
        raise InvalidRequestError(
            "a node name has 1 to 253 characters a-z, 0-9, '-' and '.'", field="node"
        )
    return name


def _check_label(name: str, what: str, *, field: str) -> str:
    if not _LABEL.fullmatch(name):
        raise InvalidRequestError(
            f"{what} has 1 to 63 characters a-z, 0-9 and '-', and no '-' at its ends", field=field
        )
    return name
