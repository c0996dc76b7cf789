"""Data keys are wrapped, unwrapped and carried over to new versions."""

import base64
import os

from stories import UNICODE_AAD, base64_of, soon, story, utc, wait_for
from user import PLAINTEXT, refused


@story
def a_data_key_is_wrapped_and_unwrapped(user):
    key_id = user.root_key()
    for aad in ([], ["one"], ["one", "two"], UNICODE_AAD):
        wrapped = user.act("wrap", key_id, plaintext=PLAINTEXT, aad=aad)
        assert "plaintext" not in wrapped
        assert wrapped["keyVersion"]["id"]
        unwrapped = user.act("unwrap", key_id, ciphertext=wrapped["ciphertext"], aad=aad)
        assert unwrapped["plaintext"] == PLAINTEXT
        assert "ciphertext" not in unwrapped

    without_any = user.act("wrap", key_id, plaintext=PLAINTEXT)["ciphertext"]
    assert user.act("unwrap", key_id, ciphertext=without_any, aad=[])["plaintext"] == PLAINTEXT
    largest = base64_of(os.urandom(4096))
    wrapped = user.act("wrap", key_id, plaintext=largest, aad=["x" * 255] * 126)
    opened = user.act("unwrap", key_id, ciphertext=wrapped["ciphertext"], aad=["x" * 255] * 126)
    assert opened["plaintext"] == largest

    viewer = user.as_role("Viewer")
    assert viewer.act("unwrap", key_id, ciphertext=without_any)["plaintext"] == PLAINTEXT


@story
def a_data_key_is_generated(user):
    key_id = user.root_key()
    for fields in ({}, {"aad": ["one"]}):
        made = user.act("wrap", key_id, **fields)
        assert len(base64.b64decode(made["plaintext"])) == 32
        opened = user.act("unwrap", key_id, ciphertext=made["ciphertext"], **fields)
        assert opened["plaintext"] == made["plaintext"]


@story
def a_generated_key_is_rotated(user):
    key_id = user.root_key()
    old = user.act("wrap", key_id, plaintext=PLAINTEXT, aad=["one"])
    rotated = user.kp.rotate_key(key_id, user.instance, prefer="return=representation")
    assert rotated.get_status_code() == 204

    opened = user.act("unwrap", key_id, ciphertext=old["ciphertext"], aad=["one"])
    assert opened["plaintext"] == PLAINTEXT
    assert opened["keyVersion"]["id"] == old["keyVersion"]["id"]
    assert opened["rewrappedKeyVersion"]["id"] != old["keyVersion"]["id"]
    again = user.act("unwrap", key_id, ciphertext=opened["ciphertext"], aad=["one"])
    assert again["plaintext"] == PLAINTEXT
    assert "ciphertext" not in again

    versions = user.kp.get_key_versions(key_id, user.instance, total_count=True)
    listed = versions.get_result().json()
    assert listed["metadata"]["collectionTotal"] == listed["metadata"]["totalCount"] == 2
    expected = {old["keyVersion"]["id"], opened["rewrappedKeyVersion"]["id"]}
    assert {version["id"] for version in listed["resources"]} == expected
    assert utc(user.get(key_id)["lastRotateDate"])


@story
def an_imported_key_is_rotated(user):
    key_id = user.root_key(payload=base64_of(os.urandom(32)))
    old = user.act("wrap", key_id, plaintext=PLAINTEXT)["ciphertext"]
    user.act("rotate", key_id, payload=base64_of(os.urandom(64)))
    assert user.act("unwrap", key_id, ciphertext=old)["plaintext"] == PLAINTEXT

    refused(400, "KEY_PAYLOAD_REQ_ERR", lambda: user.act("rotate", key_id))


@story
def a_ciphertext_is_rewrapped(user):
    key_id = user.root_key()
    old = user.act("wrap", key_id, plaintext=PLAINTEXT, aad=UNICODE_AAD)["ciphertext"]
    user.act("rotate", key_id)
    new = user.act("rewrap", key_id, ciphertext=old, aad=UNICODE_AAD)
    assert "plaintext" not in new
    assert new["rewrappedKeyVersion"]["id"] != new["keyVersion"]["id"]
    opened = user.act("unwrap", key_id, ciphertext=new["ciphertext"], aad=UNICODE_AAD)
    assert opened["plaintext"] == PLAINTEXT
    assert "rewrappedKeyVersion" not in opened


@story
def an_expired_key_only_unwraps(user):
    key_id = user.root_key(expirationDate=soon(2))
    old = user.act("wrap", key_id, plaintext=PLAINTEXT)["ciphertext"]
    wait_for(lambda: user.get(key_id)["state"] == 3)
    assert user.act("unwrap", key_id, ciphertext=old)["plaintext"] == PLAINTEXT
    for call in (
        lambda: user.act("wrap", key_id, plaintext=PLAINTEXT),
        lambda: user.act("rewrap", key_id, ciphertext=old),
        lambda: user.act("rotate", key_id),
    ):
        refused(409, "KEY_ACTION_INVALID_STATE_ERR", call)
