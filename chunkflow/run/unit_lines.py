"""What the journal says of each unit that is done, for a driver of a million blocks in thirty passes.

A line as a mapping takes a kilobyte and more. So the latest lines are mappings, older ones go by `BATCH` as compressed
JSON to a temporary file (in memory while they are few, or where there is no room for a file), and of each unit a number
of 8 bytes stays:

    unit     0    1    2    3    4 ...
    number   17   16   -1   18  300      batch = number // BATCH, row = number % BATCH; -1 is not done

Numbers stand in pages of `PAGE` units, so that a line of a stranger that names unit 10^12 takes one page.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import IntegrityError
from chunkflow.storage.files import no_temporary_files

Line: TypeAlias = Mapping[str, Any]

BATCH = 256
PAGE = 2**14
IN_MEMORY_BYTES = 2**19
SPARE_BYTES = 2**24
"""More of memory, where the folder of temporary files is full or gone: some 150,000 units of a pass."""
KEPT = 4
"""Batches that were asked for last: units finish nearly in order, so neighbours lie in one or two."""


class _Packed:
    """Bytes that are appended: in memory, and in a file without a name once they are many.

    Where the file cannot be written they stay in memory again, up to `SPARE_BYTES`; what is in the file stays there.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._length = 0
        self._in_memory: dict[int, bytes] = {}
        self._held = 0
        self._next = 0

    def append(self, content: bytes) -> int:
        """Returns the number by which they are read.

        Raises
        ------
        DiskFullError : the folder of temporary files has no room, or is gone, and memory has held enough.
        """
        if self._held + len(content) > IN_MEMORY_BYTES:
            try:
                self._to_file()
                place = self._write(content)
            except OSError as error:
                if self._held + len(content) > IN_MEMORY_BYTES + SPARE_BYTES:
                    raise no_temporary_files(error) from error
            else:
                return place
        self._next -= 1  # places in the file are positive
        self._in_memory[self._next] = content
        self._held += len(content)
        return self._next

    def _to_file(self) -> None:
        if self._file is None:
            self._file, name = tempfile.mkstemp(prefix="chunkflow-")
            weakref.finalize(self, os.close, self._file)
            Path(name).unlink()

    def _write(self, content: bytes) -> int:
        """All of it, or nothing that is ever read: what was written of it is written over."""
        assert self._file is not None
        if (written := os.pwrite(self._file, content, self._length)) != len(content):
            raise OSError(errno.ENOSPC, f"{written} of {len(content)} bytes were written", tempfile.gettempdir())
        self._length += written
        return self._length - written

    def read(self, place: int, size: int) -> bytes:
        """Raises IntegrityError where the file does not give back what it took."""
        if place < 0:
            return self._in_memory[place]
        assert self._file is not None
        with suppress(OSError):
            if len(content := os.pread(self._file, size, place)) == size:
                return content
        raise IntegrityError(
            f"a temporary file in {tempfile.gettempdir()} cannot be read back",
            "Check that disk, or set TMPDIR to a folder on another, and run the same command again",
        )


class UnitLines(MutableMapping[int, Line]):
    """Lines by their units. Values are what JSON keeps: sequences come back as lists."""

    def __init__(self) -> None:
        self._pages: dict[int, NDArray[np.int64]] = {}
        self._count = 0
        self._next = 0
        self._latest: list[Line] = []
        self._places: list[tuple[int, int]] = []
        self._packed = _Packed()
        self._read: OrderedDict[int, list[Line]] = OrderedDict()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        """Units in ascending order."""
        for page in sorted(self._pages):
            yield from (page * PAGE + row for row in np.flatnonzero(self._pages[page] >= 0).tolist())

    def __contains__(self, unit: object) -> bool:
        return isinstance(unit, int) and self._number(unit) >= 0

    def __getitem__(self, unit: int) -> Line:
        if unit not in self:
            raise KeyError(unit)
        batch, row = divmod(self._number(unit), BATCH)
        return (self._latest if batch == len(self._places) else self._batch(batch))[row]

    def __setitem__(self, unit: int, line: Line) -> None:
        if unit < 0:
            raise ValueError(f"unit {unit} is negative")
        if len(self._latest) == BATCH:
            self._put_away()  # first: where that is not possible, nothing has changed
        page, row = divmod(unit, PAGE)
        if page not in self._pages:
            self._pages[page] = np.full(PAGE, -1, np.int64)
        self._count += self._number(unit) < 0
        self._pages[page][row] = self._next
        self._next += 1
        self._latest.append(line)

    def __delitem__(self, unit: int) -> None:
        if unit not in self:
            raise KeyError(unit)
        self._pages[unit // PAGE][unit % PAGE] = -1
        self._count -= 1

    def _number(self, unit: int) -> int:
        page = self._pages.get(unit // PAGE)
        return -1 if page is None else int(page[unit % PAGE])

    def _put_away(self) -> None:
        content = zlib.compress(json.dumps(self._latest, separators=(",", ":")).encode(), 1)
        self._places.append((self._packed.append(content), len(content)))
        self._latest = []

    def _batch(self, number: int) -> list[Line]:
        if number in self._read:
            self._read.move_to_end(number)
            return self._read[number]
        start, size = self._places[number]
        found: list[Line] = json.loads(zlib.decompress(self._packed.read(start, size)))
        self._read[number] = found
        if len(self._read) > KEPT:
            self._read.popitem(last=False)
        return found
