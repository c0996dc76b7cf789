"""The files of a control-plane node, as texts: what runs the provider, and what calls it.

Each path is where the file lies on the node. Everything that the files name comes from
the settings, so that provider, kube-apiserver and these files agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from keycli.commands.encryption_config import as_yaml
from keycore.settings import DEFAULT_CONFIG_FILE, Settings
from keyplugin.directory import group_id_of

ENCRYPTION_CONFIG = Path("/etc/kubernetes/keyplane/encryption-config.yaml")
"""In a directory of its own, which kube-apiserver's pod mounts: a file that is mounted alone
stays the old one when it is replaced."""

API_SERVER_LINES = Path("/etc/kubernetes/keyplane/kube-apiserver-lines.yaml")

UNIT = Path("/etc/systemd/system/keyplane-provider.service")

STATIC_POD = Path("/etc/kubernetes/manifests/keyplane-provider.yaml")

DIRECTORIES = Path("/etc/tmpfiles.d/keyplane.conf")

_WILDCARDS: Mapping[str, str] = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 (compared)


@dataclass(frozen=True, slots=True)
class NodeFile:
    """One file.

    Attributes:
        path: where it lies on the node.
        mode: its permissions.
    """

    path: Path
    text: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Node:
    """What the files are written for.

    Attributes:
        user: uid and gid of the provider; the state directory's owner.
        config: the settings file, or ``None`` when there is none.
        resources: what kube-apiserver encrypts.
    """

    settings: Settings
    user: int
    config: Path | None
    resources: list[str]

    @property
    def socket_directory(self) -> Path:
        """The directory of the socket, which kube-apiserver's pod mounts."""
        return self.settings.provider.socket.parent


def encryption_configuration(node: Node) -> NodeFile:
    """Return the EncryptionConfiguration."""
    provider = node.settings.provider
    text = as_yaml(node.resources, provider.name, f"unix://{provider.socket}")
    return NodeFile(ENCRYPTION_CONFIG, text, 0o600)


def directories(node: Node) -> NodeFile:
    """Return what makes the directories at every boot, before kubelet starts."""
    group = node.settings.provider.socket_group
    # Members of the group may enter it to reach the socket, and no more.
    access = f"0750 {node.user} {group}" if group else f"0700 {node.user} {node.user}"
    lines = (
        "# Directories of keyplane (tmpfiles.d(5)); now: systemd-tmpfiles --create keyplane.conf",
        f"d {_quoted(node.settings.state_dir)} 0700 {node.user} {node.user} -",
        f"d {_quoted(node.socket_directory)} {access} -",
    )
    return NodeFile(DIRECTORIES, "\n".join(lines) + "\n")


def systemd_unit(node: Node, program: Path) -> NodeFile:
    """Return a unit that runs the provider.

    Args:
        node: what it is for.
        program: the ``keyplane`` of an installation on the node.
    """
    group = node.settings.provider.socket_group
    return NodeFile(
        UNIT,
        _UNIT.format(
            program=_quoted(program),
            user=node.user,
            groups=f"SupplementaryGroups={group}\n" if group else "",
            config=f"Environment={_quoted(f'KEYPLANE_CONFIG={node.config}')}\n"
            if node.config not in (None, DEFAULT_CONFIG_FILE)
            else "",
            state=_quoted(node.settings.state_dir),
            run=_quoted(node.socket_directory),
        ),
    )


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


def api_server_lines(node: Node) -> NodeFile:
    """Return what kube-apiserver's own manifest needs besides."""
    mounts = {
        "keyplane-encryption": (ENCRYPTION_CONFIG.parent, "Directory"),
        "keyplane-socket": (node.socket_directory, "Directory"),
    }
    container = {
        "name": "kube-apiserver",
        "command": [
            f"--encryption-provider-config={ENCRYPTION_CONFIG}",
            "--encryption-provider-config-automatic-reload=true",
        ],
        "volumeMounts": [_mount(name, path) for name, (path, _) in mounts.items()],
    }
    volumes = [_volume(name, path, kind) for name, (path, kind) in mounts.items()]
    spec = {"spec": {"containers": [container], "volumes": volumes}}
    return NodeFile(API_SERVER_LINES, _LINES_COMMENT + yaml.safe_dump(spec, sort_keys=False))


