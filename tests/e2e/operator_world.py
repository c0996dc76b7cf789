"""The operator as a process of its own, with exactly the permissions that it documents.

An installation on SoftHSM2 is made in a directory of the test's choice. Besides
the operator there is a second process on the same installation, the rival, which
does what the command line or another face would do behind the operator's back.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from testbed.cluster import Cluster
from testbed.credentials import write_kubeconfig
from testbed.loopback import HOST, free_port
from testbed.processes import ChildProcess

NAMESPACE = "demo"
RESYNC_SECONDS = 1.5
WITHIN_SECONDS = 20.0

REPOSITORY = Path(__file__).parents[2]
CRD = REPOSITORY / "crds" / "keys.yaml"
REFERENCE = REPOSITORY / "docs" / "keys.md"

_DIE_AFTER = """
import os, signal
from keycore.service.keys import KeyService
original = KeyService.{method}
def and_die(*args, **kwargs):
    original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
KeyService.{method} = and_die
from keycli.main import main
main()
"""

_RIVAL = """
import json, sys
from pathlib import Path
from keycore.bootstrap import open_core
from keycore.domain.ids import InstanceId, KeyId
from keycore.domain.keys import KeyKind
from keycore.ports import KeyFilter
from keycore.service.caller import Caller
from keycore.service.creation import NewKey
from keycore.service.keys import Edits
from keycore.settings import load_settings
caller = Caller("cli", "tests")
with open_core(load_settings(Path(sys.argv[1])), "cli") as core:
    for line in sys.stdin:
        print(json.dumps(eval(json.loads(line)), default=str), flush=True)
"""


class Rival:
    """Another process on the same installation; it evaluates expressions on ``core``."""

    def __init__(self, config: Path) -> None:
        """Start it; it ends with its standard input."""
        self._process = subprocess.Popen(
            (sys.executable, "-c", _RIVAL, str(config)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def does(self, expression: str) -> Any:
        """Return what an expression over ``core`` and ``caller`` is worth, by way of JSON."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(expression) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the rival died of: {expression}"
        return json.loads(answer)

    def key(self, key_id: str) -> dict[str, Any]:
        """Return what the tests look at of a key."""
        known: dict[str, Any] = self.does(
            "(lambda key: {'name': key.name, 'state': key.state.name, 'owner': key.owner, "
            "'imported': key.imported, 'versions': len(key.versions)})"
            f"(core.keys.get(caller, KeyId({key_id!r})))"
        )
        return known

    def count_keys(self) -> int:
        """Return how many keys were ever made, tombstones included."""
        count: int = self.does("core.keys.count(caller, KeyFilter(deleted=True))")
        return count

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(15)
        self._process.stdout.close()


class World:
    """A cluster, an installation, the operator between them, and the rival."""

    def __init__(
        self, cluster: Cluster, directory: Path, *, kubeconfig: Path | None = None
    ) -> None:
        """Make the installation and the operator's account; nothing is started yet.

        Args:
            cluster: What it works for.
            directory: For everything that it writes.
            kubeconfig: Of an account that exists; None makes one with the role of the
                reference.
        """
        self.cluster = cluster
        self.directory = directory
        self.config = directory / "keyplane.toml"
        self.state_dir = directory / "state"
        self.health = f"http://{HOST}:{free_port()}"
        self._write_config(kubeconfig or _make_account(cluster, directory / "kubeconfig"))
        keyplane = (sys.executable, "-m", "keycli.main")
        command = (*keyplane, "--config", str(self.config), "init")
        subprocess.run(command, check=True, timeout=60, capture_output=True)
        self.operator = self._describe_operator(keyplane)
        self.rival = Rival(self.config)
        self.api = cluster.client()

    def _write_config(self, kubeconfig: Path) -> None:
        self.config.write_text(
            f"state_dir = {json.dumps(str(self.state_dir))}\n"
            "[operator]\n"
            f"kubeconfig = {json.dumps(str(kubeconfig))}\n"
            f"resync = {RESYNC_SECONDS}\n"
            f"health_address = {json.dumps(self.health.removeprefix('http://'))}\n"
            # Not even at this level may key material be logged.
            "[log]\n"
            'level = "debug"\n'
        )

    def _describe_operator(self, keyplane: Sequence[str]) -> ChildProcess:
        command = (*keyplane, "--config", str(self.config), "serve", "operator")
        return ChildProcess("operator", command, directory=self.directory)

    def start(self, *, until: str = "serving Keys") -> None:
        """Start the operator and wait until it logs something."""
        before = self.count_log(until)
        self.operator.start()
        self.operator.wait_until(
            lambda: self.count_log(until) > before,
            what=f"the operator logs {until!r}",
            within_seconds=WITHIN_SECONDS,
        )

    @contextmanager
    def operator_that_dies_after(self, method: str) -> Iterator[None]:
        """Replace the operator by one that is killed when a use case has just returned.

        Leaving the block waits for that death and starts the right one again.
        """
        self.operator.stop()
        fragile = self._describe_operator((sys.executable, "-c", _DIE_AFTER.format(method=method)))
        fragile.start()
        try:
            yield
            fragile.wait_for_exit(within_seconds=WITHIN_SECONDS)
            assert fragile.exit_code == -9
        finally:
            fragile.kill()
            self.start()

    def count_log(self, text: str) -> int:
        """Return how often the operator has logged a text."""
        log = self.operator.log
        return log.read_text().count(text) if log.exists() else 0

    def close(self) -> None:
        """Stop everything but the cluster."""
        self.operator.stop()
        self.rival.close()
        self.api.close()

    # --- keys ---------------------------------------------------------------

    def apply(self, name: str, **spec: Any) -> KeyHandle:
        """Create a Key, or change it so that it sets exactly this."""
        manifest = key_manifest(name, **spec)
        self.cluster.kubectl("apply", "--filename=-", input=json.dumps(manifest))
        return KeyHandle(self, name)

    def make(self, name: str, **spec: Any) -> KeyHandle:
        """Create a Key and wait until it is ready."""
        key = self.apply(name, **spec)
        key.wait_for(Ready="True")
        return key


