"""The messages have the names, numbers and types that Kubernetes has fixed."""

from __future__ import annotations

import pytest

from keyplugin.kmsapi import api_pb2

SERVICE = api_pb2.DESCRIPTOR.services_by_name["KeyManagementService"]
STRING, BYTES, MESSAGE = 9, 12, 11


def test_the_service_is_called_as_kube_apiserver_calls_it() -> None:
    assert SERVICE.full_name == "v2.KeyManagementService"
    assert {method.name for method in SERVICE.methods} == {"Status", "Encrypt", "Decrypt"}


@pytest.mark.parametrize("name", ["Status", "Encrypt", "Decrypt"])
def test_a_method_takes_one_message_and_returns_one(name: str) -> None:
    method = SERVICE.methods_by_name[name]

    assert method.input_type.name == f"{name}Request"
    assert method.output_type.name == f"{name}Response"
    assert not method.client_streaming
    assert not method.server_streaming


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("StatusRequest", set()),
        ("StatusResponse", {("version", 1, STRING), ("healthz", 2, STRING), ("key_id", 3, STRING)}),
        ("EncryptRequest", {("plaintext", 1, BYTES), ("uid", 2, STRING)}),
        (
            "EncryptResponse",
            {("ciphertext", 1, BYTES), ("key_id", 2, STRING), ("annotations", 3, MESSAGE)},
        ),
        (
            "DecryptRequest",
            {
                ("ciphertext", 1, BYTES),
                ("uid", 2, STRING),
                ("key_id", 3, STRING),
                ("annotations", 4, MESSAGE),
            },
        ),
        ("DecryptResponse", {("plaintext", 1, BYTES)}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_message_has_exactly_these_fields(
    message: str, fields: set[tuple[str, int, int]]
) -> None:
    descriptor = api_pb2.DESCRIPTOR.message_types_by_name[message]

    assert {(f.name, f.number, f.type) for f in descriptor.fields} == fields


@pytest.mark.parametrize("message", ["EncryptResponse", "DecryptRequest"])
def test_annotations_are_a_map_from_text_to_bytes(message: str) -> None:
    descriptor = api_pb2.DESCRIPTOR.message_types_by_name[message]
    entry = descriptor.fields_by_name["annotations"].message_type

    assert entry.GetOptions().map_entry
    assert [(f.name, f.type) for f in entry.fields] == [("key", STRING), ("value", BYTES)]
