"""Where a process goes on when crashes, clocks or people have been at its files."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keycore.adapters.audit_files import AuditFile, claim_slot, read_lines
from tests.unit.keycore.audited_host import AuditedHost, append

ONE, TWO = "rest.0.000001.jsonl", "rest.0.000002.jsonl"


@pytest.fixture
def host(tmp_path: Path) -> AuditedHost:
    return AuditedHost(tmp_path / "host")


def operations(host: AuditedHost, name: str) -> list[str]:
    lines = (host.directory / name).read_text().splitlines()
    return [json.loads(line)["operation"] for line in lines]


@pytest.mark.parametrize("left", [b"", b'{"n":10,"pr'], ids=["nothing", "a-part"])
def test_a_file_whose_first_line_a_crash_has_torn_is_begun_again(
    host: AuditedHost, left: bytes
) -> None:
    host.write(4)
    (host.directory / TWO).write_bytes(left)

    host.write(6)

    assert host.found() == []
    assert host.names() == [ONE, TWO]
    assert operations(host, ONE).count("audit.torn") == (1 if left else 0)


def test_a_first_file_that_a_crash_has_torn_is_begun_again(host: AuditedHost) -> None:
    host.directory.mkdir(parents=True)
    (host.directory / ONE).write_bytes(b'{"n":1,"pr')

    host.write(1)

    assert host.found() == []
    assert operations(host, ONE)[:2] == ["audit.file", "audit.torn"]


def test_a_file_of_another_kind_is_left_and_another_chain_begun(host: AuditedHost) -> None:
    host.write(4)
    (host.directory / ONE).rename(host.directory / "aside")
    (host.directory / ONE).symlink_to("aside")

    writer, _ = host.start()

    assert writer.broken == f"{ONE}: a symbolic link stands in its place"
    assert writer.path.name == TWO
    writer.close()


def test_a_process_takes_its_lock_again_before_another_one_does(host: AuditedHost) -> None:
    writer, sealing = host.start()
    (host.directory / "rest.0.lock").unlink()

    sealing.run_once()
    other, _ = host.start()

    assert (writer.chain.name, other.chain.name) == ("rest.0", "rest.1")
    writer.close()
    other.close()


def test_a_process_leaves_its_slot_to_another_one_that_has_the_lock(host: AuditedHost) -> None:
    writer, sealing = host.start()
    append(writer, 2)
    (host.directory / "rest.0.lock").unlink()
    other, other_sealing = host.start()
    append(other, 1)

    sealing.run_once()
    append(writer, 1)
    sealing.run_once(now=True)
    other_sealing.run_once(now=True)

    assert (writer.chain.name, other.chain.name) == ("rest.1", "rest.0")
    assert "another process has rest.0" in writer.broken
    assert host.found() == []
    writer.close()
    other.close()


def test_a_directory_that_vanishes_is_made_again_with_the_lock(host: AuditedHost) -> None:
    writer, sealing = host.start()
    append(writer, 2)
    shutil.rmtree(host.directory)

    sealing.run_once(now=True)
    other, _ = host.start()

    assert host.names() == [TWO, "rest.1.000001.jsonl"]
    assert "was removed" in writer.broken
    assert host.found() == [("rest.0", "removed", 1, ONE, 0)]
    writer.close()
    other.close()


def test_a_directory_that_is_replaced_is_noticed(host: AuditedHost) -> None:
    writer, sealing = host.start()
    append(writer, 2)
    host.directory.rename(host.directory.with_name("aside"))
    host.directory.mkdir()

    sealing.run_once(now=True)

    assert "was removed" in writer.broken
    assert host.found() == [("rest.0", "removed", 1, ONE, 0)]
    writer.close()


def test_a_state_directory_that_is_away_is_not_made_anew(host: AuditedHost) -> None:
    """Nobody shall take an empty directory for an installation; what comes back is gone on with."""
    writer, sealing = host.start()
    append(writer, 2)
    away = host.settings.state_dir.rename(host.settings.state_dir.with_name("away"))

    with pytest.raises(FileNotFoundError):
        writer.look()
    left = (writer.is_open, host.settings.state_dir.exists())
    away.rename(host.settings.state_dir)
    sealing.run_once()
    append(writer, 1)
    sealing.run_once(now=True)

    assert left == (False, False)
    assert host.found() == []
    writer.close()


def test_a_host_that_has_another_name_now_begins_another_chain_and_breaks_none(
    host: AuditedHost,
) -> None:
    host.write(2)

    writer, sealing = host.start(node="node-b")
    sealing.run_once(now=True)

    assert (writer.chain.node, writer.path.name, writer.broken) == ("node-b", TWO, "")
    assert host.found() == []
    writer.close()


def test_the_hsm_seals_nothing_for_a_chain_of_another_slot(host: AuditedHost) -> None:
    host.write(2)
    (host.directory / ONE).rename(host.directory / "rest.1.000001.jsonl")
    first, _ = host.start()

    writer, _ = host.start()

    assert writer.broken == "rest.1.000001.jsonl: it is of the slot rest.0"
    first.close()
    writer.close()


def test_a_clock_that_goes_back_breaks_no_chain(host: AuditedHost) -> None:
    host.write(2)

    host.installation.clock.advance(days=-400)
    host.write(2)

    assert host.found() == []


def test_every_process_that_starts_at_once_gets_a_slot_of_its_own(host: AuditedHost) -> None:
    host.directory.mkdir(parents=True)
    with ThreadPoolExecutor(16) as pool:
        slots = list(pool.map(lambda _: claim_slot(host.directory, "rest"), range(16)))

    assert {slot.name for slot in slots} == {f"rest.{number}" for number in range(16)}
    for slot in slots:
        slot.release()


def test_a_number_that_no_chain_reaches_stops_no_start(host: AuditedHost) -> None:
    host.write(2)

    host.edit(ONE, lambda lines: lines.append(b'{"n":%d,"prev":"","operation":""}\n' % 2**70))
    writer, _ = host.start()

    assert "no line of a chain" in writer.broken
    writer.close()


def test_the_name_of_a_new_file_is_on_the_disk_before_the_store_knows_of_its_lines(
    host: AuditedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        "keycore.adapters.audit_sealing.os.fdatasync",
        lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name),
    )

    host.write(1)

    assert synced == [ONE, host.directory.name]


def test_a_lock_file_that_is_removed_before_it_is_locked_is_not_taken(
    host: AuditedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.directory.mkdir(parents=True)
    path, lock = host.directory / "rest.0.lock", fcntl.flock
    removed: list[Path] = []

    def remove_first(descriptor: int, how: int) -> None:
        if not removed:
            path.unlink()
            removed.append(path)
        lock(descriptor, how)

    monkeypatch.setattr("keycore.adapters.audit_files.fcntl.flock", remove_first)

    slot = claim_slot(host.directory, "rest")

    assert slot.name == "rest.0"
    assert slot.is_kept()
    slot.release()


def test_what_takes_the_place_of_a_file_after_the_look_is_not_read(host: AuditedHost) -> None:
    host.directory.mkdir(parents=True)
    (host.directory / ONE).symlink_to("/etc/hostname")
    os.mkfifo(host.directory / TWO)

    with pytest.raises(OSError, match="symbolic links"):
        list(read_lines(AuditFile.of(host.directory, "rest.0", 1)))
    assert list(read_lines(AuditFile.of(host.directory, "rest.0", 2))) == []


def test_a_log_that_could_not_be_opened_at_the_start_is_checked_when_it_is(
    host: AuditedHost,
) -> None:
    host.write(2)
    host.forge_checkpoint(ONE)
    directory = host.directory.rename(host.directory.with_name("away"))
    host.directory.write_text("no directory")
    writer, sealing = host.process()

    with pytest.raises(OSError, match="exists"):
        writer.look()
    sealing._check_past()
    host.directory.unlink()
    directory.rename(host.directory)
    sealing.run_once(now=True)

    assert writer.broken == "the checkpoint of line 4 is forged"
    writer.close()
