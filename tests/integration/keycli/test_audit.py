"""``keyplane audit verify`` on what real processes have written, killed and been robbed of."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.audit import audit_files
from testbed.waiting import wait_until
from tests.integration.keycli.site import Site, environment

FILE_BYTES = 64 * 1024


@contextmanager
def writer(site: Site, *, threads: int = 2) -> Iterator[subprocess.Popen[str]]:
    """Run a process that writes lines without end."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.integration.keycore.audit_writer",
            str(site.state),
            str(FILE_BYTES),
            str(threads),
        ],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            yield process
        finally:
            process.kill()


def verify(site: Site, *options: str, code: int) -> dict[str, Any]:
    ended = site.run("audit", "verify", "--output", "json", *options)
    assert ended.code == code, ended.out + ended.err
    document: dict[str, Any] = ended.json
    assert document["outcome"] == ("ok" if code == 0 else "broken")
    return document


def chain(document: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in document["chains"] if each["name"] == name]
    return found


def edit(path: Path, change: Callable[[list[bytes]], object]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines)
    path.write_bytes(b"".join(lines))


@pytest.fixture
def used(site: Site) -> Site:
    """An installation whose chain has five lines: begun, init, sealed, instance, sealed."""
    assert site.run("instance", "create", "team-a").code == 0
    return site


def test_what_nobody_touched_is_whole(used: Site) -> None:
    report = chain(verify(used, code=0), "cli.0")

    assert (report["outcome"], report["node"], report["unsealed"]) == ("ok", "cp-1", 0)
    assert report["sealedLine"] == report["lastLine"] - 1


def test_people_get_one_row_for_each_chain(used: Site) -> None:
    ended = used.run("audit", "verify")

    assert ended.code == 0
    assert ended.out.splitlines()[0].split() == [
        *("CHAIN", "NODE", "ID", "LINES", "SEALED", "TO", "UNSEALED", "OUTCOME")
    ]
    assert ended.out.splitlines()[1].startswith("cli.0  cp-1")


def _swap(lines: list[bytes]) -> None:
    lines[3], lines[4] = lines[4], lines[3]


@pytest.mark.parametrize(
    ("change", "outcome", "line"),
    [
        (lambda lines: lines.__setitem__(3, lines[3].replace(b"uid:", b"uid:9")), "edited", 4),
        (lambda lines: lines.pop(3), "removed", 4),
        (_swap, "reordered", 4),
        (lambda lines: lines.__delitem__(slice(4, None)), "cut", 5),
    ],
    ids=["edited", "removed", "reordered", "cut"],
)
def test_the_first_damaged_line_is_named(
    used: Site, change: Callable[[list[bytes]], object], outcome: str, line: int
) -> None:
    (path,) = audit_files(used.state, "cli")
    assert b"instance.create" in path.read_bytes().splitlines()[3]

    edit(path, change)
    document = verify(used, code=1)

    damaged = [each for each in document["chains"] if each["outcome"] != "ok"]
    assert [(each["outcome"], each["finding"]["line"]) for each in damaged] == [(outcome, line)]
    assert damaged[0]["finding"]["file"] == path.name


def test_a_chain_whose_files_are_all_gone_is_missed(used: Site) -> None:
    (path,) = audit_files(used.state, "cli")
    path.unlink()

    document = verify(used, code=1)

    (gone,) = [each for each in document["chains"] if each["outcome"] != "ok"]
    assert (gone["name"], gone["outcome"]) == ("cli.0", "removed")


@pytest.mark.parametrize("change", ["removed", "edited"])
def test_people_get_the_id_that_forget_wants(used: Site, change: str) -> None:
    (path,) = audit_files(used.state, "cli")
    damaged = chain(verify(used, code=0), "cli.0")["chain"]
    if change == "removed":
        path.unlink()
    else:
        edit(path, lambda lines: lines.__setitem__(3, lines[3].replace(b"uid:", b"uid:9")))

    told = used.run("audit", "verify").out.splitlines()[-1]

    assert told.startswith(f"cli.0 ({damaged}): line ")
    assert f"was {change}: " in told


