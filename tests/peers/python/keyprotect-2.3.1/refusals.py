"""What is wrong is refused in a way that the client understands."""

import os
import uuid

import requests
from stories import HURRIED_CALLS, raised, story
from user import PLAINTEXT, User, refused


@story
def a_bad_request_names_what_is_wrong(user):
    key_id = user.root_key()
    bad = "INVALID_FIELD_ERR"
    plaintext = {"type": "field", "name": "plaintext"}
    too_long = os.urandom(4097)
    refused(400, bad, lambda: user.kp.wrap(key_id, too_long), plaintext)
    aad = {"type": "field", "name": "aad"}
    refused(400, bad, lambda: user.kp.wrap(key_id, PLAINTEXT, aad=["x" * 256]), aad)
    payload = {"type": "field", "name": "payload"}
    refused(400, bad, lambda: user.root_key(payload=os.urandom(16)), payload)
    standard = user.kp.create(name="standard key")["id"]
    refused(400, "KEY_ROOT_REQ_ERR", lambda: user.kp.wrap(standard, PLAINTEXT))
    user.kp.session.headers["Bluemix-Instance"] = "no-uuid"
    text = refused(400, "INVALID_INSTANCE_HEADER_ERR", user.kp.keys)
    expected = "Bad Request: Request requires valid Instance Header containing a valid UUID"
    assert text == expected


@story
def strangers_are_refused(user):
    key_id = user.root_key()
    for role in ("expired", "forged"):
        refused(401, "UNAUTHORIZED_ERR", user.as_role(role).kp.keys)
    viewer, editor = user.as_role("Viewer"), user.as_role("Editor")
    refused(403, "FORBIDDEN_ERR", viewer.kp.keys)
    refused(403, "FORBIDDEN_ERR", lambda: viewer.kp.get(key_id))
    refused(403, "FORBIDDEN_ERR", viewer.root_key)
    refused(403, "FORBIDDEN_ERR", lambda: editor.kp.rotate(key_id))
    refused(403, "FORBIDDEN_ERR", lambda: editor.kp.delete(key_id))
    assert editor.kp.get(key_id)["id"] == key_id


@story
def a_key_that_is_not_there_is_not_found(user):
    missing = str(uuid.uuid4())
    refused(404, "KEY_NOT_FOUND_ERR", lambda: user.kp.get(missing))
    refused(404, "KEY_NOT_FOUND_ERR", lambda: user.kp.wrap(missing, PLAINTEXT))
    refused(404, "KEY_NOT_FOUND_ERR", lambda: user.kp.delete(missing))
    elsewhere = User(user.world, instance="other_instance").root_key()
    refused(404, "KEY_NOT_FOUND_ERR", lambda: user.kp.get(elsewhere))


@story
def a_wrong_ciphertext_is_unprocessable(user):
    key_id, other = user.root_key(), user.root_key()
    right = user.kp.wrap(key_id, PLAINTEXT, aad=["a", "bc"])["ciphertext"]
    cases = ((key_id, ["ab", "c"]), (key_id, []), (other, ["a", "bc"]))
    texts = {
        refused(
            422,
            "UNPROCESSABLE_CIPHERTEXT_ERR",
            lambda key=key, aad=aad: user.kp.unwrap(key, right, aad=aad),
        )
        for key, aad in cases
    }
    assert len(texts) == 1


@story
def what_is_not_served_is_refused_in_the_same_shape(user):
    key_id = user.root_key()
    refused(404, "NOT_FOUND_ERR", user.kp.get_key_rings)
    refused(404, "NOT_FOUND_ERR", lambda: user.kp.get_key_policies(key_id))
    refused(404, "NOT_FOUND_ERR", lambda: user.kp.restore_key(key_id))


@story
def a_rate_limit_is_told(user):
    hurried = User(user.world["throttled"])

    def too_many():
        for _ in range(HURRIED_CALLS):
            hurried.kp.keys()

    text = refused(429, "TOO_MANY_REQUESTS_ERR", too_many)
    assert text == "Too Many Requests: Please wait a few minutes and try again."


@story
def the_certificate_is_checked(user):
    stranger = User(user.world, ca="other_ca")
    raised(requests.exceptions.SSLError, stranger.kp.keys)
