"""A provider whose answers kube-apiserver would refuse does not begin to serve."""

from __future__ import annotations

import pytest

from keycore.errors import SetupError, TokenUnavailableError
from keyplugin.self_check import refuse_wrong_answers
from tests.fakes.installation import FakeInstallation
from tests.unit.keyplugin.conftest import BindKey


def test_right_answers_pass(here: FakeInstallation, bind_key: BindKey) -> None:
    bind_key()
    here.core.kms.refresh()

    refuse_wrong_answers(here.core.kms)


def test_an_unbound_provider_passes(here: FakeInstallation) -> None:
    here.core.kms.refresh()

    refuse_wrong_answers(here.core.kms)


def test_a_token_that_is_away_passes(
    here: FakeInstallation, bind_key: BindKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a provider serves what it can, and says in Status what is wrong."""
    bind_key()
    here.core.kms.refresh()

    def fail(*_: object) -> bytes:
        raise TokenUnavailableError("the token does not answer")

    monkeypatch.setattr(here.token, "encrypt", fail)

    refuse_wrong_answers(here.core.kms)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ((bytes(1025), None), "1025 bytes"),
        ((b"", None), "0 bytes"),
        ((bytes(78), "another"), "another one than Status reported"),
        ((bytes(78), ""), "key_id is empty"),
    ],
    ids=["too long", "empty", "another key_id", "no key_id"],
)
def test_a_wrong_answer_is_refused_and_named(
    here: FakeInstallation,
    bind_key: BindKey,
    monkeypatch: pytest.MonkeyPatch,
    answer: tuple[bytes, str | None],
    fault: str,
) -> None:
    bind_key()
    here.core.kms.refresh()
    ciphertext, key_id = answer
    right = here.core.kms.outlook().key_id
    made = (ciphertext, right if key_id is None else key_id)
    monkeypatch.setattr(here.core.kms, "encrypt", lambda *_: made)

    with pytest.raises(SetupError, match=fault):
        refuse_wrong_answers(here.core.kms)


def test_a_key_id_that_is_too_long_is_refused(
    here: FakeInstallation, bind_key: BindKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind_key()
    here.core.kms.refresh()
    outlook = here.core.kms.outlook()
    monkeypatch.setattr(
        here.core.kms, "outlook", lambda: type(outlook)(outlook.healthz, 1025 * "x")
    )

    with pytest.raises(SetupError, match="1025 bytes"):
        refuse_wrong_answers(here.core.kms)
