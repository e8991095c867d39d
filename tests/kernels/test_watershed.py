"""The block-wise watershed against a spanning forest of the whole voxel graph, scikit-image and definitions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from skimage.morphology import reconstruction
from skimage.segmentation import watershed as skimage_watershed

from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import contact, forest, watershed

REACH = {6: 1, 18: 2, 26: 3}
Case = tuple[NDArray[np.float32], NDArray[np.bool_], Triple, int]


def voxel_edges(mask: NDArray[np.bool_], connectivity: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    index = np.arange(mask.size).reshape(mask.shape)
    first, second = [], []
    for step in product((-1, 0, 1), repeat=3):
        if step <= (0, 0, 0) or sum(map(abs, step)) > REACH[connectivity]:
            continue
        a = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, mask.shape, strict=True))
        b = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, mask.shape, strict=True))
        both = mask[a] & mask[b]
        first.append(index[a][both])
        second.append(index[b][both])
    return np.concatenate(first), np.concatenate(second)


def ranks(relief: NDArray[Any], tie: NDArray[Any]) -> NDArray[np.int64]:
    found = np.empty(relief.size, np.int64)
    found[np.lexsort((tie.ravel(), relief.ravel()))] = np.arange(relief.size)
    return found


def forest_labels(
    relief: NDArray[Any], tie: NDArray[Any], mask: NDArray[np.bool_], seeds: NDArray[np.int64], connectivity: int
) -> NDArray[np.int64]:
    """The definition: a minimum spanning tree of all voxels and one root behind the seeds, cut at the root."""
    a, b = voxel_edges(mask, connectivity)
    rank = ranks(relief, tie)
    high, low = np.maximum(rank[a], rank[b]), np.minimum(rank[a], rank[b])
    weight = np.empty(len(a))
    weight[np.lexsort((low, high))] = np.arange(len(a)) + 2
    n = relief.size
    ends = np.r_[weight, np.ones(len(seeds))], (np.r_[a, np.full(len(seeds), n)], np.r_[b, seeds])
    tree = minimum_spanning_tree(coo_matrix(ends, shape=(n + 1, n + 1)).tocsr()).tocoo()
    inner = (tree.row != n) & (tree.col != n)
    parts = coo_matrix((np.ones(inner.sum()), (tree.row[inner], tree.col[inner])), shape=(n, n))
    _, part = connected_components(parts)
    label = np.zeros(part.max() + 1, np.int64)
    label[part[seeds]] = np.arange(1, len(seeds) + 1)
    return np.where(mask, label[part].reshape(mask.shape), 0)


def minima_by_definition(
    relief: NDArray[Any], mask: NDArray[np.bool_], h: float, connectivity: int
) -> NDArray[np.int64]:
    """Deep minima and the lowest of each connected foreground, by one sweep over all sorted edges."""
    a, b = voxel_edges(mask, connectivity)
    rank = ranks(relief, np.zeros(relief.shape))
    values = relief.ravel().astype(np.float64)
    high, low = np.where(rank[a] > rank[b], (a, b), (b, a))
    parent = {int(v): int(v) for v in np.flatnonzero(mask)}

    def find(v: int) -> int:
        while parent[v] != v:
            v = parent[v]
        return v

    deep = []
    for e in np.lexsort((rank[low], rank[high])):
        old, young = sorted((find(int(a[e])), find(int(b[e]))), key=lambda v: rank[v])
        if old != young:
            if values[high[e]] - values[young] > h:
                deep.append(young)
            parent[young] = old
    return np.array(sorted(deep + [v for v in parent if parent[v] == v]), np.int64)


def crop(grid: Grid, block: int, relief: NDArray[Any], mask: NDArray[np.bool_]) -> watershed.Frame:
    read, core = grid.read_of(block, (2, 2, 2)), grid.core_of(block)
    return watershed.frame_of(
        relief[read.slices],
        mask[read.slices],
        origin=read.start,
        core=(core.start, core.stop),
        volume=grid.shape,
    )


def shore(core: Box, frame: watershed.Frame, slot: NDArray[np.uint32], seeded: NDArray[np.bool_]) -> watershed.Shore:
    planes = [contact.shell(values) for values in (slot, frame.core(frame.key), frame.core(frame.tie))]
    return watershed.Shore(core.start, core.shape, *planes, seeded)


class MemoryShelf(dict[str, Any]):
    """A shelf that is a dict."""

    def put(self, name: str, arrays: Any) -> None:
        self[name] = arrays

    def take(self, name: str) -> Any:
        return self[name]


def slabs_of(grid: Grid) -> list[range]:
    """Blocks of each layer of a grid, or of each row of a flat one: they touch no layer but the next."""
    z, y, x = grid.counts
    layer = y * x if z > 1 else x if y > 1 else 1
    return [range(first, first + layer) for first in range(0, len(grid), layer)]


def edges_of(
    grid: Grid, slab: range, inner: list[NDArray[np.int64]], shores: list[watershed.Shore], connectivity: int
) -> forest.Edges:
    """The edges of the slots of a slab."""
    offset = np.concatenate(([0], np.cumsum([len(shores[block].seeded) for block in slab])))
    none = np.zeros((0, 8), np.int64)
    within, ahead, there = [none], [none], [np.zeros(0, np.int64)]
    for start, block in zip(offset, slab, strict=False):
        within.append(inner[block] + np.array([start, start, 0, 0, 0, 0, 0, 0]))
        for direction in contact.FORWARD:
            neighbour = grid.neighbour(block, direction)
            if neighbour is None:
                continue
            found = watershed.seam_edges(
                shores[block], shores[neighbour], direction, volume=grid.shape, connectivity=connectivity
            )
            found[:, 0] += start
            if neighbour in slab:
                found[:, 1] += offset[neighbour - slab.start]
                within.append(found)
            else:
                ahead.append(found)
                there.append(np.full(len(found), neighbour - slab.stop))
    return forest.Edges(offset, np.concatenate(within), np.concatenate(ahead), np.concatenate(there))


def flood(
    grid: Grid, relief: NDArray[Any], mask: NDArray[np.bool_], seeds: NDArray[np.int64], connectivity: int
) -> NDArray[np.int64]:
    """Labels 1..K of seeds from blocks and a merge."""
    blocks, shores = [], []
    position = np.stack(np.unravel_index(seeds, grid.shape), axis=1)
    for block in range(len(grid)):
        core = grid.core_of(block)
        frame = crop(grid, block, relief, mask)
        watershed.part_plateaus(frame, seeds, (2, 1, 1))
        here = np.flatnonzero(((position >= core.start) & (position < core.stop)).all(axis=1))
        found = watershed.flood_block(frame, seeds[here], here + 1, connectivity)
        blocks.append(found)
        shores.append(shore(core, frame, found.slot, found.label > 0))
    slabs, inner = slabs_of(grid), [b.edges for b in blocks]
    given = (
        (np.concatenate([blocks[b].label for b in slab]), edges_of(grid, slab, inner, shores, connectivity))
        for slab in slabs
    )
    labels = np.zeros(grid.shape, np.int64)
    for number, final in forest.FloodedLabels(given, len(slabs), MemoryShelf()):
        start = 0
        for block in slabs[number]:
            count = len(blocks[block].label)
            table = np.concatenate(([0], final[start : start + count]))
            labels[grid.core_of(block).slices] = table[blocks[block].slot]
            start += count
    return labels


def minima(grid: Grid, relief: NDArray[Any], mask: NDArray[np.bool_], h: float, connectivity: int) -> NDArray[np.int64]:
    blocks, shores = [], []
    for block in range(len(grid)):
        frame = crop(grid, block, relief, mask)
        found = watershed.minima_block(frame, h, connectivity)
        blocks.append(found)
        shores.append(shore(grid.core_of(block), frame, found.slot, np.zeros(len(found.minimum), bool)))
    inner = [b.edges for b in blocks]
    slabs = (
        (
            np.concatenate([blocks[b].minimum for b in slab]),
            np.concatenate([blocks[b].key for b in slab]),
            edges_of(grid, slab, inner, shores, connectivity),
        )
        for slab in slabs_of(grid)
    )
    found, _, _ = forest.surviving_minima(slabs, h)
    return np.sort(np.concatenate([*(v for b in blocks for v in (b.deep, b.lowest)), found]))


def ties(relief: NDArray[Any], mask: NDArray[np.bool_], seeds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Squared distance to the nearest seed on plateaus, by brute force."""
    keys = np.where(mask, relief.astype(np.float64), np.nan)
    padded = np.pad(keys, 1, constant_values=np.nan)
    flat = np.zeros(mask.shape, bool)
    for step in product(range(3), repeat=3):
        if step != (1, 1, 1):
            flat |= padded[tuple(slice(s, s + n) for s, n in zip(step, mask.shape, strict=True))] == keys
    if not len(seeds):
        return np.zeros(mask.shape, np.int64)
    voxel = np.stack(np.indices(mask.shape), axis=-1)
    seed = np.stack(np.unravel_index(seeds, mask.shape), axis=1)
    distance2 = (((voxel[..., None, :] - seed) * (2, 1, 1)) ** 2).sum(axis=-1).min(axis=-1)
    return np.where(flat, distance2, 0)


