"""Resampling: the lattice by brute force in exact fractions, and the same bits whatever the box."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chunkflow.errors import UsageError
from chunkflow.kernels import resample

Triple = tuple[int, int, int]
Size = tuple[float, float, float]

CASES: list[tuple[Triple, Size, Size]] = [
    ((11, 13, 17), (0.2, 0.056, 0.056), (0.056, 0.056, 0.056)),
    ((9, 14, 10), (0.3, 0.1, 0.13), (0.2, 0.25, 0.2)),
    ((1, 12, 7), (1.0, 0.5, 0.7), (0.3, 1.0, 0.1)),
    ((7, 8, 9), (0.1, 0.1, 0.1), (0.3, 0.2, 0.1)),
    ((5, 6, 7), (0.1, 1.0, 0.1), (0.1003, 1.001, 0.1)),  # weights that are small and still not 0
]


def exact_axis(n: int, size_in: float, size_out: float) -> list[Fraction]:
    """Positions of the output voxels in source voxels."""
    step = Fraction(str(size_out)) / Fraction(str(size_in))
    positions = []
    while len(positions) * step <= n - 1:
        positions.append(len(positions) * step)
    return positions


def exact_axes(shape: Triple, a: Size, b: Size) -> list[list[Fraction]]:
    return [exact_axis(*axis) for axis in zip(shape, a, b, strict=True)]


def whole(rule: Any, source: NDArray[Any], a: Size, b: Size) -> NDArray[Any]:
    stop = resample.output_shape(source.shape, a, b)
    return rule(source, (0, 0, 0), (0, 0, 0), stop, source.shape, a, b)


@pytest.mark.parametrize(("shape", "a", "b"), CASES)
def test_the_output_reaches_to_the_last_voxel_and_not_beyond(shape: Triple, a: Size, b: Size) -> None:
    assert resample.output_shape(shape, a, b) == tuple(len(axis) for axis in exact_axes(shape, a, b))


def test_sizes_are_decimals_not_binary_fractions() -> None:
    # 0.3 / 0.1 is 2.999... in floats: the voxel at 0.9 um would be lost
    assert resample.output_shape((4, 10, 7), (0.3, 0.1, 0.1), (0.1, 0.3, 0.6)) == (10, 4, 2)


@pytest.mark.parametrize(("shape", "a", "b"), CASES)
def test_linear_equals_exact_interpolation(shape: Triple, a: Size, b: Size) -> None:
    source = np.random.default_rng(1).integers(0, 4000, shape).astype(np.uint16)
    got = whole(resample.linear, source, a, b)
    expected = source.astype(np.float64)
    for axis, positions in enumerate(exact_axes(shape, a, b)):
        low = [floor(p) for p in positions]
        high = [min(i + 1, shape[axis] - 1) for i in low]
        weight = np.array([float(p - i) for p, i in zip(positions, low, strict=True)])
        weight = weight.reshape([-1 if k == axis else 1 for k in range(3)])
        expected = expected.take(low, axis) * (1 - weight) + expected.take(high, axis) * weight
    assert got.dtype == np.float32
    assert np.allclose(got, expected, rtol=1e-6, atol=1e-3)
    assert got.min() >= source.min()
    assert got.max() <= source.max() * (1 + 1e-6)


@pytest.mark.parametrize(("shape", "a", "b"), CASES)
def test_nearest_takes_the_nearest_voxel_and_the_smaller_of_two(shape: Triple, a: Size, b: Size) -> None:
    source = np.random.default_rng(2).integers(0, 9, shape).astype(np.uint32)
    index = [
        [min(range(n), key=lambda i, p=p: (abs(i - p), i)) for p in positions]
        for n, positions in zip(shape, exact_axes(shape, a, b), strict=True)
    ]
    got = whole(resample.nearest, source, a, b)
    assert got.dtype == np.uint32
    assert np.array_equal(got, source[np.ix_(*index)])


@pytest.mark.parametrize(("shape", "a", "b"), CASES)
def test_valid_looks_at_voxels_of_nonzero_weight_and_no_others(shape: Triple, a: Size, b: Size) -> None:
    source = np.random.default_rng(3).random(shape) > 0.1
    got = whole(resample.valid, source, a, b)
    assert got.dtype == bool
    axes = exact_axes(shape, a, b)
    for j in np.ndindex(*got.shape):
        positions = [axes[k][j[k]] for k in range(3)]
        corners = [sorted({floor(p), -floor(-p)}) for p in positions]
        assert got[j] == source[np.ix_(*corners)].all()


@pytest.mark.parametrize(("shape", "a", "b"), CASES)
@pytest.mark.parametrize("rule", [resample.linear, resample.nearest, resample.valid])
def test_every_box_gives_the_bits_of_the_whole_volume(rule: Any, shape: Triple, a: Size, b: Size) -> None:
    rng = np.random.default_rng(4)
    source = rng.random(shape).astype(np.float32) * 1000
    if rule is resample.valid:
        source = source > 100
    wanted = whole(rule, source, a, b)
    for _ in range(40):
        start = tuple(int(rng.integers(0, n)) for n in wanted.shape)
        stop = tuple(int(rng.integers(s + 1, n + 1)) for s, n in zip(start, wanted.shape, strict=True))
        low, high = resample.source_box(start, stop, shape, a, b)
        assert all(0 <= p < q <= n for p, q, n in zip(low, high, shape, strict=True))
        block = source[tuple(slice(p, q) for p, q in zip(low, high, strict=True))]
        got = rule(block, low, start, stop, shape, a, b)
        assert np.array_equal(got, wanted[tuple(slice(p, q) for p, q in zip(start, stop, strict=True))])


def test_a_larger_source_than_needed_gives_the_same_bits() -> None:
    shape, a, b = CASES[1]
    source = np.random.default_rng(5).random(shape).astype(np.float32)
    wanted = whole(resample.linear, source, a, b)
    got = resample.linear(source, (0, 0, 0), (2, 1, 3), (5, 4, 6), shape, a, b)
    assert np.array_equal(got, wanted[2:5, 1:4, 3:6])


def test_a_nan_of_zero_weight_does_not_spread() -> None:
    source = np.ones((5, 5, 5), np.float32)
    source[1::2] = np.nan
    assert np.isfinite(whole(resample.linear, source, (1.0, 1.0, 1.0), (2.0, 0.5, 1.0))).all()


def test_the_source_is_left_as_it_was() -> None:
    source = np.random.default_rng(6).random((6, 6, 6)).astype(np.float32)
    before = source.copy()
    whole(resample.linear, source, (0.2, 0.1, 0.1), (0.1, 0.1, 0.15))
    assert np.array_equal(source, before)


@pytest.mark.parametrize(("start", "stop"), [((0, 0, 0), (9, 1, 1)), ((-1, 0, 0), (1, 1, 1)), ((2, 0, 0), (2, 1, 1))])
def test_voxels_that_do_not_exist_are_refused(start: Triple, stop: Triple) -> None:
    with pytest.raises(UsageError, match="resampled axis of 8"):
        resample.source_box(start, stop, (4, 4, 4), (0.5, 0.2, 0.2), (0.2, 0.2, 0.2))
