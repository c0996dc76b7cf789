"""What kube-apiserver takes from a KMS v2 provider, and what it refuses.

The bounds are those of its own client (``k8s.io/apiserver``, ``envelope/kmsv2`` and
``encryptionconfig``), read in 1.37.2. ``keyplane probe`` holds every provider to them,
and ours holds itself to them at its start. No sentence here shows a ``key_id`` or a
ciphertext: they may come from a provider that puts a secret into them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

API_VERSION: Final = "v2"
"""The ``version`` that a provider answers (``StatusResponse``, field 1)."""

FORMER_API_VERSION: Final = "v2beta1"
"""The version before it, which the API server still takes."""

HEALTHY: Final = "ok"
"""The one ``healthz`` that counts as healthy (``StatusResponse``, field 2)."""

KEY_ID_BYTES_MAX: Final = 1024
"""Longest ``key_id``; an empty one makes the API server stop writing within 3 minutes."""

CIPHERTEXT_BYTES_MAX: Final = 1024
"""Longest ciphertext of a seed (``encryptedDEKSourceMaxSize``)."""

ANNOTATIONS_BYTES_MAX: Final = 32 * 1024
"""All names and values of the annotations together."""

_NAME_CHARACTERS_MAX: Final = 253

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A DNS label (RFC 1123), which Kubernetes takes in small letters only."""

_SHOWN_CHARACTERS_MAX: Final = 60


def faults_of_status(version: str, healthz: str, key_id: str) -> list[str]:
    """Tell what the API server refuses of a Status answer.

    Args:
        version: ``StatusResponse.version``.
        healthz: ``StatusResponse.healthz``; it is quoted, since it is made to be read.
        key_id: ``StatusResponse.key_id``.

    Returns:
        One sentence for each fault; none when the provider counts as healthy.
    """
    faults = []
    if version not in (API_VERSION, FORMER_API_VERSION):
        faults.append(f"version is {_quoted(version)}, and the protocol's is {API_VERSION!r}")
    if healthz != HEALTHY:
        faults.append(f"healthz is {_quoted(healthz)}, and only {HEALTHY!r} counts as healthy")
    return faults + _faults_of_key_id(key_id)


def faults_of_encryption(
    ciphertext: bytes, key_id: str, annotations: Mapping[str, bytes], *, status_key_id: str
) -> list[str]:
    """Tell why the API server would throw away the answer to an Encrypt.

    Args:
        ciphertext: ``EncryptResponse.ciphertext``.
        key_id: ``EncryptResponse.key_id``.
        annotations: ``EncryptResponse.annotations``.
        status_key_id: what the last Status has said, which is authoritative.

    Returns:
        One sentence for each fault; none when the answer is taken.
    """
    faults = []
    if not 1 <= len(ciphertext) <= CIPHERTEXT_BYTES_MAX:
        faults.append(
            f"the ciphertext has {len(ciphertext)} bytes, and may have 1 to {CIPHERTEXT_BYTES_MAX}"
        )
    faults += _faults_of_key_id(key_id)
    if key_id and key_id != status_key_id:
        faults.append("the key_id is another one than Status reported")
    return faults + _faults_of_annotations(annotations)


def _faults_of_key_id(key_id: str) -> list[str]:
    size = len(key_id.encode())
    if size == 0:
        return ["the key_id is empty"]
    if size > KEY_ID_BYTES_MAX:
        return [f"the key_id has {size} bytes, and may have {KEY_ID_BYTES_MAX}"]
    return []


def _faults_of_annotations(annotations: Mapping[str, bytes]) -> list[str]:
    faults = [
        f"the annotation name {_quoted(name)} is not a fully qualified domain name"
        for name in sorted(annotations)
        if not _is_domain_name(name)
    ]
    size = sum(len(name.encode()) + len(value) for name, value in annotations.items())
    if size > ANNOTATIONS_BYTES_MAX:
        faults.append(f"the annotations have {size} bytes, and may have {ANNOTATIONS_BYTES_MAX}")
    return faults


def _is_domain_name(name: str) -> bool:
    # One dot at the end is allowed, as in DNS.
    bare = name.removesuffix(".")
    labels = bare.split(".")
    return (
        len(bare) <= _NAME_CHARACTERS_MAX
        and len(labels) > 1
        and all(_LABEL.fullmatch(label) for label in labels)
    )


def _quoted(text: str) -> str:
    """Return a provider's text for a message: printable, and not endless."""
    return ascii(text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[:_SHOWN_CHARACTERS_MAX]}…")
