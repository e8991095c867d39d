"""Whole files of an array written straight: the bytes that zarr would write, in half of its time.

A file (see `storage/shards.py`) is made in memory and put in its place at once. All of its chunks are written, those
that hold nothing but the fill value too, so that a file that is missing is known to be lost. Chunks of fill are encoded
once; they are most of a sparse volume.

    array   |-----------------------------|              chunks past the end of the array are absent,
    files   |-----------|-----------|-----------|        one that the end cuts holds fill behind it
    chunks  |--|--|--|--|--|--|--|--|--|--|~~
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.storage.connections import at_once
from chunkflow.storage.files import write_atomic
from chunkflow.storage.layout import file_positions
from chunkflow.storage.shards import ABSENT, CRC_BYTES, Shards, compressed
from chunkflow.storage.stores import ObjectPath


def write_box(shards: Shards, box: Box, data: NDArray[Any]) -> None:
    """Replace all files that hold a box.

    Parameters
    ----------
    box : a union of whole files, or as far as the array goes.
    data : voxels of the box, of the type of the array.

    Raises
    ------
    OSError, StoreError : a file or an object cannot be written.
    """

    def write(position: Triple) -> None:
        start = triple(tuple(p * n for p, n in zip(position, shards.shard, strict=True)))
        stop = triple(tuple(min(a + n, b) for a, n, b in zip(start, shards.shard, box.stop, strict=True)))
        content = _encoded(shards, data[Box(start, stop).relative_to(box.start).slices])
        write_atomic(shards.folder / shards.name(position), content, durable=False)

    positions = list(file_positions(shards.shard, box))
    if isinstance(shards.folder, ObjectPath):
        at_once(write, positions)
    else:
        for position in positions:
            write(position)


def _encoded(shards: Shards, voxels: NDArray[Any]) -> bytes:
    """The content of a file. voxels : what it holds, less than its shape at the end of the array"""
    if not shards.is_sharded:
        return _chunk(shards, voxels)
    counts = triple(tuple(s // c for s, c in zip(shards.shard, shards.chunk, strict=True)))
    index = np.full((*counts, 2), ABSENT, "<u8")
    parts: list[bytes] = []
    offset = 0
    for place in _z_order(counts):
        inside = tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, shards.chunk, strict=True))
        if not voxels[inside].size:
            continue  # past the end of the array
        parts.append(_chunk(shards, voxels[inside]))
        index[place] = offset, len(parts[-1])
        offset += len(parts[-1])
    told = index.tobytes()
    return b"".join([*parts, told, google_crc32c.value(told).to_bytes(CRC_BYTES, "little")])


def _chunk(shards: Shards, voxels: NDArray[Any]) -> bytes:
    if not _holds_anything(voxels, shards.fill) and (fill := shards.encoded_fill()):
        return fill
    if voxels.shape != shards.chunk:
        whole = np.full(shards.chunk, shards.fill, shards.dtype)
        whole[tuple(slice(0, n) for n in voxels.shape)] = voxels
        voxels = whole
    return compressed(np.ascontiguousarray(voxels, shards.dtype), shards.level)


def _holds_anything(voxels: NDArray[Any], fill: Any) -> bool:
    """Whether a voxel differs from the fill value, in its bits: a negative zero is no zero."""
    if fill == 0 and voxels.dtype.kind in "biu":
        return bool(voxels.any())
    if voxels.size and voxels.flat[0] != fill:
        return True
    bits = np.dtype(f"u{voxels.dtype.itemsize}")
    return bool((np.ascontiguousarray(voxels).view(bits) != np.asarray(fill, voxels.dtype).view(bits)).any())


@lru_cache(maxsize=32)
def _z_order(counts: Triple) -> tuple[Triple, ...]:
    """Places of the chunks of a file in the order of zarr: bits of z, y, x in turn, while an axis has some left."""
    bits = [(n - 1).bit_length() for n in counts]

    def digits(place: Triple) -> Iterator[int]:
        for bit in reversed(range(max(bits))):
            yield from (place[axis] >> bit & 1 for axis in (2, 1, 0) if bit < bits[axis])

    places = (triple(place) for place in product(*map(range, counts)))
    return tuple(sorted(places, key=lambda place: tuple(digits(place))))
