"""Somebody who may do anything to the files, and has no HSM: each change is found and named.

Chain ``rest.0`` has the lines 1 to 9, 10 to 18 and 19 to 23 in three files, with
checkpoints in the lines 6, 12, 17 and 23; ``rest.1`` has five lines in one file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keycore.domain.audit_chain import Chain, own_line, parse_line
from keycore.domain.ids import new_uuid
from tests.unit.keycore.audited_host import AuditedHost, append, recompute

ONE, TWO, THREE = (f"rest.0.00000{number}.jsonl" for number in (1, 2, 3))
OTHER = "rest.1.000001.jsonl"


@pytest.fixture
def host(tmp_path: Path) -> AuditedHost:
    host = AuditedHost(tmp_path / "host")
    host.write(4, 4, 4, 4)
    first, _ = host.start()
    host.write(3)
    first.close()
    assert host.names() == [ONE, TWO, THREE, OTHER]
    assert host.found() == []
    return host


def move(host: AuditedHost, old: str, new: str) -> None:
    (host.directory / old).rename(host.directory / new)


def remove(host: AuditedHost, *names: str) -> None:
    for name in names:
        (host.directory / name).unlink()


def move_a_line_to_the_next_file(host: AuditedHost) -> None:
    moved: list[bytes] = []
    host.edit(ONE, lambda lines: moved.append(lines.pop()))
    host.edit(TWO, lambda lines: lines.insert(0, moved[0]))


def swap(host: AuditedHost, one: str, other: str) -> None:
    move(host, one, "aside")
    move(host, other, one)
    move(host, "aside", other)


def swap_chains(host: AuditedHost) -> None:
    """Give each of two chains the other's name, with all its files."""
    swap(host, ONE, OTHER)
    for name in (TWO, THREE):
        move(host, name, name.replace("rest.0", "rest.1"))


def edit(name: str, at: int, old: bytes, new: bytes) -> Callable[[AuditedHost], None]:
    def change(lines: list[bytes]) -> None:
        assert old in lines[at]
        lines[at] = lines[at].replace(old, new)

    return lambda host: host.edit(name, change)


def edit_and_recompute(host: AuditedHost) -> None:
    """Edit line 20 and compute anew all behind it, the seal's digest too."""

    def change(lines: list[bytes]) -> None:
        before = parse_line((host.directory / TWO).read_bytes().splitlines()[-1])
        assert before is not None
        lines[1] = lines[1].replace(b"alice", b"mallory")
        recompute(lines, previous=before.digest)

    host.edit(THREE, change)


def replay(host: AuditedHost) -> None:
    """Put an older copy of all files back; the store is as it is."""
    copy = host.directory.with_name("copy")
    shutil.copytree(host.directory, copy)
    host.write(2)
    shutil.rmtree(host.directory)
    copy.rename(host.directory)


def chain_of_the_same_id(host: AuditedHost) -> None:
    """Begin a chain of one's own under the id of one that was removed."""
    head = host.head()
    chain = Chain(head.chain, head.node, head.name)
    remove(host, ONE, TWO, THREE)
    facts = {"chain": chain.id, "node": chain.node, "name": chain.name, "file": 1}
    begin = own_line(chain, "audit.file", head.at, number=1, previous="0" * 64, facts=facts)
    (host.directory / ONE).write_bytes(begin + b"\n")


def another_chain_instead(host: AuditedHost) -> None:
    """Replace a whole chain by one that began on another host."""
    elsewhere = AuditedHost(host.settings.state_dir.with_name("elsewhere"))
    elsewhere.write(4, 4, 4, 4)
    for name in (ONE, TWO, THREE):
        shutil.copy(elsewhere.directory / name, host.directory / name)


def link(host: AuditedHost) -> None:
    copy = host.directory.with_name("copy")
    move(host, TWO, "../copy")
    (host.directory / TWO).symlink_to(copy)


def pipe(host: AuditedHost) -> None:
    remove(host, THREE)
    os.mkfifo(host.directory / THREE)


def forge_head(host: AuditedHost) -> None:
    """Have the store remember less, and cut the file so far."""
    head = host.head()
    host.edit(THREE, lambda lines: lines.__delitem__(slice(2, None)))
    host.installation.store.save_audit_head(replace(head, line=16))


