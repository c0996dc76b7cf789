"""The chart's dashboard is one that Grafana takes, and shows what there is."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from testbed.promtool import Promtool
from tests.integration.monitoring.chart_files import (
    FILES,
    alerts,
    dashboard,
    dashboard_expressions,
    documented_metrics,
    labels_that_are_not_there,
    metric_names,
    names_that_are_scraped,
)

# Building promtool takes five minutes where no Go module was ever compiled.
pytestmark = pytest.mark.timeout(900)

_COLUMNS = 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_LABELS_OF_TARGETS = {"job", "node", "instance"}


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = dashboard()["panels"]
    return panels


def _variables() -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in dashboard()["templating"]["list"]}


def _cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    place = panel["gridPos"]
    columns = range(place["x"], place["x"] + place["w"])
    return set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))


def test_every_expression_can_be_parsed(promtool: Promtool) -> None:
    promtool.check_expressions(dashboard_expressions())


def test_every_expression_uses_documented_metrics_only() -> None:
    for where, expression in dashboard_expressions().items():
        used = metric_names(expression)
        assert used, where
        assert used <= names_that_are_scraped(), where


def test_every_expression_selects_by_labels_that_the_metric_has() -> None:
    for where, expression in dashboard_expressions().items():
        assert labels_that_are_not_there(expression) == set(), where


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    shown = {name for query in dashboard_expressions().values() for name in metric_names(query)}
    shown = {re.sub("_(bucket|count|sum)$", "", name) for name in shown}
    ours = {name for name in documented_metrics() if name.startswith("keyplane_")}

    assert ours - shown == {"keyplane_kms_outage_policy_info"}


def test_the_first_row_answers_whether_it_is_fine() -> None:
    titles = [panel["title"] for panel in _panels() if panel["type"] == "row"]

    assert titles[0] == "Is it fine?"
    assert {"Provider", "Token", "Store", "REST", "Operator", "Audit"} <= set(titles)


def test_ids_are_given_once() -> None:
    ids = [panel["id"] for panel in _panels()]

    assert len(set(ids)) == len(ids)
    assert all(isinstance(one, int) and one > 0 for one in ids)


def test_panels_lie_inside_the_grid_and_on_nothing_else() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _panels():
        cells = _cells(panel)
        assert not cells & taken, panel["title"]
        assert all(0 <= column < _COLUMNS for column, _ in cells), panel["title"]
        taken |= cells


def test_a_row_stands_above_its_panels() -> None:
    tops = [panel["gridPos"]["y"] for panel in _panels()]

    assert tops == sorted(tops)
    assert _panels()[0]["type"] == "row"


def test_every_panel_has_the_chosen_source_and_a_description() -> None:
    for panel in _panels():
        if panel["type"] == "row":
            continue
        assert panel["datasource"] == _SOURCE, panel["title"]
        assert all(target["datasource"] == _SOURCE for target in panel["targets"])
        assert panel["description"].endswith("."), panel["title"]


def test_targets_of_a_panel_are_lettered() -> None:
    for panel in _panels():
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert letters == list("ABCDEFGH"[: len(letters)]), panel["title"]


def test_the_variables_are_source_job_node_and_instance() -> None:
    assert list(_variables()) == ["datasource", "job", "node", "instance"]
    for name in _LABELS_OF_TARGETS:
        variable = _variables()[name]
        # A target without the label must be among "All".
        assert (variable["includeAll"], variable["allValue"]) == (True, ".*")
        assert variable["query"]["query"] == variable["definition"]
        assert metric_names(variable["definition"]) == {"keyplane_build_info"}


def test_every_variable_that_is_used_is_there() -> None:
    text = (FILES / "dashboard.json").read_text()
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))

    assert used == set(_variables())


def test_metrics_of_ours_follow_the_choice_of_job_node_and_instance() -> None:
    chosen = ", ".join(f'{label}=~"${label}"' for label in ("job", "node", "instance"))
    for panel in _panels():
        for target in panel.get("targets", ()):
            if re.search(r"\b(keyplane|process)_", target["expr"]):
                assert chosen in target["expr"], panel["title"]


def test_key_ids_are_compared_as_the_alert_compares_them() -> None:
    (panel,) = [panel for panel in _panels() if panel["title"] == "Different key_ids"]
    grouped = re.compile(r"\bby \(([^)]*)\)")

    assert grouped.findall(panel["targets"][0]["expr"]) == grouped.findall(
        alerts()["KeyplaneKeyIdsDiverge"]["expr"]
    )


def test_it_can_be_imported_anywhere() -> None:
    read = dashboard()

    assert read["id"] is None
    assert read["uid"] == "keyplane"
    assert json.dumps(read, indent=2, ensure_ascii=False) + "\n" == (
        (FILES / "dashboard.json").read_text()
    )
