"""Instances: who shares keys with whom, and what a recreated namespace gets back."""

from __future__ import annotations

import pytest

from keycore.domain.ids import InstanceId, new_uuid
from keycore.domain.instances import Instance
from keycore.domain.names import check_namespace
from keycore.errors import (
    AlreadyExistsError,
    InstanceNotFoundError,
    InvalidRequestError,
    StoreUnavailableError,
)
from tests.fakes.installation import CALLER, FakeInstallation

UID = InstanceId("0a000000-0000-4000-8000-00000000abcd")


def test_an_instance_is_created_with_a_fresh_id(here: FakeInstallation) -> None:
    one = here.core.instances.create(CALLER, "tenant")
    other = here.core.instances.create(CALLER, "tenant", namespace="demo")

    assert one.id != other.id
    assert one == Instance(one.id, "tenant", None, here.clock.now())
    assert (other.name, other.namespace) == ("tenant", "demo")
    assert here.core.instances.all() == sorted([here.instance, one, other], key=lambda i: i.id)


def test_an_id_may_be_chosen_once(here: FakeInstallation) -> None:
    first = here.core.instances.create(CALLER, "first", instance_id=UID)

    with pytest.raises(AlreadyExistsError, match=UID):
        here.core.instances.create(CALLER, "second", instance_id=UID)

    assert first.id == UID
    assert [i for i in here.core.instances.all() if i.id == UID] == [first]


def test_a_namespace_belongs_to_one_instance(here: FakeInstallation) -> None:
    other = here.core.instances.create(CALLER, "other")

    with pytest.raises(AlreadyExistsError):
        here.core.instances.create(CALLER, "second", namespace="keyplane-system")
    with pytest.raises(AlreadyExistsError):
        here.core.instances.bind(CALLER, other.id, "keyplane-system")

    assert here.core.instances.all() == sorted([here.instance, other], key=lambda i: i.id)


@pytest.mark.parametrize("name", ["", "x", "x" * 91, "two\nlines"])
def test_a_name_out_of_bounds_is_refused(here: FakeInstallation, name: str) -> None:
    with pytest.raises(InvalidRequestError):
        here.core.instances.create(CALLER, name)

    assert here.core.instances.all() == [here.instance]


def test_an_instance_is_bound_and_unbound(here: FakeInstallation) -> None:
    bound = here.core.instances.bind(CALLER, here.instance.id, "demo")
    assert bound.namespace == "demo"

    unbound = here.core.instances.bind(CALLER, here.instance.id, None)

    assert unbound.namespace is None
    assert here.core.instances.all() == [unbound]


def test_a_namespace_can_move_to_another_instance(here: FakeInstallation) -> None:
    here.core.instances.bind(CALLER, here.instance.id, None)
    other = here.core.instances.create(CALLER, "other", namespace="keyplane-system")

    assert here.core.instances.of_namespace(CALLER, "keyplane-system", UID) == other


def test_an_unknown_instance_is_not_bound(here: FakeInstallation) -> None:
    with pytest.raises(InstanceNotFoundError, match=UID):
        here.core.instances.bind(CALLER, UID, "demo")


def test_a_namespace_gets_an_instance_of_its_own_at_first_sight(here: FakeInstallation) -> None:
    made = here.core.instances.of_namespace(CALLER, "demo", UID)

    assert made == Instance(UID, "demo", None, here.clock.now())
    here.clock.advance(hours=1)
    assert here.core.instances.of_namespace(CALLER, "demo", UID) == made


def test_a_recreated_namespace_starts_empty_unless_it_is_bound(here: FakeInstallation) -> None:
    former = here.core.instances.of_namespace(CALLER, "demo", UID)
    recreated = InstanceId(new_uuid())

    assert here.core.instances.of_namespace(CALLER, "demo", recreated).id == recreated
    bound = here.core.instances.bind(CALLER, former.id, "demo")
    assert here.core.instances.of_namespace(CALLER, "demo", recreated) == bound


def test_an_instance_that_appears_meanwhile_is_taken(
    here: FakeInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process creates or binds it between this one's look and its writing."""
    writing = here.store.writing
    made: list[Instance] = []

    def overtaken() -> object:
        monkeypatch.undo()
        made.append(here.another_process().instances.create(CALLER, "demo", instance_id=UID))
        return writing()

    monkeypatch.setattr(here.store, "writing", overtaken)

    assert here.core.instances.of_namespace(CALLER, "demo", UID) == made[0]


def test_nothing_is_made_while_the_store_is_away(here: FakeInstallation) -> None:
    here.store.lost = True
    with pytest.raises(StoreUnavailableError):
        here.core.instances.of_namespace(CALLER, "demo", UID)
    here.store.lost = False

    assert here.core.instances.all() == [here.instance]


@pytest.mark.parametrize("name", ["d", "demo", "a-0", pytest.param("x" * 63, id="longest")])
def test_a_dns_label_is_a_namespace(name: str) -> None:
    assert check_namespace(name) == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("-a", id="dash-first"),
        pytest.param("a-", id="dash-last"),
        pytest.param("a.b", id="dot"),
        pytest.param("A", id="upper-case"),
        pytest.param("a\n", id="line-feed"),
        pytest.param("x" * 64, id="too-long"),
    ],
)
def test_anything_else_is_no_namespace(here: FakeInstallation, name: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_namespace(name)
    assert refused.value.field == "namespace"

    with pytest.raises(InvalidRequestError):
        here.core.instances.create(CALLER, "tenant", namespace=name)
    with pytest.raises(InvalidRequestError):
        here.core.instances.bind(CALLER, here.instance.id, name)
