"""Fetches an issuer's keys: OpenID Connect Discovery 1.0, over HTTPS and nothing else.

The one thing that makes an issuer's keys its own is the TLS connection to it. So
there is no other scheme, no redirect and no way to leave the certificate unchecked.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx

from keycore.errors import IssuerUnavailableError
from keycore.settings import IssuerSettings
from keyrest.encodings import read_object
from keyrest.jwks import VerificationKeys, read_key_set

ANSWER_BYTES_MAX = 1024 * 1024
"""Metadata and keys of real issuers have a few KiB."""

ANSWER_SECONDS_MAX = 5.0
"""For one whole answer, from the connection to the last byte."""

CREDENTIAL_BYTES_MAX = 16 * 1024

_CREDENTIAL = re.compile(r"[A-Za-z0-9._~+/-]+=*", re.ASCII)
"""RFC 6750, 2.1. Anything else, a line break first of all, is kept out of the header."""

_HEADERS = {
    "Accept": "application/json, application/jwk-set+json",
    # A compressed answer could unfold to any size.
    "Accept-Encoding": "identity",
    "User-Agent": "keyplane",
}


_SHOWN_CHARACTERS_MAX = 200


class KeySource(Protocol):
    """Where the keys of one issuer come from."""

    async def fetch(self) -> VerificationKeys:
        """Return the keys that the issuer publishes now.

        Raises:
            IssuerUnavailableError: they could not be had; the message says why, in
                words that may be logged.
        """


class HttpsKeySource:
    """The issuer's own metadata and key set."""

    def __init__(
        self, issuer: IssuerSettings, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """Fetch for ``issuer``.

        Args:
            issuer: where, trusted by whom, with which credential.
            transport: how; ``None`` for real connections, through the proxy of
                ``HTTPS_PROXY`` if the environment names one.
        """
        self._issuer = issuer
        self._transport = transport

    async def fetch(self) -> VerificationKeys:
        """Fetch metadata and keys; all files are read again, as they may have been renewed.

        Raises:
            IssuerUnavailableError: see :meth:`KeySource.fetch`. Neither its message
                nor its cause holds the credential.
        """
        # Reading all CAs of the system takes tens of milliseconds.
        trust, headers = await asyncio.to_thread(self._read_files)
        async with httpx.AsyncClient(
            verify=trust,
            headers=headers,
            timeout=ANSWER_SECONDS_MAX,
            follow_redirects=False,
            transport=self._transport,
        ) as client:
            metadata = await _get(client, self._metadata_url, "metadata")
            return read_key_set(await _get(client, self._key_set_url(metadata), "keys"))

    @property
    def _metadata_url(self) -> str:
        """The place of the metadata (OpenID Connect Discovery 1.0, 4)."""
        default = f"{self._issuer.url.rstrip('/')}/.well-known/openid-configuration"
        return self._issuer.discovery_url or default

    def _key_set_url(self, document: bytes) -> str:
        """Return ``jwks_uri`` of the metadata, when they are this issuer's."""
        metadata = read_object(document)
        if metadata is None:
            raise IssuerUnavailableError("its metadata are no JSON object")
        if metadata.get("issuer") != self._issuer.url:
            # Discovery 1.0, 4.3: they must be identical, else one issuer could speak
            # for another.
            raise IssuerUnavailableError(
                f"its metadata name another issuer ({_shown(metadata.get('issuer'))}) "
                "than the settings do"
            )
        url = metadata.get("jwks_uri")
        if not isinstance(url, str) or not _is_plain_https(url):
            raise IssuerUnavailableError("the jwks_uri of its metadata is no plain https:// URL")
        return url

    def _read_files(self) -> tuple[ssl.SSLContext, dict[str, str]]:
        """Return whom to trust, and the headers of each request."""
        trust, headers = _trust(self._issuer.ca_file), dict(_HEADERS)
        if self._issuer.credential_file is not None:
            headers["Authorization"] = f"Bearer {_credential(self._issuer.credential_file)}"
        return trust, headers


def _shown(issuer: object) -> str:
    """Return an issuer's public name for a log line, whatever the server sent for it."""
    return repr(issuer[:_SHOWN_CHARACTERS_MAX]) if isinstance(issuer, str) else "no text"


def _is_plain_https(url: str) -> bool:
    """Tell whether a URL is HTTPS to a named host without a user name or password."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and "@" not in parts.netloc
    except ValueError:
        return False


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    """Return TLS 1.2 or newer, with host names checked."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except FileNotFoundError:
        raise IssuerUnavailableError(f"its ca_file {ca_file} does not exist") from None
    except OSError:
        raise IssuerUnavailableError(f"its ca_file {ca_file} holds no readable CA") from None


def _credential(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(CREDENTIAL_BYTES_MAX + 1)
    except OSError as error:
        raise IssuerUnavailableError(
            f"its credential_file {file} cannot be read: {error.strerror}"
        ) from None
    text = content.decode("ascii", "replace").strip()
    if len(content) > CREDENTIAL_BYTES_MAX or not _CREDENTIAL.fullmatch(text):
        raise IssuerUnavailableError(f"its credential_file {file} holds no bearer credential")
    return text


async def _get(client: httpx.AsyncClient, url: str, what: str) -> bytes:
    """Return the body of a good answer.

    Raises:
        IssuerUnavailableError: there was none.
    """
    fault = ""
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX), client.stream("GET", url) as response:
            return await _body(response, what)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        fault = _words_for(error)
    # Raised out here, so that no request with its headers hangs at the error.
    raise IssuerUnavailableError(f"its {what} cannot be fetched: {fault}")


async def _body(response: httpx.Response, what: str) -> bytes:
    if response.status_code != httpx.codes.OK:
        raise IssuerUnavailableError(
            f"its {what} cannot be fetched: the answer has status {response.status_code}"
        )
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise IssuerUnavailableError(f"its {what} are compressed, which was not asked for")
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > ANSWER_BYTES_MAX:
            raise IssuerUnavailableError(f"its {what} are longer than {ANSWER_BYTES_MAX} bytes")
    return bytes(body)


def _words_for(error: Exception) -> str:
    """Describe a fault without the library's text, which may quote what was sent."""
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return f"no answer within {ANSWER_SECONDS_MAX:g} seconds"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError):
        return "no connection"
    return type(error).__name__
