"""What every store must do, on the fake, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keycore.domain.ids import ActivationId, InstanceId, KeyId, VersionId, new_uuid
from keycore.domain.instances import Installation, Instance
from keycore.domain.keys import Key, KeyKind, KeyState, KeyVersion, VersionState, destroyed
from keycore.domain.providers import Activation, ActivationState, Node, Provider
from keycore.errors import AlreadyExistsError
from keycore.ports import RECEIPT_AGE, AuditHead, KeyFilter, Receipt, Signed, Store
from testbed.waiting import wait_until
from tests.fakes.memory_store import MemoryStore

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
HOME = InstanceId("00000000-0000-4000-8000-000000000001")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Store:
    name = request.param
    chosen = MemoryStore() if name == "memory" else request.getfixturevalue(f"{name}_store")
    with chosen.writing() as rows:
        rows.instances.save(signed(Instance(HOME, "home", None, NOW)))
    return chosen


def signed(record: Any) -> Signed[Any]:
    return Signed(record, 1, b"m" * 32)


def a_key(**changes: object) -> Key:
    version = KeyVersion(VersionId(new_uuid()), 1, VersionState.ACTIVE, NOW, b"w" * 40)
    key = Key(
        id=KeyId(new_uuid()),
        instance_id=HOME,
        name="näme",
        description=None,
        kind=KeyKind.ROOT,
        state=KeyState.ACTIVE,
        imported=False,
        bit_length=256,
        created_at=NOW,
        created_by="uid:0",
        updated_at=NOW,
        expires_at=NOW + timedelta(days=1),
        deleted_at=None,
        owner=None,
        rotation_marker=None,
        versions=(version,),
    )
    return replace(key, **changes)


def save(store: Store, *keys: Key) -> None:
    with store.writing() as rows:
        for key in keys:
            rows.keys.save(signed(key))


def test_a_key_comes_back_exactly_as_it_was_saved(store: Store) -> None:
    key = a_key(description="what it is for", owner="kubernetes/1", rotation_marker="a")
    save(store, key)

    with store.reading() as rows:
        assert rows.keys.get(key.id) == signed(key)
        assert rows.keys.owned_by("kubernetes/1") == signed(key)


def test_an_unknown_key_is_none(store: Store) -> None:
    with store.reading() as rows:
        assert rows.keys.get(KeyId(new_uuid())) is None
        assert rows.keys.owned_by("kubernetes/none") is None


def test_saving_again_replaces_key_and_versions(store: Store) -> None:
    key = a_key()
    save(store, key)
    second = KeyVersion(VersionId(new_uuid()), 2, VersionState.PENDING, NOW, b"z" * 40)
    changed = replace(key, name="other", versions=(*key.versions, second))

    save(store, changed)

    with store.reading() as rows:
        assert rows.keys.get(key.id) == signed(changed)


def test_a_destroyed_key_keeps_no_material(store: Store) -> None:
    key = a_key()
    save(store, key)
    save(store, destroyed(key, NOW, by="uid:1"))

    with store.reading() as rows:
        found = rows.keys.get(key.id)
    assert found is not None
    assert [version.wrapped for version in found.record.versions] == [None]


def test_a_second_key_with_one_owner_is_refused_and_nothing_is_saved(store: Store) -> None:
    first, second = a_key(owner="kubernetes/1"), a_key(owner="kubernetes/1")
    save(store, first)

    with pytest.raises(AlreadyExistsError):
        save(store, second)

    with store.reading() as rows:
        assert rows.keys.get(second.id) is None


def test_aliases_and_tags_come_back_in_order(store: Store) -> None:
    key = a_key(aliases=("b", "a"), tags=("z", "ä"), deleted_by="uid:9")
    save(store, key)

    with store.reading() as rows:
        assert rows.keys.get(key.id) == signed(key)
        assert rows.keys.aliased(HOME, "a") == key.id


def test_an_alias_is_known_in_its_instance_alone(store: Store) -> None:
    other = InstanceId(new_uuid())
    with store.writing() as rows:
        rows.instances.save(signed(Instance(other, "other", None, NOW)))
    here, there = a_key(aliases=("same",)), a_key(instance_id=other, aliases=("same",))
    save(store, here, there)

    with store.reading() as rows:
        assert rows.keys.aliased(HOME, "same") == here.id
        assert rows.keys.aliased(other, "same") == there.id
        assert rows.keys.aliased(other, "none") is None


def test_a_second_key_with_one_alias_is_refused_and_nothing_is_saved(store: Store) -> None:
    first, second = a_key(aliases=("same",)), a_key(aliases=("mine", "same"))
    save(store, first)

    with pytest.raises(AlreadyExistsError):
        save(store, second)

    with store.reading() as rows:
        assert rows.keys.get(second.id) is None
        assert rows.keys.aliased(HOME, "mine") is None


def test_an_alias_that_was_taken_away_is_free(store: Store) -> None:
    first = a_key(aliases=("same", "kept"))
    save(store, first)
    save(store, replace(first, aliases=("kept",)))
    second = a_key(aliases=("same",))

    save(store, second)

    with store.reading() as rows:
        assert rows.keys.aliased(HOME, "same") == second.id
        assert rows.keys.aliased(HOME, "kept") == first.id


SEEN_AS = {
    KeyState.PRE_ACTIVE: {},
    KeyState.ACTIVE: {"expires_at": NOW + timedelta(microseconds=1)},
    KeyState.SUSPENDED: {"state": KeyState.SUSPENDED, "expires_at": NOW},
    KeyState.DEACTIVATED: {"expires_at": NOW},
    KeyState.DESTROYED: {"state": KeyState.DESTROYED, "expires_at": NOW},
}


@pytest.mark.parametrize("state", list(KeyState), ids=lambda s: s.name)
def test_a_list_by_state_takes_the_state_that_callers_see(store: Store, state: KeyState) -> None:
    keys = {seen: a_key(**SEEN_AS[seen]) for seen in KeyState if seen is not KeyState.PRE_ACTIVE}
    forever = a_key(expires_at=None)
    save(store, *keys.values(), forever)
    wanted = KeyFilter(HOME, states=frozenset({state}))

    with store.reading() as rows:
        listed = {key.record.id for key in rows.keys.page(wanted, NOW, offset=0, limit=10)}
        counted = rows.keys.count(wanted, NOW)

    expected = {keys[state].id} if state in keys else set()
    if state is KeyState.ACTIVE:
        expected.add(forever.id)
    assert listed == expected
    assert counted == len(expected)
    for key in keys.values():
        assert (key.state_at(NOW) is state) == (key.id in listed)


def test_a_list_of_several_states_is_their_union_and_of_none_is_empty(store: Store) -> None:
    gone, live = a_key(state=KeyState.DESTROYED), a_key()
    save(store, gone, live)
    both = KeyFilter(HOME, states=frozenset({KeyState.ACTIVE, KeyState.DESTROYED}))

    with store.reading() as rows:
        assert rows.keys.count(both, NOW) == 2
        assert rows.keys.count(KeyFilter(HOME, states=frozenset()), NOW) == 0


def test_a_list_by_kind_takes_that_kind_alone(store: Store) -> None:
    root, standard = a_key(), a_key(kind=KeyKind.STANDARD)
    save(store, root, standard)

    with store.reading() as rows:
        for key in (root, standard):
            wanted = KeyFilter(HOME, kind=key.kind)
            listed = rows.keys.page(wanted, NOW, offset=0, limit=10)
            assert [one.record.id for one in listed] == [key.id]
            assert rows.keys.count(wanted, NOW) == 1


def test_a_receipt_comes_back_and_an_unknown_one_is_none(store: Store) -> None:
    key = a_key()
    receipt = Receipt(b"r" * 32, key.id, b"m" * 32, NOW)
    with store.writing() as rows:
        rows.keys.save(signed(key))
        rows.keys.save_receipt(receipt)

    with store.reading() as rows:
        assert rows.keys.receipt(b"r" * 32) == receipt
        assert rows.keys.receipt(b"x" * 32) is None


def test_receipts_go_when_they_have_passed_their_age(store: Store) -> None:
    key = a_key()
    save(store, key)
    later = NOW + RECEIPT_AGE
    receipts = [
        Receipt(bytes([n]) * 32, key.id, b"m" * 32, made)
        for n, made in enumerate((NOW - timedelta(seconds=1), NOW, later))
    ]

    for receipt in receipts:
        with store.writing() as rows:
            rows.keys.save_receipt(receipt)

    with store.reading() as rows:
        assert [rows.keys.receipt(r.id) for r in receipts] == [None, *receipts[1:]]


def test_pages_are_sorted_by_id_and_do_not_overlap(store: Store) -> None:
    keys = [a_key() for _ in range(7)]
    save(store, *keys)

    with store.reading() as rows:
        pages = [rows.keys.page(KeyFilter(HOME), NOW, offset=o, limit=3) for o in (0, 3, 6, 9)]

    listed = [key.record.id for page in pages for key in page]
    assert listed == sorted(key.id for key in keys)
    assert [len(page) for page in pages] == [3, 3, 1, 0]


def test_a_page_holds_the_versions_of_each_key(store: Store) -> None:
    keys = [a_key() for _ in range(3)]
    save(store, *keys)

    with store.reading() as rows:
        listed = rows.keys.page(KeyFilter(), NOW, offset=0, limit=10)

    assert {key.record for key in listed} == set(keys)


def test_lists_and_counts_leave_out_other_instances_and_tombstones(store: Store) -> None:
    other = InstanceId(new_uuid())
    with store.writing() as rows:
        rows.instances.save(signed(Instance(other, "other", None, NOW)))
    live, gone = a_key(), destroyed(a_key(), NOW, by="uid:1")
    save(store, live, gone, a_key(instance_id=other))

    with store.reading() as rows:
        assert rows.keys.count(KeyFilter(HOME), NOW) == 1
        assert rows.keys.count(KeyFilter(HOME, deleted=True), NOW) == 2
        assert rows.keys.count(KeyFilter(), NOW) == 2
        listed = rows.keys.page(KeyFilter(HOME), NOW, offset=0, limit=10)
    assert [key.record.id for key in listed] == [live.id]


def test_a_provider_comes_back_with_its_ledger_in_order(store: Store) -> None:
    key = a_key()
    save(store, key)
    provider = a_provider(key, "kms", count=3)

    with store.writing() as rows:
        rows.providers.save(signed(provider))

    with store.reading() as rows:
        assert rows.providers.get("kms") == signed(provider)
        assert rows.providers.all() == [signed(provider)]
        assert rows.providers.get("none") is None


def a_provider(key: Key, name: str, *, count: int) -> Provider:
    activations = tuple(
        Activation(
            id=ActivationId(new_uuid()),
            sequence=sequence,
            key_id=key.id,
            version_id=key.versions[0].id,
            state=ActivationState.RETIRED,
            created_at=NOW,
        )
        for sequence in range(1, count + 1)
    )
    return Provider(name, key.id, NOW, NOW, activations)


def test_nodes_are_saved_replaced_and_removed(store: Store) -> None:
    a, b = Node("kms", "a", 0, NOW, NOW), Node("kms", "b", 2, NOW, NOW)
    elsewhere = Node("other", "a", 1, NOW, NOW)
    with store.writing() as rows:
        for node in (b, a, elsewhere):
            rows.providers.save_node(signed(node))
        rows.providers.save_node(signed(replace(a, loaded=5)))

    with store.reading() as rows:
        assert rows.providers.nodes("kms") == [signed(replace(a, loaded=5)), signed(b)]
        assert len(rows.providers.nodes()) == 3

    with store.writing() as rows:
        rows.providers.remove_node("kms", "b")
        rows.providers.remove_node("kms", "never there")
    with store.reading() as rows:
        assert [node.record.name for node in rows.providers.nodes("kms")] == ["a"]


def test_an_instance_is_found_by_id_and_by_its_namespace(store: Store) -> None:
    bound = Instance(InstanceId(new_uuid()), "bound", "team-a", NOW)
    with store.writing() as rows:
        rows.instances.save(signed(bound))

    with store.reading() as rows:
        assert rows.instances.get(bound.id) == signed(bound)
        assert rows.instances.bound_to("team-a") == signed(bound)
        assert rows.instances.bound_to("team-b") is None
        assert [i.record.id for i in rows.instances.all()] == sorted([HOME, bound.id])


def test_one_namespace_is_bound_to_one_instance(store: Store) -> None:
    with store.writing() as rows:
        rows.instances.save(signed(Instance(InstanceId(new_uuid()), "one", "team-a", NOW)))

    with pytest.raises(AlreadyExistsError), store.writing() as rows:
        rows.instances.save(signed(Instance(InstanceId(new_uuid()), "two", "team-a", NOW)))


def test_the_installation_row_is_none_until_it_is_saved(store: Store) -> None:
    installation = Installation(new_uuid(), "label", "serial", NOW)
    with store.reading() as rows:
        assert rows.instances.installation() is None

    with store.writing() as rows:
        rows.instances.save_installation(signed(installation))

    with store.reading() as rows:
        assert rows.instances.installation() == signed(installation)


def test_an_exception_inside_a_transaction_rolls_all_of_it_back(store: Store) -> None:
    key = a_key()

    def fail_after_saving() -> None:
        with store.writing() as rows:
            rows.keys.save(signed(key))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_saving()

    with store.reading() as rows:
        assert rows.keys.get(key.id) is None


def test_changes_name_the_keys_written_after_a_sequence(store: Store) -> None:
    first, second = a_key(), a_key()
    save(store, first)
    before = store.changes_since(0)
    save(store, second)

    after = store.changes_since(before.sequence)

    assert before.key_ids == frozenset(), "a first look names no keys"
    assert after.key_ids == {second.id}
    assert after.sequence > before.sequence
    assert store.changes_since(after.sequence) == replace(after, key_ids=frozenset())


def test_saving_a_provider_or_an_instance_counts_as_a_change_and_a_heartbeat_does_not(
    store: Store,
) -> None:
    key = a_key()
    save(store, key)
    seen = [store.changes_since(0).sequence]
    for write in (
        lambda rows: rows.providers.save(signed(a_provider(key, "kms", count=1))),
        lambda rows: rows.instances.save(signed(Instance(HOME, "renamed", None, NOW))),
        lambda rows: rows.providers.save_node(signed(Node("kms", "a", 0, NOW, NOW))),
    ):
        with store.writing() as rows:
            write(rows)
        seen.append(store.changes_since(0).sequence)

    assert seen[1] > seen[0]
    assert seen[2] > seen[1]
    assert seen[3] == seen[2]


def settled_version(store: Store) -> int:
    """Return the version once no news of earlier writes are under way any more."""
    seen = [store.version()]

    def stays() -> bool:
        seen.append(store.version())
        return len(seen) > 3 and len(set(seen[-3:])) == 1

    wait_until(stays, what="the version stays", within_seconds=5)
    return seen[-1]


def test_any_write_gives_the_store_another_version(store: Store) -> None:
    key = a_key()
    seen = [store.version()]

    save(store, key)
    seen.append(store.version())
    save(store, replace(key, name="renamed"))
    seen.append(store.version())

    assert len(set(seen)) == 3


def test_reading_leaves_the_version_as_it_is(store: Store) -> None:
    key = a_key()
    save(store, key)
    before = settled_version(store)

    with store.reading() as rows:
        rows.keys.get(key.id)
    store.changes_since(0)

    assert store.version() == before


def test_the_version_is_told_to_many_threads_at_once(store: Store) -> None:
    before = settled_version(store)
    seen: list[int] = []

    threads = [threading.Thread(target=lambda: seen.append(store.version())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [before] * 8


def test_uses_are_granted_up_to_the_limit_and_never_beyond(store: Store) -> None:
    key = a_key()
    save(store, key)
    version = key.versions[0].id

    granted = [store.reserve_uses([version], 40, 100)[version] for _ in range(4)]

    assert granted == [40, 40, 20, 0]
    assert store.uses([version]) == {version: 100}


def test_saving_a_key_keeps_the_count_of_uses(store: Store) -> None:
    key = a_key()
    save(store, key)
    store.reserve_uses([key.versions[0].id], 40, 100)

    save(store, replace(key, name="renamed"))

    assert store.uses([key.versions[0].id]) == {key.versions[0].id: 40}


def test_an_unknown_version_gets_no_uses(store: Store) -> None:
    unknown = VersionId(new_uuid())

    assert store.reserve_uses([unknown], 1, 10) == {unknown: 0}


def test_uses_of_many_versions_are_reserved_at_once(store: Store) -> None:
    keys = [a_key() for _ in range(600)]
    save(store, *keys)
    versions = [key.versions[0].id for key in keys]
    store.reserve_uses(versions[:1], 95, 100)

    granted = store.reserve_uses(versions, 10, 100)

    assert granted == {versions[0]: 5} | dict.fromkeys(versions[1:], 10)
    assert store.uses(versions) == {versions[0]: 100} | dict.fromkeys(versions[1:], 10)


def test_uses_that_nobody_makes_are_taken_back(store: Store) -> None:
    keys = [a_key() for _ in range(3)]
    save(store, *keys)
    first, second, third = (key.versions[0].id for key in keys)
    store.reserve_uses([first, second, third], 40, 100)

    store.give_back_uses({first: 30, second: 40})

    assert store.uses([first, second, third]) == {first: 10, second: 0, third: 40}


def test_more_uses_than_were_reserved_are_not_taken_back(store: Store) -> None:
    """A standby that took over may not know of the reservation."""
    key = a_key()
    save(store, key)
    version = key.versions[0].id
    store.reserve_uses([version], 40, 100)

    store.give_back_uses({version: 41})

    assert store.uses([version]) == {version: 40}


def test_starts_are_counted_up_to_the_limit(store: Store) -> None:
    assert [store.count_start(2) for _ in range(3)] == [True, True, False]


def test_concurrent_writers_do_not_lose_updates(store: Store) -> None:
    key = a_key(name="0" * 2)
    save(store, key)

    def count_up() -> None:
        for _ in range(10):
            with store.writing() as rows:
                found = rows.keys.get(key.id)
                assert found is not None
                name = f"{int(found.record.name) + 1:02}"
                rows.keys.save(signed(replace(found.record, name=name)))

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with store.reading() as rows:
        found = rows.keys.get(key.id)
    assert found is not None
    assert found.record.name == "40"


def test_scrubbing_an_idle_store_works_twice(store: Store) -> None:
    store.scrub()
    store.scrub()


def a_head(line: int, name: str = "rest.0") -> AuditHead:
    return AuditHead(new_uuid(), "node-1", name, line, b"d" * 32, NOW, b"m" * 32)


def test_audit_heads_come_back_sorted_and_the_newest_of_a_chain_counts(store: Store) -> None:
    heads = [a_head(line) for line in (3, 2**40)]
    for head in heads:
        store.save_audit_head(head)
    newer = replace(heads[0], line=4, digest=b"e" * 32)

    store.save_audit_head(newer)

    assert store.audit_heads() == sorted([newer, heads[1]], key=lambda head: head.chain)


def test_an_audit_head_is_no_change_that_others_must_read(store: Store) -> None:
    before = store.changes_since(0)

    store.save_audit_head(a_head(1))

    assert store.changes_since(0) == before
