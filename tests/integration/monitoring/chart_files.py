"""The chart's rules and dashboard as its tests read them, and the names that they may use."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

REPOSITORY: Final = Path(__file__).resolve().parents[3]
FILES: Final = REPOSITORY / "charts" / "keyplane" / "files"
DOCS: Final = REPOSITORY / "docs"

STANDARD_METRICS: Final = frozenset(
    {
        # Of Prometheus itself.
        "up",
        "ALERTS",
        # Of kube-apiserver (k8s.io/apiserver, storage/value/encrypt/envelope/metrics).
        "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds",
        "apiserver_envelope_encryption_kms_operations_latency_seconds",
    }
)
"""What is used besides the metrics of keyplane."""

TARGET_LABELS: Final = frozenset({"cluster", "job", "namespace", "node", "instance"})
"""What scraping adds to every series."""

_LABELS_OF_PROMETHEUS: Final = {"ALERTS": frozenset({"alertname", "alertstate"})}

_HISTOGRAM_ENDINGS: Final = ("_bucket", "_count", "_sum")

_FENCE: Final = re.compile(r"^( *)```promql\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_ROW: Final = re.compile(r"^\| `((?:keyplane|process)_\w+)` \| (\w+) \| ([^|]*)\|", re.MULTILINE)
_NAME: Final = re.compile(r"\b(?:(?:keyplane|process|apiserver)_\w+|up|ALERTS)\b")
_SELECTOR: Final = re.compile(r"\b(\w+)\{([^}]*)\}")
_MATCHER: Final = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
_LABELS_OF_NAMES: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left)\s*\([^)]*\)")
_PLACEHOLDER: Final = re.compile(r"\$(?:__)?\w+|\$\{\w+\}")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as docs/metrics.md lists it."""

    kind: str
    labels: frozenset[str]


@functools.cache
def documented_metrics() -> Mapping[str, Metric]:
    """Return what docs/metrics.md lists, by name."""
    rows = _ROW.findall((DOCS / "metrics.md").read_text())
    return {
        name: Metric(kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows
    }


@functools.cache
def names_that_are_scraped() -> frozenset[str]:
    """Return the names that expressions may use; of a histogram its three series."""
    histograms = {"apiserver_envelope_encryption_kms_operations_latency_seconds"}
    histograms |= {name for name, metric in documented_metrics().items() if _is_histogram(metric)}
    series = {name + ending for name in histograms for ending in _HISTOGRAM_ENDINGS}
    return frozenset((documented_metrics().keys() | STANDARD_METRICS) - histograms | series)


def _is_histogram(metric: Metric) -> bool:
    return metric.kind == "histogram"


def metric_names(expression: str) -> set[str]:
    """Return the names in an expression, those in a matcher of `__name__` included."""
    return set(_NAME.findall(_LABELS_OF_NAMES.sub("", expression)))


def labels_that_are_not_there(expression: str) -> set[str]:
    """Return the selectors of an expression whose metric of ours has no such label."""
    return {
        f"{name}{{{label}}}"
        for name, matchers in _SELECTOR.findall(expression)
        for label in _MATCHER.findall(matchers)
        if label not in labels_of(name) | TARGET_LABELS
    }


def labels_of(name: str) -> frozenset[str]:
    """Return the labels that docs/metrics.md gives a series, by the series' name."""
    metric = documented_metrics().get(name) or documented_metrics().get(_without_ending(name))
    return metric.labels if metric else _LABELS_OF_PROMETHEUS.get(name, frozenset())


def _without_ending(name: str) -> str:
    """Return a histogram's name by that of one of its series."""
    return functools.reduce(str.removesuffix, _HISTOGRAM_ENDINGS, name)


@functools.cache
def alerts() -> Mapping[str, dict[str, Any]]:
    """Return the rules of alerts.yaml by the name of their alert."""
    read = yaml.safe_load((FILES / "alerts.yaml").read_text())
    rules = [rule for group in read["groups"] for rule in group["rules"]]
    found = {rule["alert"]: rule for rule in rules}
    assert len(found) == len(rules), "two alerts have one name"
    return found


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it."""
    read: dict[str, Any] = json.loads((FILES / "dashboard.json").read_text())
    return read


def dashboard_expressions() -> Mapping[str, str]:
    """Return the expressions of all panels by where they are, with every variable replaced."""
    return {
        f"panel {panel['id']} ({panel['title']}), {target['refId']}": _without_variables(
            target["expr"]
        )
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    }


def _without_variables(expression: str) -> str:
    """Put values where Grafana does: a window for `$__rate_interval`, `.*` for a choice."""
    replaced = expression.replace("$__rate_interval", "5m")
    return _PLACEHOLDER.sub(".*", replaced)


def documented_expressions() -> Mapping[str, str]:
    """Return all PromQL of docs/*.md by the file and the line on which it begins."""
    return {
        f"{page.name}:{text.count(chr(10), 0, found.start()) + 2}": found[2]
        for page, text in _pages()
        for found in _FENCE.finditer(text)
    }


def _pages() -> Iterator[tuple[Path, str]]:
    for page in sorted(DOCS.glob("*.md")):
        yield page, page.read_text()
