"""A chain may be missing when somebody has said why, and nothing else is excused by that."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from keycore.audit_forgetting import forget_chain
from keycore.errors import ConflictError, InvalidRequestError, NotFoundError
from keycore.ports import AuditHead
from tests.fakes.installation import CALLER
from tests.unit.keycore.audited_host import AuditedHost, append
from tests.unit.keycore.examples import root_key

REASON = "the disk of node-a died"


@pytest.fixture
def host(tmp_path: Path) -> AuditedHost:
    """A host with one chain, a copy of whose files lies aside."""
    host = AuditedHost(tmp_path / "host")
    host.write(4)
    shutil.copytree(host.directory, host.directory.with_name("aside"))
    return host


def lose(host: AuditedHost) -> str:
    shutil.rmtree(host.directory)
    return host.head().chain


def forget(host: AuditedHost, chain: str, reason: str = REASON) -> AuditHead:
    return forget_chain(host.core, CALLER, chain, reason=reason)


def test_a_forgotten_chain_is_missed_no_more_and_listed_ever_after(host: AuditedHost) -> None:
    head = host.head()
    lose(host)

    forget(host, head.chain)
    examination = host.examine()

    assert not examination.broken
    assert [(each.chain, each.line) for each in examination.forgotten] == [(head.chain, head.line)]


def test_the_audit_line_says_who_why_and_what_the_head_was(host: AuditedHost) -> None:
    head = host.head()
    lose(host)

    forget(host, head.chain)

    event = host.installation.audit.last("audit.forget")
    assert (event.outcome, event.actor) == ("ok", CALLER.actor)
    assert event.details == {
        "chain": head.chain,
        "node": head.node,
        "name": head.name,
        "line": head.line,
        "digest": head.digest.hex(),
        "sealed_at": head.at.isoformat(),
        "mac": head.mac.hex(),
        "head": "kept",
        "reason": REASON,
    }


def test_a_chain_of_which_a_file_is_left_is_not_forgotten(host: AuditedHost) -> None:
    host.edit("rest.0.000001.jsonl", lambda lines: lines.__delitem__(slice(0, 3)))

    with pytest.raises(ConflictError, match=r"files of rest\.0 are here"):
        forget(host, host.head().chain)

    assert [each[:3] for each in host.found()] == [("rest.0", "removed", 1)]


def test_files_of_a_forgotten_chain_that_turn_up_must_reach_its_head(host: AuditedHost) -> None:
    forget(host, lose(host))
    (host.directory.with_name("aside")).rename(host.directory)
    whole = host.found()

    host.edit("rest.0.000001.jsonl", lambda lines: lines.__delitem__(slice(3, None)))

    assert whole == []
    assert [each[:3] for each in host.found()] == [("rest.0", "cut", 4)]


def test_a_forgotten_chain_that_goes_on_is_missed_again(host: AuditedHost) -> None:
    chain = lose(host)
    forget(host, chain)
    (host.directory.with_name("aside")).rename(host.directory)
    host.write(2)
    assert host.found() == []

    shutil.rmtree(host.directory)

    assert [each[:3] for each in host.found()] == [("rest.0", "removed", 1)]


def test_a_new_chain_behind_a_forgotten_one_is_not_called_broken(host: AuditedHost) -> None:
    forget(host, lose(host))

    writer, sealing = host.start()
    sealing.run_once(now=True)

    assert writer.broken == ""
    writer.close()


def test_a_chain_that_a_process_here_still_writes_is_known_again(host: AuditedHost) -> None:
    writer, sealing = host.start()
    chain = lose(host)
    forget(host, chain)

    append(writer, 1)
    sealing.run_once(now=True)

    assert [each[1] for each in host.found()] == ["removed"]
    writer.close()


@pytest.mark.parametrize(
    "reason", ["", "  ", "x" * 201, "two\nlines"], ids=["none", "blank", "long", "lines"]
)
def test_nothing_is_forgotten_without_a_reason(host: AuditedHost, reason: str) -> None:
    chain = lose(host)

    with pytest.raises(InvalidRequestError):
        forget(host, chain, reason)

    assert host.examine().forgotten == []


def test_what_the_store_does_not_know_cannot_be_forgotten(host: AuditedHost) -> None:
    with pytest.raises(NotFoundError):
        forget(host, "no such chain \ud800")

    assert host.installation.audit.last("audit.forget").details == {"reason": REASON}


def test_nothing_is_forgotten_twice(host: AuditedHost) -> None:
    chain = lose(host)
    forget(host, chain)

    with pytest.raises(ConflictError, match="forgotten already"):
        forget(host, chain)


def test_a_forged_head_is_forgotten_as_what_it_is(host: AuditedHost) -> None:
    lose(host)
    head = replace(host.head(), mac=bytes(32))
    host.installation.store.save_audit_head(head)

    forget(host, head.chain)

    assert host.installation.audit.last("audit.forget").details["head"] == "forged"
    assert not host.examine().broken


def test_chains_of_a_registered_node_elsewhere_are_not_forgotten(tmp_path: Path) -> None:
    host = AuditedHost(tmp_path, shared=True)
    host.write(2)
    chain = lose(host)
    host.settings = host.settings.model_copy(
        update={"provider": host.settings.provider.model_copy(update={"node": "node-b"})}
    )
    key = root_key(host.installation)
    host.installation.core.providers.bind(CALLER, "keyplane", key.id)
    host.installation.core.kms.refresh()

    with pytest.raises(ConflictError, match="node-a is registered"):
        forget(host, chain)
    host.core.providers.remove_node(CALLER, "keyplane", "node-a")
    forget(host, chain)

    assert [head.node for head in host.examine().forgotten] == ["node-a"]


def test_files_of_a_broken_chain_may_be_moved_away_when_it_is_forgotten(host: AuditedHost) -> None:
    broken = host.head().chain
    host.edit("rest.0.000001.jsonl", lambda lines: lines.pop())
    host.write(1)
    (host.directory / "rest.0.000001.jsonl").unlink()
    before = [each[1] for each in host.found()]

    forget(host, broken)

    assert (before, host.found()) == (["removed"], [])
