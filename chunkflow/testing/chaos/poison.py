"""Functions for `apply` that do what they should, except on voxels of marked values: there they do their worst.

    60001 raise   60002 os._exit   60003 SIGKILL   60004 NaN   60005 wrong shape   60006 memory   60007 hang
    60008 sys.exit   60009 an error that does not travel

A file named `healed` in the folder of the option makes them harmless, so that a repaired block can be shown to compute.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MARKS = {
    "raise": 60001,
    "exit": 60002,
    "kill": 60003,
    "nan": 60004,
    "shape": 60005,
    "memory": 60006,
    "hang": 60007,
    "sys.exit": 60008,
    "odd error": 60009,
}
DIES = ("exit", "kill", "memory")
"""Kinds that take their process with them: only where workers are processes."""


class OddError(Exception):
    """Cannot be pickled: a client that waits for it would wait for ever."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.frame = sys._getframe()


def halved(image: NDArray[Any], folder: str) -> NDArray[Any]:
    """Half of every value, and the worst of what is marked.

    Parameters
    ----------
    image : (Z, Y, X)
    folder : where traces are left: a file per call of a marked tile, named after its kind.
    """
    found = [kind for kind, mark in MARKS.items() if (image == mark).any()]
    if not found or Path(folder, "healed").exists():
        return np.asarray(image, np.float32) / 2
    kind = found[0]
    Path(folder, f"{kind}-{os.getpid()}-{time.time_ns()}").touch()
    if kind == "raise":
        raise ZeroDivisionError("on purpose")
    if kind == "sys.exit":
        sys.exit(3)
    if kind == "odd error":
        raise OddError(1, 2)
    if kind == "exit":
        os._exit(7)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "nan":
        return np.full(image.shape, np.nan, np.float32)
    if kind == "shape":
        return np.zeros((1, 1, 1), np.float32)
    if kind == "memory":
        held = [np.ones(2**24) for _ in range(10**4)]  # 128 MiB each: whoever limits memory ends it
        return held[0]
    time.sleep(3600)
    return image
