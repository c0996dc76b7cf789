"""Path, query and header parameters; each stands once among the components."""

from __future__ import annotations

from keycore.domain.keys import KeyState
from keycore.service.creation import IDEMPOTENCY_KEY_CHARACTERS_MAX
from keycore.service.key_reading import OFFSET_MAX, PAGE_MAX
from keyrest.openapi.bodies import ACTIONS, ALIAS_PATTERN, UUID_PATTERN
from keyrest.openapi.nodes import Node, integer, reference
from keyrest.queries import LIMIT_DEFAULT

INSTANCE_EXAMPLE = "0b1f8f4c-6a7e-4a51-9d83-0f0d6b8d9c11"
KEY_EXAMPLE = "02fd6835-6001-4482-a892-13bd2085f75d"

EVERYWHERE = ("Instance", "BluemixInstance", "CorrelationId", "XCorrelationId", "XRequestId")
"""Parameters of every operation that needs a credential."""

_UUID: Node = {"type": "string", "format": "uuid"}

_FREE_TEXT: Node = {"type": "string"}


def parameters() -> Node:
    """Return all parameters, by the names under which operations refer to them."""
    return {**_HEADERS, **_PATH, **_QUERY}


def named(*names: str) -> list[Node]:
    """Return references to parameters."""
    return [reference("parameters", name) for name in names]


def _header(name: str, schema: Node, description: str) -> Node:
    return {"name": name, "in": "header", "schema": schema, "description": description}


def _path(name: str, schema: Node, description: str) -> Node:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": schema,
        "description": description,
    }


def _query(name: str, schema: Node, description: str) -> Node:
    """Return a parameter that is optional, and counts as not given when it is empty."""
    return {
        "name": name,
        "in": "query",
        "allowEmptyValue": True,
        "schema": schema,
        "description": description,
    }


_HEADERS: Node = {
    "Instance": _header(
        "icp-instance",
        {**_UUID, "examples": [INSTANCE_EXAMPLE]},
        "The instance that holds the keys. Required, unless `Bluemix-Instance` names it.",
    ),
    "BluemixInstance": _header(
        "Bluemix-Instance",
        {**_UUID, "examples": [INSTANCE_EXAMPLE]},
        "A synonym of `icp-instance`. When both are sent they must be equal.",
    ),
    "CorrelationId": _header(
        "Correlation-Id",
        _FREE_TEXT,
        "Comes back in the answer and stands in the audit line, if it is 1 to 128 visible ASCII"
        " characters; anything else is replaced by a fresh UUID.",
    ),
    "XCorrelationId": _header(
        "X-Correlation-ID", _FREE_TEXT, "Read when there is no `Correlation-Id`."
    ),
    "XRequestId": _header("X-Request-Id", _FREE_TEXT, "Read when there is neither of the others."),
    "Prefer": _header(
        "Prefer",
        {**_FREE_TEXT, "examples": ["return=representation", "return=minimal"]},
        "`return=representation` asks for the whole key (RFC 7240). Other preferences are ignored.",
    ),
    "IdempotencyKey": _header(
        "Idempotency-Key",
        {
            "type": "string",
            "minLength": 1,
            "maxLength": IDEMPOTENCY_KEY_CHARACTERS_MAX,
            "pattern": "^[!-~]+$",
        },
        "Makes the request repeatable: the same request of the same caller with the same"
        " idempotency key returns the key that the first one made, instead of making another.",
    ),
}

_PATH: Node = {
    "Key": _path(
        "id",
        {"type": "string", "pattern": ALIAS_PATTERN, "examples": [KEY_EXAMPLE]},
        "The key's UUID, or one of its aliases.",
    ),
    "Alias": _path(
        "alias",
        {"type": "string", "pattern": ALIAS_PATTERN, "not": {"pattern": UUID_PATTERN}},
        "2 to 90 letters, digits, `-` and `_`, and no UUID.",
    ),
}

_QUERY: Node = {
    "Limit": _query(
        "limit", integer(least=1, most=PAGE_MAX, default=LIMIT_DEFAULT), "Resources in this page."
    ),
    "Offset": _query(
        "offset",
        integer(least=0, most=OFFSET_MAX, default=0),
        "Resources to skip. Keys are sorted by id, so one that is made or deleted between two"
        " pages shifts what follows it.",
    ),
    "State": {
        **_query(
            "state",
            {
                "type": "array",
                "items": {"type": "integer", "enum": [state.value for state in KeyState]},
            },
            "States to show, by commas: 0 pre-active, 1 active, 2 suspended, 3 deactivated,"
            " 5 destroyed. Without it, all but destroyed keys are shown.",
        ),
        "style": "form",
        "explode": False,
    },
    "Extractable": _query(
        "extractable", {"type": "boolean"}, "`true` shows standard keys only, `false` root keys."
    ),
    "TotalCount": _query(
        "totalCount", {"type": "boolean"}, "`true` adds the number of versions to the metadata."
    ),
    "AllKeyStates": _query(
        "allKeyStates", {"type": "boolean"}, "Changes nothing: all versions are always shown."
    ),
    "Force": _query(
        "force", {"type": "boolean"}, "Changes nothing: no key is protected against deletion by it."
    ),
    "DryRun": _query(
        "dryRun",
        {"type": "boolean"},
        "`true` deletes nothing and answers what would be lost, or why it would be refused.",
    ),
    "Action": {
        **_query("action", {"type": "string", "enum": [*ACTIONS]}, "What to do with the key."),
        "required": True,
        "allowEmptyValue": False,
    },
}
