"""What users of this client, and perhaps of no other, are used to."""

import logging
import os
import uuid

from keyprotect import ibm_key_protect_api_v2 as sdk
from stories import base64_of, soon, story
from user import PLAINTEXT, body, key_body, refused


@story
def the_older_form_of_actions_works(user):
    """`?action=` instead of a path, as the Key Management Service APIs have it."""
    logging.disable(logging.WARNING)  # The client warns about its own method.
    key_id = user.root_key()

    def act(action, fields):
        response = user.kp.action_on_key(key_id, user.instance, action, body(fields))
        return response.get_status_code(), response.get_result()

    status, wrapped = act("wrap", {"plaintext": PLAINTEXT, "aad": ["one"]})
    assert status == 200
    ciphertext = wrapped.json()["ciphertext"]
    assert act("rotate", {}) == (204, None)
    _, opened = act("unwrap", {"ciphertext": ciphertext, "aad": ["one"]})
    assert opened.json()["plaintext"] == PLAINTEXT
    _, new = act("rewrap", {"ciphertext": ciphertext, "aad": ["one"]})
    assert new.json()["rewrappedKeyVersion"]["id"]
    assert act("disable", {}) == (204, None)
    assert act("enable", {}) == (204, None)
    refused(400, "INVALID_QUERY_PARAM_ERR", lambda: act("fold", {}))
    mismatch = lambda: act("wrap", {"ciphertext": ciphertext})  # noqa: E731
    refused(400, "BODY_QUERY_PARAM_MISMATCH_ERR", mismatch)
    imported = user.root_key(payload=base64_of(os.urandom(32)))
    payload = body({"payload": base64_of(os.urandom(32))})
    rotated = user.kp.action_on_key(imported, user.instance, "rotate", payload)
    assert rotated.get_status_code() == 204


@story
def answers_fit_the_models_of_the_client(user):
    """Its classes read dates and nested values; a wrong type would raise."""
    key_id = user.root_key(expirationDate=soon(3600))
    user.act("rotate", key_id)
    whole = user.kp.get_key(key_id, user.instance).get_result().json()
    key = sdk.GetKey.from_dict(whole).resources[0]
    assert key.id == key_id
    assert key.creation_date <= key.last_rotate_date <= key.expiration_date
    listed = user.kp.get_keys(user.instance).get_result().json()
    assert sdk.ListKeys.from_dict(listed).metadata.collection_total == len(listed["resources"])


@story
def retries_and_correlation_ids_work(user):
    user.kp.enable_retries(max_retries=2, retry_interval=1.0)
    correlation_id = str(uuid.uuid4())
    made = user.kp.create_key(
        user.instance,
        key_body(name="root key", extractable=False),
        headers={"Correlation-Id": correlation_id},
    )
    assert made.get_headers()["Correlation-Id"] == correlation_id
    key_id = made.get_result().json()["resources"][0]["id"]
    user.kp.disable_key(key_id, user.instance)
    # A refusal that no retry can mend comes back at once.
    refused(409, "KEY_ACTION_INVALID_STATE_ERR", lambda: user.act("wrap", key_id))
    assert len(user.page(limit=1)[0]) == 1


@story
def the_steps_of_its_readme_work(user):
    made = user.kp.create_key(
        bluemix_instance=user.instance,
        key_create_body=key_body(name="my root key", extractable=False),
        prefer="return=representation",
    )
    key_id = made.get_result().json()["resources"][0]["id"]
    wrapped = user.kp.wrap_key(
        id=key_id,
        bluemix_instance=user.instance,
        key_action_wrap_body=body({"plaintext": PLAINTEXT}),
    )
    ciphertext = wrapped.get_result().json()["ciphertext"]
    opened = user.kp.unwrap_key(
        id=key_id,
        bluemix_instance=user.instance,
        key_action_unwrap_body=body({"ciphertext": ciphertext}),
    )
    assert opened.get_result().json()["plaintext"] == PLAINTEXT
