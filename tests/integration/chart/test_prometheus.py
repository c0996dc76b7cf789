"""What the chart brings for Prometheus and Grafana, and when."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.integration.chart.conftest import Render
from tests.integration.chart.values import CHART, PROMETHEUS, SHAPES, of_kind

pytestmark = pytest.mark.timeout(180, func_only=True)

RULES = "PrometheusRule"
MONITORING = ("ServiceMonitor", RULES)


def test_a_cluster_without_the_prometheus_operator_gets_nothing_of_it(render: Render) -> None:
    assert of_kind(render(SHAPES["embedded"]), *MONITORING) == []


def test_a_cluster_with_it_gets_a_monitor_of_every_metrics_port(render: Render) -> None:
    manifests = render(SHAPES["postgresql with everything"], PROMETHEUS)
    (monitor,) = of_kind(manifests, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    services = [
        s for s in of_kind(manifests, "Service") if wanted <= s["metadata"]["labels"].items()
    ]
    ports = {port["name"] for service in services for port in service["spec"]["ports"]}

    assert {e["port"] for e in monitor["spec"]["endpoints"]} == ports
    assert ports == {"metrics", "metrics-0", "metrics-1"}


def test_every_target_has_the_name_of_its_node(render: Render) -> None:
    manifests = render(SHAPES["postgresql with everything"], PROMETHEUS)
    (monitor,) = of_kind(manifests, "ServiceMonitor")

    for endpoint in monitor["spec"]["endpoints"]:
        assert endpoint["relabelings"] == [
            {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}
        ]


def test_the_rules_are_the_alerts_as_they_are(render: Render) -> None:
    (rule,) = of_kind(render({}, PROMETHEUS), "PrometheusRule")

    assert rule["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())


def test_the_rules_lead_to_where_the_documentation_is_read(render: Render) -> None:
    base = "https://git.example.com/keyplane/blob/main"
    (rule,) = of_kind(render({"prometheusRule": {"runbookBase": base}}, PROMETHEUS), RULES)
    plain = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())

    def links(spec: dict[str, Any]) -> list[str]:
        rules = [rule for group in spec["groups"] for rule in group["rules"]]
        return [rule["annotations"]["runbook_url"] for rule in rules]

    assert links(rule["spec"]) == [f"{base}/{link}" for link in links(plain)]


def test_the_dashboard_comes_as_it_is_and_with_the_label_of_the_sidecar(render: Render) -> None:
    values = {"dashboard": {"enabled": True, "labels": {"show": "yes"}, "annotations": {"in": "x"}}}
    (config,) = [c for c in render(values) if c["metadata"]["name"] == "keyplane-dashboard"]

    assert json.loads(config["data"]["keyplane.json"]) == json.loads(
        (CHART / "files" / "dashboard.json").read_text()
    )
    assert config["metadata"]["labels"].items() >= {"show": "yes", "grafana_dashboard": "1"}.items()
    assert config["metadata"]["annotations"] == {"in": "x"}


def test_there_is_no_dashboard_unless_it_is_asked_for(render: Render) -> None:
    names = {manifest["metadata"]["name"] for manifest in render(SHAPES["embedded"], PROMETHEUS)}

    assert "keyplane-dashboard" not in names


def test_monitoring_can_be_left_away(render: Render) -> None:
    assert of_kind(render(SHAPES["embedded without extras"], PROMETHEUS), *MONITORING) == []
