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
from collections.abc import Iterator, Mapping, Sequence
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
    """A reader for an array, or None where it is not one of those that are read here, by its metadata."""
    metadata: Mapping[str, Any] = array.metadata.to_dict()
    if metadata["zarr_format"] != 3 or array.ndim != 3 or array.dtype.kind not in "biuf":
        return None
    encoding, codecs = metadata["chunk_key_encoding"], list(metadata["codecs"])
    if encoding["name"] != "default" or metadata.get("storage_transformers"):
        return None
    is_sharded = [codec["name"] for codec in codecs] == ["sharding_indexed"]
    if is_sharded:
        shards = codecs[0]["configuration"]
        if shards.get("index_location", "end") != "end" or not _is_chain(shards["index_codecs"], "crc32c"):
            return None
        codecs = list(shards["codecs"])
    if not _is_chain(codecs, "zstd") or not codecs[1]["configuration"].get("checksum"):
        return None
    return ShardReader(
        path=path,
        shape=triple(array.shape),
        dtype=np.dtype(array.dtype).newbyteorder("<"),
        fill=array.fill_value,
        shard=triple(array.shards or array.chunks),
        chunk=triple(array.chunks),
        is_sharded=is_sharded,
        separator=encoding.get("configuration", {}).get("separator", "/"),
    )


def _is_chain(codecs: Sequence[Mapping[str, Any]], last: str) -> bool:
    """Plain little-endian bytes, and one codec more. Of single bytes no order is told."""
    if [codec["name"] for codec in codecs] != ["bytes", last]:
        return False
    return codecs[0].get("configuration", {}).get("endian", "little") in (None, "little")


def _meeting(box: Box, unit: Triple) -> Iterator[tuple[Triple, Box]]:
    """Positions on a grid of `unit` voxels that a box meets, and the part of the box in each."""
    ranges = (range(a // u, -(-b // u)) for a, b, u in zip(box.start, box.stop, unit, strict=True))
    for position in product(*ranges):
        low = triple(tuple(max(a, p * u) for a, p, u in zip(box.start, position, unit, strict=True)))
        high = triple(tuple(min(b, (p + 1) * u) for b, p, u in zip(box.stop, position, unit, strict=True)))
        yield triple(position), Box(low, high)
