"""Small arrays that a unit of work leaves behind, one file each: compressed, with a checksum, never pickled.

    "CFR2", zstd( length of header as 8 bytes, header as JSON, the arrays' bytes one after another )

The header maps each name to dtype, shape and offset, and says under which name the record was written, so that a file
that was put in the place of another is not taken for it. Files are written whole or not at all. Made for records of
bytes to tens of megabytes; a record is read whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, overload

import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray

from chunkflow.errors import IntegrityError
from chunkflow.storage.files import remove_tree, write_atomic
from chunkflow.storage.stores import ObjectPath, Place, listed_below

MAGIC = b"CFR2"
PLACE = "/"
CODEC = Zstd(level=1, checksum=True)

Arrays = Mapping[str, NDArray[Any]]


def write_record(path: Place, arrays: Arrays) -> int:
    """Write a record and return the size of its file in bytes. Equal arrays at equal names give equal files."""
    header: dict[str, Any] = {PLACE: place_name(path)}
    body, offset = [], 0
    for name, value in arrays.items():
        array = np.ascontiguousarray(value)
        header[name] = [array.dtype.str, list(np.shape(value)), offset]
        body.append(array.tobytes())
        offset += array.nbytes
    text = json.dumps(header).encode()
    content = MAGIC + bytes(CODEC.encode(len(text).to_bytes(8, "little") + text + b"".join(body)))
    write_atomic(path, content, durable=False)  # the journal knows its size, and a unit can be run again
    return len(content)


def read_record(path: Place) -> dict[str, NDArray[Any]]:
    """The arrays of a record.

    Raises
    ------
    IntegrityError : the file is missing or damaged, or was written as another record.
    """
    try:
        content = path.read_bytes()
        if content[:4] != MAGIC:
            raise ValueError("not a record")
        plain = bytes(CODEC.decode(content[4:]))
        length = int.from_bytes(plain[:8], "little")
        header = json.loads(plain[8 : 8 + length])
        place = header.pop(PLACE)
        if place != place_name(path):
            raise ValueError(f"it was written as {place}")
        return {name: _array(plain, 8 + length + offset, *kind) for name, (*kind, offset) in header.items()}
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise IntegrityError(f"the record {path} cannot be read ({error})", "Run the command again") from error


def place_name(path: Place) -> str:
    """The end of a path: pass, thousand and number of a unit. What is above may be moved."""
    return "/".join(path.parts[-3:])


def _array(plain: bytes, start: int, dtype: str, shape: list[int]) -> NDArray[Any]:
    count = int(np.prod(shape))
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of shape {shape}")
    return np.frombuffer(plain, np.dtype(dtype), count, start).reshape(shape)


class RecordFolder(Sequence[Arrays]):
    """The records of a pass as a sequence that reads one file at a time."""

    def __init__(self, folder: Place, count: int) -> None:
        self.folder = folder
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Arrays: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Arrays]: ...
    def __getitem__(self, index: int | slice) -> Arrays | Sequence[Arrays]:
        if isinstance(index, slice):
            return [self[i] for i in range(self._count)[index]]
        if not 0 <= index < self._count:
            raise IndexError(index)
        return read_record(record_path(self.folder, index))


def record_path(folder: Place, index: int) -> Place:
    """Where the record of a unit lies: a thousand to a folder, so that no folder holds a million files."""
    return folder / f"{index // 1000:06d}" / f"{index}.rec"


def merged_path(folder: Place) -> Place:
    """Where the values of a merge lie."""
    return folder / "merged.rec"


def part_paths(folder: Place) -> list[Place]:
    """The records of units, and of parts of a merge, that there are, by name."""
    if isinstance(folder, ObjectPath):
        names = (name for name, _ in listed_below(folder) if len(name.parts) == 2 and name.suffix == ".rec")
        return [folder / name for name in sorted(names)]
    return [*sorted(folder.glob("*/*.rec"))]


class RecordShelf:
    """Records under names of one's own, in a folder that is gone in the end."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder

    def put(self, name: str, arrays: Arrays) -> None:
        """Put arrays down under a name that is not taken yet."""
        write_record(self._folder / f"{name}.rec", arrays)

    def take(self, name: str) -> Arrays:
        """The arrays under a name."""
        return read_record(self._folder / f"{name}.rec")


@contextmanager
def shelf_in(folder: Place) -> Iterator[RecordShelf]:
    """A shelf inside a folder of records, made when it is first used. What a killed process left is emptied first."""
    path = folder / "shelf"
    remove_tree(path)
    try:
        yield RecordShelf(path)
    finally:
        remove_tree(path)
