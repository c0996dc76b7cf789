"""The main job from end to end: Secrets in etcd under a root key in an HSM, then a rotation.

`python -m testbed.demo` shows it and stays until Ctrl-C; with `--check` it ends
by itself, and fails if any step does. Everything lives in one temporary
directory and on free ports, so several copies can run at once.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console

from testbed.binaries import find_or_build
from testbed.cluster import Cluster
from testbed.errors import CommandFailedError, ControlPlaneError
from testbed.keyplane import KeyplaneInstallation
from testbed.processes import ChildProcess
from testbed.progress import BuildProgress
from testbed.rest_demo import RestDemo
from testbed.waiting import wait_until

NAMESPACE: Final = "keyplane-system"
PROVIDER: Final = "keyplane"
ENCRYPTED: Final = b"k8s:enc:kms:v2:"
CRD: Final = Path(__file__).parents[1] / "crds" / "keys.yaml"
MARKER: Final = "the old secret"
ROTATED_VERSION: Final = 2

KEY_ID_SECONDS_MAX: Final = 90.0
"""kube-apiserver asks for Status every 60 s, sooner when its health is looked at."""


class Demo:
    """One run; each method is a step that says what it shows."""

    def __init__(self, directory: Path, console: Console, stack: ExitStack) -> None:
        """Use `directory` for everything, and stop what was started when `stack` closes."""
        self._directory = directory
        self._console = console
        self._stack = stack
        binaries = find_or_build(BuildProgress(console))
        self._kubectl = binaries.kubectl
        self._config = directory / "encryption-config.yaml"
        self.cluster = Cluster(directory / "cluster", binaries, encryption_config=self._config)
        self.keyplane = KeyplaneInstallation(directory, self.cluster.kubeconfig)
        self.rest = RestDemo(self.keyplane, self.cluster, binaries.kubectl, NAMESPACE)
        self._key_id = ""
        self._rest_key_id = ""

    def run(self) -> None:
        """Run all steps.

        Raises:
            ControlPlaneError: A step did not show what it must.
        """
        self._initialise()
        self._start()
        first = self._store_a_secret("before-rotation", MARKER)
        self._adopt()
        second = self._rotate()
        self._store_under_the_new_key(first, second)
        self._read_the_old_secret()
        self._serve_rest()

    # --- steps ---------------------------------------------------------------

    def _initialise(self) -> None:
        with self._step("Initialise the token (SoftHSM2) and the store (SQLite)"):
            self.keyplane.run("init", "--namespace", NAMESPACE)
        with self._step("Make a root key in the token and bind the KMS provider to it"):
            key = self.keyplane.run_json("keys", "create", "etcd-root")
            self._key_id = key["id"]
            self.keyplane.run("provider", "set", PROVIDER, "--key", self._key_id)
            self._say(f"key {self._key_id}")

    def _start(self) -> None:
        with self._step("Start the KMS v2 provider, before any API server"):
            provider = self._started("provider")
            wait_until(
                self.keyplane.socket.exists,
                what="the provider's socket",
                within_seconds=30,
                watch=(provider,),
            )
        with self._step("Start etcd, kube-apiserver and kube-controller-manager"):
            self._config.write_text(self.keyplane.run("encryption-config"), encoding="utf-8")
            self._stack.enter_context(self.cluster)
            self.cluster.kubectl("apply", "-f", str(CRD))
            self.cluster.kubectl("wait", "--for=condition=Established", "-f", str(CRD))
            self.cluster.kubectl("create", "namespace", NAMESPACE)
        with self._step("Start the operator"):
            self._started("operator")

    def _store_a_secret(self, name: str, value: str) -> str:
        """Store a Secret, show its bytes in etcd, and return its KMS key_id."""
        with self._step(f"Create the Secret {name} and read its raw bytes in etcd"):
            self.cluster.kubectl(
                "create", "secret", "generic", name, f"--from-literal=text={value}"
            )
            raw = self._raw_secret(name)
            _require(raw.startswith(ENCRYPTED), f"{name} is not encrypted in etcd: {raw[:40]!r}")
            _require(value.encode() not in raw, f"the text of {name} can be read in etcd")
            key_id = self._active_key_id()
            self._show_stored(name, key_id)
            return key_id

    def _adopt(self) -> None:
        with self._step("Apply a Key resource that adopts the provider's key"):
            self._apply_key("first")
            self._wait_for_key(lambda status: status.get("currentVersion") == 1)
            self._show_keys()

    def _rotate(self) -> str:
        with self._step("Rotate it through the resource: spec.rotation.trigger changes"):
            before = self._active_key_id()
            self._apply_key("second")
            self._wait_for_key(lambda status: status.get("currentVersion") == ROTATED_VERSION)
            self._show_keys()
            after = self._active_key_id()
            _require(after != before, "the rotation gave the provider no new key_id")
            return after

    def _store_under_the_new_key(self, old: str, new: str) -> None:
        with self._step("Wait until the API server writes under the new key_id"):
            wait_until(
                lambda: self._writes_under(new),
                what="a Secret under the new key_id",
                within_seconds=KEY_ID_SECONDS_MAX,
            )
            self._show_stored("after-rotation", new)
            self._show_stored("before-rotation", old)

    def _read_the_old_secret(self) -> None:
        with self._step("Restart kube-apiserver and read the old Secret, still under the old key"):
            self.cluster.restart_apiserver()
            text = self.cluster.kubectl(
                "get", "secret", "before-rotation", "--template={{.data.text | base64decode}}"
            )
            _require(text == MARKER, "the old Secret reads differently")
            self._say(f"it reads: {text}")

    def _serve_rest(self) -> None:
        with self._step("Start the REST face for the cluster's service accounts"):
            instance = self.rest.configure()
            face = self._started("rest")
            wait_until(self.rest.is_ready, what="the REST face", within_seconds=30, watch=(face,))
            self._say(f"{self.rest.url}, instance {instance}")
        with self._step("Create a root key through REST, with a credential from the cluster"):
            self._rest_key_id = self.rest.create_key()
            self._say(f"key {self._rest_key_id}")
        with self._step("Have a data key made and wrapped, and unwrap it"):
            made, opened = self.rest.wrap_and_unwrap(self._rest_key_id)
            _require(made == opened, "unwrap returned another data key")
            self._say("the data key came back")

    # --- details -------------------------------------------------------------

    def _started(self, face: str) -> ChildProcess:
        return self._stack.enter_context(self.keyplane.face(face))

    def _raw_secret(self, name: str) -> bytes:
        key = f"/registry/secrets/default/{name}"
        return self.cluster.etcd_get(key)[key]

    def _show_stored(self, name: str, key_id: str) -> None:
        raw = self._raw_secret(name)
        _require(key_id.encode() in raw, f"{name} does not lie under key_id {key_id}")
        self._say(f"{name}, under key_id {key_id}:\n  {_printable(raw[:70])}…")

    def _writes_under(self, key_id: str) -> bool:
        # Asking for its health makes the API server ask the provider for Status.
        self.cluster.apiservers[0].get("/readyz")
        name = "after-rotation"
        self.cluster.kubectl("delete", "secret", name, "--ignore-not-found")
        self.cluster.kubectl("create", "secret", "generic", name, "--from-literal=text=new")
        return key_id.encode() in self._raw_secret(name)

    def _active_key_id(self) -> str:
        shown = self.keyplane.run_json("provider", "show", PROVIDER)
        return str(shown["active"]["keyId"])

    def _apply_key(self, trigger: str) -> None:
        manifest = {
            "apiVersion": "kms.keyplane.dev/v1",
            "kind": "Key",
            "metadata": {"name": "etcd-root", "namespace": NAMESPACE},
            "spec": {"adopt": self._key_id, "rotation": {"trigger": trigger}},
        }
        self.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(manifest))

    def _wait_for_key(self, accepts: Callable[[dict[str, Any]], bool]) -> None:
        def settled() -> bool:
            output = self.cluster.kubectl("get", "key", "etcd-root", "-n", NAMESPACE, "-o", "yaml")
            status = yaml.safe_load(output).get("status", {})
            ready = {c["type"]: c["status"] for c in status.get("conditions", [])}.get("Ready")
            return ready == "True" and accepts(status)

        wait_until(settled, what="the Key to be ready", within_seconds=60)

    def _show_keys(self) -> None:
        self._say(self.cluster.kubectl("get", "keys", "-n", NAMESPACE).rstrip())

    def _say(self, text: str) -> None:
        for line in text.splitlines():
            self._console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        started = time.monotonic()
        self._console.print(f"[bold]{title}[/] …", highlight=False, soft_wrap=True)
        yield
        self._console.print(f"    [green]✓[/] {time.monotonic() - started:.1f} s", highlight=False)

    def tell_how_to_reach_it(self) -> None:
        """Print commands that work when pasted into another shell."""
        root = Path(__file__).parents[1]
        kubectl = f"KUBECONFIG={self.cluster.kubeconfig} {self._kubectl}"
        keyplane = f"{root}/.venv/bin/keyplane --config {self.keyplane.config}"
        self._console.print(
            f"""
