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
    """Refreshes the provider twice a second, in a thread of its own while entered."""

    def __init__(
        self, provider: KmsProvider, *, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        """Keep ``provider`` fresh."""
        super().__init__(interval_seconds)
        self._provider = provider
        self._known = provider.outlook()
        self._warned = ""
        self._failure = ""

    def run_once(self) -> None:
        """Refresh now. Nothing that goes wrong ends here: serving goes on."""
        try:
            self._provider.refresh()
        except Exception as error:  # noqa: BLE001 - without upkeep nobody would see a rotation.
            self._log_failure(error)
        else:
            self._failure = ""
        self._log_changes()

    def _log_failure(self, error: Exception) -> None:
        # The same one is told once, not twice a second.
        if repr(error) != self._failure:
            _log.error("refreshing failed unexpectedly", exc_info=error)
        self._failure = repr(error)

    def _log_changes(self) -> None:
        known, self._known = self._known, self._provider.outlook()
        if self._known.key_id != known.key_id:
            _log.info("key_id changed", key_id_hash=key_id_hash(self._known.key_id))
        if self._known.healthz != known.healthz:
            log = _log.info if self._known.healthz == HEALTHY else _log.warning
            log("health changed", healthz=self._known.healthz)
        warned, self._warned = self._warned, self._provider.warning()
        if self._warned not in ("", warned):
            _log.warning("the key needs attention", warning=self._warned)
