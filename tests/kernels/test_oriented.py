"""Sides of oriented boxes against closed forms and brute force, in blocks and whole."""

from __future__ import annotations

import numpy as np
import pytest

from chunkflow.kernels.measure import axis_columns, object_sums
from chunkflow.kernels.oriented import block_reach, extents_um, merge_reach

VOXEL_UM = (0.3, 0.1, 0.17)


def turned(seed: int) -> np.ndarray:
    """(3, 3) rows at right angles."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]


def test_a_box_along_the_axes_has_its_sides() -> None:
    labels = np.zeros((9, 12, 14), np.uint8)
    labels[2:5, 1:11, 3:9] = 7
    known, directions = np.array([7], np.uint64), np.eye(3)[None]
    reach = block_reach(labels, (40, 0, 7), known, directions, VOXEL_UM)
    np.testing.assert_allclose(extents_um(reach, directions, VOXEL_UM), [[0.9, 1.0, 1.02]], rtol=1e-12)


def test_the_sides_hold_all_corners_of_all_voxels_and_touch_the_outermost() -> None:
    rng = np.random.default_rng(1)
    labels = rng.choice([0, 0, 0, 4, 9, 12], (7, 9, 8)).astype(np.uint16)
    directions = np.stack([turned(k) for k in range(3)])
    reach = block_reach(labels, (0, 0, 0), np.array([4, 9, 12], np.uint64), directions, VOXEL_UM)
    corners = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    for k, label in enumerate((4, 9, 12)):
        at = (np.argwhere(labels == label)[:, None] + corners).reshape(-1, 3) * VOXEL_UM
        expected = np.ptp(at @ directions[k].T, axis=0)
        np.testing.assert_allclose(extents_um(reach, directions, VOXEL_UM)[k], expected, rtol=1e-12)


def test_blocks_leave_the_bits_of_the_whole_volume() -> None:
    rng = np.random.default_rng(2)
    labels = rng.choice([0, 3, 5, 8], (11, 13, 10)).astype(np.uint32)
    known = np.array([3, 5, 8], np.uint64)
    directions = np.stack([turned(k) for k in range(3)])
    directions[1, 2] = np.nan
    whole = block_reach(labels, (0, 0, 0), known, directions, VOXEL_UM)
    parts = []
    for z in ((0, 4), (4, 5), (5, 11)):
        for x in ((0, 1), (1, 7), (7, 10)):
            parts.append(block_reach(labels[slice(*z), :, slice(*x)], (z[0], 0, x[0]), known, directions, VOXEL_UM))
    merged = merge_reach([merge_reach(parts[:5]), *parts[5:]])
    for name in ("label", "low", "high"):
        assert getattr(merged, name).tobytes() == getattr(whole, name).tobytes()
    assert np.isnan(extents_um(whole, directions, VOXEL_UM)).tolist() == np.isnan(directions[:, :, 0]).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_a_turned_brick_has_its_sides_within_a_voxel_along_its_principal_axes(seed: int) -> None:
    turn, half = turned(seed), np.array([14.0, 9.0, 5.0])
    at = np.moveaxis(np.indices((46, 47, 45)), 0, -1) - (22.6, 23.1, 22.3)
    labels = (np.abs(at @ turn.T) < half).all(axis=-1).astype(np.uint8)
    columns = axis_columns(object_sums(labels, (0, 0, 0), None), (1.0, 1.0, 1.0))
    directions = np.array([[[columns[f"axis_{n}_{a}"][0] for a in "zyx"] for n in ("major", "middle", "minor")]])
    reach = block_reach(labels, (0, 0, 0), np.array([1], np.uint64), directions, (1.0, 1.0, 1.0))
    found = extents_um(reach, directions, (1.0, 1.0, 1.0))[0]
    assert (found > 2 * half - 0.5).all() and (found < 2 * half + 1.8).all()


def test_a_block_without_objects_reaches_nowhere() -> None:
    nothing = np.zeros((2, 3, 4), np.uint8)
    empty = block_reach(nothing, (0, 0, 0), np.zeros(0, np.uint64), np.zeros((0, 3, 3)), VOXEL_UM)
    assert empty.low.shape == (0, 3) and merge_reach([empty, empty]).high.shape == (0, 3)
