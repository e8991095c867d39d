"""What the journal says of each unit that is done, for a driver of a million blocks in thirty passes.

A line as a mapping takes a kilobyte and more. So the latest lines are mappings, older ones go by `BATCH` as compressed
JSON to a temporary file (in memory while it is small), and of each unit a number of 8 bytes stays:

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
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chunkflow.storage.files import disk_full_reported

Line: TypeAlias = Mapping[str, Any]

BATCH = 256
PAGE = 2**14
IN_MEMORY_BYTES = 2**19
KEPT = 4
"""Batches that were asked for last: units finish nearly in order, so neighbours lie in one or two."""


class _Packed:
    """Bytes that are appended: in memory, and in a file without a name once they are many."""

    def __init__(self) -> None:
        self._memory = bytearray()
        self._file: int | None = None
        self._length = 0

    def append(self, content: bytes) -> int:
        """Returns where they begin."""
        start, end = self._length, self._length + len(content)
        if self._file is None and end > IN_MEMORY_BYTES:
            self._file, name = tempfile.mkstemp(prefix="chunkflow-")
            weakref.finalize(self, os.close, self._file)
            Path(name).unlink()
            content, self._memory = bytes(self._memory) + content, bytearray()
        if self._file is None:
            self._memory += content
            self._length = end
            return start
        with disk_full_reported(tempfile.gettempdir()):
            if os.write(self._file, content) != len(content):
                raise OSError(errno.ENOSPC, "no space left", tempfile.gettempdir())
        self._length = end
        return start

    def read(self, start: int, size: int) -> bytes:
        return bytes(self._memory[start : start + size]) if self._file is None else os.pread(self._file, size, start)


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
        page, row = divmod(unit, PAGE)
        if page not in self._pages:
            self._pages[page] = np.full(PAGE, -1, np.int64)
        self._count += self._number(unit) < 0
        self._pages[page][row] = self._next
        self._next += 1
        self._latest.append(line)
        if len(self._latest) == BATCH:
            self._put_away()

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
