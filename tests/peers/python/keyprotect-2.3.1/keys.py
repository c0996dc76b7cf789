"""Keys are made, found, named, suspended and destroyed."""

import os
import uuid

from stories import base64_of, story, utc
from user import PLAINTEXT, refused


@story
def a_root_key_is_created(user):
    key = user.kp.create(name="root key", root=True)
    uuid.UUID(key["id"])
    assert key["name"] == "root key"
    assert (key["state"], key["extractable"], key["imported"]) == (1, False, False)
    assert "payload" not in key


@story
def a_standard_key_is_created(user):
    key = user.kp.create_key(name="standard key")
    assert key["extractable"] is True
    assert "payload" not in key
    assert user.kp.get(key["id"])["payload"]


@story
def keys_are_imported(user):
    for size in (32, 48, 64):
        key_id = user.root_key(payload=os.urandom(size))
        shown = user.kp.get(key_id)
        assert (shown["imported"], shown["algorithmBitSize"]) == (True, size * 8)
        assert "payload" not in shown
        wrapped = user.kp.wrap(key_id, PLAINTEXT)
        assert user.kp.unwrap(key_id, wrapped["ciphertext"]) == PLAINTEXT

    material = os.urandom(32)
    standard = user.kp.create(name="import", payload=material)
    raw = user.kp.create(name="import", raw_payload=base64_of(material))
    assert user.kp.get(standard["id"])["payload"] == base64_of(material)
    assert user.kp.get(raw["id"])["payload"] == base64_of(material)


@story
def keys_are_listed(user):
    key_id, gone = user.root_key(), user.root_key()
    user.kp.delete(gone)
    listed = user.kp.keys()
    ids = [key["id"] for key in listed]
    assert ids == sorted(ids)
    assert key_id in ids
    assert gone not in ids
    assert user.kp.list_keys() == listed
    assert all("payload" not in key for key in listed)


@story
def a_key_is_read(user):
    key_id = user.root_key()
    key = user.kp.get_key(key_id)
    assert key["id"] == key_id
    assert utc(key["creationDate"])
    assert key["createdBy"]
    assert key["keyVersion"]["id"]


@story
def an_alias_names_a_key(user):
    first, second = f"volumes-{uuid.uuid4()}", f"backups-{uuid.uuid4()}"
    key_id = user.root_key(alias_list=[first])
    added = user.kp.create_key_alias(key_id, second)["resources"][0]
    assert (added["keyId"], added["alias"]) == (key_id, second)
    assert user.kp.get(first)["id"] == user.kp.get(second)["id"] == key_id
    wrapped = user.kp.wrap(second, PLAINTEXT)["ciphertext"]
    assert user.kp.unwrap(first, wrapped) == PLAINTEXT

    user.kp.delete_key_alias(key_id, second)
    refused(404, "KEY_NOT_FOUND_ERR", lambda: user.kp.get(second))


@story
def a_key_is_disabled_and_enabled(user):
    key_id = user.root_key()
    old = user.kp.wrap(key_id, PLAINTEXT)["ciphertext"]
    user.kp.disable_key(key_id)
    assert user.kp.get(key_id)["state"] == 2
    refused(409, "KEY_ACTION_INVALID_STATE_ERR", lambda: user.kp.wrap(key_id, PLAINTEXT))
    refused(409, "KEY_ACTION_INVALID_STATE_ERR", lambda: user.kp.unwrap(key_id, old))

    user.kp.enable_key(key_id)
    assert user.kp.unwrap(key_id, old) == PLAINTEXT


@story
def a_key_is_deleted(user):
    key_id = user.root_key()
    old = user.kp.wrap(key_id, PLAINTEXT)["ciphertext"]
    assert user.kp.delete_key(key_id) is None

    tombstone = user.kp.get(key_id)
    assert (tombstone["state"], tombstone["deleted"]) == (5, True)
    assert utc(tombstone["deletionDate"])
    for call in (
        lambda: user.kp.wrap(key_id, PLAINTEXT),
        lambda: user.kp.unwrap(key_id, old),
        lambda: user.kp.rotate(key_id),
        lambda: user.kp.delete(key_id),
    ):
        refused(410, "KEY_DELETED_ERR", call)
