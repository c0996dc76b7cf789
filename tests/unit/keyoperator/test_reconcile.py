"""The whole way of a Key on a core with fakes below it: what a kill, an error or a rival does."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from keycore.domain.ids import InstanceId, KeyId, new_uuid
from keycore.domain.keys import Key, KeyKind, KeyState, VersionState
from keycore.errors import (
    KeyInUseError,
    KeyNotFoundError,
    StoreUnavailableError,
    TokenUnavailableError,
)
from keycore.ports import KeyFilter
from keycore.service.caller import Caller
from keycore.service.creation import NewKey
from keycore.service.keys import Edits
from keyoperator.cluster import MaterialMissingError
from keyoperator.reconcile import Outcome, Reconciler
from keyoperator.wanted import SecretRef
from tests.fakes.installation import FakeInstallation, fake_installation
from tests.unit.keyoperator.builders import IDENTITY, a_manifest

CLI = Caller("cli", "uid:0")
MATERIAL = b"0123456789abcdef0123456789abcdef"
IMPORT = {"secretRef": {"name": "material", "key": "key"}}


class FakeCluster:
    """Namespaces and Secrets as the API server would answer them."""

    def __init__(self) -> None:
        self.uid = InstanceId(new_uuid())
        self.material_value: bytes | None = MATERIAL
        self.reads = 0

    def namespace_uid(self, name: str) -> InstanceId:
        assert name == IDENTITY.namespace
        return self.uid

    def material(self, namespace: str, ref: SecretRef) -> bytes:
        assert (namespace, ref) == (IDENTITY.namespace, SecretRef("material", "key"))
        self.reads += 1
        if self.material_value is None:
            raise MaterialMissingError("Secret demo/material has no entry key")
        return self.material_value


class World:
    """One Key, kept as an API server would keep it."""

    def __init__(self, installation: FakeInstallation) -> None:
        self.installation = installation
        self.core = installation.core
        self.cluster = FakeCluster()
        self.manifest: dict[str, Any] = a_manifest()
        self.reconciler = Reconciler(self.core, self.cluster)

    def restart(self) -> None:
        """Start the operator anew, as after a crash."""
        self.reconciler = Reconciler(self.core, self.cluster)

    def set(self, **spec: Any) -> None:
        """Change the spec, which counts the generation up."""
        self.manifest["spec"] = self.manifest["spec"] | spec
        self.manifest["metadata"] = self.manifest["metadata"] | {
            "generation": self.manifest["metadata"]["generation"] + 1
        }

    def look(self) -> Outcome:
        """Reconcile, and keep the status as the API server would."""
        return self.keep(self.reconciler.reconcile(self.manifest))

    def keep(self, outcome: Outcome) -> Outcome:
        status = {**self.manifest.get("status", {}), **outcome.status}
        self.manifest["status"] = {k: v for k, v in status.items() if v is not None}
        return outcome

    def ready(self) -> tuple[str, str]:
        """Return status and reason of the condition Ready."""
        return self.condition("Ready")

    def condition(self, kind: str) -> tuple[str, str]:
        (found,) = [c for c in self.manifest["status"]["conditions"] if c["type"] == kind]
        return found["status"], found["reason"]

    def key(self) -> Key:
        """Return the key that the status names, as the core has it."""
        return self.core.keys.get(CLI, KeyId(self.manifest["status"]["keyID"]))

    def all_keys(self) -> list[Key]:
        return self.core.keys.page(CLI, KeyFilter(deleted=True)).keys

    def foreign_key(self, **changes: Any) -> Key:
        """Make a key in the namespace's instance that no resource owns."""
        instance = self.core.instances.of_namespace(CLI, IDENTITY.namespace, self.cluster.uid)
        return self.core.keys.create(CLI, instance.id, replace(NewKey("foreign"), **changes))


@pytest.fixture
def world() -> World:
    return World(fake_installation())


@pytest.fixture
def settled(world: World) -> World:
    """A world whose key was made."""
    world.look()
    return world


def reasons(outcome: Outcome) -> list[str]:
    return [event.reason for event in outcome.events]


# --- making and adopting ----------------------------------------------------


