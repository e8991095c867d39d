"""A newcomer's path, as the README shows it: from a fresh clone to a report of their own TIFF, mistakes included.

The working tree, as git would clone it, is installed into a folder of its own beside the libraries of this environment,
so that a file that the package forgets is missed here. There kernels are compiled anew, minutes on a busy machine: the
demo of that installation is a slow test, and the path is walked with the installation of this environment. Steps and
seconds are printed (`pytest -s`) and not judged.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.first_day import UNITS, VOXEL_UM, Terminal, nucleus, tubes, write_imagej

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COUNT = 6
WRONG_UM = tuple(str(1000 * size) for size in VOXEL_UM)
RUN = ("run", "pipeline.yaml", "--input", "in.ome.zarr", "-o", "out")
PNG_SIGNATURE = b"\x89PNG"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    """A terminal with the package installed from what a clone would hold."""
    clone, installed = (tmp_path_factory.mktemp(name) for name in ("clone", "installed"))
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no clone of the repository: git ls-files fails")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(installed), str(clone)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if "hatchling" in done.stderr and done.returncode:
        pytest.skip("pip cannot fetch hatchling, with which the package is built")
    assert done.returncode == 0, done.stderr
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    folder = tmp_path_factory.mktemp("fresh")
    return Terminal(folder, command=installed / "bin" / "chunkflow", environment=environment)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory):
    """The commands, in order, typed into one terminal; how each ended, by its step."""
    folder = tmp_path_factory.mktemp("newcomer")
    found = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert found is not None
    (folder / "pipeline.yaml").write_text(found[1], encoding="utf-8")
    two = np.stack([nucleus(1), tubes(COUNT, 1)], axis=1)
    write_imagej(folder / "stack.tif", two, "micron")
    write_imagej(folder / "unsized.tif", two, None)
    write_imagej(folder / "series.tif", np.stack([two, two]), next(iter(UNITS)), axes="TZCYX")
    typed = Terminal(folder)
    steps = {
        "demo": ("demo",),
        "import": ("import", "stack.tif", "in.ome.zarr"),
        "check": ("check", "in.ome.zarr"),
        "forgotten channel": ("plan", "pipeline.yaml", "--input", "in.ome.zarr", "-o", "out"),
        "forgotten channel, preview": ("preview", "pipeline.yaml", "in.ome.zarr"),
        "wrong channel": ("plan", *RUN[1:], "--set", "input.channel=mito"),
        "no voxel size": ("import", "unsized.tif", "unsized.ome.zarr"),
        "wrong voxel size": ("import", "unsized.tif", "unsized.ome.zarr", "--voxel-um", *WRONG_UM),
        "wrong voxel size, plan": (
            *("plan", "pipeline.yaml", "unsized.tif", "-o", "out", "--set", "input.channel=channel_1"),
            *("--voxel-um", *WRONG_UM),
        ),
        "time series": ("run", "pipeline.yaml", "series.tif", "-o", "series", "--set", "input.channel=channel_1"),
        "not there": ("run", "pipeline.yaml", "stak.tif", "-o", "out"),
        "preview": ("preview", "pipeline.yaml", "in.ome.zarr", "--set", "input.channel=channel_1"),
        "plan": ("plan", *RUN[1:], "--set", "input.channel=channel_1"),
        "run": (*RUN, "--set", "input.channel=channel_1"),
        "status": ("status", "out"),
        "view": ("view", "out", "--screenshot", "view.png"),
        "report": ("report", "out"),
    }
    done = {step: typed(step, *words) for step, words in steps.items()}
    print(f"\n{typed.table()}")
    return folder, done


def test_an_installed_clone_has_all_its_files(fresh: Terminal) -> None:
    """Presets, schema, package data: what an import alone does not miss."""
    write_imagej(fresh.folder / "stack.tif", np.stack([nucleus(1), tubes(COUNT, 1)], axis=1), "micron")
    place = f"import chunkflow, sys; sys.exit(not chunkflow.__file__.startswith({str(fresh.command.parents[1])!r}))"
    found = subprocess.run([sys.executable, "-c", place], cwd=fresh.folder, env=fresh.environment, check=False)
    assert found.returncode == 0
    for words in (("--version",), ("schema",), ("check", "stack.tif"), ("check", "mitochondria")):
        done = fresh(" ".join(words), *words)
        assert done.code == 0, done.text
    for preset in ("nuclei", "mitochondria-confocal", "neurites-em", "vessels-lightsheet"):
        done = fresh(f"init {preset}", "init", preset, "stack.tif", "-o", f"{preset}.yaml")
        assert done.code == 2 and "input.channel" in done.text, done.text


@pytest.mark.slow
def test_the_demo_of_an_installed_clone_finds_its_truth(fresh: Terminal) -> None:
    done = fresh("demo", "demo", timeout=1200)
    assert done.code == 0, done.text


def test_the_demo_finds_its_truth(path) -> None:
    folder, done = path
    assert done["demo"].code == 0, done["demo"].text
    assert list((folder / "chunkflow-demo").rglob("report.html"))


def test_commands_of_the_path_are_those_of_the_readme() -> None:
    for words in ("chunkflow import stack.tif in.ome.zarr", "chunkflow plan pipeline.yaml --input in.ome.zarr -o out"):
        assert words in README
    assert "chunkflow run pipeline.yaml --input in.ome.zarr -o out" in README


def test_an_own_tiff_becomes_a_result_that_can_be_looked_at(path) -> None:
    folder, done = path
    for step in ("import", "check", "preview", "plan", "run", "status", "report"):
        assert done[step].code == 0, f"{step}: {done[step].text}"
    assert "0.2 0.08 0.08 um" in done["import"].text and "ImageJ" in done["import"].text
    assert f"{COUNT} objects" in done["run"].text
    assert "complete" in done["status"].text
    with Image.open(folder / "preview.png") as picture:
        assert picture.width > 800
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "<img" in page and "in.ome.zarr" in page


def test_a_screenshot_is_a_picture_or_names_the_missing_browser(path) -> None:
    folder, done = path
    if done["view"].code:
        assert "Install it" in done["view"].text, done["view"].text
        pytest.skip("no browser: chromium is not installed")
    assert (folder / "view.png").read_bytes().startswith(PNG_SIGNATURE)
    with Image.open(folder / "view.png") as picture:
        pixels = np.asarray(picture.convert("RGB").resize((120, 90))).reshape(-1, 3)
        assert len(np.unique(pixels, axis=0)) > 50


@pytest.mark.parametrize(
    ("step", "code", "remedies"),
    [
        ("forgotten channel", 2, ("channel_0", "channel_1", "input.channel")),
        ("forgotten channel, preview", 2, ("channel_0", "channel_1", "input.channel")),
        ("wrong channel", 2, ("mito", "channel_1")),
        ("no voxel size", 2, ("--voxel-um Z Y X",)),
        ("wrong voxel size", 0, ("warning", "unusual", "--voxel-um Z Y X")),
        ("wrong voxel size, plan", 0, ("warning", "unusual", "--voxel-um Z Y X")),
        ("time series", 2, ("input.time", "time: all")),
        ("not there", 2, ("stak.tif", "Check the path")),
    ],
)
def test_a_mistake_ends_in_a_sentence_with_its_remedy(path, step: str, code: int, remedies: tuple[str, ...]) -> None:
    _, done = path
    said = " ".join(done[step].text.split())
    assert done[step].code == code, said
    assert [remedy for remedy in remedies if remedy not in said] == [], said
    assert "Traceback" not in said
