"""Files that are either whole or not there: atomic writes, and what a killed writer leaves behind.

A file is written under a temporary name beside its place and renamed, so a reader (or a kill) sees the old bytes or the
new ones. The temporary name is the one zarr uses for its chunks, so one sweep removes both kinds of leftovers.
Works on file systems where a rename replaces atomically: local disks, NFS, Lustre; not object stores.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chunkflow.errors import DiskFullError

_PARTIAL = re.compile(r"\.[0-9a-f]{32}\.partial$")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_full_reported(path: str | Path) -> Iterator[None]:
    """Turn "no space left" from the system into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFullError(
                f"no space left to write {path}", "Free some space and run the same command again"
            ) from error
        raise


@contextmanager
def atomic_path(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path to write; it becomes `path` when the block ends well and vanishes when it does not.

    `durable` forces the bytes to disk first. Without it a power loss can leave an empty file in place of the old one,
    which is fine where the reader checks and the file can be made again.
    """
    final = Path(path)
    partial = final.with_name(f"{final.name}.{uuid.uuid4().hex}.partial")
    with disk_full_reported(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            if durable:
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
            partial.replace(final)
        finally:
            partial.unlink(missing_ok=True)


def write_atomic(path: str | Path, content: bytes, *, durable: bool = True) -> None:
    """Write a whole file; at any moment it holds its old content or `content` (`durable` as for `atomic_path`)."""
    with atomic_path(path, durable=durable) as partial:
        partial.write_bytes(content)


def sweep_partial_files(folder: str | Path) -> int:
    """Remove what killed writers left below `folder` and return how many files that were.

    Only for a moment when nobody writes there: it cannot tell a stale file from one being written.
    """
    swept = 0
    for root, _, names in os.walk(folder):
        for name in names:
            if _PARTIAL.search(name):
                Path(root, name).unlink(missing_ok=True)
                swept += 1
    return swept


def is_partial(name: str) -> bool:
    """Whether a file of that name is somebody's unfinished write."""
    return _PARTIAL.search(name) is not None


def object_sizes(folder: str | Path, names: Sequence[str]) -> list[int | None]:
    """Size in bytes of each file, None where there is none."""
    return [_size(Path(folder, name)) for name in names]


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
