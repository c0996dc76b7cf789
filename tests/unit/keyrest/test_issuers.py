"""When an issuer is asked for its keys, and what holds while it does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from keycore.errors import IssuerUnavailableError, UnauthenticatedError
from keyrest import credentials
from keyrest.credentials import Authenticator
from keyrest.issuers import NO_KEYS, NOT_FETCHED, PACE, Issuer, Pace
from keyrest.reasons import Refusal
from tests.fakes.fixed_clock import FixedClock
from tests.fakes.signing_issuer import SigningIssuer, SigningKey
from tests.unit.keyrest.authentication import Site, site

pytestmark = pytest.mark.anyio

DEADLINE_SECONDS = 5
NEW_KEY = SigningKey("k2", "ES256", which=1)


@pytest.fixture
async def here() -> AsyncIterator[Site]:
    made = site()
    async with made.authenticator:
        yield made


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until a condition holds."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


def lone(**pace: float) -> tuple[FixedClock, SigningIssuer, Issuer]:
    """Return a clock, a source of keys, and an issuer that nobody keeps fresh."""
    clock = FixedClock()
    source = SigningIssuer("idp", clock)
    return clock, source, Issuer("idp", source, clock, pace=Pace(**pace))


class TestStart:
    async def test_the_start_fetches_the_keys_of_every_issuer(self) -> None:
        here = site("one", "two")

        async with here.authenticator as authenticator:
            assert [issuer.fetches for issuer in here.issuers] == [1, 1]
            assert authenticator.faults() == {}

    async def test_an_issuer_that_fails_does_not_stop_the_start(self) -> None:
        here = site("dead", "alive")
        here.issuers[0].fault = "no connection"

        async with here.authenticator as authenticator:
            assert authenticator.faults() == {"dead": "no connection"}
            assert await authenticator.authenticate(here.issuers[1].bearer())
            with pytest.raises(IssuerUnavailableError):
                await authenticator.authenticate(here.issuers[0].bearer())

    async def test_an_issuer_that_hangs_delays_the_start_for_a_while_only(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(credentials, "START_SECONDS_MAX", 0.05)
        here = site()
        here.issuer.gate.clear()

        async with asyncio.timeout(DEADLINE_SECONDS), here.authenticator as authenticator:
            assert authenticator.faults() == {"idp": NOT_FETCHED}
            with pytest.raises(IssuerUnavailableError):
                await authenticator.authenticate(here.issuer.bearer())
            here.issuer.gate.set()
            await until(lambda: not authenticator.faults())
            assert await authenticator.authenticate(here.issuer.bearer())

    async def test_a_start_that_is_cancelled_leaves_no_task_behind(self) -> None:
        before = asyncio.all_tasks()
        here = site()
        here.issuer.gate.clear()
        starting = asyncio.create_task(here.authenticator.__aenter__())
        await until(lambda: here.issuer.fetches == 1)

        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)

        assert asyncio.all_tasks() == before

    async def test_the_end_stops_a_fetch_that_hangs(self) -> None:
        before = asyncio.all_tasks()
        here = site()
        async with here.authenticator:
            here.issuer.gate.clear()
            here.clock.advance(seconds=PACE.floor)
            credential = f"Bearer {here.issuer.credential(header={'kid': 'k9'})}"
            waiting = asyncio.create_task(here.authenticator.authenticate(credential))
            await until(lambda: here.issuer.fetches == 2)

        await asyncio.gather(waiting, return_exceptions=True)
        assert asyncio.all_tasks() == before

    async def test_without_issuers_nobody_is_known(self) -> None:
        clock = FixedClock()

        async with Authenticator([], timedelta(0), clock) as authenticator:
            with pytest.raises(UnauthenticatedError):
                await authenticator.authenticate(SigningIssuer("idp", clock).bearer())


class TestNewKeys:
    async def test_an_unknown_kid_makes_the_issuer_be_asked(self, here: Site) -> None:
        here.clock.advance(seconds=PACE.floor)
        here.issuer.keys = [NEW_KEY]

        assert await here.authenticator.authenticate(here.issuer.bearer())
        assert here.issuer.fetches == 2

    async def test_a_known_kid_does_not(self, here: Site) -> None:
        here.clock.advance(seconds=PACE.floor)

        await here.authenticator.authenticate(here.issuer.bearer())

        assert here.issuer.fetches == 1

    async def test_a_flood_of_unknown_kids_makes_one_fetch_in_ten_seconds(self, here: Site) -> None:
        headers = [f"Bearer {here.issuer.credential(header={'kid': f'x{i}'})}" for i in range(40)]

        for header in headers:
            here.clock.advance(seconds=1)
            assert await here.refusal(header) == Refusal.UNKNOWN_KEY

        assert here.issuer.fetches == 1 + 40 / PACE.floor

    async def test_all_who_wait_share_one_fetch(self, here: Site) -> None:
        here.clock.advance(seconds=PACE.floor)
        here.issuer.keys = [NEW_KEY]
        here.issuer.gate.clear()
        headers = [here.issuer.bearer(sub=f"caller-{i}") for i in range(50)]

        calls = [asyncio.create_task(here.authenticator.authenticate(header)) for header in headers]
        await until(lambda: here.issuer.fetches == 2)
        here.issuer.gate.set()
        identities = await asyncio.gather(*calls)

        assert len({identity.subject for identity in identities}) == 50
        assert here.issuer.fetches == 2

    async def test_a_caller_that_goes_away_does_not_stop_the_fetch_of_the_others(
        self, here: Site
    ) -> None:
        here.clock.advance(seconds=PACE.floor)
        here.issuer.keys = [NEW_KEY]
        here.issuer.gate.clear()
        calls = [
            asyncio.create_task(here.authenticator.authenticate(here.issuer.bearer(sub=name)))
            for name in ("leaves", "stays")
        ]
        await until(lambda: here.issuer.fetches == 2)

        calls[0].cancel()
        await asyncio.gather(calls[0], return_exceptions=True)
        here.issuer.gate.set()

        assert (await calls[1]).subject == "stays"
        assert here.issuer.fetches == 2

    async def test_a_fetch_that_runs_anyway_is_waited_for_before_the_floor_has_passed(
        self,
    ) -> None:
        _, source, issuer = lone()
        await issuer.refresh()
        source.gate.clear()
        source.keys = [NEW_KEY]
        running = asyncio.create_task(issuer.refresh())
        await until(lambda: source.fetches == 2)

        waiting = asyncio.create_task(issuer.key("k2", "ES256"))
        await asyncio.sleep(0)
        source.gate.set()

        assert (await waiting).key_id == "k2"
        await running

    async def test_other_callers_are_served_while_one_waits(self, here: Site) -> None:
        old = here.issuer.bearer()
        here.clock.advance(seconds=PACE.floor)
        here.issuer.keys = [*here.issuer.keys, NEW_KEY]
        here.issuer.gate.clear()
        credential = f"Bearer {here.issuer.credential(key=NEW_KEY)}"
        waiting = asyncio.create_task(here.authenticator.authenticate(credential))
        await until(lambda: here.issuer.fetches == 2)

        assert await here.authenticator.authenticate(old)

        here.issuer.gate.set()
        assert await waiting


class TestOutage:
    async def test_the_last_good_keys_stay(self, here: Site) -> None:
        here.issuer.fault = "no connection"
        here.clock.advance(seconds=PACE.floor)
        unknown = f"Bearer {here.issuer.credential(header={'kid': 'k9'})}"
        with pytest.raises(IssuerUnavailableError):
            await here.authenticator.authenticate(unknown)

        assert await here.authenticator.authenticate(here.issuer.bearer())
        assert here.authenticator.faults() == {"idp": "no connection"}

    async def test_a_new_key_is_unavailable_and_not_refused_while_nobody_can_tell(
        self, here: Site
    ) -> None:
        """The caller may be right, and is told to try again."""
        here.issuer.fault = "no connection"
        here.clock.advance(seconds=PACE.floor)
        here.issuer.keys = [NEW_KEY]
        with pytest.raises(IssuerUnavailableError):
            await here.authenticator.authenticate(here.issuer.bearer())

        here.issuer.fault = ""
        here.clock.advance(seconds=PACE.floor)

        assert await here.authenticator.authenticate(here.issuer.bearer())
        assert here.authenticator.faults() == {}

    async def test_failed_fetches_for_unknown_kids_keep_to_the_floor_too(self, here: Site) -> None:
        here.issuer.fault = "no connection"
        here.clock.advance(seconds=PACE.floor)
        unknown = f"Bearer {here.issuer.credential(header={'kid': 'k9'})}"

        for _ in range(5):
            with pytest.raises(IssuerUnavailableError):
                await here.authenticator.authenticate(unknown)

        assert here.issuer.fetches == 2

    async def test_a_fault_that_nobody_foresaw_is_a_failed_fetch(self, here: Site) -> None:
        async def broken() -> None:
            raise ZeroDivisionError("Bearer secret")

        here.issuer.fetch = broken  # type: ignore[method-assign, assignment]
        here.clock.advance(seconds=PACE.floor)
        with capture_logs() as logs, pytest.raises(IssuerUnavailableError):
            await here.authenticator.authenticate(
                f"Bearer {here.issuer.credential(header={'kid': 'k9'})}"
            )

        assert await here.authenticator.authenticate(here.issuer.bearer())
        assert "ZeroDivisionError" in here.authenticator.faults()["idp"]
        assert "secret" not in str(logs)

    async def test_withdrawn_keys_are_gone_even_when_none_is_left(self, here: Site) -> None:
        here.issuer.document = b'{"keys":[]}'
        here.clock.advance(seconds=PACE.floor)
        await here.refusal(f"Bearer {here.issuer.credential(header={'kid': 'k9'})}")

        assert await here.refusal(here.issuer.bearer()) == Refusal.UNKNOWN_KEY
        assert here.authenticator.faults() == {"idp": NO_KEYS}


class TestRefreshing:
    async def test_keys_are_fetched_again_and_again(self) -> None:
        here = site(pace=Pace(period=0.001))

        async with here.authenticator:
            await until(lambda: here.issuer.fetches > 5)

    async def test_a_failed_start_is_tried_again_until_it_works(self) -> None:
        here = site(pace=Pace(period=3600, retry=0.001, retry_max=0.002))
        here.issuer.fault = "no connection"

        async with here.authenticator as authenticator:
            await until(lambda: here.issuer.fetches > 3)
            here.issuer.fault = ""
            await until(lambda: not authenticator.faults())

            assert await authenticator.authenticate(here.issuer.bearer())

    async def test_waits_double_after_each_failure_up_to_a_limit(self) -> None:
        _, source, issuer = lone(period=300, retry=1, retry_max=30)
        source.fault = "no connection"

        waits = []
        for _ in range(8):
            await issuer.refresh()
            waits.append(issuer.next_refresh_seconds())

        assert waits == [1, 2, 4, 8, 16, 30, 30, 30]

    async def test_a_year_of_failures_is_no_other_fault(self) -> None:
        _, source, issuer = lone(retry_max=30)
        source.fault = "no connection"
        issuer._failures = 1_000_000

        assert issuer.next_refresh_seconds() == 30

    async def test_a_success_ends_the_hurry(self) -> None:
        _, source, issuer = lone(period=300)
        source.fault = "no connection"
        await issuer.refresh()
        source.fault = ""

        await issuer.refresh()

        assert issuer.next_refresh_seconds() == 300

    async def test_the_defaults_bound_withdrawal_and_load(self) -> None:
        assert (PACE.period, PACE.floor, PACE.retry, PACE.retry_max) == (300, 10, 1, 30)


class TestLog:
    async def test_one_fault_is_logged_once_and_its_end_too(self) -> None:
        _, source, issuer = lone()
        source.fault = "no connection"

        with capture_logs() as logs:
            await issuer.refresh()
            await issuer.refresh()
            source.fault = "its metadata are no JSON object"
            await issuer.refresh()
            source.fault = ""
            await issuer.refresh()
            await issuer.refresh()

        assert [(line["log_level"], line["event"], line.get("fault")) for line in logs] == [
            ("warning", "issuer unavailable", "no connection"),
            ("warning", "issuer unavailable", "its metadata are no JSON object"),
            ("info", "issuer's keys fetched", None),
        ]

    async def test_new_keys_are_news_and_the_same_ones_are_not(self) -> None:
        _, source, issuer = lone()
        await issuer.refresh()

        with capture_logs() as logs:
            await issuer.refresh()
            source.keys = [*source.keys, NEW_KEY]
            await issuer.refresh()

        assert [(line["event"], line["usable_keys"]) for line in logs] == [
            ("issuer's keys fetched", 2)
        ]
