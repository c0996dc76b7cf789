"""The part of the demo that shows the REST face to the cluster's own service accounts."""

import json
import subprocess
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from testbed.cluster import Cluster
from testbed.credentials import write_private
from testbed.errors import CommandFailedError
from testbed.keyplane import KeyplaneInstallation
from testbed.loopback import HOST, free_port, request

AUDIENCE: Final = "keyplane"
SERVER_ACCOUNT: Final = "keyplane"
CLIENT_ACCOUNT: Final = "rest-client"

_CURL_SECONDS_MAX: Final = 60.0

_POLICY: Final = """\
# Read again as soon as it changes; see docs/rest-identity.md.
[[bindings]]
role = "Administrator"
instances = ["{instance}"]

[[bindings.members]]
issuer = "cluster"
service_account = "{namespace}/{account}"
"""


class RestDemo:
    """Prepares the REST face, and calls it with the very lines that it shows."""

    def __init__(
        self, keyplane: KeyplaneInstallation, cluster: Cluster, kubectl: Path, namespace: str
    ) -> None:
        """Describe it without starting anything.

        Args:
            keyplane: The installation that gets a REST face.
            cluster: Whose service accounts will call it.
            kubectl: The program that makes credentials in the lines shown.
            namespace: Where the service accounts are.
        """
        self._keyplane = keyplane
        self._cluster = cluster
        self._kubectl = kubectl
        self._namespace = namespace
        self._port = free_port()
        self._instance = ""

    @property
    def url(self) -> str:
        """Where keys are."""
        return f"https://{HOST}:{self._port}/kms/api/v2/keys"

    def configure(self) -> str:
        """Make service accounts, an instance, settings and a policy.

        Returns:
            The id of the instance.
        """
        for account in (SERVER_ACCOUNT, CLIENT_ACCOUNT):
            self._cluster.kubectl("create", "serviceaccount", account, "-n", self._namespace)
        # The API server shows its keys to service accounts only.
        credential = self._keyplane.directory / "issuer-credential"
        write_private(credential, self._credential(SERVER_ACCOUNT).encode())
        self._keyplane.configure_rest(
            self._port,
            issuer=self._cluster.server,
            ca=self._cluster.apiservers[0].ca,
            credential=credential,
            audience=AUDIENCE,
        )
        created = self._keyplane.run_json("instance", "create", "team-a")
        self._instance = str(created["id"])
        policy = _POLICY.format(
            instance=self._instance, namespace=self._namespace, account=CLIENT_ACCOUNT
        )
        write_private(self._keyplane.policy, policy.encode())
        return self._instance

    def is_ready(self) -> bool:
        """Tell whether the face answers and has the issuer's keys."""
        try:
            status, _ = request(f"https://{HOST}:{self._port}/readyz", ca=self._keyplane.rest_ca)
        except OSError:
            # It does not listen yet, or its certificate is not written yet.
            return False
        return status == HTTPStatus.OK

    def create_key(self) -> str:
        """Create a root key and return its id."""
        return str(self._answer(self.create_line())["resources"][0]["id"])

    def wrap_and_unwrap(self, key_id: str) -> tuple[str, str]:
        """Have a data key made and opened again.

        Returns:
            The data key as wrap gave it, and as unwrap did; both base64.
        """
        wrapped = self._answer(self.wrap_line(key_id))
        body = {"ciphertext": wrapped["ciphertext"], "aad": ["demo"]}
        unwrapped = self._answer(self._line(f"/{key_id}?action=unwrap", body))
        return wrapped["plaintext"], unwrapped["plaintext"]

    def create_line(self) -> str:
        """Return the command line that creates a root key."""
        kind = "application/vnd.ibm.kms.key+json"
        key = {"type": kind, "name": "my-root-key", "extractable": False}
        metadata = {"collectionType": kind, "collectionTotal": 1}
        return self._line("", {"metadata": metadata, "resources": [key]})

    def list_line(self) -> str:
        """Return the command line that lists the keys of the instance."""
        return self._line("", None)

    def wrap_line(self, key_id: str) -> str:
        """Return the command line that has a data key made and wrapped."""
        return self._line(f"/{key_id}?action=wrap", {"aad": ["demo"]})

    def _line(self, path: str, body: object) -> str:
        kubectl = f"{self._kubectl} --kubeconfig {self._cluster.kubeconfig}"
        create = f"{kubectl} create token {CLIENT_ACCOUNT} -n {self._namespace}"
        sent = ""
        if body is not None:
            sent = f" -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
        return (
            f"curl -sS --cacert {self._keyplane.rest_ca}"
            f' -H "Authorization: Bearer $({create} --audience {AUDIENCE})"'
            f" -H 'icp-instance: {self._instance}'{sent} '{self.url}{path}'"
        )

    def _credential(self, account: str) -> str:
        return self._cluster.kubectl("create", "token", account, "-n", self._namespace).strip()

    def _answer(self, line: str) -> Any:
        done = subprocess.run(
            ("/bin/sh", "-c", line),
            capture_output=True,
            text=True,
            check=False,
            timeout=_CURL_SECONDS_MAX,
        )
        if done.returncode != 0:
            raise CommandFailedError(f"curl: {done.stderr.strip()}")
        answer = json.loads(done.stdout)
        if not {"resources", "ciphertext", "plaintext"} & answer.keys() or "reasons" in str(answer):
            raise CommandFailedError(f"the REST face refused: {done.stdout}")
        return answer
