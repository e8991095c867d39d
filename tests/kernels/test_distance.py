"""Squared distances against brute force and scipy, whole and in pencils."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.errors import PlanError
from chunkflow.kernels.distance import UNKNOWN, integer_weights, squared_distance, squared_distance_along


def random_labels(rng: np.random.Generator, shape: tuple[int, int, int], n_labels: int) -> NDArray[np.uint32]:
    """Boxes of 2 x 3 x 2 voxels of random labels, so that labels touch and have insides."""
    coarse = rng.integers(0, n_labels + 1, tuple(-(-length // 2) for length in shape))
    fine = coarse.repeat(2, 0).repeat(3, 1).repeat(2, 2)
    return np.ascontiguousarray(fine[: shape[0], : shape[1], : shape[2]], dtype=np.uint32)


def brute_force(labels: NDArray[np.uint32], weights: tuple[int, int, int]) -> NDArray[np.int64]:
    """Squared distances from all pairs of voxels; the outside is one layer of background."""
    padded = np.pad(labels, 1)
    points = np.argwhere(np.ones(padded.shape))
    owner = padded.ravel()
    result = np.zeros(padded.shape, np.int64)
    for point in np.argwhere(padded):
        apart = ((points - point) ** 2 * np.array(weights)).sum(1)
        result[tuple(point)] = apart[owner != padded[tuple(point)]].min()
    return result[1:-1, 1:-1, 1:-1]


@pytest.mark.parametrize("seed", range(6))
def test_a_whole_volume_equals_brute_force_for_touching_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = random_labels(rng, tuple(rng.integers(1, 12, 3)), 3)
    labels[rng.random(labels.shape) < 0.02] = 0
    weights = tuple(int(w) for w in rng.integers(1, 30, 3))
    found = squared_distance(labels, weights=weights)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, brute_force(labels, weights))


@pytest.mark.parametrize("sides", [(1, 1, 1), (4, 1, 1), (25, 7, 7)])
def test_a_mask_equals_scipy(sides: tuple[int, int, int]) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(37, 41, 53)), 3)
    mask = noise > -0.3 * noise.std()
    truth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=sides)[1:-1, 1:-1, 1:-1]
    weights = tuple(side**2 for side in sides)
    found = squared_distance(mask, weights=weights)
    np.testing.assert_array_equal(found, np.rint(truth**2))


@pytest.mark.parametrize("seed", range(6))
def test_behind_open_ends_there_is_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 24, 3))
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    mask = noise > -0.5 * noise.std()
    mask[tuple(rng.integers(0, shape))] = False
    weights = ((1, 1, 1), (16, 1, 1), (9, 4, 25))[seed % 3]
    truth = ndimage.distance_transform_edt(mask, sampling=np.sqrt(weights)) ** 2
    found = squared_distance(mask, weights=weights, open_ends=True)
    np.testing.assert_array_equal(found, np.rint(truth))


@pytest.mark.parametrize("seed", range(8))
def test_pencils_along_one_axis_after_the_other_give_the_distances_of_the_whole_volume(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 45, 3))
    labels = random_labels(rng, shape, 3) if seed % 2 else np.ones(shape, np.bool_)
    if not seed % 2:
        labels[rng.random(shape) < 0.001] = 0
    weights = ((1, 1, 1), (16, 1, 1), (3, 5, 2), (2**28, 2**28, 1))[seed % 4]
    found = None
    for axis in (2, 1, 0):
        before, found = found, np.zeros(shape, np.int32)
        sides = [int(n) for n in rng.integers(1, 20, 3)]
        sides[axis] = shape[axis]
        for corner in np.ndindex(*(-(-n // side) for n, side in zip(shape, sides, strict=True))):
            pencil = tuple(slice(i * side, (i + 1) * side) for i, side in zip(corner, sides, strict=True))
            given = None if before is None else before[pencil]
            found[pencil] = squared_distance_along(axis, labels[pencil], given, weight=weights[axis])
    np.testing.assert_array_equal(found, squared_distance(labels, weights=weights))


def test_without_background_no_distance_is_known() -> None:
    found = squared_distance(np.ones((5, 7, 6), np.uint8), weights=(1, 1, 1), open_ends=True)
    assert (found == UNKNOWN).all()


def test_labels_of_64_bits_that_differ_in_the_last_are_different() -> None:
    labels = np.full((3, 3, 6), 2**64 - 1, np.uint64)
    labels[:, :, 3:] -= np.uint64(1)
    found = squared_distance(labels, weights=(100, 100, 1))
    np.testing.assert_array_equal(found[1, 1], [1, 4, 1, 1, 4, 1])


def test_a_distance_beyond_int32_is_unknown_and_never_wrong() -> None:
    labels = np.ones((5, 5, 5), np.uint8)
    found = squared_distance(labels, weights=(2**30,) * 3)
    truth = brute_force(labels.astype(np.uint32), (2**30,) * 3)
    np.testing.assert_array_equal(found, np.where(truth < 2**31 - 1, truth, UNKNOWN))
    assert (found == UNKNOWN).sum() == 27


def test_background_alone_is_zero_everywhere() -> None:
    found = squared_distance(np.zeros((3, 1, 40), np.bool_), weights=(1, 1, 1))
    assert not found.any()


@pytest.mark.parametrize(
    ("voxel_um", "weights"),
    [
        ((0.5, 0.5, 0.5), (1, 1, 1)),
        ((0.2, 0.056, 0.056), (625, 49, 49)),
        ((0.3, 0.1, 0.1), (9, 1, 1)),
        ((40e-3, 4e-3, 4e-3), (100, 1, 1)),
        ((1.0, 1.5, 0.75), (16, 36, 9)),
        ((0.25, 0.2500001, 0.25), (1, 1, 1)),
        ((6.4, 0.1, 0.1), (4096, 1, 1)),
    ],
)
def test_weights_are_the_squares_of_the_smallest_integer_ratios(
    voxel_um: tuple[float, float, float], weights: tuple[int, int, int]
) -> None:
    assert integer_weights(voxel_um) == weights


def test_weights_are_within_a_thousandth_of_every_ratio_of_the_voxel() -> None:
    rng = np.random.default_rng(5)
    accepted = 0
    for voxel_um in rng.integers(1, 60, (300, 3)) * rng.uniform(0.9997, 1.0003, (300, 3)) * 0.013:
        try:
            sides = np.sqrt(integer_weights(tuple(voxel_um)))
        except PlanError:
            continue
        accepted += 1
        assert np.ptp(sides / voxel_um) <= 1e-3 * (sides / voxel_um).min()
    assert accepted > 100


@pytest.mark.parametrize("voxel_um", [(6.5, 0.1, 0.1), (1.0, 0.0150, 1.0), (1.0, 1.0, 3.14159 / 163)])
def test_ratios_above_64_are_refused_with_resampling_as_the_remedy(voxel_um: tuple[float, float, float]) -> None:
    with pytest.raises(PlanError, match="resample"):
        integer_weights(voxel_um)


@pytest.mark.parametrize("side", [0.0, -0.1, float("nan"), float("inf")])
def test_a_voxel_without_a_size_is_refused(side: float) -> None:
    with pytest.raises(PlanError, match="positive"):
        integer_weights((0.1, side, 0.1))
