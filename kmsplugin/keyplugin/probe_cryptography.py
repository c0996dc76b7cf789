"""What a probe asks of Encrypt and Decrypt."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Final, Self

from keycore.diagnosis.findings import Verdict, fault, ok, warning
from keyplugin.kms_caller import CallError
from keyplugin.kmsapi.api_pb2 import EncryptResponse
from keyplugin.measuring import (
    DECRYPT_SECONDS_SLOW,
    ENCRYPT_SECONDS_SLOW,
    STATUS_SECONDS_SLOW,
    judged_times,
)
from keyplugin.probe_subject import Subject
from keyplugin.rules import faults_of_encryption
from keyplugin.secrecy import shows

SEED_BYTES: Final = 32
"""As long as the API server's."""

_OVERSIZED_SEEDS: Final = 256
"""An Encrypt of 8 KiB, which no API server sends."""

_CLIENTS: Final = 8
"""Decrypts at once: about what a restarting API server asks for."""


def check_encrypt(subject: Subject) -> Iterator[Verdict]:
    """Have as many seeds encrypted as were asked for."""
    for _ in range(subject.count):
        seed = os.urandom(SEED_BYTES)
        try:
            subject.encrypted.append((seed, subject.encrypt(seed)))
        except CallError as error:
            yield fault(f"Encrypt was not answered ({error.code.name})")
            return
    yield ok(f"{subject.count} seeds were encrypted")


def check_encrypt_answer(subject: Subject) -> Iterator[Verdict]:
    """Hold the answers to the API server's rules."""
    faults = {
        what
        for seed, answer in subject.encrypted
        for what in _faults_of(seed, answer, subject.status.key_id)
    }
    for what in sorted(faults):
        yield fault(what)
    if not faults:
        longest = max(len(answer.ciphertext) for _, answer in subject.encrypted)
        yield ok(f"the longest ciphertext has {longest} bytes; the key_id is Status's")


def _faults_of(seed: bytes, answer: EncryptResponse, status_key_id: str) -> list[str]:
    faults = faults_of_encryption(
        answer.ciphertext, answer.key_id, answer.annotations, status_key_id=status_key_id
    )
    if seed in answer.ciphertext or any(seed in value for value in answer.annotations.values()):
        faults.append("the answer holds the seed in plain")
    return faults


def check_freshness(subject: Subject) -> Iterator[Verdict]:
    """Have one seed encrypted twice."""
    seed, answer = subject.encrypted[0]
    try:
        again = subject.encrypt(seed)
    except CallError as error:
        yield fault(f"Encrypt was not answered ({error.code.name})")
        return
    if again.ciphertext == answer.ciphertext:
        yield fault("one seed encrypted twice gives the same ciphertext")
    elif len({each.ciphertext for _, each in subject.encrypted}) < len(subject.encrypted):
        yield fault("different seeds give the same ciphertext")
    else:
        yield ok("one seed encrypted twice gives different ciphertexts")


def check_encrypt_times(subject: Subject) -> Iterator[Verdict]:
    """Tell how long Encrypt took."""
    yield judged_times(
        "Encrypt", subject.caller.seconds["Encrypt"], slow_seconds=ENCRYPT_SECONDS_SLOW
    )


def check_decrypt(subject: Subject) -> Iterator[Verdict]:
    """Have everything decrypted again."""
    for seed, answer in subject.encrypted:
        try:
            opened = subject.decrypt(answer)
        except CallError as error:
            yield fault(f"Decrypt of the provider's own ciphertext fails ({error.code.name})")
            return
        if opened != seed:
            yield fault("Decrypt gives another seed than the one that was encrypted")
            return
    yield ok(f"{len(subject.encrypted)} seeds come back as they were")


def check_decrypt_times(subject: Subject) -> Iterator[Verdict]:
    """Tell how long Decrypt took."""
    yield judged_times(
        "Decrypt", subject.caller.seconds["Decrypt"], slow_seconds=DECRYPT_SECONDS_SLOW
    )


def check_other_key_ids(subject: Subject) -> Iterator[Verdict]:
    """Ask for a right ciphertext under wrong key_ids."""
    _, answer = subject.encrypted[0]
    # Of the same form as a right one, so that a look at the form is not enough.
    last = chr(ord(answer.key_id[-1:] or "a") ^ 1)
    wrong = {
        "an unknown key_id": os.urandom(16).hex(),
        "the key_id with its last character changed": answer.key_id[:-1] + last,
        "an empty key_id": "",
    }
    yield from _refused(
        {
            what: lambda key_id=key_id: subject.decrypt(answer, key_id=key_id)  # type: ignore[misc]
            for what, key_id in wrong.items()
        }
    )


