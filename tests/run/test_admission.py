"""A run starts only where it may: not over its input, not over somebody's files, not on a changed input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import InputChangedError, UsageError
from chunkflow.geometry.scale import Scale
from chunkflow.run.admission import _check_output, check_admission
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.stores import ObjectPath
from chunkflow.storage.volume import create_array

PIPELINE = cf.Pipeline([cf.Threshold(method="fixed", value=100.0), cf.Label()])


def write(path: Path, dtype: str = "uint16", seed: int = 0) -> Path:
    shape = (8, 20, 24)
    scale = Scale((0.2, 0.1, 0.1))
    write_image_group(path, name="in", levels={"0": scale})
    values = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    create_array(path / "0", layout_for_core((32, 32, 32), shape, dtype), scale).array[...] = values
    return path


@pytest.mark.parametrize("output", ["in.ome.zarr", "in.ome.zarr/0", "in.ome.zarr/0/out", "in.ome.zarr/out"])
def test_an_output_inside_the_input_is_refused(tmp_path: Path, output: str) -> None:
    source = write(tmp_path / "in.ome.zarr")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="inside the input"):
        PIPELINE.plan(source, tmp_path / output).run(on="serial", overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_would_write_over_its_input_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "image.ome.zarr")
    with pytest.raises(UsageError, match="write over its input"):
        PIPELINE.plan(source, tmp_path).run(on="serial", overwrite=True)
    first = PIPELINE.plan(write(tmp_path / "other.ome.zarr"), tmp_path / "out").run(on="serial")
    with pytest.raises(UsageError, match="write over its input"):
        PIPELINE.plan(first.path / "image.ome.zarr", first.path).run(on="serial", restart=True)


def test_a_folder_named_run_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "in.ome.zarr")
    (tmp_path / "project/run").mkdir(parents=True)
    (tmp_path / "project/run/simulate.py").write_text("x = 1")
    plan = PIPELINE.plan(source, tmp_path / "project")
    with pytest.raises(UsageError, match="no run"):
        plan.run(on="serial")
    (tmp_path / "project/graph").mkdir()
    (tmp_path / "project/graph/thesis.txt").write_text("mine")
    plan.run(on="serial", overwrite=True, restart=True)
    assert (tmp_path / "project/run/simulate.py").read_text() == "x = 1"
    assert (tmp_path / "project/graph/thesis.txt").read_text() == "mine"


def test_checking_writes_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "in.ome.zarr")
    check_admission(PIPELINE.plan(source, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_input_rewritten_in_the_same_process_is_read_anew(tmp_path: Path) -> None:
    import shutil

    source = write(tmp_path / "in.ome.zarr")
    PIPELINE.plan(source, tmp_path / "out").run(on="serial")
    shutil.rmtree(source)
    shutil.rmtree(tmp_path / "out")
    write(source, dtype="int16", seed=1)
    result = PIPELINE.plan(source, tmp_path / "out").run(on="serial")
    assert result.image is not None
    np.testing.assert_array_equal(result.image[...], cf.open_volume(source)[...])
    shutil.rmtree(source)
    write(source, seed=2)
    with pytest.raises(InputChangedError, match="int16 -> uint16"):
        PIPELINE.plan(source, tmp_path / "out").run(on="serial")


def test_lost_metadata_of_an_array_is_made_again(tmp_path: Path) -> None:
    source = write(tmp_path / "in.ome.zarr")
    result = PIPELINE.plan(source, tmp_path / "out").run(on="serial")
    metadata = result.path / "image.ome.zarr/labels/objects/0/zarr.json"
    content = metadata.read_bytes()
    metadata.unlink()
    PIPELINE.plan(source, tmp_path / "out").run(on="serial")
    assert metadata.read_bytes() == content


@pytest.mark.parametrize("formats", [("0.5", "0.4"), ("0.4", "0.5")])
def test_another_format_leaves_nothing_of_the_first(tmp_path: Path, formats: tuple[str, str]) -> None:
    source = write(tmp_path / "in.ome.zarr")
    for name, used in (("changed", formats), ("clean", formats[1:])):
        for style in used:
            pipeline = cf.Pipeline(PIPELINE.stages, output=cf.OutputOptions(format=style))  # type: ignore[arg-type]
            pipeline.plan(source, tmp_path / name).run(on="serial")
    trees = [
        sorted(
            str(path.relative_to(tmp_path / name))
            for path in (tmp_path / name).rglob("*")
            if not path.is_relative_to(tmp_path / name / "run")
        )
        for name in ("changed", "clean")
    ]
    assert trees[0] == trees[1]


def test_a_plane_is_skeletonised_in_its_plane(tmp_path: Path) -> None:
    scale = Scale((1.0, 0.065, 0.065))
    mask = np.zeros((1, 30, 60), np.uint8)
    mask[0, 10:17, 5:55] = 1
    source = tmp_path / "plane.ome.zarr"
    write_image_group(source, name="plane", levels={"0": scale})
    create_array(source / "0", layout_for_core((1, 32, 64), mask.shape, "uint8"), scale).array[...] = mask
    pipeline = cf.Pipeline([cf.Label(), cf.Skeleton(), cf.Measure()], input=cf.InputOptions(kind="mask"))
    result = pipeline.plan(source, tmp_path / "out").run(on="serial")
    assert result.objects.certified.all()
    assert result.branches.radius_max_um.max() == pytest.approx(4 * 0.065)  # to the nearest background centre
    assert 34 * 0.065 < result.branches.length_um.sum() < 50 * 0.065  # the ends of a thinned bar stop short


def test_nodata_is_nothing_in_masks_and_labels(tmp_path: Path) -> None:
    scale = Scale((1.0, 1.0, 1.0))
    values = np.zeros((6, 20, 20), np.uint8)
    values[2:4, 2:6, 2:6] = 1
    values[:, 12:, :] = 255
    source = tmp_path / "mask.ome.zarr"
    write_image_group(source, name="mask", levels={"0": scale})
    create_array(source / "0", layout_for_core((32, 32, 32), values.shape, "uint8"), scale).array[...] = values
    for kind in ("mask", "labels"):
        options = cf.InputOptions(kind=kind, nodata=255)  # type: ignore[arg-type]
        result = cf.Pipeline([cf.Label()], input=options).plan(source, tmp_path / kind).run(on="serial")
        assert result.labels is not None
        np.testing.assert_array_equal(result.labels[...], values == 1)


def test_files_that_come_and_go_while_another_driver_begins_are_nothing_foreign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = ObjectPath(root="s3://bucket", key="out")
    monkeypatch.setattr(ObjectPath, "exists", lambda self: self == output)
    for name in ("is_file", "is_dir", "is_symlink"):
        monkeypatch.setattr(ObjectPath, name, lambda self: False)
    monkeypatch.setattr(ObjectPath, "iterdir", lambda self: iter([output / "run"] if self == output else []))
    _check_output(output, overwrite=False)
    monkeypatch.setattr(ObjectPath, "iterdir", lambda self: iter([self / "notes.txt"]))
    with pytest.raises(UsageError, match="holds something that is no run"):
        _check_output(output, overwrite=False)
