"""Bad credentials, one by one: each is refused for its own reason and told the same."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from structlog.testing import capture_logs

from keycore.errors import UnauthenticatedError
from keyrest.compact import CREDENTIAL_CHARACTERS_MAX
from keyrest.reasons import Refusal
from tests.fakes.signing_issuer import SigningIssuer, SigningKey, base64url, compact
from tests.unit.keyrest.authentication import LEEWAY_SECONDS, Site, site

pytestmark = pytest.mark.anyio

Forge = Callable[[SigningIssuer], str]
"""Makes a bad credential for an issuer, which has an ES256 and an RS256 key."""

ATTACKER = SigningKey("k1", "ES256", which=666)


@pytest.fixture
async def here() -> AsyncIterator[Site]:
    made = site("idp", "other")
    made.issuer.keys = [SigningKey("k1", "ES256"), SigningKey("r1", "RS256")]
    made.issuers[1].keys = [SigningKey("k1", "ES256", which=2)]
    async with made.authenticator:
        yield made


def now(issuer: SigningIssuer) -> int:
    return int(issuer.clock.now().timestamp())


def claiming(**changed: Any) -> Forge:
    """Return a credential whose signature is good and whose claims are changed."""
    return lambda issuer: issuer.credential(issuer.claims(**changed))


def at(**offsets: float) -> Forge:
    """Return a credential with claims so many seconds from now."""
    return lambda issuer: issuer.credential(
        issuer.claims(**{name: now(issuer) + offset for name, offset in offsets.items()})
    )


def heading(**changed: Any) -> Forge:
    """Return a credential whose signature is good and whose header is changed."""
    return lambda issuer: issuer.credential(header=changed)


def payload(text: bytes) -> Forge:
    """Return a credential whose signature is good over a payload that is no object."""
    return lambda issuer: issuer.credential(text)


def header_text(text: bytes) -> Forge:
    """Return a credential with such a header."""
    return lambda issuer: compact(text, issuer.claims(), lambda _: b"signature")


def unsigned(algorithm: Any) -> Forge:
    """Return a credential without a signature, with ``alg`` as given."""
    return lambda issuer: compact({"alg": algorithm, "kid": "k1"}, issuer.claims(), lambda _: b"")


def hmac_with(secret_of: Callable[[SigningKey], bytes]) -> Forge:
    """Return a credential signed by HMAC, with something public of the RSA key as secret."""

    def forge(issuer: SigningIssuer) -> str:
        secret = secret_of(issuer.keys[1])
        return compact(
            {"alg": "HS256", "typ": "JWT", "kid": "r1"},
            issuer.claims(),
            lambda signed: hmac.new(secret, signed, hashlib.sha256).digest(),
        )

    return forge


def by_attacker(**header: Any) -> Forge:
    """Return a credential that the attacker's key has signed, naming it in the header."""
    return lambda issuer: issuer.credential(header=header, key=ATTACKER)


def by_issuer_other(issuer: SigningIssuer) -> str:
    """Return a credential of one issuer that the other one's key has signed."""
    return issuer.credential(key=SigningKey("k1", "ES256", which=2))


def with_changed_payload(issuer: SigningIssuer) -> str:
    header, _, signature = issuer.credential().split(".")
    claims = base64url(json.dumps(issuer.claims(sub="mallory")).encode())
    return f"{header}.{claims}.{signature}"


def with_other_signature(change: Callable[[bytes], bytes]) -> Forge:
    def forge(issuer: SigningIssuer) -> str:
        header, claims, signature = issuer.credential().split(".")
        raw = base64.urlsafe_b64decode(signature + "==")
        return f"{header}.{claims}.{base64url(change(raw))}"

    return forge


def der_signature(raw: bytes) -> bytes:
    """Return an ECDSA signature as X.509 has it, which JWS does not."""
    return encode_dss_signature(int.from_bytes(raw[:32]), int.from_bytes(raw[32:]))


def encrypted(_: SigningIssuer) -> str:
    header = base64url(b'{"alg":"RSA-OAEP","enc":"A256GCM"}')
    return ".".join([header, *[base64url(b"part")] * 4])


def as_json_serialization(issuer: SigningIssuer) -> str:
    header, claims, signature = issuer.credential().split(".")
    return json.dumps({"protected": header, "payload": claims, "signature": signature})


def of_length(length: int) -> Forge:
    def forge(issuer: SigningIssuer) -> str:
        short = issuer.credential(issuer.claims(pad=""))
        padding = (length - len(short)) * 3 // 4
        return issuer.credential(issuer.claims(pad="x" * padding))

    return forge


NONES = ["none", "None", "NONE", "nOnE", "none ", "", None, [], ["none"], {}, 0, False]

