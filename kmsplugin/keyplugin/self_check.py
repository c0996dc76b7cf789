"""What the provider answers, held against what kube-apiserver takes, before it serves."""

from __future__ import annotations

from keycore.errors import KeyplaneError, SetupError
from keycore.service.caller import Caller
from keycore.service.kms import HEALTHY, KmsProvider
from keyplugin.rules import faults_of_encryption, faults_of_status
from keyplugin.servicer import API_VERSION, FACE

_CALLER = Caller(FACE, "keyplane", "self-check")

_SEED = bytes(32)
"""As long as the API server's."""


def refuse_wrong_answers(provider: KmsProvider) -> None:
    """Refuse to serve what kube-apiserver would throw away.

    Nothing is checked while there is no key, or while the token does not answer: the
    provider then serves what it can, and its health says so.

    Raises:
        SetupError: an answer breaks a rule; the message names each.
    """
    status = provider.outlook()
    if not status.key_id:
        return
    # The health is what it is; a sick provider serves what it can.
    faults = faults_of_status(API_VERSION, HEALTHY, status.key_id)
    try:
        ciphertext, key_id = provider.encrypt(_CALLER, _SEED)
    except KeyplaneError:
        pass
    else:
        faults += faults_of_encryption(ciphertext, key_id, {}, status_key_id=status.key_id)
    if faults:
        raise SetupError(
            "kube-apiserver would refuse what this provider answers: " + "; ".join(faults),
            hint="this is a fault of keyplane: report it, and go on with the former version",
        )
