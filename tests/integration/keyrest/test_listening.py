"""Who may listen where: one process on a port, its workers together, and clear refusals."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from keycore.errors import SettingsError, SocketInUseError
from keycore.settings import RestSettings
from keyrest.listening import open_listeners, url_of
from testbed.loopback import HOST, free_port
from tests.integration.keyrest.served_app import ISSUER


def rest(port: int = 0, address: str = HOST) -> RestSettings:
    return RestSettings(address=address, port=port, issuers=(ISSUER,))


class Opened:
    """Opens listeners, and closes them after the test."""

    def __init__(self) -> None:
        self.all: list[socket.socket] = []

    def __call__(self, settings: RestSettings, count: int = 1) -> list[socket.socket]:
        listeners = open_listeners(settings, count)
        self.all += listeners
        return listeners


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def opened() -> Iterator[Opened]:
    opened = Opened()
    yield opened
    for listener in opened.all:
        listener.close()


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def test_port_0_takes_a_free_port_for_all_workers(opened: Opened) -> None:
    listeners = opened(rest(), 3)

    assert len({port_of(listener) for listener in listeners}) == 1
    assert url_of(listeners[0]) == f"https://127.0.0.1:{port_of(listeners[0])}"


def test_every_worker_gets_some_of_the_connections(opened: Opened) -> None:
    listeners = opened(rest(), 2)
    address = (HOST, port_of(listeners[0]))
    clients = [socket.create_connection(address) for _ in range(60)]

    taken = [len(accepted(listener)) for listener in listeners]

    for client in clients:
        client.close()
    assert sum(taken) == 60
    # A fair coin gives one side less than 12 of 60 once in a million times.
    assert min(taken) >= 12


def accepted(listener: socket.socket) -> list[None]:
    """Accept and close everybody who waits."""
    listener.settimeout(0)
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(listener.accept()[0].close())
    return found


@pytest.mark.parametrize("first", [1, 2], ids=["a single process", "workers"])
@pytest.mark.parametrize("second", [1, 2], ids=["a single one", "one with workers"])
@pytest.mark.parametrize("address", [HOST, "0.0.0.0"], ids=["the same address", "all addresses"])
def test_a_second_instance_is_refused(
    opened: Opened, first: int, second: int, address: str
) -> None:
    port = port_of(opened(rest(), first)[0])

    with pytest.raises(SocketInUseError) as refused:
        opened(rest(port, address), second)

    assert f"port {port} of {address}" in refused.value.message
    assert "rest.port" in refused.value.hint


def test_nobody_else_can_share_the_port_of_a_single_process(opened: Opened) -> None:
    [listener] = opened(rest())

    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind((HOST, port_of(listener)))


def test_of_instances_that_start_at_the_same_time_one_wins(opened: Opened) -> None:
    def try_it(settings: RestSettings) -> int:
        try:
            return len(opened(settings, 2))
        except SocketInUseError:
            return 0

    for _ in range(20):
        settings = rest(free_port())
        with ThreadPoolExecutor(4) as instances:
            assert sorted(instances.map(try_it, [settings] * 4)) == [0, 0, 0, 2]


def test_a_refused_instance_leaves_nothing_open(opened: Opened) -> None:
    port = port_of(opened(rest())[0])
    before = open_descriptors()

    with pytest.raises(SocketInUseError):
        open_listeners(rest(port), 2)

    assert open_descriptors() == before


def test_the_port_is_free_again_although_connections_are_remembered(opened: Opened) -> None:
    [first] = opened(rest())
    port = port_of(first)
    with closing(socket.create_connection((HOST, port))):
        first.accept()[0].close()
        first.close()

        assert opened(rest(port))


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="the kernel has no IPv6")
def test_ipv6_is_listened_on_and_all_addresses_mean_both_kinds(opened: Opened) -> None:
    [loopback] = opened(rest(address="::1"))
    [everywhere] = opened(rest(address="::"))

    assert url_of(loopback) == f"https://[::1]:{port_of(loopback)}"
    for host in (HOST, "::1"):
        socket.create_connection((host, port_of(everywhere))).close()


@pytest.mark.parametrize(
    ("settings", "fact"),
    [
        (rest(address="localhost"), "must be an IP address"),
        (rest(address="192.0.2.1"), "this machine has no address 192.0.2.1"),
        (RestSettings(), "no issuer"),
    ],
    ids=["a name", "an address of another machine", "nobody to let in"],
)
def test_settings_that_cannot_work_are_named_with_the_fix(
    settings: RestSettings, fact: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        open_listeners(settings)

    assert fact in refused.value.message
    assert "rest." in refused.value.hint
