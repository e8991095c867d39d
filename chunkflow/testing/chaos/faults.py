"""Files that vanish, shrink, rot or change places; sizes and times stay as they are where the fault allows it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def delete(path: Path, other: Path) -> None:
    """The file is gone."""
    path.unlink()


def truncate(path: Path, other: Path) -> None:
    """Its second half is gone."""
    os.truncate(path, path.stat().st_size // 2)


def zero(path: Path, other: Path) -> None:
    """Its bytes are zeros, as many as they were."""
    _rewrite(path, bytes(path.stat().st_size))


def flip(path: Path, other: Path) -> None:
    """One bit of its middle is another, and the time of modification is set back."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    _rewrite(path, bytes(content))


def swap(path: Path, other: Path) -> None:
    """It and another file are in each other's place."""
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def _rewrite(path: Path, content: bytes) -> None:
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def after_a_tick(fault: Callable[[Path, Path], None], path: Path, other: Path) -> None:
    """Do it when the clock of file systems, which goes in steps of some milliseconds, is ahead of what was written."""
    probe = path.with_name(".tick")
    newest = max(path.stat().st_ctime_ns, other.stat().st_ctime_ns)
    while True:
        probe.touch()
        now = probe.stat().st_ctime_ns
        probe.unlink()
        if now > newest:
            break
    fault(path, other)


FAULTS: tuple[Callable[[Path, Path], None], ...] = (delete, truncate, zero, flip, swap)


def two_files(folder: Path, pattern: str) -> tuple[Path, Path]:
    """Two different files of an array or of records, by a pattern of their folder.

    Raises
    ------
    AssertionError : there are not two, or they are alike, so that no fault could be seen.
    """
    files = [path for found in sorted(folder.glob(pattern)) for path in sorted(found.rglob("*")) if path.is_file()]
    files = [path for path in files if path.name not in ("zarr.json", ".zarray", "constants.rec")]
    for first in files:
        for second in files:
            if first.read_bytes() != second.read_bytes():
                return first, second
    raise AssertionError(f"{pattern} has {len(files)} files and no two that differ")
