"""The few controllers that tests and the demo need."""

from http import HTTPStatus
from pathlib import Path
from typing import Final

from testbed.loopback import HOST, free_port, request
from testbed.processes import ChildProcess

# Rewriting after a key rotation, collection of owned objects, and namespaces
# and service accounts that behave as everywhere.
_CONTROLLERS: Final = (
    "storage-version-migrator-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
)
_READY_SECONDS_MAX: Final = 60.0


class ControllerManager:
    """A kube-controller-manager on the loopback address."""

    def __init__(self, directory: Path, binary: Path, kubeconfig: Path) -> None:
        """Choose its port without starting it.

        Args:
            directory: Holds its log and its certificate.
            binary: The kube-controller-manager program.
            kubeconfig: Which API server it works for; read at each start.
        """
        port = free_port()
        certificates = directory / "certificates-controller-manager"
        self._ca = certificates / "kube-controller-manager.crt"
        self._health_url = f"https://{HOST}:{port}/healthz"
        self.process = ChildProcess(
            "kube-controller-manager",
            (
                binary,
                f"--kubeconfig={kubeconfig}",
                f"--controllers={','.join(_CONTROLLERS)}",
                "--leader-elect=false",
                f"--bind-address={HOST}",
                f"--secure-port={port}",
                f"--cert-dir={certificates}",
            ),
            directory=directory,
        )

    def start(self) -> None:
        """Start it and wait until it is healthy.

        Raises:
            ProcessDiedError: It ended instead.
            DeadlineExceededError: It was not healthy within 60 s.
        """
        self.process.start()
        self.process.wait_until(
            self._is_healthy,
            what="kube-controller-manager answers /healthz with ok",
            within_seconds=_READY_SECONDS_MAX,
        )

    def stop(self) -> None:
        """Stop it."""
        self.process.stop()

    def _is_healthy(self) -> bool:
        try:
            return request(self._health_url, ca=self._ca)[0] == HTTPStatus.OK
        except OSError:
            # It does not listen yet, or its certificate is not written yet.
            return False