def cases(count: int, seed: int) -> Iterator[tuple[np.random.Generator, Case]]:
    """Random reliefs of every kind, sparse and full masks, cores of any size."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        shape = tuple(int(n) for n in rng.integers(1, 13, 3))
        noise = rng.standard_normal(shape)
        kind = number % 4
        relief = {
            0: noise,
            1: ndimage.gaussian_filter(noise, 1.5),
            2: rng.integers(0, 3, shape),  # plateaus
            3: np.zeros(shape),
        }[kind].astype(np.float32)
        mask = rng.random(shape) < rng.choice([0.0, 0.3, 0.6, 0.9, 1.0], p=[0.05, 0.2, 0.25, 0.25, 0.25])
        core = tuple(int(rng.integers(min(n, 3) if rng.random() < 0.7 else 1, n + 1)) for n in shape)
        yield rng, (relief, mask, (core[0], core[1], core[2]), int(rng.choice([6, 18, 26])))


def test_blocks_leave_the_labels_of_the_spanning_forest_of_the_whole_volume() -> None:
    for rng, (relief, mask, core, connectivity) in cases(120, seed=1):
        inside = np.flatnonzero(mask)
        seeds = np.sort(rng.choice(inside, int(rng.integers(0, min(8, len(inside)) + 1)), replace=False))
        expected = forest_labels(relief, ties(relief, mask, seeds), mask, seeds, connectivity)
        found = flood(Grid(relief.shape, core), relief, mask, seeds, connectivity)
        assert np.array_equal(found, expected), (relief.shape, core, connectivity)


def test_blocks_find_the_minima_of_the_whole_volume() -> None:
    for rng, (relief, mask, core, connectivity) in cases(80, seed=2):
        h = float(rng.choice([0.0, 0.1, 0.5, 1.0, 50.0]))
        expected = minima_by_definition(relief, mask, h, connectivity)
        found = minima(Grid(relief.shape, core), relief, mask, h, connectivity)
        assert np.array_equal(found, expected), (relief.shape, core, connectivity, h)


def test_minima_are_those_of_reconstruction() -> None:
    rng = np.random.default_rng(3)
    relief = ndimage.gaussian_filter(rng.standard_normal((20, 23, 25)), 1.2).astype(np.float32)
    h = 0.05
    filled = reconstruction(
        relief.astype(np.float64) + h, relief.astype(np.float64), method="erosion", footprint=np.ones((3,) * 3)
    )
    regions, count = ndimage.label(_regional_minima(filled), np.ones((3,) * 3))
    found = minima(Grid(relief.shape, (9, 10, 11)), relief, np.ones(relief.shape, bool), h, 26)
    assert len(found) == count > 5
    assert np.array_equal(np.unique(regions.ravel()[found]), np.arange(1, count + 1))


def _regional_minima(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Plateaus without a lower neighbour."""
    lower = ndimage.minimum_filter(values, size=3, mode="nearest") < values
    found = np.zeros(values.shape, bool)
    for value in np.unique(values[~lower]):
        plateaus, _ = ndimage.label(values == value, np.ones((3,) * 3))
        touched = np.unique(plateaus[lower])
        found |= (plateaus > 0) & ~np.isin(plateaus, touched)
    return found


