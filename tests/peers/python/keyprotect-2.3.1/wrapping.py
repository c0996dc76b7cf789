"""Data keys are wrapped, unwrapped and carried over to new versions."""

import os

from stories import UNICODE_AAD, base64_of, story, utc
from user import PLAINTEXT, refused


@story
def a_data_key_is_wrapped_and_unwrapped(user):
    key_id = user.root_key()
    for aad in (None, [], ["one"], ["one", "two"], UNICODE_AAD):
        wrapped = user.kp.wrap(key_id, PLAINTEXT, aad=aad)
        assert "plaintext" not in wrapped
        assert user.kp.unwrap(key_id, wrapped["ciphertext"], aad=aad) == PLAINTEXT

    largest, many = os.urandom(4096), ["x" * 255] * 126
    wrapped = user.kp.wrap(key_id, largest, aad=many)
    # The ciphertext may be bytes, too.
    opened = user.kp.unwrap(key_id, wrapped["ciphertext"].encode(), aad=many)
    assert opened == largest
    plain = user.kp.wrap(key_id, PLAINTEXT)["ciphertext"]
    assert user.as_role("Viewer").kp.unwrap(key_id, plain) == PLAINTEXT


@story
def a_data_key_is_generated(user):
    key_id = user.root_key()
    for nothing in (None, b""):
        made = user.kp.wrap(key_id, nothing, aad=["one"])
        opened = user.kp.unwrap(key_id, made["ciphertext"], aad=["one"])
        assert len(opened) == 32
        assert base64_of(opened) == made["plaintext"]


@story
def a_generated_key_is_rotated(user):
    key_id = user.root_key()
    old = user.kp.wrap(key_id, PLAINTEXT, aad=["one"])
    assert user.kp.rotate(key_id) is None

    assert user.kp.unwrap(key_id, old["ciphertext"], aad=["one"]) == PLAINTEXT
    assert user.kp.wrap(key_id, PLAINTEXT)["keyVersion"]["id"] != old["keyVersion"]["id"]
    assert utc(user.kp.get(key_id)["lastRotateDate"])


@story
def an_imported_key_is_rotated(user):
    key_id = user.root_key(payload=os.urandom(32))
    old = user.kp.wrap(key_id, PLAINTEXT)["ciphertext"]
    assert user.kp.rotate_key(key_id, payload=os.urandom(48)) is None
    assert user.kp.unwrap(key_id, old) == PLAINTEXT

    text = refused(400, "KEY_PAYLOAD_REQ_ERR", lambda: user.kp.rotate(key_id))
    assert text.startswith("Bad Request: ")


@story
def a_ciphertext_is_rewrapped(user):
    key_id = user.root_key()
    old = user.kp.wrap(key_id, PLAINTEXT, aad=UNICODE_AAD)["ciphertext"]
    user.kp.rotate(key_id)
    new = user.kp.rewrap(key_id, old, aad=UNICODE_AAD)
    assert "plaintext" not in new
    assert new["rewrappedKeyVersion"]["id"] != new["keyVersion"]["id"]
    assert user.kp.unwrap(key_id, new["ciphertext"], aad=UNICODE_AAD) == PLAINTEXT
