"""Audit: each decision leaves one line, and no line holds a secret."""

from __future__ import annotations

import base64
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from keycore.domain.ids import InstanceId, KeyId, new_uuid
from keycore.domain.keys import Key, KeyState
from keycore.errors import KeyplaneError, UnauthenticatedError
from keycore.ports import AuditEvent, KeyFilter
from keycore.service.caller import Auditor, Caller
from keycore.service.creation import NewKey
from keycore.service.instances import InstanceService
from keycore.service.keys import Edits, KeyService
from keycore.service.kms import KmsProvider
from keycore.service.providers import ProviderService
from keycore.service.wrapping import WrappingService
from tests.fakes.installation import CALLER, FakeInstallation
from tests.unit.keycore.examples import another_instance, put_state, root_key, standard_key

UNKNOWN = KeyId("0b000000-0000-4000-8000-00000000dead")


@dataclass(frozen=True)
class World:
    """An installation with one key of each kind, one of them bound and loaded, one bound before."""

    here: FakeInstallation
    key: Key
    standard: Key
    bound: Key
    former: Key

    def ciphertext(self) -> bytes:
        """Return a ciphertext of ``key``, without leaving its audit line."""
        wrapped = self.here.core.wrapping.wrap(CALLER, self.key.instance_id, self.key.id)
        self.here.audit.events.clear()
        return wrapped.ciphertext

    def encrypted_seed(self) -> tuple[bytes, str]:
        """Return what the provider encrypted, without leaving its audit line."""
        encrypted = self.here.core.kms.encrypt(CALLER, b"seed")
        self.here.audit.events.clear()
        return encrypted


@pytest.fixture
def world(here: FakeInstallation) -> World:
    """A world whose audit log starts empty."""
    key, standard, bound, former = (
        root_key(here),
        standard_key(here),
        root_key(here),
        root_key(here),
    )
    for served in (former, bound):
        here.core.providers.bind(CALLER, "keyplane", served.id)
        here.core.kms.refresh()
    here.audit.events.clear()
    return World(here, key, standard, bound, former)


Use = Callable[[World], object]

