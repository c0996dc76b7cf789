"""Runs rendered pods as processes, as far as that goes without a kubelet.

Volumes are directories, and the paths and ports of the pods are replaced by some of the
test; commands, order, environment and settings are the rendered ones.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.cluster import Cluster
from testbed.credentials import write_kubeconfig
from testbed.helm import Helm, Manifest
from testbed.loopback import free_port
from testbed.processes import ChildProcess
from tests.e2e.operator_world import NAMESPACE, WITHIN_SECONDS
from tests.integration.chart.values import CHART, of_kind

HOME = "keyplane-system"
"""The namespace of the release."""

NODE = "cp-1"
"""The node that all pods are on."""

INIT_SECONDS_MAX = 60.0

Files = Mapping[str, str]


@dataclass(frozen=True)
class Host:
    """What the pods of a chart find on their way: objects, and directories for volumes.

    Attributes:
        secrets: their entries by name.
        directory: for volumes and logs.
        ports: of the pods, and what stands for each here.
    """

    manifests: Sequence[Manifest]
    secrets: Mapping[str, Files]
    directory: Path
    ports: Mapping[str, int]

    def pod(self, name: str) -> HostedPod:
        """Return the pod that a controller would make."""
        (owner,) = [
            owner
            for owner in of_kind(self.manifests, "StatefulSet", "Deployment")
            if owner["metadata"]["name"] == name
        ]
        return HostedPod(self, name, owner["spec"]["template"]["spec"])

    def translated(self, text: str, places: Mapping[str, Path | str]) -> str:
        """Return a text with the paths and ports of this host."""
        return expanded(
            text, {**{path: str(place) for path, place in places.items()}, **self._ports()}
        )

    def _ports(self) -> dict[str, str]:
        return {port: str(here) for port, here in self.ports.items()}


class HostedPod:
    """One pod, whose containers run one after another and then side by side."""

    def __init__(self, host: Host, name: str, spec: dict[str, Any]) -> None:
        """Make its volumes; what was there stays."""
        self._host = host
        self._name = f"{name}-0"
        self._spec = spec
        self.directory = host.directory / name
        self._volumes = {
            # A directory of the node is that of this host.
            volume["name"]: Path(
                volume.get("hostPath", {}).get("path", self.directory / volume["name"])
            )
            for volume in spec["volumes"]
        }
        self._volumes.setdefault("state", self.directory / "state")
        for volume in spec["volumes"]:
            place = self._volumes[volume["name"]]
            place.mkdir(parents=True, exist_ok=True)
            for file, text in self._files_of(volume).items():
                (place / file).write_text(text)
        (self.directory / "state").mkdir(exist_ok=True)

    def _files_of(self, volume: dict[str, Any]) -> Files:
        if "configMap" in volume:
            (found,) = [
                config["data"]
                for config in of_kind(self._host.manifests, "ConfigMap")
                if config["metadata"]["name"] == volume["configMap"]["name"]
            ]
            return dict(found)
        if "secret" in volume:
            entries = self._host.secrets[volume["secret"]["secretName"]]
            items = volume["secret"].get("items", [{"key": k, "path": k} for k in entries])
            return {item["path"]: entries[item["key"]] for item in items}
        return {}

    def prepare(self, *, until: str = "") -> None:
        """Run the containers that come first; the first one that fails raises.

        Args:
            until: The last one that is run; empty runs all.
        """
        for container in self._spec.get("initContainers", []):
            subprocess.run(
                self._command(container),
                env=self._environment(container),
                timeout=INIT_SECONDS_MAX,
                check=True,
                capture_output=True,
            )
            if container["name"] == until:
                return

    @contextmanager
    def running(self) -> Iterator[Sequence[ChildProcess]]:
        """Run the others until the end of the block."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(
                    ChildProcess(
                        container["name"],
                        self._command(container),
                        directory=self.directory,
                        environment=self._environment(container),
                    )
                )
                for container in self._spec["containers"]
            ]

    def container(self, name: str) -> dict[str, Any]:
        """Return a container that serves."""
        (found,) = [each for each in self._spec["containers"] if each["name"] == name]
        return dict(found)

    def run(self, container: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container that serves, as ``kubectl exec`` does."""
        found = self.container(container)
        places = self._places(found)
        return subprocess.run(
            [self._host.translated(word, places) for word in words],
            env=self._environment(found),
            timeout=INIT_SECONDS_MAX,
            capture_output=True,
            text=True,
            check=False,
        )

    def _places(self, container: dict[str, Any]) -> dict[str, Path | str]:
        # /tmp is where the test itself is.
        return {
            mount["mountPath"]: self._volumes[mount["name"]] / mount.get("subPath", "")
            for mount in container["volumeMounts"]
            if mount["name"] != "tmp"
        }

    def _command(self, container: dict[str, Any]) -> list[str]:
        places = self._places(container)
        words = [*container.get("command", ["keyplane"]), *container.get("args", [])]
        return [self._host.translated(word, places) for word in words]

    def _environment(self, container: dict[str, Any]) -> dict[str, str]:
        places = self._places(container)
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.directory),
        }
        if settings := places.get("/etc/keyplane/keyplane.toml"):
            text = self._host.translated(Path(settings).read_text(), places)
            ours = self.directory / f"{container['name']}.toml"
            ours.write_text(text)
            environment["KEYPLANE_CONFIG"] = str(ours)
        for variable in container.get("env", []):
            text = variable.get("value") or self._referred(variable["valueFrom"])
            # As kubelet does with the variables that stand before.
            known = {f"$({name})": value for name, value in environment.items()}
            environment[variable["name"]] = expanded(text, known)
        return environment

    def _referred(self, source: dict[str, Any]) -> str:
        if "fieldRef" in source:
            known = {"metadata.name": self._name, "spec.nodeName": NODE}
            return known[source["fieldRef"]["fieldPath"]]
        ref = source["secretKeyRef"]
        return self._host.secrets[ref["name"]][ref["key"]]


def expanded(text: str, named: Mapping[str, str]) -> str:
    """Return a text with every name replaced, the longest ones first."""
    longest_first = sorted(named, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda m: named[m[0]], text)


def ports_of(manifests: Sequence[Manifest]) -> dict[str, int]:
    """Choose a port of this host for every port of the pods.

    That of a second worker follows that of the first, as keyplane has it.
    """
    named = {
        port["containerPort"]: port["name"]
        for owner in of_kind(manifests, "StatefulSet", "Deployment")
        for container in owner["spec"]["template"]["spec"]["containers"]
        for port in container["ports"]
    }
    chosen: dict[int, int] = {}
    for port in sorted(named):
        part, _, worker = named[port].rpartition("-")
        follows = part == "metrics" and worker != "0"
        chosen[port] = chosen[port - 1] + 1 if follows else free_port()
    return {str(port): here for port, here in chosen.items()}


def install_crds(cluster: Cluster) -> None:
    """Install the CRDs of the chart."""
    cluster.kubectl("apply", f"--filename={CHART / 'crds'}")
    wait_for_crds(cluster)


def wait_for_crds(cluster: Cluster) -> None:
    """Wait until the API server serves Keys."""
    crd = "crd/keys.kms.keyplane.dev"
    cluster.kubectl("wait", "--for=condition=Established", crd, f"--timeout={WITHIN_SECONDS}s")


def apply(cluster: Cluster, manifests: Sequence[Manifest], *options: str) -> str:
    """Apply manifests with the API server's validation; a warning is an error."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    strict = ("--server-side", "--validate=strict", "--warnings-as-errors")
    return cluster.kubectl("apply", *strict, *options, "--filename=-", input=listed)


def rendered_rights(helm: Helm) -> list[Manifest]:
    """Return what the chart renders about accounts and rights; imports are in one namespace."""
    values = {"imports": {"enabled": True, "namespaces": [NAMESPACE]}}
    kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    return of_kind(helm.template(CHART, values, namespace=HOME), *kinds)


def rendered_account(cluster: Cluster, helm: Helm, kubeconfig: Path) -> Path:
    """Make the operator's account with its rendered rights; return a kubeconfig of it."""
    apply(cluster, rendered_rights(helm))
    token = cluster.kubectl("create", "token", "keyplane-operator", f"--namespace={HOME}")
    ca = cluster.apiservers[0].ca
    write_kubeconfig(kubeconfig, server=cluster.server, ca=ca, token=token.strip())
    return kubeconfig
