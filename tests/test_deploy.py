"""What can be said of images without building them: pinned, unprivileged, and complete."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, str]:
    lines = [line for line in (DEPLOY / name).read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}


@pytest.mark.parametrize(
    ("file", "extras"), [("constraints-cpu.txt", ("models", "cluster")), ("constraints-cuda.txt", ("gpu", "cluster"))]
)
def test_everything_an_image_installs_is_pinned_within_what_the_project_needs(
    file: str, extras: tuple[str, ...]
) -> None:
    pinned = pins(file)
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


@pytest.mark.parametrize(
    "path", [DEPLOY / "docker" / "Dockerfile", DEPLOY / "docker" / "Dockerfile.cuda"], ids=lambda path: path.name
)
def test_images_are_of_a_fixed_base_and_run_without_rights(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"^FROM \S+:\d+\.\d+\.\d+\S*$", text, re.MULTILINE)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE)[-1] == "1000"
    for source in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split()), source
    assert "-c deploy/constraints-" in text


def test_the_apptainer_definition_names_files_that_are_there() -> None:
    text = (DEPLOY / "apptainer" / "chunkflow.def").read_text()
    section = text.split("%files")[1].split("%post")[0]
    sources = [line.split()[0] for line in section.splitlines() if line.strip()]
    assert sources
    assert all((ROOT / source).exists() for source in sources)


def test_the_conda_environment_installs_this_project_with_the_same_pins() -> None:
    path = DEPLOY / "conda" / "environment.yaml"
    wheels = next(d["pip"] for d in yaml.safe_load(path.read_text())["dependencies"] if isinstance(d, dict))
    assert (path.parent / wheels[0].removeprefix("--constraint ")).is_file()
    assert (path.parent / wheels[1].removeprefix("-e ").partition("[")[0] / "pyproject.toml").is_file()
