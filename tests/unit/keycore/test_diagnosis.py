"""What is said of token, records, provider and keyring, on fakes."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keycore.adapters.keyring_file import FileKeyring
from keycore.diagnosis import clock, provider, store, token
from keycore.diagnosis.examination import Examination
from keycore.diagnosis.findings import Verdict
from keycore.diagnosis.survey import Survey
from keycore.domain.keyring import NodeKeyring
from keycore.domain.keys import Key
from keycore.ports import Signed
from keycore.service.creation import NewKey
from keycore.service.use_budget import RESERVED_MAX
from tests.fakes.installation import CALLER, FakeInstallation, fake_installation


class ToldToken:
    """Answers as the child process would, and verifies as the fake token does."""

    def __init__(self, here: FakeInstallation) -> None:
        self.answers: dict[str, dict[str, Any]] = {}
        self.is_signed = here.token.is_signed
        self.sign = here.token.sign

    def ask(self, question: str, **_: Any) -> dict[str, Any]:
        return self.answers.get(question, {})


@pytest.fixture
def here() -> FakeInstallation:
    return fake_installation()


@pytest.fixture
def key(here: FakeInstallation) -> Key:
    """A key that the provider encrypts with."""
    key = here.core.keys.create(CALLER, here.instance.id, NewKey("etcd"))
    here.core.providers.bind(CALLER, "keyplane", key.id)
    return key


@pytest.fixture
def told(here: FakeInstallation) -> ToldToken:
    return ToldToken(here)


@pytest.fixture
def examination(here: FakeInstallation, told: ToldToken, tmp_path: Path) -> Examination:
    """An examination whose settings, store and token are there."""
    examination = Examination(lambda: here.core.settings, None, here.clock, ExitStack())
    kept = here.core.settings.provider.model_copy(update={"keyring": tmp_path / "keyring.json"})
    examination.settings = here.core.settings.model_copy(update={"provider": kept})
    examination.store = here.store
    examination.installation = here.core.installation
    examination.__dict__["token"] = told
    return examination


def short(verdicts: list[Verdict]) -> list[tuple[str, str]]:
    return [(verdict.outcome.value, verdict.what) for verdict in verdicts]


# --- token -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "outcome", "said"),
    [
        ([], "ok", "counts no wrong PIN"),
        (["USER_PIN_COUNT_LOW"], "warning", "a wrong PIN was sent"),
        (["USER_PIN_COUNT_LOW", "USER_PIN_FINAL_TRY"], "fault", "no login is tried"),
        (["USER_PIN_FINAL_TRY", "USER_PIN_LOCKED"], "fault", "locked the user PIN"),
        (["USER_PIN_TO_BE_CHANGED"], "fault", "another user PIN"),
        (["ERROR_STATE"], "fault", "failed its own tests"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_the_state_of_the_pin_is_read_before_a_login(
    examination: Examination, told: ToldToken, flags: list[str], outcome: str, said: str
) -> None:
    told.answers["token"] = {"flags": ["USER_PIN_INITIALIZED", *flags]}

    ((found, what),) = short(list(token.check_pin_state(examination)))

    assert (found, said in what) == (outcome, True)


def test_a_token_without_a_user_pin_is_a_fault(examination: Examination, told: ToldToken) -> None:
    told.answers["token"] = {"flags": []}

    assert short(list(token.check_pin_state(examination))) == [
        ("fault", "the token has no user PIN yet")
    ]


def the_objects(**changed: Any) -> dict[str, Any]:
    attributes = {
        "EXTRACTABLE": {"is": False, "should": False},
        "COPYABLE": {"is": None, "should": False},
        "WRAP": {"is": True, "should": True},
    }
    facts = {"count": 1, "attributes": attributes | changed.pop("attributes", {})}
    return {"objects": {"keyplane-master": facts | changed}}


def test_objects_as_init_makes_them_are_well_even_where_an_attribute_cannot_be_read(
    examination: Examination, told: ToldToken
) -> None:
    told.answers["objects"] = the_objects()

    assert short(list(token.check_objects(examination))) == [
        ("ok", "keyplane-master: as keyplane init makes them")
    ]


def test_an_object_that_is_weaker_is_a_fault_with_every_attribute(
    examination: Examination, told: ToldToken
) -> None:
    weak = {"EXTRACTABLE": {"is": True, "should": False}, "WRAP": {"is": False, "should": True}}
    told.answers["objects"] = the_objects(attributes=weak)

    ((found, what),) = short(list(token.check_objects(examination)))

    assert found == "fault"
    assert what.endswith("CKA_EXTRACTABLE is TRUE, CKA_WRAP is FALSE")


@pytest.mark.parametrize("count", [0, 2])
def test_an_object_must_be_there_once(
    examination: Examination, told: ToldToken, count: int
) -> None:
    told.answers["objects"] = the_objects(count=count)

    assert short(list(token.check_objects(examination))) == [
        ("fault", f"the token holds {count} objects keyplane-master, expected one")
    ]


@pytest.mark.parametrize(("guards", "outcome"), [(True, "ok"), (False, "warning")])
def test_a_token_that_guards_nothing_is_a_warning(
    examination: Examination, told: ToldToken, guards: bool, outcome: str
) -> None:
    told.answers["guarantee"] = {"guards": guards}

    ((found, what),) = short(list(token.check_guarantee(examination)))

    assert found == outcome
    assert ("PIN holder = key custodian" in what) is not guards


@pytest.mark.parametrize(
    ("question", "changed", "said"),
    [
        ("known_answers", {"encryption": False}, "AES-256-GCM under a known key"),
        ("known_answers", {"hmac": False}, "HMAC-SHA-256 under a known key"),
        ("round_trip", {"root_key": False}, "a root key does not open"),
        ("round_trip", {"forgery_refused": False}, "a changed ciphertext is opened"),
        ("round_trip", {"sealing_key": False}, "the sealing key does not open"),
    ],
)
def test_a_wrong_answer_of_the_token_is_a_fault(
    examination: Examination,
    told: ToldToken,
    question: str,
    changed: dict[str, bool],
    said: str,
) -> None:
    told.answers["round_trip"] = {"root_key": True, "forgery_refused": True, "sealing_key": True}
    told.answers["known_answers"] = {"cipher": "gcm", "encryption": True, "hmac": True}
    told.answers[question] |= changed

    ((found, what),) = short(list(token.check_known_answers(examination)))

    assert (found, said in what) == ("fault", True)


@pytest.mark.parametrize(
    "changed", [{"repeated": True}, {"distinct": 3}, {"lengths": [32, 16]}], ids=str
)
def test_random_bytes_that_are_none_are_a_fault(
    examination: Examination, told: ToldToken, changed: dict[str, Any]
) -> None:
    told.answers["random"] = {"repeated": False, "distinct": 30, "lengths": [32, 32]} | changed

    (found,) = token.check_random(examination)

    assert found.outcome == "fault"


# --- records -----------------------------------------------------------------------


def break_key(here: FakeInstallation, key_id: str) -> None:
    """Change a stored key without signing it."""
    with here.store.writing() as rows:
        signed = rows.keys.get(key_id)  # type: ignore[arg-type]
        assert signed is not None
        rows.keys.save(
            Signed(replace(signed.record, name="evil"), signed.record_format, signed.mac)
        )


def test_every_record_is_verified(
    here: FakeInstallation, key: Key, examination: Examination
) -> None:
    here.core.kms.refresh()

    # An instance, a key, a provider and a node.
    assert short(list(store.check_records(examination))) == [
        ("ok", "4 records are as the token signed them")
    ]


def test_each_broken_key_among_many_is_named_and_no_other(
    here: FakeInstallation, examination: Examination
) -> None:
    keys = [
        here.core.keys.create(CALLER, here.instance.id, NewKey(f"key-{number}"))
        for number in range(9)
    ]
    broken = {keys[2].id, keys[7].id}
    for key_id in broken:
        break_key(here, key_id)

    found = short(list(store.check_records(examination)))

    assert [outcome for outcome, _ in found] == ["fault", "fault"]
    for key in keys:
        assert any(key.id in what for _, what in found) is (key.id in broken)
    assert examination.survey.verified == 8


def test_many_broken_keys_are_counted(here: FakeInstallation, examination: Examination) -> None:
    for number in range(8):
        made = here.core.keys.create(CALLER, here.instance.id, NewKey(f"key-{number}"))
        break_key(here, made.id)

    found = short(list(store.check_records(examination)))

    assert found[-1] == ("fault", "3 records more fail their integrity check")


def test_keys_for_which_there_is_no_time_are_counted(
    key: Key, here: FakeInstallation, examination: Examination
) -> None:
    survey = Survey(examination.records, here.clock.now())

    survey.run(latest=float("-inf"))

    assert survey.left == 1


@pytest.mark.parametrize(
    ("part", "outcome"), [(0.4, "ok"), (0.5, "warning"), (0.99, "warning"), (1, "fault")]
)
def test_a_key_version_is_watched_from_half_of_its_bound_on(
    here: FakeInstallation, key: Key, examination: Examination, part: float, outcome: str
) -> None:
    here.store.reserve_uses([key.current.id], int(part * RESERVED_MAX), RESERVED_MAX)
    list(store.check_records(examination))

    (found,) = store.check_uses(examination)

    assert found.outcome == outcome
    assert outcome == "ok" or f"keyplane keys rotate {key.id}" in found.advice


@pytest.mark.parametrize(("seconds", "outcome"), [(2, "ok"), (60, "fault")])
def test_a_clock_before_the_newest_record_is_a_fault(
    here: FakeInstallation, key: Key, examination: Examination, seconds: int, outcome: str
) -> None:
    list(store.check_records(examination))
    here.clock.advance(seconds=-seconds)

    (found,) = clock.check_time(examination)

    assert found.outcome == outcome


@pytest.mark.parametrize(
    ("synchronised", "outcome"), [(True, "ok"), (False, "warning"), (None, "ok")]
)
def test_a_clock_that_nothing_keeps_right_is_a_warning(
    examination: Examination,
    monkeypatch: pytest.MonkeyPatch,
    synchronised: bool | None,
    outcome: str,
) -> None:
    monkeypatch.setattr(clock, "is_synchronised", lambda: synchronised)

    (found,) = clock.check_clock(examination)

    assert found.outcome == outcome


# --- provider ----------------------------------------------------------------------


def test_an_unbound_provider_is_a_fault_with_the_command(examination: Examination) -> None:
    (found,) = provider.check_binding(examination)

    assert (found.outcome, found.what) == ("fault", "provider keyplane has no key")
    assert "keyplane provider set keyplane --key KEY_ID" in found.advice


def test_a_provider_of_another_name_is_told(
    here: FakeInstallation, key: Key, examination: Examination
) -> None:
    here.core.providers.bind(CALLER, "other", key.id)
    examination.settings = examination.settings.model_copy(
        update={"provider": examination.settings.provider.model_copy(update={"name": "mine"})}
    )

    (found,) = provider.check_binding(examination)

    assert "the store knows keyplane, other" in found.what


def test_a_provider_that_waits_for_its_first_key_is_a_fault(
    here: FakeInstallation, examination: Examination
) -> None:
    key = here.core.keys.create(CALLER, here.instance.id, NewKey("etcd"))
    here.core.kms.refresh()
    here.core.providers.bind(CALLER, "keyplane", key.id)

    (found,) = provider.check_binding(examination)

    assert (found.outcome, "waits until every registered node" in found.what) == ("fault", True)


def bound(examination: Examination) -> None:
    """Let the check on the binding find the provider."""
    assert [verdict.outcome for verdict in provider.check_binding(examination)] == ["ok"]


def test_a_key_that_fails_its_integrity_check_is_told_of_the_key_ids(
    here: FakeInstallation, key: Key, examination: Examination
) -> None:
    bound(examination)
    break_key(here, key.id)

    assert [v.outcome for v in provider.check_generations(examination)] == ["fault"]


def test_a_node_that_is_silent_is_a_warning_and_our_own_gets_another_advice(
    here: FakeInstallation, key: Key, examination: Examination
) -> None:
    here.core.kms.refresh()
    here.another_process("node-b").kms.refresh()
    here.clock.advance(hours=3)
    bound(examination)

    first, second = provider.check_nodes(examination)

    assert (first.what, first.advice) == (
        "node node-a was last seen 3 hours ago",
        "start it: keyplane serve provider",
    )
    assert "keyplane nodes remove node-b" in second.advice


def test_a_rotation_that_waits_names_the_node(
    here: FakeInstallation, key: Key, examination: Examination
) -> None:
    here.core.kms.refresh()
    here.another_process("node-b").kms.refresh()
    here.core.keys.rotate(CALLER, key.id)
    here.core.kms.refresh()
    bound(examination)

    (found,) = provider.check_nodes(examination)

    assert (found.outcome, found.what) == ("warning", "a rotation waits for node-b")


def test_a_node_that_never_ran_is_a_warning(key: Key, examination: Examination) -> None:
    bound(examination)

    (found,) = provider.check_nodes(examination)

    assert found.what == "this node, node-a, has not registered yet"


@pytest.mark.parametrize(
    ("days", "outcome", "said"),
    [(90, "ok", "expires at"), (10, "warning", "expires at"), (-1, "warning", "expired at")],
)
def test_an_expiry_that_is_near_or_over_is_a_warning(
    here: FakeInstallation, examination: Examination, days: int, outcome: str, said: str
) -> None:
    expires_at = here.clock.now().replace(year=here.clock.now().year + 1)
    key = here.core.keys.create(CALLER, here.instance.id, NewKey("etcd", expires_at=expires_at))
    here.core.providers.bind(CALLER, "keyplane", key.id)
    bound(examination)
    here.clock.advance(days=(expires_at - here.clock.now()).days - days)

    (found,) = provider.check_expiry(examination)

    assert (found.outcome, said in found.what) == (outcome, True)


# --- keyring -----------------------------------------------------------------------


def keep(
    here: FakeInstallation,
    examination: Examination,
    *,
    node: str = "node-a",
    uses: int = 7,
    installation: str = "",
) -> Path:
    """Write the keyring that a provider of now would write."""
    path = examination.settings.keyring
    record = here.core.providers.overview("keyplane").provider
    core = here.core.installation
    kept = NodeKeyring(
        replace(core, id=installation or core.id),
        node,
        record,
        (),
        ((record.activations[-1].version_id, uses),) if uses else (),
        here.clock.now(),
    )
    FileKeyring(path, here.token).update(lambda _: kept)
    return path


def test_a_keyring_of_now_is_well(
    here: FakeInstallation, key: Key, examination: Examination
) -> None:
    path = keep(here, examination)
    bound(examination)

    assert short(list(provider.check_keyring(examination))) == [
        ("ok", f"{path}, written 0 seconds ago, is signed by this token")
    ]
    assert short(list(provider.check_keyring_ledger(examination))) == [
        ("ok", "it holds all 1 live key_ids of the store")
    ]


def test_a_node_without_a_keyring_is_warned(key: Key, examination: Examination) -> None:
    bound(examination)

    (found,) = provider.check_keyring(examination)
    (contents,) = provider.check_keyring_ledger(examination)

    assert (found.outcome, "could not start without the store" in found.what) == ("warning", True)
    assert contents.outcome == "skipped"


def test_a_keyring_that_was_changed_is_a_fault(
    here: FakeInstallation, key: Key, examination: Examination
) -> None:
    path = keep(here, examination)
    path.write_bytes(path.read_bytes().replace(b"node-a", b"node-b"))

    (found,) = provider.check_keyring(examination)

    assert (found.outcome, "not what this token has signed" in found.what) == ("fault", True)


def test_a_keyring_of_another_node_is_a_fault(
    here: FakeInstallation, key: Key, examination: Examination
) -> None:
    keep(here, examination, node="node-b")

    (found,) = provider.check_keyring(examination)

    assert found.what == "the keyring is that of provider keyplane on node node-b"


def test_a_keyring_that_others_can_read_is_a_warning(
    here: FakeInstallation, key: Key, examination: Examination
) -> None:
    keep(here, examination).chmod(0o644)

    (found,) = provider.check_keyring(examination)

    assert (found.outcome, "mode 0644" in found.what) == ("warning", True)


def test_a_keyring_without_uses_is_a_warning(
    here: FakeInstallation, key: Key, examination: Examination
) -> None:
    keep(here, examination, uses=0)

    (found,) = provider.check_keyring(examination)

    assert (found.outcome, "could decrypt only" in found.what) == ("warning", True)


def test_a_keyring_of_another_installation_is_a_fault(
    here: FakeInstallation, key: Key, examination: Examination
) -> None:
    keep(here, examination, installation="elsewhere")
    bound(examination)
    list(provider.check_keyring(examination))

    (found,) = provider.check_keyring_ledger(examination)

    assert (found.outcome, "another installation" in found.what) == ("fault", True)


def test_a_keyring_that_lacks_a_rotation_is_a_warning(
    here: FakeInstallation, key: Key, examination: Examination
) -> None:
    keep(here, examination)
    here.core.keys.rotate(CALLER, key.id)
    bound(examination)
    list(provider.check_keyring(examination))

    (found,) = provider.check_keyring_ledger(examination)

    assert found.what == "2 of the store's 2 live key_ids differ in the keyring"
