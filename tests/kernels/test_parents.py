"""Pairs of object and region against brute force, and what is chosen of them."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np

from chunkflow.kernels.parents import block_shared, merge_shared, parents_of

SHAPE = (7, 13, 11)


def volumes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 2, 9, 2**40], np.uint64), (3, 5, 4)).repeat(3, 0).repeat(3, 1).repeat(3, 2)
    regions = rng.choice(np.array([0, 1, 4, 255], np.uint8), (2, 4, 3)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    cut = tuple(slice(n) for n in SHAPE)
    return labels[cut], regions[cut]


def test_every_pair_is_counted_but_nothing_with_nothing() -> None:
    labels, regions = volumes(1)
    found = block_shared(labels, regions)
    pairs = list(zip(found.item.tolist(), found.region.tolist(), strict=True))
    values = product(np.unique(labels).tolist(), np.unique(regions).tolist())
    expected = {(a, b): int(((labels == a) & (regions == b)).sum()) for a, b in values if a or b}
    assert dict(zip(pairs, found.voxels.tolist(), strict=True)) == {p: n for p, n in expected.items() if n}
    assert pairs == sorted(pairs)


def test_any_blocks_in_any_order_give_the_same_pairs() -> None:
    rng = np.random.default_rng(2)
    labels, regions = volumes(2)
    whole = block_shared(labels, regions)
    for _ in range(5):
        cuts = [[0, *sorted(rng.choice(np.arange(1, n), 2, replace=False).tolist()), n] for n in SHAPE]
        boxes = list(product(*([slice(a, b) for a, b in pairwise(axis)] for axis in cuts)))
        parts = [block_shared(labels[boxes[k]], regions[boxes[k]]) for k in rng.permutation(len(boxes))]
        merged = merge_shared([merge_shared(parts[5:]), merge_shared(parts[:5])])
        for name in ("item", "region", "voxels"):
            assert getattr(merged, name).tobytes() == getattr(whole, name).tobytes()


def test_an_item_belongs_where_most_of_it_lies() -> None:
    rows = [
        *[(1, 0, 40), (1, 7, 41), (1, 3, 20)],  # most in 7, though more lies elsewhere
        *[(2, 9, 10), (2, 4, 10), (2, 0, 10)],  # equal: the smaller region, and any before outside
        *[(3, 0, 11), (3, 5, 10)],  # most outside
        (6, 0, 3),
        (8, 2, 1),
    ]
    item, region, voxels = (np.array(column) for column in zip(*rows, strict=True))
    found = parents_of(item.astype(np.uint64), region.astype(np.uint64), voxels)
    assert found.item.tolist() == [1, 2, 3, 6, 8]
    assert found.region.tolist() == [7, 4, 0, 0, 2]
    assert found.inside.tolist() == [41, 10, 11, 3, 1]
    assert found.total.tolist() == [101, 30, 21, 3, 1]
    assert found.places.tolist() == [3, 3, 2, 1, 1]


def test_nothing_has_no_parents() -> None:
    nothing = merge_shared([block_shared(np.zeros((2, 2, 2), np.uint32), np.zeros((2, 2, 2), np.uint8))])
    assert len(nothing.item) == 0
    assert len(parents_of(nothing.item, nothing.region, nothing.voxels).item) == 0
