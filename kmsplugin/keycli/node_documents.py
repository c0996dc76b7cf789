"""The files of a control-plane node, as texts: what runs the provider, and what calls it.

Each path is where the file lies on the node. Everything that the files name comes from
the settings, so that provider, kube-apiserver and these files agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from keycli.commands.encryption_config import as_yaml
from keycore.settings import DEFAULT_CONFIG_FILE, Settings

ENCRYPTION_CONFIG = Path("/etc/kubernetes/keyplane/encryption-config.yaml")
"""In a directory of its own, which kube-apiserver's pod mounts: a file that is mounted alone
stays the old one when it is replaced."""

API_SERVER_LINES = Path("/etc/kubernetes/keyplane/kube-apiserver-lines.yaml")

UNIT = Path("/etc/systemd/system/keyplane-provider.service")

DIRECTORIES = Path("/etc/tmpfiles.d/keyplane.conf")

USERS = Path("/etc/sysusers.d/keyplane.conf")

USER_NAME = "keyplane"
"""Of a uid that has no name yet, for which systemd starts nothing."""


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

    @property
    def keyring_directory(self) -> Path | None:
        """The directory of the keyring when that is outside the state directory."""
        directory = self.settings.keyring.parent
        return None if directory.is_relative_to(self.settings.state_dir) else directory


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
    private = filter(None, (node.settings.state_dir, node.keyring_directory))
    lines = (
        "# Directories of keyplane (tmpfiles.d(5)); now: systemd-tmpfiles --create keyplane.conf",
        *(f"d {_quoted(directory)} 0700 {node.user} {node.user} -" for directory in private),
        f"d {_quoted(node.socket_directory)} {access} -",
    )
    return NodeFile(DIRECTORIES, "\n".join(lines) + "\n")


def users(node: Node) -> NodeFile:
    """Return what gives the uid of the provider a name, at every boot where it has none."""
    lines = (
        "# The user of keyplane (sysusers.d(5)); now: systemd-sysusers keyplane.conf",
        f'u {USER_NAME} {node.user} "keyplane" {_quoted(node.settings.state_dir)}',
    )
    return NodeFile(USERS, "\n".join(lines) + "\n")


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
            places=" ".join(map(_quoted, _written(node))),
        ),
    )


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
        "volumeMounts": [mount(name, path) for name, (path, _) in mounts.items()],
    }
    volumes = [volume(name, path, kind) for name, (path, kind) in mounts.items()]
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
ReadWritePaths={places}
ProtectHome=yes
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
LockPersonality=yes

[Install]
WantedBy=multi-user.target
"""

_LINES_COMMENT = """\
# Lines for kube-apiserver's manifest (/etc/kubernetes/manifests/kube-apiserver.yaml). Add
# them to what stands there; this file is read by nobody. Do it last, when the provider runs:
# kube-apiserver starts again at once. kubeadm writes the manifest anew at every upgrade, so
# tell kubeadm too: docs/install.md.
"""


def _written(node: Node) -> Iterator[Path]:
    """Yield the directories that the provider writes to."""
    yield node.settings.state_dir
    yield node.socket_directory
    if node.keyring_directory:
        yield node.keyring_directory


def mount(name: str, path: Path, *, read_only: bool = True) -> dict[str, Any]:
    """Return a volume's mount at the node's own path."""
    found: dict[str, Any] = {"name": name, "mountPath": str(path)}
    return {**found, "readOnly": True} if read_only else found


def volume(name: str, path: Path, kind: str) -> dict[str, Any]:
    """Return a volume that is a file or directory of the node."""
    return {"name": name, "hostPath": {"path": str(path), "type": kind}}


def _quoted(text: Path | str) -> str:
    """Return one word for systemd, which takes quotes, and % for a specifier of its own."""
    plain = str(text).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{plain}"'
