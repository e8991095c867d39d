"""Cases of disks that are full: P9, on a small memory file system, or where none can be mounted by refusing writes."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from chunkflow.run import admission, worker
from chunkflow.run.status import status
from chunkflow.testing.chaos import world
from chunkflow.testing.chaos.matrix import CannotRunError, Case

SIZES = (350, 450, 600, 700, 800, 900, 1000, 1100)  # KiB: full while journal, arrays, records or tables are written


def _cases() -> list[Case]:
    found = []
    for size in SIZES:
        run = partial(_small_disk, size)
        found.append(Case(promise="P9", name=f"a disk of {size} KiB", run=run, quick=size in SIZES[::3]))
    for count in (1, 7, 13, 20, 30):
        found.append(Case(promise="P9", name=f"no space for record {count}", run=partial(_refused_record, count)))
    found.append(Case(promise="P9", name="a full disk before the start", run=_full_before))
    return found


@contextmanager
def _mounted(folder: Path, kibibytes: int) -> Iterator[Path]:
    """A file system of its own.

    Raises
    ------
    CannotRunError : this user may not mount one.
    """
    point = folder / "disk"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(point)]
    try:
        made = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise CannotRunError("there is no mount") from error
    if made.returncode:
        raise CannotRunError(f"mount needs rights ({made.stderr.decode().strip()})")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def _small_disk(kibibytes: int, folder: Path) -> int:
    """The run ends with 4 and says so; with more space the same command completes."""
    source = world.source_in(folder)
    with _mounted(folder, kibibytes) as disk, mock.patch.object(admission, "RESERVE_BYTES", 0):
        plan = world.planned(world.long_pipeline(), source, disk / "out")
        error = world.run_or_error(plan)
        assert error is not None, f"{kibibytes} KiB were enough, so nothing is shown"
        full = getattr(error, "exit_code", 0) == 4 or getattr(error, "errno", 0) == errno.ENOSPC
        assert full, f"a full disk ended the run with {error!r}"
        found = status(disk / "out")
        assert (found.state, found.code) == ("failed", 4), f"status says {found.state}, code {found.code}"
        assert not any(p.quarantined or p.missing for p in found.passes), "a block was blamed for the disk"
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        world.check_ends_well(plan, world.clean_hash(long=True), runs=1)
    return 1


def _refused_record(count: int, folder: Path) -> int:
    """The n-th record finds no space, anywhere in the run."""
    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    write: Any = vars(worker)["write_record"]
    seen: list[Path] = []

    def refusing(path: Path, arrays: Any) -> Any:
        seen.append(path)
        if len(seen) == count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, arrays)

    with mock.patch.object(worker, "write_record", refusing):
        error = world.run_or_error(plan)
    assert getattr(error, "exit_code", 0) == 4, repr(error)
    assert len(seen) == count, "units were sent out after the disk was full"
    assert status(folder / "out").code == 4
    world.check_ends_well(plan, world.clean_hash(), runs=1)
    return 1


def _full_before(folder: Path) -> int:
    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    with mock.patch.object(admission, "RESERVE_BYTES", 2**60):
        error = world.run_or_error(plan)
    assert getattr(error, "exit_code", 0) == 4
    assert not (folder / "out").exists(), "something was written"
    world.check_ends_well(plan, world.clean_hash(), runs=1)
    return 1


CASES = _cases()
