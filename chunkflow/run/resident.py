"""Memory of this process, as the system counts it."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress

import psutil


def peak_bytes() -> int:
    """Largest resident size of this process so far, in bytes."""
    # Not getrusage where there is better: on Linux a fresh process inherits that figure from the one that started it.
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """Resident size of this process now, in bytes."""
    return int(psutil.Process().memory_info().rss)
