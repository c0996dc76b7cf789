"""The documentation lists what the faces show, and their names follow one scheme."""

from __future__ import annotations

import re

import pytest

from keywatch.families import Family, Kind
from testbed.metrics_page import FACES, PAGE, page

PARTS = {
    "provider": {"kms", "token", "store", "audit", "build"},
    "operator": {"operator", "token", "store", "audit", "build"},
    "REST face": {"rest", "token", "store", "audit", "build"},
}

EVERYTHING = sorted(
    {family for families in FACES.values() for family in families}, key=lambda each: each.name
)


def test_the_page_is_what_the_faces_show() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert text == page(text), "write it anew: make metrics-docs"


def test_every_metric_that_the_page_speaks_of_exists() -> None:
    """Queries too, which are written by hand."""
    text = PAGE.read_text(encoding="utf-8")
    spoken = set(re.findall(r"\b(?:keyplane|process)_[a-z_]*[a-z]\b", text))

    assert spoken - {"uses_ratio"} <= {family.name for family in EVERYTHING}


@pytest.mark.parametrize("face", FACES)
def test_every_name_has_a_part_of_its_face_or_is_the_librarys(face: str) -> None:
    for family in FACES[face]:
        head, part = family.name.split("_")[:2]
        assert head == "process" or (head == "keyplane" and part in PARTS[face]), family.name


@pytest.mark.parametrize("family", EVERYTHING, ids=lambda family: family.name)
def test_a_name_tells_what_it_is(family: Family) -> None:
    ending = family.name.rpartition("_")[2]

    assert (ending == "total") == (family.kind is Kind.COUNTER)
    if family.kind is Kind.HISTOGRAM:
        assert ending == "seconds"
    if ending == "info":
        assert family.labels


@pytest.mark.parametrize("family", EVERYTHING, ids=lambda family: family.name)
def test_every_text_is_a_sentence_that_a_table_can_hold(family: Family) -> None:
    assert family.text[0].isupper() or family.text[0].isdigit()
    assert family.text.endswith(".")
    assert not set("|`\n") & set(family.text)


def test_no_label_can_name_a_key_or_a_caller() -> None:
    labels = {label for family in EVERYTHING for label in family.labels}

    assert labels == {
        "version",
        "face",
        "method",
        "code",
        "operation",
        "outcome",
        "status",
        "state",
        "policy",
        "which",
        "engine",
        "ready",
        "provider_name",
        "key_id_hash",
    }
