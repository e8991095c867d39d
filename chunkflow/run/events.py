"""The one stream of what happens in a run: mappings with an "event", said as they happen.

run_plan --say--> listener             bars, lines or JSON (`run/progress.py`), or what the caller gives
            |---> log                  "chunkflow.events", at INFO, of units at DEBUG
            `---> OUT/run/log.jsonl    all but units, of which the journal has a line each: what the report and
                                       `doctor --bundle` read later (`events_of`; see `run/event_log.py`)

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from time import time
from typing import Any, TypeAlias

from chunkflow.run.event_log import FileLog, ObjectLog, log_in, log_lines
from chunkflow.storage.stores import Place

log = logging.getLogger("chunkflow.events")

Event: TypeAlias = Mapping[str, Any]
Listener: TypeAlias = Callable[[Event], None]


class Stream:
    """Hands events on to a listener and a log, and keeps them in a folder once there is one."""

    def __init__(self, listener: Listener | None = None) -> None:
        self._listener = listener
        self._log: FileLog | ObjectLog | None = None
        self._early: list[str] | None = []

    def __call__(self, event: Event) -> None:
        """Say one event."""
        log.log(logging.DEBUG if event["event"] == "unit" else logging.INFO, "%s", event)
        if event["event"] != "unit":
            self._keep(json.dumps({"time": round(time(), 3), **event}))
        elif self._log is not None:
            self._log.tick()
        if self._listener is not None:
            self._listener(event)

    def keep_in(self, folder: Place) -> None:
        """Keep events in this folder from now on, and those said before. The caller holds the output's lock."""
        early, self._early = self._early, None
        self._log = log_in(folder)
        for line in early or ():
            self._keep(line)

    def flush(self) -> None:
        """Let what was said be where others read it."""
        if self._log is not None:
            self._log.flush()

    def _keep(self, line: str) -> None:
        if self._early is not None:
            self._early.append(line)
        elif self._log is not None:
            self._log.add(line)


def events_of(folder: Place) -> Iterator[Event]:
    """The events that a run's folder keeps, of all runs in it; lines that a kill tore are left out."""
    for line in log_lines(folder):
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event
