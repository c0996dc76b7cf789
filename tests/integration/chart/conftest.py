"""Renders the chart with the real helm."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testbed.helm import Helm, Manifest, Values, find_or_build_helm
from tests.integration.chart.values import CHART


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """The real helm, with no settings of anybody."""
    return Helm(find_or_build_helm(), tmp_path_factory.mktemp("helm"))


Render = Callable[..., list[Manifest]]


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """A function that renders the chart once for each set of values."""
    known: dict[str, list[Manifest]] = {}

    def rendered(values: Values, *options: str) -> list[Manifest]:
        asked = repr((values, options))
        if asked not in known:
            known[asked] = helm.template(CHART, values, options=options)
        return known[asked]

    return rendered
