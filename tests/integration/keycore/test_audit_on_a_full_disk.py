"""A full audit disk: faces that can wait refuse before they act, the provider serves on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from keycore.adapters import audit_room
from keycore.adapters.audit_log import ChainedAuditLog
from keycore.adapters.pkcs11_token import Pkcs11Token
from keycore.adapters.sql_store import SqlStore
from keycore.adapters.system_clock import SystemClock
from keycore.audit_examination import examine_audit
from keycore.bootstrap import Core, open_audit, wire
from keycore.domain.ids import InstanceId, new_uuid
from keycore.domain.instances import Installation, Instance
from keycore.errors import AuditUnavailableError
from keycore.ports import KeyFilter
from keycore.service.caller import Caller
from keycore.service.creation import NewKey
from keycore.service.records import Records
from keycore.settings import Settings
from testbed.audit import audit_files, audit_lines
from testbed.waiting import wait_until
from tests.skipping import cannot_run

CALLER = Caller("rest", "tests")
PROVIDER = Caller("provider", "tests")
BALLAST = "ballast"


@contextmanager
def mounted(kind: str, directory: Path, options: str) -> Iterator[None]:
    """Have a file system in memory in the place of a directory."""
    if os.geteuid() != 0:
        cannot_run("only root may mount a small file system; run the tests as root")
    directory.mkdir(mode=0o700)
    done = subprocess.run(
        ["mount", "-t", kind, "-o", options, kind, directory],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        cannot_run(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A state directory whose audit directory is a file system of one mebibyte."""
    with mounted("tmpfs", tmp_path / "audit", "size=1m,mode=0700"):
        yield tmp_path


@pytest.fixture
def endless_disk(tmp_path: Path) -> Iterator[Path]:
    """One whose audit directory is a file system that takes no room ahead and tells of none."""
    with mounted("ramfs", tmp_path / "audit", "mode=0700"):
        yield tmp_path


