"""Input that is no input for objects: a clear error and nothing published, or the right empty result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

import chunkflow as cf
from chunkflow import cli
from chunkflow.errors import ChunkflowError
from chunkflow.stages.base import Stage
from chunkflow.testing.suites import write_volume

SHAPE = (10, 12, 14)
BLOCK = (6, 12, 8)
PIPELINE = """\
version: 1
input: {{kind: {kind}}}
block: [6, 12, 8]
stages:
  - label: {{}}
  - skeleton: {{}}
  - measure: {{}}
"""
STAGES: tuple[Stage, ...] = (cf.Label(), cf.Skeleton(), cf.Measure())
TABLES = ("objects", "contacts", "networks", "nodes", "branches")


def run(voxels: NDArray[Any], folder: Path, kind: Any = "mask", stages: Any = STAGES, **options: Any) -> cf.Result:
    """Run the stages from file to file, block after block."""
    write_volume(folder / "in.ome.zarr", voxels)
    pipeline = cf.Pipeline(stages, input=cf.InputOptions(kind=kind, **options))
    return pipeline.plan(folder / "in.ome.zarr", folder / "out", block=BLOCK).run(on="serial")


def command(voxels: NDArray[Any], folder: Path, kind: str, *more: str) -> Result:
    """The same from the command line."""
    write_volume(folder / "in.ome.zarr", voxels)
    (folder / "p.yaml").write_text(PIPELINE.format(kind=kind))
    named = [str(folder / name) for name in ("p.yaml", "in.ome.zarr")]
    return CliRunner().invoke(
        cli.app, ["run", *named, "-o", str(folder / "out"), "--on", "serial", "--device", "cpu", *more]
    )


def refused(result: Result, folder: Path, *words: str, code: int = 2) -> None:
    """An exit code, one sentence with these words, nothing that looks like a result."""
    assert result.exit_code == code, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line, line
    assert "Traceback" not in result.output
    assert_nothing_is_published(folder / "out")


def assert_nothing_is_published(out: Path) -> None:
    left = [path.name for path in out.glob("*")]
    assert set(left) <= {"run", "report.html"}, left  # the report says what failed


# Values that are no labels.


@pytest.mark.parametrize("dtype", ["int8", "int64"])
def test_a_negative_label_is_named_with_its_value_and_nothing_is_published(dtype: str, tmp_path: Path) -> None:
    labels = np.ones(SHAPE, dtype)
    labels[7, 8, 9] = -3
    refused(command(labels, tmp_path, "labels"), tmp_path, "negative", "-3", "Labels are 0 or more", code=3)


def test_a_negative_label_that_is_nodata_or_outside_the_mask_is_no_label(tmp_path: Path) -> None:
    labels = np.ones(SHAPE, np.int16)
    labels[5:] = -1
    result = run(labels, tmp_path, "labels", nodata=-1)
    assert result.objects.volume_vox.tolist() == [(labels == 1).sum()]
    write_volume(tmp_path / "mask.ome.zarr", (labels > 0).astype(np.uint8))
    (tmp_path / "masked").mkdir()
    masked = run(labels, tmp_path / "masked", "labels", mask=str(tmp_path / "mask.ome.zarr"))
    assert masked.objects.volume_vox.tolist() == [(labels == 1).sum()]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool"])
def test_labels_of_another_type_are_refused_before_anything_is_written(dtype: str, tmp_path: Path) -> None:
    result = command(np.ones(SHAPE, dtype), tmp_path, "labels")
    refused(result, tmp_path, f"{dtype}, not labels", "integers")
    assert not (tmp_path / "out").exists()


def test_a_mask_of_floats_takes_every_value_but_zero_and_refuses_nan(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.float32)
    mask[2:5, 2:5, 2:5] = -0.5
    (tmp_path / "good").mkdir()
    assert run(mask, tmp_path / "good").objects.volume_vox.tolist() == [27]
    mask[0, 0, 0] = np.nan
    result = command(mask, tmp_path, "mask")
    assert result.exit_code == 3
    assert "NaN" in result.stderr and "0, 0, 0" in result.stderr
    assert_nothing_is_published(tmp_path / "out")


# Numbers at the ends of their types.


@pytest.mark.parametrize(
    ("dtype", "largest", "stored"),
    [
        ("uint8", 2**8 - 1, "uint16"),
        ("uint16", 2**16 - 1, "uint16"),
        ("uint32", 2**32 - 1, "uint32"),
        ("int64", 2**63 - 1, "uint64"),
        ("uint64", 2**63, "uint64"),
        ("uint64", 2**64 - 1, "uint64"),
    ],
)
def test_the_largest_label_of_a_type_goes_through_every_stage_unharmed(
    dtype: str, largest: int, stored: str, tmp_path: Path
) -> None:
    labels = np.zeros(SHAPE, dtype)
    labels[1:4, 1:11, 1:4] = 1
    labels[4:9, 1:11, 1:4] = largest
    result = run(labels, tmp_path, "labels")
    assert result.labels is not None
    assert result.labels.dtype == stored
    np.testing.assert_array_equal(result.labels[...], labels.astype(stored))
    ids = [1, largest]
    assert result.objects.object_id.tolist() == ids
    assert result.objects.certified.all()
    assert sorted(set(result.nodes.object_id.tolist())) == ids
    contacts = pd.read_parquet(result.path / "tables/contacts.parquet")
    assert [contacts[name].item() for name in ("object_a", "object_b", "faces")] == [1, largest, 30]
    assert {data["object_id"] for _, data in result.graph.nodes(data=True)} == set(ids)


def test_more_objects_than_two_bytes_hold_are_numbered_in_four(tmp_path: Path) -> None:
    mask = np.indices((41, 57, 58)).sum(axis=0) % 2 == 0
    write_volume(tmp_path / "in.ome.zarr", mask.astype(np.uint8))
    pipeline = cf.Pipeline([cf.Label(connectivity=6)], input=cf.InputOptions(kind="mask"))
    result = pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / "out", block=(32, 32, 32)).run(on="serial")
    assert result.labels is not None
    assert mask.sum() > np.iinfo(np.uint16).max
    assert result.labels.dtype == np.uint32
    np.testing.assert_array_equal(result.labels[...][mask], np.arange(1, mask.sum() + 1))


# Volumes that do not belong together.


@pytest.mark.parametrize(("shape", "voxel_um"), [((10, 12, 13), (1.0, 1.0, 1.0)), (SHAPE, (1.0, 1.0, 2.0))])
def test_a_mask_on_another_grid_is_refused_before_anything_is_written(
    shape: Any, voxel_um: Any, tmp_path: Path
) -> None:
    write_volume(tmp_path / "mask.ome.zarr", np.ones(shape, np.uint8), voxel_um)
    result = command(np.ones(SHAPE, np.uint16), tmp_path, "labels", "--set", f"input.mask={tmp_path}/mask.ome.zarr")
    wrong, right = (shape, SHAPE) if shape != SHAPE else (voxel_um, (1.0, 1.0, 1.0))
    refused(result, tmp_path, str(wrong), str(right), "on the input's grid")
    assert not (tmp_path / "out").exists()


# Nothing, everything, and a single voxel.


def columns(result: cf.Result) -> dict[str, list[str]]:
    return {name: list(pd.read_parquet(result.path / f"tables/{name}.parquet").columns) for name in TABLES}


@pytest.fixture(scope="module")
def usual_columns(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What tables have where there is something."""
    labels = np.zeros(SHAPE, np.uint16)
    labels[2:4, 2:4, 2:12], labels[4:6, 2:4, 2:12] = 1, 2
    result = run(labels, tmp_path_factory.mktemp("usual"), "labels")
    assert all(len(pd.read_parquet(result.path / f"tables/{name}.parquet")) for name in TABLES)
    return columns(result)


