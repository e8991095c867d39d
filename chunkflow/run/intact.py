"""Whether what the journal says is done is still on disk, by the sizes that its lines name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chunkflow.storage.files import object_sizes, size_of
from chunkflow.storage.records import merged_path, part_paths, record_path
from chunkflow.storage.stores import Place
from chunkflow.storage.volume import holds_array


@dataclass(frozen=True, slots=True)
class Files:
    """The files that a unit wrote of one array.

    folder : where the array lies; None where it was deleted since, which is no loss
    names : of the files in it
    """

    folder: Place | None
    names: Sequence[str]


def block_is_intact(done: Mapping[str, Any], records: Place, unit: int, files: Sequence[Files]) -> bool:
    """Whether the record and the files of a block have the sizes of its line. `files` in the order of the arrays."""
    if size_of(record_path(records, unit)) != done["record"]:
        return False
    expected = list(done["objects"])
    for array in files:
        here, expected = expected[: len(array.names)], expected[len(array.names) :]
        if array.folder is None:
            continue
        if not holds_array(array.folder):
            return False
        if [size or 0 for size in object_sizes(array.folder, array.names)] != here:
            return False
    return True


def merge_is_intact(done: Mapping[str, Any], records: Place) -> bool:
    """Whether the values of a merge have the size of its line, and its parts their number and sum."""
    if size_of(merged_path(records)) != done["record"]:
        return False
    parts = [size_of(path) or 0 for path in part_paths(records)]
    return [len(parts), sum(parts)] == list(done["objects"])
