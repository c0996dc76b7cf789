"""The operator on a real API server, token and store, as a process that can be killed."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from testbed.cluster import Cluster
from testbed.errors import CommandFailedError
from testbed.loopback import request
from tests.e2e.operator_world import (
    NAMESPACE,
    REFERENCE,
    REPOSITORY,
    KeyHandle,
    World,
    documents,
    install_crd,
    key_manifest,
)
from tests.scraping import Scraped

pytestmark = pytest.mark.e2e

SOME_KEY_ID = "11111111-1111-4111-8111-111111111111"
IMPORT = {"secretRef": {"name": "material", "key": "key"}}


@pytest.fixture(scope="module")
def world(plain_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The operator, started before there is a CRD that it could serve."""
    world = World(plain_cluster, tmp_path_factory.mktemp("operator"))
    try:
        world.start(until="kubectl apply -f crds/keys.yaml")
        install_crd(plain_cluster)
        # It needs ten seconds, in which other tests run.
        world.apply("interval", rotation={"interval": "10s"})
        yield world
    finally:
        world.close()


# --- what the API server itself refuses -------------------------------------

REFUSED_AT_CREATION: dict[str, tuple[dict[str, Any], str]] = {
    "a name of one character": ({"displayName": "x"}, "at least 2 chars"),
    "a name of 91 characters": ({"displayName": "x" * 91}, "may not be more than 90"),
    "a description of one character": ({"description": "x"}, "at least 2 chars"),
    "a description of 241 characters": ({"description": "x" * 241}, "may not be more than 240"),
    "an unknown type": ({"type": "Quantum"}, '"Root", "Standard"'),
    "an unknown state": ({"state": "Off"}, '"Active", "Suspended"'),
    "an unknown deletion policy": ({"deletionPolicy": "Orphan"}, '"Delete", "Retain"'),
    "a date that is none": ({"expirationDate": "soon"}, "must be of type date-time"),
    "an interval below ten seconds": ({"rotation": {"interval": "9s"}}, "at least 10s"),
    "an interval of two units": ({"rotation": {"interval": "1h30m"}}, "one unit out of"),
    "an interval beyond bounds": ({"rotation": {"interval": "10000d"}}, "one unit out of"),
    "an empty trigger": ({"rotation": {"trigger": ""}}, "at least 1 chars"),
    "a trigger of 129 characters": ({"rotation": {"trigger": "x" * 129}}, "more than 128"),
    "an import without an entry": ({"import": {"secretRef": {"name": "a"}}}, "key: Required"),
    "an import that also adopts": (
        {"import": IMPORT, "adopt": SOME_KEY_ID},
        "spec.import makes a new key and spec.adopt takes an existing one",
    ),
    "an import with an interval": (
        {"import": IMPORT, "rotation": {"interval": "90d"}},
        "cannot rotate by itself",
    ),
    "a standard key that rotates": (
        {"type": "Standard", "rotation": {"trigger": "1"}},
        "type Standard cannot be rotated",
    ),
    "a key id that is none": ({"adopt": "etcd"}, "spec.adopt has to be a key id"),
    "a key id in upper case": (
        {"adopt": "AAAAAAAA-AAAA-4AAA-8AAA-AAAAAAAAAAAA"},
        "lower case",
    ),
}


@pytest.mark.parametrize(
    ("spec", "message"), REFUSED_AT_CREATION.values(), ids=REFUSED_AT_CREATION.keys()
)
def test_a_resource_that_breaks_a_rule_is_refused(world: World, spec, message):
    manifest = json.dumps(key_manifest("refused", **spec))

    with pytest.raises(CommandFailedError, match="is invalid") as caught:
        world.cluster.kubectl("create", "--dry-run=server", "--filename=-", input=manifest)

    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["x", "x" * 91], ids=len)
def test_a_resource_whose_name_cannot_be_the_keys_name_needs_a_display_name(world: World, name):
    def create(**spec: Any) -> str:
        manifest = json.dumps(key_manifest(name, **spec))
        return world.cluster.kubectl("create", "--dry-run=server", "--filename=-", input=manifest)

    with pytest.raises(CommandFailedError, match=r"set spec\.displayName"):
        create()
    assert "created" in create(displayName="A name")


