"""The application keeps to its document, whatever schemathesis sends it.

A whole run goes through schemathesis' phases: the document's examples, every boundary
of every schema, random data, and scenarios along the document's links. The runs here
are short and take the same way every time; a long one has another ``seed``, a greater
``max-examples`` and no ``deterministic``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from keyrest.openapi.document import document
from tests.fakes.rest_site import RestSite, rest_site
from tests.integration.keyrest.conformance import run
from tests.unit.keyrest.documented import closed, operations

OFF = {"enabled": False}

LIFE_OF_A_KEY = (
    *("createKey", "getKey", "wrapKey", "unwrapKey", "rewrapKey", "rotateKey", "deleteKey"),
)


@pytest.fixture
def site() -> Iterator[RestSite]:
    with rest_site() as site:
        yield site


def short(count: int, **phases: Any) -> dict[str, Any]:
    """Return the configuration of a run that takes the same way every time."""
    generation = {"max-examples": count, "deterministic": True, "database": "none"}
    return {"seed": 1, "generation": generation, "phases": phases}


def test_the_application_keeps_to_its_document(site: RestSite) -> None:
    found = run(site, closed(document()), role="Administrator", **short(5))

    assert not found.faults, "\n\n".join(found.faults)
    assert found.ledger.statuses.keys() == {" ".join(key) for key in operations()}


def test_what_is_done_to_a_key_fits_together(site: RestSite) -> None:
    config = short(40, examples=OFF, coverage=OFF, fuzzing=OFF)
    found = run(site, closed(document()), role="Administrator", only=LIFE_OF_A_KEY, **config)

    assert not found.faults, "\n\n".join(found.faults)
    assert found.ledger.unwrapped
    assert found.ledger.deleted


@pytest.mark.parametrize("role", ["ClusterAdministrator", "Editor", "Viewer", "Nobody"])
def test_the_document_names_the_roles_of_each_operation(site: RestSite, role: str) -> None:
    by_the_other_prefix = closed(document())
    by_the_other_prefix["servers"].reverse()
    config = short(5, examples=OFF, coverage=OFF, stateful=OFF)
    found = run(site, by_the_other_prefix, role=role, **config)

    assert not found.faults, "\n\n".join(found.faults)
    for label, statuses in found.ledger.statuses.items():
        described = operations()[tuple(label.split())]["description"]
        named = re.search(r"\*\*Roles\*\*: (.*)\.$", described)
        if named is not None:
            refused = role not in named[1].split(", ")
            assert (403 in statuses, min(statuses) < 300) == (refused, not refused), label
