"""The servicer translates, and leaves decisions and errors to the core."""

from __future__ import annotations

from typing import cast

import pytest
from grpc import ServicerContext
from hypothesis import example, given
from hypothesis import strategies as st

from keycore.errors import CiphertextRejectedError, InvalidRequestError, ProviderUnboundError
from keyplugin.kmsapi.api_pb2 import DecryptRequest, EncryptRequest, StatusRequest
from keyplugin.servicer import LOOKING, KmsServicer, caller_of
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keyplugin.conftest import BindKey

SEED = bytes(range(32))


class Context:
    """As much of a call as the servicer looks at."""

    def __init__(self, *metadata: tuple[str, str]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


CONTEXT = cast("ServicerContext", Context())
LOOK = cast("ServicerContext", Context(LOOKING))


@pytest.fixture
def servicer(here: FakeInstallation) -> KmsServicer:
    return KmsServicer(here.core.kms)


def test_status_reports_version_health_and_key_id(
    here: FakeInstallation, servicer: KmsServicer, bind_key: BindKey
) -> None:
    bind_key()
    here.core.kms.refresh()

    status = servicer.Status(StatusRequest(), CONTEXT)

    assert (status.version, status.healthz) == ("v2", "ok")
    assert status.key_id


def test_an_unbound_provider_has_no_key_id_and_names_the_fix(
    here: FakeInstallation, servicer: KmsServicer
) -> None:
    here.core.kms.refresh()

    status = servicer.Status(StatusRequest(), CONTEXT)

    assert status.key_id == ""
    assert "keyplane provider set keyplane --key <key id>" in status.healthz


def test_what_was_encrypted_is_decrypted(
    here: FakeInstallation, servicer: KmsServicer, bind_key: BindKey
) -> None:
    bind_key()
    here.core.kms.refresh()

    closed = servicer.Encrypt(EncryptRequest(plaintext=SEED, uid="1"), CONTEXT)
    opened = servicer.Decrypt(
        DecryptRequest(ciphertext=closed.ciphertext, key_id=closed.key_id, uid="2"), CONTEXT
    )

    assert opened.plaintext == SEED


def test_encrypt_answers_with_the_key_id_of_status(
    here: FakeInstallation, servicer: KmsServicer, bind_key: BindKey
) -> None:
    bind_key()
    here.core.kms.refresh()

    closed = servicer.Encrypt(EncryptRequest(plaintext=SEED), CONTEXT)

    assert closed.key_id == servicer.Status(StatusRequest(), CONTEXT).key_id


def test_a_look_at_status_does_not_change_what_encrypts(
    here: FakeInstallation, servicer: KmsServicer, bind_key: BindKey
) -> None:
    key = bind_key()
    here.core.kms.refresh()
    reported = servicer.Status(StatusRequest(), CONTEXT).key_id
    here.core.keys.rotate(CALLER, key.id)
    here.core.kms.refresh()

    looked = servicer.Status(StatusRequest(), LOOK).key_id

    assert looked != reported
    assert servicer.Encrypt(EncryptRequest(plaintext=SEED), CONTEXT).key_id == reported


def test_errors_of_the_core_leave_unchanged(here: FakeInstallation, servicer: KmsServicer) -> None:
    here.core.kms.refresh()

    with pytest.raises(ProviderUnboundError):
        servicer.Encrypt(EncryptRequest(plaintext=SEED), CONTEXT)
    with pytest.raises(InvalidRequestError):
        servicer.Encrypt(EncryptRequest(plaintext=b""), CONTEXT)
    with pytest.raises(CiphertextRejectedError):
        servicer.Decrypt(DecryptRequest(ciphertext=b"x" * 47, key_id="unknown"), CONTEXT)


def test_the_audit_line_names_face_caller_and_uid(
    here: FakeInstallation, servicer: KmsServicer, bind_key: BindKey
) -> None:
    bind_key()
    here.core.kms.refresh()

    servicer.Encrypt(EncryptRequest(plaintext=SEED, uid="c0ffee"), CONTEXT)

    line = here.audit.last("kms.encrypt")
    assert (line.face, line.actor, line.correlation_id) == ("provider", "kube-apiserver", "c0ffee")


@given(st.text())
@example("x" * 129)
def test_a_uid_reaches_the_audit_line_short_and_printable(uid: str) -> None:
    correlation_id = caller_of(uid).correlation_id

    assert len(correlation_id) <= 128
    assert correlation_id.isprintable()


def test_a_usual_uid_reaches_the_audit_line_as_it_is() -> None:
    uid = "5ac6a2a5-6b5e-4f7e-8a43-0d3d9a4ea4e7"

    assert caller_of(uid).correlation_id == uid
