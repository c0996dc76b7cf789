"""Checks on module, token and PIN, made of what the child process tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from keycore.adapters.softhsm import token_directory
from keycore.bootstrap import was_initialised
from keycore.diagnosis.examination import Examination
from keycore.diagnosis.findings import CannotLookError, Verdict, fault, ok, warning
from keycore.errors import TokenSetupError
from keycore.settings import Settings

_FLAG_FAULTS: Final[Mapping[str, tuple[str, str]]] = {
    "ERROR_STATE": (
        "the token has failed its own tests and does nothing",
        "restart the HSM; if that does not help, ask its maker",
    ),
    "USER_PIN_LOCKED": (
        "the token has locked the user PIN after too many wrong ones",
        "let the security officer set the PIN anew, then write it into the PIN file",
    ),
    "USER_PIN_FINAL_TRY": (
        "one more wrong PIN locks the token; no login is tried",
        "find out who sends a wrong PIN, then log in once by the token's own tool",
    ),
    "USER_PIN_TO_BE_CHANGED": (
        "the token wants another user PIN before it serves",
        "change the PIN by the token's own tool, then write it into the PIN file",
    ),
}
"""What the token tells without a login (PKCS#11 v3.0, CK_TOKEN_INFO), the worst first."""

_WEAK: Final = (
    "the object was not made by keyplane init; anybody with the PIN can misuse it: "
    "use another token, or restore this one from a backup"
)

_DISTINCT_MIN: Final = 16


def check_module(examination: Examination) -> Iterator[Verdict]:
    """Can the shared library be loaded and initialised?"""
    _require_embedded_token(examination.settings)
    facts = examination.token.ask("module")
    maker = " ".join(filter(None, (facts["manufacturer"], facts["description"])))
    yield ok(f"{maker}, version {facts['version']}, PKCS#11 {facts['cryptoki']}")


def check_token(examination: Examination) -> Iterator[Verdict]:
    """Is there exactly one token of that label and serial number?"""
    facts = examination.token.ask("token")
    model = " ".join(filter(None, (facts["manufacturer"], facts["model"])))
    yield ok(f"{facts['label']!r}, serial {facts['serial']}, {model}, firmware {facts['firmware']}")


def check_pin_state(examination: Examination) -> Iterator[Verdict]:
    """How near is the token to locking its PIN? This is looked at before any login."""
    flags = set(examination.token.ask("token")["flags"])
    faults = [words for flag, words in _FLAG_FAULTS.items() if flag in flags]
    if faults:
        yield fault(*faults[0])
    elif "USER_PIN_INITIALIZED" not in flags:
        yield fault(
            "the token has no user PIN yet",
            "let the security officer set it, then write it into the PIN file",
        )
    elif "USER_PIN_COUNT_LOW" in flags:
        yield warning(
            "a wrong PIN was sent to the token since the last login",
            "find out who did: tokens lock after a few of them",
        )
    else:
        yield ok("the token counts no wrong PIN")


def check_login(examination: Examination) -> Iterator[Verdict]:
    """Does the token take the PIN? It is tried once."""
    examination.token.ask("login")
    yield ok("the token took the PIN")


def check_mechanisms(examination: Examination) -> Iterator[Verdict]:
    """Does the token offer all that a profile needs?"""
    facts = examination.token.ask("mechanisms")
    yield ok(f"the token offers all {facts['needed']} that the profile {facts['profile']} needs")


def check_objects(examination: Examination) -> Iterator[Verdict]:
    """Are the objects of ``init`` there, once, and as strong as it made them?"""
    found = examination.token.ask("objects")["objects"]
    verdicts = [verdict for label, facts in found.items() for verdict in _judged(label, facts)]
    yield from verdicts
    if not verdicts:
        examination.token.ask("open")
        yield ok(f"{', '.join(found)}: as keyplane init makes them")


def check_guarantee(examination: Examination) -> Iterator[Verdict]:
    """Does the token itself keep a holder of the PIN from reading root keys?"""
    if examination.token.ask("guarantee")["guards"]:
        yield ok("the token refuses to unwrap a root key readable, even for the PIN")
    else:
        yield warning(
            "whoever holds the PIN and the store can read root keys: "
            "PIN holder = key custodian with this token",
            "guard the PIN file like the keys; a token with CKA_UNWRAP_TEMPLATE does better",
        )


def check_known_answers(examination: Examination) -> Iterator[Verdict]:
    """Does the token compute what another implementation computes?"""
    round_trip = examination.token.ask("round_trip")
    answers = examination.token.ask("known_answers")
    name = {"gcm": "AES-256-GCM", "cbc": "AES-256-CBC"}[answers["cipher"]]
    wrong = {
        f"{name} under a known key gives other bytes than it should": not answers["encryption"],
        "HMAC-SHA-256 under a known key gives other bytes than it should": not answers["hmac"],
        "a root key does not open what it closed": not round_trip["root_key"],
        "a changed ciphertext is opened": not round_trip["forgery_refused"],
        "the sealing key does not open what it closed": not round_trip["sealing_key"],
    }
    faults = [what for what, is_wrong in wrong.items() if is_wrong]
    for what in faults:
        yield fault(what, "do not use this token or this version of its module; ask its maker")
    if not faults:
        yield ok(f"{name} and HMAC-SHA-256 give the right bytes; a changed ciphertext is refused")


def check_random(examination: Examination) -> Iterator[Verdict]:
    """Is the random source one? Nonces come from it."""
    facts = examination.token.ask("random")
    if facts["repeated"] or facts["distinct"] < _DISTINCT_MIN or len(set(facts["lengths"])) > 1:
        yield fault(
            "the token's random bytes are not random: nonces would repeat",
            "stop using this token at once, and ask its maker",
        )
    else:
        yield ok("two draws of 32 bytes differ")


def _require_embedded_token(settings: Settings) -> None:
    """Ask no module for a token that was not made yet: its answer would mislead."""
    tokens = token_directory(settings.state_dir)
    if not settings.embedded or tokens.is_dir():
        return
    if was_initialised(settings):
        raise TokenSetupError(
            f"the token's directory {tokens} is gone",
            hint="put it back, or restore it from a backup; a new one would not hold the keys",
        )
    raise CannotLookError("installation")


def _judged(label: str, facts: Mapping[str, Any]) -> Iterator[Verdict]:
    if facts["count"] != 1:
        yield fault(
            f"the token holds {facts['count']} objects {label}, expected one",
            "is it the token of this installation? If it is new, run keyplane init",
        )
        return
    wrong = [
        f"CKA_{name} is {str(state['is']).upper()}"
        for name, state in facts["attributes"].items()
        if state["is"] is not None and state["is"] is not state["should"]
    ]
    if wrong:
        yield fault(f"{label} is weaker than keyplane makes it: {', '.join(wrong)}", _WEAK)
