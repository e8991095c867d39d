"""The files of an array: their names, sizes and what tells a rewritten one, at a cost that is bounded.

    local folder       all files there are, up to 10^6 (seconds); a modification time each
    object store       all objects, where the array can have up to 2 10^5 of them (200 requests); the store's tag each
    anything larger    1024 files spread evenly over the array, asked for one by one (a second or two)
    web server         likewise 1024 at most, as it cannot list

So a plan of an array of 10^8 objects takes 1024 requests, and a change of an object that is not among those is not
noticed; nor is one of a web server that tells neither tags nor times.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np

from chunkflow.geometry.box import triple
from chunkflow.storage.connections import Stamp, at_once
from chunkflow.storage.files import is_partial, object_sizes
from chunkflow.storage.stores import ObjectPath, Place, listed_once, place_of
from chunkflow.storage.volume import Volume, file_key

Entry = tuple[str, int, str]
"""Name below the array, bytes, and what changes when it is rewritten."""

LOCAL_FILES = 10**6
STORED_FILES = 2 * 10**5
SAMPLED_FILES = 1024


def entries_of(volume: Volume) -> list[Entry]:
    """Files of the whole array, by name; of a sample of them where there are too many."""
    folder = place_of(volume.path)
    if isinstance(folder, ObjectPath):
        return _listed(folder) if _may_be_listed(volume, folder) else sorted(_sampled(volume, folder))
    found = list(islice(_files(folder), LOCAL_FILES + 1))
    return sorted(found) if len(found) <= LOCAL_FILES else sorted(_sampled(volume, folder))


def missing_chunks(volume: Volume) -> int:
    """How many files of the volume (at its channel and time) are absent or empty: their voxels read as fill.

    Counted up to 10^6 files (2 10^5 in object stores), above that estimated from a sample.
    """
    folder, unit = place_of(volume.path), volume.layout.write_unit
    box = volume.window or volume.box
    first = [start // step for start, step in zip(box.start, unit, strict=True)]
    counts = [-(-stop // step) - low for stop, step, low in zip(box.stop, unit, first, strict=True)]
    total, most = prod(counts), STORED_FILES if isinstance(folder, ObjectPath) else LOCAL_FILES
    if isinstance(folder, ObjectPath) and not _may_be_listed(volume, folder):
        most = SAMPLED_FILES
    looked_at = range(total) if total <= most else _spread(total)
    places = zip(*np.unravel_index(np.asarray(looked_at), counts), strict=True)
    grid = (tuple(int(p + low) for p, low in zip(place, first, strict=True)) for place in places)
    names = [file_key(volume, triple(place)) for place in grid]
    with listed_once(folder) if total > 1 and most == STORED_FILES else listed_once(Path()):
        missing = sum(not size for size in object_sizes(folder, names))
    return missing if len(names) == total else -(-missing * total // len(names))


def _may_be_listed(volume: Volume, folder: ObjectPath) -> bool:
    return not folder.is_read_only and prod(_grid(volume)) <= STORED_FILES


def _grid(volume: Volume) -> list[int]:
    """Files of the whole array along each of its axes."""
    lengths = volume.array.shards or volume.array.chunks
    return [-(-n // length) for n, length in zip(volume.array.shape, lengths, strict=True)]


def _listed(folder: ObjectPath) -> list[Entry]:
    return [_entry(str(path.relative_to(folder)), stamp) for path, stamp in folder.walk() if _is_data(path.name)]


def _sampled(volume: Volume, folder: Place) -> Iterator[Entry]:
    grid = _grid(volume)
    places = zip(*np.unravel_index(np.asarray(_spread(prod(grid))), grid), strict=True)
    names = [str(volume.array.metadata.encode_chunk_key(tuple(int(p) for p in place))) for place in places]
    if isinstance(folder, ObjectPath):
        stamps = at_once(lambda name: (folder / name).stamp(), names)
        yield from (_entry(name, stamp) for name, stamp in zip(names, stamps, strict=True) if stamp is not None)
        return
    for name in names:
        if (folder / name).is_file():
            status = (folder / name).stat()
            yield name, status.st_size, str(status.st_mtime_ns)


def _spread(total: int) -> range | list[int]:
    """Numbers below `total`, evenly spread, the first and the last among them."""
    if total <= SAMPLED_FILES:
        return range(total)
    return sorted({i * (total - 1) // (SAMPLED_FILES - 1) for i in range(SAMPLED_FILES)})


def _entry(name: str, stamp: Stamp) -> Entry:
    return name, stamp.size, stamp.tag or stamp.modified.isoformat()


def _is_data(name: str) -> bool:
    return not (name == "zarr.json" or name.startswith(".") or is_partial(name))


def _files(folder: Path) -> Iterator[Entry]:
    """Each chunk or shard of a local folder; hidden files are none."""
    prefix = len(str(folder)) + 1
    pending = [str(folder)]
    while pending:
        with os.scandir(pending.pop()) as listing:
            for entry in listing:
                if entry.is_dir():
                    pending.append(entry.path)
                elif _is_data(entry.name):
                    status = entry.stat()
                    yield entry.path[prefix:], status.st_size, str(status.st_mtime_ns)
