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


def test_channels_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "two.tif", VOXELS[:8].reshape(4, 2, 21, 33), imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(InputError, match="c 2, z 4.*Save one channel"):
        open_tiff_stack(tmp_path / "two.tif")


def test_a_file_that_is_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "labels.tif"
    tifffile.imwrite(path, VOXELS)
    stack = open_tiff_stack(path)
    before = stack.identity()
    tifffile.imwrite(path, VOXELS[:5])
    assert open_tiff_stack(path).identity() != before
    with pytest.raises(IntegrityError, match="changed while it was read"):
        stack.read(Box((0, 0, 0), (2, 2, 2)))
