"""Betti numbers from blocks against closed forms, scikit-image and brute force on the whole volume."""

from __future__ import annotations

from itertools import pairwise, product
from typing import cast

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import euler_number

from chunkflow.kernels.contact import FORWARD, same_value, shell, touching
from chunkflow.kernels.euler import euler
from chunkflow.kernels.topology import ObjectTopology, Sides, block_regions, object_topology
from chunkflow.kernels.union import components_of, element_offsets

CUBE = np.ones((3, 3, 3))


def random_grid(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[tuple[int, ...], tuple[slice, ...]]:
    cuts = [[0, *sorted(rng.choice(np.arange(1, n), min(2, n - 1), replace=False).tolist()), n] for n in shape]
    axes = [[slice(a, b) for a, b in pairwise(axis)] for axis in cuts]
    numbers = product(*(range(len(axis)) for axis in axes))
    return {b: tuple(axes[i][n] for i, n in enumerate(b)) for b in numbers}


def coarse(rng: np.random.Generator, values: list[int], weights: list[float]) -> np.ndarray:
    """Random values on cells of two or three voxels: regions, shells and cavities of several sizes."""
    shape = rng.integers(2, 6, 3)
    volume = rng.choice(values, shape, p=weights)
    for axis in range(3):
        volume = volume.repeat(rng.integers(1, 3, volume.shape[axis]), axis=axis)
    return volume.astype(np.uint16)


def nested(rng: np.random.Generator) -> np.ndarray:
    """Boxes in boxes, some pierced: shells around background, other labels, both, and themselves."""
    volume = np.zeros(rng.integers(8, 15, 3), np.uint16)
    for _ in range(2):
        low = rng.integers(0, np.array(volume.shape) - 6)
        high = np.minimum(low + rng.integers(7, 13, 3), volume.shape)
        pair = rng.permutation(4)[:2]
        while (low < high).all():
            volume[tuple(map(slice, low, high))] = pair[0] if rng.random() < 0.8 else rng.integers(0, 4)
            low, high, pair = low + 1, high - 1, pair[::-1]
    for point in rng.integers(0, volume.shape, (2, 3)):
        volume[tuple(point)] = rng.integers(0, 4)
    return volume


def phantoms(seed: int, trials: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    made = [nested(rng) for _ in range(trials)]
    made += [coarse(rng, [0, 1, 2, 3], [0.25, 0.45, 0.2, 0.1]) for _ in range(trials)]
    return made + [coarse(rng, [1, 2, 7], [0.6, 0.3, 0.1]) for _ in range(trials // 2)]


def with_lower_halo(volume: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    """What `euler` asks for: one voxel before the core, and zeros behind it where the volume ends."""
    padded = np.pad(volume, 1)
    stops = [s.stop + 1 + (s.stop == n) for s, n in zip(box, volume.shape, strict=True)]
    return padded[tuple(slice(s.start, stop) for s, stop in zip(box, stops, strict=True))]


def topology_by_blocks(
    volume: np.ndarray, grid: dict[tuple[int, ...], tuple[slice, ...]]
) -> tuple[ObjectTopology, np.ndarray]:
    """Topology from block records, seams and a merge; and the region of each voxel."""
    blocks = {
        b: block_regions(
            volume[box], cast(Sides, tuple((s.start == 0, s.stop == n) for s, n in zip(box, volume.shape, strict=True)))
        )
        for b, box in grid.items()
    }
    offset = dict(zip(grid, element_offsets(np.array([len(r.table) for r in blocks.values()])), strict=False))
    same, adjacent, links = [np.zeros((0, 2), np.int64)], [], []
    for b, record in blocks.items():
        adjacent.append(record.adjacency - 1 + offset[b])
        links.append(record.links26 - 1 + offset[b])
        for d in FORWARD:
            c = (b[0] + d[0], b[1] + d[1], b[2] + d[2])
            if c in blocks:
                here, there = (record.table.value, blocks[c].table.value)
                shells = shell(record.pieces), shell(blocks[c].pieces)
                faces, near = (touching(*shells, d, connectivity) for connectivity in (6, 26))
                shift = np.array([offset[b], offset[c]]) - 1
                is_same = same_value(faces, here, there)
                same.append(faces[is_same] + shift)
                adjacent.append(faces[~is_same] + shift)
                links.append(near[same_value(near, here, there) & (here[near[:, 0] - 1] != 0)] + shift)
    total = sum(len(r.table) for r in blocks.values())
    piece, count = components_of(total, np.concatenate(same))
    value, touches = np.zeros(count, np.uint64), np.zeros(count, bool)
    value[piece] = np.concatenate([r.table.value for r in blocks.values()])
    np.logical_or.at(touches, piece, np.concatenate([r.touches_border for r in blocks.values()]))
    whole = np.zeros(volume.shape, np.int64)
    for b, box in grid.items():
        whole[box] = piece[blocks[b].pieces + offset[b] - 1]
    return object_topology(value, touches, piece[np.concatenate(adjacent)], piece[np.concatenate(links)]), whole


def cavities(mask: np.ndarray) -> list[np.ndarray]:
    outside, count = ndimage.label(np.pad(~mask, 1, constant_values=True))
    inside = outside[1:-1, 1:-1, 1:-1]
    return [inside == k for k in range(1, count + 1) if k != outside[0, 0, 0]]


def ball(shape: tuple[int, int, int], radius: float) -> np.ndarray:
    return sum((g - (n - 1) / 2) ** 2 for g, n in zip(np.indices(shape), shape, strict=True)) <= radius**2


def torus() -> np.ndarray:
    z, y, x = np.indices((9, 23, 25)) - np.array([4, 11, 12])[:, None, None, None]
    return (np.hypot(y, x) - 7) ** 2 + z**2 <= 8


@pytest.mark.parametrize(
    ("mask", "chi"),
    [
        (ball((11, 12, 13), 4.5), 1),
        (torus(), 0),
        (ball((13, 13, 13), 6) & ~ball((13, 13, 13), 3), 2),
        (np.ones((1, 1, 1), bool), 1),
        (np.eye(3, dtype=bool)[None] | np.eye(3, dtype=bool)[:, :, None], None),
    ],
)
def test_euler_of_known_bodies(mask: np.ndarray, chi: int | None) -> None:
    labels, found = euler(np.pad(mask, 1))
    assert labels.tolist() == [1]
    assert found.tolist() == [euler_number(np.pad(mask, 1), connectivity=3) if chi is None else chi]


def test_euler_of_random_labels_equals_that_of_each_mask() -> None:
    rng = np.random.default_rng(1)
    for density in (0.1, 0.5, 0.9):
        volume = rng.choice([0, 3, 2**40], (8, 9, 7), p=[1 - density, density / 2, density / 2]).astype(np.uint64)
        labels, chi = euler(np.pad(volume, 1))
        for label, found in zip(labels, chi, strict=True):
            assert found == euler_number(np.pad(volume == label, 1), connectivity=3)


def test_euler_adds_up_over_the_blocks_of_any_grid() -> None:
    rng = np.random.default_rng(2)
    for volume in phantoms(3, 6):
        labels, expected = euler(np.pad(volume, 1))
        total = dict.fromkeys(labels.tolist(), 0)
        for box in random_grid(rng, volume.shape).values():
            for label, chi in zip(*euler(with_lower_halo(volume, box)), strict=True):
                total[int(label)] += int(chi)
        assert list(total.values()) == expected.tolist()


def test_components_cavities_and_fills_equal_brute_force_on_any_grid() -> None:
    rng = np.random.default_rng(4)
    seen = {"filled": 0, "open": 0, "joined": 0}
    for volume in phantoms(5, 30):
        topology, region = topology_by_blocks(volume, random_grid(rng, volume.shape))
        assert topology.label.tolist() == sorted(set(np.unique(volume)) - {0})
        filled = topology.fill[region]
        for k, label in enumerate(topology.label):
            mask = volume == label
            found = cavities(mask)
            alone = [c for c in found if not volume[c].any()]
            assert topology.b0[k] == ndimage.label(mask, CUBE)[1]
            assert topology.b2[k] == len(found)
            assert topology.b2_open[k] == len(found) - len(alone)
            np.testing.assert_array_equal(filled == label, np.any(alone, axis=0) if alone else np.zeros_like(mask))
            after = mask | (filled == label)
            assert topology.b0_filled[k] == ndimage.label(after, CUBE)[1]
            assert topology.b2_open[k] == len(cavities(after))
            seen["filled"] += len(alone)
            seen["open"] += len(found) - len(alone)
            seen["joined"] += int(topology.b0_filled[k] < topology.b0[k])
    assert min(seen.values()) > 3, seen  # the phantoms cover every case


def test_the_betti_numbers_obey_euler_poincare() -> None:
    volume = (np.random.default_rng(6).random((12, 13, 14)) < 0.6).astype(np.uint8)
    topology, _ = topology_by_blocks(volume, random_grid(np.random.default_rng(7), volume.shape))
    _, chi = euler(np.pad(volume, 1))
    loops = topology.b0 + topology.b2 - chi
    assert chi.tolist() == [euler_number(np.pad(volume, 1), connectivity=3)]
    assert loops[0] > 0
    ring, _ = topology_by_blocks(torus().astype(np.uint8), random_grid(np.random.default_rng(8), torus().shape))
    assert (ring.b0 + ring.b2 - euler(np.pad(torus(), 1))[1]).tolist() == [1]


def test_topology_does_not_depend_on_the_order_of_the_contacts() -> None:
    rng = np.random.default_rng(9)
    for volume in phantoms(10, 4):
        regions = block_regions(volume, ((True, True),) * 3)
        expected = object_topology(
            regions.table.value, regions.touches_border, regions.adjacency - 1, regions.links26 - 1
        )
        turned = [
            rng.permutation(np.concatenate((pairs, pairs))[:, ::-1]) - 1
            for pairs in (regions.adjacency, regions.links26)
        ]
        found = object_topology(regions.table.value, regions.touches_border, turned[0], turned[1])
        for name in ("label", "b0", "b0_filled", "b2", "b2_open", "fill"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_contacts_inside_a_block_equal_brute_force() -> None:
    rng = np.random.default_rng(11)
    for values in ([0, 1], [0, 1, 2, 3]):
        volume = rng.choice(values, (5, 4, 6)).astype(np.uint8)
        regions = block_regions(volume, ((True, False), (False, False), (False, True)))
        faces, links = set(), set()
        for p, q in product(np.ndindex(volume.shape), repeat=2):
            step = np.abs(np.subtract(p, q))
            a, b = int(regions.pieces[p]), int(regions.pieces[q])
            if a < b and step.sum() == 1:
                faces.add((a, b))
            elif a < b and step.max() == 1 and volume[p] == volume[q] != 0:
                links.add((a, b))
        assert regions.adjacency.tolist() == sorted(map(list, faces))
        count = len(regions.table) + 1
        all_links = np.array(sorted(links)).reshape(-1, 2)
        np.testing.assert_array_equal(components_of(count, regions.links26)[0], components_of(count, all_links)[0])
        assert len(regions.links26) == count - len(np.unique(components_of(count, all_links)[0]))
        at_border = set(regions.pieces[0].ravel()) | set(regions.pieces[:, :, -1].ravel())
        assert (np.flatnonzero(regions.touches_border) + 1).tolist() == sorted(at_border)


def test_more_contacts_than_the_first_buffer_holds_are_all_found() -> None:
    volume = np.random.default_rng(12).permutation(48**3).astype(np.uint32).reshape(48, 48, 48)
    regions = block_regions(volume, ((True, True),) * 3)
    assert len(regions.adjacency) == 3 * 47 * 48 * 48


def test_a_volume_without_background_or_without_objects_is_described() -> None:
    full, _ = topology_by_blocks(np.full((3, 4, 5), 9, np.uint16), random_grid(np.random.default_rng(13), (3, 4, 5)))
    assert (full.label.tolist(), full.b0.tolist(), full.b2.tolist()) == ([9], [1], [0])
    empty, _ = topology_by_blocks(np.zeros((3, 4, 5), np.uint16), random_grid(np.random.default_rng(14), (3, 4, 5)))
    assert empty.label.tolist() == [] and not empty.fill.any()


def test_missing_contacts_are_noticed() -> None:
    none = np.zeros((0, 2), np.int64)
    with pytest.raises(ValueError, match="some are missing"):
        object_topology(np.array([0, 1], np.uint64), np.array([True, False]), none, none)
