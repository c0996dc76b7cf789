"""What users of this client, and perhaps of no other, are used to."""

import redstone
from stories import story


@story
def a_hook_and_the_default_session_work(user):
    """The two other ways that its documentation shows: a hook, and `redstone.service`."""
    session = redstone.Session(region="local")
    redstone.DEFAULT_SESSION = session
    kp = redstone.service(
        "KeyProtect",
        credentials=user.kp.credentials,
        service_instance_id=user.world["instance"],
        endpoint_url=user.world["url"] + "/",
        verify=user.world["ca"],
    )
    seen = []

    def note(request):
        request.headers["X-Request-Id"] = "hooked-1"
        seen.append(request.method)
        return request

    kp.set_pre_send_fn(note)
    assert kp.create(name="root key", root=True)["id"]
    assert seen == ["POST"]


@story
def the_steps_of_its_readme_work(user):
    key = user.kp.create(name="MyKey")
    listed = user.kp.keys()
    assert key["id"] in {each["id"] for each in listed}
    user.kp.delete(key_id=key.get("id"))

    root = user.kp.create(name="MyRootKey", root=True)
    for aad in ({}, {"aad": ["python"]}):
        wrapped = user.kp.wrap(key_id=root.get("id"), plaintext=b"a message", **aad)
        ciphertext = wrapped.get("ciphertext")
        opened = user.kp.unwrap(key_id=root.get("id"), ciphertext=ciphertext, **aad)
        assert opened == b"a message"
