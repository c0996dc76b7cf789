"""Good credentials: who they name, for how long, and what is remembered of them."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keycore.errors import UnauthenticatedError
from keyrest.compact import read_compact
from keyrest.credentials import VERIFIED_SECONDS_MAX, Authenticator, VerifiedCredentials
from keyrest.encodings import read_base64url, read_object
from keyrest.identity import Identity
from keyrest.jwks import ALGORITHMS as ACCEPTED
from keyrest.jwks import read_key_set
from keyrest.reasons import Refusal
from tests.fakes.fixed_clock import FixedClock
from tests.fakes.signing_issuer import ALGORITHMS, SigningKey, as_json
from tests.unit.keyrest.authentication import LEEWAY_SECONDS, Site, site

pytestmark = pytest.mark.anyio


@pytest.fixture
async def here() -> AsyncIterator[Site]:
    """An entered authenticator with one issuer."""
    made = site()
    async with made.authenticator:
        yield made


async def test_a_good_credential_names_its_caller(here: Site) -> None:
    header = here.issuer.bearer(sub="alice", groups=["ops", "dev"])

    identity = await here.authenticator.authenticate(header)

    assert identity == Identity("idp", "alice", frozenset({"ops", "dev"}), here.now + 600.0)
    assert identity.actor == "idp:alice"


async def test_the_accepted_algorithms_are_these_and_no_more() -> None:
    assert set(ACCEPTED) == set(ALGORITHMS)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_every_accepted_algorithm_works(here: Site, algorithm: str) -> None:
    here.issuer.keys = [SigningKey("other", algorithm)]
    here.clock.advance(seconds=60)

    identity = await here.authenticator.authenticate(here.issuer.bearer())

    assert identity.subject == "alice"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
async def test_the_scheme_is_read_in_any_case(here: Site, scheme: str) -> None:
    header = f"{scheme} {here.issuer.credential()}"

    assert (await here.authenticator.authenticate(header)).subject == "alice"


@pytest.mark.parametrize(
    "type_name", [None, "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"]
)
async def test_the_types_of_jwts_and_access_tokens_are_accepted(
    here: Site, type_name: str | None
) -> None:
    credential = here.issuer.credential(header={"typ": type_name})

    assert await here.authenticator.authenticate(f"Bearer {credential}")


async def test_the_audience_may_be_one_of_several(here: Site) -> None:
    header = here.issuer.bearer(aud=["somebody", "keyplane"])

    assert await here.authenticator.authenticate(header)


async def test_the_issuers_clock_may_be_ahead_by_the_leeway(here: Site) -> None:
    ahead = here.now + LEEWAY_SECONDS

    assert await here.authenticator.authenticate(here.issuer.bearer(nbf=ahead, iat=ahead))


async def test_times_may_have_fractions(here: Site) -> None:
    header = here.issuer.bearer(exp=here.now + 0.5, nbf=here.now - 0.5, iat=None)

    assert (await here.authenticator.authenticate(header)).expires_at == here.now + 0.5


@pytest.mark.parametrize("subject", ["a", "x" * 255, "Zoë Müller", "system:serviceaccount:a:b"])
async def test_a_subject_is_any_printable_text(here: Site, subject: str) -> None:
    identity = await here.authenticator.authenticate(here.issuer.bearer(sub=subject))

    assert identity.subject == subject


@pytest.mark.parametrize(
    ("value", "groups"),
    [
        (None, set()),
        ("ops", {"ops"}),
        ([], set()),
        (["ops", "dev", "ops"], {"ops", "dev"}),
        (["ops", 5], set()),
        ({"ops": True}, set()),
        (True, set()),
    ],
)
async def test_groups_are_one_text_or_a_list_of_texts_and_else_none(
    here: Site, value: object, groups: set[str]
) -> None:
    identity = await here.authenticator.authenticate(here.issuer.bearer(groups=value))

    assert identity.groups == groups


async def test_the_groups_claim_may_have_another_name() -> None:
    other = site()
    settings = other.issuer.settings.model_copy(update={"groups_claim": "roles"})
    other.issuer.settings = settings
    renamed = Authenticator([settings], timedelta(0), other.clock, connect=lambda _: other.issuer)

    async with renamed:
        header = other.issuer.bearer(roles=["a"], groups=["b"])

        assert (await renamed.authenticate(header)).groups == {"a"}


async def test_a_credential_without_kid_is_for_the_only_key_of_its_algorithm(here: Site) -> None:
    here.issuer.keys = [SigningKey("e", "ES256"), SigningKey("r", "RS256")]
    here.clock.advance(seconds=60)
    credential = here.issuer.credential(header={"kid": None})

    assert await here.authenticator.authenticate(f"Bearer {credential}")


async def test_a_key_without_kid_is_found_by_its_algorithm(here: Site) -> None:
    here.issuer.keys = [SigningKey(None, "ES384")]
    here.clock.advance(seconds=60)

    assert await here.authenticator.authenticate(here.issuer.bearer())


async def test_each_issuer_is_served_by_its_own_keys() -> None:
    there = site("one", "two")

    async with there.authenticator as authenticator:
        names = [
            (await authenticator.authenticate(issuer.bearer())).issuer for issuer in there.issuers
        ]

    assert names == ["one", "two"]


class TestRemembering:
    async def test_a_known_credential_is_not_checked_again(self, here: Site) -> None:
        header = here.issuer.bearer()
        first = await here.authenticator.authenticate(header)
        here.issuer.keys = [SigningKey("other", "ES256", which=1)]

        assert await here.authenticator.authenticate(header) is first

    async def test_a_known_credential_stops_working_the_moment_it_expires(self, here: Site) -> None:
        header = here.issuer.bearer(exp=here.now + 20)
        here.clock.advance(seconds=19.999)
        assert await here.authenticator.authenticate(header)

        here.clock.advance(seconds=0.001)

        assert await here.refusal(header) == Refusal.EXPIRED

    async def test_after_a_minute_it_is_checked_again(self, here: Site) -> None:
        header = here.issuer.bearer()
        first = await here.authenticator.authenticate(header)
        here.clock.advance(seconds=VERIFIED_SECONDS_MAX)

        again = await here.authenticator.authenticate(header)

        assert again == first
        assert again is not first

    async def test_a_withdrawn_key_is_noticed_within_the_minute_after_the_refresh(
        self, here: Site
    ) -> None:
        header = here.issuer.bearer()
        await here.authenticator.authenticate(header)
        here.issuer.keys = [SigningKey("other", "ES256", which=1)]

        here.clock.advance(seconds=VERIFIED_SECONDS_MAX)
        # An unknown kid makes the authenticator look at the issuer's keys.
        await here.authenticator.authenticate(here.issuer.bearer())

        assert await here.refusal(header) == Refusal.UNKNOWN_KEY

    async def test_a_wall_clock_that_is_set_back_prolongs_nothing(self) -> None:
        clock = FixedClock()
        verified = VerifiedCredentials(clock)
        verified.put(b"digest", Identity("idp", "alice", frozenset(), 2e10))
        clock.advance(seconds=VERIFIED_SECONDS_MAX)
        clock._now -= timedelta(days=1)

        assert verified.get(b"digest") is None

    async def test_a_refused_credential_is_not_remembered(self, here: Site) -> None:
        await here.refusal(here.issuer.bearer(sub=""))

        assert len(here.authenticator._verified) == 0

    async def test_the_memory_is_bounded_and_forgets_the_oldest(self) -> None:
        clock = FixedClock()
        verified = VerifiedCredentials(clock, count_max=3)
        identity = Identity("idp", "alice", frozenset(), clock.now().timestamp() + 600)

        for digest in (b"1", b"2", b"3", b"4"):
            verified.put(digest, identity)

        assert len(verified) == 3
        assert [verified.get(digest) for digest in (b"1", b"4")] == [None, identity]

    async def test_what_is_too_old_is_forgotten_when_it_is_met(self, here: Site) -> None:
        header = here.issuer.bearer(exp=here.now + 20)
        await here.authenticator.authenticate(header)
        here.clock.advance(seconds=20)

        await here.refusal(header)

        assert len(here.authenticator._verified) == 0

    async def test_a_known_credential_costs_little(self, here: Site) -> None:
        header = here.issuer.bearer()
        await here.authenticator.authenticate(header)

        # The best of several rounds, since a busy machine is no fault.
        rounds = []
        for _ in range(10):
            started = time.perf_counter()
            for _ in range(100):
                await here.authenticator.authenticate(header)
            rounds.append((time.perf_counter() - started) / 100)

        # Measured at 3 µs; checking a signature takes 80 µs and more.
        assert min(rounds) < 40e-6


class TestReading:
    """What cannot be proven by examples alone: no text at all breaks the readers."""

    @settings(deadline=None)
    @given(st.text(max_size=300) | st.from_regex(r"[\w-]{0,80}(\.[\w-]{0,80}){2}", fullmatch=True))
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        with suppress(UnauthenticatedError):
            read_compact(text.encode("ascii", "replace").decode())

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_base64url_is_read_in_one_spelling_only(self, data: bytes) -> None:
        canonical = base64.urlsafe_b64encode(data).rstrip(b"=")

        assert read_base64url(canonical) == data
        assert read_base64url(canonical + b"=") is None

    @pytest.mark.parametrize("text", [b"QQ==", b"QR", b"A", b"A+/A", b"AA AA", b"AAAA\n", b"\xff"])
    def test_other_spellings_of_base64url_are_refused(self, text: bytes) -> None:
        assert read_base64url(text) is None

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_any_bytes_are_an_object_or_nothing(self, data: bytes) -> None:
        assert isinstance(read_object(data), dict | None)

    @settings(deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["keys", "kty", "kid", "n", "e", "crv", "x", "y", "alg", "use"])
                    | st.just("key_ops"),
                    inner | st.sampled_from(["RSA", "EC", "OKP", "P-256", "AQAB", "sig", "ES256"]),
                    max_size=6,
                )
            ),
            max_leaves=20,
        )
    )
    def test_no_key_set_breaks_the_reader(self, members: object) -> None:
        read_key_set(as_json({"keys": [members]}).replace(b"NaN", b"0").replace(b"Infinity", b"1"))