def say_it_is_of_another_host(host: AuditedHost) -> None:
    remove(host, OTHER)
    host.installation.store.save_audit_head(replace(host.head("rest.1"), node="node-z"))


def forget_without_the_hsm(host: AuditedHost) -> None:
    remove(host, OTHER)
    head = host.head("rest.1")
    host.installation.store.save_audit_head(replace(head, mac=os.urandom(32)))


def chain_between_that_nobody_knows(host: AuditedHost) -> None:
    """Remove files and head of a chain that another one in the same slot followed."""
    head = host.head("rest.1")
    host.edit(OTHER, lambda lines: lines.pop())
    first, _ = host.start()
    host.write(2)
    first.close()
    remove(host, OTHER)
    del host.installation.store._tables.heads[head.chain]


def fill_with_nothing(host: AuditedHost) -> None:
    with (host.directory / THREE).open("ab") as file:
        file.truncate(3 * 1024**3)


Found = list[tuple[str, str, int, str, int]]

ATTACKS: dict[str, tuple[Callable[[AuditedHost], object], Found]] = {
    "edit-a-line": (edit(TWO, 3, b"alice", b"carol"), [("rest.0", "edited", 13, TWO, 4)]),
    "edit-the-last-line": (edit(THREE, 4, b'"ok"', b'"no"'), [("rest.0", "edited", 23, THREE, 5)]),
    "edit-a-number": (edit(TWO, 3, b'"n":13', b'"n":99'), [("rest.0", "edited", 13, TWO, 4)]),
    "edit-the-line-of-a-checkpoint": (
        edit(THREE, 4, b'"line":22', b'"line":99'),
        [("rest.0", "edited", 23, THREE, 5)],
    ),
    "edit-and-recompute": (edit_and_recompute, [("rest.0", "edited", 18, TWO, 9)]),
    "insert-a-line": (
        lambda host: host.edit(TWO, lambda lines: lines.insert(4, lines[4])),
        [("rest.0", "reordered", 14, TWO, 6)],
    ),
    "remove-a-line": (
        lambda host: host.edit(TWO, lambda lines: lines.pop(3)),
        [("rest.0", "removed", 13, TWO, 4)],
    ),
    "remove-the-first-line": (
        lambda host: host.edit(ONE, lambda lines: lines.pop(0)),
        [("rest.0", "removed", 1, ONE, 1)],
    ),
    "cut-the-tail": (
        lambda host: host.edit(THREE, lambda lines: lines.__delitem__(slice(2, None))),
        [("rest.0", "cut", 21, THREE, 3)],
    ),
    "cut-the-last-checkpoint": (
        lambda host: host.edit(THREE, lambda lines: lines.pop()),
        [("rest.0", "cut", 23, THREE, 5)],
    ),
    "cut-a-line-to-half": (
        lambda host: host.edit(THREE, lambda lines: lines.append(lines.pop()[:100])),
        [("rest.0", "cut", 23, THREE, 5)],
    ),
    "cut-a-line-in-the-middle": (
        lambda host: host.edit(TWO, lambda lines: lines.__setitem__(2, lines[2][:100] + b"\n")),
        [("rest.0", "edited", 12, TWO, 3)],
    ),
    "empty-a-file": (
        lambda host: host.edit(TWO, lambda lines: lines.clear()),
        [("rest.0", "removed", 10, TWO, 0)],
    ),
    "empty-the-last-file": (
        lambda host: host.edit(THREE, lambda lines: lines.clear()),
        [("rest.0", "cut", 19, TWO, 10)],
    ),
    "empty-the-only-file": (
        lambda host: host.edit(OTHER, lambda lines: lines.clear()),
        [("rest.1", "removed", 1, "", 0)],
    ),
    "remove-the-first-file": (
        lambda host: remove(host, ONE),
        [("rest.0", "removed", 1, ONE, 0)],
    ),
    "remove-a-file": (lambda host: remove(host, TWO), [("rest.0", "removed", 10, TWO, 0)]),
    "remove-the-last-file": (lambda host: remove(host, THREE), [("rest.0", "cut", 19, TWO, 10)]),
    "remove-a-chain": (lambda host: remove(host, OTHER), [("rest.1", "removed", 1, "", 0)]),
    "remove-everything": (
        lambda host: shutil.rmtree(host.directory),
        [("rest.0", "removed", 1, "", 0), ("rest.1", "removed", 1, "", 0)],
    ),
    "replay-an-older-copy": (replay, [("rest.0", "cut", 24, THREE, 6)]),
    "move-a-line-to-the-next-file": (
        move_a_line_to_the_next_file,
        [("rest.0", "reordered", 9, TWO, 1)],
    ),
    "swap-two-files": (
        lambda host: swap(host, TWO, THREE),
        [("rest.0", "reordered", 10, THREE, 1)],
    ),
    "swap-two-chains": (
        swap_chains,
        [("rest.0", "reordered", 1, OTHER, 1), ("rest.1", "reordered", 1, ONE, 1)],
    ),
    "rename-the-last-file": (
        lambda host: move(host, THREE, "rest.0.000007.jsonl"),
        [("rest.0", "reordered", 19, "rest.0.000007.jsonl", 1)],
    ),
    "rename-a-file-into-another-slot": (
        lambda host: move(host, OTHER, "rest.2.000001.jsonl"),
        [("rest.1", "reordered", 1, "rest.2.000001.jsonl", 1)],
    ),
    "hide-a-file-behind-another-name": (
        lambda host: move(host, TWO, "rest.0.0000002.jsonl"),
        [("rest.0", "removed", 10, TWO, 0)],
    ),
    "chain-of-the-same-id": (chain_of_the_same_id, [("rest.0", "cut", 2, ONE, 2)]),
    "another-chain-instead": (
        another_chain_instead,
        [("rest.0", "forged", 6, ONE, 6), ("rest.0", "removed", 1, "", 0)],
    ),
    "forge-a-checkpoint": (
        lambda host: host.forge_checkpoint(THREE),
        [("rest.0", "forged", 24, THREE, 6)],
    ),
    "use-a-checkpoint-of-another-line": (
        lambda host: host.forge_checkpoint(THREE, host.head().mac),
        [("rest.0", "forged", 24, THREE, 6)],
    ),
    "repeat-a-checkpoint": (
        lambda host: host.edit(THREE, lambda lines: lines.append(lines[-1])),
        [("rest.0", "reordered", 23, THREE, 6)],
    ),
    "put-a-link-in-its-place": (link, [("rest.0", "removed", 10, TWO, 0)]),
    "put-a-pipe-in-its-place": (pipe, [("rest.0", "removed", 19, THREE, 0)]),
    "fill-up-with-zeros": (fill_with_nothing, [("rest.0", "edited", 24, THREE, 6)]),
    "write-garbage-over-a-chain": (
        lambda host: (host.directory / OTHER).write_bytes(b"garbage\n"),
        [("rest.1", "edited", 1, OTHER, 1), ("rest.1", "removed", 1, "", 0)],
    ),
    "write-garbage-over-a-file": (
        lambda host: (host.directory / ONE).write_bytes(b"garbage\n"),
        [("rest.0", "edited", 1, ONE, 1)],
    ),
    "forge-the-head": (forge_head, [("rest.0", "forged", 16, THREE, 0)]),
    "move-the-head-to-another-host": (
        say_it_is_of_another_host,
        [("rest.1", "forged", 1, "", 0)],
    ),
    "forget-without-the-hsm": (forget_without_the_hsm, [("rest.1", "forged", 1, "", 0)]),
    "remove-a-chain-and-its-head": (
        chain_between_that_nobody_knows,
        [("rest.1", "removed", 1, OTHER, 0)],
    ),
}


