"""What a module closes once is never somebody else's afterwards."""

import os
from pathlib import Path

from keycore.adapters.pkcs11_descriptors import closed_numbers_are_held


def test_a_number_closed_within_the_block_is_not_given_to_a_file_opened_later():
    number = os.open(os.devnull, os.O_RDONLY)
    with closed_numbers_are_held():
        os.close(number)
    try:
        later = os.open("/proc/self/status", os.O_RDONLY)
        os.close(later)
        assert later != number
        assert str(Path(f"/proc/self/fd/{number}").readlink()) == os.devnull
    finally:
        os.close(number)


def test_a_number_that_somebody_else_has_taken_within_the_block_stays_theirs():
    number = os.open(os.devnull, os.O_RDONLY)
    with closed_numbers_are_held():
        os.close(number)
        theirs = os.open("/proc/self/status", os.O_RDONLY)
    try:
        assert Path(f"/proc/self/fd/{theirs}").readlink().name == "status"
    finally:
        os.close(theirs)


def test_closing_nothing_leaves_no_descriptor_behind():
    before = sorted(Path("/proc/self/fd").iterdir())
    with closed_numbers_are_held():
        pass
    assert sorted(Path("/proc/self/fd").iterdir()) == before
