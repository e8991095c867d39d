"""Pyramid levels against brute force over the voxels each output voxel covers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from math import floor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chunkflow.kernels.downsample import coarse_shape, mean2, mode2

SHAPES = [(5, 7, 4), (4, 6, 8), (1, 9, 3), (3, 1, 1)]
FACTORS = list(product((1, 2), repeat=3))
Triple = tuple[int, int, int]


def by_force(array: NDArray[Any], factors: Triple, rule: Callable[[list[Any]], Any]) -> NDArray[Any]:
    out = np.empty(coarse_shape(array.shape, factors), array.dtype)
    for p in np.ndindex(*out.shape):
        cell = array[tuple(slice(f * a, f * a + f) for a, f in zip(p, factors, strict=True))]
        out[p] = rule(cell.ravel().tolist())
    return out


def rounded_mean(values: list[int]) -> int:
    return floor(Fraction(sum(values), len(values)) + Fraction(1, 2))


def mode(values: list[int]) -> int:
    counts = Counter(values)
    most = max(counts.values())
    tied = [v for v, n in counts.items() if n == most]
    return min((v for v in tied if v != 0), default=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int64, np.uint64])
@pytest.mark.parametrize("shape", SHAPES)
def test_integer_means_are_exact_with_halves_rounded_up(dtype: type, shape: Triple) -> None:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(1)
    image = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    image[rng.random(shape) < 0.3] = info.max  # sums that overflow the type
    for factors in FACTORS:
        got = mean2(image, factors)
        assert got.dtype == dtype
        assert np.array_equal(got, by_force(image, factors, rounded_mean))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_float_means_are_the_mean_in_z_y_x_order(dtype: type, shape: Triple) -> None:
    image = np.random.default_rng(2).normal(0, 1e4, shape).astype(dtype)
    wide = np.float64 if dtype is np.float64 else np.float32

    def in_order(values: list[float]) -> Any:
        total = wide(0)
        for value in values:
            total = wide(total + wide(value))
        return dtype(total * wide(1 / len(values)))

    for factors in FACTORS:
        got = mean2(image, factors)
        assert got.dtype == dtype
        assert np.array_equal(got, by_force(image, factors, in_order))


def test_means_of_blocks_that_start_on_even_voxels_are_those_of_the_volume() -> None:
    image = np.random.default_rng(3).normal(0, 1, (11, 13, 9)).astype(np.float32)
    whole = mean2(image, (2, 2, 2))
    blocks = [mean2(image[:, y : y + 6], (2, 2, 2)) for y in (0, 6, 12)]
    assert np.array_equal(whole, np.concatenate(blocks, axis=1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.uint64, np.int32])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("values", [2, 3, 5])
def test_modes_are_the_most_frequent_and_ties_go_to_the_smallest_nonzero(
    dtype: type, shape: Triple, values: int
) -> None:
    ids = np.array([0, 7, 3, 120, 5][:values])
    labels = np.random.default_rng(values).choice(ids, shape).astype(dtype)
    for factors in FACTORS:
        got = mode2(labels, factors)
        assert got.dtype == dtype
        assert np.array_equal(got, by_force(labels, factors, mode))


def test_large_ids_and_masks_keep_their_values() -> None:
    top = np.iinfo(np.uint64).max
    labels = np.array([[[top, 0], [0, top]]], np.uint64)
    assert mode2(labels, (1, 2, 2)).item() == top
    mask = np.array([[[True, False], [False, False]], [[True, True], [False, True]]])
    assert mode2(mask, (2, 2, 2)).item() is True
    assert mean2(mask, (1, 2, 2)).ravel().tolist() == [False, True]


def test_the_input_is_left_as_it_was() -> None:
    labels = np.random.default_rng(4).integers(0, 4, (6, 6, 6), np.uint8)
    before = labels.copy()
    mode2(labels, (2, 2, 2))
    mean2(labels, (2, 1, 2))
    mean2(labels, (1, 1, 1))
    assert np.array_equal(labels, before)