def assert_empty(result: cf.Result, usual: dict[str, list[str]]) -> None:
    """No object anywhere, and tables with all their columns in both formats."""
    for volume in (result.labels, result.skeleton):
        assert volume is not None
        assert volume.shape == SHAPE
        assert not volume[...].any()
    assert columns(result) == usual
    for name in TABLES:
        assert pd.read_parquet(result.path / f"tables/{name}.parquet").empty
        assert list(pd.read_csv(result.path / f"tables/{name}.csv").columns) == usual[name]
    assert result.graph.number_of_nodes() == 0
    assert (result.path / "report.html").is_file()


@pytest.mark.parametrize("kind", ["mask", "labels"])
def test_nothing_at_all_leaves_empty_tables_with_every_column(
    kind: str, usual_columns: dict[str, list[str]], tmp_path: Path
) -> None:
    assert_empty(run(np.zeros(SHAPE, np.uint8), tmp_path, kind), usual_columns)


@pytest.mark.parametrize(
    "label", [cf.Label(min_voxels=10**6), cf.Label(clear_border=True)], ids=["all too small", "all at the border"]
)
def test_filters_that_take_every_object_leave_empty_tables(
    label: cf.Label, usual_columns: dict[str, list[str]], tmp_path: Path
) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 2:5, 2:5] = mask[8:, 11, 13] = 1
    assert_empty(run(mask, tmp_path, stages=(label, *STAGES[1:])), usual_columns)


