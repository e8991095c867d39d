"""What every worker of a local cluster does first: leave Ctrl-C, which the whole terminal gets, to the driver.

The driver closes the cluster in good order; workers that were interrupted too would print their tracebacks over it.
"""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(worker: Any) -> None:
    """Called by dask in the worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
