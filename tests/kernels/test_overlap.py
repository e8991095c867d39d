"""Objects that two tiles both see: counted by hand, and by brute force on random labels."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.kernels import overlap

Row = tuple[int, int, int, Fraction, bool]


def by_brute_force(a: NDArray[Any], b: NDArray[Any]) -> list[Row]:
    """Number, number, voxels in common, likeness, mutual: from the definition."""
    found = []

    def partner(of: NDArray[Any], there: NDArray[Any], number: int) -> int:
        others = there[of == number].tolist()
        return min(set(others), key=lambda other: (-others.count(other), other))

    for i in sorted(set(a.ravel().tolist()) - {0}):
        for j in sorted(set(b.ravel().tolist()) - {0}):
            n = int(((a == i) & (b == j)).sum())
            if n:
                likeness = (Fraction(n, int((a == i).sum())) + Fraction(n, int((b == j).sum()))) / 2
                found.append((i, j, n, likeness, partner(a, b, i) == j and partner(b, a, j) == i))
    return found


def rows(a: NDArray[Any], b: NDArray[Any]) -> list[tuple[int, int, int, float, bool]]:
    found = overlap.overlaps(a, b)
    columns = (*found.pair.T.tolist(), found.voxels.tolist(), found.likeness.tolist(), found.is_mutual.tolist())
    return list(zip(*columns, strict=True))


@pytest.mark.parametrize("seed", range(8))
def test_overlaps_are_those_of_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 9, 3))
    a, b = (ndimage.zoom(rng.integers(0, 5, shape), 2, order=0).astype(np.uint32) for _ in range(2))
    b = np.where(rng.random(b.shape) < 0.5, a, b)  # alike enough to have partners
    expected = [(i, j, n, float(likeness), mutual) for i, j, n, likeness, mutual in by_brute_force(a, b)]
    found = rows(a, b)
    assert [row[:3] + row[4:] for row in found] == [row[:3] + row[4:] for row in expected]
    assert np.allclose([row[3] for row in found], [row[3] for row in expected], rtol=1e-15)


def test_the_same_segmentation_under_other_numbers_is_mutual_and_wholly_alike() -> None:
    a = np.array([[[0, 1, 1, 2, 2, 2, 0, 3]]], np.uint32)
    assert rows(a, a * 7) == [(1, 7, 2, 1.0, True), (2, 14, 3, 1.0, True), (3, 21, 1, 1.0, True)]


def test_an_object_cut_in_two_is_one_with_the_larger_part_and_ambiguous_with_a_part_that_is_all_inside() -> None:
    a = np.array([1] * 10, np.uint32)
    b = np.array([4] * 6 + [5] * 4, np.uint32)
    assert rows(a, b) == [(1, 4, 6, 0.8, True), (1, 5, 4, 0.7, False)]


def test_an_object_that_is_mostly_background_to_the_other_has_no_partner() -> None:
    a = np.array([1, 1, 1, 1, 1], np.uint32)
    b = np.array([0, 0, 0, 2, 2], np.uint32)
    assert rows(a, b) == [(1, 2, 2, 0.7, False)]


def test_equal_shares_go_to_the_smaller_number() -> None:
    a = np.array([1, 1, 1, 1], np.uint32)
    b = np.array([3, 3, 2, 2], np.uint32)
    assert [row[4] for row in rows(a, b)] == [True, False]


def test_nothing_overlaps_where_nothing_is() -> None:
    empty = np.zeros((2, 0, 3), np.uint32)
    assert rows(empty, empty) == []
    assert rows(np.zeros((2, 2, 2), np.uint32), np.ones((2, 2, 2), np.uint32)) == []
