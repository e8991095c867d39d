"""What is safely on disk: an append-only file with one writer, the driver.

    8a2f01c3 {"event": "unit", "pass": "3f...", "unit": 17, "objects": [48211], "record": 512, ...}

Each line carries its CRC. A unit is done when its line is here and its files have the sizes that the line names, so a
kill at any moment leaves a state that the next run can read: a torn tail is cut when the journal is opened. Lines are
written at once and synced in batches; what a batch loses is computed again, to the same bytes. A file beside the
journal keeps some space: it is given up where the disk is full, so that the journal can say so. In an object store the
lines are put in segments (`run/segments.py`).
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Self

from chunkflow.errors import IntegrityError
from chunkflow.run.digests import Trust
from chunkflow.run.segments import Segments, journal_line, segment_lines
from chunkflow.run.unit_lines import UnitLines
from chunkflow.storage.files import disk_full_reported
from chunkflow.storage.retry import added
from chunkflow.storage.stores import ObjectPath, Place

SYNC = (32, 1.0)
SYNC_SEGMENTS = (1024, 5.0)
"""Lines and seconds that units wait for each other: in a file, and in segments, each of which is a request."""
LAST_WORDS_BYTES = 2**16


@dataclass(slots=True)
class PassState:
    """What the journal knows of one pass.

    done : sizes and digests of the files of each unit, those of holes too
    failed : the last error of each unit that failed and was not tried often enough to be set aside
    quarantined : report of each unit that was set aside, also where a hole stands in its place
    finished : all units were done at some time, and the records are here
    dropped : arrays that were deleted since
    requests : of the driver to object stores, for this pass
    """

    done: UnitLines = field(default_factory=UnitLines)
    failed: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    quarantined: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    finished: bool = False
    dropped: set[str] = field(default_factory=set)
    requests: Mapping[str, int] = field(default_factory=dict)

    @property
    def all_requests(self) -> dict[str, int]:
        """To object stores, by its units that are done and by the driver."""
        total = dict(self.requests)
        for done in self.done.values():
            if "requests" in done:
                total = added(total, done["requests"])
        return total

    @property
    def holes(self) -> list[int]:
        """Units that were set aside and stand as background."""
        return sorted(unit for unit in self.quarantined if self.done.get(unit, {}).get("hole"))

    @property
    def kinds(self) -> set[str]:
        """Kinds of compute that its units were computed on."""
        return {str(done["kind"]) for done in self.done.values() if "kind" in done}


class Journal:
    """The journal of one output folder, with the state that its lines add up to."""

    def __init__(self, path: Place) -> None:
        self.path = path
        self._segments: Segments | None = None
        self.passes: dict[str, PassState] = {}
        self.starts: list[Mapping[str, Any]] = []
        self.published: dict[str, str] = {}
        self.published_passes: dict[str, str] = {}  # fingerprints by name, of the result that is published
        self.is_published = False
        self.publishing: dict[str, str] | None = None
        self.ended: Mapping[str, Any] | None = None
        self.published_at = 0.0
        self.published_stamp = 0
        self._unclean: int | None = None  # a run before the last
        self._length = 0
        self._file: Any = None
        self._unsynced = 0
        self._synced_at = monotonic()

    @classmethod
    def read(cls, path: Place) -> Self:
        """The state in a journal, for looking only."""
        journal = cls(path)
        for event, _ in _valid_lines(path):
            journal._apply_read(event)
        return journal

    @classmethod
    def open(cls, path: Place) -> Self:
        """The journal for writing; cuts a torn tail. The caller holds the output's lock."""
        journal = cls(path)
        if isinstance(path, ObjectPath):
            journal._segments = Segments(path)  # before reading: what comes after is somebody else's
            for event, _ in _valid_lines(path):
                journal._apply_read(event)
            return journal
        path.parent.mkdir(parents=True, exist_ok=True)
        for event, length in _valid_lines(path):
            journal._apply_read(event)
            journal._length = length
        journal._file = path.open("ab")
        journal._file.truncate(journal._length)
        journal._keep_reserve()
        return journal

    @property
    def unclean_session(self) -> int | None:
        """The number of the first run that ended without a word, from 1, and none was whole since; or None.

        A run that came after may have been stopped before it compared a byte, or have looked at other passes.
        """
        if isinstance(self.path, ObjectPath):  # what a store has acknowledged does not go with a machine
            return None
        return self._unclean or (len(self.starts) if self.starts and self.ended is None else None)

    @property
    def stamp(self) -> int:
        """Last change of the journal by the clock of its file system, in ns since 1970; 0 in an object store."""
        return 0 if self._file is None else os.fstat(self._file.fileno()).st_ctime_ns

    @property
    def trust(self) -> Trust:
        """How far files are taken for what they were, since the last audit."""
        return Trust(self.published_at, self.published_stamp)

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
        with disk_full_reported(self.path):
            self._write(journal_line(text), is_last=event == "end")
        self._apply(content)
        self._unsynced += 1
        lines, seconds = SYNC if self._segments is None else SYNC_SEGMENTS
        late = monotonic() - self._synced_at > seconds
        if event != "unit" or self._unsynced >= lines or late:
            self.sync()

    def sync(self) -> None:
        """Force the lines to disk, or put them.

        Raises
        ------
        OutputInUseError : another driver has taken the output over, in an object store.
        """
        if self._segments is not None:
            self._segments.put()
        else:
            os.fsync(self._file.fileno())
        self._unsynced = 0
        self._synced_at = monotonic()

    def _write(self, line: bytes, *, is_last: bool) -> None:
        """The whole line or nothing of it; on a full disk the last of a run takes the space that was kept for it, which
        blocks that are still being written would take from any other."""
        if self._segments is not None:
            self._segments.add(line)
            return
        try:
            self._write_line(line)
        except OSError:
            if not (is_last and self._reserve.exists()):
                raise
            self._reserve.unlink()
            self._write_line(line)
        self._length += len(line)

    def _write_line(self, line: bytes) -> None:
        try:
            if (written := os.write(self._file.fileno(), line)) != len(line):
                raise OSError(errno.ENOSPC, f"{written} of {len(line)} bytes were written", str(self.path))
        except OSError:
            os.ftruncate(self._file.fileno(), self._length)
            raise

    @property
    def _reserve(self) -> Path:
        assert isinstance(self.path, Path)
        return self.path.with_name("reserve")

    def _keep_reserve(self) -> None:
        """Take the space, where there is some."""
        if self._reserve.is_file() and self._reserve.stat().st_size == LAST_WORDS_BYTES:
            return
        try:
            self._reserve.write_bytes(os.urandom(LAST_WORDS_BYTES))  # not zeros, which some file systems do not store
        except OSError:
            self._reserve.unlink(missing_ok=True)  # a part of it would only take what little there is

    def close(self) -> None:
        """Sync and close."""
        if self._segments is not None:
            self.sync()
        if self._file is not None and not self._file.closed:
            self.sync()
            self._file.close()

    def _apply_read(self, event: Any) -> None:
        """Take in a line that somebody wrote: this program, another version of it, or a stranger."""
        try:
            _check_types(event)
            self._apply(event)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _foreign(self.path, error, json.dumps(event)) from error

    def _apply(self, event: Mapping[str, Any]) -> None:
        state = self.state(event["pass"]) if "pass" in event else PassState()
        match event["event"]:
            case "start":
                if self.starts and self.ended is None:
                    self._unclean = self._unclean or len(self.starts)
                self.starts.append(event)
                self.ended = None
            case "end":
                self.ended = {**event, "code": int(event["code"])}
                if self.ended["code"] == 0:
                    self._unclean = None
            case "unit":
                unit, _, _ = event["unit"], event["objects"], event["record"]
                kind = self.starts[-1].get("kind", "") if self.starts else ""
                state.done[unit] = {"kind": kind, **event, "session": len(self.starts)}  # kind: where not the run's
                state.failed.pop(unit, None)
                if not event.get("hole"):
                    state.quarantined.pop(unit, None)
            case "failed":
                state.failed[int(event["unit"])] = event
            case "quarantined":
                state.failed.pop(int(event["unit"]), None)
                state.quarantined[int(event["unit"])] = event
            case "lost":
                state.done.pop(event["unit"], None)
                state.finished = False
            case "finished":
                state.finished = True
                state.requests = added(state.requests, event.get("requests", {}))
            case "dropped":
                state.dropped |= set(event["arrays"])
            case "reset":
                self.passes[event["pass"]] = PassState()
            case "publishing":
                self._begin_publishing(dict(event["arrays"]))
            case "published":
                self.published, self.publishing = dict(event["arrays"]), None
                self.published_passes = dict(event["passes"])
                self.published_at = float(event.get("time", 0.0))
                self.published_stamp = int(event.get("stamp", 0))
                self.is_published = True

    def _begin_publishing(self, arrays: dict[str, str]) -> None:
        """What an earlier publishing, of other settings, may have moved in its place is no longer what was there."""
        for target, fingerprint in (self.publishing or {}).items():
            if self.published.get(target) != fingerprint:
                self.published.pop(target, None)
        self.publishing = arrays


TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("event", "pass", "kind", "command", "core", "error", "name"), (str,)),
    **dict.fromkeys(("unit", "record", "stamp", "code", "attempts", "epoch"), (int,)),
    **dict.fromkeys(("at", "time"), (int, float)),
    **dict.fromkeys(("objects", "digests"), (list,)),
    "peak": (int, type(None)),
    "passes": (dict,),
    "arrays": (dict, list),
    "hole": (bool,),
}
"""Of what the state is made of, by its name in a line."""


def _check_types(event: Any) -> None:
    """Refuse a line whose values are not what lines hold."""
    for name, value in event.items():
        kinds = TYPES.get(name, (object,))
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds and object not in kinds):
            raise TypeError(f"{name} is {value!r}")
        inner: type = int if name in ("objects", "digests") else str
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if name in ("objects", "digests", "passes", "arrays") and not all(isinstance(item, inner) for item in items):
            raise TypeError(f"{name} holds other things")


def forget_journal(path: Place) -> None:
    """Begin anew; the caller holds the output's lock."""
    if isinstance(path, ObjectPath):
        Segments(path).begin_anew()
    else:
        path.unlink(missing_ok=True)


def _valid_lines(path: Place) -> Iterator[tuple[dict[str, Any], int]]:
    """The events up to the first damaged line, each with the length in bytes of the lines until it ends."""
    length = 0
    for line in _lines(path):
        crc, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or crc != f"{zlib.crc32(text):08x}".encode():
            break
        try:
            event = json.loads(text)
        except (ValueError, RecursionError) as error:  # with a checksum that holds
            raise _foreign(path, error, repr(text)) from error
        length += len(line)
        yield event, length


def _foreign(path: Place, error: Exception, text: str) -> IntegrityError:
    return IntegrityError(
        f"{path} has a line that means nothing here ({type(error).__name__}: {error} in {text[:100]})",
        "It is of another version, or no journal: add --restart, or choose another output",
    )


def _lines(path: Place) -> Iterator[bytes]:
    if isinstance(path, ObjectPath):
        yield from segment_lines(path)
    elif path.is_file():
        with path.open("rb") as file:
            yield from file
