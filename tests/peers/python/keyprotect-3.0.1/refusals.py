"""What is wrong is refused in a way that the client understands."""

import base64
import logging
import os
import uuid

import requests
from stories import HURRIED_CALLS, PATIENT_CALLS, base64_of, raised, story
from user import PLAINTEXT, User, body, refused


@story
def a_bad_request_names_what_is_wrong(user):
    key_id = user.root_key()
    plaintext = {"type": "field", "name": "plaintext"}
    bad = "INVALID_FIELD_ERR"
    refused(400, bad, lambda: user.act("wrap", key_id, plaintext="not base64!"), plaintext)
    too_long = base64_of(os.urandom(4097))
    refused(400, bad, lambda: user.act("wrap", key_id, plaintext=too_long), plaintext)
    many = {"type": "field", "name": "aad"}
    refused(400, bad, lambda: user.act("wrap", key_id, aad=["x"] * 127), many)
    payload = {"type": "field", "name": "payload"}
    short = base64_of(os.urandom(16))
    refused(400, bad, lambda: user.root_key(payload=short), payload)
    refused(400, "INVALID_QUERY_PARAM_ERR", lambda: user.page(limit=5001))
    refused(400, "BAD_BODY_ERR", lambda: user.root_key(colour="blue"))
    refused(400, "NO_BODY_ERR", lambda: user.kp.unwrap_key(key_id, user.instance, body(None)))
    standard = user.create(name="standard key")["id"]
    refused(400, "KEY_ROOT_REQ_ERR", lambda: user.act("wrap", standard, plaintext=PLAINTEXT))
    text = refused(400, "INVALID_INSTANCE_HEADER_ERR", lambda: user.kp.get_keys("no-uuid"))
    assert "Request requires valid Instance Header containing a valid UUID" in text


@story
def strangers_are_refused(user):
    key_id = user.root_key()
    for role in ("expired", "forged"):
        refused(401, "UNAUTHORIZED_ERR", lambda role=role: user.as_role(role).get(key_id))
    viewer, editor = user.as_role("Viewer"), user.as_role("Editor")
    refused(403, "FORBIDDEN_ERR", lambda: viewer.get(key_id))
    refused(403, "FORBIDDEN_ERR", viewer.page)
    refused(403, "FORBIDDEN_ERR", viewer.root_key)
    refused(403, "FORBIDDEN_ERR", lambda: editor.act("rotate", key_id))
    refused(403, "FORBIDDEN_ERR", lambda: editor.kp.delete_key(key_id, user.instance))
    assert editor.get(key_id)["id"] == key_id


@story
def a_key_that_is_not_there_is_not_found(user):
    missing = str(uuid.uuid4())
    for call in (
        lambda: user.get(missing),
        lambda: user.act("wrap", missing, plaintext=PLAINTEXT),
        lambda: user.kp.delete_key(missing, user.instance),
        lambda: user.get("no-such-alias"),
    ):
        refused(404, "KEY_NOT_FOUND_ERR", call)

    elsewhere = User(user.world, instance="other_instance").root_key()
    refused(404, "KEY_NOT_FOUND_ERR", lambda: user.get(elsewhere))


@story
def a_wrong_ciphertext_is_unprocessable(user):
    key_id, other = user.root_key(), user.root_key()
    right = user.act("wrap", key_id, plaintext=PLAINTEXT, aad=["a", "bc"])["ciphertext"]
    broken = bytearray(base64.b64decode(right))
    broken[-1] ^= 1
    texts = {
        refused(
            422,
            "UNPROCESSABLE_CIPHERTEXT_ERR",
            lambda key=key, sent=sent, aad=aad: user.act("unwrap", key, ciphertext=sent, aad=aad),
        )
        for key, sent, aad in (
            (key_id, right, ["ab", "c"]),
            (key_id, right, []),
            (key_id, base64_of(bytes(broken)), ["a", "bc"]),
            (other, right, ["a", "bc"]),
        )
    }
    assert len(texts) == 1


@story
def what_is_not_served_is_refused_in_the_same_shape(user):
    key_id = user.root_key()
    for call in (
        lambda: user.kp.list_key_rings(user.instance),
        lambda: user.kp.get_policy(key_id, user.instance),
        lambda: user.kp.restore_key(key_id, user.instance),
        lambda: user.kp.get_registrations(key_id, user.instance),
    ):
        refused(404, "NOT_FOUND_ERR", call)
    refused(405, "METHOD_NOT_ALLOWED_ERR", lambda: user.kp.patch_key(key_id, user.instance))


@story
def a_rate_limit_is_waited_for(user):
    hurried, patient = User(user.world["throttled"]), User(user.world["throttled"])

    def too_many():
        for _ in range(HURRIED_CALLS):
            hurried.page()

    refused(429, "TOO_MANY_REQUESTS_ERR", too_many)
    patient.kp.enable_retries(max_retries=4, retry_interval=2.0)
    for _ in range(PATIENT_CALLS):
        patient.page()


@story
def the_certificate_is_checked(user):
    logging.disable(logging.ERROR)  # The client logs the fault, too.
    user.kp.set_http_config({"verify": user.world["other_ca"]})
    raised(requests.exceptions.SSLError, lambda: user.kp.get_keys(user.instance))
