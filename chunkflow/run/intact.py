"""Whether what the journal says is done is still on disk, by the sizes that its lines name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunkflow.storage.files import object_sizes
from chunkflow.storage.records import merged_path, record_path


@dataclass(frozen=True, slots=True)
class Files:
    """The files that a unit wrote of one array.

    folder : where the array lies; None where it was deleted since, which is no loss
    names : of the files in it
    """

    folder: Path | None
    names: Sequence[str]


def block_is_intact(done: Mapping[str, Any], records: Path, unit: int, files: Sequence[Files]) -> bool:
    """Whether the record and the files of a block have the sizes of its line. `files` in the order of the arrays."""
    if object_sizes("", [str(record_path(records, unit))]) != [done["record"]]:
        return False
    expected = list(done["objects"])
    for array in files:
        here, expected = expected[: len(array.names)], expected[len(array.names) :]
        if array.folder is None:
            continue
        if not any((array.folder / name).is_file() for name in ("zarr.json", ".zarray")):
            return False
        if [size or 0 for size in object_sizes(array.folder, array.names)] != here:
            return False
    return True


def merge_is_intact(done: Mapping[str, Any], records: Path) -> bool:
    """Whether the values of a merge have the size of its line, and its parts their number and sum."""
    if object_sizes("", [str(merged_path(records))]) != [done["record"]]:
        return False
    parts = object_sizes("", [str(path) for path in records.glob("*/*.rec")])
    return [len(parts), sum(size or 0 for size in parts)] == list(done["objects"])