def test_a_new_resource_gets_a_key_with_everything_it_sets(world: World):
    world.set(
        displayName="Etcd",
        description="of etcd",
        expirationDate="2031-01-01T00:00:00Z",
        rotation={"trigger": "1"},
    )

    outcome = world.look()

    key = world.key()
    assert (key.name, key.description, key.rotation_marker) == ("Etcd", "of etcd", "1")
    assert key.instance_id == world.cluster.uid
    assert key.owner == IDENTITY.owner
    assert world.ready() == ("True", "KeyActive")
    assert reasons(outcome) == ["Created"]


def test_a_second_look_does_and_tells_nothing(settled: World):
    assert settled.look() == Outcome()


def test_the_name_of_the_resource_is_the_name_of_the_key(settled: World):
    assert settled.key().name == IDENTITY.name


def test_a_kill_before_the_status_is_written_makes_no_second_key(world: World):
    world.reconciler.reconcile(world.manifest)
    world.restart()

    outcome = world.look()

    assert [key.id for key in world.all_keys()] == [world.key().id]
    assert reasons(outcome) == ["Created"]


def test_a_resource_that_is_not_held_gets_no_key(world: World):
    """It could vanish before anybody writes down that there is a key."""
    world.manifest["metadata"]["finalizers"] = []

    assert world.look() == Outcome()
    assert world.all_keys() == []


def test_a_timer_that_is_late_makes_no_key_for_a_resource_that_is_let_go(world: World):
    world.manifest["metadata"]["deletionTimestamp"] = "2030-03-01T12:00:00Z"

    assert world.look() == Outcome()
    assert world.all_keys() == []


def test_the_timer_leaves_the_first_look_to_the_handler(world: World):
    assert world.reconciler.look_again(world.manifest) == Outcome()
    assert world.all_keys() == []


def test_the_timer_finds_drift(settled: World):
    settled.core.keys.suspend(CLI, settled.key().id)

    outcome = settled.reconciler.look_again(settled.manifest)

    assert reasons(outcome) == ["Suspended"]


def test_the_timer_does_not_wait_for_a_resource_that_is_worked_on(settled: World):
    settled.core.keys.suspend(CLI, settled.key().id)
    lock = settled.reconciler._lock(settled.manifest)

    with lock:
        outcome = settled.reconciler.look_again(settled.manifest)

    assert outcome == Outcome()
    assert not lock.locked()


def test_a_look_waits_for_another_at_the_same_resource(settled: World):
    """Both would find the newest version too old, and rotate."""
    settled.set(rotation={"interval": "1h"})
    settled.installation.clock.advance(hours=1)
    look = threading.Thread(target=settled.reconciler.reconcile, args=(settled.manifest,))
    lock = settled.reconciler._lock(settled.manifest)

    with lock:
        look.start()
        look.join(0.1)
        versions_meanwhile = len(settled.key().versions)
    look.join()

    assert versions_meanwhile == 1
    assert len(settled.key().versions) == 2


def test_an_existing_key_is_adopted_with_its_marker(world: World):
    foreign = world.foreign_key()
    world.set(adopt=foreign.id, rotation={"trigger": "7"})

    outcome = world.look()

    key = world.key()
    assert (key.id, key.owner, key.rotation_marker) == (foreign.id, IDENTITY.owner, "7")
    assert len(key.versions) == 1
    assert reasons(outcome) == ["Adopted"]


def test_an_adopted_key_follows_the_resource_at_once(world: World):
    foreign = world.foreign_key()
    world.set(adopt=foreign.id, displayName="Etcd")

    outcome = world.look()

    assert world.key().name == "Etcd"
    assert reasons(outcome) == ["Updated", "Adopted"]


def test_a_key_of_another_instance_is_not_adopted_and_the_fix_is_told(world: World):
    other = world.core.keys.create(CLI, world.installation.instance.id, NewKey("other"))
    world.set(adopt=other.id)

    outcome = world.look()

    assert isinstance(outcome.failure, KeyNotFoundError)
    assert world.ready() == ("False", "KeyNotFound")
    message = world.manifest["status"]["conditions"][0]["message"]
    assert "keyplane instance bind <instance id> --namespace demo" in message
    assert world.installation.instance.id not in message


