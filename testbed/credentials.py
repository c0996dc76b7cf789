"""The secrets of one throw-away cluster: admin token, signing key, kubeconfig.

All are made afresh for each directory, are kept in files that only their owner
can read, and are worth nothing once the cluster is gone.
"""

import base64
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

ADMIN = "testbed-admin"
"""The administrator's user name, as it appears in audit records and field managers."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where the API server finds the secrets that it checks callers against."""

    token_file: Path
    """In the format of `--token-auth-file`: one administrator."""

    service_account_key: Path
    """PEM private key with which service-account tokens are signed."""

    @property
    def admin_token(self) -> str:
        """The bearer token of the administrator, a member of system:masters."""
        return self.token_file.read_text().split(",", maxsplit=1)[0]


def make_credentials(directory: Path) -> Credentials:
    """Make what is missing; a directory that is used again keeps its secrets.

    Args:
        directory: Where the files are; it must exist.

    Returns:
        The paths.
    """
    credentials = Credentials(directory / "tokens.csv", directory / "service-account.key")
    if not credentials.token_file.exists():
        line = f'{secrets.token_urlsafe(32)},{ADMIN},{ADMIN},"system:masters"\n'
        write_private(credentials.token_file, line.encode())
    if not credentials.service_account_key.exists():
        write_private(credentials.service_account_key, _signing_key())
    return credentials


def _signing_key() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    # kube-apiserver derives the public half from this form, but not from PKCS#8.
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def write_kubeconfig(path: Path, *, server: str, ca: Path, token: str) -> None:
    """Write a kubeconfig that needs no other file.

    Args:
        path: Where to; mode 0600.
        server: The API server's URL.
        ca: PEM file whose content is embedded.
        token: The bearer token.
    """
    ca_data = base64.b64encode(ca.read_bytes()).decode("ascii")
    name = "testbed"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": server, "certificate-authority-data": ca_data}}
        ],
        "users": [{"name": ADMIN, "user": {"token": token}}],
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": ADMIN, "namespace": "default"}}
        ],
        "current-context": name,
    }
    # JSON is YAML, so that no YAML library is needed here.
    write_private(path, json.dumps(config, indent=2).encode())


def write_private(path: Path, content: bytes) -> None:
    """Write a file that nobody else can read at any moment.

    Args:
        path: Where to; an older file is replaced in one step.
        content: All of it.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)
