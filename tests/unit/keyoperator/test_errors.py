"""Every error has a reason and a time to try again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import kopf
import pytest

from keycore.errors import (
    KeyInUseError,
    KeyNotFoundError,
    KeyplaneError,
    StoreUnavailableError,
    TokenUnavailableError,
)
from keyoperator.cluster import ClusterError, ClusterUnavailableError
from keyoperator.errors import (
    DISPOSITIONS,
    INTERNAL_ERROR,
    as_sentences,
    explain,
    find_disposition,
    to_kopf,
    to_retry,
)
from tests.unit.keyoperator.builders import KEY_ID

HALF_A_MINUTE = timedelta(seconds=30)


def _family(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for child in root.__subclasses__():
        # Tests of other packages may define errors of their own.
        if child.__module__.startswith(("keycore.", "keyoperator.")):
            yield from _family(child)


def test_every_error_class_has_a_line_of_its_own_in_the_table():
    classes = {*_family(KeyplaneError), *_family(ClusterError)}

    assert classes == set(DISPOSITIONS)


@pytest.mark.parametrize("disposition", DISPOSITIONS.values())
def test_every_reason_is_one_camel_case_word(disposition):
    assert disposition.reason.isalnum()
    assert disposition.reason[0].isupper()


def test_an_error_of_an_unknown_class_is_a_fault_of_ours():
    disposition = find_disposition(ZeroDivisionError())

    assert disposition.reason == INTERNAL_ERROR
    assert disposition.retry_after is not None


def test_the_text_of_an_unknown_error_is_never_shown():
    error = to_kopf(RuntimeError("SELECT * FROM secrets"))

    assert "SELECT" not in str(error)
    assert "log" in str(error)


def test_a_known_error_says_what_happened_and_what_to_do():
    error = KeyInUseError("key k is needed", hint="run: keyplane provider release p")

    assert explain(error) == "Key k is needed. Run: keyplane provider release p"


def test_a_command_at_the_end_can_be_copied():
    assert as_sentences("do it", "run: x --key 1") == "Do it. Run: x --key 1"
    assert as_sentences("do it", "") == "Do it"


@pytest.mark.parametrize(
    "error",
    [TokenUnavailableError("the token is away"), StoreUnavailableError("the store is away")],
    ids=type,
)
def test_what_is_out_of_reach_is_tried_again_soon(error):
    raised = to_kopf(error)

    assert isinstance(raised, kopf.TemporaryError)
    assert raised.delay == 10


def test_what_only_a_change_can_mend_is_not_retried_by_itself():
    assert isinstance(to_kopf(KeyNotFoundError(KEY_ID)), kopf.PermanentError)


@pytest.mark.parametrize("kind", DISPOSITIONS)
def test_a_deletion_is_never_given_up(kind):
    """Otherwise kopf would drop the finalizer, and nobody would remember the key."""
    error = kind("k", "r") if kind.__name__ == "IntegrityError" else _new(kind)

    raised = to_retry(error, HALF_A_MINUTE)

    assert isinstance(raised, kopf.TemporaryError)
    assert 0 < raised.delay <= 30


def test_a_deletion_is_tried_at_least_as_often_as_everything_is_looked_at():
    raised = to_retry(KeyInUseError("in use"), timedelta(seconds=5))

    assert raised.delay == 5


def test_errors_of_the_cluster_are_explained_like_those_of_the_core():
    assert explain(ClusterUnavailableError("it is away", hint="wait")) == "It is away. Wait"


def _new(kind: type[Exception]) -> Exception:
    try:
        return kind()
    except TypeError:
        return kind("text")
