"""What the server that forks local workers imports, once for all of them.

A worker that starts from nothing imports for two seconds and holds 200 MiB of code for itself. One that is forked from
a server which has done that starts at once, and shares those pages as long as nobody writes to them; `gc.freeze` keeps
the collector from writing to all of them. Nothing here starts a thread, and nothing may: threads do not survive a fork.
"""

from __future__ import annotations

import gc

import chunkflow.plan.pipeline
import chunkflow.run.preload
import chunkflow.run.worker  # noqa: F401

gc.collect()
gc.freeze()
