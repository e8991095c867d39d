"""Decoded blocks of volumes, kept while there is room: patches overlap, and decoding takes longer than copying.

Blocks lie on a lattice of whole chunks. What was used longest ago goes first. Called from several threads: two that
miss the same block both read it, which costs time and changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import product
from math import prod
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.kernels import blend
from chunkflow.storage.volume import Volume

SMALLEST_BLOCK = 2**15
"""Voxels; smaller chunks are taken several at a time."""


class BlockCache:
    """Volumes read through a bounded memory. limit : bytes"""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._blocks: OrderedDict[tuple[str, tuple[int, ...], Triple], NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    def read(self, volume: Volume, box: Box) -> NDArray[Any]:
        """Voxels of a box inside the volume."""
        side = _lattice(volume)
        result = np.empty(box.shape, volume.dtype)
        spans = (range(a // s, -(-b // s)) for a, b, s in zip(box.start, box.stop, side, strict=True))
        for position in product(*spans):
            start = triple(tuple(p * s for p, s in zip(position, side, strict=True)))
            stop = triple(tuple(a + s for a, s in zip(start, side, strict=True)))
            block_box = Box(start, stop).clip(volume.box)
            common = block_box.clip(box)
            block = self._block(volume, triple(position), block_box)
            result[common.relative_to(box.start).slices] = block[common.relative_to(block_box.start).slices]
        return result

    def read_mirrored(self, volume: Volume, box: Box, inside: Box) -> NDArray[Any]:
        """Voxels of any box, those beyond `inside` mirrored at its faces (the border voxel is not repeated)."""
        if inside.contains(box):
            return self.read(volume, box)
        spans = [
            _span(a - low, b - low, high - low)
            for a, b, low, high in zip(box.start, box.stop, inside.start, inside.stop, strict=True)
        ]
        first, last = triple(tuple(a for a, _ in spans)), triple(tuple(b for _, b in spans))
        read = self.read(volume, Box(first, last).relative_to(triple(tuple(-v for v in inside.start))))
        return np.asarray(blend.cut_patch(read, first, box.relative_to(inside.start).start, box.shape, inside.shape))

    def _block(self, volume: Volume, position: Triple, box: Box) -> NDArray[Any]:
        key = (volume.path, volume.at, position)
        with self._lock:
            found = self._blocks.get(key)
            if found is not None:
                self._blocks.move_to_end(key)
                return found
        block = volume.read(box)
        with self._lock:
            if key not in self._blocks:
                self._blocks[key] = block
                self._bytes += block.nbytes
            while self._bytes > self._limit and self._blocks:
                self._bytes -= self._blocks.popitem(last=False)[1].nbytes
        return block


def _lattice(volume: Volume) -> Triple:
    """Voxels of a block: the chunk, doubled along its shortest sides until it is worth a read."""
    side = list(volume.layout.chunk)
    while prod(side) < SMALLEST_BLOCK:
        open_axes = [axis for axis in range(3) if side[axis] < volume.shape[axis]]
        if not open_axes:
            break
        side[min(open_axes, key=lambda axis: side[axis])] *= 2
    return side[0], side[1], side[2]


def _span(start: int, stop: int, length: int) -> tuple[int, int]:
    """What a mirrored span of an axis is made of."""
    low, high = max(0, start), min(length, stop)
    if start < 0:
        low, high = 0, max(high, 1 - start)
    if stop > length:
        low, high = min(low, 2 * length - 1 - stop), length
    return (max(0, low), min(high, length)) if low < high else (0, length)
