"""The one stream of what happens in a run: mappings with an "event", said as they happen.

run_plan --say--> listener             bars, lines or JSON (`run/progress.py`), or what the caller gives
            |---> log                  "chunkflow.events", at INFO, of units at DEBUG
            `---> OUT/run/log.jsonl    all but units, of which the journal has a line each: what the report and
                                       `doctor --bundle` read later (`events_of`)

device      text                                   what is computed on, or why there is no GPU
dashboard   url                                    of the cluster that computes
plan        passes, needed
reused      pass, units
pass        pass, units, done                      it begins
unit        pass, units, done, failed, voxels, bytes
gpu         pass, workers: {id: [busy, used, total]}   mean share of time since the last one, and bytes, of each
failed      pass, unit, core, error                set aside
hole        pass, unit, core                       ... and background to what follows
report      path
warning     text
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any, TypeAlias

from chunkflow.storage.stores import Place

log = logging.getLogger("chunkflow.events")

Event: TypeAlias = Mapping[str, Any]
Listener: TypeAlias = Callable[[Event], None]

FILE = "log.jsonl"
MOST_BYTES = 16 * 2**20
"""Of the file: a run that fails every second for a year must not fill the disk with what it said."""


class Stream:
    """Hands events on to a listener and a log, and keeps them in a folder once there is one."""

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        self._file: Path | None = None
        self._early: list[str] | None = []

    def __call__(self, event: Event) -> None:
        """Say one event."""
        log.log(logging.DEBUG if event["event"] == "unit" else logging.INFO, "%s", event)
        if event["event"] != "unit":
            self._keep(json.dumps({"time": round(time(), 3), **event}))
        if self._listener is not None:
            self._listener(event)

    def keep_in(self, folder: Place) -> None:
        """Keep events in this folder from now on, and those said before; not in an object store: none can append."""
        early, self._early = self._early, None
        if isinstance(folder, Path):
            self._file = folder / FILE
            for line in early or ():
                self._keep(line)

    def _keep(self, line: str) -> None:
        if self._early is not None:
            self._early.append(line)
        elif self._file is not None:
            # No room, no rights: what is said must never end a run.
            with suppress(OSError), self._file.open("ab+") as file:
                end = file.seek(0, os.SEEK_END)
                if end >= MOST_BYTES:
                    return
                if end and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    line = f"\n{line}"  # a kill tore the last one
                file.write(f"{line}\n".encode())


def events_of(folder: Place) -> Iterator[Event]:
    """The events that a run's folder keeps, of all runs in it; lines that a kill tore are left out."""
    path = folder / FILE
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event
