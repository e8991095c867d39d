"""Neighbourhoods read by rows against neighbours read one by one."""

from __future__ import annotations

import numpy as np
import pytest

from chunkflow.kernels.decisions import NEIGHBOURS
from chunkflow.kernels.neighbourhoods import SPARE_BYTES, lowest_bits, row_offsets


@pytest.mark.parametrize("shape", [(3, 3, 3), (4, 3, 5), (7, 9, 8)])
def test_every_voxel_inside_has_the_lowest_bits_of_its_26_neighbours_in_their_order(
    shape: tuple[int, int, int],
) -> None:
    size = int(np.prod(shape))
    state = np.random.default_rng(size).integers(0, 256, size + SPARE_BYTES).astype(np.uint8)[:size]
    strides = np.array([shape[1] * shape[2], shape[2], 1], np.int64)
    offsets = NEIGHBOURS @ strides
    for z, y, x in np.ndindex(*(n - 2 for n in shape)):
        voxel = int(strides @ (z + 1, y + 1, x + 1))
        expected = sum(int(state[voxel + offset] & 1) << i for i, offset in enumerate(offsets))
        assert lowest_bits(state, voxel, row_offsets(strides)) == expected
