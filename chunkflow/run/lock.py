"""One run per output: a lock the system frees when its holder dies, and an epoch that stale workers check.

In an object store an object takes the place of the lock (`run/owner.py`).
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from time import time_ns
from typing import Any, Self

from chunkflow.errors import OutputInUseError
from chunkflow.run.owner import Owner, is_held
from chunkflow.storage.stores import ObjectPath, Place


class OutputLock:
    """The lock of an output folder. `flock` dies with the process, so a killed run leaves nothing to clean."""

    def __init__(self, run_folder: Place) -> None:
        self.path = run_folder / "lock"
        self._owner = Owner(self.path) if isinstance(self.path, ObjectPath) else None
        self._file: Any = None

    def __enter__(self) -> Self:
        """Take the lock.

        Raises
        ------
        OutputInUseError : another run holds it; the message says which.
        """
        if isinstance(self.path, ObjectPath):
            assert self._owner is not None
            self._owner.take()
            return self
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise OutputInUseError(
                f"another run writes {self.path.parent.parent} ({holder})", "Wait for it, or choose another output"
            ) from error
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps({"process": os.getpid(), "machine": socket.gethostname()}))
        self._file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        if self._owner is not None:
            self._owner.give_back()
            return
        self._file.truncate(0)
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()


def is_locked(run_folder: Place) -> bool:
    """Whether a run is going on in that folder."""
    path = run_folder / "lock"
    if isinstance(path, ObjectPath):
        return is_held(path)
    if not path.is_file():
        return False
    with path.open("r", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
    return False


def next_epoch(run_folder: Place) -> tuple[str, int]:
    """Raise the epoch: workers of an earlier run that are still alive stop before their next write.

    Epochs start from the clock, so that no two runs share one, also where the output was deleted in between.
    """
    path = run_folder / "epoch"
    try:
        number = max(int(path.read_text(encoding="ascii")) + 1, time_ns())
    except (FileNotFoundError, ValueError):
        number = time_ns()
    if isinstance(path, ObjectPath):
        path.write_bytes(str(number).encode())
        return str(path.resolve()), number
    partial = path.with_suffix(".new")
    partial.write_text(str(number), encoding="ascii")
    partial.replace(path)
    return str(path.resolve()), number