def test_a_key_is_adopted_when_its_instance_is_bound_later(world: World):
    other = world.core.keys.create(CLI, world.installation.instance.id, NewKey("other"))
    world.set(adopt=other.id)
    world.look()

    world.core.instances.bind(CLI, world.installation.instance.id, IDENTITY.namespace)
    outcome = world.look()

    assert world.key().id == other.id
    assert reasons(outcome) == ["Adopted", "Ready"]


def test_a_key_that_another_resource_owns_is_not_adopted(world: World):
    foreign = world.foreign_key(owner="kubernetes/other")
    world.set(adopt=foreign.id)

    world.look()

    assert world.ready() == ("False", "KeyOwned")
    assert "keyID" not in world.manifest["status"]


def test_a_key_of_another_type_is_not_adopted(world: World):
    foreign = world.foreign_key(kind=KeyKind.STANDARD)
    world.set(adopt=foreign.id)

    world.look()

    assert world.ready() == ("False", "TypeMismatch")
    assert world.core.keys.get(CLI, foreign.id).owner is None


# --- import -----------------------------------------------------------------


def test_a_key_is_imported_from_its_secret_once(world: World):
    world.set(**{"import": IMPORT})

    world.look()
    world.look()

    assert world.key().imported
    assert world.cluster.reads == 1


def test_a_secret_without_the_entry_is_told_and_read_again_later(world: World):
    world.set(**{"import": IMPORT})
    world.cluster.material_value = None

    world.look()
    refused = world.ready()
    world.cluster.material_value = MATERIAL
    world.look()

    assert refused == ("False", "MaterialMissing")
    assert world.ready() == ("True", "KeyActive")


def test_material_of_a_wrong_size_is_refused_and_not_shown(world: World):
    world.set(**{"import": IMPORT})
    world.cluster.material_value = b"too short a secret"

    outcome = world.look()

    assert world.ready() == ("False", "Refused")
    assert "too short" not in f"{outcome.status}{outcome.events}{outcome.failure}"


def test_an_imported_key_is_rotated_from_its_secret(world: World):
    world.set(**{"import": IMPORT}, rotation={"trigger": "1"})
    world.look()

    world.cluster.material_value = bytes(reversed(MATERIAL))
    world.set(rotation={"trigger": "2"})
    world.look()

    assert world.cluster.reads == 2
    assert len(world.key().versions) == 2


# --- rotation ---------------------------------------------------------------


def test_a_changed_trigger_rotates_once(settled: World):
    settled.set(rotation={"trigger": "2"})

    outcome = settled.look()
    again = settled.look()

    assert len(settled.key().versions) == 2
    assert settled.manifest["status"]["currentVersion"] == 2
    assert settled.manifest["status"]["lastRotationTime"] == "2030-03-01T12:00:00Z"
    assert reasons(outcome) == ["Rotated"]
    assert again == Outcome()


def test_a_kill_after_the_rotation_does_not_rotate_again(settled: World):
    settled.set(rotation={"trigger": "2"})
    settled.reconciler.reconcile(settled.manifest)
    settled.restart()

    outcome = settled.look()

    assert len(settled.key().versions) == 2
    assert reasons(outcome) == ["Rotated"]


def test_the_interval_rotates_when_its_time_has_come(settled: World):
    settled.set(rotation={"interval": "1h"})
    settled.look()
    planned = settled.manifest["status"]["nextRotationTime"]

    settled.installation.clock.advance(hours=1)
    settled.look()

    assert planned == "2030-03-01T13:00:00Z"
    assert len(settled.key().versions) == 2
    assert settled.manifest["status"]["nextRotationTime"] == "2030-03-01T14:00:00Z"


def test_an_interval_that_is_removed_leaves_no_plan(settled: World):
    settled.set(rotation={"interval": "1h"})
    settled.look()

    settled.set(rotation={})
    settled.look()

    assert "nextRotationTime" not in settled.manifest["status"]


