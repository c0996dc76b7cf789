"""What Prometheus reads of a process, for tests to look at."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from keywatch.families import Family


class Scraped:
    """All samples of one scrape."""

    def __init__(self, text: bytes | str) -> None:
        self.text = text.decode() if isinstance(text, bytes) else text
        self.families = list(text_string_to_metric_families(self.text))
        self._samples = [sample for family in self.families for sample in family.samples]

    def of(self, name: str) -> list[Sample]:
        """Return the samples of this name."""
        return [sample for sample in self._samples if sample.name == name]

    def value(self, name: str, **labels: str) -> float:
        """Return the value of the one sample of this name and these labels."""
        (found,) = [sample for sample in self.of(name) if sample.labels == labels]
        return found.value

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of this name that have these labels among theirs."""
        return sum(s.value for s in self.of(name) if labels.items() <= s.labels.items())

    def label_values(self, name: str, label: str) -> set[str]:
        """Return the values that one label has."""
        return {sample.labels[label] for sample in self.of(name)}

    def described(self) -> dict[str, tuple[str, set[str]]]:
        """Return type and labels of everything that has samples, by name as in a `Family`."""
        return {
            family.name + ("_total" if family.type == "counter" else ""): (
                family.type,
                {label for sample in family.samples for label in sample.labels} - {"le"},
            )
            for family in self.families
            if family.samples
        }


def declared(families: Iterable[Family]) -> dict[str, tuple[str, set[str]]]:
    """Return families in the form of :meth:`Scraped.described`."""
    return {family.name: (family.kind.value, set(family.labels)) for family in families}