ALLOWED: dict[tuple[type, str], tuple[str, Use]] = {
    (KeyService, "create"): (
        "key.create",
        lambda w: w.here.core.keys.create(CALLER, w.key.instance_id, NewKey("new")),
    ),
    (KeyService, "create_opened"): (
        "key.create",
        lambda w: w.here.core.keys.create_opened(CALLER, w.key.instance_id, NewKey("new")),
    ),
    (KeyService, "open"): ("key.get", lambda w: w.here.core.keys.open(CALLER, w.standard.id)),
    (KeyService, "deletion_preview"): (
        "key.delete_preview",
        lambda w: w.here.core.keys.deletion_preview(CALLER, w.key.id),
    ),
    (KeyService, "add_alias"): (
        "key.add_alias",
        lambda w: w.here.core.keys.add_alias(CALLER, w.key.id, "alias"),
    ),
    (KeyService, "remove_alias"): (
        "key.remove_alias",
        lambda w: w.here.core.keys.remove_alias(CALLER, w.key.id, "alias"),
    ),
    (KeyService, "get"): ("key.get", lambda w: w.here.core.keys.get(CALLER, w.key.id)),
    (KeyService, "page"): ("key.list", lambda w: w.here.core.keys.page(CALLER, KeyFilter())),
    (KeyService, "count"): ("key.count", lambda w: w.here.core.keys.count(CALLER, KeyFilter())),
    (KeyService, "payload"): (
        "key.payload",
        lambda w: w.here.core.keys.payload(CALLER, w.standard.id),
    ),
    (KeyService, "rotate"): ("key.rotate", lambda w: w.here.core.keys.rotate(CALLER, w.key.id)),
    (KeyService, "suspend"): ("key.suspend", lambda w: w.here.core.keys.suspend(CALLER, w.key.id)),
    (KeyService, "resume"): ("key.resume", lambda w: w.here.core.keys.resume(CALLER, w.key.id)),
    (KeyService, "edit"): ("key.edit", lambda w: w.here.core.keys.edit(CALLER, w.key.id, Edits())),
    (KeyService, "adopt"): (
        "key.adopt",
        lambda w: w.here.core.keys.adopt(CALLER, w.key.id, "demo/x", within=w.key.instance_id),
    ),
    (KeyService, "release"): ("key.release", lambda w: w.here.core.keys.release(CALLER, w.key.id)),
    (KeyService, "delete"): ("key.delete", lambda w: w.here.core.keys.delete(CALLER, w.key.id)),
    (WrappingService, "wrap"): (
        "key.wrap",
        lambda w: w.here.core.wrapping.wrap(CALLER, w.key.instance_id, w.key.id),
    ),
    (WrappingService, "unwrap"): (
        "key.unwrap",
        lambda w: w.here.core.wrapping.unwrap(CALLER, w.key.instance_id, w.key.id, w.ciphertext()),
    ),
    (WrappingService, "rewrap"): (
        "key.rewrap",
        lambda w: w.here.core.wrapping.rewrap(CALLER, w.key.instance_id, w.key.id, w.ciphertext()),
    ),
    (ProviderService, "bind"): (
        "provider.set",
        lambda w: w.here.core.providers.bind(CALLER, "second", w.key.id),
    ),
    (ProviderService, "release"): (
        "provider.release",
        lambda w: w.here.core.providers.release(CALLER, "keyplane", w.former.id),
    ),
    (ProviderService, "remove_node"): (
        "node.remove",
        lambda w: w.here.core.providers.remove_node(CALLER, "keyplane", "node-a"),
    ),
    (InstanceService, "create"): (
        "instance.create",
        lambda w: w.here.core.instances.create(CALLER, "tenant"),
    ),
    (InstanceService, "bind"): (
        "instance.bind",
        lambda w: w.here.core.instances.bind(CALLER, w.key.instance_id, "demo"),
    ),
    (InstanceService, "of_namespace"): (
        "instance.create",
        lambda w: w.here.core.instances.of_namespace(CALLER, "new", InstanceId(new_uuid())),
    ),
    (KmsProvider, "encrypt"): ("kms.encrypt", lambda w: w.here.core.kms.encrypt(CALLER, b"seed")),
    (KmsProvider, "decrypt"): (
        "kms.decrypt",
        lambda w: w.here.core.kms.decrypt(CALLER, *w.encrypted_seed()),
    ),
}
"""Every use case that decides for a caller, done once with success."""

REFUSED: dict[str, tuple[str, str, Use]] = {
    "out-of-bounds": (
        "key.create",
        "invalid_request",
        lambda w: w.here.core.keys.create(CALLER, w.key.instance_id, NewKey("x")),
    ),
    "no-instance": (
        "key.create",
        "instance_not_found",
        lambda w: w.here.core.keys.create(CALLER, InstanceId(UNKNOWN), NewKey("new")),
    ),
    "no-key": ("key.get", "key_not_found", lambda w: w.here.core.keys.get(CALLER, UNKNOWN)),
    "foreign-key": (
        "key.wrap",
        "key_not_found",
        lambda w: w.here.core.wrapping.wrap(CALLER, InstanceId(UNKNOWN), w.key.id),
    ),
    "bound-key": (
        "key.delete",
        "key_in_use",
        lambda w: w.here.core.keys.delete(CALLER, w.bound.id),
    ),
    "standard-key": (
        "key.wrap",
        "not_a_root_key",
        lambda w: w.here.core.wrapping.wrap(CALLER, w.key.instance_id, w.standard.id),
    ),
    "malformed": (
        "key.unwrap",
        "ciphertext_malformed",
        lambda w: w.here.core.wrapping.unwrap(CALLER, w.key.instance_id, w.key.id, b"x"),
    ),
    "rejected": (
        "key.rewrap",
        "ciphertext_rejected",
        lambda w: w.here.core.wrapping.rewrap(
            CALLER, w.key.instance_id, w.bound.id, w.ciphertext()
        ),
    ),
    "unknown-key-id": (
        "kms.decrypt",
        "ciphertext_rejected",
        lambda w: w.here.core.kms.decrypt(CALLER, b"x", "unknown"),
    ),
    "bad-name": (
        "provider.set",
        "invalid_request",
        lambda w: w.here.core.providers.bind(CALLER, "Bad", w.key.id),
    ),
    "no-node": (
        "node.remove",
        "node_not_found",
        lambda w: w.here.core.providers.remove_node(CALLER, "keyplane", "node-x"),
    ),
    "taken": (
        "instance.create",
        "already_exists",
        lambda w: w.here.core.instances.create(CALLER, "xx", instance_id=w.key.instance_id),
    ),
}


