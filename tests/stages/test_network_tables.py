"""The table of graph metrics: the shapes of the networks of a run, whatever the blocks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.analysis.network import object_metrics
from chunkflow.errors import ConfigError
from chunkflow.stages.label import Label
from chunkflow.stages.measure import Measure
from chunkflow.stages.skeleton import Skeleton
from chunkflow.testing.memory import run_in_memory
from chunkflow.testing.suites import write_volume

STAGES = [Label(), Skeleton(prune_radii=0.0), Measure(graph_metrics=True)]


def network(seed: int = 3) -> np.ndarray:
    """Walls of random cells in two halves that do not touch, and a voxel by itself: networks with loops and ends."""
    rng = np.random.default_rng(seed)
    volume = np.zeros((12, 30, 41), np.uint8)
    for _ in range(14):
        z, y, x = rng.integers((0, 0, 0), (12, 30, 19))
        volume[z, y, :19] = volume[z, :, x] = volume[:, y, x] = 1
        volume[z, y, 22:] = volume[z, :, min(x + 22, 40)] = 1
    volume[:, :, 20] = 0
    volume[5, 5, 20] = 0
    return volume


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> cf.Result:
    folder = tmp_path_factory.mktemp("metrics")
    source = write_volume(folder / "in.ome.zarr", network(), (0.1, 0.1, 0.1))
    options = cf.Pipeline.from_dict(
        {
            "version": 1,
            "input": {"kind": "mask"},
            "stages": ["label", {"skeleton": {"prune_radii": 0.0}}, {"measure": {"graph_metrics": True}}],
        }
    )
    return options.plan(source, folder / "out", block=(12, 16, 16)).run(on="serial")


def test_every_object_with_a_skeleton_has_the_metrics_of_its_network(result: cf.Result) -> None:
    found = result.graph_metrics
    assert found.object_id.tolist() == result.networks.object_id.tolist() and len(found) > 1
    assert found.links.max() > 20 and found.self_loops.dtype == np.int64 and found.is_exact.dtype == bool
    for row in found.to_dict("records"):
        expected = asdict(object_metrics(result.nodes, result.branches, row["object_id"]))
        expected["degree_counts"] = " ".join(map(str, expected["degree_counts"]))
        np.testing.assert_equal({name: row[name] for name in expected}, expected)


def test_blocks_leave_the_metrics_of_the_whole_volume() -> None:
    whole, cut = (run_in_memory(STAGES, network(), kind="mask", block=block) for block in ((12, 30, 41), (5, 9, 11)))
    assert len(whole.tables["graph-metrics"]["object_id"]) > 1
    assert not whole.differences(cut)


def test_without_objects_the_table_is_empty() -> None:
    left = run_in_memory(STAGES, np.zeros((4, 5, 6), np.uint8), kind="mask", block=(4, 5, 6))
    table = left.tables["graph-metrics"]
    assert {len(column) for column in table.values()} == {0} and table["sigma"].dtype == np.float64


def test_metrics_are_asked_for_and_need_a_skeleton(tmp_path: Path, result: cf.Result) -> None:
    left = run_in_memory([Label(), Skeleton(), Measure()], network(), kind="mask", block=(12, 30, 41))
    assert "graph-metrics" not in left.tables and (result.path / "tables" / "graph_metrics.parquet").is_file()
    with pytest.raises(ConfigError, match="graph_metrics needs skeletons.* Put skeleton in front"):
        run_in_memory([Label(), Measure(graph_metrics=True)], network(), kind="mask", block=(12, 30, 41))
