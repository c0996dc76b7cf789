"""What the doctor says of audit files, and of the ends of chains."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from keycore.diagnosis.audit import check_audit_chains, check_audit_files
from keycore.diagnosis.examination import Examination
from keycore.diagnosis.findings import Outcome, Verdict
from tests.unit.keycore.audited_host import AuditedHost

ONE = "rest.0.000001.jsonl"


@pytest.fixture
def host(tmp_path: Path) -> AuditedHost:
    host = AuditedHost(tmp_path / "host")
    host.write(4)
    return host


def examination(host: AuditedHost) -> Examination:
    looked = Examination(
        load_settings=lambda: host.settings,
        config_file=None,
        clock=host.installation.clock,
        opened=ExitStack(),
    )
    looked.settings = host.settings
    looked.store = host.installation.store
    looked.token = host.installation.token
    return looked


def files(host: AuditedHost) -> list[Verdict]:
    return list(check_audit_files(examination(host)))


def chains(host: AuditedHost) -> list[Verdict]:
    return list(check_audit_chains(examination(host)))


def test_files_that_can_be_written_and_chains_that_end_as_sealed_are_well(
    host: AuditedHost,
) -> None:
    assert [each.outcome for each in files(host) + chains(host)] == [Outcome.OK, Outcome.OK]


def test_before_the_first_process_there_is_nothing_to_look_at(tmp_path: Path) -> None:
    host = AuditedHost(tmp_path)

    assert [each.outcome for each in files(host) + chains(host)] == [Outcome.OK, Outcome.OK]


@pytest.mark.parametrize("name", ["", ONE, "rest.0.lock"], ids=["directory", "file", "lock"])
def test_what_belongs_to_another_user_stops_the_next_start(host: AuditedHost, name: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    os.chown(host.directory / name, 4711, -1)

    (told,) = files(host)

    assert told.outcome is Outcome.FAULT
    assert told.advice.startswith(f"chown {os.geteuid()} {host.directory / name}")


def test_a_closed_file_may_belong_to_anybody(tmp_path: Path) -> None:
    host = AuditedHost(tmp_path)
    host.write(4, 4, 4)
    (host.directory / ONE).chmod(0o400)
    if os.geteuid() == 0:
        os.chown(host.directory / ONE, 4711, -1)

    assert [each.outcome for each in files(host)] == [Outcome.OK]


def test_a_link_in_the_place_of_the_newest_file_is_told(host: AuditedHost) -> None:
    (host.directory / ONE).rename(host.directory / "aside")
    (host.directory / ONE).symlink_to("aside")

    (told,) = chains(host)

    assert (told.outcome, told.what) == (
        Outcome.WARNING,
        "rest.0: a symbolic link stands in its place",
    )


def test_a_forged_head_is_told(host: AuditedHost) -> None:
    host.installation.store.save_audit_head(replace(host.head(), mac=bytes(32)))

    (told,) = chains(host)

    assert told.what == "rest.0: the store holds a head that the token did not sign"


def test_a_chain_that_was_cut_is_told(host: AuditedHost) -> None:
    host.edit(ONE, lambda lines: lines.pop())

    (told,) = chains(host)

    assert told.what == ("rest.0: the checkpoint of line 5, which the store remembers, is missing")


def test_an_edited_end_is_told(host: AuditedHost) -> None:
    host.edit(ONE, lambda lines: lines.__setitem__(4, lines[4].replace(b"alice", b"carol")))

    (told,) = chains(host)

    assert told.what == "rest.0: line 6 does not follow line 5"


def test_a_forged_checkpoint_is_told(host: AuditedHost) -> None:
    host.forge_checkpoint(ONE)

    (told,) = chains(host)

    assert told.what == "rest.0: the checkpoint of line 6 is forged"
