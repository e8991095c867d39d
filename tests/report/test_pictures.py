"""Pictures against volumes and curves drawn by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.report import pictures
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.volume import Volume, create_array

VOXEL_UM = (0.3, 0.1, 0.1)


def volume(path: Path, data: Any, voxel_um: tuple[float, float, float]) -> Volume:
    layout = layout_for_core((32, 32, 32), data.shape, data.dtype.name)
    made = create_array(path, layout, Scale(voxel_um))
    made.write(Box.of_shape(data.shape), data)
    return made


def test_outlines_lie_on_the_border_of_each_object() -> None:
    labels = np.zeros((7, 9), np.uint32)
    labels[1:6, 1:5] = 3
    labels[2:5, 5:8] = 4
    drawn = pictures.outlines(labels)
    expected = np.array(
        [
            [0, 0, 0, 0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 1, 0, 0, 0, 0],
            [0, 1, 0, 0, 1, 1, 1, 1, 0],
            [0, 1, 0, 0, 1, 1, 0, 1, 0],
            [0, 1, 0, 0, 1, 1, 1, 1, 0],
            [0, 1, 1, 1, 1, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
    )
    assert np.array_equal(drawn[..., 3] == 255, expected == 1)
    three, four = (pictures.label_colors(np.array([n]))[0] for n in (3, 4))
    assert np.array_equal(drawn[1, 1, :3], three) and np.array_equal(drawn[3, 5, :3], four)
    assert np.abs(three.astype(int) - four).sum() > 100
    thick = pictures.outlines(labels, width=2)[..., 3] == 255
    assert np.array_equal(thick[3], [0, 1, 1, 1, 1, 1, 1, 1, 0]) and not thick[0].any() and thick[5, 1:5].all()
    filled = pictures.outlines(labels, fill=0.5)
    assert filled[3, 2, 3] == 128 and filled[0, 0, 3] == 0


def test_a_picture_takes_the_voxel_under_each_pixel_on_any_level(tmp_path: Path) -> None:
    data = np.random.default_rng(2).integers(0, 60000, (40, 70, 90), dtype=np.uint16)
    fine = volume(tmp_path / "0", data, VOXEL_UM)
    for normal, (at, shape, taken) in enumerate(
        [(7, (70, 90), data[7]), (11, (40, 90), data[:, 11]), (23, (70, 40), data[:, :, 23].T)]
    ):
        rows, columns = [(1, 2), (0, 2), (1, 0)][normal]
        pixel = 0.05
        pixel_shape = tuple(round(n * VOXEL_UM[a] / pixel) for n, a in zip(shape, (rows, columns), strict=True))
        corner = (-VOXEL_UM[rows] / 2, -VOXEL_UM[columns] / 2)
        cut = pictures.Cut(normal, rows, columns, at * VOXEL_UM[normal], corner, pixel, pixel_shape)
        repeats = [round(VOXEL_UM[a] / pixel) for a in (rows, columns)]
        assert np.array_equal(pictures.sampled(cut, [fine]), taken.repeat(repeats[0], 0).repeat(repeats[1], 1))


def test_the_coarsest_level_that_is_fine_enough_is_read(tmp_path: Path) -> None:
    scale = Scale((1.0, 1.0, 1.0))
    levels = []
    for level, n in enumerate((256, 128, 64)):
        layout = layout_for_core((64, 64, 64), (4, n, n), "uint8")
        levels.append(create_array(tmp_path / str(level), layout, scale))
        scale = scale.coarsened((1, 2, 2))
    cuts = {pixel: pictures.Cut(0, 1, 2, 0.0, (-0.5, -0.5), pixel, (8, 8)) for pixel in (0.3, 1.0, 1.9, 2.0, 3.9, 9.0)}
    found = {pixel: levels.index(pictures.level_for(cut, levels)) for pixel, cut in cuts.items()}
    assert found == {0.3: 0, 1.0: 0, 1.9: 0, 2.0: 1, 3.9: 1, 9.0: 2}


def test_a_wide_plane_is_read_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = volume(tmp_path / "0", np.ones((2, 300, 70), np.uint8), (1.0, 1.0, 1.0))
    sizes = []
    read_whole = Volume.read

    def watched(self: Volume, box: Box) -> Any:
        sizes.append(box.shape)
        return read_whole(self, box)

    monkeypatch.setattr(Volume, "read", watched)
    (cut, *_) = pictures.cuts_through((0.0, 0.0, 0.0), wide.shape, wide.scale)
    assert pictures.sampled(cut, [wide]).all()
    assert max(shape[1] for shape in sizes) <= wide.layout.chunk[1] < 300
    assert all(shape[0] == 1 for shape in sizes)


def test_only_curves_near_the_plane_are_drawn_and_ends_of_curves_stay_apart() -> None:
    cut = pictures.Cut(0, 1, 2, 0.0, (0.0, 0.0), 0.1, (60, 80))
    points = np.array([[0, 1, 1], [0, 1, 3], [0.1, 4, 5], [0.1, 4, 7], [3, 5, 1], [3, 5, 7]], float)
    drawn = pictures.curves(cut, points, np.array([0, 2, 4, 6]), near_um=0.2)[..., 3] > 0
    assert drawn[10, 10:31].all() and drawn[40, 50:71].all()
    assert not drawn[12:40].any() and not drawn[42:].any() and not drawn[:10].any()
    nothing = pictures.curves(cut, np.zeros((0, 3)), np.zeros(1, np.int64), near_um=1.0)
    assert nothing.shape == (60, 80, 4) and not nothing.any()


def test_contrast_ignores_hot_voxels_and_is_defined_for_flat_and_undefined_images() -> None:
    image = np.arange(10000.0).reshape(100, 100)
    image[0, 0] = 1e9
    low, high = pictures.contrast_window([image])
    assert 0 < low < 100 and 9900 < high < 10000
    for flat in (np.full((3, 3), 7.0), np.full((3, 3), np.nan)):
        low, high = pictures.contrast_window([flat])
        assert high > low
        assert pictures.gray(flat, (low, high)).dtype == np.uint8
