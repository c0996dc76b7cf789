"""The small pieces that every part of the document is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Node = dict[str, Any]
"""One object of the document, as it will stand in JSON."""

JSON_TYPE = "application/json"


def reference(kind: str, name: str) -> Node:
    """Return a reference to a component, such as ``schemas`` and ``Key``."""
    return {"$ref": f"#/components/{kind}/{name}"}


def content(media_types: Sequence[str], schema: Node, examples: Node | None = None) -> Node:
    """Return one schema under each of the media types."""
    described = {"schema": schema, **({"examples": examples} if examples else {})}
    return dict.fromkeys(media_types, described)


def object_of(properties: Node, *, without: Sequence[str] = ()) -> Node:
    """Return an object in which everything is required but what it may be ``without``."""
    required = [name for name in properties if name not in without]
    return {"type": "object", "properties": properties, "required": required}


def text_of(lengths: range) -> Node:
    """Return the bounds of a text's length, counted in Unicode code points."""
    return {"minLength": lengths.start, "maxLength": lengths.stop - 1}


def integer(*, least: int, most: int, default: int) -> Node:
    """Return a whole number within bounds, both inclusive."""
    return {"type": "integer", "minimum": least, "maximum": most, "default": default}
