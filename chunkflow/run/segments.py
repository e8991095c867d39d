"""The journal in an object store, which cannot append: numbered objects, each put once and never again.

    run/journal.jsonl/00000001    {"event": "segment", "number": 1, "writer": "5e1f...", "begins": true}
                                  lines of the journal
    run/journal.jsonl/00000002    ...

A segment is put on condition that none of its number is there. So of two drivers that both think the output is theirs
one learns at its next put that it is not, and stops; this is what keeps two from writing, whatever clocks say. What a
kill loses is the lines that were not put yet: at most those of 5 s, whose units are computed again, to the same bytes.
`--restart` begins anew with a segment that says so, behind all others, so that a stale driver never finds its number
free. A run of 10 h leaves 10^4 segments at most; reading them takes about 10 ms each, 16 at once.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterator

from chunkflow.errors import IntegrityError, OutputInUseError
from chunkflow.storage.connections import at_once
from chunkflow.storage.retry import Conflict
from chunkflow.storage.stores import ObjectPath


def journal_line(text: str) -> bytes:
    """A line with its CRC."""
    return f"{zlib.crc32(text.encode()):08x} {text}\n".encode()


class Segments:
    """The journal of one output, for its one writer."""

    def __init__(self, folder: ObjectPath) -> None:
        self._folder = folder
        self._writer = uuid.uuid4().hex
        self._next = max(_numbers(folder), default=0) + 1
        self._begins = self._next == 1
        self._waiting: list[bytes] = []
        self._is_stale = False

    def add(self, line: bytes) -> None:
        """Keep a line for the next segment."""
        self._waiting.append(line)

    def put(self) -> None:
        """Put the lines that wait.

        Raises
        ------
        OutputInUseError : another driver has written since; nothing more is put.
        """
        if not self._waiting or self._is_stale:
            return
        header = {"event": "segment", "number": self._next, "writer": self._writer, "begins": self._begins}
        content = journal_line(json.dumps(header)) + b"".join(self._waiting)
        try:
            (self._folder / _name(self._next)).create(content)
        except Conflict:
            self._is_stale = True
            raise OutputInUseError(
                f"another run has taken {self._folder.parent.parent} over since this one began",
                "This one has stopped and writes no more; see chunkflow status for the other",
            ) from None
        self._next, self._begins = self._next + 1, False
        self._waiting.clear()

    def begin_anew(self) -> None:
        """Forget all segments that are there."""
        old = _numbers(self._folder)
        if not old:
            return
        self._begins = True
        self._waiting = [journal_line(json.dumps({"event": "forgotten"}))]
        self.put()
        for number in old:
            (self._folder / _name(number)).unlink()


def segment_lines(folder: ObjectPath) -> Iterator[bytes]:
    """Lines of the segments since the last beginning.

    Raises
    ------
    IntegrityError : one of them is missing.
    """
    numbers = _numbers(folder)
    contents = at_once(lambda number: (folder / _name(number)).read_bytes(), numbers)
    began = [i for i, content in enumerate(contents) if b'"begins": true' in content.partition(b"\n")[0]]
    first = began[-1] if began else 0
    kept = numbers[first:]
    if kept and (not began or kept != list(range(kept[0], kept[0] + len(kept)))):
        raise IntegrityError(f"segments of the journal {folder} are missing", "Restore them, or add --restart")
    for content in contents[first:]:
        yield from content.splitlines(keepends=True)


def _numbers(folder: ObjectPath) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def _name(number: int) -> str:
    return f"{number:08d}"