@pytest.mark.parametrize("connectivity", [6, 26])
def test_without_ties_the_basins_of_all_minima_are_those_of_scikit_image(connectivity: int) -> None:
    rng = np.random.default_rng(4)
    shape = (17, 21, 19)
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), 0.8)
    relief = ranks(noise, np.zeros(shape)).reshape(shape).astype(np.float32)
    mask = ndimage.gaussian_filter(rng.standard_normal(shape), 1) > -0.2
    grid = Grid(shape, (8, 7, 10))
    seeds = minima(grid, relief, mask, 0.0, connectivity)
    markers = np.zeros(shape, np.int32)
    markers.ravel()[seeds] = np.arange(1, len(seeds) + 1)
    expected = skimage_watershed(relief, markers, connectivity=1 if connectivity == 6 else 3, mask=mask)
    assert len(seeds) > 20
    assert np.array_equal(flood(grid, relief, mask, seeds, connectivity), expected)


def test_a_flat_cube_is_shared_by_its_seeds() -> None:
    shape = (12, 12, 12)
    seeds = np.sort(np.ravel_multi_index(np.array([[2, 2, 2], [9, 9, 9]]).T, shape))
    labels = flood(Grid(shape, (5, 6, 7)), np.zeros(shape, np.float32), np.ones(shape, bool), seeds, 6)
    sizes = np.bincount(labels.ravel(), minlength=3)
    assert sizes[0] == 0
    assert sizes[1:].min() > 0.4 * labels.size


def test_keys_keep_the_order_of_values_and_give_them_back() -> None:
    values = np.array([-np.inf, -3.5, -1e-40, -0.0, 0.0, 1e-40, 2.0, np.inf], np.float32)
    keys = watershed.order_key(values)
    assert np.array_equal(keys[:-1] < keys[1:], values[:-1] < values[1:])
    assert np.array_equal(watershed.key_value(keys), values.astype(np.float64))


def test_seeds_near_a_lower_one_go_unless_they_are_the_last_of_their_foreground() -> None:
    seeds = np.array([0, 2, 4, 6, 20])
    value = np.array([3.0, 1.0, 2.0, 4.0, 5.0])
    only = np.array([False, False, False, True, False])
    stays = watershed.spread_out(seeds, value, only, distance_um=2.0, voxel_um=(1.0, 1.0, 1.0), volume=(1, 1, 30))
    assert stays.tolist() == [False, True, False, True, True]
