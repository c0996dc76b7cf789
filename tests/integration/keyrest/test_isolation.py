"""Nothing crosses from one instance to another, whoever asks for what in which order.

A state machine lets random callers perform random operations and compares every
answer with an oracle that knows roles, instances and keys, and nothing of the code.
"""

from __future__ import annotations

import base64
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule

from keycore.domain.ids import InstanceId
from tests.fakes.rest_site import ROLES, FakeSite, new_key, reason, rest_site

MARKS = ("first-of-all", "second-home")
"""Stands in every name, alias, tag, plaintext and payload of an instance."""

MAY = {
    "Viewer": {"wrap", "unwrap", "rewrap"},
    "Editor": {"wrap", "unwrap", "rewrap", "create", "list", "read", "alias"},
    "Administrator": {
        *("wrap", "unwrap", "rewrap", "create", "list", "read", "alias"),
        *("rotate", "suspend", "delete"),
    },
    "Nobody": set(),
}
MAY["ClusterAdministrator"] = MAY["Administrator"]

CALLERS = [*ROLES, *(f"other-{role}" for role in ROLES), "Nobody"]


@dataclass
class Kept:
    """What the oracle knows of a key."""

    id: str
    home: int
    state: str = "active"
    ciphertexts: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<key of {self.home}, {self.state}>"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


callers = st.sampled_from(CALLERS)
places = st.sampled_from([0, 1])


class Tenants(RuleBasedStateMachine):
    """Two instances, nine callers, and keys that come and go."""

    keys = Bundle("keys")
    ciphertexts = Bundle("ciphertexts")

    def __init__(self) -> None:
        super().__init__()
        self.ending = ExitStack()
        self.site: FakeSite = self.ending.enter_context(rest_site())

    def teardown(self) -> None:
        self.ending.close()

    # --- the oracle -------------------------------------------------------------------

    def instance(self, place: int) -> InstanceId:
        return (self.site.instance, self.site.other_instance)[place]

    def may(self, caller: str, verb: str, place: int) -> bool:
        role = caller.removeprefix("other-")
        home = 1 if caller.startswith("other-") else 0
        return verb in MAY[role] and (role == "ClusterAdministrator" or home == place)

    def send(
        self, caller: str, place: int, verb: str, method: str, path: str, **parts: Any
    ) -> httpx.Response | None:
        """Send a request, and return its answer unless the oracle refuses the caller."""
        response = self.site.send(
            method, path, caller=caller, instance=self.instance(place), **parts
        )
        self.check_marks(response, place)
        if self.may(caller, verb, place):
            assert response.status_code not in (401, 403)
            return response
        assert response.status_code == 403
        return None

    def check_marks(self, response: httpx.Response, place: int) -> None:
        stranger = 1 - place
        text = response.text
        assert MARKS[stranger] not in text
        assert b64(MARKS[stranger]) not in text
        assert self.instance(stranger) not in text

    def on_key(
        self, caller: str, place: int, verb: str, key: Kept, call: tuple[str, str], **parts: Any
    ) -> httpx.Response | None:
        """Send a request about a key, and return its answer if the key is there to be used."""
        method, path = call
        response = self.send(caller, place, verb, method, path.format(key.id), **parts)
        if response is not None and key.home != place:
            assert (response.status_code, reason(response)["code"]) == (404, "KEY_NOT_FOUND_ERR")
            return None
        return response

    # --- what callers do ----------------------------------------------------------------

    @initialize(target=keys)
    def begin(self) -> Any:
        made = [self.create("ClusterAdministrator", place, alias=place == 0) for place in (0, 1)]
        return multiple(*(key for key in made if isinstance(key, Kept)))

    @rule(target=keys, caller=callers, place=places, alias=st.booleans())
    def create(self, caller: str, place: int, *, alias: bool) -> Any:
        number = len(self.site.audit.events)
        body = new_key(
            name=f"{MARKS[place]} key",
            extractable=False,
            tags=[MARKS[place]],
            aliases=[f"{MARKS[place]}-{number}"] if alias else None,
        )
        response = self.send(caller, place, "create", "POST", "/keys", json=body)
        if response is None:
            return multiple()
        assert response.status_code == 201
        return Kept(response.json()["resources"][0]["id"], place)

    @rule(caller=callers, place=places, states=st.sampled_from(["", "?state=0,1,2,3,5"]))
    def list_keys(self, caller: str, place: int, states: str) -> None:
        response = self.send(caller, place, "list", "GET", f"/keys{states}")
        if response is not None:
            crns = [key["crn"] for key in response.json()["resources"]]
            assert all(self.instance(place) in crn for crn in crns)
            assert int(response.headers["key-total"]) == len(crns)

    @rule(
        caller=callers,
        place=places,
        key=keys,
        part=st.sampled_from(["", "/metadata", "/versions"]),
    )
    def read(self, caller: str, place: int, key: Kept, part: str) -> None:
        response = self.on_key(caller, place, "read", key, ("GET", "/keys/{}" + part))
        assert response is None or response.status_code == 200

    @rule(target=ciphertexts, caller=callers, place=places, key=keys)
    def wrap(self, caller: str, place: int, key: Kept) -> Any:
        call = ("POST", "/keys/{}/actions/wrap")
        body = {"plaintext": b64(MARKS[place])}
        response = self.on_key(caller, place, "wrap", key, call, json=body)
        if response is None:
            return multiple()
        assert response.status_code == {"active": 200, "suspended": 409, "deleted": 410}[key.state]
        if key.state != "active":
            return multiple()
        key.ciphertexts.append(response.json()["ciphertext"])
        return key.ciphertexts[-1]

    @rule(
        caller=callers,
        place=places,
        key=keys,
        ciphertext=ciphertexts,
        verb=st.sampled_from(["unwrap", "rewrap"]),
        own=st.booleans(),
    )
    def unwrap(
        self, caller: str, place: int, key: Kept, ciphertext: str, verb: str, *, own: bool
    ) -> None:
        sent = key.ciphertexts[-1] if own and key.ciphertexts else ciphertext
        call = ("POST", f"/keys/{{}}/actions/{verb}")
        response = self.on_key(caller, place, verb, key, call, json={"ciphertext": sent})
        if response is None:
            return
        opens = 200 if sent in key.ciphertexts else 422
        assert (
            response.status_code == {"active": opens, "suspended": 409, "deleted": 410}[key.state]
        )
        if response.status_code == 200 and verb == "unwrap":
            assert response.json()["plaintext"] == b64(MARKS[key.home])

    @rule(caller=callers, place=places, key=keys)
    def rotate(self, caller: str, place: int, key: Kept) -> None:
        response = self.on_key(caller, place, "rotate", key, ("POST", "/keys/{}?action=rotate"))
        if response is not None:
            expected = {"active": 204, "suspended": 409, "deleted": 410}[key.state]
            assert response.status_code == expected

    @rule(
        caller=callers,
        place=places,
        key=keys,
        action=st.sampled_from([("disable", "suspended"), ("enable", "active")]),
    )
    def suspend(self, caller: str, place: int, key: Kept, action: tuple[str, str]) -> None:
        name, state = action
        call = ("POST", f"/keys/{{}}/actions/{name}")
        response = self.on_key(caller, place, "suspend", key, call)
        if response is None:
            return
        assert response.status_code == (410 if key.state == "deleted" else 204)
        key.state = key.state if key.state == "deleted" else state

    @rule(caller=callers, place=places, key=keys, name=st.sampled_from(["shared", "own"]))
    def alias(self, caller: str, place: int, key: Kept, name: str) -> None:
        alias = "shared-name" if name == "shared" else f"{MARKS[place]}-{key.id[:8]}"
        call = ("POST", f"/keys/{{}}/aliases/{alias}")
        response = self.on_key(caller, place, "alias", key, call)
        if response is None:
            return
        assert response.status_code in ((410,) if key.state == "deleted" else (201, 409, 400))

    @rule(caller=callers, place=places)
    def read_by_alias(self, caller: str, place: int) -> None:
        response = self.send(caller, place, "read", "GET", "/keys/shared-name")
        if response is not None:
            assert response.status_code in (200, 404)

    @rule(caller=callers, place=places, key=consumes(keys))
    def delete(self, caller: str, place: int, key: Kept) -> None:
        response = self.on_key(caller, place, "delete", key, ("DELETE", "/keys/{}"))
        if response is None:
            return
        assert response.status_code == (410 if key.state == "deleted" else 204)
        key.state = "deleted"
        gone = self.send(caller, place, "wrap", "POST", f"/keys/{key.id}/actions/wrap")
        assert gone is not None
        assert gone.status_code == 410


