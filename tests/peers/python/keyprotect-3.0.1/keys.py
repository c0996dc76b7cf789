"""Keys are made, found, named, suspended and destroyed."""

import base64
import os
import uuid

from stories import base64_of, soon, story, utc
from user import PLAINTEXT, refused


@story
def a_root_key_is_created(user):
    key = user.create(name="root key", description="for volumes", extractable=False)
    uuid.UUID(key["id"])
    assert key["name"] == "root key"
    assert key["description"] == "for volumes"
    assert (key["state"], key["extractable"], key["imported"]) == (1, False, False)
    assert user.instance in key["crn"]
    assert "payload" not in key
    assert "lastUpdateDate" not in key

    whole = user.create(
        prefer="return=representation",
        name="root key",
        extractable=False,
        expirationDate=soon(3600),
        tags=["blue"],
    )
    assert utc(whole["creationDate"]) <= utc(whole["expirationDate"])
    assert whole["createdBy"]
    assert whole["keyVersion"]["id"]
    assert whole["tags"] == ["blue"]
    assert whole["algorithmMetadata"]["bitLength"] == "256"
    assert "payload" not in whole


@story
def a_standard_key_is_created(user):
    whole = user.create(prefer="return=representation", name="standard key", extractable=True)
    assert len(base64.b64decode(whole["payload"])) == 32

    minimal = user.create(prefer="return=minimal", name="standard key")
    assert minimal["extractable"] is True
    assert "payload" not in minimal
    assert user.get(whole["id"])["payload"] == whole["payload"]
    assert len(base64.b64decode(user.get(minimal["id"])["payload"])) == 32


@story
def keys_are_imported(user):
    for size in (32, 48, 64):
        payload = base64_of(os.urandom(size))
        key = user.create(
            prefer="return=representation", name="import", extractable=False, payload=payload
        )
        assert key["imported"] is True
        assert key["algorithmBitSize"] == size * 8
        assert "payload" not in key
        wrapped = user.act("wrap", key["id"], plaintext=PLAINTEXT)
        assert user.act("unwrap", key["id"], ciphertext=wrapped["ciphertext"])["plaintext"]

    payload = base64_of(os.urandom(32))
    standard = user.create(name="import", extractable=True, payload=payload)
    assert user.get(standard["id"])["payload"] == payload


@story
def keys_are_listed_by_pages_and_filters(user):
    roots = {user.root_key() for _ in range(3)}
    gone = user.root_key()
    user.kp.delete_key(gone, user.instance)

    everything, total = user.page()
    ids = [key["id"] for key in everything]
    assert len(ids) == total
    assert roots <= set(ids)
    assert gone not in ids
    assert all("payload" not in key for key in everything)

    first, counted = user.page(limit=2, offset=0)
    second, _ = user.page(limit=2, offset=2)
    assert counted == total
    assert [key["id"] for key in first + second] == ids[:4]

    root_keys, _ = user.page(extractable=False)
    standard_keys, _ = user.page(extractable=True)
    assert {key["extractable"] for key in root_keys} == {False}
    assert len(root_keys) + len(standard_keys) == total
    destroyed, _ = user.page(state=[5])
    assert gone in {key["id"] for key in destroyed}
    of_all_states, _ = user.page(state=[0, 1, 2, 3, 5])
    assert len(of_all_states) == total + len(destroyed)


@story
def keys_are_counted(user):
    user.root_key()
    response = user.kp.get_key_collection_metadata(user.instance)
    assert response.get_status_code() == 200
    assert response.get_result() is None
    assert int(response.get_headers()["Key-Total"]) == user.page()[1]

    of_roots = user.kp.get_key_collection_metadata(user.instance, extractable=False, state=[1, 2])
    assert int(of_roots.get_headers()["Key-Total"]) >= 1


@story
def a_key_is_read(user):
    key_id = user.root_key(description="read me")
    whole = user.get(key_id)
    metadata = user.kp.get_key_metadata(key_id, user.instance).get_result().json()["resources"][0]
    assert whole == metadata
    assert whole["description"] == "read me"

    standard = user.create(name="standard key")["id"]
    shown = user.kp.get_key_metadata(standard, user.instance).get_result().json()["resources"][0]
    assert "payload" not in shown
    assert "payload" in user.get(standard)


@story
def an_alias_names_a_key(user):
    first, second = f"volumes-{uuid.uuid4()}", f"backups-{uuid.uuid4()}"
    key_id = user.root_key(aliases=[first])
    added = user.kp.create_key_alias(key_id, second, user.instance)
    assert added.get_status_code() == 201
    shown = added.get_result().json()["resources"][0]
    assert (shown["keyId"], shown["alias"]) == (key_id, second)

    assert user.get(first)["id"] == user.get(second)["id"] == key_id
    wrapped = user.act("wrap", second, plaintext=PLAINTEXT)["ciphertext"]
    assert user.act("unwrap", first, ciphertext=wrapped)["plaintext"] == PLAINTEXT
    taken = lambda: user.kp.create_key_alias(user.root_key(), first, user.instance)  # noqa: E731
    refused(409, "KEY_ALIAS_NOT_UNIQUE_ERR", taken)

    removed = user.kp.delete_key_alias(first, second, user.instance)
    assert removed.get_status_code() == 204
    refused(404, "KEY_NOT_FOUND_ERR", lambda: user.get(second))


@story
def a_key_is_disabled_and_enabled(user):
    key_id = user.root_key()
    old = user.act("wrap", key_id, plaintext=PLAINTEXT)["ciphertext"]
    assert user.kp.disable_key(key_id, user.instance).get_status_code() == 204
    assert user.get(key_id)["state"] == 2
    for call in (
        lambda: user.act("wrap", key_id, plaintext=PLAINTEXT),
        lambda: user.act("unwrap", key_id, ciphertext=old),
        lambda: user.act("rotate", key_id),
    ):
        refused(409, "KEY_ACTION_INVALID_STATE_ERR", call)

    assert user.kp.enable_key(key_id, user.instance).get_status_code() == 204
    assert user.act("unwrap", key_id, ciphertext=old)["plaintext"] == PLAINTEXT


@story
def a_key_is_deleted(user):
    key_id, other = user.root_key(), user.create(name="standard key")["id"]
    old = user.act("wrap", key_id, plaintext=PLAINTEXT)["ciphertext"]
    deleted = user.kp.delete_key(key_id, user.instance)
    assert deleted.get_status_code() == 204
    assert deleted.get_result() is None
    shown = user.kp.delete_key(other, user.instance, prefer="return=representation", force=False)
    assert shown.get_status_code() == 200
    assert shown.get_result().json()["resources"][0]["id"] == other

    for each in (key_id, other):
        tombstone = user.get(each)
        assert (tombstone["state"], tombstone["deleted"]) == (5, True)
        assert utc(tombstone["deletionDate"])
        assert tombstone["deletedBy"]
        assert "payload" not in tombstone
    for call in (
        lambda: user.act("wrap", key_id, plaintext=PLAINTEXT),
        lambda: user.act("unwrap", key_id, ciphertext=old),
        lambda: user.act("rotate", key_id),
        lambda: user.kp.delete_key(key_id, user.instance),
    ):
        refused(410, "KEY_DELETED_ERR", call)
