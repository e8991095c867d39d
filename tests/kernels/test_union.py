"""Merging pieces: whole-volume scipy.ndimage.label is the truth, on random grids."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, product

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from chunkflow.kernels.components import label_block, volume_index
from chunkflow.kernels.contact import FORWARD, same_value, shell, touching
from chunkflow.kernels.union import FinalIds, KeptValues, Slab, components_of, element_offsets

RANK = {6: 1, 18: 2, 26: 3}


def random_cuts(rng: np.random.Generator, shape: tuple[int, ...]) -> list[list[slice]]:
    """Slices of a random grid, per axis."""
    cuts = [[0, *sorted(rng.choice(np.arange(1, n), min(3, n - 1), replace=False).tolist()), n] for n in shape]
    return [[slice(a, b) for a, b in pairwise(axis)] for axis in cuts]


class MemoryShelf(dict[str, Mapping[str, np.ndarray]]):
    """A shelf that is a dict."""

    def put(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        assert name not in self
        self[name] = dict(arrays)

    def take(self, name: str) -> Mapping[str, np.ndarray]:
        return self[name]


def label_by_blocks(
    values: np.ndarray,
    connectivity: int,
    cuts: list[list[slice]],
    min_size: int = 0,
    excluded: np.ndarray | None = None,
) -> np.ndarray:
    """Label block by block, pair over the seams, merge in slabs of one layer of blocks, relabel.

    excluded : (Z, Y, X) bool, voxels that no object may hold.
    """
    numbers = list(product(*(range(len(axis)) for axis in cuts)))
    boxes = {b: tuple(cuts[i][n] for i, n in enumerate(b)) for b in numbers}
    labelled = {b: label_block(values[box], connectivity) for b, box in boxes.items()}
    shells = {b: shell(labels) for b, (labels, _) in labelled.items()}
    starts = {b: tuple(s.start for s in box) for b, box in boxes.items()}
    layer = len(cuts[1]) * len(cuts[2])
    slabs = []
    for first in range(0, len(numbers), layer):
        here = numbers[first : first + layer]
        offsets = element_offsets(np.array([len(labelled[b][1]) for b in here]))
        inner, ahead = [np.zeros((0, 2), np.int64)], [np.zeros((0, 3), np.int64)]
        for (k, b), d in product(enumerate(here), FORWARD):
            c = (b[0] + d[0], b[1] + d[1], b[2] + d[2])
            if c not in boxes:
                continue
            found = touching(shells[b], shells[c], d, connectivity)
            found = found[same_value(found, labelled[b][1].value, labelled[c][1].value)] - 1
            there = numbers.index(c) - first
            if there < layer:
                inner.append(found + np.array([offsets[k], offsets[there]]))
            else:
                block = np.full(len(found), there - layer)
                ahead.append(np.stack((found[:, 0] + offsets[k], block, found[:, 1]), axis=1))
        tables = [(b, *labelled[b]) for b in here]
        first_voxel = [volume_index(t.first, labels.shape, starts[b], values.shape) for b, labels, t in tables]
        flags = [
            np.isin(np.arange(1, len(t) + 1), np.zeros(0) if excluded is None else labels[excluded[boxes[b]]])
            for b, labels, t in tables
        ]
        slabs.append(
            Slab(
                np.concatenate(first_voxel),
                np.concatenate([t.size for _, _, t in tables]),
                np.concatenate(flags),
                offsets,
                np.concatenate(inner),
                np.concatenate(ahead),
            )
        )
    found = FinalIds(slabs, len(slabs), MemoryShelf(), voxels=values.size, min_size=min_size)
    whole = np.zeros(values.shape, np.uint64)
    for number, ids in found:
        for k, b in enumerate(numbers[number * layer : (number + 1) * layer]):
            offsets = slabs[number].offsets
            final = np.concatenate(([0], ids[offsets[k] : offsets[k + 1]])).astype(np.uint64)
            whole[boxes[b]] = final[labelled[b][0]]
    assert found.count == whole.max(initial=0)
    return whole


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_blocks_give_the_ids_of_the_whole_volume(connectivity: int) -> None:
    rng = np.random.default_rng(connectivity)
    structure = ndimage.generate_binary_structure(3, RANK[connectivity])
    for trial in range(25):
        shape = tuple(rng.integers(1, 15, 3))
        mask = rng.random(shape) < rng.choice([0.08, 0.2, 0.5])
        blocks = label_by_blocks(mask, connectivity, random_cuts(rng, shape))
        np.testing.assert_array_equal(blocks, ndimage.label(mask, structure)[0], err_msg=f"trial {trial}")


def test_blocks_of_one_voxel_give_the_ids_of_the_whole_volume() -> None:
    mask = np.random.default_rng(8).random((4, 5, 6)) < 0.3
    cuts = [[slice(i, i + 1) for i in range(n)] for n in mask.shape]
    np.testing.assert_array_equal(label_by_blocks(mask, 26, cuts), ndimage.label(mask, np.ones((3, 3, 3)))[0])


def test_a_size_filter_sees_whole_objects_and_leaves_no_gaps() -> None:
    rng = np.random.default_rng(9)
    mask = rng.random((11, 12, 13)) < 0.12
    expected, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(expected.ravel())
    kept = np.flatnonzero(sizes >= 4)[1:]
    rank = np.zeros(len(sizes), int)
    rank[kept] = np.arange(1, len(kept) + 1)
    assert 1 < len(kept) < len(sizes) - 1
    for _ in range(5):
        blocks = label_by_blocks(mask, 26, random_cuts(rng, mask.shape), min_size=4)
        np.testing.assert_array_equal(blocks, rank[expected])


def test_objects_with_an_excluded_voxel_go_whole_and_leave_no_gaps() -> None:
    rng = np.random.default_rng(13)
    mask = rng.random((13, 14, 15)) < 0.03
    expected, count = ndimage.label(mask, np.ones((3, 3, 3)))
    excluded = np.ones(mask.shape, bool)
    excluded[1:-1, 1:-1, 1:-1] = False
    gone = np.unique(expected[excluded & mask])
    rank = np.zeros(count + 1, int)
    kept = np.setdiff1d(np.arange(1, count + 1), gone)
    rank[kept] = np.arange(1, len(kept) + 1)
    assert 1 < len(kept) < count
    for _ in range(5):
        blocks = label_by_blocks(mask, 26, random_cuts(rng, mask.shape), excluded=excluded)
        np.testing.assert_array_equal(blocks, rank[expected])


def test_values_are_kept_by_their_voxels_in_all_slabs() -> None:
    rng = np.random.default_rng(14)
    values = np.array([2**64 - 1, 2**63, 3, 4, 7, 8, 2**40], np.uint64)
    for slabs in (1, 2, 7):
        tables = [
            (rng.choice(values, n), rng.integers(1, 5, n), rng.random(n) < 0.03) for n in rng.integers(0, 20, slabs)
        ]
        value, size, excluded = (np.concatenate(columns) for columns in zip(*tables, strict=True))
        expected = [v for v in np.unique(value) if size[value == v].sum() >= 9 and not excluded[value == v].any()]
        kept = KeptValues(tables, slabs, MemoryShelf(), min_size=9)
        assert (kept.count, kept.largest) == (len(expected), max(expected, default=0))
        for number, found in kept:
            np.testing.assert_array_equal(found, np.where(np.isin(tables[number][0], expected), tables[number][0], 0))


def test_touching_input_values_stay_apart_over_seams() -> None:
    rng = np.random.default_rng(10)
    values = rng.integers(0, 4, (9, 8, 10)).astype(np.uint16)
    whole = label_block(values, 26)[0]
    for _ in range(5):
        np.testing.assert_array_equal(label_by_blocks(values, 26, random_cuts(rng, values.shape)), whole)


def test_classes_equal_those_of_scipy_whatever_the_order_of_the_pairs() -> None:
    rng = np.random.default_rng(12)
    for _ in range(20):
        count = int(rng.integers(1, 200))
        pairs = rng.integers(0, count, (int(rng.integers(0, 200)), 2))
        graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
        number, label = connected_components(graph, directed=False)
        classes, found = components_of(count, pairs)
        assert found == number
        assert len(set(zip(classes.tolist(), label.tolist(), strict=True))) == number  # a bijection
        _, first = np.unique(classes, return_index=True)
        assert (np.diff(first) > 0).all()  # numbered by their smallest element
        shuffled = rng.permutation(pairs)[:, ::-1]
        np.testing.assert_array_equal(components_of(count, shuffled)[0], classes)


def test_no_elements_and_no_pairs_are_fine() -> None:
    none = np.zeros((0, 2), np.int64)
    assert components_of(0, none)[1] == 0
    assert components_of(3, none)[0].tolist() == [0, 1, 2]
    assert FinalIds([], 0, MemoryShelf(), voxels=8).count == 0
