"""Headers of answers."""

from __future__ import annotations

from collections.abc import Mapping

from keyrest.openapi.nodes import Node, reference

_CORRELATION_ID: Node = {
    "description": "The caller's own, or a fresh UUID; the audit line has the same.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
}

_HEADERS: Mapping[str, Node] = {
    "Correlation-Id": _CORRELATION_ID,
    "Cache-Control": {
        "description": "Answers may hold key material, and nobody may keep them.",
        "schema": {"const": "no-store"},
    },
    "Key-Total": {
        "description": "How many keys there are on all pages together.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Retry-After": {
        "description": "Seconds until the next request of this caller will be answered.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "Allow": {
        "description": "The methods that the path is served with.",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {
        "description": "The scheme to use (RFC 6750).",
        "schema": {"const": "Bearer"},
    },
}
"""Those that are always there where they are described."""


def header_components() -> Node:
    """Return all headers that operations refer to."""
    return {name: {**described, "required": True} for name, described in _HEADERS.items()}


def header(name: str) -> Node:
    """Return a header as an entry of a response's headers."""
    return {name: reference("headers", name)}


def answer_headers(*, always: bool = True) -> Node:
    """Return what every answer has.

    Args:
        always: ``False`` where the connection itself may answer too, without them.
    """
    if always:
        return {**header("Correlation-Id"), **header("Cache-Control")}
    return {"Correlation-Id": _CORRELATION_ID}


def preference_applied() -> Node:
    """Return the header that tells that a preference was followed; absent otherwise."""
    return {
        "Preference-Applied": {
            "description": "Present when the preference was followed (RFC 7240).",
            "schema": {"const": "return=representation"},
        }
    }
