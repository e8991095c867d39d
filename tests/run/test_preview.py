"""`chunkflow preview`: the region that is looked at, what each setting makes of it, and the file that is written."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import chunkflow as cf
from chunkflow.cli import app
from chunkflow.errors import ConfigError, IncompleteError, UsageError
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.plan.region import in_region
from chunkflow.run import preview as previews
from chunkflow.run.preview import brightest, check_target, preview
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.tiff_image import write_tiff
from chunkflow.storage.volume import Volume, create_array
from chunkflow.testing import suites

PIPELINE = cf.Pipeline([cf.Threshold(smooth_um=0.1), cf.Label(), cf.Skeleton()])


@pytest.fixture
def dots(tmp_path: Path) -> Path:
    """Dim everywhere, bright around (30, 90, 40), with one hot voxel far from it."""
    image = np.full((48, 130, 120), 100, np.uint16)
    image[26:35, 84:97, 34:47] = 400
    image[3, 4, 5] = 65535
    path = tmp_path / "dots.ome.zarr"
    suites.write_volume(path, image, (0.2, 0.1, 0.1))
    return path


def test_the_region_lies_where_most_light_is_and_not_at_a_hot_voxel(dots: Path) -> None:
    found = brightest(PIPELINE, dots, (12, 20, 22))
    assert found.shape == (12, 20, 22)
    assert found.contains(Box((26, 84, 34), (35, 97, 47)))


def test_a_volume_smaller_than_the_region_is_taken_whole(dots: Path) -> None:
    assert brightest(PIPELINE, dots, (100, 200, 200)) == Box((0, 0, 0), (48, 130, 120))


def test_the_coarsest_level_decides_and_the_finest_is_not_read(dots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fine = Scale((0.2, 0.1, 0.1))
    scale = fine.coarsened((2, 2, 2))
    coarse = np.zeros((24, 65, 60), np.uint16)
    coarse[4:9, 50:60, 3:13] = 1000  # elsewhere than in the finest
    create_array(dots / "1", layout_for_core((64, 64, 64), (24, 65, 60), coarse.dtype), scale).write(
        Box.of_shape((24, 65, 60)), coarse
    )
    write_image_group(dots, name="dots", levels={"0": fine, "1": scale})
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(Volume, "read", _counting(shapes, Volume.read))
    found = brightest(PIPELINE, dots, (10, 20, 20))
    assert shapes == [(24, 65, 60)]
    assert found == Box((8, 100, 6), (18, 120, 26))


def test_of_a_large_level_some_blocks_are_read(dots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(Volume, "read", _counting(shapes, Volume.read))
    monkeypatch.setattr(previews, "WHOLE_VOXELS", 1000)
    monkeypatch.setattr(previews, "SURVEY_BLOCKS", 5)
    found = brightest(PIPELINE, dots, (12, 20, 22))
    assert len(shapes) == 5
    assert all(max(shape) <= 64 for shape in shapes)
    assert Box((0, 0, 0), (48, 130, 120)).contains(found)


def _counting(shapes: list[tuple[int, ...]], read: Any) -> Any:
    def counted(volume: Volume, box: Box) -> Any:
        shapes.append(box.shape)
        return read(volume, box)

    return counted


def test_each_setting_is_what_a_run_of_the_region_with_it_leaves(demo_volume: Path, tmp_path: Path) -> None:
    region = "4:30,10:70,20:90"
    sets = ["threshold.method=otsu", "threshold.method=li"]
    found = preview(PIPELINE, demo_volume, region=region, sets=sets)
    assert [shown.title for shown in found.settings] == sets
    assert str(found.box) == region
    for method, shown in zip(("otsu", "li"), found.settings, strict=True):
        pipeline = cf.Pipeline([cf.Threshold(smooth_um=0.1, method=method), cf.Label(), cf.Skeleton()])
        run = in_region(pipeline, region).plan(demo_volume, tmp_path / method).run(on="serial")
        assert run.labels is not None
        assert shown.labels is not None
        assert np.array_equal(shown.labels.data, run.labels[...])
        assert shown.histogram is not None
        assert shown.histogram.threshold == float(run.pass_values("threshold")["threshold"][0])
        assert shown.facts["objects"].split()[0] == str(int(run.labels[...].max()))
        assert shown.curves_um is not None
        assert len(shown.curves_um) == len(run.branches)
    assert found.settings[0].after is None  # no stage makes another image


@pytest.mark.thorough
def test_borrowed_statistics_show_the_whole_volumes_threshold(demo_volume: Path, tmp_path: Path) -> None:
    whole = PIPELINE.plan(demo_volume, tmp_path / "out").run(on="serial")
    found = preview(PIPELINE, demo_volume, region="5:12,11:50,20:60", statistics_from=whole.path)
    histogram = found.settings[0].histogram
    assert histogram is not None
    assert histogram.threshold == float(whole.pass_values("threshold")["threshold"][0])
    assert found.before.data.shape == (7, 39, 40)


def test_nothing_runs_where_one_of_the_settings_cannot(demo_volume: Path) -> None:
    events: list[Any] = []
    with pytest.raises(ConfigError, match="window_um"):
        preview(PIPELINE, demo_volume, sets=["threshold.method=li", "threshold.method=niblack"], on_event=events.append)
    assert events == []


def test_a_notebook_gets_a_picture(demo_volume: Path, tmp_path: Path) -> None:
    found = cf.Pipeline([cf.Threshold(), cf.Label()]).preview(demo_volume, region="8:20,0:60,0:70")
    assert found._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    assert found.save(tmp_path / "a.png").read_bytes() == found.png()


def test_the_command_writes_a_picture_and_replaces_no_other(demo_volume: Path, tmp_path: Path) -> None:
    file, target = tmp_path / "p.yaml", tmp_path / "p.png"
    file.write_text("version: 1\nstages:\n  - threshold: {method: otsu}\n  - label\n")
    command = ["preview", str(file), str(demo_volume), "-o", str(target), "--region", "8:20,0:60,0:70"]
    ended = CliRunner().invoke(app, [*command, "--set", "threshold.method=li", "--set", "threshold.method=otsu"])
    assert ended.exit_code == 0, ended.output
    assert check_target(target, overwrite=False) == target  # a picture of ours is replaced
    with Image.open(target) as image:
        assert image.size[1] > 400
    assert "threshold.method=li: " in ended.output
    target.write_bytes(b"a photograph")
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 2
    assert "is there, and no preview" in ended.output
    assert target.read_bytes() == b"a photograph"
    ended = CliRunner().invoke(app, [*command[:-4], "-o", str(tmp_path / "p.jpg")])
    assert ended.exit_code == 2


def test_settings_that_name_two_regions_are_refused(dots: Path) -> None:
    regions = ["input.region=0:8,0:60,0:70", "input.region=8:20,0:60,0:70"]
    with pytest.raises(UsageError, match=r"the regions 0:8,0:60,0:70 and 8:20,0:60,0:70, and a preview looks at one"):
        preview(PIPELINE, dots, sets=regions)


def test_voxels_that_are_no_numbers_are_told_without_a_folder_that_is_gone(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((6, 20, 21), np.float32)
    image[2, 3, 4] = np.nan
    suites.write_volume(tmp_path / "a.ome.zarr", image, (0.2, 0.1, 0.1))
    with pytest.raises(IncompleteError, match=r"z, y, x = \(2, 3, 4\)") as found:
        preview(PIPELINE, tmp_path / "a.ome.zarr")
    assert "chunkflow-preview-" not in str(found.value)


def test_a_tiff_is_previewed_as_its_import_would_be(demo_volume: Path, demo_image: np.ndarray, tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", demo_image, (0.2, 0.08, 0.08))
    of_tiff, of_import = (
        preview(PIPELINE, source, region="5:12,11:50,20:60") for source in (tmp_path / "a.tif", demo_volume)
    )
    assert of_tiff.source == str(tmp_path / "a.tif")
    assert np.array_equal(of_tiff.before.data, of_import.before.data)
    assert of_tiff.settings[0].facts["objects"] == of_import.settings[0].facts["objects"]
    with pytest.raises(UsageError, match="Name one of them"):
        preview(PIPELINE, tmp_path)
