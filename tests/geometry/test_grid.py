import itertools

import numpy as np
import pytest

from chunkflow.errors import PlanError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import NEIGHBOURS, Grid


def _random_grids(count: int, seed: int) -> list[Grid]:
    rng = np.random.default_rng(seed)
    shapes, cores = rng.integers(1, 14, (count, 3)), rng.integers(1, 16, (count, 3))
    return [Grid(triple(n.tolist()), triple(c.tolist())) for n, c in zip(shapes, cores, strict=True)]


GRIDS = _random_grids(40, seed=1)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_cores_cover_every_voxel_exactly_once(grid: Grid) -> None:
    covered = np.zeros(grid.shape, int)
    for index in range(len(grid)):
        covered[grid.core_of(index).slices] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_core_is_empty_or_larger_than_nominal(grid: Grid) -> None:
    for index in range(len(grid)):
        assert all(0 < n <= c for n, c in zip(grid.core_of(index).shape, grid.core, strict=True))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_block_order_is_the_raster_order_of_first_voxels(grid: Grid) -> None:
    firsts = [grid.core_of(index).start for index in range(len(grid))]
    assert firsts == sorted(firsts)
    assert [grid.index(grid.position(index)) for index in range(len(grid))] == list(range(len(grid)))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_reads_are_cores_and_halo_inside_the_volume(grid: Grid) -> None:
    halo = (1, 3, 2)
    whole = np.zeros(grid.shape, bool)
    for index in range(len(grid)):
        core, read = grid.core_of(index), grid.read_of(index, halo)
        assert Box.of_shape(grid.shape).contains(read)
        assert read.contains(core)
        expected = whole.copy()
        near = [slice(max(a - h, 0), b + h) for a, b, h in zip(core.start, core.stop, halo, strict=True)]
        expected[tuple(near)] = True
        found = whole.copy()
        found[read.slices] = True
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_neighbours_are_the_blocks_whose_cores_touch(grid: Grid) -> None:
    for index in range(len(grid)):
        core = grid.core_of(index)
        found = {grid.neighbour(index, direction) for direction in NEIGHBOURS} - {None}
        around = core.grow((1, 1, 1))
        touching = {other for other in range(len(grid)) if around.clip(grid.core_of(other)).size} - {index}
        assert found == touching


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_sides_are_those_of_the_volume(grid: Grid) -> None:
    for index in range(len(grid)):
        core = grid.core_of(index)
        for axis, (low, high) in enumerate(grid.sides(index)):
            assert low == (core.start[axis] == 0)
            assert high == (core.stop[axis] == grid.shape[axis])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_read_amplification_is_voxels_read_over_voxels_written(grid: Grid) -> None:
    halo = (2, 0, 3)
    read = sum(grid.read_of(index, halo).size for index in range(len(grid)))
    assert grid.read_amplification(halo) == pytest.approx(read / np.prod(grid.shape), rel=1e-12)


def test_the_26_directions_are_all_of_them_and_the_last_13_point_forward() -> None:
    cube = set(itertools.product((-1, 0, 1), repeat=3)) - {(0, 0, 0)}
    assert len(NEIGHBOURS) == 26
    assert set(NEIGHBOURS) == cube
    assert all(direction > (0, 0, 0) for direction in NEIGHBOURS[13:])
    assert {triple(tuple(-d for d in direction)) for direction in NEIGHBOURS[13:]} == set(NEIGHBOURS[:13])


def test_a_grid_of_a_billion_blocks_is_as_cheap_as_one() -> None:
    grid = Grid((100_000, 100_000, 100_000), (100, 100, 100))
    assert len(grid) == 10**9
    assert grid.core_of(len(grid) - 1).stop == grid.shape


@pytest.mark.parametrize(("shape", "core"), [((0, 5, 5), (2, 2, 2)), ((5, 5, 5), (2, 0, 2)), ((5, 5, 5), (2, -1, 2))])
def test_an_empty_volume_or_core_is_refused(shape: Triple, core: Triple) -> None:
    with pytest.raises(PlanError):
        Grid(shape, core)


@pytest.mark.parametrize("grid", GRIDS[:12], ids=str)
def test_voxels_are_grouped_by_the_block_that_owns_them(grid: Grid) -> None:
    voxels = np.random.default_rng(0).permutation(np.prod(grid.shape))[::2].astype(np.int64)
    groups = list(grid.group(voxels))
    assert [block for block, _ in groups] == sorted(block for block, _ in groups)
    assert sorted(row for _, rows in groups for row in rows) == list(range(len(voxels)))
    for block, rows in groups:
        assert (np.diff(rows) > 0).all()
        core = grid.core_of(block)
        position = np.stack(np.unravel_index(voxels[rows], grid.shape), axis=1)
        assert ((position >= core.start) & (position < core.stop)).all()


def test_no_voxels_make_no_groups() -> None:
    assert list(Grid((3, 4, 5), (2, 2, 2)).group(np.zeros(0, np.int64))) == []
