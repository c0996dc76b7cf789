"""``keyplane keys …`` on a core with fakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from keycore.domain.ids import new_uuid
from keycore.domain.keys import Key
from keycore.service.creation import NewKey
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycli.conftest import Run

NOON = "2030-03-01T12:00:00Z"


@pytest.fixture
def bound(here: FakeInstallation, key: Key) -> Key:
    """A key that the provider encrypts with, loaded by two nodes."""
    here.core.providers.bind(CALLER, "keyplane", key.id)
    here.core.kms.refresh()
    here.another_process("node-b").kms.refresh()
    return key


# --- create -------------------------------------------------------------------


def test_create_answers_with_the_whole_key_as_json(run: Run, here: FakeInstallation) -> None:
    made = run(
        "keys",
        "create",
        "etcd",
        "--description",
        "for etcd",
        "--expires",
        "2031-12-31",
        "-o",
        "json",
    ).json

    version = made.pop("versions")[0]
    assert made == {
        "id": made["id"],
        "name": "etcd",
        "description": "for etcd",
        "instance": here.instance.id,
        "type": "root",
        "state": "active",
        "imported": False,
        "bitLength": 256,
        "currentVersion": 1,
        "pendingVersion": None,
        "createdAt": NOON,
        "createdBy": made["createdBy"],
        "updatedAt": NOON,
        "expiresAt": "2031-12-31T00:00:00Z",
        "deletedAt": None,
        "owner": None,
        "providers": [],
        "waitingFor": [],
    }
    assert made["createdBy"].startswith("uid:")
    assert version == {"number": 1, "id": version["id"], "state": "active", "createdAt": NOON}


def test_create_is_audited_under_the_uid_that_typed_it(run: Run, here: FakeInstallation) -> None:
    run("keys", "create", "etcd")

    event = here.audit.last("key.create")
    assert (event.face, event.outcome) == ("cli", "ok")
    assert event.actor.startswith("uid:")


def test_create_makes_a_standard_key_on_request(run: Run) -> None:
    assert (
        run("keys", "create", "app", "--type", "standard", "-o", "json").json["type"] == "standard"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2031-12-31", "2031-12-31T00:00:00Z"),
        ("2031-12-31T23:59:59Z", "2031-12-31T23:59:59Z"),
        ("2031-12-31t23:59:59.5z", "2031-12-31T23:59:59Z"),
        ("2031-12-31T23:59:59+02:00", "2031-12-31T21:59:59Z"),
    ],
)
def test_an_expiry_is_a_date_or_a_time_of_rfc_3339(run: Run, text: str, expected: str) -> None:
    made = run("keys", "create", "etcd", "--expires", text, "-o", "json").json

    assert made["expiresAt"] == expected


@pytest.mark.parametrize(
    "text", ["tomorrow", "2031-13-01", "20311231", "2031-12-31T12:00:00", "2031-W01-1", ""]
)
def test_another_spelling_of_an_expiry_is_a_wrong_command_line(run: Run, text: str) -> None:
    ended = run("keys", "create", "etcd", "--expires", text)

    assert ended.code == 2
    assert "--expires" in ended.err


def test_an_expiry_in_the_past_is_refused_by_the_core(run: Run) -> None:
    ended = run("keys", "create", "etcd", "--expires", "2030-02-28")

    assert (ended.code, ended.err) == (1, "error: the expiration date must lie in the future\n")


@pytest.mark.parametrize(("size", "bits"), [(32, 256), (48, 384), (64, 512)])
def test_create_imports_the_raw_bytes_of_a_file(
    run: Run, tmp_path: Path, size: int, bits: int
) -> None:
    file = tmp_path / "key.bin"
    file.write_bytes(bytes(range(100, 100 + size)))

    ended = run("keys", "create", "old", "--import-file", str(file), "-o", "json")

    assert (ended.json["imported"], ended.json["bitLength"]) == (True, bits)
    assert f"whoever reads {file} has this key" in ended.err


@pytest.mark.parametrize("size", [0, 31, 33, 65, 4096])
def test_material_of_another_size_is_refused(run: Run, tmp_path: Path, size: int) -> None:
    file = tmp_path / "key.bin"
    file.write_bytes(b"\xff" * size)

    ended = run("keys", "create", "old", "--import-file", str(file))

    assert ended.code == 1
    assert "256, 384 or 512 bits" in ended.err


@pytest.mark.parametrize(
    "text", ["ab" * 32, "ab" * 16 + "\n", "A" * 43 + "=\n"], ids=["hex", "short hex", "base64"]
)
def test_text_is_not_taken_for_key_material(run: Run, tmp_path: Path, text: str) -> None:
    # 64 hexadecimal digits would otherwise become a key of 512 bits.
    file = tmp_path / "key.txt"
    file.write_text(text)

    ended = run("keys", "create", "old", "--import-file", str(file))

    assert ended.code == 1
    assert "holds text where raw key bytes are expected" in ended.err
    assert text.strip() not in ended.err


def test_an_import_file_that_cannot_be_read_is_a_wrong_command_line(run: Run) -> None:
    ended = run("keys", "create", "old", "--import-file", "/nonexistent")

    assert ended.code == 2
    assert "/nonexistent: No such file or directory" in ended.err


# --- the instance that is meant ----------------------------------------------


def test_without_a_choice_the_only_instance_is_meant(run: Run, here: FakeInstallation) -> None:
    assert run("keys", "create", "etcd", "-o", "json").json["instance"] == here.instance.id


def test_of_several_instances_the_first_one_is_meant(run: Run, here: FakeInstallation) -> None:
    here.clock.advance(seconds=1)
    here.core.instances.create(CALLER, "team-a")

    assert run("keys", "create", "etcd", "-o", "json").json["instance"] == here.instance.id


def test_a_named_instance_wins(run: Run, here: FakeInstallation) -> None:
    other = here.core.instances.create(CALLER, "team-a")

    made = run("keys", "create", "etcd", "--instance", other.id, "-o", "json").json

    assert made["instance"] == other.id


def test_the_first_instance_is_meant_whatever_others_are_called(
    run: Run, here: FakeInstallation
) -> None:
    here.clock.advance(seconds=1)
    here.core.instances.create(CALLER, "default")

    assert run("keys", "create", "etcd", "-o", "json").json["instance"] == here.instance.id


def test_an_instance_that_does_not_exist_is_refused(run: Run) -> None:
    ended = run("keys", "create", "etcd", "--instance", new_uuid())

    assert ended.code == 1
    assert "does not exist" in ended.err


# --- list and show ------------------------------------------------------------


def test_list_shows_each_key_in_one_line_when_piped(run: Run, here: FakeInstallation) -> None:
    long_name = "a rather long name of the kind that people give " + "x" * 40
    made = [
        here.core.keys.create(CALLER, here.instance.id, NewKey(name))
        for name in ("etcd", long_name)
    ]

    lines = run("keys", "list").out.splitlines()

    assert lines[0].split() == ["ID", "NAME", "TYPE", "STATE", "VERSION"]
    rows = sorted((key.id, key.name) for key in made)
    assert [line.split("  ")[0:2] for line in lines[1:]] == [[*row] for row in rows]


def test_a_name_that_looks_like_markup_is_shown_as_it_is(run: Run, here: FakeInstallation) -> None:
    name = "[red]x[/red] :smile: [link=http://a]b"
    here.core.keys.create(CALLER, here.instance.id, NewKey(name))

    assert name in run("keys", "list").out


def test_list_reads_every_page(
    run: Run, here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keycli.commands.keys._PAGE", 2)
    made = [here.core.keys.create(CALLER, here.instance.id, NewKey("key")).id for _ in range(4)]

    listed = run("keys", "list", "-o", "json").json

    assert [key["id"] for key in listed] == sorted(made)


def test_list_leaves_deleted_keys_out_unless_all_are_wanted(
    run: Run, here: FakeInstallation, key: Key
) -> None:
    here.core.keys.delete(CALLER, key.id)

    assert run("keys", "list", "-o", "json").json == []
    assert [k["state"] for k in run("keys", "list", "--all", "-o", "json").json] == ["destroyed"]


def test_list_of_one_instance_leaves_the_others_out(
    run: Run, here: FakeInstallation, key: Key
) -> None:
    other = here.core.instances.create(CALLER, "team-a")

    assert run("keys", "list", "--instance", other.id, "-o", "json").json == []
    assert len(run("keys", "list", "--instance", here.instance.id, "-o", "json").json) == 1


def test_an_empty_list_says_what_to_do_on_standard_error(run: Run) -> None:
    ended = run("keys", "list")

    assert (ended.code, ended.out) == (0, "")
    assert "keyplane keys create" in ended.err


def test_list_and_show_describe_a_key_alike(run: Run, bound: Key) -> None:
    listed = run("keys", "list", "-o", "json").json

    assert listed == [run("keys", "show", bound.id, "-o", "json").json]
    assert listed[0]["providers"] == ["keyplane"]


def test_show_tells_people_what_the_json_tells(run: Run, bound: Key) -> None:
    out = run("keys", "show", bound.id).out

    for fact in (bound.id, bound.current.id, "etcd", "active", NOON, "256 bits, generated"):
        assert fact in out
    assert "providers  keyplane" in out


def test_an_expired_key_is_shown_as_deactivated(run: Run, here: FakeInstallation) -> None:
    made = run("keys", "create", "short", "--expires", "2030-03-02", "-o", "json").json
    here.clock.advance(days=1)

    assert run("keys", "show", made["id"], "-o", "json").json["state"] == "deactivated"


def test_a_key_id_that_is_no_uuid_is_refused(run: Run) -> None:
    ended = run("keys", "show", "etcd")

    assert (ended.code, ended.err) == (1, "error: key id must be a UUID\n")


# --- rotate ---------------------------------------------------------------------


def test_a_key_without_provider_rotates_at_once(run: Run, key: Key) -> None:
    ended = run("keys", "rotate", key.id, "-o", "json")

    assert ended.json["currentVersion"] == 2
    assert [v["state"] for v in ended.json["versions"]] == ["retired", "active"]


def test_a_rotation_names_the_nodes_that_it_waits_for(run: Run, bound: Key) -> None:
    ended = run("keys", "rotate", bound.id)

    assert ended.code == 0
    assert "waits for  node-a, node-b" in ended.out
    assert "version 2 decrypts already" in ended.err
    assert "it waits for: node-a, node-b" in ended.err


def test_waiting_ends_with_3_and_the_answer_when_a_node_is_late(
    run: Run, here: FakeInstallation, bound: Key
) -> None:
    ended = run("keys", "rotate", bound.id, "--wait", "0", "-o", "json")

    assert ended.code == 3
    assert (ended.json["currentVersion"], ended.json["pendingVersion"]) == (1, 2)
    assert ended.json["waitingFor"] == ["node-a", "node-b"]
    assert "error: after 0 s node node-a, node-b had not loaded" in ended.err
    assert "keyplane nodes remove" in ended.err


def test_waiting_ends_when_the_last_node_has_loaded_the_version(
    run: Run, here: FakeInstallation, bound: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each look at the providers is one turn of the loop; the nodes load at the third.
    looks = []
    providers, seen = here.core.providers, here.core.providers.users_of

    def look(key_id: object) -> object:
        looks.append(key_id)
        if len(looks) == 3:
            here.core.kms.refresh()
            here.another_process("node-b").kms.refresh()
        return seen(bound.id)

    monkeypatch.setattr(type(providers), "users_of", lambda _self, key_id: look(key_id))
    monkeypatch.setattr("keycli.waiting.POLL_SECONDS", 0)

    ended = run("keys", "rotate", bound.id, "--wait", "60", "-o", "json")

    assert ended.code == 0
    assert (ended.json["currentVersion"], ended.json["pendingVersion"]) == (2, None)
    assert "waiting up to 60 s for node node-a, node-b" in ended.err
    assert len(looks) >= 3


def test_a_second_rotation_before_the_first_is_finished_is_refused(run: Run, bound: Key) -> None:
    run("keys", "rotate", bound.id)

    ended = run("keys", "rotate", bound.id)

    assert ended.code == 1
    assert "node-a, node-b" in ended.err


def test_an_imported_key_rotates_with_new_material_only(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "key.bin"
    file.write_bytes(bytes(range(200, 232)))
    made = run("keys", "create", "old", "--import-file", str(file), "-o", "json").json

    refused = run("keys", "rotate", made["id"])
    rotated = run("keys", "rotate", made["id"], "--import-file", str(file), "-o", "json")

    assert (refused.code, "new key material is required" in refused.err) == (1, True)
    assert rotated.json["currentVersion"] == 2


# --- suspend, resume, delete ------------------------------------------------------


def test_suspend_and_resume_show_the_new_state(run: Run, key: Key) -> None:
    assert run("keys", "suspend", key.id, "-o", "json").json["state"] == "suspended"
    assert run("keys", "resume", key.id, "-o", "json").json["state"] == "active"


def test_delete_asks_for_the_name_and_says_what_is_lost(
    run: Run, here: FakeInstallation, key: Key
) -> None:
    here.core.keys.adopt(CALLER, key.id, "Key demo/etcd", within=here.instance.id)

    ended = run("keys", "delete", key.id, "-o", "json", typed="etcd\n")

    assert (ended.code, ended.json["state"]) == (0, "destroyed")
    for fact in ("for ever", "KMS provider: none", "resource: Key demo/etcd", "'etcd'"):
        assert fact in ended.err


@pytest.mark.parametrize(
    "typed", ["", "\n", "yes\n", "etc\n"], ids=["nobody there", "", "yes", "etc"]
)
def test_delete_without_the_right_name_changes_nothing(
    run: Run, here: FakeInstallation, key: Key, typed: str
) -> None:
    ended = run("keys", "delete", key.id, typed=typed)

    assert (ended.code, ended.out) == (1, "")
    assert "not confirmed; nothing was changed" in ended.err
    assert here.core.keys.get(CALLER, key.id).deleted_at is None


def test_delete_with_yes_asks_nothing(run: Run, key: Key) -> None:
    ended = run("keys", "delete", key.id, "--yes", "-o", "json")

    assert (ended.code, ended.err) == (0, "")
    assert ended.json["deletedAt"] == NOON


def test_the_question_before_a_deletion_names_the_provider_that_needs_the_key(
    run: Run, bound: Key
) -> None:
    ended = run("keys", "delete", bound.id, typed="no\n")

    assert "Needed by KMS provider: keyplane" in ended.err


def test_a_key_that_a_provider_needs_is_not_deleted(run: Run, bound: Key) -> None:
    ended = run("keys", "delete", bound.id, "--yes")

    assert (ended.code, ended.out) == (1, "")
    assert f"key {bound.id} is needed by KMS provider keyplane" in ended.err


def test_a_deleted_key_is_not_asked_about_again(run: Run, key: Key) -> None:
    run("keys", "delete", key.id, "--yes")

    ended = run("keys", "delete", key.id)

    assert (ended.code, ended.err) == (1, f"error: key {key.id} has been deleted\n")
