"""One run per output in an object store, which has no locks: an object that says whose the output is.

    run/lock    {"state": "held", "token": ..., "machine": ..., "process": ..., "beat": 17}

    taken       by a put that fails where the object is there (If-None-Match)
    held        by a thread that puts it again every 30 s; each put fails where the object is another one (If-Match)
    given back  by a last put
    taken over  by the same conditional put: where it was given back, its process has ended on this machine, or it
                was not renewed for 5 minutes by the store's own clock

Of two that take it over at once one put succeeds. Whoever is taken over without noticing (a machine that slept) is
stopped by the journal, whose next segment is there already (`run/segments.py`). A store that ignores conditions is
refused before anything is written.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from chunkflow.errors import ChunkflowError, OutputInUseError, UsageError
from chunkflow.storage.connections import Stamp
from chunkflow.storage.retry import Conflict
from chunkflow.storage.stores import ObjectPath

BEAT_SECONDS = 30.0
EXPIRY_SECONDS = 300.0


class Owner:
    """The hold on an output of an object store."""

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._facts: dict[str, Any] = {"token": uuid.uuid4().hex, **_here(), "beat": 0}
        self._stamp: Stamp | None = None
        self._ended = Event()
        self._heart = Thread(target=self._beat, name="owner", daemon=True)

    def take(self) -> None:
        """Take the output.

        Raises
        ------
        OutputInUseError : another run has it; the message says which, and when it may be taken over.
        UsageError : the store does not keep conditions, so that two runs could both write.
        """
        self._check_conditions()
        try:
            self._path.create(self._content("held"))
            self._stamp = self._path.stamp()
        except Conflict:
            self._take_over()
        self._heart.start()

    def give_back(self) -> None:
        """End the hold, if it is still ours."""
        self._ended.set()
        if self._heart.ident is not None:
            self._heart.join()
        with suppress(Conflict, ChunkflowError):
            if self._stamp is not None:
                self._path.replace_if(self._content("free"), self._stamp)

    def _take_over(self) -> None:
        content, known = self._path.read_stamped()
        holder = _facts_of(content)
        if not _may_be_taken(holder) and (left := EXPIRY_SECONDS - self._age(known)) > 0:
            raise in_use(self._path, holder, f"If that run was killed, it can be taken over in {left:.0f} s")
        try:
            self._stamp = self._path.replace_if(self._content("held"), known)
        except Conflict:
            raise in_use(self._path, {}, "Wait for it, or choose another output") from None

    def _age(self, known: Stamp) -> float:
        """Seconds since the object was put, by the store's clock, which is asked by putting an object."""
        clock = self._path.with_name("clock")
        clock.write_bytes(self._content("clock"))
        now = clock.stamp()
        clock.unlink()
        return 0.0 if now is None else (now.modified - known.modified).total_seconds()

    def _check_conditions(self) -> None:
        probe = self._path.with_name("clock")
        probe.unlink()
        probe.write_bytes(self._content("probe"))
        try:
            probe.create(self._content("second probe"))
        except Conflict:
            return
        finally:
            probe.unlink()
        raise UsageError(
            f"the store of {self._path.parent.parent} ignores conditional puts, so two runs could both write there",
            "Use a store that keeps If-None-Match and If-Match (S3, GCS, MinIO and Ceph do), or a local output",
        )

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._facts["beat"] += 1
            try:
                assert self._stamp is not None
                self._stamp = self._path.replace_if(self._content("held"), self._stamp)
            except Conflict:
                return  # taken over: the journal stops this run
            except ChunkflowError:
                continue  # the store does not answer now; the journal will say so if it goes on

    def _content(self, state: str) -> bytes:
        return json.dumps({"state": state, **self._facts}).encode()


def is_held(path: ObjectPath) -> bool:
    """Whether a run has the output, as far as the clocks of this machine and the store agree."""
    try:
        content, stamp = path.read_stamped()
    except FileNotFoundError:
        return False
    age = (datetime.now(UTC) - stamp.modified).total_seconds()
    return not _may_be_taken(_facts_of(content)) and age < EXPIRY_SECONDS


def in_use(path: ObjectPath, holder: Mapping[str, Any], remedy: str) -> OutputInUseError:
    """The error of an output that another run has."""
    named = {key: holder[key] for key in ("process", "machine") if key in holder}
    return OutputInUseError(f"another run writes {path.parent.parent} ({json.dumps(named) if named else '?'})", remedy)


def _facts_of(content: bytes) -> Mapping[str, Any]:
    try:
        facts = json.loads(content)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _may_be_taken(holder: Mapping[str, Any]) -> bool:
    """Whether it was given back, or its process has ended here."""
    if holder.get("state") == "free":
        return True
    here = _here()
    if any(holder.get(key) != here[key] for key in ("machine", "space")):
        return False
    try:
        return psutil.Process(int(holder["process"])).create_time() != holder.get("began")
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return True


def _here() -> dict[str, Any]:
    """This process, and the space its number is unique in: a boot of a machine, and a container of it."""
    space = [""]
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = [boot, str(os.stat("/proc/self/ns/pid").st_ino)]
    process = psutil.Process()
    return {
        "process": process.pid,
        "began": process.create_time(),
        "machine": socket.gethostname(),
        "space": "/".join(space),
    }