REFUSED: list[tuple[str, Forge, Refusal]] = [
    *[(f"alg {alg!r}", unsigned(alg), Refusal.ALGORITHM) for alg in NONES],
    ("alg absent", header_text(b'{"kid":"k1"}'), Refusal.ALGORITHM),
    ("alg in lower case", heading(alg="es256"), Refusal.ALGORITHM),
    ("alg unknown", heading(alg="ES256K"), Refusal.ALGORITHM),
    ("alg of another curve", heading(alg="ES384"), Refusal.KEY_MISMATCH),
    ("alg of another key type", heading(alg="RS256"), Refusal.KEY_MISMATCH),
    ("HMAC with the PEM", hmac_with(lambda key: key.key.as_pem()), Refusal.ALGORITHM),
    ("HMAC with the DER", hmac_with(lambda key: key.key.as_der()), Refusal.ALGORITHM),
    (
        "HMAC with the JWK",
        hmac_with(lambda key: json.dumps(key.jwk()).encode()),
        Refusal.ALGORITHM,
    ),
    ("no signature", with_other_signature(lambda _: b""), Refusal.SIGNATURE),
    ("a cut signature", with_other_signature(lambda raw: raw[:-1]), Refusal.SIGNATURE),
    ("a longer signature", with_other_signature(lambda raw: raw + b"\0"), Refusal.SIGNATURE),
    ("a zero signature", with_other_signature(lambda raw: bytes(len(raw))), Refusal.SIGNATURE),
    (
        "one flipped bit",
        with_other_signature(lambda raw: bytes([raw[0] ^ 1]) + raw[1:]),
        Refusal.SIGNATURE,
    ),
    ("a DER signature", with_other_signature(der_signature), Refusal.SIGNATURE),
    ("changed claims", with_changed_payload, Refusal.SIGNATURE),
    ("another issuer's key", by_issuer_other, Refusal.SIGNATURE),
    ("attacker's key under a known kid", by_attacker(), Refusal.SIGNATURE),
    ("embedded jwk", by_attacker(jwk=ATTACKER.jwk()), Refusal.SIGNATURE),
    ("embedded jwk without kid", by_attacker(jwk=ATTACKER.jwk(), kid=None), Refusal.SIGNATURE),
    ("jku", by_attacker(jku="https://evil.example/jwks"), Refusal.SIGNATURE),
    ("x5u", by_attacker(x5u="https://evil.example/x5u"), Refusal.SIGNATURE),
    ("x5c", by_attacker(x5c=["MIIB"]), Refusal.SIGNATURE),
    ("kid unknown", heading(kid="k9"), Refusal.UNKNOWN_KEY),
    ("kid empty", heading(kid=""), Refusal.UNKNOWN_KEY),
    ("kid a path", heading(kid="../../../dev/null"), Refusal.UNKNOWN_KEY),
    ("kid a number", heading(kid=1), Refusal.MALFORMED),
    ("kid a list", heading(kid=["k1"]), Refusal.MALFORMED),
    ("kid null", header_text(b'{"alg":"ES256","kid":null}'), Refusal.MALFORMED),
    ("crit", heading(crit=["exp"]), Refusal.CRITICAL),
    ("crit empty", heading(crit=[]), Refusal.CRITICAL),
    ("crit b64", heading(crit=["b64"], b64=False), Refusal.CRITICAL),
    ("typ of a logout token", heading(typ="logout+jwt"), Refusal.TYPE),
    ("typ of a DPoP proof", heading(typ="dpop+jwt"), Refusal.TYPE),
    ("typ JWS", heading(typ="JOSE"), Refusal.TYPE),
    ("typ a list", heading(typ=["JWT"]), Refusal.TYPE),
    ("typ null", header_text(b'{"alg":"ES256","typ":null}'), Refusal.TYPE),
    ("JWE", encrypted, Refusal.ENCRYPTED),
    ("JSON serialization", as_json_serialization, Refusal.MALFORMED),
    ("opaque", lambda _: "2YotnFZFEjr1zCsicMWpAA", Refusal.MALFORMED),
    ("empty", lambda _: "", Refusal.MALFORMED),
    ("two parts", lambda i: i.credential().rpartition(".")[0], Refusal.MALFORMED),
    ("four parts", lambda i: f"{i.credential()}.AAAA", Refusal.MALFORMED),
    ("only dots", lambda _: "..", Refusal.MALFORMED),
    ("padded base64", lambda i: f"{i.credential()}=", Refusal.MALFORMED),
    ("ordinary base64", lambda i: f"{i.credential()}+", Refusal.MALFORMED),
    ("a blank at the end", lambda i: f"{i.credential()} ", Refusal.MALFORMED),
    ("a line break", lambda i: f"{i.credential()}\r\nX: y", Refusal.MALFORMED),
    ("a character beyond ASCII", lambda i: f"{i.credential()}é", Refusal.MALFORMED),
    ("a lone surrogate", lambda i: f"{i.credential()}\ud800", Refusal.MALFORMED),
    ("quoted", lambda i: f'"{i.credential()}"', Refusal.MALFORMED),
    ("joined by a comma", lambda i: f"{i.credential()}, {i.bearer()}", Refusal.MALFORMED),
    ("joined without a blank", lambda i: f"{i.credential()},{i.bearer()}", Refusal.MALFORMED),
    ("header no JSON", header_text(b"nonsense"), Refusal.MALFORMED),
    ("header a list", header_text(b'["ES256"]'), Refusal.MALFORMED),
    ("header with a name twice", header_text(b'{"alg":"ES256","alg":"none"}'), Refusal.MALFORMED),
    ("header a bomb", header_text(b"[" * 5000 + b"]" * 5000), Refusal.MALFORMED),
    ("payload no UTF-8", payload(b'{"sub":"\xff"}'), Refusal.MALFORMED),
    ("payload UTF-16", payload('{"sub":"a"}'.encode("utf-16")), Refusal.MALFORMED),
    ("payload with a byte order mark", payload(b"\xef\xbb\xbf{}"), Refusal.MALFORMED),
    ("payload a text", payload(b'"alice"'), Refusal.MALFORMED),
    ("payload empty", payload(b""), Refusal.MALFORMED),
    ("payload with a name twice", payload(b'{"sub":"a","sub":"b"}'), Refusal.MALFORMED),
    ("a bomb of lists", payload(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"), Refusal.MALFORMED),
    ("a bomb of objects", payload(b'{"a":' * 2000 + b"1" + b"}" * 2000), Refusal.MALFORMED),
    ("a number of 5000 digits", payload(b'{"exp":' + b"9" * 5000 + b"}"), Refusal.MALFORMED),
    ("exp NaN", payload(b'{"exp":NaN}'), Refusal.MALFORMED),
    ("exp Infinity", payload(b'{"exp":Infinity}'), Refusal.MALFORMED),
    ("iss absent", claiming(iss=None), Refusal.UNKNOWN_ISSUER),
    ("iss unknown", claiming(iss="https://evil.example"), Refusal.UNKNOWN_ISSUER),
    ("iss with a slash", claiming(iss="https://idp.example/"), Refusal.UNKNOWN_ISSUER),
    ("iss in upper case", claiming(iss="https://IDP.example"), Refusal.UNKNOWN_ISSUER),
    ("iss a list", claiming(iss=["https://idp.example"]), Refusal.UNKNOWN_ISSUER),
    ("exp absent", claiming(exp=None), Refusal.NO_EXPIRY),
    ("exp now", at(exp=0), Refusal.EXPIRED),
    ("exp within the leeway", at(exp=-1), Refusal.EXPIRED),
    ("exp long ago", at(exp=-86400), Refusal.EXPIRED),
    ("exp zero", claiming(exp=0), Refusal.EXPIRED),
    ("exp a text", claiming(exp="1900000000"), Refusal.BAD_TIME),
    ("exp true", claiming(exp=True), Refusal.BAD_TIME),
    ("exp a list", claiming(exp=[1900000000]), Refusal.BAD_TIME),
    ("exp huge", claiming(exp=10**400), Refusal.BAD_TIME),
    ("exp a huge float", claiming(exp=1e300), Refusal.BAD_TIME),
    ("exp in milliseconds", claiming(exp=1_900_000_000_000), Refusal.BAD_TIME),
    ("exp negative", claiming(exp=-1), Refusal.BAD_TIME),
    ("nbf beyond the leeway", at(nbf=LEEWAY_SECONDS + 1), Refusal.EARLY),
    ("iat beyond the leeway", at(iat=LEEWAY_SECONDS + 1), Refusal.EARLY),
    ("nbf a text", claiming(nbf="0"), Refusal.BAD_TIME),
    ("nbf false", claiming(nbf=False), Refusal.BAD_TIME),
    ("iat a text", claiming(iat="0"), Refusal.BAD_TIME),
    ("aud absent", claiming(aud=None), Refusal.NO_AUDIENCE),
    ("aud of somebody else", claiming(aud="somebody"), Refusal.OTHER_AUDIENCE),
    ("aud a longer text", claiming(aud="keyplane2"), Refusal.OTHER_AUDIENCE),
    ("aud of others", claiming(aud=["a", "b"]), Refusal.OTHER_AUDIENCE),
    ("aud with a number", claiming(aud=["keyplane", 5]), Refusal.OTHER_AUDIENCE),
    ("aud empty", claiming(aud=[]), Refusal.OTHER_AUDIENCE),
    ("aud an object", claiming(aud={"keyplane": 1}), Refusal.OTHER_AUDIENCE),
    ("aud true", claiming(aud=True), Refusal.OTHER_AUDIENCE),
    ("sub absent", claiming(sub=None), Refusal.NO_SUBJECT),
    ("sub empty", claiming(sub=""), Refusal.BAD_SUBJECT),
    ("sub a number", claiming(sub=5), Refusal.BAD_SUBJECT),
    ("sub a list", claiming(sub=["alice"]), Refusal.BAD_SUBJECT),
    ("sub of 256 characters", claiming(sub="x" * 256), Refusal.BAD_SUBJECT),
    ("sub with a line break", claiming(sub="alice\nbob"), Refusal.BAD_SUBJECT),
    ("sub with a NUL", claiming(sub="alice\0"), Refusal.BAD_SUBJECT),
    ("sub with an escape", claiming(sub="\x1b[31malice"), Refusal.BAD_SUBJECT),
    ("sub with a bidi override", claiming(sub="\u202eecila"), Refusal.BAD_SUBJECT),
    ("sub with a lone surrogate", claiming(sub="\ud800"), Refusal.BAD_SUBJECT),
    ("oversized", of_length(CREDENTIAL_CHARACTERS_MAX + 8), Refusal.OVERSIZED),
]


@pytest.mark.parametrize(
    ("forge", "reason"),
    [pytest.param(forge, reason, id=name) for name, forge, reason in REFUSED],
)
async def test_a_bad_credential_is_refused_for_its_own_reason(
    here: Site, forge: Forge, reason: Refusal
) -> None:
    assert await here.refusal(f"Bearer {forge(here.issuer)}") == reason


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, Refusal.MISSING),
        ("", Refusal.SCHEME),
        ("Basic YWxpY2U6c2VjcmV0", Refusal.SCHEME),
        ("Bearers {}", Refusal.SCHEME),
        ("{}", Refusal.SCHEME),
        (" Bearer {}", Refusal.SCHEME),
        ("Bearer\t{}", Refusal.SCHEME),
        ("Bearer", Refusal.MALFORMED),
        ("Bearer ", Refusal.MALFORMED),
        ("Bearer Bearer {}", Refusal.MALFORMED),
        ("Bearer x," + "y" * 20_000, Refusal.OVERSIZED),
    ],
)
async def test_a_header_that_is_no_bearer_credential_is_refused(
    here: Site, header: str | None, reason: Refusal
) -> None:
    filled = None if header is None else header.format(here.issuer.credential())

    assert await here.refusal(filled) == reason


