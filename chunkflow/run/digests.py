"""Whether files still hold the bytes that a unit wrote: a checksum per array and record, in the unit's line.

Sizes are compared always; bytes cost reading them, so they are compared where somebody may have touched them:

    change time of a file later than the unit's stamp   edited, replaced, swapped or copied since
    the run that wrote them ended without a word        the machine may have failed with them

The stamp is the last change time of the unit's own files, by the clock of their file system. A change time cannot be
set back by hand, unlike a modification time; renaming the folder of an array does not touch it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c

from chunkflow.run.intact import Files, block_is_intact, merge_is_intact
from chunkflow.storage.records import merged_path, part_paths, record_path
from chunkflow.storage.stores import ObjectPath, Place

STORE_SLACK_SECONDS = 10.0  # of an object store's clock, which is not this machine's
PIECE = 2**22


@dataclass(frozen=True, slots=True)
class Seal:
    """What a unit's files are known by.

    digests : one per array, and one of the record; of a merge: of its parts, and of its values
    stamp : last change of any of them, in ns since 1970; 0 in an object store
    """

    digests: tuple[int, ...]
    stamp: int


def sealed(groups: Sequence[Sequence[Place]]) -> Seal:
    """The seal of files that were just written."""
    digests = tuple(digest_of(paths) for paths in groups)
    return Seal(digests, max((_changed_ns(path) for paths in groups for path in paths), default=0))


def _changed_ns(path: Place) -> int:
    """When a local file changed last; 0 where there is none."""
    if isinstance(path, ObjectPath):
        return 0
    try:
        return path.stat().st_ctime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0


def digest_of(paths: Sequence[Place]) -> int:
    """CRC-32C of the files one after the other; those that are not there count as empty."""
    checksum = 0
    for path in paths:
        if isinstance(path, ObjectPath):  # of its checksum, which is known without reading it where it was just put
            crc = path.take_crc()
            checksum = google_crc32c.extend(checksum, b"" if crc is None else crc.to_bytes(4, "big"))
            continue
        try:
            with path.open("rb", buffering=0) as file:
                while piece := file.read(PIECE):
                    checksum = google_crc32c.extend(checksum, piece)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return checksum


def parts_of(records: Place) -> list[Place]:
    """Files of the parts of a merge, in their order by name."""
    return part_paths(records)


def was_touched(paths: Sequence[Place], since: float, stamp: int) -> bool:
    """Whether any of the files changed after a moment: ns of a file system's clock, or seconds of an object store's."""
    for path in paths:
        if isinstance(path, ObjectPath):
            found = path.stamp()
            if found is not None and found.modified.timestamp() > since + STORE_SLACK_SECONDS:
                return True
            continue
        if _changed_ns(path) > stamp:
            return True
    return False


@dataclass(frozen=True, slots=True)
class Trust:
    """How far files are taken for what they were.

    audited_at, stamp : when an audit last found them so, in seconds since 1970 and by the file system's clock in ns
    doubt : units of the session of this number, and of later ones, are read in any case; None reads none
    """

    audited_at: float = 0.0
    stamp: int = 0
    doubt: int | None = None


def holds_its_bytes(done: Mapping[str, Any], groups: Sequence[Sequence[Place] | None], trust: Trust) -> bool:
    """Whether the files of a unit have the digests of its line, as far as there is a reason to look.

    Parameters
    ----------
    groups : the files of each array and, last, of the record; None where they were deleted since.
    """
    digests = done.get("digests")
    since = max(float(done.get("at", 0.0)), trust.audited_at)
    stamp = max(int(done.get("stamp", 0)), trust.stamp)
    if digests is None or len(digests) != len(groups):
        return True  # sizes are all that is known
    is_doubtful = trust.doubt is not None and int(done.get("session", 0)) >= trust.doubt
    for paths, expected in zip(groups, digests, strict=True):
        if paths is None:
            continue
        if (is_doubtful or was_touched(paths, since, stamp)) and digest_of(paths) != expected:
            return False
    return True


def unit_is_intact(
    done: Mapping[str, Any],
    records: Place,
    unit: int,
    files: Sequence[Files] | None,
    trust: Trust,
) -> bool:
    """Whether what a unit left is as its line says, by sizes and, where there is a reason, by digests.

    `files` of its arrays in their order, None of a merge.
    """
    if files is None:
        groups: list[list[Place] | None] = [parts_of(records), [merged_path(records)]]
        has_sizes = merge_is_intact(done, records)
    else:
        groups = [None if array.folder is None else [array.folder / name for name in array.names] for array in files]
        groups.append([record_path(records, unit)])
        has_sizes = block_is_intact(done, records, unit, files)
    return has_sizes and holds_its_bytes(done, groups, trust)
