"""Checks run in order, go on after a fault, and never end an examination."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from keycore.diagnosis.findings import (
    CannotLookError,
    Check,
    Outcome,
    Verdict,
    examine,
    fault,
    ok,
    warning,
)
from keycore.errors import TokenSetupError


def saying(*verdicts: Verdict) -> Callable[[object], Iterable[Verdict]]:
    return lambda _: verdicts


def raising(error: Exception) -> Callable[[object], Iterable[Verdict]]:
    def run(_: object) -> Iterable[Verdict]:
        yield ok("first")
        raise error

    return run


def outcomes(*checks: Check[object]) -> list[tuple[str, str, str]]:
    return [
        (found.check, found.verdict.outcome.value, found.verdict.what)
        for found in examine(checks, None)
    ]


def test_a_check_is_skipped_after_a_fault_of_one_that_it_needs() -> None:
    found = outcomes(
        Check("a", saying(fault("broken"))),
        Check("b", saying(ok("never said")), ("a",)),
        Check("c", saying(ok("independent"))),
    )

    assert found == [
        ("a", "fault", "broken"),
        ("b", "skipped", "needs: a"),
        ("c", "ok", "independent"),
    ]


def test_what_needs_a_skipped_check_is_skipped_too() -> None:
    found = outcomes(
        Check("a", saying(fault("broken"))),
        Check("b", saying(ok("")), ("a",)),
        Check("c", saying(ok("")), ("b",)),
    )

    assert found[-1] == ("c", "skipped", "needs: b")


def test_a_warning_stops_nothing() -> None:
    found = outcomes(Check("a", saying(warning("odd"))), Check("b", saying(ok("fine")), ("a",)))

    assert found[-1] == ("b", "ok", "fine")


def test_every_verdict_of_a_check_is_told_and_one_fault_among_them_counts() -> None:
    found = outcomes(
        Check("a", saying(ok("one"), fault("two"), warning("three"))),
        Check("b", saying(ok("")), ("a",)),
    )

    assert [outcome for _, outcome, _ in found] == ["ok", "fault", "warning", "skipped"]


def test_an_error_of_the_core_is_a_fault_with_its_hint() -> None:
    check = Check("a", raising(TokenSetupError("no such token", hint="connect it")))

    (found,) = examine((check,), None)

    assert found.verdict == Verdict(Outcome.FAULT, "no such token", "connect it")


def test_an_error_of_the_system_is_a_fault_that_names_the_file() -> None:
    error = OSError(13, "Permission denied", "/some/file")

    assert outcomes(Check("a", raising(error))) == [("a", "fault", "/some/file: Permission denied")]


def test_a_check_that_cannot_look_is_skipped() -> None:
    error = CannotLookError("the module")

    assert outcomes(Check("a", raising(error))) == [("a", "skipped", "needs: the module")]


def test_each_check_is_announced_before_it_runs_unless_it_is_skipped() -> None:
    seen: list[str] = []
    checks = (
        Check("a", lambda _: [fault(f"after {seen}")]),
        Check("b", saying(ok("")), ("a",)),
        Check("c", saying(ok(""))),
    )

    found = list(examine(checks, None, announce=seen.append))

    assert found[0].verdict.what == "after ['a']"
    assert seen == ["a", "c"]
