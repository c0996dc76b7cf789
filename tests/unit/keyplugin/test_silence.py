"""Which calls count as silent: those whose message does not come while the process runs."""

from __future__ import annotations

from typing import cast

import pytest
from grpc import ServicerContext
from structlog.testing import capture_logs

from keyplugin.silence import MESSAGE_ROUNDS, RECEIVING_ROUNDS, SilenceWatch

METHOD = "/v2.KeyManagementService/Decrypt"


class Call:
    """A call that can be given up."""

    def __init__(self) -> None:
        self.given_up = False

    def cancel(self) -> None:
        self.given_up = True

    @property
    def context(self) -> ServicerContext:
        return cast("ServicerContext", self)


@pytest.fixture
def watch() -> SilenceWatch:
    return SilenceWatch()


def pass_rounds(watch: SilenceWatch, count: int) -> None:
    for _ in range(count):
        watch.run_once()


def test_a_call_without_a_message_is_given_up_and_logged(watch: SilenceWatch) -> None:
    call = Call()
    watch.begin(call.context, METHOD, watch.round)

    pass_rounds(watch, MESSAGE_ROUNDS)
    assert not call.given_up
    with capture_logs() as logs:
        pass_rounds(watch, 5)

    assert call.given_up
    assert [(line["log_level"], line["method"]) for line in logs] == [("warning", METHOD)]


def test_a_call_whose_message_came_is_left_alone(watch: SilenceWatch) -> None:
    call = Call()
    watch.begin(call.context, METHOD, watch.round)
    watch.end(call.context)

    pass_rounds(watch, 2 * MESSAGE_ROUNDS)

    assert not call.given_up


def test_a_call_that_has_waited_long_for_a_thread_has_some_rounds_left(
    watch: SilenceWatch,
) -> None:
    call, arrived = Call(), watch.round
    pass_rounds(watch, 3 * MESSAGE_ROUNDS)
    watch.begin(call.context, METHOD, arrived)

    pass_rounds(watch, RECEIVING_ROUNDS)
    assert not call.given_up

    pass_rounds(watch, 1)
    assert call.given_up


def test_a_call_that_ended_meanwhile_can_be_forgotten_twice(watch: SilenceWatch) -> None:
    call = Call()
    watch.begin(call.context, METHOD, watch.round)

    watch.end(call.context)
    watch.end(call.context)