def test_a_rotation_waits_for_registered_nodes_and_ends_when_they_have_it(settled: World):
    providers = settled.core.providers
    providers.report("keyplane", "node-a", 0)
    providers.bind(CLI, "keyplane", settled.key().id)
    providers.report("keyplane", "node-a", 1)
    settled.set(rotation={"trigger": "2"})

    started = settled.look()
    waiting = settled.condition("Rotating")
    shown = [version["state"] for version in settled.manifest["status"]["versions"]]
    settled.set(rotation={"trigger": "3"})
    settled.look()
    versions_while_waiting = len(settled.key().versions)
    providers.report("keyplane", "node-a", 2)
    ended = settled.look()

    assert waiting == ("True", "WaitingForNodes")
    assert shown == ["Active", "Pending"]
    assert reasons(started) == ["RotationPending"]
    assert versions_while_waiting == 2
    # The second trigger was not forgotten.
    assert settled.key().rotation_marker == "3"
    assert [v.state for v in settled.key().versions][1:] == [
        VersionState.ACTIVE,
        VersionState.PENDING,
    ]
    assert reasons(ended) == ["Rotated"]


# --- drift and state --------------------------------------------------------


def test_a_change_made_elsewhere_is_set_back_and_told(world: World):
    world.set(displayName="Etcd", state="Active")
    world.look()
    world.core.keys.edit(CLI, world.key().id, Edits(name="Renamed"))
    world.core.keys.suspend(CLI, world.key().id)

    outcome = world.look()

    key = world.key()
    assert (key.name, key.state) == ("Etcd", KeyState.ACTIVE)
    assert reasons(outcome) == ["DriftCorrected", "DriftCorrected"]
    assert world.ready() == ("True", "KeyActive")


def test_a_change_of_the_resource_is_no_drift(settled: World):
    settled.set(displayName="Etcd")

    assert reasons(settled.look()) == ["Updated"]


def test_a_key_is_suspended_and_resumed_by_its_resource(settled: World):
    settled.set(state="Suspended")
    suspended = settled.look()
    reason = settled.ready()
    settled.set(state="Active")
    resumed = settled.look()

    assert reason == ("False", "KeyStateSuspended")
    assert reasons(suspended) == ["Suspended"]
    assert reasons(resumed) == ["Resumed"]


def test_a_key_that_a_provider_needs_is_not_suspended_and_stays_as_it_is(settled: World):
    settled.core.providers.bind(CLI, "keyplane", settled.key().id)
    settled.set(state="Suspended")

    outcome = settled.look()

    assert isinstance(outcome.failure, KeyInUseError)
    assert settled.ready() == ("False", "KeyInUse")
    assert settled.key().state is KeyState.ACTIVE
    assert settled.manifest["status"]["observedGeneration"] == 4


def test_a_failure_does_not_hide_what_else_has_changed(settled: World):
    settled.core.providers.bind(CLI, "keyplane", settled.key().id)
    settled.core.keys.rotate(CLI, settled.key().id)
    settled.set(state="Suspended")

    outcome = settled.look()

    assert settled.manifest["status"]["currentVersion"] == 2
    assert reasons(outcome) == ["Rotated", "KeyInUse"]


def test_a_key_deleted_elsewhere_is_told_and_never_made_again(settled: World):
    settled.core.keys.delete(CLI, settled.key().id)

    outcome = settled.look()
    settled.look()

    assert settled.ready() == ("False", "KeyDeleted")
    assert reasons(outcome) == ["KeyDeleted"]
    assert len(settled.all_keys()) == 1
    assert settled.manifest["status"]["versions"][0]["state"] == "Destroyed"


def test_a_key_that_the_store_forgot_is_never_made_again(settled: World):
    settled.core.keys.release(CLI, settled.key().id)

    settled.look()

    assert settled.ready() == ("False", "KeyLost")
    assert len(settled.all_keys()) == 1


# --- faults -----------------------------------------------------------------


def test_a_token_that_is_away_is_told_once_and_healed_by_itself(settled: World):
    settled.installation.token.lost = True
    first, second = settled.look(), settled.look()
    reason = settled.ready()
    key_id = settled.manifest["status"]["keyID"]

    settled.installation.token.lost = False
    healed = settled.look()

    assert isinstance(first.failure, TokenUnavailableError)
    assert reason == ("False", "TokenUnavailable")
    assert (reasons(first), reasons(second)) == (["TokenUnavailable"], [])
    assert key_id == settled.key().id
    assert reasons(healed) == ["Ready"]


def test_a_store_that_is_away_is_told(settled: World):
    settled.installation.store.lost = True

    outcome = settled.look()

    assert isinstance(outcome.failure, StoreUnavailableError)
    assert settled.ready() == ("False", "StoreUnavailable")


