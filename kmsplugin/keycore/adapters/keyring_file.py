"""The node keyring in a file: readable by its owner only, replaced as a whole, signed.

The file has two lines: the content as JSON, and the MAC of a label and that very line by
the record MAC key, in hexadecimal. The MAC is checked before the content is parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from keycore.domain.framing import encode_fields
from keycore.domain.keyring import NodeKeyring
from keycore.errors import IntegrityError, StoreUnavailableError
from keycore.files import exclusive, replace_durably
from keycore.ports import RecordSigner

_LABEL: Final = "keyplane/keyring/1"

_DOCUMENT: Final = TypeAdapter(
    # Options cannot be given for a dataclass itself, so there is a list of one around it.
    tuple[NodeKeyring],
    config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64"),
)


LOCK_SECONDS_MAX: Final = 5.0
"""How long another process of the node may take to write, during a takeover."""


class FileKeyring:
    """One file, signed by the token that it is for."""

    def __init__(self, path: Path, signer: RecordSigner) -> None:
        """Keep the keyring at ``path``; its directory is made when it is first saved."""
        self._path = path
        self._signer = signer

    def load(self) -> NodeKeyring | None:
        """Return what was saved last, or ``None`` when nothing was.

        Raises:
            IntegrityError: it is not what was saved, or another token signed it.
            StoreUnavailableError: the file cannot be read.
            TokenUnavailableError: the token did not answer.
        """
        try:
            content, _, mac = self._path.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnavailableError(
                f"the keyring {self._path} cannot be read: {error.strerror}",
                hint=f"let this process read {self._path}",
            ) from None
        try:
            if not self._signer.is_signed(_signed(content), bytes.fromhex(mac.decode("ascii"))):
                raise self._broken()
            return _DOCUMENT.validate_json(content)[0]
        except (UnicodeDecodeError, ValueError, ValidationError):
            raise self._broken() from None

    def update(self, change: Callable[[NodeKeyring | None], NodeKeyring]) -> NodeKeyring:
        """Replace what was saved last; when it returns, a power cut cannot undo it.

        Args:
            change: makes the new keyring from the one that is there, or from ``None``.

        Raises:
            StoreUnavailableError: the file cannot be written; the old one stays.
            TokenUnavailableError: the token did not answer.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = self._path.with_suffix(".lock")
            with exclusive(lock, within_seconds=LOCK_SECONDS_MAX):
                return self._replace(change)
        except OSError as error:
            raise StoreUnavailableError(
                f"the keyring {self._path} cannot be written: {error.strerror}",
                hint="make room, or let this process write there",
            ) from None

    def _replace(self, change: Callable[[NodeKeyring | None], NodeKeyring]) -> NodeKeyring:
        try:
            current = self.load()
        except IntegrityError:
            # Perhaps another token can still read it.
            self._path.replace(self._path.with_suffix(".refused"))
            current = None
        keyring = change(current)
        content = _DOCUMENT.dump_json((keyring,))
        mac = self._signer.sign(_signed(content))
        replace_durably(self._path, content + b"\n" + mac.hex().encode(), mode=0o600)
        return keyring

    def _broken(self) -> IntegrityError:
        return IntegrityError("keyring", str(self._path))


def _signed(content: bytes) -> bytes:
    return encode_fields((_LABEL, content))
