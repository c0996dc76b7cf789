"""The thread that has the HSM seal an audit chain, so that no request waits for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from keycore.adapters.audit_chain import ChainWriter
from keycore.domain.audit_chain import Chain, Seal, is_forgotten, is_sealed, sealed_bytes
from keycore.errors import KeyplaneError
from keycore.ports import AuditHead, Clock, RecordSigner
from keycore.threads import start_daemon

_log = structlog.get_logger(__name__)

LINES_MAX = 1000
"""Lines that may wait for a checkpoint."""

WAIT_SECONDS = 9.0
"""How long a line waits for one; with :data:`LOOK_SECONDS` at most ten seconds."""

LOOK_SECONDS = 1.0
"""How often it is looked whether it is time, and whether the file is still there."""

_AGAIN_SECONDS = 5.0

_JOIN_SECONDS = 3.0
"""For the last checkpoint: a call of the token ends within its deadline, usually 2 s."""


class AuditHeads(Protocol):
    """The part of the store that keeps how far each chain has come."""

    def save_audit_head(self, head: AuditHead) -> None:
        """Insert or replace the head of its chain."""

    def audit_heads(self) -> Sequence[AuditHead]:
        """Return the head of every chain."""


class Sealing:
    """Seals what a writer has written, and checks what it has found.

    Attributes:
        fault: why lines are not sealed; empty when they are.
    """

    def __init__(
        self,
        writer: ChainWriter,
        lock: threading.Lock,
        *,
        look: Callable[[], None],
        signer: RecordSigner,
        heads: AuditHeads,
        clock: Clock,
    ) -> None:
        """Seal the chain of ``writer``, whose calls ``lock`` keeps apart.

        Args:
            writer: what has written, and goes on.
            lock: held around every call of the writer, and never while the HSM works.
            look: called before anything else, each time; it must not raise.
            signer: makes and checks seals.
            heads: keeps the newest one.
            clock: when to seal.
        """
        self.fault = ""
        self._writer = writer
        self._lock = lock
        self._look = look
        self._signer = signer
        self._heads = heads
        self._clock = clock
        self._past_checked = False
        self._head_checked = False
        self._unsaved: AuditHead | None = None
        self._waiting_since: float | None = None
        self._not_before = float("-inf")
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Check what was found, as far as token and store answer, and start the thread."""
        try:
            self._check_past()
            self._check_head()
        except (KeyplaneError, OSError) as error:
            # They are asked again, and lines may be written meanwhile.
            _log.debug("the audit chain could not be checked yet", reason=str(error))
        with self._lock:
            self._writer.tell_what_was_found()
        self._thread = start_daemon(self._repeat, "audit-sealing")

    def hurry(self) -> None:
        """Seal now: enough lines wait."""
        self._wake.set()

    def stop(self) -> None:
        """Seal what there is and end the thread, but do not wait for a token that hangs."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_JOIN_SECONDS)

    def _repeat(self) -> None:
        closing = False
        while not closing:
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()
            closing = self._closing.is_set()
            self.run_once(now=closing)

    def run_once(self, *, now: bool = False) -> None:
        """Look, check what was found, and seal if it is time, or ``now``.

        It never raises, or nothing would be sealed any more.
        """
        self._look()
        try:
            if now or self._is_due():
                self._check_past()
                self._seal()
            self._check_head()
            self._save_head()
        except KeyplaneError as error:
            self._note(error.message)
        except OSError as error:
            self._note(error.strerror or "the file system failed")
        except Exception as error:  # noqa: BLE001 - the thread must go on sealing.
            _log.error("audit lines could not be sealed", exc_info=error)
            self._note("keyplane met a fault of its own")
        else:
            self._note("")

    def _is_due(self) -> bool:
        now, unsealed = self._clock.monotonic(), self._writer.unsealed
        if unsealed <= 0:
            self._waiting_since = None
            return not self._past_checked
        if self._waiting_since is None:
            self._waiting_since = now
        waited = now - self._waiting_since
        return now >= self._not_before and (
            unsealed >= LINES_MAX or waited >= WAIT_SECONDS or not self._past_checked
        )

    # --- what was found --------------------------------------------------------

    def _check_past(self) -> None:
        """Have the HSM say whether the newest seal of the file is its own."""
        if self._past_checked or not self._writer.is_open:
            return
        past, chain = self._writer.past, self._writer.chain
        if past is not None and not is_sealed(chain, past, self._signer.is_signed):
            self._begin_anew(f"the checkpoint of line {past.line} is forged")
        self._past_checked = True

    def _check_head(self) -> None:
        """Compare the file with what the store remembers of the chain, once it answers."""
        if self._head_checked or not self._past_checked:
            return
        heads = self._heads.audit_heads()
        with self._lock:
            chain, past, begun = self._writer.chain, self._writer.past, self._writer.begun
        mine = next((head for head in heads if head.chain == chain.id), None)
        if mine is not None:
            contradiction = self._contradiction(mine, chain, past)
            if contradiction:
                self._begin_anew(contradiction)
        elif begun and not self._writer.broken:
            self._miss_files(heads, chain)
        self._head_checked = True

    def _contradiction(self, head: AuditHead, chain: Chain, past: Seal | None) -> str:
        kept, is_signed = head.seal, self._signer.is_signed
        # One that somebody had forgotten is made known again by its next seal.
        if not (is_sealed(chain, kept, is_signed) or is_forgotten(chain, kept, is_signed)):
            return "the head of the chain in the store is forged"
        if past is None or past.line < kept.line:
            return f"the file was cut: the checkpoint of line {kept.line} is missing"
        if past.line == kept.line and past.digest != kept.digest:
            return f"line {kept.line} is not the one that the store remembers"
        return ""

    def _miss_files(self, heads: Sequence[AuditHead], chain: Chain) -> None:
        known = [
            head
            for head in heads
            if (head.node, head.name) == (chain.node, chain.name)
            and is_sealed(
                Chain(head.chain, head.node, head.name), head.seal, self._signer.is_signed
            )
        ]
        if known:
            self._writer.broken = f"all files of {chain.name} are gone"
            _log.error("audit files are gone", name=chain.name, chains=len(known))

    def _begin_anew(self, reason: str) -> None:
        with self._lock:
            self._writer.begin_anew(reason)
        self._unsaved = None

    # --- seals -----------------------------------------------------------------

    def _seal(self) -> None:
        with self._lock:
            chain, line = self._writer.chain, self._writer.number
            digest, covered = bytes.fromhex(self._writer.previous), self._writer.unsealed
        if covered <= 0:
            return
        at = self._clock.now()
        mac = self._signer.sign(sealed_bytes(chain, line=line, digest=digest, at=at))
        with self._lock:
            self._writer.append_seal(Seal(line, digest, at, mac), covered)
            descriptors = self._writer.duplicates()
        self._waiting_since = None
        # The store must never know of a line that a power cut could still take away.
        _sync(descriptors)
        self._unsaved = AuditHead(chain.id, chain.node, chain.name, line, digest, at, mac)

    def _save_head(self) -> None:
        # One that is there already was compared first, or it could not be any more.
        if self._unsaved is not None and self._head_checked:
            self._heads.save_audit_head(self._unsaved)
            self._unsaved = None

    def _note(self, fault: str) -> None:
        if fault:
            self._not_before = self._clock.monotonic() + _AGAIN_SECONDS
        known, self.fault = self.fault, fault
        if fault and fault != known:
            _log.warning("audit lines are not sealed, or not told to the store", reason=fault)
        elif known and not fault:
            _log.info("audit lines are sealed again")


def _sync(descriptors: Sequence[int]) -> None:
    try:
        for descriptor in descriptors:
            os.fdatasync(descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
