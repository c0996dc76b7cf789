"""``keyplane init`` on a real SoftHSM2."""

from __future__ import annotations

import stat
import subprocess

from tests.integration.keycli.site import Ended, Site, environment


def test_init_makes_an_installation_and_says_what_to_back_up(
    initialised: tuple[Site, Ended],
) -> None:
    site, ended = initialised

    made = ended.json

    assert ended.code == 0
    assert (made["instance"]["name"], made["instance"]["namespace"]) == (
        "default",
        "keyplane-system",
    )
    assert made["token"]["guardsUnwrapping"] is True
    assert made["backUp"] == [str(site.state / name) for name in ("tokens", "pins", "keyplane.db")]


def test_init_tells_each_step_on_standard_error(initialised: tuple[Site, Ended]) -> None:
    _, ended = initialised

    assert [line[:6] for line in ended.err.splitlines()] == ["- make"] * 3


def test_what_init_makes_is_closed_to_others(initialised: tuple[Site, Ended]) -> None:
    site, _ = initialised

    assert stat.S_IMODE(site.state.stat().st_mode) == 0o700
    assert stat.S_IMODE(site.pin_file.stat().st_mode) == 0o600
    assert stat.S_IMODE((site.state / "keyplane.db").stat().st_mode) == 0o600


def test_a_pin_is_never_shown(initialised: tuple[Site, Ended]) -> None:
    site, ended = initialised

    for file in site.pin_file.parent.iterdir():
        assert file.read_text().strip() not in ended.out + ended.err


def test_init_of_a_finished_installation_refuses_and_changes_nothing(site: Site) -> None:
    before = site.contents()

    ended = site.run("init")

    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        f"error: {site.state} is initialised; nothing was changed\n  fix: see: keyplane status\n"
    )
    assert site.contents() == before


def test_a_refused_namespace_leaves_nothing_behind(empty: Site) -> None:
    ended = empty.run("init", "--namespace", "Not A Namespace")

    assert ended.code == 1
    assert not empty.state.exists()


def test_of_two_inits_at_once_one_makes_the_installation_and_the_other_refuses(
    empty: Site,
) -> None:
    processes = [
        subprocess.Popen(
            empty.command("init"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        for _ in range(3)
    ]

    codes = sorted(process.wait(60) for process in processes)

    assert codes == [0, 2, 2]
    assert empty.run("status").code == 0


def test_no_new_store_is_made_where_there_was_one(site: Site) -> None:
    """The token still holds the keys that everything was encrypted under."""
    for path in site.state.glob("keyplane.db*"):
        path.rename(site.state.parent / path.name)

    for arguments in (("init",), ("status",), ("keys", "list")):
        ended = site.run(*arguments)
        assert ended.code == 2
        assert "is missing, and it was there before" in ended.err
        assert "restore it from a backup" in ended.err
