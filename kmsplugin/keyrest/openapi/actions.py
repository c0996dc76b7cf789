"""The actions on a key, under the two kinds of path that clients use for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyrest.answers import ACTION_TYPE, KEY_TYPE
from keyrest.openapi.bodies import action_schema, any_action_schema, is_body_required
from keyrest.openapi.headers import answer_headers
from keyrest.openapi.nodes import JSON_TYPE, Node, content, reference
from keyrest.openapi.operations import CHANGE_REFUSED, restricted, roles_with, with_refusals
from keyrest.openapi.parameters import EVERYWHERE, named
from keyrest.policy import Permission

_TAGS = ["Actions"]

_DATA_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

_WRAP_EXAMPLES: Node = {
    "new": {"summary": "Make a data key and wrap it", "value": {}},
    "given": {
        "summary": "Wrap a data key for one purpose only",
        "value": {"plaintext": _DATA_KEY, "aad": ["volume-17"]},
    },
}

_WHAT_WRAP_MADE: Node = {
    "description": "The request needs the `aad` that was wrapped with, if there was one.",
    "parameters": {"id": "$request.path.id"},
    "requestBody": {"ciphertext": "$response.body#/ciphertext"},
}
_WRAP_LINKS: Node = {
    name: {"operationId": name, **_WHAT_WRAP_MADE} for name in ("unwrapKey", "rewrapKey")
}


@dataclass(frozen=True, slots=True)
class _Action:
    """What is particular to one action.

    Attributes:
        answer: name of the schema of its answer; empty for an answer without a body.
        refused: statuses beside those of every action.
    """

    permission: Permission
    summary: str
    description: str
    answer: str = ""
    refused: tuple[int, ...] = ()
    examples: Node = field(default_factory=dict)
    links: Node = field(default_factory=dict)


_ACTIONS: Mapping[str, _Action] = {
    "wrap": _Action(
        Permission.WRAP,
        "Wrap a key",
        "Encrypts a data key of 1 to 4096 bytes. Without `plaintext` the HSM makes one of 32 bytes"
        " and the answer shows it, once. The same `aad` is needed to unwrap; `[]` is the same as"
        " none.",
        "Wrapped",
        examples=_WRAP_EXAMPLES,
        links=_WRAP_LINKS,
    ),
    "unwrap": _Action(
        Permission.UNWRAP,
        "Unwrap a key",
        "Decrypts a data key. When a former key version made the ciphertext, the answer holds a"
        " new one besides. An expired key still unwraps, but makes no new ciphertext.",
        "Unwrapped",
        (422,),
    ),
    "rewrap": _Action(
        Permission.REWRAP,
        "Rewrap a key",
        "Makes a new ciphertext under the newest key version, without showing the data key.",
        "Rewrapped",
        (422,),
    ),
    "rotate": _Action(
        Permission.ROTATE,
        "Rotate a key",
        "Gives the key a new version; the former ones go on unwrapping. A generated key takes no"
        " `payload`, an imported one needs it.",
    ),
    "enable": _Action(Permission.SUSPEND, "Enable a key", "Ends a suspension."),
    "disable": _Action(
        Permission.SUSPEND,
        "Disable a key",
        "Suspends the key: it takes no action but `enable` until then.",
    ),
}


def action_paths() -> Node:
    """Return one path for each action."""
    parameters = named(*EVERYWHERE, "Key")
    return {
        f"/keys/{{id}}/actions/{name}": {
            "parameters": parameters,
            "post": restricted(
                action.permission, (*CHANGE_REFUSED, *action.refused), _described(name, action)
            ),
        }
        for name, action in _ACTIONS.items()
    }


def action_on_key() -> Node:
    """Return the operation whose query names the action, as the original has it."""
    roles = {name: roles_with(action.permission) for name, action in _ACTIONS.items()}
    table = "\n".join(f"- `{name}`: {who}" for name, who in roles.items())
    answers = dict.fromkeys(action.answer for action in _ACTIONS.values() if action.answer)
    answered = {"anyOf": [reference("schemas", name) for name in answers]}
    return with_refusals(
        (*CHANGE_REFUSED, 422),
        {
            "operationId": "actionOnKey",
            "tags": _TAGS,
            "summary": "Invoke an action on a key",
            "description": "Does what the path of the same name under `/actions` does; the body"
            f" must be of the action that `action` names.\n\n**Roles**:\n\n{table}",
            "parameters": named("Action"),
            "requestBody": {
                "content": content(
                    [KEY_TYPE, ACTION_TYPE, JSON_TYPE], any_action_schema(), _WRAP_EXAMPLES
                )
            },
            "responses": {
                "200": {
                    "description": "Wrapped, unwrapped or rewrapped",
                    "headers": answer_headers(),
                    "content": content([ACTION_TYPE], answered),
                },
                "204": {
                    "description": "Rotated, enabled or disabled",
                    "headers": answer_headers(),
                },
            },
        },
    )


def _described(name: str, action: _Action) -> Node:
    vendor_type = f"application/vnd.ibm.kms.key_action_{name}+json"
    media_types = [ACTION_TYPE, vendor_type, KEY_TYPE, JSON_TYPE]
    return {
        "operationId": f"{name}Key",
        "tags": _TAGS,
        "summary": action.summary,
        "description": action.description,
        "requestBody": {
            "required": is_body_required(name),
            "content": content(media_types, action_schema(name), action.examples),
        },
        "responses": _answered(action),
    }


def _answered(action: _Action) -> Node:
    if not action.answer:
        return {"204": {"description": "Done", "headers": answer_headers()}}
    answered: Node = {
        "description": "OK",
        "headers": answer_headers(),
        "content": content([ACTION_TYPE], reference("schemas", action.answer)),
    }
    return {"200": {**answered, **({"links": action.links} if action.links else {})}}
