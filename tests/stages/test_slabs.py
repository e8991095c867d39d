"""Slabs hold every block once, and what touches lies in one slab or in two that follow each other."""

from __future__ import annotations

import numpy as np
import pytest

from chunkflow.geometry.box import Triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels.contact import FORWARD
from chunkflow.stages import slabs
from chunkflow.stages.slabs import Slabs

SHAPES = [(7, 9, 11), (1, 9, 11), (1, 1, 11), (30, 4, 5), (1, 1, 1)]


@pytest.mark.parametrize("few", [1, 5, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_block_touches_one_beyond_the_next_slab(shape: Triple, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_BLOCKS", few)
    grid = Grid(shape, (2, 2, 3))
    found = Slabs.of(grid)
    slab_of = {block: number for number in range(len(found)) for block in found.blocks(number)}
    assert sorted(slab_of) == list(range(len(grid)))
    for block, slab in slab_of.items():
        for direction in FORWARD:
            neighbour = grid.neighbour(block, direction)
            assert neighbour is None or abs(slab_of[neighbour] - slab) <= 1
    assert all(len(found.blocks(number)) >= min(few, len(grid)) for number in range(len(found) - 1))


def test_elements_are_cut_by_blocks_as_they_were_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_BLOCKS", 1)
    found = Slabs.of(Grid((5, 4, 2), (2, 2, 2)))  # three slabs of two blocks
    counts = [[3, 0], [0, 0], [1, 4]]
    offsets = [found.note(number, of_slab).tolist() for number, of_slab in enumerate(counts)]
    assert offsets == [[0, 3, 3], [0, 0, 0], [0, 1, 5]]
    assert [list(found.spans(number)) for number in range(3)] == [
        [(0, 0, 3), (1, 3, 3)],
        [(2, 0, 0), (3, 0, 0)],
        [(4, 0, 1), (5, 1, 5)],
    ]
    np.testing.assert_array_equal(found.offsets(2), offsets[2])
