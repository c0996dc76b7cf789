"""The provider that a probe looks at, and what is known of it so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from keyplugin.kms_caller import CallError, KmsCaller
from keyplugin.kmsapi.api_pb2 import EncryptResponse, StatusResponse


@dataclass
class Subject:
    """One provider, and what is known of it so far.

    Attributes:
        caller: the connection.
        count: calls of each kind.
        status: the first answer to Status.
        encrypted: seeds with the answers to their Encrypt.
        seeds: every seed that was sent.
        texts: everything that the provider said with an error.
    """

    path: Path
    caller: KmsCaller
    count: int
    status: StatusResponse = field(init=False)
    encrypted: list[tuple[bytes, EncryptResponse]] = field(default_factory=list)
    seeds: list[bytes] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    _calls: int = 0

    def uid(self) -> str:
        """Return an id for the next call, by which the provider's log can be searched."""
        self._calls += 1
        return f"keyplane-probe-{self._calls}"

    def encrypt(self, seed: bytes) -> EncryptResponse:
        """Have a seed encrypted under the first Status's key.

        Raises:
            CallError: it was not.
        """
        self.seeds.append(seed)
        try:
            return self.caller.encrypt(seed, self.uid())
        except CallError as error:
            self.texts.append(error.text)
            raise

    def decrypt(
        self, answer: EncryptResponse, *, ciphertext: bytes | None = None, key_id: str | None = None
    ) -> bytes:
        """Have an answer decrypted, with another ciphertext or ``key_id`` where one is given.

        Raises:
            CallError: it was not.
        """
        try:
            return self.caller.decrypt(
                answer.ciphertext if ciphertext is None else ciphertext,
                answer.key_id if key_id is None else key_id,
                answer.annotations,
                self.uid(),
            )
        except CallError as error:
            self.texts.append(error.text)
            raise
