"""The provider as a process that has nothing but its token and its keyring."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from keycore.settings import ProviderSettings, Settings
from keyplugin.kmsapi.api_pb2 import EncryptResponse
from testbed.audit import audit_lines
from testbed.keyplane import KeyplaneInstallation
from testbed.waiting import wait_until
from tests.integration.keyplugin.client import KmsClient
from tests.integration.keyplugin.provider_process import ProviderProcess

SEED = bytes(range(32))


class Node:
    """An installation with a bound key, in a directory that may be a copy of another's."""

    def __init__(self, directory: Path) -> None:
        self.keyplane = KeyplaneInstallation(directory, directory / "kubeconfig", node="cp-1")
        self.settings = Settings(
            state_dir=directory / "state",
            provider=ProviderSettings(node="cp-1", socket=self.keyplane.socket, health_address=""),
        )

    def prepare(self) -> EncryptResponse:
        """Run the provider once with its store; return what it has encrypted."""
        self.keyplane.run("init")
        key_id = self.keyplane.run_json("keys", "create", "etcd-root")["id"]
        self.keyplane.run("provider", "set", "keyplane", "--key", key_id)
        with self.start("before"), KmsClient(self.settings.provider.socket) as client:
            wait_until(lambda: client.status().key_id, what="a key_id", within_seconds=10)
            return client.encrypt(SEED)

    def start(self, name: str) -> ProviderProcess:
        return ProviderProcess(self.settings, name)

    def rotate(self) -> None:
        (key,) = self.keyplane.run_json("keys", "list")
        self.keyplane.run("keys", "rotate", key["id"])


@pytest.fixture(scope="module")
def prepared() -> Iterator[tuple[Path, EncryptResponse]]:
    """A directory to copy, and what its provider has encrypted."""
    # A short path: a unix socket lies in it.
    with TemporaryDirectory(prefix="keyplane-") as directory:
        yield Path(directory), Node(Path(directory)).prepare()


@pytest.fixture
def node(prepared: tuple[Path, EncryptResponse]) -> Iterator[Node]:
    with TemporaryDirectory(prefix="keyplane-") as directory:
        shutil.copytree(prepared[0] / "state", Path(directory) / "state")
        yield Node(Path(directory))


@pytest.fixture
def written(prepared: tuple[Path, EncryptResponse]) -> EncryptResponse:
    """What was encrypted before."""
    return prepared[1]


def take_away(node: Node) -> None:
    database = node.settings.database
    for path in database.parent.glob("keyplane.db*"):
        path.rename(path.with_name(f"away-{path.name}"))


def put_back(node: Node) -> None:
    for path in node.settings.state_dir.glob("away-keyplane.db*"):
        path.rename(path.with_name(path.name.removeprefix("away-")))


def overwrite(node: Node) -> None:
    take_away(node)
    node.settings.database.write_bytes(os.urandom(8192))


@pytest.mark.parametrize("break_store", [take_away, overwrite], ids=["missing", "garbage"])
def test_a_start_without_a_usable_store_serves_everything_in_good_health(
    node: Node, written: EncryptResponse, break_store: Callable[[Node], None]
) -> None:
    break_store(node)

    with node.start("alone") as alone, KmsClient(alone.socket) as client:
        status = client.status()
        assert (status.healthz, status.key_id) == ("ok", written.key_id)
        assert client.decrypt(written) == SEED
        assert client.encrypt(SEED).key_id == written.key_id
        wait_until(
            lambda: bool(alone.logged("needs attention")), what="a warning", within_seconds=10
        )
        warning = alone.logged("needs attention")[0]
        assert "what is known already is served on" in warning["warning"]


def test_the_store_of_another_installation_is_named_and_delays_nothing(
    node: Node, written: EncryptResponse
) -> None:
    take_away(node)
    with TemporaryDirectory(prefix="keyplane-") as elsewhere:
        other = KeyplaneInstallation(Path(elsewhere), Path(elsewhere) / "kubeconfig")
        other.run("init")
        shutil.copy(other.state / "keyplane.db", node.settings.database)

    with node.start("alone") as alone, KmsClient(alone.socket) as client:
        status = client.status()
        assert status.key_id == written.key_id
        assert client.decrypt(written) == SEED
        wait_until(
            lambda: "fails its integrity check" in client.status().healthz,
            what="the fault's name",
            within_seconds=10,
        )


def test_a_store_that_was_replaced_while_the_provider_runs_is_used(
    node: Node, written: EncryptResponse
) -> None:
    with node.start("running") as running, KmsClient(running.socket) as client:
        assert client.status().key_id == written.key_id
        copy = node.settings.database.with_name("copy")
        shutil.copy(node.settings.database, copy)
        take_away(node)
        copy.rename(node.settings.database)
        node.rotate()

        wait_until(
            lambda: client.status().key_id not in ("", written.key_id),
            what="the new key_id",
            within_seconds=15,
        )


def test_a_store_that_is_locked_for_long_delays_no_start(
    node: Node, written: EncryptResponse
) -> None:
    with closing(sqlite3.connect(node.settings.database)) as busy:
        busy.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()

        with node.start("alone") as alone, KmsClient(alone.socket) as client:
            assert client.decrypt(written) == SEED
            assert client.status().healthz == "ok"
            assert time.monotonic() - started < 10


def test_what_was_rotated_while_the_store_was_away_is_learnt_when_it_is_back(
    node: Node, written: EncryptResponse
) -> None:
    take_away(node)
    with node.start("alone") as alone, KmsClient(alone.socket) as client:
        assert client.status().key_id == written.key_id
        put_back(node)
        node.rotate()

        wait_until(
            lambda: client.status().key_id not in ("", written.key_id),
            what="the new key_id",
            within_seconds=15,
        )
        assert client.decrypt(written) == SEED


@pytest.mark.parametrize("content", [b"", b"garbage", None], ids=["empty", "garbage", "foreign"])
def test_a_keyring_that_cannot_be_used_is_told_and_the_store_is_used(
    node: Node, written: EncryptResponse, content: bytes | None
) -> None:
    keyring = node.settings.keyring
    broken = keyring.read_bytes()[:-1] + b"0" if content is None else content
    keyring.write_bytes(broken)

    with node.start("again") as again, KmsClient(again.socket) as client:
        assert client.decrypt(written) == SEED
        assert client.status().healthz == "ok"
        wait_until(lambda: keyring.read_bytes() != broken, what="a keyring", within_seconds=5)
    lines = audit_lines(node.settings.state_dir, "provider")
    assert "keyring.load" in {line["operation"] for line in lines}


def test_without_store_and_keyring_the_start_names_what_is_missing(node: Node) -> None:
    node.settings.keyring.unlink()
    take_away(node)

    process = node.start("nothing")

    assert process.wait() == 2
    assert "is missing, and it was there before" in process.output()


def test_the_keyring_holds_no_plain_key_and_no_pin(node: Node) -> None:
    content = node.settings.keyring.read_bytes()

    assert node.settings.pin_file.read_bytes().strip() not in content
    assert SEED not in content
    assert node.settings.keyring.stat().st_mode & 0o777 == 0o600


def test_one_start_after_the_other_without_the_store_can_encrypt(
    node: Node, written: EncryptResponse
) -> None:
    take_away(node)

    for name in ("one", "two", "three"):
        with node.start(name) as alone, KmsClient(alone.socket) as client:
            assert client.encrypt(SEED).key_id == written.key_id
