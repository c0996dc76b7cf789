"""Query parameters are read as clients send them; what they cannot mean is refused."""

from __future__ import annotations

from typing import Any

import pytest

from keycore.domain.keys import KeyKind, KeyState
from keyrest.queries import read_query
from keyrest.request_errors import InvalidQueryError


def test_a_request_without_a_query_has_the_defaults() -> None:
    query = read_query(b"")

    assert (query.limit(), query.offset(), query.states(), query.kind()) == (200, 0, None, None)


@pytest.mark.parametrize("name", ["limit", "offset", "state", "extractable", "force", "action"])
def test_an_empty_value_counts_as_none(name: str) -> None:
    query = read_query(f"{name}=".encode())

    assert (query.limit(), query.offset(), query.states(), query.kind()) == (200, 0, None, None)
    assert query.text(name) == ""


@pytest.mark.parametrize(
    ("sent", "limit"), [(b"limit=1", 1), (b"limit=5000", 5000), (b"limit=2000&offset=0", 2000)]
)
def test_a_limit_is_between_1_and_5000(sent: bytes, limit: int) -> None:
    assert read_query(sent).limit() == limit


@pytest.mark.parametrize(
    "given", ["0", "5001", "abc", "-1", "1.0", "1e3", "%2B1", "%D9%A3", "9" * 99]
)
def test_another_limit_is_refused(given: str) -> None:
    with pytest.raises(InvalidQueryError) as refused:
        read_query(f"limit={given}".encode()).limit()

    assert refused.value.message == (
        "The query_param 'limit' must be: an integer between 1 and 5000 (inclusive)"
    )
    assert refused.value.field == "limit"


@pytest.mark.parametrize("given", ["-1", "x", "2147483648"])
def test_an_offset_that_no_list_has_is_refused(given: str) -> None:
    with pytest.raises(InvalidQueryError, match="'offset'"):
        read_query(f"offset={given}".encode()).offset()


@pytest.mark.parametrize(
    ("sent", "states"),
    [
        (b"state=1", {KeyState.ACTIVE}),
        (
            b"state=0%2C1%2C2%2C3",
            {KeyState.PRE_ACTIVE, KeyState.ACTIVE, KeyState.SUSPENDED, KeyState.DEACTIVATED},
        ),
        (b"state=0,5", {KeyState.PRE_ACTIVE, KeyState.DESTROYED}),
    ],
    ids=["one", "url-encoded", "plain commas"],
)
def test_states_are_a_list_by_commas(sent: bytes, states: set[KeyState]) -> None:
    assert read_query(sent).states() == states


@pytest.mark.parametrize("given", ["4", "6", "1,", "a", "1;2", "01"])
def test_a_number_that_is_no_state_is_refused(given: str) -> None:
    with pytest.raises(InvalidQueryError, match="'state'"):
        read_query(f"state={given}".encode()).states()


@pytest.mark.parametrize(
    ("given", "kind"),
    [("true", KeyKind.STANDARD), ("false", KeyKind.ROOT), ("True", KeyKind.STANDARD)],
)
def test_extractable_chooses_the_kind(given: str, kind: KeyKind) -> None:
    assert read_query(f"extractable={given}".encode()).kind() is kind


def test_extractable_is_true_or_false() -> None:
    with pytest.raises(InvalidQueryError, match="'extractable' must be: true or false"):
        read_query(b"extractable=yes").kind()


@pytest.mark.parametrize("name", ["limit", "action", "state"])
def test_a_parameter_that_is_given_twice_is_refused(name: str) -> None:
    with pytest.raises(InvalidQueryError, match=f"'{name}' must be: given once"):
        read_query(f"{name}=1&{name}=1".encode()).text(name)


def test_unknown_parameters_are_passed_over() -> None:
    assert read_query(b"search=x&sort=-id&filter=a%3Db&search=y").limit() == 200


@pytest.mark.parametrize("sent", [b"&" * 10, b"%", b"=%ff", b"\xff=1", b"a;b=1"])
def test_an_odd_query_is_no_fault(sent: bytes) -> None:
    assert read_query(sent).limit() == 200


def test_a_query_of_too_many_parameters_is_refused() -> None:
    with pytest.raises(InvalidQueryError, match="64"):
        read_query(b"&".join(b"a=1" for _ in range(65)))


@pytest.mark.parametrize(
    ("sent", "flag"), [(b"", None), (b"dryRun=true", True), (b"dryRun=false", False)]
)
def test_a_flag_is_true_false_or_not_given(sent: bytes, flag: Any) -> None:
    assert read_query(sent).flag("dryRun") is flag
