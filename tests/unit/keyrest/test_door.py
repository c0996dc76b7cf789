"""The door: whose turn it is to accept, and what happens when the kernel has no room."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from keyrest import door as door_module
from keyrest.door import Door

SECONDS_MAX = 10


class Listener:
    """A listening socket of this test; ``fault`` is raised instead of accepting."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.fault: int | None = None
        self.asked = 0

    def accept(self) -> Any:
        self.asked += 1
        if self.fault is not None:
            raise OSError(self.fault, os.strerror(self.fault))
        return self.socket.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.socket, name)


class Site:
    """A door with two listeners; everybody who was let in."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.own, self.other = Listener(), Listener()
        self.guests: list[socket.socket] = []
        self.callers: list[socket.socket] = []
        self.faults: list[Any] = []
        loop.set_exception_handler(lambda _, fault: self.faults.append(fault))
        listeners: list[Any] = [self.own, self.other]
        self.door = Door(listeners, loop, self.guests.append)
        self.door.open()

    def knock(self, listener: Listener, times: int = 1) -> None:
        address = listener.socket.getsockname()
        self.callers += [socket.create_connection(address) for _ in range(times)]

    def let_pass(self, rounds: int = 5) -> None:
        for _ in range(rounds):
            self.loop.run_until_complete(asyncio.sleep(0.001))

    def close(self) -> None:
        assert self.faults == []
        self.door.close()
        for one in (*self.guests, *self.callers):
            one.close()


@pytest.fixture
def site() -> Iterator[Site]:
    with asyncio.Runner() as runner:
        site = Site(runner.get_loop())
        yield site
        site.close()


def test_those_at_the_own_door_are_let_in(site: Site) -> None:
    site.knock(site.own, 3)
    site.let_pass()

    assert len(site.guests) == 3


def test_those_at_another_door_wait_for_its_owner_until_he_is_late(site: Site) -> None:
    site.knock(site.other, 3)
    site.let_pass()
    assert site.guests == []

    site.door.help_out()
    assert len(site.guests) == 3


def test_a_closed_door_lets_nobody_in_and_frees_every_port(site: Site) -> None:
    addresses = [listener.socket.getsockname() for listener in (site.own, site.other)]

    site.door.close()
    site.door.close()
    site.door.help_out()

    for address in addresses:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


@pytest.mark.parametrize("fault", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_room_it_is_not_asked_over_and_over_and_tells_so_once(
    site: Site, fault: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "_PAUSE_SECONDS", 60)
    site.own.fault = site.other.fault = fault

    with capture_logs() as logs:
        site.knock(site.own)
        site.let_pass()
        site.door.help_out()

    assert site.own.asked == 1
    assert [line["log_level"] for line in logs] == ["error"]


def test_after_a_pause_those_who_waited_are_let_in(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "_PAUSE_SECONDS", 0.01)
    site.own.fault = errno.EMFILE
    site.knock(site.own)
    site.let_pass()

    site.own.fault = None
    deadline = site.loop.time() + SECONDS_MAX
    while not site.guests and site.loop.time() < deadline:
        site.let_pass()

    assert len(site.guests) == 1


@pytest.mark.parametrize("fault", [errno.ECONNABORTED, errno.EAGAIN, errno.EPROTO])
def test_a_caller_that_has_gone_is_nothing_to_speak_of(site: Site, fault: int) -> None:
    site.own.fault = fault
    with capture_logs() as logs:
        site.knock(site.own)
        site.let_pass()

    assert logs == []
    site.own.fault = None
    site.let_pass()
    assert len(site.guests) == 1


def test_a_door_that_is_closed_in_a_pause_stays_closed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "_PAUSE_SECONDS", 0.02)
    site.own.fault = errno.EMFILE
    site.knock(site.own)
    while site.door._pause is None:
        site.let_pass(1)

    site.door.close()
    asked = site.own.asked
    site.let_pass(50)

    assert site.own.asked == asked
