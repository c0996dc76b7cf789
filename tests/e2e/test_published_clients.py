"""Published clients of the API work against the REST face, unmodified and over TLS.

The stories are in `tests/peers`, in each client's own language; they are told once for
each client, and every story is a test here. The older Python client knows no count, no
versions and no filters, and the Go client no count and no rewrap.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from testbed.authority import Authority
from testbed.errors import ControlPlaneError
from testbed.peers import PublishedClient, published_clients
from testbed.rest import ROLES, RestService

pytestmark = [
    pytest.mark.e2e,
    # The first test of a client installs it, Go's toolchain included where there is none.
    pytest.mark.timeout(1800),
]

CLIENTS = published_clients()

TELLING_SECONDS_MAX = 120.0

EVERYWHERE = (
    "a_root_key_is_created",
    "a_standard_key_is_created",
    "keys_are_imported",
    "a_key_is_read",
    "a_data_key_is_wrapped_and_unwrapped",
    "a_data_key_is_generated",
    "a_generated_key_is_rotated",
    "an_imported_key_is_rotated",
    "an_alias_names_a_key",
    "a_key_is_disabled_and_enabled",
    "a_key_is_deleted",
    "a_bad_request_names_what_is_wrong",
    "strangers_are_refused",
    "a_key_that_is_not_there_is_not_found",
    "a_wrong_ciphertext_is_unprocessable",
    "what_is_not_served_is_refused_in_the_same_shape",
    "the_steps_of_its_readme_work",
    "the_certificate_is_checked",
)

STORIES = {
    "python-keyprotect-3.0.1": (
        *EVERYWHERE,
        "keys_are_listed_by_pages_and_filters",
        "keys_are_counted",
        "a_ciphertext_is_rewrapped",
        "an_expired_key_only_unwraps",
        "the_older_form_of_actions_works",
        "answers_fit_the_models_of_the_client",
        "retries_and_correlation_ids_work",
        "a_rate_limit_is_waited_for",
    ),
    "python-keyprotect-2.3.1": (
        *EVERYWHERE,
        "keys_are_listed",
        "a_ciphertext_is_rewrapped",
        "a_hook_and_the_default_session_work",
        "a_rate_limit_is_told",
    ),
    "node-ibm-key-protect": (
        *EVERYWHERE,
        "keys_are_listed_by_pages_and_filters",
        "keys_are_counted",
        "a_ciphertext_is_rewrapped",
        "an_expired_key_only_unwraps",
        "retries_and_correlation_ids_work",
        "a_rate_limit_is_waited_for",
    ),
    "go-keyprotect-go-client": (
        *EVERYWHERE,
        "keys_are_listed_by_pages_and_filters",
        "an_expired_key_only_unwraps",
        "a_context_carries_credential_and_correlation_id",
        "a_rate_limit_is_waited_for",
        "a_timeout_ends_a_call",
    ),
}

Telling = Callable[[str], dict[str, str]]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RestService, RestService]]:
    """A server with an instance for each client, and one that lets nobody hurry."""
    with ExitStack() as stack:
        serving = RestService(tmp_path_factory.mktemp("rest"), instances=tuple(CLIENTS))
        throttled = RestService(
            tmp_path_factory.mktemp("throttled"), options={"requests_per_second": 1}
        )
        yield stack.enter_context(serving), stack.enter_context(throttled)


@pytest.fixture(scope="module")
def told(
    services: tuple[RestService, RestService], tmp_path_factory: pytest.TempPathFactory
) -> Telling:
    """Tells a client's stories, once, and returns what went wrong by the story's name."""
    serving, throttled = services
    directory = tmp_path_factory.mktemp("worlds")
    other_ca = Authority(directory / "other").certificate_file

    @cache
    def ready(name: str) -> PublishedClient | ControlPlaneError:
        try:
            return CLIENTS[name]()
        except ControlPlaneError as fault:
            # Remembered, because each further test would wait for the network again.
            return fault

    @cache
    def tell(name: str) -> dict[str, str]:
        client = ready(name)
        if isinstance(client, ControlPlaneError):
            pytest.fail(str(client), pytrace=False)
        world = _world(serving, name, instance=name, other_ca=other_ca)
        world["throttled"] = _world(throttled, name, instance="default", other_ca=other_ca)
        described = directory / f"{name}.json"
        described.write_text(json.dumps(world))
        # Node.js takes one file of authorities for the whole process.
        both = directory / "both.crt"
        both.write_bytes(serving.ca_file.read_bytes() + throttled.ca_file.read_bytes())
        return client.tell(described, ca=both, within_seconds=TELLING_SECONDS_MAX)

    return tell


def _world(service: RestService, name: str, *, instance: str, other_ca: Path) -> dict[str, Any]:
    """Describe a server as the stories of one client see it."""
    # Each client is somebody else, so that they share no rate limit.
    credentials = {role: service.credential(f"{name}-{role}", groups=[role]) for role in ROLES}
    good = credentials["Administrator"]
    return {
        "url": service.base_url,
        "ca": str(service.ca_file),
        "other_ca": str(other_ca),
        "instance": service.instances[instance],
        "other_instance": service.instance_id,
        "credentials": {
            **credentials,
            "expired": service.credential(name, ttl=timedelta(minutes=-10)),
            "forged": good[: good.rindex(".")] + "." + "A" * 86,
        },
    }


@pytest.mark.parametrize(
    ("client", "story"), [(client, story) for client in STORIES for story in STORIES[client]]
)
def test_a_story_of_a_published_client_comes_true(client: str, story: str, told: Telling) -> None:
    faults = told(client)

    assert faults.get(story, "the story was not told") == "", faults.get("nothing_else_is_said", "")


@pytest.mark.parametrize("client", STORIES)
def test_a_published_client_tells_the_stories_that_are_tested_and_nothing_else(
    client: str, told: Telling
) -> None:
    assert sorted(told(client)) == sorted(STORIES[client])
