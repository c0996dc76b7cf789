"""The operations on keys and their aliases: what each takes, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable

from keyrest.answers import ALIAS_TYPE, COLLECTION_TYPE, KEY_TYPE, VERSION_TYPE
from keyrest.openapi.headers import answer_headers, header, preference_applied
from keyrest.openapi.nodes import JSON_TYPE, Node, content, reference
from keyrest.openapi.parameters import EVERYWHERE, named
from keyrest.openapi.refusals import name_of, without_body
from keyrest.policy import PERMISSIONS, Permission

_REFUSED = (400, 401, 403, 406, 408, 413, 414, 415, 429, 431, 500, 501, 503, 505)
"""What every request that needs a credential may be told."""

CHANGE_REFUSED = (404, 409, 410)
"""What besides may be told to a request that uses or changes a key."""

_KEYS = ["Keys"]

_CREATED_ID = "$response.body#/resources/0/id"

_ROOT_KEY: Node = {
    "metadata": {"collectionType": KEY_TYPE, "collectionTotal": 1},
    "resources": [{"type": KEY_TYPE, "name": "payments", "extractable": False}],
}

_IMPORTED_KEY: Node = {
    "metadata": {"collectionType": KEY_TYPE, "collectionTotal": 1},
    "resources": [
        {
            "type": KEY_TYPE,
            "name": "payments",
            "description": "Made elsewhere",
            "payload": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "extractable": False,
        }
    ],
}

_STANDARD_KEY: Node = {
    "metadata": {"collectionType": KEY_TYPE, "collectionTotal": 1},
    "resources": [{"type": KEY_TYPE, "name": "session", "extractable": True, "tags": ["web"]}],
}


def restricted(permission: Permission, refused: Iterable[int], described: Node) -> Node:
    """Return an operation with the roles that may ask for it, and with all its refusals.

    Args:
        permission: what the caller's role must allow.
        refused: statuses beside those that every operation has.
        described: the operation without these.
    """
    description = f"{described['description']}\n\n**Roles**: {roles_with(permission)}."
    return with_refusals(refused, {**described, "description": description})


def roles_with(permission: Permission) -> str:
    """Return the names of the roles that hold a permission, by commas."""
    return ", ".join(role.value for role, held in PERMISSIONS.items() if permission in held)


def with_refusals(refused: Iterable[int], described: Node) -> Node:
    """Return an operation with ``refused`` and with what every operation may be told."""
    refusals = {
        str(status): reference("responses", name_of(status))
        for status in sorted({*_REFUSED, *refused})
    }
    return {**described, "responses": {**described["responses"], **refusals}}


def key_paths() -> Node:
    """Return the paths of keys and aliases, without those of actions."""
    shared = named(*EVERYWHERE)
    of_key = [*shared, *named("Key")]
    return {
        "/keys": {"parameters": shared, "post": _create(), "get": _list(), "head": _count()},
        "/keys/{id}/metadata": {"parameters": of_key, "get": _metadata()},
        "/keys/{id}/versions": {"parameters": of_key, "get": _versions()},
        "/keys/{id}/aliases/{alias}": {
            "parameters": [*of_key, *named("Alias")],
            "post": _add_alias(),
            "delete": _remove_alias(),
        },
    }


def get_key() -> Node:
    """Return the operation that shows a key."""
    return restricted(
        Permission.READ,
        (404,),
        {
            "operationId": "getKey",
            "tags": _KEYS,
            "summary": "Retrieve a key by ID",
            "description": "Shows a standard key with its payload, a root key never. Of a deleted"
            " key its metadata is left, with state 5.",
            "responses": _keys_answered("KeyFound"),
        },
    )


def delete_key() -> Node:
    """Return the operation that deletes a key."""
    return restricted(
        Permission.DELETE,
        CHANGE_REFUSED,
        {
            "operationId": "deleteKey",
            "tags": _KEYS,
            "summary": "Delete a key by ID",
            "description": "Destroys the material of every version for ever, at once. What was"
            " wrapped by the key cannot be opened again.",
            "parameters": named("Prefer", "Force", "DryRun"),
            "responses": {
                **_keys_answered("KeyDeleted", preference_applied()),
                "204": {
                    "description": "Deleted",
                    "headers": answer_headers(),
                    "links": {"tombstone": _link("getKey", "$request.path.id")},
                },
            },
        },
    )


def _create() -> Node:
    headers = {**answer_headers(), **preference_applied()}
    targets = ("getKey", "wrapKey", "rotateKey", "disableKey", "enableKey", "deleteKey")
    return restricted(
        Permission.CREATE,
        (409, 410),
        {
            "operationId": "createKey",
            "tags": _KEYS,
            "summary": "Generate or import a key",
            "description": "Generates a key in the HSM, or imports the `payload`. Names need not"
            " be unique, aliases must be. The answer is a summary, unless `Prefer` asks for the"
            " whole key, a standard one with its payload.",
            "parameters": named("Prefer", "IdempotencyKey"),
            "requestBody": {
                "required": True,
                "content": content(
                    [KEY_TYPE, JSON_TYPE],
                    reference("schemas", "KeyCollection"),
                    {
                        "root": {"summary": "Generate a root key", "value": _ROOT_KEY},
                        "import": {"summary": "Import a root key", "value": _IMPORTED_KEY},
                        "standard": {"summary": "Make a standard key", "value": _STANDARD_KEY},
                    },
                ),
            },
            "responses": {
                "201": {
                    "description": "Made",
                    "headers": headers,
                    "content": content(
                        [KEY_TYPE, COLLECTION_TYPE], reference("schemas", "KeyCreated")
                    ),
                    "links": {target: _link(target, _CREATED_ID) for target in targets},
                }
            },
        },
    )


def _list() -> Node:
    return restricted(
        Permission.LIST,
        (),
        {
            "operationId": "listKeys",
            "tags": _KEYS,
            "summary": "Retrieve a list of keys",
            "description": "Shows one page, sorted by id and without any key material.",
            "parameters": named("Limit", "Offset", "State", "Extractable"),
            "responses": _keys_answered("KeyList", header("Key-Total")),
        },
    )


def _count() -> Node:
    counted = {"description": "OK", "headers": {**answer_headers(), **header("Key-Total")}}
    refused = {str(status): without_body(status) for status in _REFUSED}
    described = restricted(
        Permission.LIST,
        (),
        {
            "operationId": "countKeys",
            "tags": _KEYS,
            "summary": "Retrieve the number of keys",
            "description": "Tells in `Key-Total` how many keys a list with these filters has.",
            "parameters": named("State", "Extractable"),
            "responses": {},
        },
    )
    return {**described, "responses": {"200": counted, **refused}}


def _metadata() -> Node:
    return restricted(
        Permission.READ,
        (404,),
        {
            "operationId": "getKeyMetadata",
            "tags": _KEYS,
            "summary": "Retrieve a key without its payload",
            "description": "Shows what `getKey` shows, but never a payload.",
            "responses": _keys_answered("KeyList"),
        },
    )


def _versions() -> Node:
    versions = reference("schemas", "KeyVersions")
    return restricted(
        Permission.READ,
        (404,),
        {
            "operationId": "listKeyVersions",
            "tags": _KEYS,
            "summary": "List the versions of a key",
            "description": "Shows the newest version first.",
            "parameters": named("Limit", "Offset", "TotalCount", "AllKeyStates"),
            "responses": {
                "200": {
                    "description": "OK",
                    "headers": answer_headers(),
                    "content": content([VERSION_TYPE, COLLECTION_TYPE], versions),
                }
            },
        },
    )


def _add_alias() -> Node:
    aliases = reference("schemas", "KeyAliases")
    return restricted(
        Permission.ALIAS,
        CHANGE_REFUSED,
        {
            "operationId": "createKeyAlias",
            "tags": ["Aliases"],
            "summary": "Give a key one more alias",
            "description": "An alias may stand for the id in every path. A key has up to five;"
            " one that it has already changes nothing.",
            "responses": {
                "201": {
                    "description": "Given",
                    "headers": answer_headers(),
                    "content": content([ALIAS_TYPE, COLLECTION_TYPE], aliases),
                }
            },
        },
    )


def _remove_alias() -> Node:
    return restricted(
        Permission.ALIAS,
        CHANGE_REFUSED,
        {
            "operationId": "deleteKeyAlias",
            "tags": ["Aliases"],
            "summary": "Take an alias from a key",
            "description": "One that the key does not have changes nothing.",
            "responses": {"204": {"description": "Taken", "headers": answer_headers()}},
        },
    )


def _keys_answered(schema: str, headers: Node | None = None) -> Node:
    return {
        "200": {
            "description": "OK",
            "headers": {**answer_headers(), **(headers or {})},
            "content": content([KEY_TYPE, COLLECTION_TYPE], reference("schemas", schema)),
        }
    }


def _link(operation_id: str, key_id: str) -> Node:
    return {"operationId": operation_id, "parameters": {"id": key_id}}
