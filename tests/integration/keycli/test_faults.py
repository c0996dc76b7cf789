"""A fault of the installation is one clear message and exit code 2, and shows no secret."""

from __future__ import annotations

import os

import pytest

from tests.integration.keycli.site import Ended, Site

WRONG_PIN = "8642097531"


def assert_refused(ended: Ended, *facts: str) -> None:
    """Check that a command ended with one message that holds these facts."""
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("error: ") == 1
    assert ended.err.startswith("error: ")
    assert "Traceback" not in ended.err
    for fact in facts:
        assert fact in ended.err


def test_a_wrong_pin_is_tried_once_until_the_file_changes(site: Site) -> None:
    right = site.pin_file.read_text()
    site.pin_file.write_text(WRONG_PIN)

    first, second = site.run("status"), site.run("status")
    site.pin_file.write_text(right)
    third = site.run("status")

    assert_refused(first, "the token refused the PIN", "PIN file")
    assert_refused(second, "no login was tried", str(site.pin_file))
    assert third.code == 0
    for ended in (first, second, third):
        assert WRONG_PIN not in ended.err + ended.out
        assert right.strip() not in ended.err + ended.out


def test_a_pin_file_that_others_can_read_is_refused(site: Site) -> None:
    site.pin_file.chmod(0o644)

    assert_refused(site.run("status"), f"{site.pin_file} is open to other users", "chmod 0600")


def test_a_missing_module_is_named(site: Site) -> None:
    site.configure(token='module = "/nonexistent/hsm.so"')

    assert_refused(site.run("status"), "/nonexistent/hsm.so does not exist", "token.module")


def test_a_missing_token_is_named_with_those_that_are_there(site: Site) -> None:
    site.configure(token='label = "other"')

    assert_refused(site.run("status"), "no token 'other'", "'keyplane'", "token.label")


def test_a_token_that_lost_its_objects_is_told_apart_from_a_missing_one(
    site: Site,
) -> None:
    for path in (site.state / "tokens").glob("*/*.object"):
        if path.name != "token.object":
            path.unlink()

    assert_refused(site.run("status"), "holds no keys of keyplane")


def test_status_shows_the_store_while_the_token_does_not_answer(site: Site) -> None:
    (site.state / "tokens").rename(site.state.parent / "tokens")

    people, program = site.run("status"), site.run("status", "-o", "json")

    assert (people.code, program.code) == (3, 3)
    assert f"{site.state / 'keyplane.db'} (answers)" in people.out
    assert "error: the token could not initialise its module" in people.err
    token, store = program.json["token"], program.json["store"]
    assert (store["answers"], token["answers"], token["label"]) == (True, False, "keyplane")
    assert token["reason"] in people.out
    assert program.json["keys"] is program.json["providers"] is None


def test_a_missing_mechanism_is_named(site: Site) -> None:
    # SoftHSM2 2.6.1 ignores the first entry after the minus sign.
    (site.state / "softhsm2.conf").write_text(
        f"directories.tokendir = {site.state}/tokens\nslots.mechanisms = -CKM_AES_GCM,CKM_AES_GCM\n"
    )

    assert_refused(site.run("status"), "lacks mechanisms: gcm needs AES_GCM")


def test_broken_toml_names_file_and_line(empty: Site) -> None:
    empty.config.write_text("[token]\nlabel = \n")

    assert_refused(empty.run("status"), str(empty.config), "line 2")


def test_all_faults_of_the_settings_are_told_at_once(empty: Site) -> None:
    empty.configure('[log]\nlevel = "loud"\n[operator]\nresnyc = "PT5S"')

    ended = empty.run("status")

    assert_refused(ended, "log.level: ", "operator.resnyc: ")


def test_an_installation_that_is_not_there_names_init(empty: Site) -> None:
    assert_refused(empty.run("keys", "list"), f"no installation in {empty.state}", "keyplane init")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_another_user_is_refused_before_anything_is_opened(site: Site) -> None:
    os.chown(site.state, 12345, -1)
    before = site.contents()

    assert_refused(site.run("keys", "create", "etcd"), "belongs to uid 12345", "sudo -u '#12345'")
    assert site.contents() == before
