"""The certificate that keyplane makes for itself when the administrator brings none.

It signs itself, so a client that trusts this one file trusts this one server and
nothing else. It is good for this machine and for trying things out; a fleet wants
certificates of an authority of its own.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from keycore.errors import SettingsError
from keycore.files import exclusive, replace_durably

VALIDITY = timedelta(days=365)

RENEWED_BEFORE_END = timedelta(days=30)
"""Long enough to hand the new certificate to clients that hold a copy of the old one."""

_CLOCKS_APART = timedelta(minutes=5)
"""A client's clock may be this late and still accept a certificate of right now."""

_COMMON_NAME_CHARACTERS_MAX = 64
"""X.520 allows no more (RFC 5280, appendix A.1); clients look at the other names."""

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where a certificate chain and its private key lie, both PEM."""

    certificate: Path
    key: Path


def own_files(directory: Path) -> CertificateFiles:
    """Return where keyplane's own certificate lies in ``directory``."""
    return CertificateFiles(directory / "tls.crt", directory / "tls.key")


def ensure_own_certificate(directory: Path, address: str, now: datetime) -> None:
    """Make or renew the certificate in ``directory`` unless a good one is there.

    One of several workers does it and the others find it done.

    Args:
        directory: made when it is missing, for this user alone.
        address: where the server listens; becomes one of the names unless it stands
            for all addresses.
        now: decides whether the certificate is about to end.

    Raises:
        SettingsError: the directory cannot be used.
    """
    files = own_files(directory)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(directory / "tls.lock"):
            if not _is_good(files, _needed_names(address), now):
                _make(files, _all_names(address), now)
    except OSError as error:
        raise SettingsError(
            f"no certificate can be made in {directory}: {error.strerror}",
            hint="check the directory, or set rest.tls.certificate and rest.tls.key",
        ) from None


def end_of(certificate: Path) -> datetime:
    """Return when the first certificate of a PEM file ends.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no certificate.
    """
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


def _is_good(files: CertificateFiles, needed: frozenset[str], now: datetime) -> bool:
    """Tell whether both files are there, belong together, last, and name this host."""
    try:
        certificate = x509.load_pem_x509_certificate(files.certificate.read_bytes())
        key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (
        *(FileNotFoundError, ValueError, TypeError),
        *(UnsupportedAlgorithm, x509.ExtensionNotFound),
    ):
        # What an interrupted run or an editor has left there is replaced.
        return False
    named = {str(name.value) for name in names}
    return (
        certificate.public_key() == key.public_key()
        and certificate.not_valid_after_utc - now > RENEWED_BEFORE_END
        and needed <= named
    )


def _make(files: CertificateFiles, names: frozenset[str], now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _signed(key, names, now)
    pem = serialization.Encoding.PEM
    # A reader between the two finds a pair that does not match, and reads once more.
    replace_durably(
        files.key,
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        mode=0o600,
    )
    replace_durably(files.certificate, certificate.public_bytes(pem), mode=0o644)
    _log.info(
        "made a certificate; clients that hold a copy of an earlier one need this one",
        path=str(files.certificate),
        names=sorted(names),
        ends=certificate.not_valid_after_utc.isoformat(),
    )


def _signed(
    key: ec.EllipticCurvePrivateKey, names: frozenset[str], now: datetime
) -> x509.Certificate:
    """Return a server certificate that passes the strict checks of RFC 5280 (4.2.1)."""
    public = key.public_key()
    name = x509.Name(
        [
            x509.NameAttribute(
                NameOID.COMMON_NAME, f"keyplane on {_host_name()}"[:_COMMON_NAME_CHARACTERS_MAX]
            )
        ]
    )
    key_id = x509.SubjectKeyIdentifier.from_public_key(public)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_APART)
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        # No authority: it can sign nothing else, even if its key is stolen.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_SIGNING_ONLY, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(key_id, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False
        )
        .sign(key, hashes.SHA256())
    )


_SIGNING_ONLY = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _general_names(names: frozenset[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in sorted(names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _needed_names(address: str) -> frozenset[str]:
    """Return the names without which the certificate is made anew."""
    ip = ipaddress.ip_address(address)
    listening = () if ip.is_unspecified else (str(ip),)
    names = (_host_name(), "localhost", "127.0.0.1", "::1", *listening)
    return frozenset(filter(None, names))


def _all_names(address: str) -> frozenset[str]:
    # The full name can take the resolver seconds, so it is asked for only now.
    full = _checked(socket.getfqdn())
    return _needed_names(address) | frozenset(filter(None, (full,)))


def _host_name() -> str:
    return _checked(socket.gethostname())


def _checked(name: str) -> str:
    """Return ``name`` if a certificate can hold it as a host name, else an empty text."""
    return name.lower() if _HOST_NAME.fullmatch(name.lower()) else ""
