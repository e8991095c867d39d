"""Agglomeration over blocks against the definition, written out for the whole volume."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.geometry.box import Triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import agglomeration

Pair = tuple[int, int]


def faces_of(labels: NDArray[Any], relief: NDArray[Any]) -> dict[Pair, list[float]]:
    """The value of every voxel face between two objects."""
    found: dict[Pair, list[float]] = {}
    for axis in range(3):
        for here in np.ndindex(*labels.shape):
            there = tuple(p + (a == axis) for a, p in enumerate(here))
            if there[axis] == labels.shape[axis]:
                continue
            low, high = sorted((int(labels[here]), int(labels[there])))
            if 0 < low < high:
                found.setdefault((low, high), []).append(max(float(relief[here]), float(relief[there])))
    return found


def by_definition(labels: NDArray[Any], relief: NDArray[Any], limit: float, power: int) -> NDArray[Any]:
    """Merge the pair of lowest mean again and again; every object is called by its smallest member in the end."""
    edges: dict[Pair, tuple[Pair, Fraction, int]] = {}
    for pair, values in faces_of(labels, relief).items():
        edges[pair] = (pair, sum((Fraction(round(Fraction(v) * 2**power)) for v in values), Fraction(0)), len(values))
    name = {int(k): int(k) for k in np.unique(labels)}
    while edges:
        a, b = min(edges, key=lambda e: (edges[e][1] / edges[e][2], edges[e][0]))
        if edges[a, b][1] / edges[a, b][2] >= round(Fraction(limit) * 2**power):
            break
        name = {k: a if n == b else n for k, n in name.items()}
        joined: dict[Pair, tuple[Pair, Fraction, int]] = {}
        for (c, d), (first, total, count) in edges.items():
            c, d = sorted((a if c == b else c, a if d == b else d))
            if c != d:
                other = joined.get((c, d), (first, Fraction(0), 0))
                joined[c, d] = (min(first, other[0]), total + other[1], count + other[2])
        edges = joined
    return np.vectorize(name.get)(labels)


def in_blocks(labels: NDArray[Any], relief: NDArray[Any], limit: float, power: int, core: Triple) -> NDArray[Any]:
    grid = Grid(triple_of(labels.shape), core)
    parts = []
    for block in range(len(grid)):
        box = grid.core_of(block)
        parts.append(agglomeration.block_boundaries(labels[box.slices], relief[box.slices], power))
        for axis, direction in enumerate(((1, 0, 0), (0, 1, 0), (0, 0, 1))):
            ahead = grid.neighbour(block, direction)
            if ahead is not None:
                beyond = grid.core_of(ahead)
                planes = [a[b.slices].take(end, axis) for a in (labels, relief) for b, end in ((box, -1), (beyond, 0))]
                parts.append(agglomeration.seam_boundaries(*planes, power))
    count = int(labels.max())
    limit = int(agglomeration.rounded(limit, power))
    one = agglomeration.agglomerate(agglomeration.merge_boundaries(parts), count, limit)
    return np.concatenate(([0], one))[labels]


def triple_of(shape: tuple[int, ...]) -> Triple:
    z, y, x = shape
    return z, y, x


def cells(rng: np.random.Generator, shape: Triple, count: int, *, gaps: bool) -> NDArray[np.uint16]:
    """Voronoi cells in raster order of their seeds, with gaps where the background is."""
    seeds = np.zeros(shape, bool)
    seeds.ravel()[rng.choice(seeds.size, count, replace=False)] = True
    numbers = np.where(seeds, np.cumsum(seeds.ravel()).reshape(shape), 0)
    near = ndimage.distance_transform_edt(~seeds, return_distances=False, return_indices=True)
    labels = numbers[tuple(near)].astype(np.uint16)
    if gaps:
        labels[ndimage.gaussian_filter(rng.standard_normal(shape), 1) > 0.1] = 0
    return labels


@pytest.mark.parametrize("seed", range(12))
def test_blocks_and_heap_give_what_the_definition_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = triple_of(tuple(int(n) for n in rng.integers(3, 10, 3)))
    labels = cells(rng, shape, int(rng.integers(2, min(40, labels_fit(shape)))), gaps=bool(seed % 2))
    relief = rng.standard_normal(shape).astype(np.float32)
    if seed % 3 == 0:  # many equal means
        relief = np.round(relief)
    power = agglomeration.relief_power(float(np.abs(relief).max()))
    for limit in (-0.5, 0.4, 0.9, 5.0):
        expected = by_definition(labels, relief, limit, power)
        core = triple_of(tuple(int(rng.integers(1, n + 1)) for n in shape))
        assert np.array_equal(in_blocks(labels, relief, limit, power, core), expected)
        assert np.array_equal(in_blocks(labels, relief, limit, power, shape), expected)


def labels_fit(shape: Triple) -> int:
    return int(np.prod(shape)) // 2


def test_boundaries_of_blocks_add_up_to_those_of_the_volume() -> None:
    rng = np.random.default_rng(3)
    labels, relief = cells(rng, (9, 10, 11), 30, gaps=False), rng.random((9, 10, 11), dtype=np.float32)
    found = agglomeration.block_boundaries(labels, relief, 31)
    expected = faces_of(labels, relief)
    assert list(map(tuple, found.pair.tolist())) == sorted(expected)
    assert found.faces.tolist() == [len(expected[pair]) for pair in sorted(expected)]
    assert found.total.tolist() == [sum(int(v * 2.0**31) for v in expected[pair]) for pair in sorted(expected)]


def boundaries(faces: list[int], total: list[int]) -> agglomeration.Boundaries:
    """Between 1 and 2, 1 and 3, 2 and 3."""
    pair = np.array([[1, 2], [1, 3], [2, 3]], np.uint64)
    return agglomeration.Boundaries(pair, np.array(faces, np.int64), np.array(total, np.int64))


def test_the_faces_that_two_objects_share_with_a_third_count_together() -> None:
    # 1 and 2 merge first, and to 3 they have one face of 9 and eight of 0, a mean of 1.
    assert agglomeration.agglomerate(boundaries([1, 1, 8], [0, 9, 0]), 3, 2).tolist() == [1, 1, 1]
    # 2 would merge with 3, at a mean of 15 / 8, were it not for 1, which brings the mean to 24 / 9.
    assert agglomeration.agglomerate(boundaries([1, 1, 8], [0, 9, 15]), 3, 2).tolist() == [1, 1, 3]
    assert agglomeration.agglomerate(boundaries([1, 1, 8], [3, 9, 15]), 3, 2).tolist() == [1, 2, 2]
    assert agglomeration.agglomerate(boundaries([1, 1, 8], [0, 9, 15]), 3, 0).tolist() == [1, 2, 3]


def test_means_that_no_float_tells_apart_are_told_apart() -> None:
    """Both are 1 - 1 / faces. The lower one goes first, and the other is drowned in what its objects then share."""
    many, fewer = 2**31 - 1, 2**31 - 3
    assert (many - 1) / many == (fewer - 1) / fewer
    found = agglomeration.agglomerate(boundaries([many, 2**31, fewer], [many - 1, 2**61, fewer - 1]), 3, 1)
    assert found.tolist() == [1, 2, 2]


def test_boundaries_of_one_mean_go_by_their_first_pair() -> None:
    """Once 1 and 2 are one, their boundaries to 3 and to 4 have a mean of 1. (1, 3) comes before (1, 4), (2, 3) not.

    The second of the two is not merged, because 3 and 4 do not go together.
    """
    pair = np.array([[1, 2], [1, 3], [1, 4], [2, 3], [3, 4]], np.uint64)
    found = agglomeration.Boundaries(pair, np.ones(5, np.int64), np.array([-5, 1, 1, 1, 100]))
    assert agglomeration.agglomerate(found, 4, 2).tolist() == [1, 1, 1, 4]


def test_nothing_is_merged_where_nothing_touches() -> None:
    labels = np.zeros((4, 4, 4), np.uint16)
    labels[0, 0, 0], labels[1, 1, 1] = 1, 2  # a corner is no face
    found = agglomeration.block_boundaries(labels, np.zeros(labels.shape, np.float32), 0)
    assert len(found.pair) == 0
    assert agglomeration.agglomerate(found, 2, 10).tolist() == [1, 2]
    assert agglomeration.agglomerate(found, 0, 10).tolist() == []


@pytest.mark.parametrize("highest", [1e-30, 0.3, 1.0, 2.0, 65535.0, 3e38])
def test_rounded_reliefs_fit_their_bits_and_lose_no_more_than_promised(highest: float) -> None:
    power = agglomeration.relief_power(highest)
    values = np.float32(highest) * np.linspace(-1, 1, 1001, dtype=np.float32)
    found = agglomeration.rounded(values, power)
    assert np.abs(found).max() <= 2**31
    assert np.abs(np.ldexp(found.astype(float), -power) - values).max() <= highest * 2.0**-31


def test_a_limit_far_beyond_all_reliefs_stays_on_its_side() -> None:
    power = agglomeration.relief_power(1.0)
    values = [-1e300, -1e12, -1.0, 0.5, 1.0, 1e12, 1e300]
    found = agglomeration.rounded(np.array(values), power)
    assert (np.diff(found) >= 0).all()
    assert found[1] < found[2] and found[-2] > found[-3]
