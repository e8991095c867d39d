"""Several runs on a page: what differs is named, what is equal is not."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest

import chunkflow as cf
from chunkflow.errors import IncompleteError, InputNotFoundError, UsageError
from chunkflow.report.runs_compared import names_of, write_runs_compared
from chunkflow.run.driver import run_plan
from chunkflow.run.result import Result
from chunkflow.testing import suites
from tests.report.conftest import VOXEL_UM, rings, run_rings


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The rod of 100 and the rings, above a threshold that only the brightest ground passes."""
    return run_rings(tmp_path_factory.mktemp("other"), "other", value=18.5, report=False)


def section(html: str, title: str) -> str:
    return html.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]


def cells(html: str) -> dict[str, list[str]]:
    found = {}
    for row in re.findall("<tr>(.*?)</tr>", html):
        first, *rest = [unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall("<td[^>]*>(.*?)</td>", row)] or [
            ""
        ]
        found[first] = rest
    return found


def test_parameters_that_differ_are_named_and_no_others(rings_result: Result, other: Result, tmp_path: Path) -> None:
    html = write_runs_compared([rings_result.path, other.path], tmp_path / "page.html").read_text()
    asked = cells(section(html, "What was asked differently"))
    asked.pop("", None)
    assert asked == {"threshold.value": ["50", "18.5"]}
    assert "to the last bit: scan, range." not in html  # two inputs, each written by itself


def test_of_a_stage_that_others_lack_only_what_has_a_value_is_named(rings_result: Result, tmp_path: Path) -> None:
    suites.write_volume(tmp_path / "in.ome.zarr", rings(), VOXEL_UM)
    stages = [cf.Threshold(method="fixed", value=50.0), cf.Label()]
    plan = cf.Pipeline(stages, output=cf.OutputOptions(save=("image", "labels"))).plan(
        tmp_path / "in.ome.zarr", tmp_path / "few", block=(32, 32, 64)
    )
    few = run_plan(plan, on="serial", device="cpu", report=False)
    html = write_runs_compared([rings_result.path, few.path], tmp_path / "page.html").read_text()
    asked = cells(section(html, "What was asked differently"))
    asked.pop("", None)
    assert asked["measure"] == ["yes", "–"] and asked["measure.intensity"] == ["raw", "–"]
    assert [name for name, values in asked.items() if len(set(values)) == 1] == []


def test_totals_stand_beside_each_other_with_their_difference(
    rings_result: Result, other: Result, tmp_path: Path
) -> None:
    html = write_runs_compared([rings_result.path, other.path], tmp_path / "page.html").read_text()
    found = cells(section(html, "What was found"))
    a, b = len(rings_result.objects), len(other.objects)
    assert found["objects"][:2] == [str(a), f"{b:,}"] and found["objects"][2].startswith(f"+{b - a:,} (+")
    volumes = [result.objects["volume_um3"].sum() for result in (rings_result, other)]
    share = 100 * (volumes[1] - volumes[0]) / volumes[0]
    text = found["total volume, µm³"][2]
    assert float(text.split("(+")[1].split(" %")[0].replace(",", "")) == pytest.approx(share, rel=5e-3)
    assert "polyline" in section(html, "Distributions") and "elapsed" in section(html, "Time")


def test_a_run_and_itself_are_equal(rings_result: Result, tmp_path: Path) -> None:
    html = write_runs_compared([rings_result.path, str(rings_result.path)], tmp_path / "page.html").read_text()
    assert "the results are" in html and "to the last bit" in html
    assert "Nothing: all parameters are equal." in html
    assert {row[2] for name, row in cells(section(html, "What was found")).items() if name} == {"equal"}
    assert "http" not in re.sub("http-equiv", "", html)


def test_names_are_as_short_as_they_can_be() -> None:
    assert names_of(["/a/x/out", "/a/y/out", "/a/y/in"]) == ["x/out", "y/out", "y/in"]
    assert names_of(["/a/one", "/b/two"]) == ["one", "two"]
    assert names_of(["/a/one", "/a/one"]) == ["/a/one (1)", "/a/one (2)"]


def test_what_cannot_be_compared_is_refused(rings_result: Result, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 run cannot"):
        write_runs_compared([rings_result.path], tmp_path / "page.html")
    with pytest.raises(InputNotFoundError, match="no run"):
        write_runs_compared([rings_result.path, tmp_path], tmp_path / "page.html")
    (tmp_path / "half" / "run").mkdir(parents=True)
    (tmp_path / "half" / "run" / "journal.jsonl").write_bytes(b"")
    with pytest.raises(IncompleteError):
        write_runs_compared([rings_result.path, tmp_path / "half"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