def test_every_use_case_with_a_caller_is_tried() -> None:
    services = (KeyService, WrappingService, ProviderService, InstanceService, KmsProvider)
    with_caller = {
        (service, name)
        for service in services
        for name, method in inspect.getmembers(service, inspect.isfunction)
        if not name.startswith("_") and "caller" in inspect.signature(method).parameters
    }

    assert with_caller == set(ALLOWED)


@pytest.mark.parametrize(
    ("operation", "use"),
    [pytest.param(*row, id=f"{s.__name__}.{name}") for (s, name), row in ALLOWED.items()],
)
def test_an_allowed_decision_leaves_one_line(world: World, operation: str, use: Use) -> None:
    use(world)

    (event,) = world.here.audit.events
    assert (event.operation, event.outcome) == (operation, "ok")
    assert (event.face, event.actor, event.correlation_id) == ("cli", "uid:0", "request-1")
    assert event.time == world.here.clock.now()


@pytest.mark.parametrize(
    ("operation", "outcome", "use"), [pytest.param(*row, id=name) for name, row in REFUSED.items()]
)
def test_a_refused_decision_leaves_one_line_with_the_errors_code(
    world: World, operation: str, outcome: str, use: Use
) -> None:
    with pytest.raises(KeyplaneError) as refused:
        use(world)

    (event,) = world.here.audit.events
    assert (event.operation, event.outcome) == (operation, outcome)
    assert refused.value.code == outcome


@pytest.mark.parametrize(
    "state", [KeyState.SUSPENDED, KeyState.DEACTIVATED, KeyState.DESTROYED], ids=lambda s: s.name
)
def test_a_refusal_by_the_keys_state_is_recorded(world: World, state: KeyState) -> None:
    put_state(world.here, world.key, state)
    with pytest.raises(KeyplaneError) as refused:
        world.here.core.wrapping.wrap(CALLER, world.key.instance_id, world.key.id)

    event = world.here.audit.last("key.wrap")

    assert event.outcome == refused.value.code
    assert event.details["key"] == world.key.id


@pytest.mark.parametrize("part", ["token", "store"])
def test_an_outage_is_recorded(world: World, part: str) -> None:
    getattr(world.here, part).lost = True
    with pytest.raises(KeyplaneError):
        root_key(world.here)

    assert world.here.audit.last("key.create").outcome == f"{part}_unavailable"


def test_what_a_face_refuses_leaves_one_line_with_the_reason(here: FakeInstallation) -> None:
    auditor = Auditor(here.audit, here.clock)

    with pytest.raises(UnauthenticatedError), auditor.refusals(CALLER, "key.wrap", key="1"):
        raise UnauthenticatedError("expired")

    (event,) = here.audit.events
    assert (event.operation, event.outcome) == ("key.wrap", "unauthenticated")
    assert event.details == {"key": "1", "reason": "expired"}


def test_what_a_face_lets_through_is_left_to_the_use_case(here: FakeInstallation) -> None:
    with Auditor(here.audit, here.clock).refusals(CALLER, "key.wrap"):
        pass

    assert here.audit.events == []


def test_a_fault_of_ours_is_recorded_and_raised(here: FakeInstallation) -> None:
    auditor = Auditor(here.audit, here.clock)

    with pytest.raises(ZeroDivisionError), auditor.decision(CALLER, "key.test", key="1"):
        1 / 0  # noqa: B018

    assert here.audit.last("key.test").outcome == "internal_error"
    assert here.audit.last("key.test").details == {"key": "1"}


def test_no_answer_is_given_that_the_log_did_not_take(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: AuditEvent) -> None:
        raise RuntimeError("the log is broken")

    monkeypatch.setattr(world.here.audit, "write", broken)

    with pytest.raises(RuntimeError):
        world.here.core.wrapping.wrap(CALLER, world.key.instance_id, world.key.id)


