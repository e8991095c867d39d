"""How a block that must look further shares its crops with its neighbours."""

import numpy as np
import pytest

from chunkflow.geometry.box import Box
from chunkflow.run import worker
from chunkflow.stages.base import Region
from chunkflow.stages.instances import Depth

SHAPE = (150, 300, 290)


def depth(halo: int) -> Depth:
    return Depth(weights=(1, 1, 1), halo=halo, max_halo=512)


@pytest.mark.parametrize("halo", [1, 5, 24, 72, 512])
def test_a_shared_crop_holds_all_that_the_output_needs_within_the_budget(halo: int) -> None:
    volume = Box.of_shape(SHAPE)
    rng = np.random.default_rng(halo)
    for _ in range(50):
        a, b = np.sort(rng.integers(0, SHAPE, (2, 3)), axis=0)
        out = Box(tuple(map(int, a)), tuple(map(int, b + 1)))
        alone = out.grow((halo,) * 3).clip(volume)
        for budget in (alone.size, 2 * alone.size, volume.size):
            cells, crop = worker._shared_crop(depth(halo), out, SHAPE, budget)
            assert cells.contains(out)
            assert crop.contains(alone)
            assert volume.contains(crop)
            assert crop.size <= budget


def test_neighbours_share_a_crop_where_the_budget_allows() -> None:
    first, second = Box((32, 48, 40), (64, 96, 80)), Box((32, 48, 80), (64, 96, 120))
    budget = SHAPE[0] * SHAPE[1] * SHAPE[2]
    assert worker._shared_crop(depth(64), first, SHAPE, budget) == worker._shared_crop(depth(64), second, SHAPE, budget)


def test_solved_crops_make_room_the_oldest_first_and_those_of_other_jobs_at_once() -> None:
    solved = worker._SolvedCrops()
    box = Box((0, 0, 0), (2, 2, 2))
    for key in (("other", 1, 0), ("job", 1, 1), ("job", 1, 2), ("job", 1, 3)):
        solved.known[key] = Region(box, np.zeros(box.shape, np.uint8))
    solved.make_room(("job", 1), 16)
    assert list(solved.known) == [("job", 1, 2), ("job", 1, 3)]