def test_a_resource_that_sets_nothing_gets_the_defaults(world: World):
    manifest = key_manifest("defaults")
    del manifest["spec"]

    created = world.cluster.kubectl(
        "create", "--dry-run=server", "--filename=-", "--output=json", input=json.dumps(manifest)
    )

    assert json.loads(created)["spec"] == {"type": "Root", "deletionPolicy": "Delete"}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        pytest.param({}, {"type": "Standard"}, "spec.type is immutable", id="type"),
        pytest.param({}, {"import": IMPORT}, "spec.import is immutable", id="import added"),
        pytest.param({"import": IMPORT}, {}, "spec.import is immutable", id="import removed"),
        pytest.param(
            {"import": IMPORT},
            {"import": {"secretRef": {"name": "other", "key": "key"}}},
            "spec.import is immutable",
            id="import changed",
        ),
        pytest.param({}, {"adopt": SOME_KEY_ID}, "spec.adopt is immutable", id="adopt added"),
        pytest.param({"adopt": SOME_KEY_ID}, {}, "spec.adopt is immutable", id="adopt removed"),
        pytest.param(
            {"adopt": SOME_KEY_ID},
            {"adopt": SOME_KEY_ID.replace("1", "2")},
            "spec.adopt is immutable",
            id="adopt changed",
        ),
    ],
)
def test_what_makes_a_key_cannot_change_later(world: World, before, after, message):
    key = world.apply("immutable", **before)

    with pytest.raises(CommandFailedError, match=message):
        world.apply("immutable", **after)

    key.delete()


@pytest.mark.parametrize(
    "path",
    [
        REFERENCE,
        # The others are manifests for kubelet.
        *(p for p in sorted((REPOSITORY / "examples").glob("*.yaml")) if "-pod" not in p.name),
    ],
    ids=lambda path: path.name,
)
def test_every_example_is_accepted(world: World, path: Path):
    keys = [found for found in documents(path) if found["kind"] == "Key"]
    assert keys

    for key in keys:
        key["metadata"]["namespace"] = NAMESPACE
        manifest = json.dumps(key)
        world.cluster.kubectl("create", "--dry-run=server", "--filename=-", input=manifest)


def test_kubectl_explains_the_fields(world: World):
    text = world.cluster.kubectl("explain", "key.spec.rotation")

    assert "When the key gets a new version." in text
    assert "changing it rotates the key once" in text


# --- the life of a key ------------------------------------------------------


def test_a_key_that_is_created_is_ready_and_the_columns_say_so(world: World):
    key = world.make("created", displayName="A first key")

    columns, wide = key.columns(), key.columns("--output=wide")
    assert list(columns) == ["NAME", "READY", "REASON", "VERSION", "LAST ROTATED", "AGE"]
    assert (columns["READY"], columns["REASON"], columns["VERSION"]) == ("True", "KeyActive", "1")
    assert wide["KEY ID"] == key.id
    assert world.rival.key(key.id)["name"] == "A first key"
    key.wait_until(lambda: key.events() == ["Created"], "has one event")


def test_a_key_is_made_once_although_the_operator_is_killed_before_it_says_so(world: World):
    before = world.rival.count_keys()

    with world.operator_that_dies_after("create"):
        key = world.apply("killed-at-creation")
    key.wait_for(Ready="True")

    assert world.rival.count_keys() == before + 1
    assert world.rival.key(key.id)["owner"] == f"kubernetes/{key.get()['metadata']['uid']}"


def test_a_changed_trigger_rotates_once_although_the_operator_is_killed(world: World):
    key = world.make("killed-at-rotation", rotation={"trigger": "1"})
    assert world.rival.key(key.id)["versions"] == 1

    with world.operator_that_dies_after("rotate"):
        key.patch(rotation={"trigger": "2"})
    key.wait_until(lambda: key.status["currentVersion"] == 2, "shows version 2")
    # Looked at again by the handler of the start and by the timer.
    generation = key.get()["metadata"]["generation"]
    key.patch(description="looked at again")
    key.wait_until(
        lambda: key.status["observedGeneration"] == generation + 1, "was looked at again"
    )

    assert world.rival.key(key.id)["versions"] == 2
    assert key.columns()["LAST ROTATED"].endswith("s")
    assert [version["state"] for version in key.status["versions"]] == ["Retired", "Active"]


