"""Who may do what, decided from a policy document."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from keycore.domain.ids import InstanceId, KeyId, new_uuid
from keycore.errors import AccessDeniedError
from keyrest.identity import Identity
from keyrest.policy import Permission, Policy, Role
from keyrest.policy_document import PolicyDocument

HERE, THERE = InstanceId(new_uuid()), InstanceId(new_uuid())
KEY, OTHER_KEY = KeyId(new_uuid()), KeyId(new_uuid())

EVERYTHING = {
    *("create", "list", "read", "wrap", "unwrap", "rewrap"),
    *("rotate", "delete", "suspend", "alias"),
}
CRYPTOGRAPHY = {"wrap", "unwrap", "rewrap"}

SEED: Mapping[str, set[str]] = {
    "ClusterAdministrator": EVERYTHING,
    "Administrator": EVERYTHING,
    "Editor": EVERYTHING - {"rotate", "delete", "suspend"},
    "Viewer": CRYPTOGRAPHY,
}
"""The seed document's "Required user type or access level", operation by operation."""


def policy(*bindings: Mapping[str, Any]) -> Policy:
    document = PolicyDocument.model_validate_json(
        json.dumps({"bindings": bindings}), context={"idp", "cluster"}
    )
    return Policy(document.bindings)


def binding(role: str, **changed: Any) -> dict[str, Any]:
    """Return a binding of alice, in one instance where the role has any."""
    places = {} if role == "ClusterAdministrator" else {"instances": [HERE]}
    members = [{"issuer": "idp", "subject": "alice"}]
    return {"role": role, **places, "members": members, **changed}


def caller(subject: str = "alice", *groups: str, issuer: str = "idp") -> Identity:
    return Identity(issuer, subject, frozenset(groups), 2e9)


ALICE = caller()


def allowed(
    policy: Policy,
    identity: Identity = ALICE,
    *,
    instance_id: InstanceId = HERE,
    key_id: KeyId | None = None,
) -> set[str]:
    """Return everything that a caller may do there."""

    def passes(permission: Permission) -> bool:
        try:
            policy.ensure(identity, permission, instance_id, key_id)
        except AccessDeniedError:
            return False
        return True

    return {permission.value for permission in Permission if passes(permission)}


def test_roles_have_the_names_of_the_seed() -> None:
    assert {role.value for role in Role} == set(SEED)


@pytest.mark.parametrize("role", SEED)
def test_each_role_allows_exactly_what_the_seed_says(role: str) -> None:
    assert allowed(policy(binding(role)), key_id=KEY) == SEED[role]


@pytest.mark.parametrize("role", SEED)
def test_a_role_covers_the_instance_as_a_whole_too(role: str) -> None:
    assert allowed(policy(binding(role))) == SEED[role]


@pytest.mark.parametrize("role", set(SEED) - {"ClusterAdministrator"})
def test_a_role_counts_in_its_instances_only(role: str) -> None:
    assert allowed(policy(binding(role)), instance_id=THERE) == set()


def test_a_role_counts_in_each_of_its_instances() -> None:
    both = policy(binding("Editor", instances=[HERE, THERE]))

    assert allowed(both, instance_id=THERE) == SEED["Editor"]


def test_a_cluster_administrator_has_every_instance() -> None:
    somewhere = InstanceId(new_uuid())

    assert allowed(policy(binding("ClusterAdministrator")), instance_id=somewhere) == EVERYTHING


def test_without_a_binding_nothing_is_allowed() -> None:
    assert allowed(policy()) == set()
    assert allowed(Policy()) == set()


def test_somebody_else_is_not_allowed() -> None:
    assert allowed(policy(binding("Administrator")), caller("bob")) == set()


def test_the_same_subject_of_another_issuer_is_somebody_else() -> None:
    assert allowed(policy(binding("Administrator")), caller(issuer="cluster")) == set()


@pytest.mark.parametrize("subject", ["Alice", "alice ", "alic", "alice2", ""])
def test_a_subject_is_compared_exactly(subject: str) -> None:
    assert allowed(policy(binding("Administrator")), caller(subject)) == set()


def test_a_group_gives_its_role_to_all_who_are_in_it() -> None:
    ops = policy(binding("Administrator", members=[{"issuer": "idp", "group": "ops"}]))

    assert allowed(ops, caller("bob", "dev", "ops")) == EVERYTHING
    assert allowed(ops, caller("bob", "dev")) == set()


def test_the_same_group_of_another_issuer_is_another_group() -> None:
    ops = policy(binding("Administrator", members=[{"issuer": "idp", "group": "ops"}]))

    assert allowed(ops, caller("bob", "ops", issuer="cluster")) == set()


def test_a_subject_is_not_a_group_and_a_group_no_subject() -> None:
    ops = policy(binding("Administrator", members=[{"issuer": "idp", "group": "ops"}]))

    assert allowed(ops, caller("ops")) == set()
    assert allowed(policy(binding("Administrator")), caller("bob", "alice")) == set()


