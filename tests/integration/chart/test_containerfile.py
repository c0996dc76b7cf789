"""The image's recipe, read line by line; there need be no container engine here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.integration.chart.values import CHART

REPOSITORY = CHART.parents[1]

Instruction = tuple[str, str]


def stages() -> list[list[Instruction]]:
    """Return the instructions of each stage, the last one being the image."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    found: list[list[Instruction]] = [[]]
    for name, _, rest in (line.partition(" ") for line in lines if line.strip()):
        if name == "FROM":
            found.append([])
        found[-1].append((name, " ".join(rest.split())))
    return found[1:]


def arguments(stage: list[Instruction], name: str) -> list[str]:
    """Return what follows each instruction of a name."""
    return [rest for instruction, rest in stage if instruction == name]


def test_everything_that_is_copied_exists() -> None:
    build, _ = stages()
    sources = [word for line in arguments(build, "COPY") for word in line.split()[:-1]]

    assert sources
    assert [source for source in sources if not (REPOSITORY / source).exists()] == []


def test_every_package_is_part_of_the_image() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^packages = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    roots = {Path(package).parts[0] for package in re.findall(r'"(.*?)"', listed)}
    copied = {word for line in arguments(stages()[0], "COPY") for word in line.split()}

    assert roots <= copied


def test_every_download_is_checked_against_a_hash() -> None:
    build, image = stages()
    installs = [
        step
        for line in arguments(build, "RUN")
        for step in line.split(" && ")
        if re.search(r"\bpip (install|download|wheel)\b", step)
    ]

    assert [s for s in installs if "--require-hashes" not in s and "--no-index" not in s] == []
    assert not any("pip" in line for line in arguments(image, "RUN"))


def test_the_image_has_no_tools_of_the_build() -> None:
    _, image = stages()

    assert arguments(image, "COPY") == ["--from=build /opt/keyplane /opt/keyplane"]
    assert "uninstall" in arguments(stages()[0], "RUN")[-1]
    (packages,) = re.findall(r"--no-install-recommends ([a-z0-9 -]+?) &&", str(image))
    assert packages.split() == ["libsofthsm2"]


def test_it_runs_keyplane_as_the_user_of_the_chart() -> None:
    _, image = stages()
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert arguments(image, "USER") == [f"{values['user']}:{values['user']}"]
    assert json.loads(arguments(image, "ENTRYPOINT")[0]) == ["keyplane"]
    # Nothing after it may run as root.
    names = [name for name, _ in image]
    assert not {"RUN", "COPY", "ADD"} & set(names[names.index("USER") :])


@pytest.mark.parametrize("file", ["Containerfile", "charts/keyplane/values.yaml"])
def test_no_registry_is_named(file: str) -> None:
    text = (REPOSITORY / file).read_text()

    assert re.findall(r"^(?:ARG BASE=|\s*repository:)\s*\S*[.][a-z]+/", text, re.MULTILINE) == []
