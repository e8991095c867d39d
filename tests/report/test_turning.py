"""The skeleton to turn: what the page holds of the curves, and how much of it."""

from __future__ import annotations

import json
import re
import shutil
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkflow.report.facts import RunFacts
from chunkflow.report.turning import POINTS, STEPS, curves_to_draw, turning
from chunkflow.run.result import Result
from chunkflow.storage.graph_pieces import pieces_of_curves
from chunkflow.storage.tables import write_table


def decoded(html: str) -> dict[str, Any]:
    (text,) = re.findall("id='turn-data'>(.*?)</script>", html)
    data = json.loads(text)
    points = np.frombuffer(b64decode(data["points"]), "<u2").reshape(-1, 3)
    lengths = np.frombuffer(b64decode(data["lengths"]), "<u2")
    return {"points": points, "lengths": lengths, "size": data["size"], "colors": b64decode(data["colors"])}


def test_points_are_those_of_the_curves(rings_result: Result) -> None:
    html = turning(RunFacts(rings_result))
    shown = decoded(html)
    parts = rings_result.graph_parts
    truth = np.concatenate([part.curves["points_um"] for part in parts])
    longest = max(13 * 0.3, 41 * 0.1, 67 * 0.1)
    corner = -np.array([0.3, 0.1, 0.1]) / 2
    found = shown["points"][:, ::-1] / STEPS * longest + corner
    np.testing.assert_allclose(found, truth, atol=longest / STEPS)
    assert shown["lengths"].tolist() == [int(n) for part in parts for n in np.diff(part.curves["offsets"])]
    assert shown["size"] == pytest.approx([6.7 / longest, 4.1 / longest, 3.9 / longest], abs=1e-4)
    assert len(shown["colors"]) == 3 * len(rings_result.branches) and "all 3 branches" in html


class Many:
    """A graph of many branches in one part, as `StoredParts` gives it."""

    def __init__(self, curves: list[Any]) -> None:
        points = np.concatenate(curves)
        self.nodes: dict[str, Any] = {}
        offsets = np.cumsum([0, *map(len, curves)])
        self.curves = {"points_um": points, "offsets": offsets}
        lengths = np.array([np.linalg.norm(np.diff(curve, axis=0), axis=1).sum() for curve in curves])
        self.branches = {"length_um": lengths, "object_id": np.arange(len(curves)) + 1}
        self.branches["radius_mean_um"] = np.full(len(curves), 0.2)

    def result_in(self, folder: Path, like: Result) -> Result:
        """A result with that table of branches."""
        shutil.copytree(str(like.path), folder / "out")
        write_table(folder / "out/tables", "branches", self.branches)
        return Result(folder / "out")


def test_of_many_branches_the_longest_are_drawn(
    rings_result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    curves = [rng.uniform(0, 3, 3) + np.linspace([0, 0, 0], [0, 0, k / 1e4], 3) for k in range(1, 20_001)]
    part = Many(curves)
    run = RunFacts(part.result_in(tmp_path, rings_result))
    monkeypatch.setattr(Result, "graph_pieces", lambda self: pieces_of_curves([part]))
    drawn = curves_to_draw(run, np.array([3.9, 4.1, 6.7]))
    assert drawn.curves == 20_000 and len(drawn.lengths) == POINTS // 4 and len(drawn.points) <= POINTS
    html = turning(run)
    assert len(html) < 300_000 and "the 7,500 longest of 20,000 branches" in html
    shown = decoded(html)
    first = shown["points"][: shown["lengths"][0], 0].astype(float) / STEPS * 6.7
    assert first.max() - first.min() == pytest.approx((20_000 - 7_500 + 1) / 1e4, abs=1e-3)


def test_long_curves_are_thinned_and_keep_their_ends(
    rings_result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = np.linspace([0.1, 0.2, 0.3], [3.0, 3.5, 6.0], 9_001)
    part = Many([line, line[::-1]])
    run = RunFacts(part.result_in(tmp_path, rings_result))
    monkeypatch.setattr(Result, "graph_pieces", lambda self: pieces_of_curves([part]))
    drawn = curves_to_draw(run, np.array([3.9, 4.1, 6.7]), most=1_000)
    assert 400 < len(drawn.points) <= 1_000
    half = int(drawn.lengths[0])
    assert np.array_equal(drawn.points[0], drawn.points[-1]) and np.array_equal(
        drawn.points[half - 1], drawn.points[half]
    )
