"""What each role may do, with every operation, in its own instance and in another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from keycore.domain.ids import new_uuid
from tests.fakes.rest_site import ROLES, FakeSite, new_key, reason, rest_site

EVERYBODY = set(ROLES)
EDITORS = EVERYBODY - {"Viewer"}
ADMINISTRATORS = EDITORS - {"Editor"}

OPERATIONS: dict[str, tuple[str, str, set[str]]] = {
    "create": ("POST", "/keys", EDITORS),
    "list": ("GET", "/keys", EDITORS),
    "count": ("HEAD", "/keys", EDITORS),
    "get": ("GET", "/keys/{key}", EDITORS),
    "metadata": ("GET", "/keys/{key}/metadata", EDITORS),
    "versions": ("GET", "/keys/{key}/versions", EDITORS),
    "wrap": ("POST", "/keys/{key}/actions/wrap", EVERYBODY),
    "unwrap": ("POST", "/keys/{key}/actions/unwrap", EVERYBODY),
    "rewrap": ("POST", "/keys/{key}/actions/rewrap", EVERYBODY),
    "wrap by query": ("POST", "/keys/{key}?action=wrap", EVERYBODY),
    "rotate": ("POST", "/keys/{key}/actions/rotate", ADMINISTRATORS),
    "rotate by query": ("POST", "/keys/{key}?action=rotate", ADMINISTRATORS),
    "disable": ("POST", "/keys/{key}/actions/disable", ADMINISTRATORS),
    "enable": ("POST", "/keys/{key}/actions/enable", ADMINISTRATORS),
    "add alias": ("POST", "/keys/{key}/aliases/etcd", EDITORS),
    "remove alias": ("DELETE", "/keys/{key}/aliases/etcd", EDITORS),
    "dry run": ("DELETE", "/keys/{key}?dryRun=true", ADMINISTRATORS),
    "delete": ("DELETE", "/keys/{key}", ADMINISTRATORS),
}
"""The seed's roles for its own operations, and the nearest ones for those it does not have."""

ON_A_KEY = {name: parts for name, parts in OPERATIONS.items() if "{key}" in parts[1]}


@pytest.fixture
def site() -> Iterator[FakeSite]:
    with rest_site() as site:
        yield site


def perform(site: FakeSite, operation: str, caller: str, **parts: Any) -> int:
    """Return the status of an operation on a fresh key of ``instance``."""
    instance = parts.pop("instance", site.instance)
    key = parts.pop("key", None) or site.root_key(instance=instance).id
    method, path, _ = OPERATIONS[operation]
    sent: dict[str, Any] = {}
    if operation == "create":
        sent = {"json": new_key()}
    elif operation in ("unwrap", "rewrap"):
        owner = "ClusterAdministrator"
        sent = {"json": {"ciphertext": site.wrapped(key, caller=owner, instance=instance)}}
    response = site.send(method, path.format(key=key), caller=caller, instance=instance, **sent)
    return response.status_code


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_role_allows_an_operation_or_refuses_it(
    site: FakeSite, operation: str, role: str
) -> None:
    status = perform(site, operation, role)

    assert status < 300 if role in OPERATIONS[operation][2] else status == 403


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_role_counts_in_its_own_instance_only(site: FakeSite, operation: str, role: str) -> None:
    status = perform(site, operation, f"other-{role}")

    # The second cluster administrator is one as well.
    assert status < 300 if role == "ClusterAdministrator" else status == 403


@pytest.mark.parametrize("operation", OPERATIONS)
def test_whoever_has_no_role_may_do_nothing(site: FakeSite, operation: str) -> None:
    assert perform(site, operation, "Nobody") == 403


@pytest.mark.parametrize("role", ROLES[1:])
@pytest.mark.parametrize("operation", ON_A_KEY)
def test_a_role_for_one_key_counts_for_that_key_only(
    site: FakeSite, operation: str, role: str
) -> None:
    key, other = site.root_key(), site.root_key()
    grant(site, role, key.id)

    status = perform(site, operation, "Nobody", key=key.id)
    others = perform(site, operation, "Nobody", key=other.id)

    assert status < 300 if role in OPERATIONS[operation][2] else status == 403
    assert others == 403


@pytest.mark.parametrize("operation", ["create", "list", "count"])
def test_a_role_for_one_key_is_none_for_the_instance(site: FakeSite, operation: str) -> None:
    grant(site, "Administrator", site.root_key().id)

    assert perform(site, operation, "Nobody") == 403


def test_a_role_for_one_key_reaches_it_by_its_alias_and_learns_of_no_other(
    site: FakeSite,
) -> None:
    mine = site.root_key(aliases=("mine",))
    site.root_key(aliases=("not-mine",))
    grant(site, "Administrator", mine.id)

    statuses = {
        alias: site.send("GET", f"/keys/{alias}", caller="Nobody").status_code
        for alias in ("mine", "not-mine", "no-such-alias")
    }

    assert statuses == {"mine": 200, "not-mine": 403, "no-such-alias": 403}


def test_whoever_may_see_the_instance_is_told_that_an_alias_is_unknown(site: FakeSite) -> None:
    refused = reason(site.send("GET", "/keys/no-such-alias", caller="Editor"))

    assert (refused["status"], refused["code"]) == (404, "KEY_NOT_FOUND_ERR")


def test_a_role_for_one_key_tells_nothing_about_unknown_keys(site: FakeSite) -> None:
    grant(site, "Administrator", site.root_key().id)

    assert site.send("GET", f"/keys/{new_uuid()}", caller="Nobody").status_code == 403


def test_a_changed_policy_counts_with_the_next_request(site: FakeSite) -> None:
    before = perform(site, "wrap", "Viewer")

    site.policy.write([])

    assert (before, perform(site, "wrap", "Viewer", key=site.root_key().id)) == (200, 403)


def grant(site: FakeSite, role: str, key: str) -> None:
    """Give ``Nobody`` a role for one key, beside what others have."""
    site.policy.write(
        [
            {"role": "ClusterAdministrator", "members": ["ClusterAdministrator"]},
            {"role": role, "instances": [site.instance], "keys": [key], "members": ["Nobody"]},
        ]
    )