def test_an_interval_rotates_by_itself(world: World):
    key = KeyHandle(world, "interval")

    key.wait_until(lambda: key.status["currentVersion"] > 1, "rotates")

    first, second, *_ = key.status["versions"]
    made, rotated = (datetime.fromisoformat(v["createdAt"]) for v in (first, second))
    assert timedelta(seconds=10) <= rotated - made < timedelta(seconds=30)
    assert key.status["nextRotationTime"] > key.status["lastRotationTime"]
    key.delete()


def test_a_key_is_suspended_and_resumed(world: World):
    key = world.make("suspended")

    key.patch(state="Suspended")
    key.wait_for(Ready="KeyStateSuspended")
    suspended = world.rival.key(key.id)["state"]
    key.patch(state="Active")
    key.wait_for(Ready="True")

    assert suspended == "SUSPENDED"
    assert world.rival.key(key.id)["state"] == "ACTIVE"
    key.wait_until(lambda: key.events()[-2:] == ["Suspended", "Resumed"], "has the events")


def test_a_change_by_another_process_is_set_back_where_the_resource_sets_it(world: World):
    enforced = world.make("enforced", displayName="As declared", state="Active")
    observed = world.make("observed")

    for key in (enforced, observed):
        world.rival.does(f"core.keys.edit(caller, KeyId({key.id!r}), Edits(name='Renamed'))")
        world.rival.does(f"core.keys.suspend(caller, KeyId({key.id!r}))")
    observed.wait_for(Ready="KeyStateSuspended")
    enforced.wait_until(
        lambda: world.rival.key(enforced.id)["name"] == "As declared", "has its name again"
    )

    assert world.rival.key(enforced.id)["state"] == "ACTIVE"
    assert world.rival.key(observed.id)["name"] == "Renamed"
    enforced.wait_until(lambda: "DriftCorrected" in enforced.events(), "tells it")


def test_an_existing_key_is_adopted_when_its_instance_is_the_namespaces(world: World):
    instance = world.rival.does("core.instances.create(caller, 'elsewhere').id")
    key_id = world.rival.does(
        f"core.keys.create(caller, InstanceId({instance!r}), NewKey('old')).id"
    )
    key = world.apply("adopted", adopt=key_id, rotation={"trigger": "1"})

    key.wait_for(Ready="KeyNotFound")
    message = key.condition("Ready")["message"]
    world.rival.does(f"core.instances.bind(caller, InstanceId({instance!r}), {NAMESPACE!r})")
    key.wait_for(Ready="True")
    world.rival.does(f"core.instances.bind(caller, InstanceId({instance!r}), None)")

    assert f"keyplane instance bind <instance id> --namespace {NAMESPACE}" in message
    assert key.id == key_id
    assert world.rival.key(key_id)["versions"] == 1
    key.wait_until(lambda: "Adopted" in key.events(), "tells it")


def test_a_key_that_was_deleted_elsewhere_is_not_made_again(world: World):
    key = world.make("deleted-elsewhere")
    before = world.rival.count_keys()

    world.rival.does(f"core.keys.delete(caller, KeyId({key.id!r}))")
    key.wait_for(Ready="KeyDeleted")
    key.patch(description="looked at again")
    key.wait_until(lambda: key.status["observedGeneration"] == 2, "was looked at again")

    assert key.condition("Ready")["reason"] == "KeyDeleted"
    assert world.rival.count_keys() == before
    key.delete()


# --- deletion ---------------------------------------------------------------


def test_a_key_is_destroyed_with_its_resource(world: World):
    key = world.make("deleted")
    key_id = key.id
    assert key.get()["metadata"]["finalizers"] == ["kms.keyplane.dev/key"]

    key.delete()

    assert world.rival.key(key_id)["state"] == "DESTROYED"
    key.wait_until(lambda: "Deleted" in key.events(), "tells it")


def test_a_retained_key_outlives_its_resource(world: World):
    key = world.make("retained", deletionPolicy="Retain")
    key_id = key.id

    key.delete()

    assert world.rival.key(key_id) | {"state": "ACTIVE", "owner": None} == world.rival.key(key_id)


def test_a_key_that_a_provider_needs_keeps_its_resource_until_it_is_released(world: World):
    key, successor = world.make("bound"), world.make("successor")
    key_id = key.id
    world.rival.does(f"core.providers.bind(caller, 'etcd', KeyId({key_id!r}))")

    key.delete(wait=False)
    key.wait_for(DeletionBlocked="KeyInUse")
    blocked = key.condition("DeletionBlocked")
    world.operator.kill()
    world.start()
    world.rival.does(f"core.providers.bind(caller, 'etcd', KeyId({successor.id!r}))")
    world.rival.does(f"core.providers.release(caller, 'etcd', KeyId({key_id!r}))")
    key.wait_until(lambda: not key.exists(), "is gone")

    assert blocked["status"] == "True"
    assert f"keyplane provider release etcd --key {key_id}" in blocked["message"]
    assert key.events().count("DeletionBlocked") == 1
    assert world.rival.key(key_id)["state"] == "DESTROYED"


