"""Checks on the machine's clock: expiry and the order of records depend on it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from keycore.diagnosis.examination import Examination
from keycore.diagnosis.findings import Verdict, fault, ok, warning

_BACKWARDS_MAX: Final = timedelta(seconds=5)
"""Nodes of one store may differ by so much without harm."""

_UNSYNCHRONISED: Final = 0x40
"""STA_UNSYNC of ``adjtimex(2)``; the kernel clears it when a daemon disciplines the clock."""


class _Timex(ctypes.Structure):
    """The beginning of ``struct timex`` (``adjtimex(2)``), with room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("error_max", ctypes.c_long),
        ("error_estimate", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def is_synchronised() -> bool | None:
    """Ask the kernel whether something keeps the clock right; ``None`` where it cannot tell."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except AttributeError:
        return None
    answer = _Timex()
    if adjtimex(ctypes.byref(answer)) < 0:
        return None
    return not answer.status & _UNSYNCHRONISED


def check_clock(_: Examination) -> Iterator[Verdict]:
    """Does something keep the clock right?"""
    synchronised = is_synchronised()
    if synchronised is None:
        yield ok("the kernel does not tell whether the clock is synchronised")
    elif synchronised:
        yield ok("synchronised by NTP")
    else:
        yield warning(
            "nothing keeps this machine's clock right",
            "start chrony or systemd-timesyncd: keys expire by this clock",
        )


def check_time(examination: Examination) -> Iterator[Verdict]:
    """Does the clock stand before something that has happened already?"""
    behind = examination.survey.newest - examination.clock.now()
    if behind > _BACKWARDS_MAX:
        yield fault(
            f"the clock is {behind // timedelta(seconds=1)} seconds before the newest record",
            "set the clock right on this machine, or on the one that wrote the record",
        )
    else:
        yield ok("no record is newer than the clock")
