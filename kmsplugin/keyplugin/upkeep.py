"""Keeps a provider's view of store and token fresh, and tells the log what changed."""

from __future__ import annotations

import structlog

from keycore.domain.providers import key_id_hash
from keycore.service.kms import HEALTHY, KmsProvider
from keycore.service.repeating import Repeating

_log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 0.5
"""Changes by other processes must be seen within one second."""


class Upkeep(Repeating):
    """Keeps the provider's ledger fresh, in a thread of its own while entered."""

    def __init__(
        self, provider: KmsProvider, *, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        """Keep ``provider`` fresh."""
        super().__init__(interval_seconds)
        self._provider = provider
        self._known = provider.outlook()
        self._warned: list[str] = []
        self._failures = FailureLog("refreshing failed unexpectedly")

    def run_once(self) -> None:
        """Refresh now. Nothing that goes wrong ends here: serving goes on."""
        with self._failures:
            self._provider.refresh_ledger()
        self._log_changes()

    def _log_changes(self) -> None:
        known, self._known = self._known, self._provider.outlook()
        if self._known.key_id != known.key_id:
            _log.info("key_id changed", key_id_hash=key_id_hash(self._known.key_id))
        if self._known.healthz != known.healthz:
            log = _log.info if self._known.healthz == HEALTHY else _log.warning
            log("health changed", healthz=self._known.healthz)
        self._log_warnings()

    def _log_warnings(self) -> None:
        warned, self._warned = self._warned, self._provider.warnings()
        new = [warning for warning in self._warned if warning not in warned]
        for warning in new:
            _log.warning("needs attention", warning=warning)
        for warning in warned:
            # What is only said in other words now, such as with another reason, goes on.
            if warning not in self._warned and not new:
                _log.info("attention over", warning=warning)


class Proving(Repeating):
    """Proves the provider's write key again and again, in a thread of its own.

    Not in that of :class:`Upkeep`: a token that hangs must not keep the ledger from
    being read, nor a busy store a proof from being made.
    """

    def __init__(
        self, provider: KmsProvider, *, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        """Prove the key of ``provider``."""
        super().__init__(interval_seconds)
        self._provider = provider
        self._failures = FailureLog("proving the key failed unexpectedly")

    def run_once(self) -> None:
        """Prove now, if it is time. Nothing that goes wrong ends here."""
        with self._failures:
            self._provider.prove()


class FailureLog:
    """Logs what escapes from a block, once for the same failure in a row."""

    def __init__(self, event: str) -> None:
        """Log it as ``event``."""
        self._event = event
        self._failure = ""

    def __enter__(self) -> None:
        """Begin a try."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> bool:
        """Log a failure that is not the last one's, and let the thread go on."""
        failure = repr(error) if error else ""
        if isinstance(error, Exception) and failure != self._failure:
            _log.error(self._event, exc_info=error)
        self._failure = failure
        return isinstance(error, Exception)
