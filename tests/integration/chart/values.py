"""Values of the chart that the tests render, and how to find things in what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from testbed.helm import Manifest, Values

CHART: Final = Path(__file__).parents[3] / "charts" / "keyplane"

PROMETHEUS: Final = "--api-versions=monitoring.coreos.com/v1"
"""Renders for a cluster that has the Prometheus operator's resources."""

ISSUER: Final = {"name": "corp", "url": "https://login.example.com", "audience": "keyplane"}

POLICY: Final = """\
[[bindings]]
role = "ClusterAdministrator"
members = [{ issuer = "corp", group = "keepers" }]
"""

REST: Final = {"enabled": True, "tls": {"secretName": "tls"}, "issuers": [ISSUER], "policy": POLICY}

POSTGRESQL: Final = {
    "store": "postgresql",
    "token": {"module": "/opt/hsm/pkcs11.so", "pinSecret": {"name": "hsm"}},
    "postgresql": {"secretName": "database"},
}

CLUSTER_ISSUER: Final = {
    "name": "cluster",
    "url": "https://kubernetes.default.svc.cluster.local",
    "audience": "keyplane",
    "ca_file": "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
    "credential_file": "/var/run/secrets/kubernetes.io/serviceaccount/token",
}

SHAPES: Final[Mapping[str, Values]] = {
    "embedded": {},
    "embedded with REST": {"rest": REST},
    "embedded with everything": {
        "rest": {**REST, "workers": 3, "serviceAccountToken": True, "requestsPerSecond": 2.5},
        "token": {"pinSecret": {"name": "hsm"}, "serial": "0123456789abcdef"},
        "embedded": {"node": "cp-1", "stateDir": "/srv/keyplane", "socketDir": "/run/kp"},
        "imports": {"enabled": True, "namespaces": ["team-a", "team-b"]},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"operator": "Exists"}],
        "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": [{"name": "registry"}]},
        "extraEnv": [{"name": "KEYPLANE_TOKEN__DEADLINE", "value": "5"}],
        "listenAddress": "::",
        "priorityClassName": "system-cluster-critical",
    },
    "embedded without extras": {
        "networkPolicy": {"enabled": False},
        "serviceMonitor": {"enabled": False},
        "prometheusRule": {"enabled": False},
    },
    "postgresql": POSTGRESQL,
    "postgresql with REST": {**POSTGRESQL, "rest": REST},
    "postgresql with everything": {
        **POSTGRESQL,
        "rest": {
            **REST,
            "replicas": 3,
            "workers": 2,
            "tls": {"secretName": "tls", "clientCa": True},
            "issuers": [ISSUER, CLUSTER_ISSUER],
            "serviceAccountToken": True,
            "service": {"type": "LoadBalancer", "port": 443, "annotations": {"a": "b"}},
        },
        "postgresql": {"secretName": "database", "passwordKey": "pw", "caKey": "ca.crt"},
        "initialise": {"enabled": True},
        "imports": {"enabled": True},
        "persistence": {"size": "5Gi", "storageClassName": "fast"},
        "extraVolumes": [{"name": "hsm", "configMap": {"name": "hsm"}}],
        "extraVolumeMounts": [{"name": "hsm", "mountPath": "/opt/hsm/etc", "readOnly": True}],
        "podLabels": {"team": "keepers"},
        "podAnnotations": {"note": "x"},
        "serviceAccount": {"annotations": {"role": "y"}},
        "networkPolicy": {
            "restFrom": [{"namespaceSelector": {}}],
            "metricsFrom": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
            "extraEgress": [{"ports": [{"protocol": "TCP", "port": 1792}]}],
        },
        "affinity": {"nodeAffinity": {}},
        "dashboard": {"enabled": True},
    },
    "postgresql without a password": {
        **POSTGRESQL,
        "postgresql": {"secretName": "database", "passwordKey": ""},
        "rest": {**REST, "replicas": 1},
        "fullnameOverride": "keys",
    },
}
"""Each shape alone, with REST, and with every option."""


def of_kind(manifests: Iterable[Manifest], *kinds: str) -> list[Manifest]:
    """Return the objects of some kinds."""
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def pod_specs(manifests: Iterable[Manifest]) -> Iterator[dict[str, Any]]:
    """Yield the spec of every pod, those of templates included."""
    for manifest in manifests:
        if manifest["kind"] == "Pod":
            yield manifest["spec"]
        elif "template" in manifest.get("spec", {}):
            yield manifest["spec"]["template"]["spec"]


def containers(manifests: Iterable[Manifest]) -> Iterator[dict[str, Any]]:
    """Yield every container, those that run first included."""
    for spec in pod_specs(manifests):
        yield from spec.get("initContainers", [])
        yield from spec["containers"]


def settings_text(manifests: Iterable[Manifest]) -> str:
    """Return the rendered keyplane.toml."""
    (text,) = [
        config["data"]["keyplane.toml"]
        for config in of_kind(manifests, "ConfigMap")
        if "keyplane.toml" in config["data"]
    ]
    return str(text)
