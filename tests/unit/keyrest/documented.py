"""Looking things up in the OpenAPI document."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema_rs

from keyrest.openapi.document import document


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the operations by method and path, without the prefix of the servers."""
    return {
        (method.upper(), path): operation
        for path, item in document()["paths"].items()
        for method, operation in item.items()
        if method not in ("parameters", "servers")
    }


def component(kind: str, name: str) -> Any:
    return document()["components"][kind][name]


def resolved(reference: str) -> Any:
    """Return what a reference within the document leads to."""
    found: Any = document()
    for part in reference.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return found


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a part of the document."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        yield from itertools.chain.from_iterable(map(nodes, value))


def fits(value: Any, schema: Mapping[str, Any], whole: Mapping[str, Any] | None = None) -> bool:
    """Tell whether a value is good.

    Args:
        value: as in JSON.
        schema: may refer to components.
        whole: the document with these; by default the document as it is.
    """
    components = (document() if whole is None else whole)["components"]
    validator = jsonschema_rs.validator_for(
        {**schema, "components": components}, validate_formats=True
    )
    return validator.is_valid(value)


def closed(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document whose schemas refuse every field that they do not describe.

    Clients must pass over fields that they do not know, but there must be none.
    """
    changed = copy.deepcopy(dict(whole))
    for schema in nodes(changed["components"]["schemas"]):
        if schema.get("type") == "object" and "properties" in schema:
            schema["additionalProperties"] = False
    return changed