def test_after_damage_another_chain_is_begun_and_says_why(used: Site) -> None:
    (path,) = audit_files(used.state, "cli")
    edit(path, lambda lines: lines.__delitem__(slice(4, None)))

    used.run("instance", "create", "team-b")

    old, new = [each for each in verify(used, code=1)["chains"] if each["name"] == "cli.0"]
    assert (old["outcome"], new["outcome"]) == ("cut", "ok")
    begun = json.loads(audit_files(used.state, "cli")[1].read_text().splitlines()[0])
    assert "cut" in begun["reason"]


def test_files_of_earlier_releases_are_told_and_break_nothing(used: Site) -> None:
    old = used.state / "audit" / "cli.jsonl"
    old.write_text('{"operation":"init"}\n')

    assert verify(used, code=0)["unchained"] == [str(old)]


def test_a_killed_process_leaves_a_chain_that_the_next_one_goes_on_with(site: Site) -> None:
    for files in (2, 3):
        with writer(site) as process:
            wait_until(
                lambda wanted=files: len(audit_files(site.state, "rest")) >= wanted,  # type: ignore[misc]
                what="further files",
                within_seconds=30,
            )
            process.send_signal(signal.SIGKILL)

    report = chain(verify(site, code=0), "rest.0")

    assert report["takenOver"] > 0
    assert len(audit_files(site.state, "rest")) >= 3
    assert report["lastLine"] > 300


def test_processes_that_run_at_once_have_chains_of_their_own(site: Site) -> None:
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(writer(site, threads=1))
        verify(site, code=0)

    names = {each["name"] for each in verify(site, code=0)["chains"]}
    assert names == {"cli.0", "rest.0", "rest.1"}


def test_a_file_in_the_middle_that_is_gone_is_named(site: Site) -> None:
    with writer(site):
        wait_until(
            lambda: len(audit_files(site.state, "rest")) > 3, what="files", within_seconds=30
        )
    files = audit_files(site.state, "rest")
    files[1].unlink()

    report = chain(verify(site, code=1), "rest.0")

    assert (report["outcome"], report["finding"]["file"]) == ("removed", files[1].name)


def test_archived_files_are_verified_where_they_are_or_left_out_on_demand(
    site: Site, tmp_path: Path
) -> None:
    with writer(site):
        wait_until(
            lambda: len(audit_files(site.state, "rest")) > 3, what="files", within_seconds=30
        )
    first = audit_files(site.state, "rest")[0]
    first.rename(tmp_path / first.name)

    assert chain(verify(site, code=1), "rest.0")["finding"]["file"] == first.name
    assert chain(verify(site, "--archived", code=0), "rest.0")["firstLine"] > 1
    assert chain(verify(site, "--archive", str(tmp_path), code=0), "rest.0")["firstLine"] == 1


def test_a_file_that_is_removed_while_it_is_written_is_noticed(site: Site) -> None:
    with writer(site, threads=1):
        gone = audit_files(site.state, "rest")[-1]
        gone.unlink()
        wait_until(
            lambda: max(audit_files(site.state, "rest"), default=gone) > gone,
            what="another file",
            within_seconds=30,
        )

    report = chain(verify(site, code=1), "rest.0")
    assert (report["outcome"], report["finding"]["file"]) == ("removed", gone.name)


def test_a_chain_that_is_gone_is_forgotten_with_a_reason_that_the_audit_keeps(used: Site) -> None:
    (path,) = audit_files(used.state, "cli")
    path.unlink()
    (lost,) = [each for each in verify(used, code=1)["chains"] if each["outcome"] != "ok"]

    forgotten = used.run("audit", "forget", lost["chain"], "--reason", "scrapped", "-o", "json")

    assert forgotten.code == 0, forgotten.err
    (listed,) = verify(used, code=0)["forgotten"]
    assert listed == forgotten.json
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (told,) = [line for line in lines if line["operation"] == "audit.forget"]
    assert (told["chain"], told["reason"], told["outcome"]) == (lost["chain"], "scrapped", "ok")
    shown = used.run("audit", "verify")
    assert f"forgotten: cli.0 of cp-1 ({lost['chain']})" in shown.out


def test_the_doctor_tells_a_chain_that_was_cut(used: Site) -> None:
    (path,) = audit_files(used.state, "cli")
    edit(path, lambda lines: lines.__delitem__(slice(4, None)))

    found = used.run("doctor", "--output", "json").json["findings"]

    (told,) = [each for each in found if each["check"] == "audit chains"]
    assert (told["outcome"], told["what"]) == (
        "warning",
        "cli.0: the checkpoint of line 4, which the store remembers, is missing",
    )
