"""The chart's alerts are rules that Prometheus takes, tested by its own tool and documented."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml

from testbed.errors import CommandFailedError
from testbed.promtool import Promtool
from tests.integration.monitoring.chart_files import (
    DOCS,
    FILES,
    REPOSITORY,
    TARGET_LABELS,
    alerts,
    documented_expressions,
    labels_of,
    labels_that_are_not_there,
    metric_names,
    names_that_are_scraped,
)

# Building promtool takes five minutes where no Go module was ever compiled.
pytestmark = pytest.mark.timeout(900)

_TESTS = sorted(FILES.glob("*_test.yaml"))
_QUERY = re.compile(r'^ALERTS\{alertname="(\w+)", alertstate="firing"\}$')
_SECTION = re.compile(r"^### (\w+)\n\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
_PARTS = ("**Means:**", "**Look at:**", "**Do:**")
_EVERY_TARGET_HAS = {"cluster", "job", "namespace"}
_GROUPED = re.compile(r"\bby \(([^)]*)\)")


def _asked() -> Iterator[tuple[str, bool]]:
    """Yield each question of the rules' tests: the alert, and whether it is to fire."""
    for test in (test for file in _TESTS for test in yaml.safe_load(file.read_text())["tests"]):
        for case in test.get("promql_expr_test", ()):
            query = _QUERY.match(case["expr"])
            assert query, f"{test['name']}: {case['expr']}"
            yield query[1], bool(case.get("exp_samples"))


def _sections() -> dict[str, str]:
    return dict(_SECTION.findall((DOCS / "alerts.md").read_text()))


def test_prometheus_takes_the_rules(promtool: Promtool) -> None:
    assert f"{len(alerts())} rules found" in promtool.check_rules(FILES / "alerts.yaml")


def test_alerts_fire_when_they_are_to_and_not_before(promtool: Promtool) -> None:
    assert promtool.test_rules(*_TESTS).count("SUCCESS") == len(_TESTS)


def test_every_alert_is_tested_firing_and_silent() -> None:
    asked = set(_asked())

    assert asked == {(name, fires) for name in alerts() for fires in (True, False)}


def test_every_alert_has_a_section_that_tells_what_to_do() -> None:
    sections = _sections()

    assert list(sections) == list(alerts())
    for name, text in sections.items():
        assert [part for part in _PARTS if part in text] == list(_PARTS), name


@pytest.mark.parametrize("name", alerts())
def test_an_alert_names_its_severity_its_texts_and_its_section(name: str) -> None:
    rule = alerts()[name]

    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/alerts.md#{name.lower()}"
    assert (REPOSITORY / "docs" / "alerts.md").is_file()


@pytest.mark.parametrize("name", alerts())
def test_an_alert_uses_documented_metrics_only(name: str) -> None:
    used = metric_names(alerts()[name]["expr"])

    assert used
    assert used <= names_that_are_scraped()


@pytest.mark.parametrize("name", alerts())
def test_an_alert_selects_by_labels_that_the_metric_has(name: str) -> None:
    assert labels_that_are_not_there(alerts()[name]["expr"]) == set()


@pytest.mark.parametrize("name", alerts())
def test_an_alert_keeps_job_namespace_and_cluster(name: str) -> None:
    for labels in _GROUPED.findall(alerts()[name]["expr"]):
        assert {label.strip() for label in labels.split(",")} >= _EVERY_TARGET_HAS


@pytest.mark.parametrize("name", alerts())
def test_a_text_uses_only_labels_that_the_alert_keeps(name: str) -> None:
    rule = alerts()[name]
    kept = {label for found in metric_names(rule["expr"]) for label in labels_of(found)}
    grouped = _GROUPED.findall(rule["expr"])
    if grouped:
        kept = {label.strip() for label in grouped[0].split(",")}
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))

    assert named <= kept | (set() if grouped else TARGET_LABELS)


def test_prometheus_takes_the_documented_configuration(promtool: Promtool) -> None:
    found = re.search(r"```yaml\n(# prometheus.*?)```", (DOCS / "alerts.md").read_text(), re.DOTALL)

    assert found
    promtool.check_configuration(found[1])


def test_promql_of_the_documentation_can_be_parsed(promtool: Promtool) -> None:
    expressions = documented_expressions()

    assert len(expressions) >= 5
    promtool.check_expressions(expressions)


def test_promql_of_the_documentation_uses_documented_metrics_only() -> None:
    for where, expression in documented_expressions().items():
        assert metric_names(expression) <= names_that_are_scraped(), where


@pytest.mark.parametrize("name", ["KeyplaneKeyIdsDiverge", "KeyplaneSeedsSoonUnreadable"])
def test_the_documentation_asks_as_the_alert_does(name: str) -> None:
    asked = {" ".join(expression.split()) for expression in documented_expressions().values()}

    assert " ".join(alerts()[name]["expr"].split()) in asked


def test_the_documentation_has_no_promql_outside_a_fence_of_its_own() -> None:
    for page in DOCS.glob("*.md"):
        assert "```prom" not in page.read_text().replace("```promql\n", ""), page.name


def test_promtool_names_the_place_of_what_cannot_be_parsed(promtool: Promtool) -> None:
    with pytest.raises(CommandFailedError, match=r"page\.md:7"):
        promtool.check_expressions({"page.md:3": "up", "page.md:7": "sum(up"})
