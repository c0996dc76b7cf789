"""``keyplane provider``, ``nodes`` and ``status`` on a core with fakes."""

from __future__ import annotations

import hashlib

import pytest

from keycore.domain.keys import Key
from keycore.errors import TokenUnavailableError
from keycore.service.creation import NewKey
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycli.conftest import Run

NOON = "2030-03-01T12:00:00Z"


@pytest.fixture
def rotating(here: FakeInstallation, key: Key) -> Key:
    """A bound key whose second version waits for node-b."""
    here.core.providers.bind(CALLER, "keyplane", key.id)
    here.core.kms.refresh()
    here.another_process("node-b").kms.refresh()
    here.clock.advance(minutes=5)
    here.core.keys.rotate(CALLER, key.id)
    here.core.kms.refresh()
    return key


@pytest.fixture
def moved(here: FakeInstallation, key: Key) -> Key:
    """A key that the provider encrypted with before it got another one."""
    here.core.providers.bind(CALLER, "keyplane", key.id)
    other = here.core.keys.create(CALLER, here.instance.id, NewKey("other"))
    here.core.providers.bind(CALLER, "keyplane", other.id)
    return key


# --- provider -------------------------------------------------------------------


def test_set_binds_a_provider_at_once_while_no_node_is_registered(run: Run, key: Key) -> None:
    bound = run("provider", "set", "keyplane", "--key", key.id, "-o", "json").json

    activation = bound.pop("active")
    assert bound == {
        "name": "keyplane",
        "key": key.id,
        "keyName": "etcd",
        "pending": None,
        "waitingFor": [],
        "createdAt": NOON,
        "updatedAt": NOON,
        "nodes": [],
        "activations": [activation],
    }
    assert activation == {
        "sequence": 1,
        "keyId": activation["keyId"],
        "keyIdHash": f"sha256:{hashlib.sha256(activation['keyId'].encode()).hexdigest()}",
        "key": key.id,
        "version": 1,
        "state": "active",
        "createdAt": NOON,
    }


def test_set_waits_for_the_nodes_when_asked_to(run: Run, here: FakeInstallation, key: Key) -> None:
    here.core.kms.refresh()

    ended = run("provider", "set", "keyplane", "--key", key.id, "--wait", "0", "-o", "json")

    assert ended.code == 3
    assert (ended.json["active"], ended.json["waitingFor"]) == (None, ["node-a"])
    assert "error: after 0 s node node-a had not loaded" in ended.err


def test_set_without_a_wait_does_not_fail_because_a_node_is_late(
    run: Run, here: FakeInstallation, key: Key
) -> None:
    here.core.kms.refresh()

    ended = run("provider", "set", "keyplane", "--key", key.id)

    assert ended.code == 0
    assert "active     none yet" in ended.out
    assert "waits for  node-a" in ended.out


def test_show_without_a_name_answers_with_an_array(run: Run, rotating: Key) -> None:
    everyone = run("provider", "show", "-o", "json").json

    assert everyone == [run("provider", "show", "keyplane", "-o", "json").json]


def test_show_lists_every_key_id_that_was_given_out(run: Run, rotating: Key) -> None:
    provider = run("provider", "show", "keyplane", "-o", "json").json
    out = run("provider", "show", "keyplane").out

    assert [a["state"] for a in provider["activations"]] == ["active", "pending"]
    for activation in provider["activations"]:
        assert activation["keyId"] in out
        assert activation["keyIdHash"] in out


def test_show_without_any_provider_says_how_to_bind_one(run: Run) -> None:
    ended = run("provider", "show")

    assert (ended.code, ended.out) == (0, "")
    assert "keyplane provider set NAME --key KEY_ID" in ended.err


def test_release_asks_for_the_providers_name_and_says_what_becomes_unreadable(
    run: Run, moved: Key
) -> None:
    ended = run(
        "provider", "release", "keyplane", "--key", moved.id, "-o", "json", typed="keyplane\n"
    )

    assert [a["state"] for a in ended.json["activations"]] == ["released", "active"]
    assert "Objects in etcd that are still under that key become unreadable" in ended.err


