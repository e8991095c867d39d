"""Throughput, workers and slow blocks against journals that are written by hand."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from chunkflow.report import charts
from chunkflow.report.facts import RunFacts
from chunkflow.report.speed import BARS, WORKERS_SHOWN, Pace, pace_of, passes, slowest, speed, spread, workers
from chunkflow.run.journal import Journal
from chunkflow.run.result import Result


def units(rows: list[tuple[str, int, float, float, int]]) -> pd.DataFrame:
    """Units by name, worker, start, stop and voxels."""
    frame = pd.DataFrame(rows, columns=["name", "worker", "start", "stop", "voxels"])
    frame["unit"] = np.arange(len(frame))
    frame["worker"] = frame["worker"].astype(str)
    frame["read"] = frame["write"] = 0.0
    frame["compute"] = frame["stop"] - frame["start"]
    return frame.assign(device="cpu", peak=0)


def test_amounts_are_spread_over_the_time_of_their_units_and_add_up() -> None:
    frame = units([("a", 1, 0.0, 2.0, 10), ("a", 1, 1.5, 4.0, 30), ("a", 2, 3.9, 3.9, 7)])
    edges = np.linspace(0, 4, 5)
    found = spread(frame, frame["voxels"].to_numpy(np.float64), edges)
    np.testing.assert_allclose(found, [5, 5 + 6, 12, 12 + 7])
    assert found.sum() == 47


def journaled(result: Result, folder: Path, lines: list[dict[str, Any]]) -> RunFacts:
    """The run with other lines in its journal behind those it has."""
    shutil.copytree(result.path, folder / "out")
    journal = Journal.open(folder / "out" / "run" / "journal.jsonl")
    for line in lines:
        journal.append(**line)
    journal.close()
    return RunFacts(Result(folder / "out"))


def test_voxels_are_those_of_the_cores_and_time_is_that_of_the_units(rings_result: Result) -> None:
    run = RunFacts(rings_result)
    pace = pace_of(run)
    by_pass = pace.units.groupby("name")
    volume = 13 * 41 * 67
    assert by_pass["voxels"].sum()[["scan", "label", "measure"]].tolist() == [volume] * 3
    assert by_pass["voxels"].sum()["graph"] == 0
    done = [unit for p in run.plan["passes"] for unit in run.state(p["name"]).done.values()]
    assert len(pace.units) == len(done)
    spent = pace.units[["read", "compute", "write"]].to_numpy().sum()
    assert spent == pytest.approx(sum(sum(unit["spent"]) for unit in done))
    assert pace.seconds == pytest.approx(max(u["at"] for u in done) - run.journal.starts[0]["time"], abs=1e-6)


def test_time_between_runs_is_left_out(rings_result: Result, tmp_path: Path) -> None:
    first = RunFacts(rings_result)
    start, fingerprint = float(first.journal.starts[0]["time"]), first.stored["fingerprints"]["label"]
    unit = {"event": "unit", "pass": fingerprint, "objects": [], "record": 1, "worker": 7, "device": "cpu"}
    lines = [
        {"event": "start", "time": start + 10**6, "kind": "cpu"},
        {**unit, "unit": 3, "spent": [1.0, 2.0, 0.5], "at": start + 10**6 + 5},
    ]
    before = pace_of(first).seconds
    later = pace_of(journaled(rings_result, tmp_path, lines))
    assert later.seconds == pytest.approx(before + 5, abs=0.5)
    row = later.units[later.units["worker"] == "7"].iloc[0]
    assert row["stop"] - row["start"] == pytest.approx(3.5)


def test_the_slowest_block_comes_first_with_its_place_and_parts(rings_result: Result, tmp_path: Path) -> None:
    run = RunFacts(rings_result)
    unit = {"event": "unit", "pass": run.stored["fingerprints"]["label"], "objects": [], "record": 1, "worker": 99}
    at = float(run.journal.starts[0]["time"]) + 60
    slow = journaled(rings_result, tmp_path, [{**unit, "unit": 2, "spent": [1.25, 40.5, 2.75], "at": at}])
    cells = re.findall("<td[^>]*>(.*?)</td>", slowest(slow, pace_of(slow)))
    assert cells[:5] == ["label", "0:13,32:41,0:64", "1.25", "40.50", "2.75"] and "99" in cells[:8]
    row = re.search("<td class=text>label</td>(.*?)</tr>", passes(slow, pace_of(slow)))
    assert row and re.findall("<td>(.*?)</td>", row[1])[0] == "4"


def test_workers_are_shown_by_how_busy_they_were_and_what_they_did() -> None:
    frame = units([("a", 1, 0.0, 10.0, 1), ("b", 2, 0.0, 2.5, 1), ("b", 2, 5.0, 7.5, 1)])
    svg = workers(Pace(frame))
    assert re.findall(r">(\d+%)<", svg) == ["100%", "50%"]
    assert svg.index(">1</text>") < svg.index(">2</text>")
    drawn = re.findall(r"y='(\d+)' width='\S+' height='\d+' fill='(#\w+)'", svg)
    assert {color for y, color in drawn if y == "2"} == {charts.PALETTE[0]}
    assert {color for y, color in drawn if y != "2"} == {charts.PALETTE[1]}
    assert len([1 for y, _ in drawn if y != "2"]) == pytest.approx(BARS / 2, abs=2)
    titles = re.findall("<title>(.*?)</title>", svg)
    assert len(titles) == len(drawn) and titles[0].startswith("a: busy 100% of 0 to 0.111 s")
    assert titles[-1].startswith("b: busy")


def test_many_workers_passes_and_blocks_keep_the_page_small() -> None:
    rng = np.random.default_rng(0)
    start = np.sort(rng.uniform(0, 1000, 50_000))
    frame = units([(f"pass-{k % 30}", k % 500, t, t + 2.0, 64**3) for k, t in enumerate(start.tolist())])
    svg = workers(Pace(frame))
    assert svg.count("%</text>") == WORKERS_SHOWN and "476 more" in svg
    assert len(svg) < 400_000


def test_a_journal_without_times_leaves_the_passes(rings_result: Result, tmp_path: Path) -> None:
    shutil.copytree(rings_result.path / "run", tmp_path / "out" / "run")
    (tmp_path / "out" / "run" / "journal.jsonl").write_bytes(b"")
    html = speed(RunFacts(Result(tmp_path / "out")))
    assert "<td class=text>label</td>" in html and "<svg" not in html
