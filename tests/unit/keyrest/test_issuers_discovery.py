"""What an issuer may answer, and that nothing else is followed, believed or told."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from keycore.errors import IssuerUnavailableError
from keycore.settings import IssuerSettings
from keyrest import discovery
from keyrest.discovery import ANSWER_BYTES_MAX, HttpsKeySource
from keyrest.jwks import VerificationKeys
from tests.fakes.signing_issuer import SigningKey

pytestmark = pytest.mark.anyio

URL = "https://idp.example/realms/one"
METADATA = f"{URL}/.well-known/openid-configuration"
KEYS = f"{URL}/jwks"
KEY_SET = {"keys": [SigningKey("k1", "ES256").jwk()]}

Answer = Callable[[httpx.Request], httpx.Response]


def answer(
    body: bytes | Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> httpx.Response:
    """Return an answer that has not been read yet, as from a connection."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def parts() -> AsyncIterator[bytes]:
        yield content

    return httpx.Response(status, headers=headers, content=parts())


class Server:
    """Answers with good documents, except where a test says otherwise."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.metadata: dict[str, Any] = {"issuer": URL, "jwks_uri": KEYS}
        self.answers: dict[str, Answer] = {}

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        url = str(request.url)
        if url in self.answers:
            return self.answers[url](request)
        return answer(KEY_SET if "jwks" in url else self.metadata)

    async def fetch(self, **settings: Any) -> VerificationKeys:
        issuer = IssuerSettings(**{"name": "idp", "url": URL, "audience": "keyplane", **settings})
        return await HttpsKeySource(issuer, transport=httpx.MockTransport(self)).fetch()

    async def fault(self, **settings: Any) -> str:
        """Return why the keys cannot be had."""
        with pytest.raises(IssuerUnavailableError) as refused:
            await self.fetch(**settings)
        return refused.value.message

    @property
    def urls(self) -> list[str]:
        return [str(request.url) for request in self.requests]


@pytest.fixture
def server() -> Server:
    return Server()


async def test_keys_are_found_by_the_metadata_of_the_issuer(server: Server) -> None:
    keys = await server.fetch()

    assert keys.find("k1", "ES256") is not None
    assert server.urls == [METADATA, KEYS]


async def test_a_slash_that_ends_the_issuer_is_not_doubled(server: Server) -> None:
    server.metadata["issuer"] = f"{URL}/"

    await server.fetch(url=f"{URL}/")

    assert server.urls[0] == METADATA


async def test_metadata_may_lie_elsewhere_and_still_name_the_issuer(server: Server) -> None:
    await server.fetch(discovery_url="https://10.0.0.1:6443/openid")

    assert server.urls == ["https://10.0.0.1:6443/openid", KEYS]


@pytest.mark.parametrize(
    "named", [f"{URL}/", URL.upper(), "https://evil.example", "", None, [URL], 5], ids=repr
)
async def test_metadata_of_another_issuer_are_refused(server: Server, named: object) -> None:
    server.metadata["issuer"] = named

    assert "another issuer" in await server.fault()
    assert server.urls == [METADATA]


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example/jwks",
        "HTTP://idp.example/jwks",
        "file:///etc/passwd",
        "//idp.example/jwks",
        "/jwks",
        "https://",
        "https:///jwks",
        "https://user:secret@idp.example/jwks",
        "https://[::1/jwks",
        "",
        None,
        5,
        [KEYS],
    ],
    ids=repr,
)
async def test_keys_are_fetched_by_plain_https_only(server: Server, url: object) -> None:
    server.metadata["jwks_uri"] = url

    assert "no plain https:// URL" in await server.fault()
    assert server.urls == [METADATA]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("url", [METADATA, KEYS], ids=["metadata", "keys"])
async def test_a_redirect_is_not_followed(server: Server, url: str, status: int) -> None:
    headers = {"Location": "https://evil.example/"}
    server.answers[url] = lambda _: answer(b"", status=status, headers=headers)

    assert f"status {status}" in await server.fault()
    assert server.urls[-1] == url


@pytest.mark.parametrize("status", [201, 204, 206, 401, 403, 404, 429, 500, 503])
async def test_any_other_status_than_200_is_a_fault(server: Server, status: int) -> None:
    server.answers[KEYS] = lambda _: answer(KEY_SET, status=status)

    assert f"its keys cannot be fetched: the answer has status {status}" == await server.fault()


def padded(length: int) -> bytes:
    return json.dumps(KEY_SET).encode().ljust(length)


async def test_an_answer_of_one_mebibyte_is_read(server: Server) -> None:
    server.answers[KEYS] = lambda _: answer(padded(ANSWER_BYTES_MAX))

    assert len(await server.fetch()) == 1


async def test_a_longer_one_is_not_read_to_its_end(server: Server) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65536
            yield b" " * 65536

    server.answers[KEYS] = lambda _: httpx.Response(200, content=endless())

    assert "longer than 1048576 bytes" in await server.fault()
    assert sent <= 2 * ANSWER_BYTES_MAX


async def test_a_compressed_answer_is_not_unfolded(server: Server) -> None:
    bomb = gzip.compress(padded(10 * ANSWER_BYTES_MAX))
    server.answers[KEYS] = lambda _: answer(bomb, headers={"Content-Encoding": "gzip"})

    assert "compressed" in await server.fault()
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


async def test_an_answer_takes_five_seconds_at_most_however_it_trickles(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert discovery.ANSWER_SECONDS_MAX == 5
    monkeypatch.setattr(discovery, "ANSWER_SECONDS_MAX", 0.05)

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.001)
            yield b" "

    server.answers[KEYS] = lambda _: httpx.Response(200, content=trickle())

    assert "no answer within" in await server.fault()


@pytest.mark.parametrize("document", [b"", b"<html>", b"[]", b'{"issuer":', b"\xff"], ids=repr)
async def test_metadata_that_are_no_object_are_a_fault(server: Server, document: bytes) -> None:
    server.answers[METADATA] = lambda _: answer(document)

    assert await server.fault() == "its metadata are no JSON object"


async def test_keys_that_are_no_key_set_are_a_fault(server: Server) -> None:
    server.answers[KEYS] = lambda _: answer({"keys": "none"})

    assert await server.fault() == "its keys are no JSON Web Key Set"


class TestCredential:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "credential"
        path.write_text("first.secret\n")
        return path

    async def test_it_is_sent_for_metadata_and_keys(self, server: Server, file: Path) -> None:
        await server.fetch(credential_file=file)

        sent = [request.headers["Authorization"] for request in server.requests]
        assert sent == ["Bearer first.secret"] * 2

    async def test_without_one_none_is_sent(self, server: Server) -> None:
        await server.fetch()

        assert not any("Authorization" in request.headers for request in server.requests)

    async def test_it_is_read_again_for_each_fetch(self, server: Server, file: Path) -> None:
        await server.fetch(credential_file=file)
        file.write_text("second.secret")

        await server.fetch(credential_file=file)

        assert server.requests[-1].headers["Authorization"] == "Bearer second.secret"

    async def test_a_missing_one_is_a_fault(self, server: Server, file: Path) -> None:
        file.unlink()

        assert "cannot be read: No such file" in await server.fault(credential_file=file)
        assert server.urls == []

    @pytest.mark.parametrize(
        "content",
        [b"", b" \n", b"two words", b"secret\r\nX-Evil: 1", b"secr\xc3\xa9t", b"\0", b"s" * 16385],
        ids=lambda content: repr(content[:20]),
    )
    async def test_what_is_no_credential_is_not_sent_and_not_told(
        self, server: Server, file: Path, content: bytes
    ) -> None:
        file.write_bytes(content)

        assert await server.fault(credential_file=file) == (
            f"its credential_file {file} holds no bearer credential"
        )
        assert server.urls == []

    @pytest.mark.parametrize(
        "error",
        [
            httpx.ConnectError("first.secret"),
            httpx.LocalProtocolError("Illegal header value b'Bearer first.secret'"),
            httpx.RemoteProtocolError("first.secret"),
            httpx.ReadTimeout("first.secret"),
            httpx.InvalidURL("first.secret"),
            OSError("first.secret"),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_no_fault_tells_it(self, server: Server, file: Path, error: Exception) -> None:
        """Nor does a cause: an error of httpx holds the request with its headers."""

        def fail(_: httpx.Request) -> httpx.Response:
            raise error

        server.answers[METADATA] = fail
        with pytest.raises(IssuerUnavailableError) as refused:
            await server.fetch(credential_file=file)

        told = refused.value
        assert "secret" not in "".join(traceback.format_exception(told))
        assert told.__cause__ is told.__context__ is None


class TestTrust:
    async def test_a_ca_file_that_cannot_be_read_is_a_fault(
        self, server: Server, tmp_path: Path
    ) -> None:
        (tmp_path / "empty.pem").touch()

        for name, fault in (("missing", "does not exist"), ("empty", "holds no readable CA")):
            assert fault in await server.fault(ca_file=tmp_path / f"{name}.pem")

    async def test_certificates_and_host_names_are_checked_with_tls_1_2_or_newer(self) -> None:
        trust = discovery._trust(None)

        assert trust.verify_mode is ssl.CERT_REQUIRED
        assert trust.check_hostname
        assert trust.minimum_version >= ssl.TLSVersion.TLSv1_2

    async def test_the_reason_why_a_certificate_is_not_accepted_is_told(
        self, server: Server
    ) -> None:
        def refuse(_: httpx.Request) -> httpx.Response:
            cause = ssl.SSLCertVerificationError(1, "x")
            cause.verify_message = "certificate has expired"
            raise httpx.ConnectError("x") from cause

        server.answers[METADATA] = refuse

        assert await server.fault() == (
            "its metadata cannot be fetched: its certificate is not accepted: "
            "certificate has expired"
        )