def check_changed_ciphertexts(subject: Subject) -> Iterator[Verdict]:
    """Ask for wrong ciphertexts under the right key_id."""
    _, answer = subject.encrypted[0]
    whole = answer.ciphertext
    wrong = {
        "a ciphertext with a flipped bit in its first byte": _flipped(whole, 0),
        "a ciphertext with a flipped bit in its middle": _flipped(whole, len(whole) // 2),
        "a ciphertext with a flipped bit in its last byte": _flipped(whole, len(whole) - 1),
        "a ciphertext without its last byte": whole[:-1],
        "an empty ciphertext": b"",
    }
    yield from _refused(
        {
            what: lambda changed=changed: subject.decrypt(answer, ciphertext=changed)  # type: ignore[misc]
            for what, changed in wrong.items()
        }
    )


def _refused(calls: Mapping[str, Callable[[], bytes]]) -> Iterator[Verdict]:
    wrong = False
    for what, call in calls.items():
        try:
            call()
        except CallError as error:
            if not error.is_refusal:
                wrong = True
                yield warning(f"{what} is not refused, but not answered either ({error.code.name})")
        else:
            wrong = True
            yield fault(f"{what} is accepted")
    if not wrong:
        yield ok(f"all {len(calls)} are refused")


def _flipped(ciphertext: bytes, place: int) -> bytes:
    changed = bytearray(ciphertext)
    changed[place] ^= 1
    return bytes(changed)


def check_concurrency(subject: Subject) -> Iterator[Verdict]:
    """Ask for Status again and again while many Decrypts are under way."""
    before = len(subject.caller.seconds["Status"])
    crowd = _Crowd(subject)
    with crowd:
        try:
            for _ in range(subject.count):
                subject.caller.status()
        except CallError as error:
            yield fault(f"Status was not answered while Decrypts ran ({error.code.name})")
    if crowd.failures:
        kinds = ", ".join(sorted(set(crowd.failures)))
        yield fault(f"{len(crowd.failures)} of the Decrypts failed ({kinds})")
    times = subject.caller.seconds["Status"][before:]
    if times:
        what = f"Status beside {_CLIENTS} clients that decrypt"
        yield judged_times(what, times, slow_seconds=STATUS_SECONDS_SLOW)


class _Crowd(AbstractContextManager["_Crowd"]):
    """Clients that decrypt without a pause during a block.

    Attributes:
        failures: what became of each Decrypt that failed.
    """

    def __init__(self, subject: Subject) -> None:
        self.failures: list[str] = []
        self._subject = subject
        self._done = threading.Event()
        self._clients = ThreadPoolExecutor(_CLIENTS)

    def __enter__(self) -> Self:
        for first in range(_CLIENTS):
            self._clients.submit(self._decrypt, first)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._clients.shutdown()

    def _decrypt(self, turn: int) -> None:
        while not self._done.is_set():
            seed, answer = self._subject.encrypted[turn % len(self._subject.encrypted)]
            turn += 1
            try:
                if self._subject.decrypt(answer) != seed:
                    self.failures.append("another seed")
            except CallError as error:
                self.failures.append(error.code.name)


def check_malformed(subject: Subject) -> Iterator[Verdict]:
    """Send what is no message, and one that is far too long."""
    for method in ("Encrypt", "Decrypt"):
        try:
            subject.caller.raw(f"/v2.KeyManagementService/{method}", b"\xff" * 64)
        except CallError as error:
            subject.texts.append(error.text)
        else:
            yield warning(f"{method} takes bytes that are no message")
    with suppress(CallError):
        subject.encrypt(os.urandom(SEED_BYTES) * _OVERSIZED_SEEDS)
    yield ok("malformed and oversized messages are survived")


def check_texts(subject: Subject) -> Iterator[Verdict]:
    """Look for seeds in everything that was said with an error."""
    if any(shows(text, seed) for text in subject.texts for seed in subject.seeds):
        yield fault("the text of an error holds a part of a seed")
    else:
        yield ok(f"{len(subject.texts)} errors show nothing of a seed")
