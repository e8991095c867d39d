"""What an output folder holds, from its plan, its journal, its lock and the files themselves; looks only.

The journal has a line for every unit that was safely on disk, the system frees the lock when its holder dies, and
every line is checked against its files. So the answer is true before, during and after a run, and after a kill; what
was in flight when a run was killed is said to be unknown, and is computed again. Looks at each file of the result
once: 10^6 files take seconds on a local disk, minutes on a slow network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chunkflow.errors import InputNotFoundError
from chunkflow.geometry.box import triple
from chunkflow.geometry.grid import Grid
from chunkflow.run.intact import Files, block_is_intact, merge_is_intact
from chunkflow.run.journal import Journal, PassState
from chunkflow.run.lock import is_locked
from chunkflow.run.places import array_folder, pass_key, run_folder
from chunkflow.storage.layout import ArrayLayout, objects_of

RunWord = Literal["running", "complete", "damaged", "failed", "interrupted", "killed", "not started"]
PassWord = Literal["done", "running", "waiting", "failed", "missing", "unknown"]


@dataclass(frozen=True, slots=True)
class FailedUnit:
    """A block that was set aside."""

    unit: int
    core: str
    error: str


@dataclass(frozen=True, slots=True)
class PassStatus:
    """One pass.

    state : "missing": files of it are gone; "unknown": the run ended in it, and units that it had in flight are
        computed again; "waiting": not begun
    done : units that are on disk as the journal says
    missing : units that were done and whose files are not as they were
    """

    name: str
    state: PassWord
    units: int
    done: int
    missing: int
    failed: tuple[FailedUnit, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """One output folder.

    state : "killed" is an end that the run could not write down; "damaged": complete, but files are gone
    code : exit code of the last run that ended
    command : what computes the rest; empty where it is not known
    """

    output: Path
    state: RunWord
    code: int | None
    passes: tuple[PassStatus, ...]
    command: str

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON values: what `status --json` prints."""
        return {
            "output": str(self.output),
            "state": self.state,
            "code": self.code,
            "command": self.command,
            "passes": [
                {
                    "name": p.name,
                    "state": p.state,
                    "units": p.units,
                    "done": p.done,
                    "missing": p.missing,
                    "failed": [{"unit": f.unit, "core": f.core, "error": f.error} for f in p.failed],
                }
                for p in self.passes
            ],
        }


def status(output: str | Path) -> Status:
    """What has been computed in an output folder, and what has not.

    Raises
    ------
    InputNotFoundError : the folder holds no run.
    """
    folder = Path(output)
    run = run_folder(folder)
    if not run.is_dir():
        raise InputNotFoundError(f"{output} holds no run", "Give the output folder of chunkflow run")
    is_running = is_locked(run)  # before the journal is read: a run that ends meanwhile then shows as ended or running
    journal = Journal.read(run / "journal.jsonl")
    stored = _stored(run)
    if stored is None or not journal.starts:
        return Status(folder, "running" if is_running else "not started", None, (), "")
    passes = _passes(folder, stored, journal, is_running)
    code = None if journal.ended is None else int(journal.ended["code"])
    command = str(journal.starts[-1].get("command", ""))
    stands = journal.is_published and journal.published_passes == dict(stored["fingerprints"])
    return Status(folder, _state(is_running, code, passes, stands), code, passes, command)


def _stored(run: Path) -> Mapping[str, Any] | None:
    path = run / "plan.json"
    if not path.is_file():
        return None
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None  # damaged: the next run writes it again
    return content


def _state(is_running: bool, code: int | None, passes: tuple[PassStatus, ...], stands: bool) -> RunWord:
    """`stands`: these very passes are published, whatever became of a run that had nothing more to do."""
    if is_running:
        return "running"
    if stands and all(p.state == "done" for p in passes):
        return "complete"
    if code is None:
        return "killed"
    if code == 0:
        return "complete" if all(p.state == "done" for p in passes) else "damaged"
    return "interrupted" if code == 130 else "failed"


def _passes(output: Path, stored: Mapping[str, Any], journal: Journal, is_running: bool) -> tuple[PassStatus, ...]:
    found: list[PassStatus] = []
    is_first_open = True
    for planned in stored["plan"]["passes"]:
        state = journal.state(stored["fingerprints"][planned["name"]])
        intact = sum(_is_intact(output, stored, journal, planned, unit) for unit in state.done)
        missing = len(state.done) - intact
        word = _pass_word(state, planned["units"], intact, missing, is_running, is_first_open)
        is_first_open = is_first_open and word == "done"
        failed = tuple(FailedUnit(unit, f["core"], f["error"]) for unit, f in sorted(state.failed.items()))
        found.append(PassStatus(planned["name"], word, planned["units"], intact, missing, failed))
    return tuple(found)


def _pass_word(
    state: PassState, units: int, intact: int, missing: int, is_running: bool, is_first_open: bool
) -> PassWord:
    if state.finished and intact == units:
        return "done"
    if is_running:
        return "running" if is_first_open else "waiting"
    if missing:
        return "missing"
    if state.failed:
        return "failed"
    return "unknown" if is_first_open else "waiting"


def _is_intact(
    output: Path, stored: Mapping[str, Any], journal: Journal, planned: Mapping[str, Any], unit: int
) -> bool:
    name = planned["name"]
    fingerprint = stored["fingerprints"][name]
    state = journal.state(fingerprint)
    records = run_folder(output) / "records" / pass_key(name, fingerprint)
    if planned["merge"]:
        return merge_is_intact(state.done[unit], records)
    core = Grid(triple(planned["shape"]), triple(planned["core"])).core_of(unit)
    arrays = {array["name"]: array for array in stored["plan"]["arrays"]}
    files = []
    for array in planned["writes"]:
        folder = array_folder(output, array, name, fingerprint, journal.locations)
        names = objects_of(_layout(arrays[array]), core)
        files.append(Files(None if array in state.dropped else folder, names))
    return block_is_intact(state.done[unit], records, unit, files)


def _layout(array: Mapping[str, Any]) -> ArrayLayout:
    shard = None if array["shard"] is None else triple(array["shard"])
    return ArrayLayout(triple(array["shape"]), array["dtype"], triple(array["chunk"]), shard, array["zarr_format"])