def test_an_import_is_told_apart_from_a_generation(here: FakeInstallation) -> None:
    key = root_key(here, material=bytes(32))

    assert here.audit.last("key.import").details == {
        "instance": here.instance.id,
        "key": key.id,
        "version": key.current.id,
    }


def test_lines_name_what_was_decided_about(world: World) -> None:
    core, audit = world.here.core, world.here.audit
    rotated = core.keys.rotate(CALLER, world.key.id, within=world.key.instance_id)
    core.keys.delete(CALLER, world.key.id)
    _, key_id = core.kms.encrypt(CALLER, b"seed")

    assert audit.last("key.rotate").details == {
        "key": world.key.id,
        "instance": world.key.instance_id,
        "version": rotated.current.id,
        "number": 2,
        "state": "active",
    }
    assert audit.last("key.delete").details == {"key": world.key.id, "versions": 2}
    assert audit.last("kms.encrypt").details == {
        "provider": "keyplane",
        "key_id": key_id,
        "version": world.bound.current.id,
    }


def test_an_unknown_key_id_is_not_copied_into_the_log(world: World) -> None:
    with pytest.raises(KeyplaneError):
        world.here.core.kms.decrypt(CALLER, b"x", "unknown and very long")

    assert world.here.audit.last("kms.decrypt").details == {"provider": "keyplane"}


def test_looking_at_a_known_namespace_is_no_decision(here: FakeInstallation) -> None:
    here.core.instances.of_namespace(CALLER, "keyplane-system", InstanceId(new_uuid()))

    assert here.audit.events == []


def spellings(secret: bytes) -> list[str]:
    """Return the forms in which a secret could lie in a text."""
    inner = secret[3:-3]
    return [
        secret.decode(),
        secret.hex(),
        repr(list(secret))[1:-1],
        *(base64.b64encode(b"x" * skip + inner)[4:-4].decode() for skip in range(3)),
    ]


def test_nothing_planted_appears_in_any_event(here: FakeInstallation) -> None:
    """Material, plaintext, payload and AAD go through every operation, allowed and refused."""
    material, plaintext, aad = (f"planted-{name}".ljust(32, "~") for name in ("one", "two", "aad"))
    caller = Caller("rest", "subject")
    core, instance = here.core, here.instance.id
    key = core.keys.create(caller, instance, NewKey("root", material=material.encode()))
    sealed = standard_key(here, material=material.encode())
    core.keys.payload(caller, sealed.id)
    wrapped = core.wrapping.wrap(caller, instance, key.id, plaintext.encode(), [aad])
    core.keys.rotate(caller, key.id, material=material.encode())
    core.wrapping.unwrap(caller, instance, key.id, wrapped.ciphertext, [aad])
    core.wrapping.rewrap(caller, instance, key.id, wrapped.ciphertext, [aad])
    core.providers.bind(caller, "keyplane", key.id)
    core.kms.refresh()
    core.kms.decrypt(caller, *core.kms.encrypt(caller, plaintext.encode()))
    for refused in (
        lambda: core.wrapping.unwrap(caller, instance, key.id, wrapped.ciphertext, [aad, aad]),
        lambda: core.wrapping.unwrap(caller, instance, key.id, plaintext.encode(), [aad]),
        lambda: core.wrapping.wrap(caller, instance, key.id, plaintext.encode(), [aad * 9]),
        lambda: core.wrapping.wrap(caller, instance, key.id, plaintext.encode() * 999, [aad]),
        lambda: core.keys.rotate(caller, key.id, material=material.encode() * 9),
        lambda: core.keys.create(caller, instance, NewKey("x", material=material.encode())),
        lambda: core.kms.decrypt(caller, plaintext.encode(), plaintext),
        lambda: core.kms.encrypt(caller, plaintext.encode() * 99),
        lambda: core.wrapping.wrap(
            caller, another_instance(here), key.id, plaintext.encode(), [aad]
        ),
    ):
        with pytest.raises(KeyplaneError) as error:
            refused()
        assert "planted" not in f"{error.value!r}{error.value.hint}"

    text = repr(here.audit.events)

    assert len(here.audit.events) > 15
    for secret in (material, plaintext, aad):
        assert not [form for form in spellings(secret.encode()) if form in text]