def test_release_without_confirmation_changes_nothing(run: Run, moved: Key) -> None:
    ended = run("provider", "release", "keyplane", "--key", moved.id, typed="yes\n")
    shown = run("provider", "show", "keyplane", "-o", "json").json

    assert (ended.code, ended.out) == (1, "")
    assert [a["state"] for a in shown["activations"]] == ["retired", "active"]


def test_the_key_that_a_provider_encrypts_with_is_not_released(run: Run, rotating: Key) -> None:
    ended = run("provider", "release", "keyplane", "--key", rotating.id, "--yes")

    assert ended.code == 1
    assert "still encrypts with key" in ended.err


# --- nodes ----------------------------------------------------------------------


def test_nodes_tell_who_is_ready_and_when_they_were_seen(run: Run, rotating: Key) -> None:
    nodes = run("nodes", "list", "-o", "json").json

    assert nodes == [
        {
            "provider": "keyplane",
            "name": "node-a",
            "ready": True,
            "loaded": 2,
            "registeredAt": NOON,
            "seenAt": "2030-03-01T12:05:00Z",
        },
        {
            "provider": "keyplane",
            "name": "node-b",
            "ready": False,
            "loaded": 1,
            "registeredAt": NOON,
            "seenAt": NOON,
        },
    ]


@pytest.mark.parametrize(
    ("passed", "age"),
    [
        ({"seconds": 0}, "5 min ago"),
        ({"hours": 3}, "3 h ago"),
        ({"days": 9}, "9 d ago"),
    ],
    ids=["minutes", "hours", "days"],
)
def test_people_see_how_long_ago_a_node_was_seen(
    run: Run, here: FakeInstallation, rotating: Key, passed: dict[str, float], age: str
) -> None:
    here.clock.advance(**passed)

    assert f"node-b  keyplane  no     {NOON} ({age})" in run("nodes", "list").out


def test_removing_the_node_that_a_rotation_waits_for_finishes_it(run: Run, rotating: Key) -> None:
    left = run("nodes", "remove", "node-b", "-o", "json").json

    assert [node["name"] for node in left] == ["node-a"]
    assert run("keys", "show", rotating.id, "-o", "json").json["currentVersion"] == 2


def test_the_provider_of_a_removed_node_can_be_named(run: Run, rotating: Key) -> None:
    ended = run("nodes", "remove", "node-b", "--provider", "other")

    assert (ended.code, ended.err) == (
        1,
        "error: node node-b is not registered for provider other\n",
    )


def test_without_nodes_people_are_told_how_one_registers(run: Run) -> None:
    ended = run("nodes", "list")

    assert (ended.code, ended.out) == (0, "")
    assert "keyplane serve provider" in ended.err


# --- status ---------------------------------------------------------------------


def test_status_answers_with_everything_as_json(run: Run, rotating: Key) -> None:
    status = run("status", "-o", "json").json

    assert set(status) == {"installation", "token", "store", "instances", "keys", "providers"}
    assert status["token"]["guardsUnwrapping"] is False
    assert (status["instances"], status["keys"]) == (1, 1)
    assert status["providers"] == run("provider", "show", "-o", "json").json


def test_status_says_of_token_and_store_that_they_answer(run: Run) -> None:
    status = run("status", "-o", "json").json

    for part in (status["token"], status["store"]):
        assert (part["answers"], part["reason"]) == (True, None)


def test_status_asks_the_token_itself(
    run: Run, here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise TokenUnavailableError("the token does not answer")

    monkeypatch.setattr(type(here.token), "check", fail)

    ended = run("status")

    assert (ended.code, ended.err) == (3, "error: the token does not answer\n")
    assert "keyplane: the token does not answer" in ended.out


def test_status_tells_people_key_hash_and_what_is_waited_for(run: Run, rotating: Key) -> None:
    provider = run("provider", "show", "keyplane", "-o", "json").json

    out = run("status").out

    assert provider["active"]["keyIdHash"] in out
    assert f"{rotating.id} (etcd)" in out
    assert "pending    version 2" in out
    assert "waits for  node-b" in out


def test_status_says_in_words_what_a_token_does_not_guarantee(run: Run) -> None:
    assert "whoever holds the PIN and the store can read root keys" in run("status").out


def test_status_without_a_provider_says_how_to_bind_one(run: Run) -> None:
    assert "keyplane provider set" in run("status").out
