"""The chart as a package: whole, and in step with the rest of the repository."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.helm import Helm
from tests.integration.chart.values import CHART, of_kind

pytestmark = pytest.mark.timeout(180, func_only=True)

CRD = CHART.parents[1] / "crds" / "keys.yaml"

GUIDE = CHART.parents[1] / "docs" / "install.md"


def test_the_chart_brings_the_same_crd_as_the_repository() -> None:
    assert (CHART / "crds" / "keys.yaml").read_bytes() == CRD.read_bytes()


def test_the_chart_is_for_the_version_of_this_repository() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert chart["appVersion"] == version("keyplane")


def test_a_package_holds_everything_the_templates_use(helm: Helm, tmp_path: Path) -> None:
    helm.run("package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.glob("keyplane-*.tgz")
    with tarfile.open(package) as archive:
        names = set(archive.getnames())

    assert {"keyplane/crds/keys.yaml", "keyplane/values.schema.json"} <= names
    assert not any("alerts_test" in name for name in names)


def test_every_value_is_in_the_schema_and_the_schema_has_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert set(paths(values)) == set(schema_paths(schema)) - {"global"}


def paths(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield the dotted name of every value."""
    for name, value in values.items():
        yield f"{path}{name}"
        if isinstance(value, Mapping) and name not in {"requests", "limits", "labels"}:
            yield from paths(value, f"{path}{name}.")


def schema_paths(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield the dotted name of every value that the schema names."""
    for name, below in schema.get("properties", {}).items():
        # A part of Kubernetes' own type that has no default.
        if name != "claims":
            yield f"{path}{name}"
            yield from schema_paths(below, f"{path}{name}.")


def documented_values() -> list[str]:
    """Return the values files in the guide."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if block.startswith("# values.yaml")]


@pytest.mark.parametrize("shape", ["embedded", "postgresql"])
def test_the_values_in_the_guide_install_their_shape(helm: Helm, shape: str) -> None:
    (values,) = [
        values
        for values in map(yaml.safe_load, documented_values())
        if values.get("store", "embedded") == shape
    ]

    assert of_kind(helm.template(CHART, values), "Deployment", "StatefulSet")
