"""Credentials of a certified OpenID Connect provider, over real HTTPS, with its real keys."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from keycore.adapters.system_clock import SystemClock
from keycore.domain.ids import InstanceId, new_uuid
from keycore.errors import AccessDeniedError, IssuerUnavailableError, UnauthenticatedError
from keycore.settings import IssuerSettings
from keyrest.credentials import Authenticator
from keyrest.issuers import Pace
from keyrest.policy import Permission, PolicyFile
from keyrest.reasons import Refusal
from tests.integration.keyrest.oidc_provider import ALGORITHMS, PEER, OidcProvider, signing_keys

pytestmark = pytest.mark.anyio

AT_ONCE = Pace(floor=0.0, retry=0.05, retry_max=0.1)
"""As the product's pace, without the waits."""

DEADLINE_SECONDS = 20


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcProvider]:
    """A provider that no test changes."""
    with OidcProvider(tmp_path_factory.mktemp("oidc")) as provider:
        yield provider


@pytest.fixture
def own(tmp_path: Path) -> Iterator[OidcProvider]:
    """A provider of the test's own, which it may change, stop and start."""
    with OidcProvider(tmp_path / "oidc") as provider:
        yield provider


@asynccontextmanager
async def trusting(*issuers: IssuerSettings) -> AsyncIterator[Authenticator]:
    authenticator = Authenticator(issuers, timedelta(seconds=30), SystemClock(), pace=AT_ONCE)
    async with authenticator:
        yield authenticator


async def refusal(authenticator: Authenticator, header: str) -> str:
    with pytest.raises(UnauthenticatedError) as refused:
        await authenticator.authenticate(header)
    return refused.value.reason


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