Everything runs. In another shell:

  {kubectl} get keys --all-namespaces
  {kubectl} explain key.spec
  {kubectl} describe key etcd-root -n {NAMESPACE}
  {kubectl} create secret generic mine --from-literal=text=hello
  {kubectl} get secret before-rotation --template='{{{{.data.text | base64decode}}}}'
  {keyplane} status
  {keyplane} keys list
  {keyplane} provider show {PROVIDER}
  {keyplane} instance list
  cat {self.keyplane.policy}
  {self.rest.list_line()}
  {self.rest.wrap_line(self._rest_key_id)}
  tail -f {self._directory}/logs/*.log {self._directory}/state/audit/*.jsonl

Ctrl-C stops everything and removes {self._directory}.
""",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _require(holds: bool, fault: str) -> None:  # noqa: FBT001  (it reads as a sentence)
    if not holds:
        raise ControlPlaneError(fault)


def _printable(raw: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in raw)  # noqa: PLR2004


def main() -> int:
    """Run the demo and return the exit code.

    Returns:
        0 when every step showed what it must and, without `--check`, after
        Ctrl-C; 1 when a step failed; 130 when it was interrupted before.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="end by itself, fail on any fault")
    check = parser.parse_args().check
    # SIGTERM ends it as Ctrl-C does, so that nothing stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # A shell starts background jobs with Ctrl-C ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    console = Console()
    # Short, because a unix socket lies in it.
    directory = Path(tempfile.mkdtemp(prefix="keyplane-"))
    done = False
    try:
        with ExitStack() as stack:
            demo = Demo(directory, console, stack)
            demo.run()
            done = True
            if not check:
                demo.tell_how_to_reach_it()
                signal.pause()
            console.print("stopping everything", highlight=False)
    except (ControlPlaneError, CommandFailedError) as fault:
        console.print(f"[red]failed:[/] {fault}\nLogs are kept in {directory}", highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nstopped", highlight=False)
        shutil.rmtree(directory, ignore_errors=True)
        return 0 if done else 130
    shutil.rmtree(directory, ignore_errors=True)
    if check:
        console.print("[green]every step showed what it must[/]", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
