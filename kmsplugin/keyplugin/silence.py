"""Calls that were opened and then say nothing, and their end."""

from __future__ import annotations

import grpc
import structlog

from keycore.service.repeating import Repeating

_log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 0.05

MESSAGE_ROUNDS = 20
"""How many rounds of the watch, a second if nothing is slow, a call may go on without its
message from its beginning. A client sends both at once; kube-apiserver gives a call up
after three seconds."""

RECEIVING_ROUNDS = 5
"""How many rounds a message is waited for at least, once a thread has come to the call.
Calls that have waited for a busy token have their message there by then."""


class SilenceWatch(Repeating):
    """Ends calls whose message does not come, in a thread of its own while it is entered.

    Time is counted in rounds of that thread. Where the whole process has been standing
    still, on a machine that has too much to do, no round has passed either, and a call
    whose message has arrived meanwhile is not mistaken for a silent one.

    Attributes:
        round: the number of the present one.
    """

    def __init__(self) -> None:
        """Watch nothing yet."""
        super().__init__(INTERVAL_SECONDS)
        self.round = 0
        self._waiting: dict[grpc.ServicerContext, tuple[str, int]] = {}

    def begin(self, context: grpc.ServicerContext, method: str, arrived: int) -> None:
        """Watch a call that came in round ``arrived``, until :meth:`end`."""
        last = max(arrived + MESSAGE_ROUNDS, self.round + RECEIVING_ROUNDS)
        self._waiting[context] = method, last

    def end(self, context: grpc.ServicerContext) -> None:
        """Forget a call."""
        self._waiting.pop(context, None)

    def run_once(self) -> None:
        """Begin another round, and end the calls whose last one has passed."""
        self.round += 1
        # A copy, because other threads begin and end meanwhile.
        for context, (method, last) in list(self._waiting.items()):
            if last < self.round and context in self._waiting:
                self.end(context)
                _log.warning("a call failed: its message did not come", method=method)
                context.cancel()
