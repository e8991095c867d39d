"""A box read straight from shards, for arrays as we write them: zarr 3, zstd with a checksum, an index with a crc32c.

A box with a halo meets up to 27 files and 64 chunks, and zarr's own reader takes about 2 ms for each chunk before it
decodes a byte; in a run without deconvolution that was most of the time. What is read here is what zarr reads, and any
other array is left to zarr.

    file    | chunk | chunk | ...  | index: offset and size of every chunk (8 + 8 bytes), crc32c of that (4 bytes) |

A chunk, or a file, that is absent holds the fill value; in the index both numbers are then 2^64 - 1. Checksums are
verified, so that damage raises and never reads as data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import Zstd
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec
from zarr.codecs.sharding import ShardingCodecIndexLocation
from zarr.core.chunk_key_encodings import DefaultChunkKeyEncoding
from zarr.core.metadata import ArrayV3Metadata

from chunkflow.errors import IntegrityError
from chunkflow.geometry.box import Box, Triple, triple

ABSENT = 2**64 - 1
CRC_BYTES = 4
_ZSTD = Zstd()


@dataclass(frozen=True, slots=True)
class ShardReader:
    """Reads boxes of one (Z, Y, X) array.

    shard, chunk : voxels of a file, and of what it is decoded by; they are the same where there are no shards
    separator : of the parts of a file's name
    """

    path: str
    shape: Triple
    dtype: np.dtype[Any]
    fill: Any
    shard: Triple
    chunk: Triple
    is_sharded: bool
    separator: str

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of a box inside the array, in the byte order of this machine.

        Raises
        ------
        IntegrityError : a file is damaged.
        OSError : a file cannot be read.
        """
        out = np.full(box.shape, self.fill, self.dtype.newbyteorder("="))
        for position, inside in _meeting(box, self.shard):
            name = self.separator.join(("c", *map(str, position)))
            try:
                file = os.open(Path(self.path, name), os.O_RDONLY)
            except FileNotFoundError:
                continue
            try:
                self._read_file(file, name, position, inside, box, out)
            finally:
                os.close(file)
        return out

    def _read_file(self, file: int, name: str, position: Triple, inside: Box, box: Box, out: NDArray[Any]) -> None:
        start = triple(tuple(p * n for p, n in zip(position, self.shard, strict=True)))
        counts = triple(tuple(s // c for s, c in zip(self.shard, self.chunk, strict=True)))
        length = os.fstat(file).st_size
        index = self._index(file, name, length, prod(counts)) if self.is_sharded else np.array([[0, length]], np.uint64)
        for place, part in _meeting(inside.relative_to(start), self.chunk):
            offset, size = (int(v) for v in index[int(np.ravel_multi_index(place, counts))])
            if offset == ABSENT and size == ABSENT:
                continue
            chunk = self._chunk(os.pread(file, size, offset) if offset + size <= length else b"", size, name)
            first = triple(tuple(p * n for p, n in zip(place, self.chunk, strict=True)))
            here = part.relative_to(first)
            there = Box(
                triple(tuple(a + s for a, s in zip(part.start, start, strict=True))),
                triple(tuple(b + s for b, s in zip(part.stop, start, strict=True))),
            ).relative_to(box.start)
            out[there.slices] = chunk[here.slices]

    @staticmethod
    def _index(file: int, name: str, length: int, count: int) -> NDArray[np.uint64]:
        """(chunks, 2) offset and size of every chunk of a shard."""
        size = 16 * count + CRC_BYTES
        content = os.pread(file, size, length - size) if length >= size else b""
        if len(content) != size or google_crc32c.value(content[:-CRC_BYTES]) != int.from_bytes(
            content[-CRC_BYTES:], "little"
        ):
            raise IntegrityError(f"the index of {name} is damaged", "Restore the file, or compute it again")
        return np.frombuffer(content, "<u8", 2 * count).reshape(count, 2)

    def _chunk(self, content: bytes, size: int, name: str) -> NDArray[Any]:
        """The voxels of a chunk."""
        expected = self.dtype.itemsize * prod(self.chunk)
        try:
            if len(content) != size:
                raise ValueError("the file ends before it")
            plain = _ZSTD.decode(content)
        except (RuntimeError, ValueError) as error:
            raise IntegrityError(
                f"a chunk of {name} is damaged ({error})", "Restore it, or compute it again"
            ) from error
        if len(plain) != expected:
            raise IntegrityError(f"a chunk of {name} has {len(plain)} bytes, not {expected}", "Restore the file")
        return np.frombuffer(plain, self.dtype).reshape(self.chunk)


def shard_reader(array: zarr.Array[Any], path: str) -> ShardReader | None:
    """A reader for an array, or None where it is not one of those that are read here."""
    metadata = array.metadata
    if not isinstance(metadata, ArrayV3Metadata) or array.ndim != 3 or metadata.storage_transformers:
        return None
    encoding, codecs = metadata.chunk_key_encoding, metadata.codecs
    if not isinstance(encoding, DefaultChunkKeyEncoding) or array.dtype.kind not in "biuf":
        return None
    unit = triple(array.shards or array.chunks)
    is_sharded = len(codecs) == 1 and isinstance(codecs[0], ShardingCodec)
    if is_sharded:
        outer: Any = codecs[0]
        if outer.index_location is not ShardingCodecIndexLocation.end or not _is_index(outer.index_codecs):
            return None
        codecs = outer.codecs
    if not _is_zstd(codecs):
        return None
    dtype = np.dtype(array.dtype).newbyteorder("<")
    chunk = triple(array.chunks)
    shape = triple(array.shape)
    return ShardReader(path, shape, dtype, metadata.fill_value, unit, chunk, is_sharded, encoding.separator)


def _is_zstd(codecs: Any) -> bool:
    """Plain little-endian bytes, compressed by zstd with a checksum."""
    return (
        len(codecs) == 2
        and isinstance(codecs[0], BytesCodec)
        and (codecs[0].endian is None or codecs[0].endian.value == "little")
        and isinstance(codecs[1], ZstdCodec)
        and codecs[1].checksum
    )


def _is_index(codecs: Any) -> bool:
    return (
        len(codecs) == 2
        and isinstance(codecs[0], BytesCodec)
        and codecs[0].endian is not None
        and codecs[0].endian.value == "little"
        and isinstance(codecs[1], Crc32cCodec)
    )


def _meeting(box: Box, unit: Triple) -> Iterator[tuple[Triple, Box]]:
    """Positions on a grid of `unit` voxels that a box meets, and the part of the box in each."""
    ranges = (range(a // u, -(-b // u)) for a, b, u in zip(box.start, box.stop, unit, strict=True))
    for position in product(*ranges):
        low = triple(tuple(max(a, p * u) for a, p, u in zip(box.start, position, unit, strict=True)))
        high = triple(tuple(min(b, (p + 1) * u) for b, p, u in zip(box.stop, position, unit, strict=True)))
        yield triple(position), Box(low, high)
