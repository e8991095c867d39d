"""What a run writes opens in other programs, with equal data and scale."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
import zarr

import chunkflow as cf
from chunkflow.errors import UsageError
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.volume import create_array
from chunkflow.synth import optics, phantoms
from chunkflow.testing.suites import graph_differences

VOXEL = (0.1, 0.1, 0.1)
ORIGIN = (3.0, 2.0, 1.0)
SHAPE = (40, 70, 300)  # long enough for a pyramid


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outputs") / "in.ome.zarr"
    phantom = phantoms.mitochondria(SHAPE, VOXEL, seed=2)
    image = optics.acquire(phantom.labels, voxel_um=VOXEL, seed=2)
    scale = Scale(VOXEL, ORIGIN)
    write_image_group(path, name="in", levels={"0": scale})
    create_array(path / "0", layout_for_core((64, 64, 64), SHAPE, "uint16"), scale).array[...] = image
    return path


@pytest.fixture(scope="module", params=["0.5", "0.4"])
def result(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> cf.Result:
    save = ("image", "mask", "labels", "skeleton")
    pipeline = cf.Pipeline(
        [cf.Threshold(smooth_um=0.06), cf.Label(min_voxels=64), cf.Skeleton(), cf.Measure()],
        output=cf.OutputOptions(save=save, format=request.param),
    )
    out = tmp_path_factory.mktemp("out") / "result"
    return pipeline.plan(source, out, block=(32, 32, 64)).run(on="serial", device="cpu")


def test_ome_zarr_models_accept_image_and_labels(result: cf.Result) -> None:
    models = pytest.importorskip("ome_zarr_models")
    for name in ("", "labels", "labels/objects", "labels/skeleton", "labels/mask"):
        models.open_ome_zarr(zarr.open_group(result.path / "image.ome.zarr" / name, mode="r"))


def test_napari_shows_the_arrays_at_their_scale(result: cf.Result) -> None:
    reader = pytest.importorskip("napari_ome_zarr").napari_get_reader
    image = str(result.path / "image.ome.zarr")
    # The plugin names layers "image: image" and "labels/labels/objects".
    layers = {re.split("[:/] ?", layer[1]["name"])[-1]: layer for layer in reader(image)(image)}
    expected = {"image": result.image, "objects": result.labels, "skeleton": result.skeleton, "mask": result.mask}
    assert set(layers) == set(expected)
    for name, volume in expected.items():
        assert volume is not None
        levels, options = layers[name][0], layers[name][1]
        np.testing.assert_array_equal(np.asarray(levels[0]), volume[...])
        np.testing.assert_allclose(options["scale"], VOXEL)


def test_levels_of_a_pyramid_lie_where_their_voxels_are(result: cf.Result) -> None:
    fine = result.image
    coarse = cf.open_volume(result.path / "image.ome.zarr", level=1)
    assert fine is not None
    assert coarse.shape == (20, 35, 150)
    assert coarse.scale.translation_um == pytest.approx([o + v / 2 for o, v in zip(ORIGIN, VOXEL, strict=True)])
    block = fine[0:2, 0:2, 0:2].astype(int)
    assert coarse[0:1, 0:1, 0:1].item() == (block.sum() * 2 + 8) // 16  # halves rounded up
    labels = cf.open_volume(result.path / "image.ome.zarr/labels/objects", level=1)
    assert labels.shape == coarse.shape
    assert set(np.unique(labels[...])) <= set(np.unique(result.labels[...])) if result.labels else False


def test_tables_open_in_pandas_with_one_row_per_thing(result: cf.Result) -> None:
    assert result.labels is not None
    labels = result.labels[...]
    objects = pd.read_parquet(result.path / "tables/objects.parquet")
    assert list(objects.object_id) == list(range(1, labels.max() + 1))
    np.testing.assert_array_equal(objects.volume_vox, np.bincount(labels.ravel())[1:])
    assert objects.certified.all()
    assert (objects.b1_graph == objects.b1_filled).all()
    for name in ("objects", "branches", "nodes"):
        table = pd.read_parquet(result.path / f"tables/{name}.parquet")
        pd.testing.assert_frame_equal(
            pd.read_csv(result.path / f"tables/{name}.csv"), table, check_dtype=False, check_exact=True
        )


def test_csv_reads_the_way_a_spreadsheet_does(result: cf.Result) -> None:
    with (result.path / "tables/objects.csv").open(newline="") as file:
        assert csv.Sniffer().sniff(file.read(2000)).delimiter == ","
        file.seek(0)
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.objects)
    assert [float(row["volume_um3"]) for row in rows] == list(result.objects.volume_um3)


def test_the_graph_file_is_the_graph(result: cf.Result) -> None:
    read: Any = nx.read_graphml(result.path / "graph/skeleton.graphml", node_type=int, force_multigraph=True)
    graph = result.graph
    assert sorted(read.nodes) == sorted(graph.nodes)
    assert {frozenset(edge[:2]) for edge in read.edges} == {frozenset(edge[:2]) for edge in graph.edges}
    assert read.number_of_edges() == graph.number_of_edges() == len(result.branches)
    loops = graph.number_of_edges() - graph.number_of_nodes() + nx.number_connected_components(graph)
    assert loops == result.objects.b1_filled.sum()


def test_curves_lie_on_the_skeleton_in_physical_coordinates(result: cf.Result) -> None:
    assert result.labels is not None
    labels = result.labels[...]
    for _, _, data in result.graph.edges(data=True):
        voxels = np.rint((data["points"] - ORIGIN) / VOXEL).astype(int)
        assert (labels[tuple(voxels.T)] == data["object_id"]).mean() > 0.9  # smoothing may step beside a thin bend


@pytest.mark.parametrize("box", ["abc", ((0, 0, 0), (1, 1)), ((5, 0, 0), (1, 9, 9)), ((0, 0, 0), (1, 1, np.nan))])
def test_what_is_no_box_of_the_graph_is_refused(result: cf.Result, box: Any) -> None:
    with pytest.raises(UsageError, match="is no box"):
        result.graph_of(box_um=box)
    with pytest.raises(UsageError, match="is no id"):
        result.graph_of(objects=True)


def test_nodes_and_branches_are_numbered_object_by_object_over_all_parts(result: cf.Result) -> None:
    assert len(result.graph_parts) > 2
    for table, name in ((result.nodes, "node_id"), (result.branches, "branch_id")):
        assert table[name].tolist() == list(range(len(table)))
        assert table.object_id.is_monotonic_increasing
    ends = result.branches[["node_a", "node_b"]].to_numpy()
    owner = result.nodes.object_id.to_numpy()
    assert (owner[ends] == result.branches.object_id.to_numpy()[:, None]).all()


def test_a_part_of_the_graph_can_be_taken_and_is_the_same_there(result: cf.Result) -> None:
    chosen = result.objects.object_id.to_numpy()[[0, len(result.objects) // 2, -1]].tolist()
    part = result.graph_of(objects=chosen)
    assert {data["object_id"] for _, data in part.nodes(data=True)} == set(chosen)
    nodes = [node for node, data in result.graph.nodes(data=True) if data["object_id"] in chosen]
    assert graph_differences(part, result.graph.subgraph(nodes)) == []
    everything = (np.array(ORIGIN) - 1, np.array(ORIGIN) + 100)
    assert graph_differences(result.graph_of(box_um=everything), result.graph) == []
    half = (np.array(ORIGIN), np.array(ORIGIN) + np.array([10.0, 10.0, 15.0]))
    inside = [n for n, data in result.graph.nodes(data=True) if data["x_um"] <= ORIGIN[2] + 15.0]
    assert 0 < len(inside) < len(result.nodes)
    assert graph_differences(result.graph_of(box_um=half), result.graph.subgraph(inside)) == []


def test_the_image_is_a_copy_of_the_input_where_no_stage_makes_one(result: cf.Result, source: Path) -> None:
    assert result.image is not None
    volume = cf.open_volume(source)
    assert result.image.dtype == volume.dtype
    np.testing.assert_array_equal(result.image[...], volume.read(Box.of_shape(volume.shape)))
    np.testing.assert_array_equal(result.image.to_dask().compute(), result.image[...])
