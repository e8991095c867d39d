"""Holes that `label` and `instances` fill; the property matrix compares them with brute force on random volumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import remove_small_holes

import chunkflow as cf
from chunkflow.errors import ConfigError
from chunkflow.stages.base import Stage
from chunkflow.testing.memory import InMemory, run_in_memory

WHOLE = (4096, 4096, 4096)


def left_of(stages: list[Stage], voxels: NDArray[Any], *, kind: str = "mask", block: Any = WHOLE) -> InMemory:
    return run_in_memory(stages, voxels, kind=kind, block=block, voxel_um=(0.2, 0.1, 0.1))


def bubbles(shape: tuple[int, ...] = (24, 40, 44)) -> NDArray[np.uint8]:
    """One object full of holes of any size, and none but it."""
    rng = np.random.default_rng(4)
    solid = ndimage.gaussian_filter(rng.standard_normal(shape), 1.0) < 0.16
    labels, _ = ndimage.label(solid, np.ones((3,) * len(shape)))
    return np.asarray(labels == np.argmax(np.bincount(labels[solid])), np.uint8)


@pytest.mark.parametrize("block", [WHOLE, (7, 13, 11)])
def test_all_holes_are_those_that_scipy_fills(block: Any) -> None:
    mask = bubbles()
    truth = ndimage.binary_fill_holes(mask)
    assert truth.sum() - mask.sum() > 1000
    np.testing.assert_array_equal(left_of([cf.Label(fill_holes=True)], mask, block=block).arrays["labels"] > 0, truth)


@pytest.mark.parametrize("block", [WHOLE, (7, 13, 11)])
def test_small_holes_are_those_that_scikit_image_fills(block: Any) -> None:
    mask = bubbles()
    largest = 30
    stage = cf.Label(fill_holes=True, max_hole_um3=largest * 0.002)
    truth = remove_small_holes(mask.astype(bool), max_size=largest, connectivity=1)
    # what scikit-image fills at the sides of the volume is no hole here
    inside = np.pad(mask, 1)
    pieces, _ = ndimage.label(inside == 0)
    truth &= ~((pieces == pieces[0, 0, 0])[1:-1, 1:-1, 1:-1])
    assert mask.sum() < truth.sum() < ndimage.binary_fill_holes(mask).sum()
    np.testing.assert_array_equal(left_of([stage], mask, block=block).arrays["labels"] > 0, truth)


def test_a_ring_in_a_single_plane_is_filled_and_has_no_loop_left() -> None:
    y, x = np.indices((40, 44))
    ring = ((np.hypot(y - 20, x - 22) < 15) & (np.hypot(y - 20, x - 22) > 8)).astype(np.uint8)[None]
    stages: list[Stage] = [cf.Skeleton(), cf.Measure()]
    before, after = (
        left_of([label, *stages], ring, block=(1, 16, 16)) for label in (cf.Label(), cf.Label(fill_holes=True))
    )
    np.testing.assert_array_equal(after.arrays["labels"][0] > 0, ndimage.binary_fill_holes(ring[0]))
    assert [left.tables["objects"]["b1"].tolist() for left in (before, after)] == [[1], [0]]
    assert [left.tables["objects"]["b1_graph"].tolist() for left in (before, after)] == [[1], [0]]


def shells() -> NDArray[np.uint8]:
    """A box in the hole of a box, and a hole open to a side of the volume."""
    mask = np.zeros((20, 20, 40), np.uint8)
    mask[2:18, 2:18, 2:18] = 1
    mask[5:15, 5:15, 5:15] = 0
    mask[8:12, 8:12, 8:12] = 1
    mask[10, 10, 10] = 0
    mask[5:15, 5:15, 22:40] = 1
    mask[9:11, 9:11, 24:40] = 0
    return mask


def test_a_hole_that_holds_another_object_stays_until_the_filter_takes_that_object() -> None:
    holds = left_of([cf.Label(fill_holes=True), cf.Measure()], shells(), block=(9, 20, 11))
    labels = holds.arrays["labels"]
    assert labels[10, 10, 10] == labels[10, 10, 11] != 0, "the hole of the inner box is filled"
    assert labels[6, 6, 6] == 0, "what holds a box is not"
    assert labels[10, 10, 30] == 0, "what is open to a side of the volume is not"
    assert holds.tables["objects"]["b2"].tolist() == [1, 0, 0]
    taken = left_of([cf.Label(fill_holes=True, min_voxels=100)], shells(), block=(9, 20, 11)).arrays["labels"]
    assert (taken[2:18, 2:18, 2:18] == 1).all()


@pytest.mark.parametrize("kind", ["mask", "labels"])
def test_tables_are_those_of_the_filled_labels(kind: str) -> None:
    voxels = shells() * np.uint8(1 if kind == "mask" else 7)
    stages: list[Stage] = [cf.Skeleton(), cf.Measure()]
    left = left_of([cf.Label(fill_holes=True), *stages], voxels, kind=kind, block=(9, 20, 11))
    again = left_of([cf.Label(), *stages], left.arrays["labels"], kind="labels")
    for table in ("objects", "branches", "nodes"):
        for name, column in again.tables[table].items():
            np.testing.assert_array_equal(left.tables[table][name], column, err_msg=f"{table}.{name}")


def test_instances_are_filled_each_for_itself() -> None:
    z, y, x = np.indices((24, 24, 44))
    mask = np.zeros((24, 24, 44), np.uint8)
    for middle in (13, 29):
        distance = np.sqrt((z - 12) ** 2 + (y - 12) ** 2 + (x - middle) ** 2)
        mask[distance < 9] = 1
    for middle in (11, 31):
        mask[12, 12, middle] = 0
    left = left_of([cf.Instances(fill_holes=True, smooth_um=0.4), cf.Measure()], mask, block=(24, 24, 15))
    labels = left.arrays["labels"]
    assert len(left.tables["objects"]["object_id"]) == 2
    assert labels[12, 12, 11] == labels[12, 12, 10] != labels[12, 12, 31] == labels[12, 12, 32]
    assert left.tables["objects"]["b2"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"fill_holes": True, "max_hole_um3": 0.0}, "fills nothing"), ({"max_hole_um3": 1.0}, "fill_holes: true")],
)
def test_what_makes_no_sense_of_holes_is_refused(options: dict[str, Any], said: str) -> None:
    for stage in (cf.Label, cf.Instances):
        with pytest.raises(ConfigError, match=said):
            stage(**options)