def test_the_lock_file_pins_every_package_by_hash_and_names_no_registry() -> None:
    lock = json.loads((PEER / "package-lock.json").read_text(encoding="utf-8"))
    packages = {path: package for path, package in lock["packages"].items() if path}

    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not any("resolved" in package for package in packages.values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_an_access_token_names_its_caller(shared: OidcProvider, algorithm: str) -> None:
    async with trusting(shared.settings()) as authenticator:
        identity = await authenticator.authenticate(shared.credential(algorithm))

    assert identity.actor == f"idp:{algorithm}"
    assert identity.groups == {"ops"}


async def test_the_caller_may_do_what_the_policy_file_says(
    shared: OidcProvider, tmp_path: Path
) -> None:
    instance = InstanceId(new_uuid())
    path = tmp_path / "policy.toml"
    path.write_text(
        f'[[bindings]]\nrole = "Viewer"\ninstances = ["{instance}"]\n'
        '[[bindings.members]]\nissuer = "idp"\ngroup = "ops"\n'
    )
    policy = PolicyFile(path, ["idp"], SystemClock()).current

    async with trusting(shared.settings()) as authenticator:
        identity = await authenticator.authenticate(shared.credential("ES256"))

    policy.ensure(identity, Permission.UNWRAP, instance)
    with pytest.raises(AccessDeniedError):
        policy.ensure(identity, Permission.LIST, instance)


async def test_a_token_for_another_audience_is_refused(shared: OidcProvider) -> None:
    async with trusting(shared.settings(audience="somebody")) as authenticator:
        reason = await refusal(authenticator, shared.credential("ES256"))

    assert reason == Refusal.OTHER_AUDIENCE


async def test_a_token_with_a_changed_character_is_refused(shared: OidcProvider) -> None:
    header = shared.credential("PS256")
    place = header.rindex(".") + 10
    changed = "A" if header[place] != "A" else "B"

    async with trusting(shared.settings()) as authenticator:
        reason = await refusal(authenticator, f"{header[:place]}{changed}{header[place + 1 :]}")

    assert reason == Refusal.SIGNATURE


async def test_a_token_works_until_it_expires_and_not_a_second_longer(own: OidcProvider) -> None:
    own.clients["ES256"]["seconds"] = 5
    own.publish(own.keys)
    clock = SystemClock()
    header = own.credential("ES256")

    async with trusting(own.settings()) as authenticator:
        identity = await authenticator.authenticate(header)
        await until(lambda: clock.now().timestamp() >= identity.expires_at)

        assert await refusal(authenticator, header) == Refusal.EXPIRED


async def test_two_providers_are_told_apart_by_their_own_keys(
    shared: OidcProvider, own: OidcProvider
) -> None:
    async with trusting(shared.settings("one"), own.settings("two")) as authenticator:
        identities = [
            await authenticator.authenticate(provider.credential("EdDSA"))
            for provider in (shared, own)
        ]

    assert [identity.issuer for identity in identities] == ["one", "two"]


async def test_a_provider_that_is_not_in_the_settings_is_unknown(
    shared: OidcProvider, own: OidcProvider
) -> None:
    async with trusting(shared.settings()) as authenticator:
        assert await refusal(authenticator, own.credential("ES256")) == Refusal.UNKNOWN_ISSUER


class TestRotation:
    async def test_a_new_key_works_at_once_beside_the_old_one(self, own: OidcProvider) -> None:
        async with trusting(own.settings()) as authenticator:
            before = own.credential("ES256")
            own.publish([*signing_keys("2"), *own.keys])
            after = own.credential("ES256")

            assert await authenticator.authenticate(after)
            assert await authenticator.authenticate(before)

    async def test_a_withdrawn_key_proves_nothing_any_more(self, own: OidcProvider) -> None:
        async with trusting(own.settings()) as authenticator:
            before = own.credential("ES256")
            own.publish(signing_keys("2"))
            await authenticator.authenticate(own.credential("ES256"))

            assert await refusal(authenticator, before) == Refusal.UNKNOWN_KEY

    async def test_a_restart_with_other_keys_is_followed(self, own: OidcProvider) -> None:
        async with trusting(own.settings()) as authenticator:
            await authenticator.authenticate(own.credential("RS256"))
            own.stop()
            own.keys = signing_keys("2")
            own.start()

            assert await authenticator.authenticate(own.credential("RS256"))


class TestOutage:
    async def test_a_provider_that_comes_later_is_found_by_itself(self, own: OidcProvider) -> None:
        header = own.credential("ES256")
        own.stop()

        async with trusting(own.settings()) as authenticator:
            assert authenticator.faults() == {
                "idp": "its metadata cannot be fetched: no connection"
            }
            with pytest.raises(IssuerUnavailableError):
                await authenticator.authenticate(header)

            own.start()
            await until(lambda: not authenticator.faults())

            assert await authenticator.authenticate(header)

    async def test_known_keys_outlive_their_provider(self, own: OidcProvider) -> None:
        async with trusting(own.settings()) as authenticator:
            headers = [own.credential("ES256"), own.credential("RS256")]
            own.stop()

            for header in headers:
                assert await authenticator.authenticate(header)


class TestTrust:
    async def test_a_certificate_of_an_unknown_authority_is_not_accepted(
        self, shared: OidcProvider
    ) -> None:
        async with trusting(shared.settings(ca_file=None)) as authenticator:
            fault = authenticator.faults()["idp"]
            with pytest.raises(IssuerUnavailableError):
                await authenticator.authenticate(shared.credential("ES256"))

        assert "its certificate is not accepted" in fault

    async def test_a_certificate_for_another_host_is_not_accepted(self, tmp_path: Path) -> None:
        with OidcProvider(tmp_path / "oidc", hosts=["idp.example"]) as provider:
            async with trusting(provider.settings()) as authenticator:
                fault = authenticator.faults()["idp"]

        assert "its certificate is not accepted" in fault
        assert "not valid for '127.0.0.1'" in fault

    async def test_metadata_that_name_another_issuer_are_refused(
        self, shared: OidcProvider
    ) -> None:
        discovery = f"{shared.url}/.well-known/openid-configuration"
        settings = shared.settings(url=f"{shared.url}/", discovery_url=discovery)

        async with trusting(settings) as authenticator:
            assert "name another issuer" in authenticator.faults()["idp"]


async def test_no_log_at_any_level_holds_a_credential(
    shared: OidcProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of the HTTP library included, whose debug level traces each step."""
    file = tmp_path / "credential"
    file.write_text("fetching.credential")
    header = shared.credential("ES256")
    caplog.set_level(logging.DEBUG)

    with capture_logs() as logs:
        async with trusting(shared.settings(credential_file=file)) as authenticator:
            await authenticator.authenticate(header)
            await refusal(authenticator, f"{header}x")

    told: list[Any] = [*logs, *(record.getMessage() for record in caplog.records)]
    assert any("httpcore" in record.name for record in caplog.records)
    secrets = ["fetching.credential", *header.removeprefix("Bearer ").split(".")]
    assert not any(secret in str(line) for line in told for secret in secrets)
