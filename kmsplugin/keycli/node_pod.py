"""The provider of a control-plane node as a static pod, as a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from keycli.node_documents import Node, NodeFile, mount, volume
from keycore.settings import DEFAULT_CONFIG_FILE
from keyplugin.directory import group_id_of

STATIC_POD = Path("/etc/kubernetes/manifests/keyplane-provider.yaml")

_NODE_CRITICAL = 2_000_001_000
"""What the class system-node-critical stands for. kubelet reads a static pod's number and
not its class when it stops a node's pods in order, kube-apiserver's among the last."""

_MADE = "DirectoryOrCreate"

_OF_THE_IMAGE = tuple(
    Path(directory)
    for directory in (
        "/etc/ssl",
        "/opt/keyplane",
        "/usr/bin",
        "/usr/lib",
        "/usr/local/bin",
        "/usr/local/lib",
        "/usr/share",
        "/var/lib",
        "/var/run",
    )
)
"""What a directory of the node would hide from the container, beside all of the first level."""

_WILDCARDS: Mapping[str, str] = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 (compared)


def static_pod(node: Node, image: str) -> NodeFile:
    """Return a static pod that runs the provider.

    Args:
        node: what it is for.
        image: of keyplane, with the token's module if that is not SoftHSM2.

    Raises:
        SettingsError: there is no group of the name ``provider.socket_group``.
    """
    text = yaml.safe_dump(_pod(node, image), sort_keys=False, width=100)
    return NodeFile(STATIC_POD, _POD_COMMENT + text, 0o600)


_POD_COMMENT = """\
# The KMS v2 provider as a static pod. To upgrade without a failed call, add a copy with
# another name and the new image, wait until this one stands by, and remove this one: see
# docs/provider.md.
"""


def _pod(node: Node, image: str) -> dict[str, Any]:
    shared = list(_shared(node))
    container: dict[str, Any] = {
        "name": "provider",
        "image": image,
        "command": ["keyplane", "serve", "provider", "--takeover", "--standby"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {
            "requests": {"cpu": "50m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        },
        "volumeMounts": [
            mount(name, path, read_only=read_only) for name, path, _, read_only in shared
        ],
    }
    if node.config is not None:
        container["env"] = [{"name": "KEYPLANE_CONFIG", "value": str(node.config)}]
    if probe := _liveness(node.settings.provider.health_address):
        container["livenessProbe"] = probe
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "keyplane-provider-a",
            "namespace": "kube-system",
            "labels": {"app.kubernetes.io/name": "keyplane-provider"},
        },
        "spec": {
            # The node's name is the provider's, and kubelet asks on the loopback address.
            "hostNetwork": True,
            "automountServiceAccountToken": False,
            "priorityClassName": "system-node-critical",
            "priority": _NODE_CRITICAL,
            # Not OnFailure: kubelet would not start it again after an orderly reboot.
            "restartPolicy": "Always",
            # A process that was taken over answers until its clients have gone.
            "terminationGracePeriodSeconds": 30,
            "securityContext": _identity(node),
            "containers": [container],
            "volumes": [volume(name, path, kind) for name, path, kind, _ in shared],
        },
    }


def _identity(node: Node) -> dict[str, Any]:
    group = node.settings.provider.socket_group
    return {
        "runAsUser": node.user,
        "runAsGroup": node.user,
        "runAsNonRoot": node.user != 0,
        **({"supplementalGroups": [group_id_of(group)]} if group else {}),
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def files_shared_alone(node: Node) -> list[Path]:
    """Return the secrets that the pod has as files, because their directories are the image's.

    Such a file stays the old one in the pod when another takes its place by a rename.
    """
    return [path for _, path, kind, _ in _secrets(node) if kind == "File"]


def _shared(node: Node) -> Iterator[tuple[str, Path, str, bool]]:
    """Yield what the pod shares with its node: name, path, kind, and whether only to read."""
    yield "run", node.socket_directory, "Directory", False
    yield "state", node.settings.state_dir, "Directory", False
    if node.keyring_directory:
        yield "keyring", node.keyring_directory, "Directory", False
    if not _is_within(_config_directory(node), _written(node)):
        # One that is made by the way would hide that the settings are elsewhere.
        kind = "Directory" if node.config else "DirectoryOrCreate"
        yield "config", _config_directory(node), kind, True
    yield from _secrets(node)
    if node.settings.provider.socket_group:
        # The image does not know the name of the node's group.
        yield "groups", Path("/etc/group"), "File", True


def _secrets(node: Node) -> Iterator[tuple[str, Path, str, bool]]:
    """Yield PIN and password with their directories, where no other volume has them."""
    settings = node.settings
    covered = [*_written(node), _config_directory(node)]
    files = {"pin": settings.token.pin_file, "store-password": settings.store.password_file}
    for name, file in files.items():
        if file is None or _is_within(file, covered):
            continue
        if _is_of_the_image(file.parent, settings.token.module):
            yield name, file, "File", True
        else:
            yield name, file.parent, "Directory", True
            covered.append(file.parent)


def _written(node: Node) -> list[Path]:
    places = (node.socket_directory, node.settings.state_dir, node.keyring_directory)
    return [place for place in places if place is not None]


def _config_directory(node: Node) -> Path:
    return (node.config or DEFAULT_CONFIG_FILE).parent


def _is_within(path: Path, places: Iterable[Path]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def _is_of_the_image(directory: Path, module: Path | None) -> bool:
    """Tell whether a volume there would hide what the container needs."""
    needed = (*_OF_THE_IMAGE, *([module] if module else []))
    return directory.parent == Path("/") or any(each.is_relative_to(directory) for each in needed)


def _liveness(address: str) -> dict[str, Any] | None:
    if not address:
        return None
    host, _, port = address.rpartition(":")
    host = _WILDCARDS.get(host, host).strip("[]")
    return {
        "httpGet": {"host": host, "port": int(port), "path": "/livez"},
        "initialDelaySeconds": 10,
    }
