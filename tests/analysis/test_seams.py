"""Traces of blocks: a cut shows, points that know nothing of blocks do not."""

import numpy as np
import pytest
from scipy import stats

from chunkflow.analysis.seams import SeamCount, count_near_seams, count_sides_near_seams

SHAPE, CORE = (70, 130, 200), (32, 48, 64)


def _uniform(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, np.array(SHAPE) - 0.5, (count, 3))


@pytest.mark.parametrize("near", [1, 2, 5])
def test_the_share_is_that_of_the_voxels_near_a_face_between_blocks(near: int) -> None:
    flags = np.zeros(SHAPE, bool)
    for axis, (n, c) in enumerate(zip(SHAPE, CORE, strict=True)):
        for face in range(c, n, c):
            index = [slice(None)] * 3
            index[axis] = slice(face - near, face + near)
            flags[tuple(index)] = True
    inner = flags[near:-near, near:-near, near:-near]
    found = count_near_seams("voxels", np.argwhere(np.ones(SHAPE, bool)).astype(float), SHAPE, CORE, near=near)
    assert found.share == pytest.approx(inner.mean(), abs=1e-12)
    assert (found.near, found.total) == (inner.sum(), inner.size)


def test_points_that_know_nothing_of_blocks_are_not_suspicious() -> None:
    p_values = [count_near_seams("points", _uniform(seed, 500), SHAPE, CORE).p_value for seed in range(200)]
    assert not any(count_near_seams("points", _uniform(seed, 500), SHAPE, CORE).is_suspicious for seed in range(200))
    assert 0.3 < np.mean(p_values) < 0.7  # as chance has it


@pytest.mark.parametrize(("near", "total", "share"), [(0, 9, 0.2), (9, 9, 0.2), (3, 40, 0.3), (260, 1000, 0.25)])
def test_the_p_value_is_twice_the_smaller_tail(near: int, total: int, share: float) -> None:
    tails = [stats.binomtest(near, total, share, alternative).pvalue for alternative in ("less", "greater")]
    found = SeamCount(what="points", near=near, total=total, share=share).p_value
    assert found == pytest.approx(min(1.0, 2 * min(tails)), rel=1e-9)


def test_a_cut_at_the_faces_shows() -> None:
    points = _uniform(0, 400)
    ends = _uniform(1, 60)
    ends[:, 2] = np.random.default_rng(2).choice([63, 64, 127, 128], 60)
    found = count_near_seams("branch ends", np.concatenate((points, ends)), SHAPE, CORE)
    assert found.is_suspicious
    assert found.ratio > 1.4


def test_points_that_the_faces_lost_show() -> None:
    points = _uniform(0, 2000)
    lost = (np.abs(points[:, 2] - 63.5) < 2) | (np.abs(points[:, 1] - 47.5) < 2) | (np.abs(points[:, 0] - 31.5) < 2)
    found = count_near_seams("objects", points[~lost], SHAPE, CORE)
    assert found.is_suspicious
    assert found.ratio < 0.8


def test_objects_that_end_at_faces_show_and_others_do_not() -> None:
    rng = np.random.default_rng(4)
    free = [rng.integers(0, n + 1, 300) for n in SHAPE]
    assert not count_sides_near_seams("sides", free, SHAPE, CORE).is_suspicious
    cut = [np.concatenate((side, np.full(40, c))) for side, c in zip(free, CORE, strict=True)]
    found = count_sides_near_seams("sides", cut, SHAPE, CORE)
    assert found.is_suspicious
    assert found.near >= 120


def test_nothing_is_said_where_there_is_nothing() -> None:
    empty = count_near_seams("ends", np.zeros((0, 3)), SHAPE, CORE)
    assert (empty.ratio, empty.p_value, empty.is_suspicious) == (1.0, 1.0, False)
    one = count_near_seams("ends", _uniform(0, 10), SHAPE, SHAPE)
    assert (one.share, one.is_suspicious) == (0.0, False)
    assert SeamCount(what="all", near=5, total=5, share=0.5).ratio == float("inf")
