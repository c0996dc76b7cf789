"""A certificate authority for one test: a root, and certificates for servers and clients.

Python, Node and Go all check names and extensions strictly, so these are complete.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from testbed.credentials import write_private
from testbed.loopback import HOST

_VALIDITY: Final = timedelta(days=2)
_CLOCKS_APART: Final = timedelta(minutes=5)

_SIGNS_DATA: Final = frozenset({"digital_signature"})
_SIGNS_CERTIFICATES: Final = frozenset({"key_cert_sign", "crl_sign"})
_USAGES: Final = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Where a certificate and its private key lie, both PEM."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates that last for two days; its own key never leaves the process."""

    def __init__(self, directory: Path, name: str = "testbed authority") -> None:
        """Make a root and write its certificate.

        Args:
            directory: For all files; made when missing.
            name: Common name of the root.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name(name)
        root = (
            _builder(self._name, self._key, usage=_SIGNS_CERTIFICATES)
            .issuer_name(self._name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._root_id = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        self.certificate_file = directory / "ca.crt"
        self.certificate_file.write_bytes(root.public_bytes(Encoding.PEM))

    def server(self, name: str, hosts: Sequence[str] = (HOST, "localhost")) -> KeyPair:
        """Issue a certificate for a TLS server.

        Args:
            name: Stem of the file names.
            hosts: IP addresses and DNS names that it is for.

        Returns:
            The files; an older pair of that name is replaced.
        """
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        return self._issue(name, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def client(self, name: str) -> KeyPair:
        """Issue a certificate for a TLS client.

        Args:
            name: Common name, and stem of the file names.

        Returns:
            The files; an older pair of that name is replaced.
        """
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, None)

    def _issue(
        self, name: str, purpose: x509.ObjectIdentifier, names: x509.ExtensionType | None
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        root_id = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._root_id)
        builder = (
            _builder(_common_name(name), key, usage=_SIGNS_DATA)
            .issuer_name(self._name)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(root_id, critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        files = KeyPair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_private(files.key, pem)
        write_private(files.certificate, certificate.public_bytes(Encoding.PEM))
        return files


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, usage: frozenset[str]
) -> x509.CertificateBuilder:
    """Begin a certificate with everything but its issuer and its purpose."""
    now = datetime.now(UTC)
    key_usage = x509.KeyUsage(**{name: name in usage for name in _USAGES})
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_APART)
        .not_valid_after(now + _VALIDITY)
        .add_extension(key_usage, critical=True)
        .add_extension(identifier, critical=False)
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
