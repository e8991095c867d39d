"""Where the lines of what a run says are kept: a file that grows, or objects of a store that are put whole.

    OUT/run/log.jsonl                      a file; each line is appended at once
    OUT/run/log.jsonl/00000003-5e1f09a2    objects; the third, by whoever drew that name

A store cannot append, so the object of a run is put again with all of its lines: when lines wait and the last put was
`SECONDS` ago, and at the end. What a kill loses is the lines since. An object that has grown to `OBJECT_BYTES` is left
and the next one begun, so a put is small however long a run goes on. No put is on condition, as nobody else's name is
like it; a driver that was taken over goes on with its own. Objects of earlier runs go when there are more than `KEPT`.

What is said must never end a run: no room, no rights and no answer lose lines, and nothing else.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic

from chunkflow.errors import StoreError
from chunkflow.storage.connections import at_once
from chunkflow.storage.retry import patient
from chunkflow.storage.stores import ObjectPath, Place, delete

FILE = "log.jsonl"
MOST_BYTES = 16 * 2**20
"""Of a folder, or of one run in a store: a run that fails every second for a year must not fill the disk."""
OBJECT_BYTES = 2**18
SECONDS = 5.0
"""Between puts: as long as lines of the journal wait (`run/segments.py`)."""
PATIENCE_SECONDS, PAUSE_SECONDS = 10.0, 60.0
"""For one put, and until the next is tried where one failed."""
KEPT = 32


class FileLog:
    """Lines appended to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, line: str) -> None:
        """Keep a line."""
        with suppress(OSError), self._path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end >= MOST_BYTES:
                return
            if end and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                line = f"\n{line}"  # a kill tore the last one
            file.write(f"{line}\n".encode())

    def tick(self) -> None:
        """Nothing waits."""

    def flush(self) -> None:
        """Nothing waits."""


class ObjectLog:
    """Lines of one run in objects below a prefix."""

    def __init__(self, folder: ObjectPath, clock: Callable[[], float] = monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._writer = uuid.uuid4().hex[:8]
        self._number = 1
        with suppress(StoreError, OSError), patient(PATIENCE_SECONDS):
            self._number = _make_room(folder)
        self._lines = bytearray()
        self._put = 0  # bytes of them that are in the store
        self._total = 0
        self._next = clock()

    def add(self, line: str) -> None:
        """Keep a line, and put it where it is time to."""
        if self._total < MOST_BYTES:
            self._lines += f"{line}\n".encode()
            self._total += len(line) + 1
        self.tick()

    def tick(self) -> None:
        """Put what waits, where it is time to."""
        if self._clock() >= self._next:
            self.flush()

    def flush(self) -> None:
        """Put what waits."""
        if len(self._lines) == self._put:
            return
        try:
            with patient(PATIENCE_SECONDS):
                (self._folder / f"{self._number:08d}-{self._writer}").write_bytes(bytes(self._lines))
        except (StoreError, OSError):
            self._next = self._clock() + PAUSE_SECONDS
            return
        self._put, self._next = len(self._lines), self._clock() + SECONDS
        if self._put >= OBJECT_BYTES:
            self._number, self._put = self._number + 1, 0
            self._lines.clear()


def log_in(folder: Place) -> FileLog | ObjectLog:
    """The log of a run's folder, for its one run."""
    path = folder / FILE
    return ObjectLog(path) if isinstance(path, ObjectPath) else FileLog(path)


def log_lines(folder: Place) -> Iterator[bytes]:
    """The lines that a run's folder keeps, of all its runs, oldest first."""
    path = folder / FILE
    if isinstance(path, ObjectPath):
        for content in at_once(ObjectPath.read_bytes, _objects(path)):
            yield from content.splitlines()
    elif path.is_file():
        yield from path.read_bytes().splitlines()


def _objects(folder: ObjectPath) -> list[ObjectPath]:
    return sorted(
        (path for path in folder.iterdir() if path.name.partition("-")[0].isdecimal()), key=lambda path: path.name
    )


def _make_room(folder: ObjectPath) -> int:
    """Delete all but the last objects; returns the number of the next."""
    there = _objects(folder)
    delete(there[:-KEPT])
    return int(there[-1].name.partition("-")[0]) + 1 if there else 1
