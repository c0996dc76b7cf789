"""``keyplane doctor`` on a real installation: well, and broken in many ways."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keycore.settings import Settings
from tests.integration.keycli.site import Ended, Site

CRASHING_MODULE = "unsigned long C_GetFunctionList(void **l) { *(volatile int *)0 = 1; return 0; }"


def faults(ended: Ended) -> dict[str, dict[str, Any]]:
    """Return the findings that are faults, by their check."""
    return {each["check"]: each for each in ended.json["findings"] if each["outcome"] == "fault"}


def outcome(ended: Ended, check: str) -> str:
    (found,) = {each["outcome"] for each in ended.json["findings"] if each["check"] == check}
    return str(found)


@pytest.fixture(scope="module")
def with_a_key(initialised: tuple[Site, Ended]) -> Iterator[Site]:
    """An installation whose provider has a key; no test changes it."""
    template, _ = initialised
    with tempfile.TemporaryDirectory(prefix="kp-") as directory:
        site = Site(Path(directory))
        shutil.copytree(template.state, site.state)
        key = site.run("keys", "create", "etcd", "-o", "json").json["id"]
        site.run("provider", "set", "keyplane", "--key", key)
        yield site


@pytest.fixture
def bound(with_a_key: Site, empty: Site) -> Site:
    """A copy of that installation."""
    shutil.copytree(with_a_key.state, empty.state)
    return empty


def contents(site: Site) -> dict[str, str]:
    """Return what lies in the state directory, but for what each login of SoftHSM2 writes."""
    return {
        path: what for path, what in site.contents().items() if not path.endswith("token.object")
    }


def test_a_node_that_is_ready_has_no_fault_and_nothing_is_changed(bound: Site) -> None:
    before = contents(bound)

    ended = bound.run("doctor", "--output", "json")

    assert (ended.code, faults(ended), ended.err) == (0, {}, "")
    assert outcome(ended, "known answers") == outcome(ended, "guarantee") == "ok"
    assert outcome(ended, "records") == outcome(ended, "provider binding") == "ok"
    assert contents(bound) == before


def test_an_unbound_provider_is_the_only_fault_of_a_fresh_installation(site: Site) -> None:
    ended = site.run("doctor", "--output", "json")

    assert list(faults(ended)) == ["provider binding"]
    assert ended.code == 2


def test_a_module_is_not_blamed_for_a_token_that_was_not_made_yet(empty: Site) -> None:
    empty.state.mkdir(mode=0o700)

    ended = empty.run("doctor", "--output", "json")

    (module,) = [each for each in ended.json["findings"] if each["check"] == "module"]
    assert (module["outcome"], module["what"]) == ("skipped", "needs: installation")
    assert "keyplane init" in faults(ended)["store"]["fix"]


def test_a_token_directory_that_is_gone_is_a_fault_and_no_new_one_is_advised(site: Site) -> None:
    (site.state / "tokens").rename(site.state.parent / "tokens")

    module = faults(site.run("doctor", "--output", "json"))["module"]

    assert str(site.state / "tokens") in module["what"]
    assert "backup" in module["fix"]


def test_a_wrong_pin_is_tried_once_and_never_again(site: Site) -> None:
    site.pin_file.write_text("8642097531")

    first = site.run("doctor", "--output", "json")
    second = site.run("doctor", "--output", "json")

    assert "the token refused the PIN" in faults(first)["login"]["what"]
    assert list(faults(second)) == ["earlier refusal"]
    # The token has counted one wrong PIN, not two: two of SoftHSM2's three are the last try.
    assert outcome(second, "PIN state") == "warning"
    assert outcome(second, "store") == "ok"
    assert "8642097531" not in first.out + second.out


def test_a_pin_file_that_others_can_read_is_a_fault_and_the_pin_is_not_used(site: Site) -> None:
    site.pin_file.chmod(0o644)

    ended = site.run("doctor", "--output", "json")

    assert "is open to other users" in faults(ended)["PIN file"]["what"]
    assert "chmod 0600" in faults(ended)["PIN file"]["fix"]
    assert outcome(ended, "login") == "skipped"
    assert outcome(ended, "token") == "ok"


def test_a_missing_mechanism_is_named_and_the_store_is_still_looked_at(bound: Site) -> None:
    # SoftHSM2 2.6.1 ignores the first entry after the minus sign.
    (bound.state / "softhsm2.conf").write_text(
        f"directories.tokendir = {bound.state}/tokens\n"
        "slots.mechanisms = -CKM_AES_GCM,CKM_AES_GCM\n"
    )

    ended = bound.run("doctor", "--output", "json")

    assert "gcm needs AES_GCM" in faults(ended)["mechanisms"]["what"]
    assert outcome(ended, "store") == "ok"
    assert outcome(ended, "records") == "skipped"


def test_a_token_that_lost_one_of_its_objects_is_told(site: Site) -> None:
    objects = (site.state / "tokens").glob("*/*.object")
    next(path for path in objects if path.name != "token.object").unlink()

    ended = site.run("doctor", "--output", "json")

    assert "holds 0 objects keyplane-" in faults(ended)["token objects"]["what"]


def test_a_store_of_another_token_is_told_from_a_broken_one(
    site: Site, softhsm_settings: Settings
) -> None:
    store = site.state / "keyplane.db"
    store.write_bytes(b"no database")
    broken = site.run("doctor", "--output", "json")
    shutil.copy(softhsm_settings.database, store)
    foreign = site.run("doctor", "--output", "json")

    assert "cannot be read" in faults(broken)["store"]["what"]
    assert "was not signed by this token" in faults(foreign)["installation"]["what"]


def test_a_module_that_crashes_takes_only_its_own_process_along(site: Site, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    module = tmp_path / "crashing.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", module],
        input=CRASHING_MODULE.encode(),
        check=True,
    )
    site.configure(token=f'module = "{module}"\npin_file = "{site.pin_file}"')

    ended = site.run("doctor", "--output", "json")

    told = faults(ended)["module"]["what"]
    assert told == "the module crashed the process (signal 11, SIGSEGV) (module)"
    assert outcome(ended, "store") == "ok"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_another_user_is_told_and_nothing_in_the_directory_is_touched(site: Site) -> None:
    os.chown(site.state, 12345, -1)
    before = contents(site)

    ended = site.run("doctor", "--output", "json")

    assert "belongs to uid 12345" in faults(ended)["state directory"]["what"]
    assert outcome(ended, "store") == outcome(ended, "login") == "skipped"
    assert contents(site) == before
