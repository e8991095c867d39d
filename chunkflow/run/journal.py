"""What is safely on disk: an append-only file with one writer, the driver.

    8a2f01c3 {"event": "unit", "pass": "3f...", "unit": 17, "objects": [48211], "record": 512, ...}

Each line carries its CRC. A unit is done when its line is here and its files have the sizes that the line names, so a
kill at any moment leaves a state that the next run can read: a torn tail is cut when the journal is opened. Lines are
written at once and synced in batches; what a batch loses is computed again, to the same bytes.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Self

SYNC_LINES = 32
SYNC_SECONDS = 1.0


@dataclass(slots=True)
class PassState:
    """What the journal knows of one pass.

    done : objects' sizes and record size of each unit
    failed : report of each unit that was set aside
    finished : all units were done at some time, and the records are here
    dropped : arrays that were deleted since
    """

    done: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    failed: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    finished: bool = False
    dropped: set[str] = field(default_factory=set)


class Journal:
    """The journal of one output folder, with the state that its lines add up to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passes: dict[str, PassState] = {}
        self.starts: list[Mapping[str, Any]] = []
        self.published: dict[str, str] = {}
        self.published_passes: dict[str, str] = {}  # fingerprints by name, of the result that is published
        self.is_published = False
        self.publishing: dict[str, str] | None = None
        self.ended: Mapping[str, Any] | None = None
        self._file: Any = None
        self._unsynced = 0
        self._synced_at = monotonic()

    @classmethod
    def read(cls, path: Path) -> Self:
        """The state in a journal, for looking only."""
        journal = cls(path)
        for event in _valid_lines(path)[0]:
            journal._apply(event)
        return journal

    @classmethod
    def open(cls, path: Path) -> Self:
        """The journal for writing; cuts a torn tail. The caller holds the output's lock."""
        journal = cls(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        events, length = _valid_lines(path)
        for event in events:
            journal._apply(event)
        journal._file = path.open("ab")
        journal._file.truncate(length)
        return journal

    @property
    def locations(self) -> dict[str, str]:
        """Fingerprint of each published array by where it is to be; also half-way through publishing."""
        return {**self.published, **(self.publishing or {})}

    def state(self, fingerprint: str) -> PassState:
        """What is known of a pass; empty if nothing is."""
        return self.passes.setdefault(fingerprint, PassState())

    def append(self, event: str, **facts: Any) -> None:
        """Write one line. Units are synced in batches, everything else at once."""
        content = {"event": event, **facts}
        text = json.dumps(content, separators=(",", ":"))
        self._file.write(f"{zlib.crc32(text.encode()):08x} {text}\n".encode())
        self._file.flush()
        self._apply(content)
        self._unsynced += 1
        late = monotonic() - self._synced_at > SYNC_SECONDS
        if event != "unit" or self._unsynced >= SYNC_LINES or late:
            self.sync()

    def sync(self) -> None:
        """Force the lines to disk."""
        os.fsync(self._file.fileno())
        self._unsynced = 0
        self._synced_at = monotonic()

    def close(self) -> None:
        """Sync and close."""
        if self._file is not None and not self._file.closed:
            self.sync()
            self._file.close()

    def _apply(self, event: Mapping[str, Any]) -> None:
        state = self.state(event["pass"]) if "pass" in event else PassState()
        match event["event"]:
            case "start":
                self.starts.append(event)
                self.ended = None
            case "end":
                self.ended = event
            case "unit":
                state.done[event["unit"]] = event
                state.failed.pop(event["unit"], None)
            case "failed":
                state.failed[event["unit"]] = event
            case "lost":
                state.done.pop(event["unit"], None)
                state.finished = False
            case "finished":
                state.finished = True
            case "dropped":
                state.dropped |= set(event["arrays"])
            case "reset":
                self.passes[event["pass"]] = PassState()
            case "publishing":
                self.publishing = dict(event["arrays"])
            case "published":
                self.published, self.publishing = dict(event["arrays"]), None
                self.published_passes = dict(event["passes"])
                self.is_published = True


def _valid_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The events up to the first damaged line, and the length in bytes of those lines."""
    if not path.is_file():
        return [], 0
    events: list[dict[str, Any]] = []
    length = 0
    for line in _lines(path):
        crc, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or crc != f"{zlib.crc32(text):08x}".encode():
            break
        events.append(json.loads(text))
        length += len(line)
    return events, length


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file
