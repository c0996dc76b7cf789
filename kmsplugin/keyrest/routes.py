"""Which operation a method and a path mean, under both of the prefixes that clients use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked for.

    Attributes:
        name: the verb of its audit lines, the same as the use case's.
        permission: what the caller's role must allow.
        failure: what did not come about when it fails, for the caller.
        prepare: reads the request.
        is_quick: it needs neither store nor waiting for a key that is in use.
    """

    name: str
    permission: Permission
    failure: str
    prepare: Callable[[Call], UseCase]
    is_quick: bool = False


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
                "key.list", Permission.LIST, "Keys could not be retrieved", handlers.list
            ),
            "HEAD": Operation(
                "key.count", Permission.LIST, "Keys could not be counted", handlers.count
            ),
            "POST": Operation(
                "key.create", Permission.CREATE, "Key could not be created", handlers.create
            ),
        }
        self._key: _Methods = {
            "DELETE": Operation(
                "key.delete", Permission.DELETE, "Key could not be deleted", handlers.delete
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
            ),
            "POST": Operation(
                "key.add_alias", Permission.ALIAS, "Alias could not be created", handlers.add_alias
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
        "wrap": Operation(
            "key.wrap", Permission.WRAP, _ACTION_FAILED, handlers.wrap, is_quick=True
        ),
        "unwrap": Operation(
            "key.unwrap", Permission.UNWRAP, _ACTION_FAILED, handlers.unwrap, is_quick=True
        ),
        "rewrap": Operation(
            "key.rewrap", Permission.REWRAP, _ACTION_FAILED, handlers.rewrap, is_quick=True
        ),
        "rotate": Operation("key.rotate", Permission.ROTATE, _ACTION_FAILED, handlers.rotate),
        "enable": Operation("key.resume", suspension, _ACTION_FAILED, handlers.enable),
        "disable": Operation("key.suspend", suspension, _ACTION_FAILED, handlers.disable),
    }
