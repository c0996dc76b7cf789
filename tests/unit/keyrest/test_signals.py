"""Signals become an event, and only the first of them counts."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from keyrest.signals import StopSignals

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: n.name)
def test_a_signal_sets_the_event(number: signal.Signals) -> None:
    async def wait() -> None:
        event = signals.event()
        os.kill(os.getpid(), number)
        async with asyncio.timeout(10):
            await event.wait()

    with StopSignals() as signals:
        asyncio.run(wait())


def test_a_signal_that_came_before_the_loop_is_not_forgotten() -> None:
    async def is_set() -> bool:
        return signals.event().is_set()

    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)

        assert asyncio.run(is_set())


def test_a_signal_after_the_loop_changes_nothing() -> None:
    async def make_event() -> None:
        signals.event()

    with StopSignals() as signals:
        asyncio.run(make_event())
        os.kill(os.getpid(), signal.SIGINT)


def test_afterwards_signals_do_what_they_did_before() -> None:
    before = [signal.getsignal(number) for number in NUMBERS]

    with StopSignals():
        assert [signal.getsignal(number) for number in NUMBERS] != before

    assert [signal.getsignal(number) for number in NUMBERS] == before
