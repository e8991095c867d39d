"""Arrays as we write them, and boxes read straight from their files: zarr 3, zstd with a checksum, index with a crc32c.

A box with a halo meets up to 27 files and 64 chunks, and zarr's own reader takes about 2 ms for each chunk before it
decodes a byte; in a run without deconvolution that was most of the time. What is read here is what zarr reads, and any
other array is left to zarr.

    file    | chunk | chunk | ...  | index: offset and size of every chunk (8 + 8 bytes), crc32c of that (4 bytes) |

A chunk, or a file, that is absent holds the fill value; in the index both numbers are then 2^64 - 1. Checksums are
verified, so that damage raises and never reads as data. Of an object store the index and the chunks that are wanted are
asked for, chunks that lie close together in one request, and several shards at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import google_crc32c
import numpy as np
import zarr
from numcodecs import Zstd
from numpy.typing import NDArray

from chunkflow.errors import IntegrityError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.storage.connections import at_once
from chunkflow.storage.stores import ObjectPath, Place, place_of

Part = tuple[int, int]
"""Offset and size of bytes in a file."""

CLOSE_BYTES = 128 * 2**10
"""Gap between chunks of an object over which one request is cheaper than two: about 2 ms at 500 Mbit/s."""
ABSENT = 2**64 - 1
CRC_BYTES = 4
_ZSTD = Zstd()
LARGEST_FILL = 2**20
"""Voxels of the largest chunks whose encoded fill is known: those that we write have at most 2^18."""


class _File(Protocol):
    """A file or an object that is there."""

    def whole(self) -> bytes:
        """All of it."""

    def end(self, size: int) -> tuple[bytes, int]:
        """The last bytes, and the length of the file."""

    def parts(self, parts: Sequence[Part]) -> list[bytes]:
        """Bytes of some parts inside the file."""


class _LocalFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def whole(self) -> bytes:
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def end(self, size: int) -> tuple[bytes, int]:
        length = os.fstat(self._descriptor).st_size
        return os.pread(self._descriptor, size, max(0, length - size)), length

    def parts(self, parts: Sequence[Part]) -> list[bytes]:
        return [os.pread(self._descriptor, size, offset) for offset, size in parts]


class _Object:
    def __init__(self, path: ObjectPath) -> None:
        self._path = path

    def whole(self) -> bytes:
        return self._path.read_bytes()

    def end(self, size: int) -> tuple[bytes, int]:
        return self._path.read_end(size)

    def parts(self, parts: Sequence[Part]) -> list[bytes]:
        found: dict[Part, bytes] = {}
        for span in _spans(parts):
            start, stop = span[0][0], max(offset + size for offset, size in span)
            content = self._path.read_range(start, stop - start)
            found |= {(o, n): content[o - start : o - start + n] for o, n in span}
        return [found[part] for part in parts]


def _spans(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts by offset, those that lie close together side by side."""
    spans: list[list[Part]] = []
    stop = 0
    for offset, size in sorted(parts):
        if not spans or offset > stop + CLOSE_BYTES:
            spans.append([])
        spans[-1].append((offset, size))
        stop = max(stop, offset + size)
    return spans


