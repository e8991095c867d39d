"""Whether an input is still the one a run started with, and if not, what changed.

The identity of a volume is what its voxels mean (shape, type, scale, the channel and time point chosen) and the name,
size and modification time of every file of its array. The files of one folder prefix share a digest:

    c/0/0/0 c/0/0/1 ...   up to 4096 files: one digest each, and a change is named by its file
    c/0/* c/1/* ...       more: one digest per the longest prefix that leaves at most 4096 of them

So the identity stays under a megabyte, and 10^6 files cost the time to list and digest them (seconds); of more, and of
more than 2 10^5 objects of a store, a sample is taken (`storage/inventory.py`). A file changed in place with its size
and time restored is not noticed, nor is one on a file system without modification times.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeAlias

from chunkflow.storage.inventory import Entry, entries_of
from chunkflow.storage.stores import Place, place_of
from chunkflow.storage.volume import Volume

Identity: TypeAlias = dict[str, Any]

_MOST_GROUPS = 4096
_MOST_NAMED = 5


def identity(volume: Volume) -> Identity:
    """What tells this input from a changed one, as JSON values."""
    entries = entries_of(volume)
    depth = _depth([name for name, _, _ in entries])
    return {
        "metadata": {
            "shape": list(volume.array.shape),
            "dtype": str(volume.array.dtype),
            "axes": volume.axes,
            "at": list(volume.at),
            "codecs": _array_metadata_digest(place_of(volume.path)),
            **volume.scale.to_json(),
            **({} if volume.window is None else {"region": str(volume.window)}),
        },
        "files": len(entries),
        "bytes": sum(size for _, size, _ in entries),
        "depth": depth,
        "groups": _group_digests(entries, depth),
    }


def differences(old: Identity, new: Identity) -> list[str]:
    """What changed between two identities, one plain sentence part each; empty if nothing did."""
    found = [
        f"{_WORDS.get(key, key)} {_shown(old['metadata'].get(key))} -> {_shown(value)}"
        for key, value in new["metadata"].items()
        if old["metadata"].get(key) != value
    ]
    if old["depth"] != new["depth"]:
        found.append(f"the array has {new['files']} files instead of {old['files']}")
        return found
    return found + _group_differences(old["groups"], new["groups"])


_WORDS = {
    "dtype": "type",
    "at": "channel or time point",
    "codecs": "compression or chunk metadata",
    "voxel_um": "voxel size (um)",
    "translation_um": "translation (um)",
    "bytes": "size of the file (bytes)",
    "modified": "time of its last change (ns)",
}


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value)


def _group_differences(old: Mapping[str, list[Any]], new: Mapping[str, list[Any]]) -> list[str]:
    changed = sorted((name for name in {*old, *new} if old.get(name) != new.get(name)), key=_grid_order)
    found = [_change(name, old.get(name), new.get(name)) for name in changed[:_MOST_NAMED]]
    more = len(changed) - len(found)
    return [*found, f"and {more} more"] if more else found


def _change(name: str, old: list[Any] | None, new: list[Any] | None) -> str:
    before, after = (group[0] if group else 0 for group in (old, new))
    if max(before, after) == 1:
        return f"chunk {name} was {'added' if not before else 'removed' if not after else 'rewritten'}"
    if before != after:
        return f"{after} chunks under {name} instead of {before}"
    return f"chunks under {name} were rewritten"


def _grid_order(name: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else -1, part) for part in _parts(name)]


def _depth(names: list[str]) -> int:
    """The most parts of a name that leave at most `_MOST_GROUPS` different prefixes."""
    parts = [_parts(name) for name in names]
    longest = max(map(len, parts), default=1)
    if len(parts) <= _MOST_GROUPS:
        return longest
    few = (depth for depth in range(longest, 1, -1) if len({tuple(part[:depth]) for part in parts}) <= _MOST_GROUPS)
    return next(few, 1)


def _parts(name: str) -> list[str]:
    """`c/0/1` and `0.1` cut at their separators; a regular expression would take three times as long."""
    return name.replace(".", "/").split("/")


def _group_digests(entries: list[Entry], depth: int) -> dict[str, list[Any]]:
    """Prefix -> [number of files, digest of their names, sizes and times]."""
    digests: dict[str, Any] = {}
    counts: Counter[str] = Counter()
    for name, size, modified in entries:
        group = "/".join(_parts(name)[:depth])
        counts[group] += 1
        digest = digests.setdefault(group, hashlib.blake2b(digest_size=8))
        digest.update(f"{name} {size} {modified}\n".encode())
    return {group: [counts[group], digest.hexdigest()] for group, digest in digests.items()}


def _array_metadata_digest(folder: Place) -> str:
    """Digest of how the array is stored; attributes, which viewers may change, are left out."""
    for name in ("zarr.json", ".zarray"):
        if (folder / name).is_file():
            metadata = json.loads((folder / name).read_bytes())
            metadata.pop("attributes", None)
            return hashlib.blake2b(json.dumps(metadata, sort_keys=True).encode(), digest_size=8).hexdigest()
    return ""
