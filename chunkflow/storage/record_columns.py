"""Records that are too large to be held: their arrays are read in slices, from a plain copy in a temporary file.

    record, compressed --> checked and unpacked, 4 MiB at a time --> a file without a name --> column[start:stop]

A small record is read whole instead. Either way what is had are columns: `len`, `dtype` and slices of rows, as arrays
have them. The file is gone with its last column. In an object store the compressed record is held while it is unpacked.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from io import BytesIO
from math import prod
from typing import Any, Protocol
from weakref import finalize

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chunkflow.errors import DiskFullError, IntegrityError
from chunkflow.storage.files import no_temporary_files, size_of
from chunkflow.storage.records import MAGIC, PLACE, place_name, read_record
from chunkflow.storage.stores import ObjectPath, Place

HELD_BYTES = 2**22
"""Of a record, compressed, that is read whole."""
_AT_ONCE = 2**22


class Column(Protocol):
    """Rows of one kind: an array, or what reads slices of one."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


class PlainFile:
    """A temporary file without a name, which is gone with the object.

    Raises
    ------
    DiskFullError : there is no room for it.
    """

    def __init__(self) -> None:
        try:
            self.number, name = tempfile.mkstemp(prefix="chunkflow-")
            finalize(self, os.close, self.number)
            os.unlink(name)
        except OSError as error:
            raise no_temporary_files(error) from error

    def append(self, piece: bytes) -> None:
        """Write behind what is there."""
        try:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self.number, rest) :]
        except OSError as error:
            raise no_temporary_files(error) from error

    def read(self, start: int, count: int) -> bytes:
        """Bytes from a place on."""
        return os.pread(self.number, count, start)

    @property
    def size(self) -> int:
        """In bytes."""
        return os.fstat(self.number).st_size


class FileColumn:
    """An array in a file, read slice by slice."""

    def __init__(self, file: PlainFile, start: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._file, self._start, self.dtype, self.shape = file, start, dtype, shape
        self._row = dtype.itemsize * prod(shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(len(self))
        count = max(0, stop - start)
        data = self._file.read(self._start + start * self._row, count * self._row)
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


class Cut:
    """Rows of a column, with a number added where one is given."""

    def __init__(self, column: Column, start: int, stop: int, *, add: int = 0) -> None:
        self._column, self._start, self._stop, self._add = column, start, stop, add
        self.dtype = column.dtype

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(len(self))
        found = self._column[self._start + start : self._start + max(start, stop)]
        return found + self._add if self._add else found


def record_columns(path: Place) -> Mapping[str, Column]:
    """The arrays of a record, in memory where it is small; none of them without rows and columns.

    Raises
    ------
    IntegrityError : the file is missing or damaged, or was written as another record.
    DiskFullError : there is no room for temporary files.
    """
    if (size_of(path) or 0) <= HELD_BYTES:
        return read_record(path)
    plain = PlainFile()
    try:
        _unpack(path, plain)
        return _columns(path, plain)
    except DiskFullError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise IntegrityError(f"the record {path} cannot be read ({error})", "Run the command again") from error


def _unpack(path: Place, plain: PlainFile) -> None:
    with BytesIO(path.read_bytes()) if isinstance(path, ObjectPath) else path.open("rb") as packed:
        if packed.read(len(MAGIC)) != MAGIC:
            raise ValueError("not a record")
        with pa.CompressedInputStream(pa.PythonFile(packed, "r"), "zstd") as stream:
            while piece := stream.read(_AT_ONCE):
                plain.append(piece)


def _columns(path: Place, plain: PlainFile) -> dict[str, Column]:
    length = int.from_bytes(plain.read(0, 8), "little")
    header = json.loads(plain.read(8, length))
    place = header.pop(PLACE)
    if place != place_name(path):
        raise ValueError(f"it was written as {place}")
    found: dict[str, Column] = {}
    for name, (kind, shape, offset) in header.items():
        dtype = np.dtype(kind)
        if min(shape) < 0 or 8 + length + offset + dtype.itemsize * prod(shape) > plain.size:
            raise ValueError(f"an array of shape {shape}")
        found[name] = FileColumn(plain, 8 + length + offset, dtype, tuple(shape))
    return found
