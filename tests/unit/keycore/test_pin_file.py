"""A PIN that was refused is never tried again, whatever the disk does."""

from __future__ import annotations

from pathlib import Path

import pytest

from keycore.adapters.pin_file import PinFile
from keycore.errors import PinRejectedError, SettingsError, TokenUnavailableError


@pytest.fixture
def pin_file(tmp_path: Path) -> PinFile:
    path = tmp_path / "user.pin"
    path.write_text("1234\n")
    path.chmod(0o600)
    return PinFile(path, tmp_path / "pin-rejected")


def refuse(pin_file: PinFile) -> None:
    """Have the token refuse the PIN."""
    with pytest.raises(PinRejectedError), pin_file.login():
        raise PinRejectedError("the token refused the PIN")


def test_a_refused_pin_is_not_given_out_again(pin_file: PinFile) -> None:
    refuse(pin_file)

    with pytest.raises(PinRejectedError, match="no login was tried"), pin_file.login():
        pytest.fail("the PIN was given out again")

    assert pin_file.was_refused()


def test_a_changed_file_gets_one_more_try(pin_file: PinFile) -> None:
    refuse(pin_file)
    pin_file.path.write_text("123456\n")

    assert not pin_file.was_refused()
    with pin_file.login() as pin:
        assert pin == "123456"


def test_a_pin_that_was_taken_is_given_out_again(pin_file: PinFile) -> None:
    for _ in range(2):
        with pin_file.login() as pin:
            assert pin == "1234"

    assert not pin_file.was_refused()


def test_no_login_is_tried_where_a_refusal_could_not_be_remembered(
    pin_file: PinFile, tmp_path: Path
) -> None:
    pin_file.marker.mkdir()

    with pytest.raises(SettingsError, match="could not be remembered"), pin_file.login():
        pytest.fail("the PIN was given out")


def test_the_room_for_a_refusal_is_taken_before_the_login(pin_file: PinFile) -> None:
    with pin_file.login():
        before = pin_file.marker.stat()
        assert before.st_size == 128

    refuse(pin_file)

    after = pin_file.marker.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)


def cut_off(pin_file: PinFile) -> None:
    """Leave what a process leaves that was killed at its login."""
    with pin_file.login():
        content = pin_file.marker.read_bytes()
    pin_file.marker.write_bytes(content)


def test_a_login_that_was_cut_off_is_repeated_once(pin_file: PinFile) -> None:
    """The token may have refused the PIN, and nobody was there to hear it."""
    cut_off(pin_file)
    assert not pin_file.was_refused()
    cut_off(pin_file)

    assert pin_file.was_refused()
    with pytest.raises(PinRejectedError, match="did not answer to it"), pin_file.login():
        pytest.fail("the PIN was given out a third time")


def test_a_login_that_ends_otherwise_is_forgotten(pin_file: PinFile) -> None:
    for _ in range(5):
        with pytest.raises(TokenUnavailableError), pin_file.login():
            raise TokenUnavailableError("the token does not answer")

    assert not pin_file.was_refused()


def test_a_file_that_was_replaced_during_the_login_is_not_taken_for_refused(
    pin_file: PinFile,
) -> None:
    fresh = pin_file.path.with_name("fresh")
    fresh.write_text("5678\n")
    fresh.chmod(0o600)

    def replace_and_refuse() -> None:
        with pin_file.login():
            fresh.rename(pin_file.path)
            raise PinRejectedError("the token refused the PIN")

    with pytest.raises(PinRejectedError):
        replace_and_refuse()

    assert not pin_file.was_refused()


def test_a_marker_holds_nothing_of_the_pin(pin_file: PinFile) -> None:
    refuse(pin_file)

    assert "1234" not in pin_file.marker.read_text().split(":")
