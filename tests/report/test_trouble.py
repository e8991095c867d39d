"""Reports of what went wrong: first on the page, and never in place of it."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import chunkflow as cf
from chunkflow.errors import DiskFullError, IncompleteError, InputNotFoundError, IntegrityError, OutputInUseError
from chunkflow.report import report as reports
from chunkflow.report.report import rebuild_report, write_report
from chunkflow.run import driver
from chunkflow.run.driver import run_plan
from chunkflow.run.journal import Journal
from chunkflow.run.lock import OutputLock
from chunkflow.testing import suites
from tests.report.conftest import VOXEL_UM, rings, run_rings


def words(html: str) -> str:
    text = re.sub("<style>.*?</style>|<script.*?</script>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub("<[^>]*>", " ", text)).split())


def spoilt() -> object:
    """The rings with one NaN, in the block at 0:13,32:41,0:64."""
    image = rings()
    image[3, 40, 60] = float("nan")
    return image


COMMAND = "cd /there && chunkflow run it.yaml"
PICKY = """
def picky(image):
    assert image[:9].max() < 90, 'no <cells>'
    return image
"""


def failing(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """A run whose stage raises in the four tiles of five that a ring reaches into."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(
        "def picky(image):\n    assert image[:9].max() < 90, 'no <cells>'\n    return image\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    suites.write_volume(folder / "in.ome.zarr", rings()[:, :, :37], VOXEL_UM)
    picky = cf.Apply(function="mine:picky", output="image", tile=(13, 41, 8), halo=0)
    plan = cf.Pipeline([picky, cf.Threshold(), cf.Label()]).plan(folder / "in.ome.zarr", folder / "out")
    run_plan(plan, on="serial", device="cpu", command=COMMAND, **options)


def test_a_run_that_fails_leaves_its_report_without_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    with pytest.raises(IncompleteError) as ended:
        failing(tmp_path, monkeypatch, on_event=told.append)
    text = words((tmp_path / "out" / "report.html").read_text())
    assert "This result is not complete. The run ended with an error." in text
    assert f"Error: {ended.value} (exit code 3)" in text
    assert f"To go on, once the cause is gone: {COMMAND}" in text
    aside = [event for event in told if event["event"] == "failed"]
    assert len(aside) == 4 and "4 blocks failed and were set aside" in text
    for event in aside:
        assert f"apply {event['unit']} {event['core']}" in text
    assert "no <cells>" in text
    assert told[-1] == {"event": "report", "path": str(tmp_path / "out" / "report.html")}


def test_a_run_that_ends_without_a_failed_block_says_what_ended_it(tmp_path: Path) -> None:
    def full(event: Any) -> None:
        if event["event"] == "pass" and event["pass"] == "label":
            raise DiskFullError("no space left to write it", "Free some space")

    with pytest.raises(DiskFullError):
        run_rings(tmp_path, on_event=full)
    text = words((tmp_path / "out" / "report.html").read_text())
    assert "Error: no space left to write it. Free some space (exit code 4)" in text
    assert "To go on, once the cause is gone: the same call of Python." in text and "set aside" not in text


def test_a_report_that_fails_does_not_hide_what_the_run_died_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise IntegrityError("no page")

    def deaf(event: Any) -> None:
        if event["event"] == "warning" and "the report" in event["text"]:
            raise BrokenPipeError("nobody listens")

    monkeypatch.setattr(reports, "_so_far", broken)
    for name, listener in {"a": None, "b": deaf}.items():
        with pytest.raises(IncompleteError, match="apply"):
            failing(tmp_path / name, monkeypatch, on_event=listener)
        assert not (tmp_path / name / "out" / "report.html").exists()


def test_of_a_run_that_ended_before_it_began_there_is_nothing_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Any) -> None:
        raise PermissionError("not yours")

    told: list[Any] = []
    monkeypatch.setattr(driver, "next_epoch", refuse)
    with pytest.raises(PermissionError):
        run_rings(tmp_path, on_event=told.append)
    assert not (tmp_path / "out" / "report.html").exists()
    assert not any("report" in str(event) for event in told)


