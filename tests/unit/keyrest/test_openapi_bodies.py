"""The document says of a request what the face does with it: neither more nor less is good."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from keycore.domain import ids, keys
from keycore.domain.envelope import check_plaintext, encode_aad
from keycore.domain.keys import check_material
from keycore.errors import KeyplaneError
from keycore.service.creation import KeyMaker
from keyrest import schemas
from keyrest.openapi.bodies import ALIAS_PATTERN, UUID_PATTERN
from tests.fakes.memory_token import InsecureMemoryToken
from tests.fakes.rest_site import KEY_TYPE, new_key
from tests.unit.keyrest.documented import component, fits

KEY = "0b000000-0000-4000-8000-000000000002"


@pytest.mark.parametrize(
    "model",
    [
        *(schemas.KeyCollection, schemas.CollectionMetadata, schemas.KeyResource),
        *(schemas.WrapBody, schemas.UnwrapBody, schemas.RotateBody, schemas.EmptyBody),
    ],
)
def test_a_body_has_the_fields_of_its_model(model: type[BaseModel]) -> None:
    schema = component("schemas", model.__name__)
    required = [name for name, field in model.model_fields.items() if field.is_required()]

    assert [*schema["properties"]] == [*model.model_fields]
    assert schema.get("required", []) == required
    assert schema["additionalProperties"] is False


def sized(count: int) -> str:
    return base64.b64encode(bytes(count)).decode()


def accepted(check: Callable[[], object]) -> bool:
    try:
        check()
    except KeyplaneError:
        return False
    return True


NOT_BASE64 = ("", "AAA", "AB==", "AAB=", "A\n==", "AA==\n", "-_==", "AAAA====", "=AAA")
"""In ``AB==`` and ``AAB=`` a bit is set that stands for nothing."""


@pytest.mark.parametrize("text", [*map(sized, (1, 2, 3, 4095, 4096, 4097, 4098)), *NOT_BASE64])
def test_document_and_face_agree_about_plaintexts(text: str) -> None:
    body = json.dumps({"plaintext": text}).encode()

    def check() -> None:
        given = schemas.read_wrap(body).plaintext
        check_plaintext(given or b"")

    assert fits(json.loads(body), component("schemas", "WrapBody")) is accepted(check)


@pytest.mark.parametrize(
    "text",
    [
        *map(sized, (31, 32, 33, 47, 48, 49, 63, 64, 65)),
        *(sized(32)[:-2] + "B=", sized(64)[:-3] + "B=="),
        *NOT_BASE64,
    ],
)
def test_document_and_face_agree_about_key_material(text: str) -> None:
    body = json.dumps({"payload": text}).encode()

    def check() -> None:
        check_material(schemas.read_rotate(body) or b"")

    assert fits(json.loads(body), component("schemas", "RotateBody")) is accepted(check)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("name", ["ab", "é" * 90], ["a", "é" * 91, None, 1]),
        ("description", ["ab", "é" * 240, None], ["a", "é" * 241, ""]),
        ("tags", [["a"] * 30, ["é" * 128], [], None], [["a"] * 31, [""], ["é" * 129], [None]]),
        ("aliases", [["a_"], ["a" * 90], ["aa", "ab"], None], [["a"], ["a" * 91], ["ä_"], "ab"]),
        ("aliases", [["aa", "ab", "ac", "ad", "ae"]], [["aa", "aa"], [f"a{n}" for n in range(6)]]),
        ("aliases", [[f"{KEY}0"]], [[KEY], [KEY.upper()]]),
        ("extractable", [True, False], [None, "true", 1]),
        ("type", [KEY_TYPE, None], ["application/json"]),
        ("expirationDate", ["2031-01-02T03:04:05.678+01:00", None], ["2031-01-02", "soon", 1]),
    ],
)
def test_document_and_face_agree_about_a_new_key(
    name: str, good: list[Any], bad: list[Any]
) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    maker = KeyMaker(InsecureMemoryToken())
    for value, agreed in [*((value, True) for value in good), *((value, False) for value in bad)]:
        body = new_key(**{name: value})
        read = json.dumps(body).encode()

        assert accepted(lambda read=read: maker.check(schemas.read_new_key(read), now)) is agreed
        assert fits(body, component("schemas", "KeyCollection")) is agreed, value


@pytest.mark.parametrize(
    ("aad", "agreed"),
    [
        ([], True),
        ([""] * 126, True),
        (["😀" * 255], True),
        ([""] * 127, False),
        (["😀" * 256], False),
        ([None], False),
    ],
)
def test_document_and_face_agree_about_aads(aad: list[Any], agreed: bool) -> None:
    body = json.dumps({"aad": aad}).encode()

    assert accepted(lambda: encode_aad(schemas.read_wrap(body).aad)) is agreed
    assert fits(json.loads(body), component("schemas", "WrapBody")) is agreed


def test_an_id_or_an_alias_fits_into_a_path() -> None:
    assert f"^{keys._ALIAS.pattern}$" == ALIAS_PATTERN
    assert re.fullmatch(ALIAS_PATTERN, KEY)
    assert f"^{ids._UUID.pattern}$" == UUID_PATTERN
