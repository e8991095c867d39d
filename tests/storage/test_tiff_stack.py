"""TIFF stacks read by boxes, whatever way they are stored."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile

from chunkflow.errors import InputError, IntegrityError
from chunkflow.geometry.box import Box
from chunkflow.storage.tiff_stack import open_tiff_stack

VOXELS = np.random.default_rng(1).integers(0, 60000, (9, 21, 33), np.uint16)


@pytest.mark.parametrize(
    "how", [{"imagej": True}, {"compression": "zlib"}, {"tile": (16, 16), "compression": "zlib"}, {"byteorder": ">"}]
)
def test_boxes_are_cut_from_the_whole(how: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "labels.tif"
    metadata = None if "tile" in how else {"axes": "ZYX"}
    tifffile.imwrite(path, VOXELS, metadata=metadata, photometric="minisblack", **how)
    stack = pickle.loads(pickle.dumps(open_tiff_stack(path)))
    assert (stack.shape, stack.dtype) == (VOXELS.shape, np.uint16)
    for box in (stack.box, Box((2, 3, 5), (7, 20, 30)), Box((8, 20, 32), (9, 21, 33)), Box((1, 4, 4), (1, 4, 9))):
        np.testing.assert_array_equal(stack.read(box), VOXELS[box.slices])
    with pytest.raises(InputError, match="reaches outside"):
        stack.read(Box((0, 0, 0), (10, 1, 1)))


def test_one_plane_is_a_stack_of_one(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "plane.tif", VOXELS[0])
    assert open_tiff_stack(tmp_path / "plane.tif").shape == (1, 21, 33)


def test_one_of_several_channels_and_time_points_is_named(tmp_path: Path) -> None:
    path, voxels = tmp_path / "many.tif", np.resize(VOXELS, (3, 4, 2, 21, 33))
    metadata = {"axes": "TZCYX", "spacing": 0.3, "unit": "um"}
    tifffile.imwrite(path, voxels, imagej=True, metadata=metadata, resolution=(10, 10))
    for match, chosen in (
        ("holds 2 channels.*Save one channel alone", {"time": 0}),
        ("holds 3 time points", {"channel": 1}),
        ("no channel 2.*0 to 1", {"channel": 2, "time": 0}),
        ("no one channel named 'dapi'", {"channel": "dapi", "time": 0}),
        ("no time point 3", {"channel": 0, "time": 3}),
    ):
        with pytest.raises(InputError, match=match):
            open_tiff_stack(path, **chosen)  # type: ignore[arg-type]
    stack = pickle.loads(pickle.dumps(open_tiff_stack(path, channel="1", time=2)))
    assert stack.voxel_um == pytest.approx((0.3, 0.1, 0.1))
    np.testing.assert_array_equal(stack.read(stack.box), voxels[2, :, 1])


def test_a_part_is_a_stack_of_its_own(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "labels.tif", VOXELS)
    whole = open_tiff_stack(tmp_path / "labels.tif")
    part = whole.cropped(Box((2, 3, 5), (7, 20, 30)))
    assert part.shape == (5, 17, 25) and part.identity() != whole.identity()
    np.testing.assert_array_equal(part.read(part.box), VOXELS[2:7, 3:20, 5:30])
    np.testing.assert_array_equal(
        part.cropped(Box((1, 2, 3), (4, 5, 6))).read(Box((0, 0, 0), (3, 3, 3))), VOXELS[3:6, 5:8, 8:11]
    )
    with pytest.raises(InputError, match="reaches outside"):
        part.read(Box((0, 0, 0), (6, 1, 1)))


def test_a_tiff_in_a_store_is_refused_with_what_to_do() -> None:
    with pytest.raises(InputError, match="object store.*Import it"):
        open_tiff_stack("s3://bucket/labels.tif")


def test_a_file_that_is_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "labels.tif"
    tifffile.imwrite(path, VOXELS)
    stack = open_tiff_stack(path)
    before = stack.identity()
    tifffile.imwrite(path, VOXELS[:5])
    assert open_tiff_stack(path).identity() != before
    with pytest.raises(IntegrityError, match="changed while it was read"):
        stack.read(Box((0, 0, 0), (2, 2, 2)))