def test_a_resource_that_never_adopted_goes_without_touching_the_key(world: World):
    foreign = world.make("foreign")
    key = world.apply("never-adopted", adopt=foreign.id)
    key.wait_for(Ready="KeyOwned")

    key.delete()

    assert world.rival.key(foreign.id)["state"] == "ACTIVE"


# --- key material -----------------------------------------------------------


def test_a_key_is_imported_from_a_secret_and_its_material_stays_there(world: World):
    material = os.urandom(32)
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "material", "namespace": NAMESPACE},
        "data": {"key": base64.b64encode(material).decode()},
    }
    world.cluster.kubectl("apply", "--filename=-", input=json.dumps(secret))
    key = world.make("imported", **{"import": IMPORT}, rotation={"trigger": "1"})

    key.patch(rotation={"trigger": "2"})
    key.wait_until(lambda: key.status["currentVersion"] == 2, "rotates")
    world.cluster.kubectl("delete", "secret", "material", f"--namespace={NAMESPACE}")
    key.patch(rotation={"trigger": "3"})
    key.wait_for(Ready="SecretNotFound")

    assert world.rival.key(key.id)["imported"]
    everything = b"".join(
        world.cluster.etcd_get(f"/registry/{kind}/")[path]
        for kind in ("events", "kms.keyplane.dev")
        for path in world.cluster.etcd_get(f"/registry/{kind}/")
    )
    everything += world.operator.log.read_bytes()
    for audit in (world.state_dir / "audit").iterdir():
        everything += audit.read_bytes()
    assert key.id.encode() in everything
    for shape in (material, material.hex().encode(), base64.b64encode(material)):
        assert shape not in everything


def test_a_resource_holds_only_what_is_known(world: World):
    """Handlers could leave results and errors of theirs in both places."""
    key = world.make("known", rotation={"trigger": "1", "interval": "90d"})

    resource = key.get()

    annotations = set(resource["metadata"]["annotations"])
    assert annotations == {
        "kms.keyplane.dev/kopf-managed",
        "kms.keyplane.dev/last-handled-configuration",
        "kubectl.kubernetes.io/last-applied-configuration",
    }
    assert set(resource["status"]) == {
        "conditions",
        "currentVersion",
        "instanceID",
        "keyID",
        "nextRotationTime",
        "observedGeneration",
        "versions",
    }


# --- what is seen from outside ------------------------------------------------


def test_the_operator_tells_of_keys_looks_and_the_cluster(world: World):
    key = world.make("watched", expirationDate="2091-01-01T00:00:00Z")
    name = "keyplane_operator_key_expiry_timestamp_seconds"

    def seen() -> Scraped:
        return Scraped(request(f"{world.health}/metrics")[1])

    key.wait_until(lambda: bool(seen().of(name)), "is seen from outside")
    scraped, (status, body) = seen(), request(f"{world.health}/readyz?verbose")

    assert (status, json.loads(body)["checks"]["cluster"]) == (200, "ok")
    assert scraped.value(name) <= datetime(2091, 1, 1, tzinfo=UTC).timestamp()
    assert scraped.value("keyplane_operator_keys", ready="True") >= 1
    assert scraped.value("keyplane_operator_reconciles_total", outcome="ok") >= 1
    assert key.id not in scraped.text
    assert "watched" not in scraped.text


# --- starts and stops -------------------------------------------------------


def test_the_operator_waits_for_an_api_server_and_outlives_its_restart(world: World):
    world.operator.stop()
    apiserver = world.cluster.apiservers[0]
    apiserver.stop()
    waits = "waiting: The API server did not answer"
    before = world.count_log(waits)

    world.start(until=waits)
    apiserver.start()
    world.make("after-the-wait")
    apiserver.restart()
    world.make("after-the-restart")

    assert world.count_log(waits) == before + 1


def test_a_signal_ends_the_operator_in_order(world: World):
    assert world.operator.stop(grace_seconds=10) == 0

    world.start()