class KeyHandle:
    """One Key as the API server has it."""

    def __init__(self, world: World, name: str) -> None:
        """Name it."""
        self._world = world
        self._keys = client.CustomObjectsApi(world.api)
        self.name = name

    def get(self) -> dict[str, Any]:
        """Return the whole resource."""
        resource: dict[str, Any] = self._keys.get_namespaced_custom_object(
            "kms.keyplane.dev", "v1", NAMESPACE, "keys", self.name
        )
        return resource

    @property
    def status(self) -> dict[str, Any]:
        """Its status, empty when there is none yet."""
        status: dict[str, Any] = self.get().get("status", {})
        return status

    @property
    def id(self) -> str:
        """The id of its key."""
        key_id: str = self.status["keyID"]
        return key_id

    def condition(self, kind: str) -> dict[str, Any]:
        """Return one condition, empty when there is none of that type."""
        conditions = self.status.get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    def wait_for(self, **conditions: str) -> None:
        """Wait until conditions have these statuses, or else these reasons."""

        def holds() -> bool:
            found = {kind: self.condition(kind) for kind in conditions}
            return all(
                wanted in (found[kind].get("status"), found[kind].get("reason"))
                for kind, wanted in conditions.items()
            )

        self.wait_until(holds, f"has the conditions {conditions}")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something holds, while the operator lives."""
        self._world.operator.wait_until(
            condition, what=f"Key {self.name} {what}", within_seconds=WITHIN_SECONDS
        )

    def patch(self, **spec: Any) -> None:
        """Change fields of the spec."""
        patch = json.dumps({"spec": spec})
        self._kubectl("patch", "key", self.name, "--type=merge", f"--patch={patch}")

    def delete(self, *, wait: bool = True) -> None:
        """Delete the resource, and wait until it is gone."""
        self._kubectl(
            "delete",
            "key",
            self.name,
            f"--wait={str(wait).lower()}",
            f"--timeout={WITHIN_SECONDS}s",
        )

    def exists(self) -> bool:
        """Tell whether the resource is still there."""
        try:
            return bool(self.get())
        except client.ApiException as answer:
            if answer.status == 404:
                return False
            raise

    def events(self) -> list[str]:
        """Return the reasons of all events, oldest first."""
        found = client.CoreV1Api(self._world.api).list_namespaced_event(
            NAMESPACE, field_selector=f"involvedObject.name={self.name}"
        )
        return [event.reason for event in sorted(found.items, key=lambda e: e.event_time)]

    def columns(self, *options: str) -> dict[str, str]:
        """Return what ``kubectl get`` prints, by column."""
        header, line = self._kubectl("get", "key", self.name, *options).splitlines()
        starts = [at for at, _ in enumerate(header) if _is_start(header, at)]
        ends = [*starts[1:], None]
        return {
            header[start:end].strip(): line[start:end].strip()
            for start, end in zip(starts, ends, strict=True)
        }

    def _kubectl(self, *arguments: str) -> str:
        return self._world.cluster.kubectl(f"--namespace={NAMESPACE}", *arguments)


def _is_start(header: str, at: int) -> bool:
    # Names of columns have single spaces in them, and at least two between them.
    return header[at] != " " and (at == 0 or header[max(0, at - 3) : at] == "   ")


def documents(path: Path) -> list[dict[str, Any]]:
    """Return the manifests in a file; of a Markdown file those in its YAML blocks."""
    text = path.read_text()
    if path.suffix == ".md":
        text = "---\n".join(re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    return [document for document in yaml.safe_load_all(text) if document]


def key_manifest(name: str, **spec: Any) -> dict[str, Any]:
    """Return a Key in the tests' namespace."""
    return {
        "apiVersion": "kms.keyplane.dev/v1",
        "kind": "Key",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def install_crd(cluster: Cluster) -> None:
    """Install the CRD and wait until it is served."""
    cluster.kubectl("apply", f"--filename={CRD}")
    crd = "crd/keys.kms.keyplane.dev"
    cluster.kubectl("wait", "--for=condition=Established", crd, f"--timeout={WITHIN_SECONDS}s")


def _make_account(cluster: Cluster, kubeconfig: Path) -> Path:
    """Make a service account with the role in the reference and no more; return a kubeconfig."""
    (role,) = [found for found in documents(REFERENCE) if found["kind"] == "ClusterRole"]
    name, home = "keyplane-operator", "keyplane-system"
    subject = {"kind": "ServiceAccount", "name": name, "namespace": home}
    rbac = "rbac.authorization.k8s.io"
    items = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": home}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": home},
        },
        role,
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role["metadata"]["name"]},
            "subjects": [subject],
        },
    ]
    manifests = {"apiVersion": "v1", "kind": "List", "items": items}
    cluster.kubectl("apply", "--filename=-", input=json.dumps(manifests))
    token = cluster.kubectl("create", "token", name, f"--namespace={home}", "--duration=1h")
    ca = cluster.apiservers[0].ca
    write_kubeconfig(kubeconfig, server=cluster.server, ca=ca, token=token.strip())
    return kubeconfig