async def test_the_longest_credential_is_still_read(here: Site) -> None:
    longest = of_length(CREDENTIAL_CHARACTERS_MAX - 8)(here.issuer)

    assert CREDENTIAL_CHARACTERS_MAX - 16 < len(longest) <= CREDENTIAL_CHARACTERS_MAX
    assert await here.authenticator.authenticate(f"Bearer {longest}")


async def test_the_caller_is_told_the_same_whatever_the_reason(here: Site) -> None:
    told = set()
    for _, forge, _ in REFUSED:
        with pytest.raises(UnauthenticatedError) as refused:
            await here.authenticator.authenticate(f"Bearer {forge(here.issuer)}")
        told.add((str(refused.value), refused.value.hint, refused.value.code))

    assert len(told) == 1


async def test_no_part_of_a_credential_is_in_an_error_or_in_the_log(here: Site) -> None:
    """Not even in a cause that nobody prints by default."""
    for _, forge, _ in REFUSED:
        credential = forge(here.issuer)
        with capture_logs() as logs, pytest.raises(UnauthenticatedError) as refused:
            await here.authenticator.authenticate(f"Bearer {credential}")

        error: BaseException | None = refused.value
        assert error is not None
        assert error.__cause__ is error.__context__ is None
        shown = str(logs) + "".join(traceback.format_exception(error))
        parts = [part for part in credential.split(".") if len(part) > 12]
        assert not any(part in shown for part in parts)


async def test_every_reason_has_been_met(here: Site) -> None:
    met = {reason for _, _, reason in REFUSED} | {Refusal.MISSING, Refusal.SCHEME}

    # Keys that share a kid belong to the set of keys, and are tried there.
    assert met | {Refusal.AMBIGUOUS_KEY} == set(Refusal)


async def test_the_documentation_explains_every_reason_and_no_other() -> None:
    text = (Path(__file__).parents[3] / "docs" / "rest-identity.md").read_text(encoding="utf-8")
    _, _, table = text.partition("## Why a token was refused")

    explained = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert explained == [reason.value for reason in Refusal]