_UNIT = """\
# The KMS v2 provider on a control-plane node, before kube-apiserver.
[Unit]
Description=keyplane KMS v2 provider
Before=kubelet.service
After=local-fs.target
# An HSM may be away for long when the machine starts.
StartLimitIntervalSec=0

[Service]
ExecStart={program} serve provider
User={user}
Group={user}
{groups}{config}Restart=on-failure
RestartSec=1
# A setup that must be mended by hand is not retried (2), nor does a process come back that
# was taken over while a call hung in the HSM (76).
RestartPreventExitStatus=2 76
TimeoutStopSec=30
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
# Made by /etc/tmpfiles.d/keyplane.conf.
ReadWritePaths={state} {run}
ProtectHome=yes
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
LockPersonality=yes

[Install]
WantedBy=multi-user.target
"""

_POD_COMMENT = """\
# The KMS v2 provider as a static pod. To upgrade without a failed call, add a copy with
# another name and the new image, wait until this one stands by, and remove this one: see
# docs/provider.md.
"""

_LINES_COMMENT = """\
# Lines for kube-apiserver's manifest (/etc/kubernetes/manifests/kube-apiserver.yaml). Add
# them to what stands there; this file is read by nobody. Do it last, when the provider runs:
# kube-apiserver starts again at once.
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
            _mount(name, path, read_only=read_only) for name, path, _, read_only in shared
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
            # Not OnFailure: kubelet would not start it again after an orderly reboot.
            "restartPolicy": "Always",
            # A process that was taken over answers until its clients have gone.
            "terminationGracePeriodSeconds": 30,
            "securityContext": _identity(node),
            "containers": [container],
            "volumes": [_volume(name, path, kind) for name, path, kind, _ in shared],
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


def _shared(node: Node) -> Iterator[tuple[str, Path, str, bool]]:
    """Yield what the pod shares with its node: name, path, kind, and whether only to read."""
    settings = node.settings
    config = (node.config or DEFAULT_CONFIG_FILE).parent
    yield "run", node.socket_directory, "Directory", False
    yield "state", settings.state_dir, "Directory", False
    yield "config", config, "DirectoryOrCreate", True
    covered = (settings.state_dir, config)
    files = {"pin": settings.token.pin_file, "store-password": settings.store.password_file}
    for name, file in files.items():
        if file is not None and not any(file.is_relative_to(place) for place in covered):
            yield name, file, "File", True
    keyring = settings.keyring.parent
    if not keyring.is_relative_to(settings.state_dir):
        yield "keyring", keyring, "Directory", False
    if settings.provider.socket_group:
        # The image does not know the name of the node's group.
        yield "groups", Path("/etc/group"), "File", True


def _liveness(address: str) -> dict[str, Any] | None:
    if not address:
        return None
    host, _, port = address.rpartition(":")
    host = _WILDCARDS.get(host, host).strip("[]")
    return {
        "httpGet": {"host": host, "port": int(port), "path": "/livez"},
        "initialDelaySeconds": 10,
    }


def _mount(name: str, path: Path, *, read_only: bool = True) -> dict[str, Any]:
    mount: dict[str, Any] = {"name": name, "mountPath": str(path)}
    return {**mount, "readOnly": True} if read_only else mount


def _volume(name: str, path: Path, kind: str) -> dict[str, Any]:
    return {"name": name, "hostPath": {"path": str(path), "type": kind}}


def _quoted(text: Path | str) -> str:
    """Return one word for systemd, which takes quotes, and % for a specifier of its own."""
    plain = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{plain}"'
