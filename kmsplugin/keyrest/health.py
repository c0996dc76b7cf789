"""What probes are told: that the process lives, and whether it can do its work.

Nobody who asks is known, so each check shows its name and its outcome here, and its
reason in the log alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import anyio
import orjson
import structlog
from anyio.to_thread import run_sync

from keycore.bootstrap import Core
from keycore.errors import KeyplaneError
from keycore.ports import Clock
from keycore.service.readiness import Finding, Outcome
from keyrest.answers import Answer

_log = structlog.get_logger(__name__)

HEALTH_TYPE = "application/json"

PROOF_SECONDS = 3.0
"""How long a proof of token or store counts. Probes come as often as anybody likes,
and must not keep the token busy."""

PATIENCE_SECONDS = 2.0
"""How long a proof may take. A call that hangs in the HSM cannot be ended, only left."""

_HANGING_MAX = 2


Check = Callable[[], Finding]
"""Looks at something that is known already; it must not wait."""


class Health:
    """Answers ``/livez`` and ``/readyz``."""

    def __init__(self, core: Core, checks: Mapping[str, Check]) -> None:
        """Prove token and store of ``core``, and look at ``checks``, by name."""
        threads = anyio.CapacityLimiter(_HANGING_MAX)
        self._proofs = {
            "token": _Proof(core.token.check, core.clock, threads),
            "store": _Proof(core.cache.refresh, core.clock, threads),
        }
        self._checks = checks
        self._known: dict[str, Finding] = {}

    async def live(self) -> Answer:
        """Answer that the process answers."""
        return _answer(200, {"status": Outcome.OK})

    async def ready(self) -> Answer:
        """Answer 200 while requests can succeed, else 503, with every check by name."""
        findings = {name: await proof.finding() for name, proof in self._proofs.items()}
        findings |= {name: check() for name, check in self._checks.items()}
        self._log_changes(findings)
        outcomes = {name: finding.outcome for name, finding in findings.items()}
        failed = Outcome.FAILED in outcomes.values()
        status = Outcome.FAILED if failed else Outcome.OK
        return _answer(503 if failed else 200, {"status": status, "checks": outcomes})

    def _log_changes(self, findings: dict[str, Finding]) -> None:
        # Told once when it changes, and not with every probe.
        for name, finding in findings.items():
            if finding != self._known.get(name, Finding()):
                log = _log.info if finding.outcome is Outcome.OK else _log.warning
                log("readiness changed", check=name, outcome=finding.outcome, why=finding.reason)
        self._known = findings


class _Proof:
    """Calls something at most every few seconds, and remembers how it went."""

    def __init__(
        self, prove: Callable[[], object], clock: Clock, threads: anyio.CapacityLimiter
    ) -> None:
        self._prove = prove
        self._clock = clock
        self._threads = threads
        self._found = Finding()
        self._found_at = float("-inf")
        self._one_at_a_time = anyio.Lock()

    async def finding(self) -> Finding:
        async with self._one_at_a_time:
            if self._clock.monotonic() - self._found_at > PROOF_SECONDS:
                self._found = await self._look()
                self._found_at = self._clock.monotonic()
            return self._found

    async def _look(self) -> Finding:
        with anyio.move_on_after(PATIENCE_SECONDS):
            return await run_sync(
                partial(_outcome_of, self._prove), abandon_on_cancel=True, limiter=self._threads
            )
        return Finding(Outcome.FAILED, f"no answer within {PATIENCE_SECONDS} seconds")


def _outcome_of(prove: Callable[[], object]) -> Finding:
    try:
        prove()
    except KeyplaneError as error:
        return Finding(Outcome.FAILED, error.message)
    return Finding()


def _answer(status: int, document: Mapping[str, object]) -> Answer:
    return Answer(status, orjson.dumps(document), HEALTH_TYPE)
