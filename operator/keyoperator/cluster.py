"""What the operator reads from the Kubernetes API beside its own resources.

kopf watches and writes the Keys; this module reads the UID of a namespace and
the material in a Secret, each once when it is needed. Material goes back to the
caller only: no error, log line or exception here carries a byte of an answer.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kubernetes import client, config
from urllib3.exceptions import HTTPError

from keycore.domain.ids import InstanceId
from keycore.errors import SettingsError
from keyoperator.resource import GROUP, PLURAL, VERSION
from keyoperator.wanted import SecretRef

_NOT_FOUND = 404
_REFUSED = (401, 403)

_TIMEOUT_SECONDS = (5, 15)
"""For the connection and for the answer; reconciling one Key may not hold up others longer."""


class ClusterError(Exception):
    """Root of what can go wrong here.

    Attributes:
        message: one sentence of safe facts.
        hint: what the reader can do about it.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep ``message`` and ``hint``; both end in a condition of the Key."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class ClusterUnavailableError(ClusterError):
    """The API server does not answer, or not sensibly; the same call may succeed later."""


class ClusterForbiddenError(ClusterError):
    """The operator's role lacks a permission."""


class CrdMissingError(ClusterError):
    """The cluster does not know the resource Key (yet)."""


class NamespaceNotFoundError(ClusterError):
    """The namespace does not exist any more."""


class SecretNotFoundError(ClusterError):
    """The Secret does not exist."""


class MaterialMissingError(ClusterError):
    """The Secret has no such entry."""


class Cluster:
    """Reads from one API server. Its methods may be called from several threads."""

    def __init__(self, configuration: client.Configuration) -> None:
        """Describe the connection without opening it."""
        self._api = client.ApiClient(configuration)

    def check(self) -> None:
        """Ask the API server whether it serves Keys.

        Raises:
            CrdMissingError: it does not know the resource.
            ClusterUnavailableError: it does not answer.
            ClusterForbiddenError: it does not know us (yet).
        """
        missing = CrdMissingError(
            f"the cluster does not know the resource {PLURAL}.{GROUP}/{VERSION}",
            hint="install it: kubectl apply -f crds/keys.yaml",
        )
        with _translated(f"the resources of {GROUP}", missing):
            found = client.CustomObjectsApi(self._api).get_api_resources(
                GROUP, VERSION, _request_timeout=_TIMEOUT_SECONDS
            )
        if PLURAL not in {resource.name for resource in found.resources or ()}:
            raise missing

    def namespace_uid(self, name: str) -> InstanceId:
        """Return the UID of a namespace, which is the id of its own instance.

        Raises:
            NamespaceNotFoundError: there is no such namespace.
            ClusterForbiddenError: the operator may not read it.
            ClusterUnavailableError: the API server does not answer.
        """
        missing = NamespaceNotFoundError(f"namespace {name} does not exist")
        with _translated(f"namespace {name}", missing):
            namespace = client.CoreV1Api(self._api).read_namespace(
                name, _request_timeout=_TIMEOUT_SECONDS
            )
        if namespace.metadata is None or namespace.metadata.uid is None:
            raise ClusterUnavailableError(f"the API server answered no UID for namespace {name}")
        return InstanceId(namespace.metadata.uid)

    def material(self, namespace: str, ref: SecretRef) -> bytes:
        """Return one value of a Secret.

        Raises:
            MaterialMissingError: the Secret has no such entry.
            SecretNotFoundError: there is no such Secret.
            ClusterForbiddenError: the operator may not read it.
            ClusterUnavailableError: the API server does not answer.
        """
        what = f"Secret {namespace}/{ref.name}"
        missing = SecretNotFoundError(
            f"{what} does not exist", hint="create it with the key material"
        )
        with _translated(what, missing):
            secret = client.CoreV1Api(self._api).read_namespaced_secret(
                ref.name, namespace, _request_timeout=_TIMEOUT_SECONDS
            )
        try:
            return base64.b64decode((secret.data or {})[ref.key], validate=True)
        except (KeyError, binascii.Error):
            raise MaterialMissingError(
                f"{what} has no entry {ref.key}",
                hint="add the key material to it, or create the Key anew with another secretRef",
            ) from None

    def close(self) -> None:
        """Give back connections."""
        self._api.close()  # type: ignore[no-untyped-call]


def load_configuration(kubeconfig: Path | None) -> client.Configuration:
    """Return how to reach the API server, with its certificate authority.

    Args:
        kubeconfig: the file to use; ``None`` takes the pod's service account, else
            the usual kubeconfig (``KUBECONFIG``, ``~/.kube/config``).

    Raises:
        SettingsError: there is none, or it cannot be used.
    """
    configuration = client.Configuration()
    # A proxy counts only when the kubeconfig names it: what the environment says
    # is about the way to the internet, and the API server is next door.
    configuration.proxy = None
    # Whatever asks is repeated as a whole; retries below would only hold up a thread.
    configuration.retries = False
    try:
        if kubeconfig is None and _load_service_account(configuration):
            return configuration
        config.load_kube_config(  # type: ignore[no-untyped-call]
            None if kubeconfig is None else str(kubeconfig), client_configuration=configuration
        )
    except (config.ConfigException, OSError) as error:
        named = "" if kubeconfig is None else f" in {kubeconfig}"
        raise SettingsError(
            f"no usable Kubernetes configuration{named}: {error}",
            hint="set operator.kubeconfig, or KUBECONFIG, or run in a pod with a service account",
        ) from None
    return configuration


def _load_service_account(configuration: client.Configuration) -> bool:
    try:
        config.load_incluster_config(  # type: ignore[no-untyped-call]
            client_configuration=configuration
        )
    except config.ConfigException:
        return False
    return True


@contextmanager
def _translated(what: str, missing: ClusterError) -> Iterator[None]:
    """Turn the client's exceptions into ours; their texts hold whole answers and are dropped.

    Args:
        what: what is asked for, for the messages.
        missing: raised when the API server has no such thing.
    """
    try:
        yield
    except client.ApiException as error:
        raise (missing if error.status == _NOT_FOUND else _refusal(error.status, what)) from None
    except HTTPError as error:
        raise ClusterUnavailableError(
            f"the API server did not answer when asked for {what} ({type(error).__name__})",
            hint="nothing to do if it comes back; it is tried again",
        ) from None


def _refusal(status: int | None, what: str) -> ClusterError:
    if status in _REFUSED:
        return ClusterForbiddenError(
            f"the operator may not read {what} (HTTP {status})",
            hint="give its service account the permissions that docs/keys.md lists",
        )
    return ClusterUnavailableError(
        f"the API server answered HTTP {status} when asked for {what}",
        hint="nothing to do if it recovers; it is tried again",
    )