@pytest.mark.parametrize(("attack", "found"), ATTACKS.values(), ids=ATTACKS)
def test_what_is_done_to_files_or_heads_is_named(
    host: AuditedHost, attack: Callable[[AuditedHost], object], found: Found
) -> None:
    attack(host)

    assert host.found() == found


@pytest.mark.parametrize("shared", [False, True], ids=["embedded", "shared"])
def test_another_name_of_the_host_hides_no_chain_of_an_embedded_store(
    tmp_path: Path, shared: bool
) -> None:
    host = AuditedHost(tmp_path, shared=shared)
    host.write(2)
    shutil.rmtree(host.directory)
    host.settings = host.settings.model_copy(
        update={"provider": host.settings.provider.model_copy(update={"node": "node-b"})}
    )

    examination = host.examine()

    assert examination.broken is not shared
    assert [head.node for head in examination.elsewhere] == (["node-a"] if shared else [])


def test_a_head_that_is_said_to_be_of_another_host_is_forged(tmp_path: Path) -> None:
    host = AuditedHost(tmp_path, shared=True)
    host.write(2)
    shutil.rmtree(host.directory)
    host.installation.store.save_audit_head(replace(host.head(), node="node-z"))

    assert host.found() == [("rest.0", "forged", 1, "", 0)]


