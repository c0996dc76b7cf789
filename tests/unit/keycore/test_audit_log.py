"""The log that faces write to: chains that go on, room, files that vanish, seals that wait."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keycore.adapters import audit_open_file
from keycore.adapters.audit_chain import ChainWriter
from keycore.adapters.audit_log import ChainedAuditLog
from keycore.adapters.audit_sealing import LINES_MAX, Sealing
from keycore.errors import AuditUnavailableError, StoreSetupError
from keycore.ports import AuditEvent
from keycore.service.caller import Auditor, Caller
from testbed.audit import audit_files
from testbed.waiting import wait_until
from tests.fakes.fixed_clock import FixedClock
from tests.fakes.memory_audit import MemoryAuditLog
from tests.fakes.memory_token import InsecureMemoryToken
from tests.unit.keycore.audit_chains import MemoryHeads

EVENT = AuditEvent(datetime(2030, 3, 1, tzinfo=UTC), "key.get", "ok", "rest", "alice", "", {})
CALLER = Caller("rest", "alice")


class Node:
    """A directory with what vouches for it, where one process after another logs."""

    def __init__(self, directory: Path) -> None:
        self.state_dir = directory
        self.directory = directory / "audit"
        self.token = InsecureMemoryToken()
        self.heads = MemoryHeads()
        self.clock = FixedClock()

    def log(self, *, strict: bool = True, face: str = "rest") -> ChainedAuditLog:
        return ChainedAuditLog(
            self.directory,
            face,
            node="node-a",
            file_bytes=10**6,
            strict=strict,
            signer=self.token,
            heads=self.heads,
            clock=self.clock,
        )

    def writer(self) -> tuple[ChainWriter, Sealing]:
        """Return a writer and its sealing, which runs only when it is called."""
        writer = ChainWriter(
            self.directory, "rest", node="node-a", file_bytes=10**6, clock=self.clock
        )
        writer.go_on()
        sealing = Sealing(
            writer,
            threading.Lock(),
            look=writer.look,
            signer=self.token,
            heads=self.heads,
            clock=self.clock,
        )
        return writer, sealing

    def operations(self) -> list[str]:
        return [str(line["operation"]) for line in self.lines()]

    def lines(self) -> list[dict[str, object]]:
        return [
            json.loads(line)
            for path in audit_files(self.state_dir, "rest")
            for line in path.read_text().splitlines()
        ]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_the_next_process_goes_on_with_the_chain(node: Node) -> None:
    for _ in range(2):
        log = node.log()
        log.write(EVENT)
        log.close()

    assert node.operations() == [
        *("audit.file", "key.get", "audit.checkpoint", "key.get", "audit.checkpoint")
    ]
    assert [line["n"] for line in node.lines()] == [1, 2, 3, 4, 5]


def test_a_process_beside_another_takes_the_next_slot(node: Node) -> None:
    logs = [node.log(), node.log()]

    for log in logs:
        log.close()

    assert [path.name for path in audit_files(node.state_dir, "rest")] == [
        "rest.0.000001.jsonl",
        "rest.1.000001.jsonl",
    ]


def test_a_line_waits_at_most_ten_seconds_for_its_checkpoint(node: Node) -> None:
    writer, sealing = node.writer()
    sealing.run_once()
    writer.append_own("audit.lost", {"lines": 1})
    sealing.run_once()
    before = writer.unsealed

    for _ in range(9):
        node.clock.advance(seconds=1)
        sealing.run_once()

    assert (before, writer.unsealed) == (1, 0)
    writer.close()


def test_a_line_that_was_just_written_is_not_sealed_alone(node: Node) -> None:
    writer, sealing = node.writer()
    sealing.run_once()
    writer.append_own("audit.lost", {"lines": 1})

    for _ in range(8):
        sealing.run_once()
        node.clock.advance(seconds=1)

    assert writer.unsealed == 1
    writer.close()


def test_a_thousand_lines_wait_for_no_clock(node: Node) -> None:
    log = node.log()

    for _ in range(LINES_MAX + 5):
        log.write(EVENT)

    wait_until(lambda: log.condition().unsealed < 100, what="a checkpoint", within_seconds=10)
    log.close()


def test_while_the_token_is_away_lines_are_written_and_sealed_later(node: Node) -> None:
    writer, sealing = node.writer()
    node.token.lost = True
    sealing.run_once(now=True)
    fault, unsealed = sealing.fault, writer.unsealed

    node.token.lost = False
    sealing.run_once(now=True)

    assert fault != ""
    assert unsealed > 0
    assert (sealing.fault, writer.unsealed) == ("", 0)
    writer.close()


def test_the_head_is_saved_after_the_checkpoint(node: Node) -> None:
    log = node.log()
    log.write(EVENT)
    log.close()

    (head,) = node.heads.audit_heads()
    assert (head.name, head.node, head.line) == ("rest.0", "node-a", 2)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text.replace(b"alice", b"mallo"), "does not follow line 2"),
        (lambda text: b"\n".join(text.split(b"\n")[:2]) + b"\n", "was cut"),
        (lambda text: text + b"garbage\n", "no line of a chain"),
        (lambda text: b"garbage\n" + text, "does not begin with"),
    ],
    ids=["edited", "cut", "added", "headless"],
)
def test_a_chain_that_was_damaged_meanwhile_is_left_and_another_begun(
    node: Node, damage: Callable[[bytes], bytes], reason: str
) -> None:
    log = node.log()
    log.write(EVENT)
    log.close()
    (path,) = audit_files(node.state_dir, "rest")
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)

    log = node.log()
    condition = log.condition()
    log.close()

    assert reason in condition.broken
    assert path.read_bytes() == damaged
    assert len(audit_files(node.state_dir, "rest")) == 2


def test_a_chain_whose_files_are_gone_is_noticed_at_the_start(node: Node) -> None:
    node.log().close()
    for path in audit_files(node.state_dir, "rest"):
        path.unlink()

    log = node.log()

    assert log.condition().broken == "all files of rest.0 are gone"
    log.close()


def test_a_forged_head_is_noticed_at_the_start(node: Node) -> None:
    node.log().close()
    (head,) = node.heads.audit_heads()
    node.heads.save_audit_head(replace(head, line=1, mac=bytes(32)))

    log = node.log()

    assert "forged" in log.condition().broken
    log.close()


def test_a_torn_line_is_kept_as_a_line_of_its_own(node: Node) -> None:
    log = node.log()
    log.write(EVENT)
    log.close()
    (path,) = audit_files(node.state_dir, "rest")
    path.write_bytes(path.read_bytes() + b'{"n":4,"pr')

    node.log().close()

    (torn,) = [line for line in node.lines() if line["operation"] == "audit.torn"]
    assert (torn["n"], torn["fragment"]) == (4, '{"n":4,"pr')


def test_a_file_that_vanishes_is_followed_by_another_one(node: Node) -> None:
    writer, sealing = node.writer()
    writer.path.unlink()

    sealing.run_once()

    assert "was removed" in writer.broken
    assert writer.path.name == "rest.0.000002.jsonl"
    assert writer.path.is_file()
    writer.close()


def test_what_somebody_adds_to_an_open_file_is_noticed(node: Node) -> None:
    writer, sealing = node.writer()
    with writer.path.open("ab") as file:
        file.write(b"more\n")

    sealing.run_once()

    assert "cut or added to" in writer.broken
    writer.close()


def test_only_a_face_that_may_wait_asks_for_room(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(descriptor: int, size: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit_open_file, "take_room", no_room)
    strict, lenient = node.log(), node.log(strict=False, face="provider")

    with pytest.raises(AuditUnavailableError):
        strict.require_room()
    lenient.require_room()

    strict.close()
    lenient.close()


def test_a_directory_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file")

    with pytest.raises(StoreSetupError, match="cannot be used"):
        Node(tmp_path).log()


def test_nothing_is_begun_when_its_line_could_not_be_written() -> None:
    log = MemoryAuditLog()
    log.full = True
    acted = False

    with (
        pytest.raises(AuditUnavailableError),
        Auditor(log, FixedClock()).decision(CALLER, "key.create"),
    ):
        acted = True

    assert not acted
    assert log.events == []
