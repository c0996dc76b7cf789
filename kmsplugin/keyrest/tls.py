"""What a new connection is encrypted with: follows the certificate files as they change.

Every change makes a whole new ``SSLContext``. One that is changed in place keeps what
it knew: certificates can be added to those that clients are checked against, but never
taken away, and a client may resume a session that an authority since removed vouched for.
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from keycore.errors import SettingsError
from keycore.ports import Clock
from keycore.settings import Settings
from keyrest.certificate import (
    RENEWED_BEFORE_END,
    CertificateFiles,
    end_of,
    ensure_own_certificate,
    own_files,
)
from keyrest.following import FileWatch

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption, nothing else (RFC 9325,
4.2). TLS 1.3 has no others."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsContext:
    """The context for one connection.

    Attributes:
        generation: grows when the authorities change whose clients are let in.
    """

    ssl: ssl.SSLContext
    generation: int


@dataclass(frozen=True, slots=True)
class _Loaded:
    context: ssl.SSLContext
    client_ca: str | None
    ends: datetime
    digest: bytes


class TlsFiles:
    """The context of now, from the administrator's files or from keyplane's own.

    Refreshed by one thread, read by any.

    Attributes:
        context: for the next connection; replaced as a whole, never changed.
        fault: what is wrong with the files; empty when all is well. The last good
            context stays in use meanwhile.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Load the files for the first time.

        Raises:
            SettingsError: they cannot be used.
        """
        self._settings = settings
        self._clock = clock
        self.fault = ""
        self._make_if_own()
        self._watch = FileWatch(self._paths(), clock)
        self._loaded = self._load(self._digest())
        self.context = TlsContext(self._loaded.context, 0)
        self._note(self._expiry())

    def refresh(self) -> None:
        """Look whether a file has changed or an own certificate is due; cheap if not.

        Nothing that goes wrong with the files is raised; it is the :attr:`fault`.
        """
        try:
            if self._is_due():
                self._make_if_own()
                self._take()
        except SettingsError as error:
            self._note(error.message)
        else:
            self._note(self._expiry())

    def _is_due(self) -> bool:
        may_have_changed = self._watch.may_have_changed()
        # What failed may have been the disk, and is tried again whatever it was.
        return may_have_changed or bool(self.fault) or self._is_renewal_due()

    def _is_renewal_due(self) -> bool:
        return self._given is None and self._ends_within(RENEWED_BEFORE_END)

    def _take(self) -> None:
        digest = self._digest()
        if digest == self._loaded.digest:
            return
        loaded = self._load(digest)
        changed = loaded.client_ca != self._loaded.client_ca
        self._loaded = loaded
        self.context = TlsContext(loaded.context, self.context.generation + changed)
        _log.info("TLS files read anew", ends=loaded.ends.isoformat(), client_ca_changed=changed)

    def _load(self, digest: bytes) -> _Loaded:
        client_ca = self._settings.rest.tls.client_ca
        authorities = None if client_ca is None else _read_authorities(client_ca)
        context = _context(self._files, authorities)
        try:
            ends = end_of(self._files.certificate)
        except (OSError, ValueError):
            raise _unusable(self._files) from None
        return _Loaded(context, authorities, ends, digest)

    def _note(self, fault: str) -> None:
        if fault and fault != self.fault:
            _log.error("TLS files have a fault", fault=fault)
        elif self.fault and not fault:
            _log.info("TLS files are well again")
        self.fault = fault

    def _expiry(self) -> str:
        if not self._ends_within(timedelta(0)):
            return ""
        return f"the certificate has expired on {self._loaded.ends.isoformat()}"

    def _ends_within(self, time: timedelta) -> bool:
        return self._loaded.ends - self._clock.now() <= time

    @property
    def _given(self) -> CertificateFiles | None:
        tls = self._settings.rest.tls
        if tls.certificate is None or tls.key is None:
            return None
        return CertificateFiles(tls.certificate, tls.key)

    @property
    def _files(self) -> CertificateFiles:
        return self._given or own_files(self._settings.tls_dir)

    def _make_if_own(self) -> None:
        if self._given is None:
            settings = self._settings
            ensure_own_certificate(settings.tls_dir, settings.rest.address, self._clock.now())

    def _paths(self) -> list[Path]:
        files, client_ca = self._files, self._settings.rest.tls.client_ca
        return [files.certificate, files.key, *([] if client_ca is None else [client_ca])]

    def _digest(self) -> bytes:
        digest = hashlib.sha256()
        for path in self._paths():
            digest.update(hashlib.sha256(_content_of(path)).digest())
        return digest.digest()


def _context(files: CertificateFiles, authorities: str | None) -> ssl.SSLContext:
    """Return a context for TLS 1.2 and 1.3.

    Args:
        files: what the server shows.
        authorities: PEM text with those that must have signed a client's certificate;
            ``None`` asks for none.

    Raises:
        SettingsError: the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An encrypted key would otherwise be asked for at the terminal, for ever.
        context.load_cert_chain(files.certificate, files.key, password="")
    except OSError:
        raise _unusable(files) from None
    if authorities is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=authorities)
    return context


def _read_authorities(path: Path) -> str:
    try:
        text = path.read_text(encoding="ascii")
        # Tried here, so that the error can name the file.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
    except (OSError, ValueError):
        raise SettingsError(
            f"rest.tls.client_ca ({path}) must be a readable PEM file with certificates",
            hint="correct the file; it is read again by itself",
        ) from None
    return text


def _unusable(files: CertificateFiles) -> SettingsError:
    return SettingsError(
        f"{files.certificate} and {files.key} must be readable PEM files that belong"
        " together, the key not encrypted",
        hint="correct the files; they are read again by themselves",
    )


def _content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        # Loading it tells what is wrong.
        return b""