def test_the_first_file_of_a_later_chain_is_missed_in_that_chain(tmp_path: Path) -> None:
    host = AuditedHost(tmp_path)
    host.write(2)
    edit(ONE, 2, b"alice", b"carol")(host)
    host.write(4, 4, 4)

    remove(host, TWO)

    assert host.found() == [("rest.0", "edited", 3, ONE, 3), ("rest.0", "removed", 1, TWO, 0)]


def test_a_file_that_is_just_begun_is_no_damage(host: AuditedHost) -> None:
    (host.directory / "rest.0.000004.jsonl").touch()
    (host.directory / "rest.2.000001.jsonl").touch()

    examination = host.examine()

    assert not examination.broken
    assert [report.chain.name for report in examination.chains] == ["rest.0", "rest.1"]


def test_a_head_vouches_for_no_line_before_one_that_is_gone(host: AuditedHost) -> None:
    replay(host)

    (report, _) = host.examine().chains

    assert (report.last, report.sealed, host.head().line) == (23, 22, 25)


def test_a_file_under_a_name_that_nobody_reads_is_told(host: AuditedHost) -> None:
    shutil.copy(host.directory / ONE, host.directory / "rest.0.0000001.jsonl")

    examination = host.examine()

    assert [path.name for path in examination.unchained] == ["rest.0.0000001.jsonl"]


@pytest.mark.parametrize(
    "fields",
    [
        {"node": "\x1b[2J"},
        {"node": "\ud800"},
        {"name": "x" * 64},
        {"chain": ""},
        {"n": 2**70},
    ],
    ids=["escape", "surrogate", "long", "empty", "number"],
)
def test_no_text_of_a_forged_file_reaches_a_terminal(
    host: AuditedHost, fields: dict[str, str | int]
) -> None:
    chain = {"chain": new_uuid(), "node": "n", "name": "rest.9", "file": 1}
    begin = own_line(
        Chain("", "", "rest.9"),
        "audit.file",
        host.head().at,
        number=1,
        previous="0" * 64,
        facts={**chain, **fields},
    )
    (host.directory / "rest.9.000001.jsonl").write_bytes(begin + b"\n")

    (report,) = [each for each in host.examine().chains if each.chain.name == "rest.9"]

    assert report.chain == Chain("", "", "rest.9")
    assert report.finding is not None


def test_an_editor_beside_a_living_process_is_found_before_anything_was_sealed(
    tmp_path: Path,
) -> None:
    """The process knows what it has written; only its death leaves lines to an editor."""
    host = AuditedHost(tmp_path)
    writer, sealing = host.start()
    append(writer, 4)

    def change(lines: list[bytes]) -> None:
        lines[2] = lines[2].replace(b"alice", b"carol")
        recompute(lines)

    host.edit(ONE, change)
    append(writer, 1)
    sealing.run_once(now=True)

    assert [each[:3] for each in host.found()] == [("rest.0", "edited", 5)]
    writer.close()


def test_a_store_that_was_put_back_with_the_files_tells_nothing(tmp_path: Path) -> None:
    """The limit of what files and store can prove: docs/audit.md says so."""
    host = AuditedHost(tmp_path / "host")
    host.write(4)
    heads = host.heads()
    shutil.copytree(host.directory, tmp_path / "copy")
    host.write(4)

    shutil.rmtree(host.directory)
    (tmp_path / "copy").rename(host.directory)
    host.installation.store.save_audit_head(heads[0])

    assert host.found() == []
