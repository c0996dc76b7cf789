"""Which operation a method and a path mean, under both of the prefixes that clients use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from keyrest.handlers import Call, Handlers, UseCase
from keyrest.policy import Permission
from keyrest.queries import Query
from keyrest.request_errors import InvalidQueryError, MethodNotAllowedError, UnknownPathError

PREFIXES = ("/kms/api/v2", "/api/v2")
"""Through the cluster's ingress, and at the service itself (``rest-contract`` 1.1)."""

_PATH = re.compile(
    r"(?:/kms)?/api/v2/keys"
    r"(?:/(?P<key>[^/]+)(?:/(?P<part>metadata|versions)|/(?P<list>actions|aliases)/(?P<item>[^/]+))?)?"
)

_ACTION_FAILED = "Action could not be performed on key"
_RETRIEVAL_FAILED = "Key could not be retrieved"


class Lane(Enum):
    """In which line a use case waits for a thread, so that no kind holds up another."""

    READING = auto()

    QUICK = auto()
    """Needs the token alone once its key is in use; it may not need a thread at all."""

    CHANGING = auto()
    """Waits for the store's one writer."""

    LISTING = auto()
    """Reads much and answers much."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked for.

    Attributes:
        name: the verb of its audit lines, the same as the use case's.
        permission: what the caller's role must allow.
        failure: what did not come about when it fails, for the caller.
        prepare: reads the request.
        lane: where it waits.
    """

    name: str
    permission: Permission
    failure: str
    prepare: Callable[[Call], UseCase]
    lane: Lane = Lane.READING


@dataclass(frozen=True, slots=True)
class Route:
    """What a path and a method lead to.

    Attributes:
        operation: ``None`` when the query names the action.
        key: id or alias as it stands in the path; empty where there is none.
        alias: the alias at the end of the path, or empty.
    """

    operation: Operation | None
    key: str = ""
    alias: str = ""


_Methods = Mapping[str, Operation | None]


class Routes:
    """All operations by path and method."""

    def __init__(self, handlers: Handlers) -> None:
        """Lead to ``handlers``."""
        self._actions = _actions(handlers)
        self._collection: _Methods = {
            "GET": Operation(
                "key.list",
                Permission.LIST,
                "Keys could not be retrieved",
                handlers.list,
                Lane.LISTING,
            ),
            "HEAD": Operation(
                "key.count",
                Permission.LIST,
                "Keys could not be counted",
                handlers.count,
                Lane.LISTING,
            ),
            "POST": Operation(
                "key.create",
                Permission.CREATE,
                "Key could not be created",
                handlers.create,
                Lane.CHANGING,
            ),
        }
        self._key: _Methods = {
            "DELETE": Operation(
                "key.delete",
                Permission.DELETE,
                "Key could not be deleted",
                handlers.delete,
                Lane.CHANGING,
            ),
            "GET": Operation("key.get", Permission.READ, _RETRIEVAL_FAILED, handlers.get),
            "POST": None,
        }
        self._parts: Mapping[str, _Methods] = {
            "metadata": {
                "GET": Operation("key.get", Permission.READ, _RETRIEVAL_FAILED, handlers.metadata)
            },
            "versions": {
                "GET": Operation(
                    "key.get",
                    Permission.READ,
                    "Key versions could not be retrieved",
                    handlers.versions,
                )
            },
        }
        self._alias: _Methods = {
            "DELETE": Operation(
                "key.remove_alias",
                Permission.ALIAS,
                "Alias could not be deleted",
                handlers.remove_alias,
                Lane.CHANGING,
            ),
            "POST": Operation(
                "key.add_alias",
                Permission.ALIAS,
                "Alias could not be created",
                handlers.add_alias,
                Lane.CHANGING,
            ),
        }

    def find(self, method: str, path: str) -> Route:
        """Return where a request goes.

        Raises:
            UnknownPathError: nothing is there.
            MethodNotAllowedError: something is, and not for this method.
        """
        found = _PATH.fullmatch(path)
        if found is None:
            raise UnknownPathError
        key, part, listed, item = found.group("key", "part", "list", "item")
        if listed == "actions":
            action = self._actions.get(item)
            if action is None:
                raise UnknownPathError
            return Route(_of_method({"POST": action}, method), key)
        if listed == "aliases":
            return Route(_of_method(self._alias, method), key, item)
        if part:
            return Route(_of_method(self._parts[part], method), key)
        return Route(_of_method(self._key if key else self._collection, method), key or "")

    def action(self, query: Query) -> Operation:
        """Return the operation that ``?action=`` names.

        Raises:
            InvalidQueryError: it names none.
        """
        action = self._actions.get(query.text("action"))
        if action is None:
            raise InvalidQueryError("action", f"one of {', '.join(self._actions)}")
        return action


def _of_method(methods: _Methods, method: str) -> Operation | None:
    if method not in methods:
        raise MethodNotAllowedError(sorted(methods))
    return methods[method]


def _actions(handlers: Handlers) -> Mapping[str, Operation]:
    suspension = Permission.SUSPEND
    return {
        "wrap": Operation("key.wrap", Permission.WRAP, _ACTION_FAILED, handlers.wrap, Lane.QUICK),
        "unwrap": Operation(
            "key.unwrap", Permission.UNWRAP, _ACTION_FAILED, handlers.unwrap, Lane.QUICK
        ),
        "rewrap": Operation(
            "key.rewrap", Permission.REWRAP, _ACTION_FAILED, handlers.rewrap, Lane.QUICK
        ),
        "rotate": Operation(
            "key.rotate", Permission.ROTATE, _ACTION_FAILED, handlers.rotate, Lane.CHANGING
        ),
        "enable": Operation(
            "key.resume", suspension, _ACTION_FAILED, handlers.enable, Lane.CHANGING
        ),
        "disable": Operation(
            "key.suspend", suspension, _ACTION_FAILED, handlers.disable, Lane.CHANGING
        ),
    }