TestTenants = Tenants.TestCase
TestTenants.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, database=None
)


@pytest.fixture
def site() -> Any:
    with rest_site() as site:
        yield site


def test_identical_material_in_two_instances_opens_nothing_of_the_other(site: FakeSite) -> None:
    material = b"k" * 32
    mine = site.root_key(material=material)
    theirs = site.root_key(material=material, instance=site.other_instance)
    ciphertext = site.wrapped(mine.id)

    response = site.act(
        "unwrap",
        theirs.id,
        {"ciphertext": ciphertext},
        caller="other-Administrator",
        instance=site.other_instance,
    )

    assert response.status_code == 422


def test_the_header_and_not_the_role_chooses_the_instance(site: FakeSite) -> None:
    theirs = site.root_key(instance=site.other_instance)

    here = site.send("GET", f"/keys/{theirs.id}", caller="ClusterAdministrator")
    there = site.send(
        "GET", f"/keys/{theirs.id}", caller="ClusterAdministrator", instance=site.other_instance
    )

    assert (here.status_code, there.status_code) == (404, 200)


def test_a_key_of_another_instance_looks_like_one_that_never_was(site: FakeSite) -> None:
    theirs = site.root_key(instance=site.other_instance)
    nobodys = "0b000000-0000-4000-8000-00000000dead"

    answers = {
        site.send("GET", f"/keys/{key}{part}").content
        for key in (theirs.id, nobodys)
        for part in ("", "/metadata")
    }

    assert len(answers) == 1
