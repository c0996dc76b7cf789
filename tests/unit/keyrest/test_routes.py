"""Paths and methods lead to one operation each, under both prefixes."""

from __future__ import annotations

import pytest

from keyrest.handlers import Handlers
from keyrest.policy import Permission
from keyrest.queries import read_query
from keyrest.request_errors import InvalidQueryError, MethodNotAllowedError, UnknownPathError
from keyrest.routes import PREFIXES, Route, Routes
from tests.fakes.installation import fake_installation

KEY = "0b000000-0000-4000-8000-000000000002"

ACTIONS = {
    "wrap": ("key.wrap", Permission.WRAP),
    "unwrap": ("key.unwrap", Permission.UNWRAP),
    "rewrap": ("key.rewrap", Permission.REWRAP),
    "rotate": ("key.rotate", Permission.ROTATE),
    "enable": ("key.resume", Permission.SUSPEND),
    "disable": ("key.suspend", Permission.SUSPEND),
}


@pytest.fixture(scope="module")
def routes() -> Routes:
    return Routes(Handlers(fake_installation().core))


def found(route: Route) -> tuple[str, Permission]:
    assert route.operation is not None
    return route.operation.name, route.operation.permission


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("method", "path", "name", "permission"),
    [
        ("POST", "/keys", "key.create", Permission.CREATE),
        ("GET", "/keys", "key.list", Permission.LIST),
        ("HEAD", "/keys", "key.count", Permission.LIST),
        ("GET", f"/keys/{KEY}", "key.get", Permission.READ),
        ("DELETE", f"/keys/{KEY}", "key.delete", Permission.DELETE),
        ("GET", f"/keys/{KEY}/metadata", "key.get", Permission.READ),
        ("GET", f"/keys/{KEY}/versions", "key.get", Permission.READ),
        ("POST", f"/keys/{KEY}/aliases/etcd", "key.add_alias", Permission.ALIAS),
        ("DELETE", f"/keys/{KEY}/aliases/etcd", "key.remove_alias", Permission.ALIAS),
    ],
)
def test_a_path_is_served_under_both_prefixes(
    routes: Routes, prefix: str, method: str, path: str, name: str, permission: Permission
) -> None:
    assert found(routes.find(method, prefix + path)) == (name, permission)


@pytest.mark.parametrize(("action", "expected"), ACTIONS.items())
def test_an_action_is_named_by_the_path_or_by_the_query(
    routes: Routes, action: str, expected: tuple[str, Permission]
) -> None:
    by_path = routes.find("POST", f"/api/v2/keys/{KEY}/actions/{action}")
    by_query = routes.find("POST", f"/api/v2/keys/{KEY}")

    assert found(by_path) == expected
    assert by_query.operation is None
    assert routes.action(read_query(f"action={action}".encode())) is by_path.operation


@pytest.mark.parametrize("query", [b"", b"action=", b"action=restore", b"action=Wrap"])
def test_an_action_that_is_missing_or_unknown_is_told_the_known_ones(
    routes: Routes, query: bytes
) -> None:
    with pytest.raises(InvalidQueryError, match="wrap, unwrap, rewrap, rotate, enable, disable"):
        routes.action(read_query(query))


def test_key_and_alias_are_taken_as_they_stand_in_the_path(routes: Routes) -> None:
    route = routes.find("POST", "/api/v2/keys/The-Key/aliases/An-Alias")

    assert (route.key, route.alias) == ("The-Key", "An-Alias")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/keys",
        "/kms/keys",
        "/kms/api/v1/keys",
        "/kms/kms/api/v2/keys",
        "/api/v2/keys/",
        "/api/v2/keys//metadata",
        "/api/v2/Keys",
        f"/api/v2/keys/{KEY}/",
        f"/api/v2/keys/{KEY}/policies",
        f"/api/v2/keys/{KEY}/restore",
        f"/api/v2/keys/{KEY}/actions",
        f"/api/v2/keys/{KEY}/actions/sync",
        f"/api/v2/keys/{KEY}/actions/wrap/more",
        f"/api/v2/keys/{KEY}/aliases",
        f"/api/v2/keys/{KEY}/metadata/wrap",
        "/api/v2/key_rings",
        "/api/v2/keys\n",
    ],
)
def test_nothing_else_is_there(routes: Routes, path: str) -> None:
    with pytest.raises(UnknownPathError):
        routes.find("GET", path)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/v2/keys", ["GET", "HEAD", "POST"]),
        (f"/api/v2/keys/{KEY}", ["DELETE", "GET", "POST"]),
        (f"/api/v2/keys/{KEY}/actions/wrap", ["POST"]),
        (f"/api/v2/keys/{KEY}/metadata", ["GET"]),
        (f"/api/v2/keys/{KEY}/versions", ["GET"]),
        (f"/api/v2/keys/{KEY}/aliases/etcd", ["DELETE", "POST"]),
    ],
)
def test_another_method_is_told_the_allowed_ones(
    routes: Routes, path: str, allowed: list[str]
) -> None:
    with pytest.raises(MethodNotAllowedError) as refused:
        routes.find("PATCH", path)

    assert refused.value.allowed == allowed


def test_a_single_key_has_no_head(routes: Routes) -> None:
    with pytest.raises(MethodNotAllowedError):
        routes.find("HEAD", f"/api/v2/keys/{KEY}")
