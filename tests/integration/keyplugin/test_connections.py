"""A process counts the connections that it has accepted, and nobody else's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from keyplugin.connections import await_no_connections, open_connections
from tests.skipping import cannot_run

_COUNT_IN_A_NAMESPACE = """
import socket, sys
from pathlib import Path
from keyplugin.connections import open_connections
path = Path(sys.argv[1])
server = socket.socket(socket.AF_UNIX)
server.bind(str(path)); server.listen()
print("ready", flush=True)
accepted = server.accept()
print(open_connections(path), flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".bound"


@pytest.fixture
def server(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))
        server.listen()
        yield server


def test_each_accepted_connection_counts_until_it_is_closed(
    path: Path, server: socket.socket
) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(os.fspath(path))
            stack.enter_context(server.accept()[0])
        assert open_connections(path) == 3

    assert open_connections(path) == 0


def test_neither_the_listening_socket_nor_another_path_counts(
    path: Path, server: socket.socket
) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
        with server.accept()[0]:
            assert open_connections(path.with_name("other")) == 0


def test_what_does_not_end_is_told(path: Path, server: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
        with server.accept()[0]:
            assert await_no_connections(path, within_seconds=0.3) == 1

    assert await_no_connections(path, within_seconds=0.3) == 0


def test_a_client_in_another_network_namespace_counts_as_well(path: Path) -> None:
    """As kube-apiserver is, for a provider in a pod with a network of its own."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        cannot_run("root and unshare (util-linux) are needed")
    command = ["unshare", "--net", sys.executable, "-c", _COUNT_IN_A_NAMESPACE, os.fspath(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as apart:
        assert apart.stdout is not None
        assert apart.stdout.readline() == "ready\n"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))

            assert apart.stdout.readline() == "1\n"
