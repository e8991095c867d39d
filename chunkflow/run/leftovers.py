"""Folders that killed probes left beside an output: known by their name, and by a lock that nobody holds any more.

.chunkflow-probe-x8f2/lock    held while the probe goes on; the system frees it with the process
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time

from chunkflow.run.lock import OutputLock, is_locked

PREFIX = ".chunkflow-probe-"
FRESH_SECONDS = 60.0
"""A folder may be there for so long before it is locked."""


@contextmanager
def probe_folder(parent: Path) -> Iterator[Path]:
    """A folder for a probe, which is removed in the end; those of killed ones beside it are removed first."""
    sweep_probes(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        with OutputLock(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_probes(parent: Path) -> int:
    """Remove what killed probes left in a folder; returns how many."""
    swept = 0
    with suppress(OSError):  # a folder that may not be looked into
        for entry in os.scandir(parent):
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False) and _is_left(Path(entry.path)):
                shutil.rmtree(entry.path, ignore_errors=True)
                swept += 1
    return swept


def _is_left(folder: Path) -> bool:
    try:
        return time() - folder.stat().st_mtime > FRESH_SECONDS and not is_locked(folder)
    except OSError:  # somebody else's
        return False