def test_a_run_that_may_not_begin_leaves_the_report_of_the_other(tmp_path: Path) -> None:
    suites.write_volume(tmp_path / "in.ome.zarr", rings(), VOXEL_UM)
    plan = cf.Pipeline([cf.Threshold(), cf.Label()]).plan(tmp_path / "in.ome.zarr", tmp_path / "out")
    out = run_plan(plan, on="serial", device="cpu")
    before = (out.path / "report.html").read_bytes()
    with OutputLock(out.path / "run"), pytest.raises(OutputInUseError):
        run_plan(plan, on="serial", device="cpu")
    assert (out.path / "report.html").read_bytes() == before


def test_a_run_that_did_not_end_says_so_first_with_what_failed(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError):
        run_rings(tmp_path, image=spoilt(), command="chunkflow run it.yaml")
    text = words(Path(rebuild_report(tmp_path / "out")).read_text())
    lead = text.index("This result is not complete. The run ended with an error.")
    failed = text.index("1 block failed and was set aside")
    assert lead < failed < text.index("What ran") < text.index("Speed")
    assert "scan 2 0:13,32:41,0:64" in text and "the input holds NaN" in text
    assert "3 of " in text and "chunkflow run it.yaml" in text
    assert "Slices" not in text and "Objects" not in text and "could not be made" not in text


def test_holes_are_told_before_the_numbers_they_are_missing_in(tmp_path: Path) -> None:
    out = run_rings(tmp_path, image=spoilt(), allow_holes=True)
    text = words(Path(write_report(out)).read_text())
    told = text.index("blocks failed and were set aside")
    assert told < text.index("stand as background: the numbers of this result leave out") < text.index("total length")
    assert "Nothing was cut" not in text and "cut the objects that reach into them" in text
    assert "tainted by background in scan" in text[text.index("For experts") :]


def test_settings_that_were_changed_and_not_run_to_the_end_show_no_older_numbers(tmp_path: Path) -> None:
    out = run_rings(tmp_path)
    text = (out.path / "run" / "plan.json").read_text()
    fingerprint = re.findall('"label": "([0-9a-f]{64})"', text)[0]
    (out.path / "run" / "plan.json").write_text(text.replace(fingerprint, fingerprint[::-1]))
    page = words(Path(rebuild_report(out.path)).read_text())
    assert "This result is not complete." in page and "3 objects with" not in page


def test_of_hundreds_of_failed_blocks_some_are_named(tmp_path: Path) -> None:
    out = run_rings(tmp_path)
    journal = Journal.open(out.path / "run" / "journal.jsonl")
    fingerprint = journal.published_passes["label"]
    for unit in range(300):
        journal.append("quarantined", **{"pass": fingerprint, "unit": unit, "core": f"{unit}", "error": "of <it>"})
    journal.close()
    html = Path(write_report(out)).read_text()
    assert "300 blocks failed" in html and "And 275 more." in html and "of &lt;it&gt;" in html
    assert html.count("of &lt;it&gt;") == 25


def test_a_folder_without_a_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="no run"):
        rebuild_report(tmp_path)


def test_what_was_warned_of_while_the_last_run_went_on_stands_on_the_page(tmp_path: Path) -> None:
    result = run_rings(tmp_path / "out")
    said = [
        {"event": "warning", "text": "of an older run"},
        {"event": "device", "text": "cpu"},
        {"event": "warning", "text": "this run <computes> on another kind"},
        {"event": "warning", "text": "this run <computes> on another kind"},
        {"event": "warning", "of": "report", "text": "the report could not be written"},
    ]
    with (result.path / "run" / "log.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(event) + "\n" for event in said)
    shown = words(rebuild_report(result.path).read_text())
    assert shown.count("this run <computes> on another kind") == 1
    assert "of an older run" not in shown
    assert "could not be written" not in shown