def test_a_service_account_is_addressed_by_namespace_and_name() -> None:
    members = [{"issuer": "cluster", "service_account": "vault/backup"}]
    backup = policy(binding("Viewer", members=members))

    account = "system:serviceaccount:vault:backup"
    assert allowed(backup, caller(account, issuer="cluster")) == CRYPTOGRAPHY
    assert allowed(backup, caller(account, issuer="idp")) == set()
    assert allowed(backup, caller("vault/backup", issuer="cluster")) == set()


def test_every_member_of_a_binding_has_the_role() -> None:
    members = [{"issuer": "idp", "subject": name} for name in ("alice", "bob")]
    both = policy(binding("Viewer", members=members))

    assert allowed(both, caller("bob")) == CRYPTOGRAPHY


class TestSingleKeys:
    ONE_KEY = policy(binding("Administrator", keys=[KEY]))

    def test_a_role_for_one_key_counts_for_it(self) -> None:
        assert allowed(self.ONE_KEY, key_id=KEY) == EVERYTHING

    def test_it_counts_for_no_other_key(self) -> None:
        assert allowed(self.ONE_KEY, key_id=OTHER_KEY) == set()

    def test_it_does_not_reach_the_instance_as_a_whole(self) -> None:
        """Listing, counting, creating and importing are about no single key."""
        assert allowed(self.ONE_KEY) == set()

    def test_it_counts_in_its_instance_only(self) -> None:
        assert allowed(self.ONE_KEY, instance_id=THERE, key_id=KEY) == set()

    def test_each_of_its_keys_is_covered(self) -> None:
        two = policy(binding("Viewer", keys=[KEY, OTHER_KEY]))

        assert allowed(two, key_id=OTHER_KEY) == CRYPTOGRAPHY


class TestAddingUp:
    def test_roles_of_one_subject_in_several_bindings_add_up(self) -> None:
        both = policy(binding("Viewer"), binding("Administrator", instances=[THERE]))

        assert allowed(both) == CRYPTOGRAPHY
        assert allowed(both, instance_id=THERE) == EVERYTHING

    @pytest.mark.parametrize("roles", [("Viewer", "Editor"), ("Editor", "Viewer")])
    def test_the_order_of_bindings_makes_no_difference(self, roles: tuple[str, str]) -> None:
        assert allowed(policy(*map(binding, roles))) == SEED["Editor"]

    def test_a_group_adds_to_what_the_subject_has(self) -> None:
        both = policy(
            binding("Viewer"), binding("Editor", members=[{"issuer": "idp", "group": "dev"}])
        )

        assert allowed(both, caller("alice", "dev")) == SEED["Editor"]
        assert allowed(both) == CRYPTOGRAPHY

    def test_two_groups_add_up(self) -> None:
        both = policy(
            binding("Viewer", members=[{"issuer": "idp", "group": "a"}]),
            binding("Editor", instances=[THERE], members=[{"issuer": "idp", "group": "b"}]),
        )

        assert allowed(both, caller("bob", "a", "b")) == CRYPTOGRAPHY
        assert allowed(both, caller("bob", "a", "b"), instance_id=THERE) == SEED["Editor"]

    def test_a_role_for_one_key_adds_to_that_of_the_instance(self) -> None:
        both = policy(binding("Viewer"), binding("Administrator", keys=[KEY]))

        assert allowed(both, key_id=KEY) == EVERYTHING
        assert allowed(both, key_id=OTHER_KEY) == CRYPTOGRAPHY

    @pytest.mark.parametrize("roles", [("Viewer", "Editor"), ("Editor", "Viewer")])
    def test_two_roles_for_one_key_add_up(self, roles: tuple[str, str]) -> None:
        both = policy(*(binding(role, keys=[KEY]) for role in roles))

        assert allowed(both, key_id=KEY) == SEED["Editor"]


def test_a_refusal_tells_nothing_that_the_caller_did_not_say() -> None:
    with pytest.raises(AccessDeniedError) as refused:
        policy(binding("Viewer")).ensure(ALICE, Permission.ROTATE, HERE, KEY)

    assert str(refused.value) == f"the caller has no role that allows rotate in instance {HERE}"


def test_a_decision_costs_the_same_however_many_bindings_there_are() -> None:
    """A search through ten thousand bindings would take about a millisecond."""
    members = [[{"issuer": "idp", "subject": f"subject-{i}"}] for i in range(10_000)]
    large = policy(*(binding("Viewer", members=member) for member in members))
    last = caller("subject-9999", *(f"group-{i}" for i in range(50)))

    # The best of several rounds, since a busy machine is no fault.
    rounds = []
    for _ in range(10):
        started = time.perf_counter()
        for _ in range(100):
            large.ensure(last, Permission.WRAP, HERE, KEY)
        rounds.append((time.perf_counter() - started) / 100)

    assert min(rounds) < 100e-6


@pytest.mark.parametrize(
    ("instance_id", "names"),
    [pytest.param(HERE, True, id="here"), pytest.param(THERE, False, id="there")],
)
def test_a_role_for_single_keys_is_known_in_its_instance_only(
    instance_id: InstanceId, names: bool
) -> None:
    assert policy(binding("Viewer", keys=[KEY])).names_keys(ALICE, instance_id) is names


def test_a_role_for_an_instance_names_no_key() -> None:
    assert not policy(binding("Viewer")).names_keys(ALICE, HERE)
    assert not policy().names_keys(ALICE, HERE)
