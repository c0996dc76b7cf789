"""The answers that kube-apiserver takes, at their bounds and one step beyond."""

from __future__ import annotations

import pytest

from keyplugin.rules import (
    ANNOTATIONS_BYTES_MAX,
    faults_of_encryption,
    faults_of_status,
)

KEY_ID = "6f9c"


def encryption_faults(
    *,
    ciphertext: bytes = b"c",
    key_id: str = KEY_ID,
    annotations: dict[str, bytes] | None = None,
    status_key_id: str | None = None,
) -> list[str]:
    return faults_of_encryption(
        ciphertext, key_id, annotations or {}, status_key_id=status_key_id or key_id
    )


# --- Status -----------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v2", "v2beta1"])
def test_a_healthy_status_has_no_fault(version: str) -> None:
    assert faults_of_status(version, "ok", KEY_ID) == []


@pytest.mark.parametrize("version", ["", "v1", "v2alpha1", "V2", "v2 "])
def test_another_version_is_a_fault(version: str) -> None:
    assert faults_of_status(version, "ok", KEY_ID) == [
        f"version is {version!r}, and the protocol's is 'v2'"
    ]


@pytest.mark.parametrize("healthz", ["", "OK", "ok ", "the token is gone"])
def test_only_the_word_ok_counts_as_healthy(healthz: str) -> None:
    assert faults_of_status("v2", healthz, KEY_ID) == [
        f"healthz is {healthz!r}, and only 'ok' counts as healthy"
    ]


def test_an_empty_key_id_is_a_fault_even_of_a_healthy_provider() -> None:
    assert faults_of_status("v2", "ok", "") == ["the key_id is empty"]


def test_all_faults_of_a_status_are_told_at_once() -> None:
    assert len(faults_of_status("v1", "bad", "")) == 3


def test_a_long_text_of_a_provider_is_cut_and_made_printable() -> None:
    (fault,) = faults_of_status("v2", "\x1b[31m" + "x" * 5000, KEY_ID)

    assert len(fault) < 200
    assert fault.isprintable()
    assert fault.isascii()


# --- key_id -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key_id", "accepted"),
    [("k" * 1024, True), ("k" * 1025, False), ("é" * 512, True), ("é" * 513, False)],
    ids=["1024 bytes", "1025 bytes", "1024 bytes of UTF-8", "1026 bytes of UTF-8"],
)
def test_a_key_id_is_measured_in_bytes(key_id: str, accepted: bool) -> None:
    assert (faults_of_status("v2", "ok", key_id) == []) is accepted
    assert (encryption_faults(key_id=key_id) == []) is accepted


def test_an_encryption_under_another_key_id_than_status_is_a_fault() -> None:
    assert encryption_faults(key_id="other", status_key_id=KEY_ID) == [
        "the key_id is another one than Status reported"
    ]


def test_no_key_id_is_shown() -> None:
    told = [
        *faults_of_status("v1", "bad", "s" * 2000),
        *encryption_faults(key_id="secret", status_key_id=KEY_ID),
    ]

    assert [fault for fault in told if "sss" in fault or "secret" in fault] == []


# --- ciphertext -------------------------------------------------------------------


@pytest.mark.parametrize(("size", "accepted"), [(0, False), (1, True), (1024, True), (1025, False)])
def test_a_ciphertext_has_1_to_1024_bytes(size: int, accepted: bool) -> None:
    assert (encryption_faults(ciphertext=bytes(size)) == []) is accepted


# --- annotations ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["version.kms.example.com", "a.b", "a.b.", "x-1.example", "1.2", "a" * 63 + ".b"],
)
def test_a_fully_qualified_domain_name_is_accepted(name: str) -> None:
    assert encryption_faults(annotations={name: b"value"}) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "version",
        "example.com/version",
        "Example.com",
        "under_score.example.com",
        "-a.example.com",
        "a-.example.com",
        "a..b",
        "a.b..",
        "a.b\n",
        "a" * 64 + ".b",
        ".".join(["a" * 50] * 6),
    ],
)
def test_any_other_annotation_name_is_a_fault(name: str) -> None:
    (fault,) = encryption_faults(annotations={name: b"value"})

    assert fault.startswith("the annotation name ")


def test_every_annotation_name_is_checked() -> None:
    assert len(encryption_faults(annotations={"one": b"", "a.b": b"", "two": b""})) == 2


@pytest.mark.parametrize("over", [0, 1])
def test_names_and_values_of_annotations_count_together(over: int) -> None:
    annotations = {"a.b": b"", "a.c": bytes(ANNOTATIONS_BYTES_MAX - 6 + over)}

    assert len(encryption_faults(annotations=annotations)) == over
