"""The whole document, and the page that anybody may read it at."""

from __future__ import annotations

from functools import lru_cache

import orjson

from keyrest.answers import Answer
from keyrest.openapi.actions import action_on_key, action_paths
from keyrest.openapi.bodies import body_schemas
from keyrest.openapi.headers import answer_headers, header_components
from keyrest.openapi.nodes import JSON_TYPE, Node, content, reference
from keyrest.openapi.operations import delete_key, get_key, key_paths
from keyrest.openapi.parameters import EVERYWHERE, named, parameters
from keyrest.openapi.refusals import error_schema, refusals
from keyrest.openapi.resources import resource_schemas
from keyrest.requests import BODY_BYTES_MAX
from keyrest.routes import PREFIXES

PAGE_PATH = "/openapi.json"

_DESCRIPTION = f"""\
Keys that live in an HSM, and what can be done with them.

- **Callers** bring a bearer token of an OpenID Connect issuer. A policy file gives roles to
  subjects and groups, in an instance or for one key of it.
- **Instances** hold keys. Every request names one, by `icp-instance` or `Bluemix-Instance`. A key
  of another instance is not found.
- **Bodies** are JSON of up to {BODY_BYTES_MAX} bytes, under any media type that is JSON, or none.
  Unknown fields are refused. `null` is the same as a field that is left away, unless a field
  says something else, and white space alone is the same as no body.
- **Refusals** have one form, with codes that do not change. A path that is served with other
  methods answers 405 and lists them in `Allow`.
- **Retries** are safe after 429 and 503, and after every answer to `GET` and `HEAD`. A `POST` that
  makes a key is repeatable with an `Idempotency-Key`.
"""

_TAGS = (
    ("Keys", "Making, showing and deleting keys"),
    ("Actions", "Wrapping data keys, and the life of a root key"),
    ("Aliases", "Further names of keys"),
    ("Service", "What needs no credential"),
)

_SERVERS = (
    (PREFIXES[0], "As the cluster's ingress has it"),
    (PREFIXES[1], "As the service itself has it"),
)


@lru_cache(maxsize=1)
def document() -> Node:
    """Return the document; nobody may change it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "keyplane Key Management Service APIs",
            "version": "2.0.0",
            "description": _DESCRIPTION,
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": url, "description": description} for url, description in _SERVERS],
        "security": [{"bearer": []}],
        "tags": [{"name": name, "description": description} for name, description in _TAGS],
        "paths": _paths(),
        "components": _components(),
    }


def published() -> bytes:
    """Return the document as text for people and tools, as it lies in ``docs``."""
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


async def openapi_page() -> Answer:
    """Answer ``GET /openapi.json``."""
    return Answer(200, _page(), JSON_TYPE)


@lru_cache(maxsize=1)
def _page() -> bytes:
    return orjson.dumps(document())


def _paths() -> Node:
    of_key = {
        "parameters": named(*EVERYWHERE, "Key"),
        "get": get_key(),
        "post": action_on_key(),
        "delete": delete_key(),
    }
    return {**key_paths(), "/keys/{id}": of_key, **action_paths(), **_pages()}


def _components() -> Node:
    return {
        "securitySchemes": {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "An access or identity token of one of the configured issuers.",
            }
        },
        "parameters": parameters(),
        "headers": header_components(),
        "schemas": {**body_schemas(), **resource_schemas(), "Error": error_schema()},
        "responses": refusals(),
    }


def _pages() -> Node:
    live = {"200": _shown("The process answers.", reference("schemas", "Liveness"))}
    readiness = reference("schemas", "Readiness")
    ready = {
        "200": _shown("Requests can succeed.", readiness),
        "503": _shown("No request can succeed at the moment.", readiness),
    }
    this = {"200": _shown("This document.", {"type": "object"})}
    return {
        "/livez": _page_path("Liveness", "Tells that the process lives.", live),
        "/readyz": _page_path("Readiness", "Tells what works, check by check.", ready),
        PAGE_PATH: _page_path("Document", "Shows this document.", this),
    }


def _page_path(name: str, description: str, responses: Node) -> Node:
    """Return a path that lies outside the prefixes and is open to everybody."""
    bodiless = {
        status: {key: part for key, part in response.items() if key != "content"}
        for status, response in responses.items()
    }
    shared: Node = {"tags": ["Service"], "security": [], "description": description}
    return {
        "servers": [{"url": "/"}],
        "get": {**shared, "operationId": f"get{name}", "responses": responses},
        "head": {**shared, "operationId": f"head{name}", "responses": bodiless},
    }


def _shown(description: str, schema: Node) -> Node:
    return {
        "description": description,
        "headers": answer_headers(),
        "content": content([JSON_TYPE], schema),
    }
