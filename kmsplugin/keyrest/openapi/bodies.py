"""The bodies of requests, made from the models that read them.

The models say which fields there are, of which types and which are required; that
cannot differ from what the face does. :data:`_VALUES` adds what the core demands of
the values, from its own constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from keycore.domain.envelope import (
    AAD_CHARACTERS_MAX,
    AAD_ITEMS_MAX,
    CIPHERTEXT_BYTES_MAX,
    CIPHERTEXT_BYTES_MIN,
    PLAINTEXT_BYTES_MAX,
)
from keycore.domain.keys import (
    ALIASES_MAX,
    DESCRIPTION_CHARACTERS,
    NAME_CHARACTERS,
    TAG_CHARACTERS,
    TAGS_MAX,
)
from keyrest.fields import FIELDS
from keyrest.openapi.nodes import Node, reference, text_of
from keyrest.schemas import EmptyBody, KeyCollection, RotateBody, UnwrapBody, WrapBody

ALIAS_PATTERN = "^[A-Za-z0-9_-]{2,90}$"
"""Also the form of every UUID, so it fits wherever an id or an alias may stand."""

UUID_PATTERN = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"

# The last character before the padding has bits to spare, which must be zero.
_TAIL_1 = "[A-Za-z0-9+/][AQgw]=="
_TAIL_2 = "[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]="
BASE64_PATTERN = f"^(?:[A-Za-z0-9+/]{{4}})*(?:{_TAIL_1}|{_TAIL_2})?$"
"""Padded base64 (RFC 4648, 4) on one line, in its only canonical spelling."""

# 32, 48 and 64 bytes. A setting allows shorter ones too; this is the default.
_MATERIAL_PATTERN = (
    "^(?:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/]{64}|[A-Za-z0-9+/]{85}[AQgw]==)$"
)

_ALIAS: Node = {"pattern": ALIAS_PATTERN, "not": {"pattern": UUID_PATTERN}}

_ACTION_MODELS: Mapping[str, type[BaseModel]] = {
    "wrap": WrapBody,
    "unwrap": UnwrapBody,
    "rewrap": UnwrapBody,
    "rotate": RotateBody,
    "enable": EmptyBody,
    "disable": EmptyBody,
}

ACTIONS = tuple(_ACTION_MODELS)
"""Everything that can be done with a key by ``?action=`` or under ``/actions``."""


def _base64(least: int, most: int) -> Node:
    """Return a base64 text that stands for about so many bytes, its last group rounded up."""
    return {
        "contentEncoding": "base64",
        "minLength": _characters(least),
        "maxLength": _characters(most),
    }


def _characters(count: int) -> int:
    return -(-count // 3) * 4


# No pattern says "printable": it would need Unicode classes, at which many tools fail.
_VALUES: Mapping[str, Node] = {
    "metadata": {},
    "resources": {"maxItems": 1, "description": "Exactly one key in each request."},
    "collectionType": {},
    "collectionTotal": {"const": 1, "description": "The number of resources."},
    "type": {"description": "The media type of a key."},
    "name": {**text_of(NAME_CHARACTERS), "examples": ["payments"]},
    "description": text_of(DESCRIPTION_CHARACTERS),
    "expirationDate": {"format": "date-time", "examples": ["2031-01-02T03:04:05Z"]},
    "extractable": {},
    "payload": {"contentEncoding": "base64", "pattern": _MATERIAL_PATTERN},
    "aliases": {"maxItems": ALIASES_MAX, "uniqueItems": True, "items": _ALIAS},
    "tags": {"maxItems": TAGS_MAX, "items": text_of(TAG_CHARACTERS)},
    "plaintext": {
        **_base64(1, PLAINTEXT_BYTES_MAX),
        "pattern": BASE64_PATTERN,
        # 4096 bytes leave two characters of padding; one less would be 4097.
        "anyOf": [{"maxLength": _characters(PLAINTEXT_BYTES_MAX) - 4}, {"pattern": "==$"}],
    },
    # Without a pattern: nobody may read anything out of a ciphertext.
    "ciphertext": _base64(CIPHERTEXT_BYTES_MIN, CIPHERTEXT_BYTES_MAX),
    "aad": {"maxItems": AAD_ITEMS_MAX, "items": {"maxLength": AAD_CHARACTERS_MAX}},
}
"""By the name of the field, which means the same in every body."""


def body_schemas() -> Node:
    """Return the schemas of all bodies, by the names of their models."""
    models: list[type[BaseModel]] = [KeyCollection, *dict.fromkeys(_ACTION_MODELS.values())]
    _, generated = models_json_schema(
        [(model, "validation") for model in models],
        ref_template=reference("schemas", "{model}")["$ref"],
    )
    return {name: _body(schema) for name, schema in generated["$defs"].items()}


def action_schema(action: str) -> Node:
    """Return the schema of the body of an action, which only unwrap and rewrap need."""
    model = reference("schemas", _ACTION_MODELS[action].__name__)
    return model if is_body_required(action) else {"anyOf": [model, {"type": "null"}]}


def any_action_schema() -> Node:
    """Return the schema of the body of any action."""
    names = dict.fromkeys(model.__name__ for model in _ACTION_MODELS.values())
    return {"anyOf": [*(reference("schemas", name) for name in names), {"type": "null"}]}


def is_body_required(action: str) -> bool:
    """Tell whether an action does nothing without a body."""
    return any(field.is_required() for field in _ACTION_MODELS[action].model_fields.values())


def _body(schema: Node) -> Node:
    fields = {name: _field(name, field) for name, field in schema["properties"].items()}
    kept = {key: value for key, value in schema.items() if key != "title"}
    return {**kept, "properties": fields}


def _field(name: str, generated: Node) -> Node:
    """Return a field as the model has it, with the values that it may take."""
    field = {key: value for key, value in _flat(generated).items() if key != "title"}
    if field.get("default", ...) is None:
        del field["default"]
    words = FIELDS.get(name, "")
    described = {"description": f"{words[0].upper()}{words[1:]}."} if words else {}
    return _merged({**field, **described}, _VALUES[name])


def _flat(generated: Node) -> Node:
    """Return ``{"type": [x, "null"]}`` for pydantic's choice between a type and null."""
    if "anyOf" not in generated:
        return generated
    value, null = generated["anyOf"]
    either = {**value, "type": [value["type"], null["type"]]}
    if "const" in either:
        either["enum"] = [either.pop("const"), None]
    return {**{key: kept for key, kept in generated.items() if key != "anyOf"}, **either}


def _merged(field: Node, values: Mapping[str, Any]) -> Node:
    items = {**field.get("items", {}), **values.get("items", {})}
    return {**field, **values, **({"items": items} if items else {})}