def test_a_mask_that_excludes_everything_leaves_empty_tables(
    usual_columns: dict[str, list[str]], tmp_path: Path
) -> None:
    write_volume(tmp_path / "mask.ome.zarr", np.zeros(SHAPE, np.uint8))
    assert_empty(run(np.ones(SHAPE, np.uint8), tmp_path, mask=str(tmp_path / "mask.ome.zarr")), usual_columns)


def test_instances_of_nothing_are_none(usual_columns: dict[str, list[str]], tmp_path: Path) -> None:
    assert_empty(run(np.zeros(SHAPE, np.uint8), tmp_path, stages=(cf.Instances(), *STAGES[1:])), usual_columns)


def test_an_image_that_the_mask_excludes_altogether_is_refused(tmp_path: Path) -> None:
    write_volume(tmp_path / "mask.ome.zarr", np.zeros(SHAPE, np.uint8))
    stages = [cf.Threshold(), *STAGES]
    with pytest.raises(ChunkflowError, match="no voxel of the input is usable") as caught:
        run(np.ones(SHAPE, np.uint16), tmp_path, "image", stages, mask=str(tmp_path / "mask.ome.zarr"))
    assert caught.value.exit_code == 2
    assert_nothing_is_published(tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "stage"),
    [("mask", cf.Label()), ("labels", cf.Label()), ("mask", cf.Instances())],
    ids=["mask", "labels", "instances"],
)
def test_an_object_that_touches_every_side_is_one_object_without_loops(
    kind: str, stage: Any, usual_columns: dict[str, list[str]], tmp_path: Path
) -> None:
    result = run(np.ones(SHAPE, np.uint8), tmp_path, kind, (stage, *STAGES[1:]))
    (row,) = result.objects.itertuples()
    assert row.volume_vox == np.prod(SHAPE)
    assert (row.b0, row.b1, row.b2, row.b1_graph) == (1, 0, 0, 0)
    assert row.certified and row.touches_border
    assert columns(result) == usual_columns


@pytest.mark.parametrize("kind", ["mask", "labels"])
@pytest.mark.parametrize("value", [0, 1])
def test_a_volume_of_one_voxel_is_an_object_or_none(
    kind: str, value: int, usual_columns: dict[str, list[str]], tmp_path: Path
) -> None:
    result = run(np.full((1, 1, 1), value, np.uint8), tmp_path, kind)
    assert len(result.objects) == len(result.nodes) == value
    assert len(result.branches) == 0
    assert columns(result) == usual_columns
    if value:
        (row,) = result.objects.itertuples()
        assert (row.volume_vox, row.b0, row.b1, row.b2) == (1, 1, 0, 0)
        assert row.certified
        assert result.nodes.kind.tolist() == ["isolated"]


@pytest.mark.parametrize("value", [2**53 + 1, 2**64 - 1, 7, 7.0])
def test_no_data_of_64_bit_labels_is_that_label_and_no_other(value: float, tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint64)
    ids = (7, 2**53, 2**53 + 1, 2**64 - 1)
    for k, label in enumerate(ids):
        labels[2 * k : 2 * k + 1] = label
    objects = run(labels, tmp_path, kind="labels", nodata=value).objects
    assert [int(label) for label in objects.object_id] == [label for label in ids if label != value]


def test_a_table_that_no_stage_made_names_the_stage_that_does(tmp_path: Path) -> None:
    result = run(np.ones(SHAPE, np.uint8), tmp_path, stages=(cf.Label(), cf.Skeleton()))
    with pytest.raises(ChunkflowError, match="Add the stage measure"):
        assert len(result.objects)
    assert len(result.nodes)
