import itertools
import pickle

import numpy as np
import pytest

from chunkflow.errors import UsageError
from chunkflow.geometry.box import Box, triple

SHAPE = (5, 6, 7)


def _voxels(box: Box) -> set[tuple[int, int, int]]:
    """The definition: every p with start <= p < stop."""
    return set(itertools.product(*(range(a, b) for a, b in zip(box.start, box.stop, strict=True))))


def _random_boxes(count: int, seed: int) -> list[Box]:
    rng = np.random.default_rng(seed)
    starts, sizes = rng.integers(-4, 8, (count, 3)), rng.integers(0, 6, (count, 3))
    return [Box(triple(s.tolist()), triple((s + n).tolist())) for s, n in zip(starts, sizes, strict=True)]


def test_size_and_shape_count_the_voxels() -> None:
    for box in _random_boxes(200, seed=1):
        assert box.size == len(_voxels(box)) == np.prod(box.shape)


def test_a_box_turned_inside_out_is_empty() -> None:
    box = Box((3, 0, 0), (1, 4, 4))
    assert box.shape == (0, 4, 4)
    assert box.size == 0


def test_clip_keeps_exactly_the_common_voxels() -> None:
    for a, b in itertools.pairwise(_random_boxes(300, seed=2)):
        clipped = a.clip(b)
        assert _voxels(clipped) == _voxels(a) & _voxels(b)
        assert clipped.size == len(_voxels(clipped))


def test_contains_means_every_voxel_is_inside() -> None:
    seen = set()
    for a, b in itertools.pairwise(_random_boxes(2000, seed=3)):
        if b.size and a.size:
            assert a.contains(b) == (_voxels(b) <= _voxels(a))
            seen.add(a.contains(b))
    assert seen == {True, False}


def test_a_box_contains_itself_and_not_one_voxel_more_on_any_side() -> None:
    box = Box((1, 2, 3), (4, 5, 6))
    assert box.contains(box)
    for axis, side in itertools.product(range(3), (0, 1)):
        corners = [list(box.start), list(box.stop)]
        corners[side][axis] += 1 if side else -1
        assert not box.contains(Box(triple(corners[0]), triple(corners[1])))


def test_grow_moves_both_sides_and_a_negative_halo_undoes_it() -> None:
    for box in _random_boxes(50, seed=4):
        grown = box.grow((1, 0, 3))
        assert grown.shape == tuple(n + 2 * h for n, h in zip(box.shape, (1, 0, 3), strict=True))
        assert grown.grow((-1, 0, -3)) == box


def test_slices_cut_the_voxels_out_of_an_array() -> None:
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    box = Box((1, 2, 0), (4, 3, 7))
    expected = {int(array[p]) for p in _voxels(box)}
    assert set(array[box.slices].ravel().tolist()) == expected


def test_relative_to_gives_the_same_voxels_of_a_cut_array() -> None:
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    outer, inner = Box((1, 1, 2), (5, 6, 7)), Box((2, 3, 3), (4, 5, 7))
    np.testing.assert_array_equal(array[outer.slices][inner.relative_to(outer.start).slices], array[inner.slices])


def test_of_shape_is_the_whole_volume() -> None:
    assert Box.of_shape(SHAPE) == Box((0, 0, 0), SHAPE)


def test_boxes_are_hashable_ordered_and_pickle() -> None:
    boxes = _random_boxes(20, seed=5)
    assert set(pickle.loads(pickle.dumps(boxes))) == set(boxes)
    assert sorted(boxes)[0].start == min(box.start for box in boxes)


def test_text_is_the_region_that_a_user_types() -> None:
    assert str(Box((0, 10, 20), (1, 12, 25))) == "0:1,10:12,20:25"


@pytest.mark.parametrize(("value", "expected"), [(3, (3, 3, 3)), ([1, 2, 3], (1, 2, 3)), ((4, 5, 6), (4, 5, 6))])
def test_triple_takes_one_number_or_three(value: object, expected: tuple[int, ...]) -> None:
    assert triple(value) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [(1, 2), [1, 2, 3, 4], ()])
def test_triple_refuses_any_other_count(value: object) -> None:
    with pytest.raises(UsageError, match="z, y, x"):
        triple(value)  # type: ignore[arg-type]
