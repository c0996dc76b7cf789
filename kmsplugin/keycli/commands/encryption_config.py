"""``keyplane encryption-config``: the file that kube-apiserver needs, ready to be used."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from keycli.invocation import Invocation, command
from keycli.output import Document
from keycore.domain.names import check_provider_name

TIMEOUT = "3s"
"""The API server's own default; a call that takes longer has failed."""

_RESOURCE = re.compile(r"[a-z][a-z0-9-]*(\.[a-z0-9.-]+)?|\*\.(\*|[a-z0-9.-]*)")
"""``secrets``, ``keys.kms.keyplane.dev``, ``*.apps``, ``*.`` (the core group) or ``*.*``."""

_YAML = """\
# For kube-apiserver: --encryption-provider-config=<this file>
# Add --encryption-provider-config-automatic-reload=true, and later changes of
# this file need no restart. Owner root, mode 0600, the same on every node.
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources:
{resources}
    providers:
      # The first provider encrypts; every provider listed can decrypt.
      - kms:
          apiVersion: v2
          # In etcd beside every object: this name can never change.
          name: {name}
          endpoint: {endpoint}
          timeout: {timeout}
      # Reads what was stored before encryption was switched on. Rewrite every
      # object once, then remove this line: with it, plain objects written into
      # etcd by somebody else are accepted.
      - identity: {{}}
"""


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    command(
        app,
        "encryption-config",
        examples=(
            "keyplane encryption-config > /etc/kubernetes/encryption.yaml",
            "keyplane encryption-config --resources secrets,configmaps",
        ),
    )(encryption_config)


def encryption_config(
    run: Invocation,
    *,
    resources: Annotated[
        str, typer.Option(metavar="LIST", help="What to encrypt, separated by commas.")
    ] = "secrets",
    provider: Annotated[
        str | None, typer.Option(metavar="NAME", help="[default: the setting provider.name]")
    ] = None,
) -> None:
    """Print an EncryptionConfiguration for kube-apiserver.

    It uses the settings alone and can be made before the installation exists.
    """
    listed = parse_resources(resources)
    name = check_provider_name(provider or run.settings.provider.name)
    endpoint = f"unix://{run.settings.provider.socket}"
    run.show(
        _document(listed, name, endpoint),
        lambda _: _write(as_yaml(listed, name, endpoint)),
    )


def parse_resources(text: str) -> list[str]:
    """Return the names in a list separated by commas, each once.

    Raises:
        typer.BadParameter: one cannot be a resource, or there is none.
    """
    listed = [part.strip() for part in text.split(",") if part.strip()]
    if not listed or not all(_RESOURCE.fullmatch(part) for part in listed):
        raise typer.BadParameter(
            "give resource names like secrets,configmaps", param_hint="--resources"
        )
    return list(dict.fromkeys(listed))


def _document(resources: list[str], name: str, endpoint: str) -> Document:
    kms = {"apiVersion": "v2", "name": name, "endpoint": endpoint, "timeout": TIMEOUT}
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": resources, "providers": [{"kms": kms}, {"identity": {}}]}],
    }


def as_yaml(resources: list[str], name: str, endpoint: str) -> str:
    """Return the file that kube-apiserver reads, with comments for the administrator.

    Args:
        resources: what to encrypt, from :func:`parse_resources`.
        name: of the provider.
        endpoint: its socket, as a ``unix://`` URL.
    """
    return _YAML.format(
        # Quoted, since `*.` begins an alias and a name may look like a number.
        resources="\n".join(f'      - "{resource}"' for resource in resources),
        name=f'"{name}"',
        endpoint=f'"{endpoint}"',
        timeout=TIMEOUT,
    )


def _write(text: str) -> None:
    sys.stdout.write(text)
