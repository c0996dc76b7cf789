"""The document is valid and complete, and it is published as it is served."""

from __future__ import annotations

import itertools
from pathlib import Path

import jsonschema_rs
import pytest
import schemathesis

from keyrest.errors import FAULTS, Fault, fault_of
from keyrest.handlers import Handlers
from keyrest.openapi import refusals
from keyrest.openapi.document import PAGE_PATH, document, published
from keyrest.policy import PERMISSIONS, Permission
from keyrest.rejections import REJECTIONS, Rejection
from keyrest.routes import PREFIXES, Routes
from tests.fakes.installation import fake_installation
from tests.fakes.rest_site import rest_site
from tests.unit.keyrest.documented import component, fits, nodes, operations, resolved

ALL_ACTIONS = ("POST", "/keys/{id}")

RESTRICTED = [key for key in operations() if key[1].startswith("/keys") and key != ALL_ACTIONS]

PUBLISHED = Path(__file__).parents[3] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def routes() -> Routes:
    return Routes(Handlers(fake_installation().core))


# --- form -----------------------------------------------------------------------


def test_the_document_is_valid_openapi() -> None:
    schemathesis.openapi.from_dict(document()).validate()


@pytest.mark.parametrize("name", document()["components"]["schemas"])
def test_every_schema_is_valid_json_schema(name: str) -> None:
    jsonschema_rs.meta.validate(component("schemas", name))


def test_every_reference_leads_somewhere() -> None:
    for node in nodes(document()):
        if "$ref" in node:
            assert resolved(node["$ref"])


def test_every_link_leads_to_an_operation() -> None:
    ids = [operation["operationId"] for operation in operations().values()]
    links = [node["links"].values() for node in nodes(document()) if "links" in node]

    assert len(set(ids)) == len(ids)
    assert {link["operationId"] for link in itertools.chain(*links)} < set(ids)


def test_every_example_is_a_good_one() -> None:
    checked = 0
    for node in nodes(document()):
        examples = node.get("examples")
        if isinstance(examples, list):
            good = [(example, node) for example in examples]
        elif isinstance(examples, dict) and "schema" in node:
            good = [(example["value"], node["schema"]) for example in examples.values()]
        else:
            continue
        for example, schema in good:
            assert fits(example, schema), example
            checked += 1

    assert checked > 30


def test_the_published_document_is_the_one_that_is_built() -> None:
    fresh = "write it anew: python -m keyrest.openapi > docs/openapi.json"

    assert PUBLISHED.read_bytes() == published(), fresh


def test_anybody_may_read_the_document() -> None:
    with rest_site() as site:
        response = site.runner.run(site._send("GET", PAGE_PATH, headers=[]))

    assert response.status_code == 200
    assert response.json() == document()


# --- operations -----------------------------------------------------------------


def test_the_document_has_every_route_and_no_other(routes: Routes) -> None:
    tables = dict(vars(routes))
    served = {
        *((method, "/keys") for method in tables.pop("_collection")),
        *((method, "/keys/{id}") for method in tables.pop("_key")),
        *((method, "/keys/{id}/aliases/{alias}") for method in tables.pop("_alias")),
        *(("POST", f"/keys/{{id}}/actions/{action}") for action in tables.pop("_actions")),
        *(
            (method, f"/keys/{{id}}/{part}")
            for part, methods in tables.pop("_parts").items()
            for method in methods
        ),
    }
    with rest_site() as site:
        pages = set(itertools.product(("GET", "HEAD"), site.app._pages))

    assert not tables
    assert operations().keys() == served | pages
    assert [server["url"] for server in document()["servers"]] == [*PREFIXES]


@pytest.mark.parametrize(("method", "path"), RESTRICTED)
def test_an_operation_names_the_roles_that_may_ask_for_it(
    routes: Routes, method: str, path: str
) -> None:
    route = routes.find(method, PREFIXES[0] + path.format(id="key", alias="alias"))
    _, named = operations()[method, path]["description"].split("**Roles**: ", 1)

    assert route.operation is not None
    assert named == f"{roles_with(route.operation.permission)}."


def test_the_operation_of_all_actions_names_the_roles_of_each(routes: Routes) -> None:
    _, named = operations()[ALL_ACTIONS]["description"].split("**Roles**:\n\n", 1)

    assert named.splitlines() == [
        f"- `{name}`: {roles_with(action.permission)}" for name, action in routes._actions.items()
    ]


def roles_with(permission: Permission) -> str:
    return ", ".join(role for role, allowed in PERMISSIONS.items() if permission in allowed)


def test_only_pages_need_no_credential() -> None:
    public = {path for (_, path), operation in operations().items() if "security" in operation}

    assert document()["security"] == [{"bearer": []}]
    assert public == {path for _, path in operations() if not path.startswith("/keys")}


def test_no_answer_to_head_has_a_body() -> None:
    for (method, _), operation in operations().items():
        assert method != "HEAD" or "content" not in str(operation["responses"])


# --- refusals -------------------------------------------------------------------


def documented_codes(status: int) -> list[str]:
    [media_type] = component("responses", f"Error{status}")["content"].values()
    [reason] = [node["code"] for node in nodes(media_type["schema"]) if "code" in node]
    return list(reason["enum"])


@pytest.mark.parametrize("fault", {*FAULTS.values(), fault_of(Exception())}, ids=repr)
def test_every_code_of_the_table_is_documented_under_its_status(fault: Fault) -> None:
    assert fault.code in documented_codes(fault.status)
    assert f"`{fault.code}`: " in component("responses", f"Error{fault.status}")["description"]


@pytest.mark.parametrize("rejection", REJECTIONS, ids=lambda rejection: rejection.message)
def test_every_answer_of_the_connection_is_documented(rejection: Rejection) -> None:
    assert rejection.code in documented_codes(rejection.status)


def test_no_code_is_documented_that_nobody_is_told() -> None:
    told = {fault.code for fault in (*FAULTS.values(), fault_of(Exception()), *REJECTIONS)}

    assert {*refusals._MEANINGS} == told


def test_every_status_that_refuses_has_an_example() -> None:
    for described in document()["components"]["responses"].values():
        [media_type] = described["content"].values()
        assert media_type["examples"]
