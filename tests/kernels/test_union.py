"""Merging pieces: whole-volume scipy.ndimage.label is the truth, on random grids."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from chunkflow.kernels.components import label_block, volume_index
from chunkflow.kernels.contact import FORWARD, same_value, shell, touching
from chunkflow.kernels.union import components_of, element_offsets, final_ids

RANK = {6: 1, 18: 2, 26: 3}


def random_cuts(rng: np.random.Generator, shape: tuple[int, ...]) -> list[list[slice]]:
    """Slices of a random grid, per axis."""
    cuts = [[0, *sorted(rng.choice(np.arange(1, n), min(3, n - 1), replace=False).tolist()), n] for n in shape]
    return [[slice(a, b) for a, b in pairwise(axis)] for axis in cuts]


def label_by_blocks(values: np.ndarray, connectivity: int, cuts: list[list[slice]], min_size: int = 0) -> np.ndarray:
    """Label block by block, pair over the seams, merge, relabel."""
    numbers = list(product(*(range(len(axis)) for axis in cuts)))
    boxes = {b: tuple(cuts[i][n] for i, n in enumerate(b)) for b in numbers}
    labelled = {b: label_block(values[box], connectivity) for b, box in boxes.items()}
    shells = {b: shell(labels) for b, (labels, _) in labelled.items()}
    offsets = dict(zip(numbers, element_offsets(np.array([len(t) for _, t in labelled.values()])), strict=False))
    pairs = [np.zeros((0, 2), np.int64)]
    for b, d in product(numbers, FORWARD):
        c = (b[0] + d[0], b[1] + d[1], b[2] + d[2])
        if c in boxes:
            found = touching(shells[b], shells[c], d, connectivity)
            found = found[same_value(found, labelled[b][1].value, labelled[c][1].value)]
            pairs.append(found - 1 + [offsets[b], offsets[c]])
    starts = {b: tuple(s.start for s in box) for b, box in boxes.items()}
    ids = final_ids(
        np.concatenate(
            [volume_index(t.first, labels.shape, starts[b], values.shape) for b, (labels, t) in labelled.items()]
        ),
        np.concatenate([t.size for _, t in labelled.values()]),
        np.concatenate(pairs),
        min_size=min_size,
    )
    whole = np.zeros(values.shape, np.uint64)
    for b, (labels, table) in labelled.items():
        final = np.concatenate(([0], ids[offsets[b] : offsets[b] + len(table)])).astype(np.uint64)
        whole[boxes[b]] = final[labels]
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
    assert final_ids(np.zeros(0, np.int64), np.zeros(0, np.int64), none).tolist() == []