def remount(state_dir: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", state_dir / "audit"], check=True)


def fill(state_dir: Path) -> None:
    """Leave no block free on the audit disk."""
    with (state_dir / "audit" / BALLAST).open("ab", buffering=0) as ballast:
        while True:
            try:
                ballast.write(bytes(4096))
            except OSError:
                return


def make_room(state_dir: Path) -> None:
    (state_dir / "audit" / BALLAST).unlink()


@dataclass(frozen=True)
class Site:
    """A core whose audit log lies on the small disk."""

    core: Core
    log: ChainedAuditLog
    instance: InstanceId
    state_dir: Path

    def keys(self) -> int:
        """Count the keys that are in the store, whatever the audit has to say."""
        with self.core.store.reading() as unit:
            return unit.keys.count(KeyFilter(), self.core.clock.now())

    def use_up(self, caller: Caller) -> int:
        """Make keys until it is refused, and return how many were made."""
        for made in range(10_000):
            try:
                self.core.keys.count(caller, KeyFilter())
            except AuditUnavailableError:
                return made
        raise AssertionError("the reserve has no end")


def open_log(state_dir: Path, face: str, token: Pkcs11Token, store: SqlStore) -> ChainedAuditLog:
    return open_audit(Settings(state_dir=state_dir), face, token, store)


def open_site(state_dir: Path, token: Pkcs11Token, store: SqlStore, log: ChainedAuditLog) -> Site:
    settings, clock, instance = Settings(state_dir=state_dir), SystemClock(), InstanceId(new_uuid())
    with Records(store, token).writing() as unit:
        unit.save_instance(Instance(instance, "default", None, clock.now()))
        unit.save_installation(Installation(new_uuid(), "keyplane", "0", clock.now()))
    return Site(wire(settings, store, token, log, clock), log, instance, state_dir)


@pytest.fixture
def rest(small_disk: Path, softhsm_token: Pkcs11Token, sqlite_store: SqlStore) -> Iterator[Site]:
    log = open_log(small_disk, "rest", softhsm_token, sqlite_store)
    site = open_site(small_disk, softhsm_token, sqlite_store, log)
    with closing(log):
        yield site


@pytest.fixture
def provider(
    small_disk: Path, softhsm_token: Pkcs11Token, sqlite_store: SqlStore
) -> Iterator[Site]:
    log = open_log(small_disk, "provider", softhsm_token, sqlite_store)
    site = open_site(small_disk, softhsm_token, sqlite_store, log)
    key = site.core.keys.create(CALLER, site.instance, NewKey("etcd"))
    site.core.providers.bind(CALLER, site.core.settings.provider.name, key.id)
    site.core.kms.refresh()
    with closing(log):
        yield site


def test_an_operation_is_refused_before_it_acts(rest: Site) -> None:
    fill(rest.state_dir)
    served = rest.use_up(CALLER)
    before = rest.keys()

    with pytest.raises(AuditUnavailableError, match="no room for audit lines"):
        rest.core.keys.create(CALLER, rest.instance, NewKey("one"))

    assert served > 100
    assert rest.keys() == before
    assert rest.log.condition().lost == 0
    assert rest.log.condition().fault != ""


def test_what_was_begun_before_the_disk_was_full_gets_its_line(rest: Site) -> None:
    decision = rest.core.auditor.decision(CALLER, "key.create")

    with decision:
        fill(rest.state_dir)
        rest.use_up(CALLER)

    assert audit_lines(rest.state_dir, "rest")[-1]["operation"] == "key.create"
    assert rest.log.condition().lost == 0


def test_every_face_goes_on_without_a_restart_when_there_is_room_again(rest: Site) -> None:
    fill(rest.state_dir)
    rest.use_up(CALLER)

    make_room(rest.state_dir)
    rest.core.keys.create(CALLER, rest.instance, NewKey("one"))

    assert rest.keys() == 1
    assert rest.log.condition().fault == ""
    rest.log.close()
    assert not examine_audit(rest.core).broken


def test_a_start_on_a_full_disk_refuses_until_there_is_room(
    rest: Site, softhsm_token: Pkcs11Token, sqlite_store: SqlStore
) -> None:
    rest.log.close()
    fill(rest.state_dir)

    with closing(open_log(rest.state_dir, "rest", softhsm_token, sqlite_store)) as log:
        with pytest.raises(AuditUnavailableError):
            log.require_room()
        make_room(rest.state_dir)
        log.require_room()


def test_the_provider_serves_on_and_counts_and_says_so_in_the_chain(provider: Site) -> None:
    kms = provider.core.kms
    fill(provider.state_dir)

    def is_losing() -> bool:
        ciphertext, key_id = kms.encrypt(PROVIDER, b"seed")
        assert kms.decrypt(PROVIDER, ciphertext, key_id) == b"seed"
        return provider.log.condition().lost > 4

    assert any(is_losing() for _ in range(5000))
    lost = provider.log.condition().lost
    assert provider.log.condition().fault != ""
    make_room(provider.state_dir)
    kms.encrypt(PROVIDER, b"seed")

    assert provider.log.condition().fault == ""
    assert provider.log.condition().lost == lost
    text = "".join(path.read_text() for path in audit_files(provider.state_dir, "provider"))
    (told,) = [json.loads(line) for line in text.splitlines() if '"audit.lost"' in line]
    assert told["lines"] == lost
    provider.log.close()
    assert not examine_audit(provider.core).broken


def test_room_that_was_taken_ahead_is_given_back_at_the_end(rest: Site) -> None:
    path = audit_files(rest.state_dir, "rest")[0]
    taken = path.stat().st_blocks

    rest.log.close()

    assert taken * 512 >= 256 * 1024
    assert path.stat().st_blocks * 512 <= 8192


@pytest.mark.parametrize("face", ["rest", "provider"])
def test_a_start_on_a_read_only_disk_waits_for_the_disk_and_not_for_an_administrator(
    small_disk: Path, softhsm_token: Pkcs11Token, sqlite_store: SqlStore, face: str
) -> None:
    """A kubelet that starts the provider again must not be stopped by an audit disk."""
    remount(small_disk, "ro")

    with closing(open_log(small_disk, face, softhsm_token, sqlite_store)) as log:
        if face == "rest":
            with pytest.raises(AuditUnavailableError):
                log.require_room()
        else:
            log.require_room()
        assert "Read-only file system" in log.condition().fault
        remount(small_disk, "rw")
        wait_until(lambda: not log.condition().fault, what="it writes", within_seconds=10)
        log.require_room()

    assert len(audit_files(small_disk, face)) == 1


def test_a_disk_that_takes_no_room_ahead_and_tells_of_none_is_written_to(
    endless_disk: Path, softhsm_token: Pkcs11Token, sqlite_store: SqlStore
) -> None:
    with closing(open_log(endless_disk, "rest", softhsm_token, sqlite_store)) as log:
        log.require_room()

        assert log.condition().fault == ""


def test_without_a_way_to_take_room_ahead_as_much_must_be_free(
    small_disk: Path,
    softhsm_token: Pkcs11Token,
    sqlite_store: SqlStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_room, "_fallocate", None)
    with closing(open_log(small_disk, "rest", softhsm_token, sqlite_store)) as log:
        log.require_room()
    fill(small_disk)

    with closing(open_log(small_disk, "rest", softhsm_token, sqlite_store)) as log:
        with pytest.raises(AuditUnavailableError):
            log.require_room()
        make_room(small_disk)
        log.require_room()