@dataclass(frozen=True, slots=True)
class Shards:
    """The files of one (Z, Y, X) array.

    dtype : little-endian, as stored
    shard, chunk : voxels of a file, and of what it is decoded by; they are the same where there are no shards
    separator : of the parts of a file's name
    level : of zstd
    """

    folder: Place
    shape: Triple
    dtype: np.dtype[Any]
    fill: Any
    shard: Triple
    chunk: Triple
    is_sharded: bool
    separator: str
    level: int

    def encoded_fill(self) -> bytes:
        """A chunk that holds nothing but the fill value, as we write it; nothing where that would be large."""
        size = prod(self.chunk)
        return _encoded_fill(self.dtype, self.fill, size, self.level) if size <= LARGEST_FILL else b""

    def read(self, box: Box) -> NDArray[Any]:
        """Voxels of a box inside the array, in the byte order of this machine.

        Raises
        ------
        IntegrityError : a file is damaged.
        OSError, StoreError : a file or an object cannot be read.
        """
        dtype = self.dtype.newbyteorder("=")
        # Zeros come from the system as they are, and pages that no chunk is copied to are never touched.
        out = np.zeros(box.shape, dtype) if _is_zero(self.fill) else np.full(box.shape, self.fill, dtype)
        folder, files = self.folder, list(_meeting(box, self.shard))
        if isinstance(folder, ObjectPath):
            at_once(lambda file: self._read_object(folder, *file, box, out), files)
        else:
            for position, inside in files:
                self._read_local(folder, position, inside, box, out)
        return out

    def _read_local(self, folder: Path, position: Triple, inside: Box, box: Box, out: NDArray[Any]) -> None:
        name = self.name(position)
        try:
            file = os.open(folder / name, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            self._read_file(_LocalFile(file), name, position, inside, box, out)
        finally:
            os.close(file)

    def _read_object(self, folder: ObjectPath, position: Triple, inside: Box, box: Box, out: NDArray[Any]) -> None:
        name = self.name(position)
        with suppress(FileNotFoundError):  # and no other error: see `storage/retry.py`
            self._read_file(_Object(folder / name), name, position, inside, box, out)

    def name(self, position: Triple) -> str:
        """Of the file at a position on the grid of files."""
        return self.separator.join(("c", *map(str, position)))

    def _read_file(self, file: _File, name: str, position: Triple, inside: Box, box: Box, out: NDArray[Any]) -> None:
        start = triple(tuple(p * n for p, n in zip(position, self.shard, strict=True)))
        part = inside.relative_to(start)
        origin = [b - s for b, s in zip(box.start, start, strict=True)]
        z, y, x = (_cuts(*along) for along in zip(part.start, part.stop, self.chunk, origin, strict=True))
        places = list(product(z, y, x))
        wanted = self._chunks(file, name, [(a.chunk, b.chunk, c.chunk) for a, b, c in places])
        fill = self.encoded_fill()
        for (a, b, c), content in zip(places, wanted, strict=True):
            if content is None or content[0] == fill:
                continue
            out[a.there, b.there, c.there] = self._chunk(*content, name)[a.here, b.here, c.here]

    def _chunks(self, file: _File, name: str, places: Sequence[Triple]) -> list[tuple[bytes, int] | None]:
        """Bytes of chunks, and how many they should be; None for those that are absent."""
        if not self.is_sharded:
            content = file.whole()
            return [(content, len(content))]
        counts = triple(tuple(s // c for s, c in zip(self.shard, self.chunk, strict=True)))
        index, length = self._index(file, name, prod(counts))
        _, rows, columns = counts
        entries = index.tolist()
        asked = [tuple(entries[(z * rows + y) * columns + x]) for z, y, x in places]
        inside = [part for part in asked if part[0] + part[1] <= length]
        try:
            read = dict(zip(inside, file.parts(inside), strict=True))
        except FileNotFoundError as error:  # its index was there a moment ago: not a file that never was
            raise IntegrityError(f"{name} was deleted while it was read", "Run the same command again") from error
        return [None if part == (ABSENT, ABSENT) else (read.get(part, b""), part[1]) for part in asked]

    @staticmethod
    def _index(file: _File, name: str, count: int) -> tuple[NDArray[np.uint64], int]:
        """(chunks, 2) offset and size of every chunk of a shard, and the length of the file."""
        size = 16 * count + CRC_BYTES
        content, length = file.end(size)
        if len(content) != size or google_crc32c.value(content[:-CRC_BYTES]) != int.from_bytes(
            content[-CRC_BYTES:], "little"
        ):
            raise IntegrityError(f"the index of {name} is damaged", "Restore the file, or compute it again")
        return np.frombuffer(content, "<u8", 2 * count).reshape(count, 2), length

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


def compressed(voxels: NDArray[Any], level: int) -> bytes:
    """Voxels as a zstd frame with a checksum."""
    return bytes(Zstd(level=level, checksum=True).encode(voxels))


def _is_zero(fill: Any) -> bool:
    """Whether all bits of a fill value are 0: those of a negative zero are not."""
    return not np.asarray(fill).tobytes().strip(b"\0")


@lru_cache(maxsize=32)
def _encoded_fill(dtype: np.dtype[Any], fill: Any, size: int, level: int) -> bytes:
    return compressed(np.full(size, fill, dtype), level)


def shards_of(array: zarr.Array[Any], folder: str | Place) -> Shards | None:
    """The files of an array, or None where its metadata say that it is not one of those that we write."""
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
    return Shards(
        folder=place_of(folder),
        shape=triple(array.shape),
        dtype=np.dtype(array.dtype).newbyteorder("<"),
        fill=array.fill_value,
        shard=triple(array.shards or array.chunks),
        chunk=triple(array.chunks),
        is_sharded=is_sharded,
        separator=encoding.get("configuration", {}).get("separator", "/"),
        level=int(codecs[1]["configuration"].get("level", 0)),
    )


def _is_chain(codecs: Sequence[Mapping[str, Any]], last: str) -> bool:
    """Plain little-endian bytes, and one codec more. Of single bytes no order is told."""
    if [codec["name"] for codec in codecs] != ["bytes", last]:
        return False
    return codecs[0].get("configuration", {}).get("endian", "little") in (None, "little")


class _Cut(NamedTuple):
    """What a chunk has of a box along one axis: its position, where that goes, and where it is in the chunk."""

    chunk: int
    there: slice
    here: slice


def _cuts(start: int, stop: int, unit: int, origin: int) -> list[_Cut]:
    """The chunks of `unit` voxels that an interval meets; it goes to an array that begins at `origin`."""
    found = []
    for chunk in range(start // unit, -(-stop // unit)):
        first = chunk * unit
        low, high = max(start, first), min(stop, first + unit)
        found.append(_Cut(chunk, slice(low - origin, high - origin), slice(low - first, high - first)))
    return found


def _meeting(box: Box, unit: Triple) -> Iterator[tuple[Triple, Box]]:
    """Positions on a grid of `unit` voxels that a box meets, and the part of the box in each."""
    ranges = (range(a // u, -(-b // u)) for a, b, u in zip(box.start, box.stop, unit, strict=True))
    for position in product(*ranges):
        low = triple(tuple(max(a, p * u) for a, p, u in zip(box.start, position, unit, strict=True)))
        high = triple(tuple(min(b, (p + 1) * u) for b, p, u in zip(box.stop, position, unit, strict=True)))
        yield triple(position), Box(low, high)
