"""The three KMS v2 calls: translate, and call the core."""

from __future__ import annotations

from grpc import ServicerContext

from keycore.service.caller import Caller
from keycore.service.kms import KmsProvider
from keyplugin.kmsapi.api_pb2 import (
    DecryptRequest,
    DecryptResponse,
    EncryptRequest,
    EncryptResponse,
    StatusRequest,
    StatusResponse,
)
from keyplugin.kmsapi.api_pb2_grpc import KeyManagementServiceServicer

API_VERSION = "v2"
"""The one ``version`` that kube-apiserver accepts (``StatusResponse``, field 1)."""

FACE = "provider"
"""This face's name in audit lines and on the command line."""

ACTOR = "kube-apiserver"
"""Nobody is authenticated on the socket: whoever can open it is the API server."""

UID_CHARACTERS_MAX = 128
"""kube-apiserver sends a UUID of 36; no caller may fill an audit line with more."""

LOOKING = ("keyplane-looking", "1")
"""Metadata of a Status that is not the API server's."""


class KmsServicer(KeyManagementServiceServicer):
    """Serves one provider. Domain errors leave as they are, for the interceptor to map."""

    def __init__(self, provider: KmsProvider) -> None:
        """Answer for ``provider``."""
        self._provider = provider

    def Status(self, request: StatusRequest, context: ServicerContext) -> StatusResponse:  # noqa: ARG002, N802
        """Tell health and ``key_id`` from memory.

        The API server expects that Encrypt goes on with this ``key_id``. A process that
        is about to take the socket over only looks, and must not change that.
        """
        looking = LOOKING in context.invocation_metadata()
        status = self._provider.outlook() if looking else self._provider.status()
        return StatusResponse(version=API_VERSION, healthz=status.healthz, key_id=status.key_id)

    def Encrypt(self, request: EncryptRequest, context: ServicerContext) -> EncryptResponse:  # noqa: ARG002, N802
        """Encrypt a seed.

        Raises:
            KeyplaneError: as :meth:`keycore.service.kms.KmsProvider.encrypt`.
        """
        ciphertext, key_id = self._provider.encrypt(caller_of(request.uid), request.plaintext)
        return EncryptResponse(ciphertext=ciphertext, key_id=key_id)

    def Decrypt(self, request: DecryptRequest, context: ServicerContext) -> DecryptResponse:  # noqa: ARG002, N802
        """Decrypt what Encrypt returned.

        Raises:
            KeyplaneError: as :meth:`keycore.service.kms.KmsProvider.decrypt`.
        """
        caller = caller_of(request.uid)
        plaintext = self._provider.decrypt(caller, request.ciphertext, request.key_id)
        return DecryptResponse(plaintext=plaintext)


def caller_of(uid: str) -> Caller:
    """Return the API server as caller.

    Args:
        uid: its id of the call, any text; what is not printable or beyond 128
            characters is left out.
    """
    return Caller(FACE, ACTOR, printable(uid))


def printable(uid: str) -> str:
    """Return an id of a call as it may stand in a line: printable, 128 characters at most."""
    short = uid[:UID_CHARACTERS_MAX]
    # kube-apiserver's own is; to look at each character takes as long as the log line.
    return short if short.isprintable() else "".join(filter(str.isprintable, short))
