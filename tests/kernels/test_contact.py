"""Pairs of touching labels of neighbouring blocks against brute force on the two blocks laid side by side."""

from __future__ import annotations

import io
from itertools import product

import numpy as np
import pytest

from chunkflow.kernels.contact import FORWARD, same_value, shell, touching

REACH = {6: 1, 18: 2, 26: 3}


def two_blocks(rng: np.random.Generator, direction: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Random labels of two neighbours; extents differ only along the direction."""
    shape = rng.integers(1, 5, 3)
    other = np.where(direction, rng.integers(1, 5, 3), shape)
    return rng.integers(0, 4, shape).astype(np.uint32), rng.integers(0, 9, other).astype(np.uint32)


def brute_force(a: np.ndarray, b: np.ndarray, direction: tuple[int, int, int], connectivity: int) -> list[list[int]]:
    origin = [a.shape[i] if d > 0 else -b.shape[i] if d < 0 else 0 for i, d in enumerate(direction)]
    pairs = set()
    for p, q in product(np.argwhere(a), np.argwhere(b)):
        step = np.abs(q + origin - p)
        if step.max() == 1 and step.sum() <= REACH[connectivity]:
            pairs.add((int(a[tuple(p)]), int(b[tuple(q)])))
    return sorted(map(list, pairs))


def test_thirteen_directions_and_their_opposites_are_the_neighbourhood() -> None:
    opposites = {(-z, -y, -x) for z, y, x in FORWARD}
    assert len(FORWARD) == 13
    assert len(opposites | set(FORWARD)) == 26


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("direction", FORWARD)
def test_touching_pairs_equal_brute_force(direction: tuple[int, int, int], connectivity: int) -> None:
    rng = np.random.default_rng([connectivity, *(d + 1 for d in direction)])
    for _ in range(12):
        a, b = two_blocks(rng, direction)
        expected = brute_force(a, b, direction, connectivity)
        assert touching(shell(a), shell(b), direction, connectivity).tolist() == expected
        opposite = (-direction[0], -direction[1], -direction[2])
        reverse = touching(shell(b), shell(a), opposite, connectivity)
        assert sorted(reverse[:, ::-1].tolist()) == expected


def test_a_shell_is_a_compact_copy_that_numpy_saves() -> None:
    labels = np.arange(1, 4 * 5 * 6 + 1, dtype=np.uint32).reshape(4, 5, 6)
    labels[0] += 70_000
    planes = shell(labels)
    labels[:] = 0
    stored = io.BytesIO()
    np.savez(stored, **planes)
    stored.seek(0)
    loaded = dict(np.load(stored))
    assert set(loaded) == {"z0", "z1", "y0", "y1", "x0", "x1"}
    assert loaded["z1"].dtype == np.uint8 and loaded["z0"].dtype == np.uint32
    assert loaded["z0"][0, 0] == 70_001 and loaded["x1"][3, 4] == 120
    assert touching(loaded, loaded, (0, 0, 1), 6).shape == (20, 2)


def test_labels_up_to_32_bits_are_paired() -> None:
    largest = np.full((1, 1, 1), 2**32 - 1, np.uint32)
    assert touching(shell(largest), shell(largest), (1, 1, 1), 26).tolist() == [[2**32 - 1, 2**32 - 1]]


def test_components_of_different_values_are_not_one_object() -> None:
    pairs = np.array([[1, 1], [1, 2], [2, 1]])
    assert same_value(pairs, np.array([5, 6], np.uint64), np.array([6, 5], np.uint64)).tolist() == [False, True, True]