def test_a_value_that_the_core_refuses_is_told(world: World):
    world.set(expirationDate="2029-01-01T00:00:00Z")

    world.look()

    assert world.ready() == ("False", "Refused")
    assert "future" in world.manifest["status"]["conditions"][0]["message"]


def test_a_value_that_this_version_does_not_know_is_told(world: World):
    world.set(type="Quantum")

    world.look()

    assert world.ready() == ("False", "Refused")
    assert world.all_keys() == []


def test_a_fault_of_ours_is_logged_and_not_shown(world: World, caplog, monkeypatch):
    monkeypatch.setattr(world.cluster, "namespace_uid", lambda _: 1 / 0)

    outcome = world.look()

    assert world.ready() == ("False", "InternalError")
    assert isinstance(outcome.failure, ZeroDivisionError)
    assert "division" not in str(outcome.status)
    assert "division" in caplog.text


# --- deletion ---------------------------------------------------------------


def test_a_key_is_destroyed_with_its_resource(settled: World):
    key_id = settled.key().id

    outcome = settled.reconciler.delete(settled.manifest)

    assert outcome.failure is None
    assert reasons(outcome) == ["Deleted"]
    assert settled.core.keys.get(CLI, key_id).state is KeyState.DESTROYED


def test_a_retained_key_is_released_and_stays(settled: World):
    settled.set(deletionPolicy="Retain")

    outcome = settled.reconciler.delete(settled.manifest)

    key = settled.key()
    assert reasons(outcome) == ["Released"]
    assert (key.state, key.owner) == (KeyState.ACTIVE, None)


def test_a_deletion_that_was_killed_is_repeated(settled: World):
    settled.reconciler.delete(settled.manifest)
    settled.restart()

    assert settled.reconciler.delete(settled.manifest) == Outcome()


def test_a_key_whose_status_was_never_written_is_destroyed_too(world: World):
    world.reconciler.reconcile(world.manifest)

    outcome = world.reconciler.delete(world.manifest)

    assert reasons(outcome) == ["Deleted"]
    assert [key.state for key in world.all_keys()] == [KeyState.DESTROYED]


def test_a_resource_that_never_adopted_does_not_touch_the_foreign_key(world: World):
    foreign = world.foreign_key(owner="kubernetes/other")
    world.set(adopt=foreign.id)
    world.look()

    outcome = world.reconciler.delete(world.manifest)

    assert outcome == Outcome()
    assert world.core.keys.get(CLI, foreign.id).state is KeyState.ACTIVE


def test_a_key_deleted_elsewhere_lets_its_resource_go(settled: World):
    settled.core.keys.delete(CLI, settled.key().id)

    assert settled.reconciler.delete(settled.manifest) == Outcome()


def test_a_key_that_a_provider_needs_keeps_its_resource_until_it_is_released(settled: World):
    providers, key_id = settled.core.providers, settled.key().id
    providers.bind(CLI, "keyplane", key_id)

    blocked = settled.keep(settled.reconciler.delete(settled.manifest))
    again = settled.keep(settled.reconciler.delete(settled.manifest))
    message = settled.manifest["status"]["conditions"][-1]["message"]
    providers.bind(CLI, "keyplane", settled.foreign_key().id)
    providers.release(CLI, "keyplane", key_id)
    freed = settled.reconciler.delete(settled.manifest)

    assert isinstance(blocked.failure, KeyInUseError)
    assert settled.condition("DeletionBlocked") == ("True", "KeyInUse")
    assert f"keyplane provider release keyplane --key {key_id}" in message
    assert settled.ready() == ("True", "KeyActive")
    assert (reasons(blocked), reasons(again)) == (["DeletionBlocked"], [])
    assert reasons(freed) == ["Deleted"]


def test_a_resource_stays_while_the_store_is_away(settled: World):
    settled.installation.store.lost = True

    outcome = settled.keep(settled.reconciler.delete(settled.manifest))

    assert isinstance(outcome.failure, StoreUnavailableError)
    assert settled.condition("DeletionBlocked") == ("True", "StoreUnavailable")


def test_what_was_done_is_in_the_audit_log_under_the_name_of_the_resource(settled: World):
    event = settled.installation.audit.last("key.create")

    assert (event.face, event.actor) == ("operator", "Key demo/etcd")
