"""Holds any KMS v2 provider to what kube-apiserver expects of it, by calling it.

Nothing is assumed of the provider but its socket. Seeds are random, and neither they nor a
ciphertext nor a ``key_id`` is ever shown: another provider may put a secret into any.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from keycore.diagnosis.findings import Check, Finding, Verdict, examine, fault, ok, warning
from keyplugin import probe_cryptography as cryptography
from keyplugin.kms_caller import TIMEOUT_SECONDS, CallError, KmsCaller
from keyplugin.measuring import STATUS_SECONDS_SLOW, judged_times
from keyplugin.probe_subject import Subject
from keyplugin.rules import API_VERSION, FORMER_API_VERSION, faults_of_status
from keyplugin.socket_place import judged_directory, judged_file, judged_path, server_of


def probe(
    socket: Path,
    *,
    count: int,
    status_only: bool = False,
    timeout_seconds: float = TIMEOUT_SECONDS,
    announce: Callable[[str], None] = lambda _: None,
) -> Iterator[Finding]:
    """Call a provider and say how it behaves.

    Args:
        socket: where it listens.
        count: calls of each kind, at least 2.
        status_only: neither encrypt nor decrypt anything.
        timeout_seconds: how long each call may take.
        announce: told the name of each check before it runs.

    Yields:
        What was found; the advice is the reason of the rule.
    """
    checks = (*_PLACE, *_STATUS, *(() if status_only else _CRYPTOGRAPHY), *_LAST)
    with KmsCaller(socket, timeout_seconds=timeout_seconds) as caller:
        for finding in examine(checks, Subject(socket, caller, count), announce=announce):
            verdict = finding.verdict
            reason = verdict.advice or _REASONS[finding.check]
            yield Finding(finding.check, replace(verdict, advice=reason))


# --- the socket --------------------------------------------------------------


def _check_path(subject: Subject) -> Iterator[Verdict]:
    yield from judged_path(subject.path) or [ok(str(subject.path))]


def _check_directory(subject: Subject) -> Iterator[Verdict]:
    yield judged_directory(subject.path)


def _check_file(subject: Subject) -> Iterator[Verdict]:
    if os.path.lexists(subject.path):
        yield judged_file(subject.path)
    else:
        yield fault(f"there is no {subject.path}", "a provider makes its socket when it starts")


def _check_server(subject: Subject) -> Iterator[Verdict]:
    try:
        server = server_of(subject.path)
    except OSError as error:
        yield fault(
            f"the socket cannot be opened: {error.strerror or error}",
            "run this as root, or as the user that kube-apiserver runs as",
        )
        return
    yield fault("nobody listens") if server is None else ok(f"served by {server}")


# --- Status ------------------------------------------------------------------


def _check_status(subject: Subject) -> Iterator[Verdict]:
    try:
        subject.status = subject.caller.status()
    except CallError as error:
        yield fault(f"Status was not answered ({error.code.name})")
    else:
        yield ok("Status is answered")


def _check_status_answer(subject: Subject) -> Iterator[Verdict]:
    status = subject.status
    faults = faults_of_status(status.version, status.healthz, status.key_id)
    for what in faults:
        yield fault(what)
    if status.version == FORMER_API_VERSION:
        yield warning(f"version is {FORMER_API_VERSION!r}, the protocol's is {API_VERSION!r} today")
    elif not faults:
        yield ok(f"version {API_VERSION}, healthz ok, a key_id of {len(status.key_id)} characters")


def _check_key_id(subject: Subject) -> Iterator[Verdict]:
    seen = [subject.status.key_id]
    try:
        seen += [subject.caller.status().key_id for _ in range(subject.count)]
    except CallError as error:
        yield fault(f"after some calls Status was not answered any more ({error.code.name})")
        return
    changes = sum(before != after for before, after in pairwise(seen))
    if changes >= len(set(seen)):
        yield fault(f"the key_id goes back and forth: {changes} changes in {len(seen)} polls")
    elif changes:
        yield warning(f"the key_id changed in {len(seen)} polls; was there a rotation just now?")
    else:
        yield ok(f"the same key_id in {len(seen)} polls")


def _check_status_times(subject: Subject) -> Iterator[Verdict]:
    # The first call has also made the connection.
    yield judged_times(
        "Status", subject.caller.seconds["Status"][1:], slow_seconds=STATUS_SECONDS_SLOW
    )


# --- what nobody asks for ----------------------------------------------------


def _check_unknown_methods(subject: Subject) -> Iterator[Verdict]:
    wrong = False
    for method in ("/v2.KeyManagementService/Rewrap", "/v3.KeyManagementService/Status"):
        try:
            subject.caller.raw(method, b"")
        except CallError as error:
            if error.code.name == "UNIMPLEMENTED":
                continue
        wrong = True
        yield warning(f"the unknown method {method} is not answered with UNIMPLEMENTED")
    if not wrong:
        yield ok("unknown methods are answered with UNIMPLEMENTED")


def _check_still_there(subject: Subject) -> Iterator[Verdict]:
    try:
        status = subject.caller.status()
    except CallError as error:
        yield fault(f"Status is not answered any more ({error.code.name})")
        return
    if status.healthz != subject.status.healthz:
        yield warning("healthz is another one than at the beginning")
    else:
        yield ok("the provider answers as at the beginning")


_REASONS: Final[Mapping[str, str]] = {
    "path": "the directory and the socket's mode are the whole access control",
    "directory": "whoever replaces the socket is sent new seeds",
    "socket": "whoever opens the socket can decrypt",
    "server": "without a provider the API server can neither read nor write",
    "Status": "without an answer writes fail within 3 minutes",
    "Status answer": "the API server takes nothing else for a healthy provider",
    "key_id": "each change makes the API servers make a new seed and call old objects stale",
    "Status latency": "Status must never wait for cryptography; the API server gives up after 3 s",
    "Encrypt": "without an answer the API server makes no new seed",
    "Encrypt answer": "the API server throws any other answer away",
    "freshness": "equal ciphertexts tell that seeds are equal, and a nonce may repeat",
    "Encrypt latency": "the API server asks for 100 ms; it encrypts once for each seed",
    "Decrypt": "what does not come back is lost",
    "Decrypt latency": "the API server asks for 10 ms; after a restart it decrypts every seed",
    "other key_ids": "a provider must know the key_id that it is asked for, and refuse any other",
    "changed ciphertexts": "what somebody changed in etcd must not become a seed",
    "concurrency": "after a restart the API server decrypts many seeds and asks for Status too",
    "unknown methods": "a newer API server finds out by this code what a provider can do",
    "malformed messages": "a provider that can be crashed takes the API server along",
    "error texts": "errors end in the API server's log",
    "afterwards": "nothing that was sent may have harmed it",
}

_S: Final = ("Status",)

_E: Final = ("Encrypt",)

_D: Final = ("Decrypt",)

_PLACE: Final[tuple[Check[Subject], ...]] = (
    Check("path", _check_path),
    Check("directory", _check_directory, ("path",)),
    Check("socket", _check_file, ("path",)),
    Check("server", _check_server, ("path",)),
)

_STATUS: Final[tuple[Check[Subject], ...]] = (
    Check("Status", _check_status, ("server",)),
    Check("Status answer", _check_status_answer, _S),
    Check("key_id", _check_key_id, _S),
    Check("Status latency", _check_status_times, _S),
)

_CRYPTOGRAPHY: Final[tuple[Check[Subject], ...]] = (
    Check("Encrypt", cryptography.check_encrypt, _S),
    Check("Encrypt answer", cryptography.check_encrypt_answer, _E),
    Check("freshness", cryptography.check_freshness, _E),
    Check("Encrypt latency", cryptography.check_encrypt_times, _E),
    Check("Decrypt", cryptography.check_decrypt, _E),
    Check("Decrypt latency", cryptography.check_decrypt_times, _D),
    Check("other key_ids", cryptography.check_other_key_ids, _D),
    Check("changed ciphertexts", cryptography.check_changed_ciphertexts, _D),
    Check("concurrency", cryptography.check_concurrency, _D),
    Check("malformed messages", cryptography.check_malformed, _S),
    Check("error texts", cryptography.check_texts, _S),
)

_LAST: Final[tuple[Check[Subject], ...]] = (
    Check("unknown methods", _check_unknown_methods, _S),
    Check("afterwards", _check_still_there, _S),
)
