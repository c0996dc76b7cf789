"""How `benchmarks.scale` remembers what the filling of a store has cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale import Fillings
from benchmarks.scale_work import Filling


@pytest.fixture
def fillings(tmp_path: Path) -> Fillings:
    return Fillings(tmp_path / "filling.json")


def test_an_interrupted_filling_costs_what_all_its_parts_do(fillings: Fillings) -> None:
    fillings.add("sqlite", Filling(keys=100, seconds=1.0))
    fillings.add("sqlite", Filling(keys=300, seconds=1.0))

    assert [cost.value for cost in fillings.cost("sqlite")] == [5_000.0]


def test_a_store_that_is_full_already_adds_nothing(fillings: Fillings) -> None:
    fillings.add("sqlite", Filling(keys=100, seconds=1.0))
    fillings.add("sqlite", Filling(keys=0, seconds=5.0))

    assert [cost.value for cost in fillings.cost("sqlite")] == [10_000.0]


def test_engines_are_remembered_apart(fillings: Fillings) -> None:
    fillings.add("sqlite", Filling(keys=100, seconds=1.0))

    assert list(fillings.cost("postgresql")) == []
