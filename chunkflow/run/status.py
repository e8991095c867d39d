"""What an output folder holds, from its plan, its journal, its lock and the files themselves; looks only.

The journal has a line for every unit that was safely on disk, the system frees the lock when its holder dies, and
every line is checked against its files. So the answer is true before, during and after a run, and after a kill. A unit
is one of

    done          its line and its files are there, byte for byte as far as there is a reason to doubt (`run.digests`)
    running       the run is going on, and has not said more of it
    failed        it failed, and the run ended before it was tried again
    quarantined   it failed for good and was set aside, with a report
    unknown       the run ended while it was in flight or waiting: it is computed again
    missing       it was done, and its files are not as they were

and every one that is not done is computed by the command that is named. Looks at each file of the result once: 10^6
files take seconds on a local disk, minutes on a slow network.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from chunkflow.errors import InputNotFoundError, IntegrityError
from chunkflow.geometry.box import triple
from chunkflow.geometry.grid import Grid
from chunkflow.run.journal import Journal, PassState
from chunkflow.run.lock import is_locked
from chunkflow.run.outstanding import Left
from chunkflow.run.places import array_folder, pass_key, run_folder
from chunkflow.storage.layout import ArrayLayout
from chunkflow.storage.stores import Place, listed_once, place_of

RunWord = Literal[
    "running", "complete", "holes", "damaged", "failed", "interrupted", "killed", "not started", "unreadable"
]
PassWord = Literal["done", "holes", "running", "waiting", "failed", "quarantined", "missing", "unknown"]


@dataclass(frozen=True, slots=True)
class SetAside:
    """A block that failed.

    core : its box; attempts : how often it was tried; peak : largest memory of its process in bytes, where it is known
    kind : of the error; is_hole : whether later passes read background in its place
    """

    unit: int
    core: str
    error: str
    attempts: int
    kind: str
    peak: int | None
    is_hole: bool


@dataclass(frozen=True, slots=True)
class PassStatus:
    """One pass.

    state : the worst that can be said of it. "missing": files of it are gone; "unknown": the run ended in it, and units
        that it had in flight are computed again; "waiting": not begun; "holes": done but for blocks that are background
    done : units that are on disk as the journal says
    missing : units that were done and whose files are not as they were
    unknown : units that nothing is known of, in a pass that the run had begun
    failed : units that failed and were not set aside; quarantined : units that were
    """

    name: str
    state: PassWord
    units: int
    done: int
    missing: int
    unknown: int
    failed: tuple[SetAside, ...]
    quarantined: tuple[SetAside, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """One output folder.

    state : "killed" is an end that the run could not write down; "damaged": complete, but files are gone; "holes":
        complete, but for blocks that were set aside; "unreadable": of a folder among others, whose own status says why
    code : exit code of the last run that ended
    command : what computes whatever is not done; empty where it is not known
    kinds : of compute that the units were computed on; more than one is a mixed result
    """

    output: Place
    state: RunWord
    code: int | None
    passes: tuple[PassStatus, ...]
    command: str
    kinds: tuple[str, ...] = ()

    @property
    def is_mixed(self) -> bool:
        """Whether units were computed on several kinds of device, processor or library versions."""
        return len(self.kinds) > 1

    def to_dict(self) -> dict[str, Any]:
        """The status as JSON values: what `status --json` prints."""
        return {
            "output": str(self.output),
            "state": self.state,
            "code": self.code,
            "command": self.command,
            "kinds": list(self.kinds),
            "mixed": self.is_mixed,
            "passes": [asdict(p) for p in self.passes],
        }


def commands(found: Status) -> list[tuple[str, int, str]]:
    """What computes the units of each state that is not done: (state, how many, command), none where all are."""
    counted: Counter[str] = Counter()
    for p in found.passes:
        holes = sum(unit.is_hole for unit in p.quarantined)
        counted["quarantined"] += len(p.quarantined) - holes
        counted["holes"] += holes
        counted["failed"] += len(p.failed)
        counted["unknown"] += p.unknown
        counted["missing"] += p.missing
        counted["waiting"] += p.units if p.state == "waiting" else 0
    if found.state == "running":
        return []
    without = " ".join(word for word in found.command.split(" ") if word != "--allow-holes")
    return [(state, n, without if state == "holes" else found.command) for state, n in counted.items() if n]


def status(output: str | Place) -> Status:
    """What has been computed in an output folder, and what has not.

    Raises
    ------
    InputNotFoundError : the folder holds no run.
    """
    folder = place_of(output)
    run = run_folder(folder)
    if not run.is_dir():
        raise InputNotFoundError(f"{output} holds no run", "Give the output folder of chunkflow run")
    is_running = is_locked(run)  # before the journal is read: a run that ends meanwhile then shows as ended or running
    journal = Journal.read(run / "journal.jsonl")
    stored = _stored(run)
    if stored is None or not journal.starts:
        return Status(folder, "running" if is_running else "not started", None, (), "")
    try:
        with listed_once(folder):
            return _status(folder, stored, journal, is_running)
    except Exception as error:  # of a file that anybody may have written
        raise IntegrityError(
            f"{run / 'plan.json'} is no plan of this version ({type(error).__name__}: {error})",
            "Run the same command again, which writes it anew",
        ) from error


def _status(folder: Place, stored: Mapping[str, Any], journal: Journal, is_running: bool) -> Status:
    passes = _passes(folder, stored, journal, is_running)
    fingerprints = {p.name: str(stored["fingerprints"][p.name]) for p in passes}
    code = None if journal.ended is None else int(journal.ended["code"])
    command = str(journal.starts[-1].get("command", ""))
    kinds = {kind for fingerprint in fingerprints.values() for kind in journal.state(fingerprint).kinds}
    stands = journal.is_published and journal.publishing is None and journal.published_passes == fingerprints
    return Status(folder, _state(is_running, code, passes, stands), code, passes, command, tuple(sorted(kinds)))


def _stored(run: Place) -> Mapping[str, Any] | None:
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
    are_done = all(p.state in ("done", "holes") for p in passes)
    if stands and are_done:
        return "holes" if any(p.state == "holes" for p in passes) else "complete"
    if stands and any(p.missing for p in passes):
        return "damaged"
    if code is None:
        return "killed"
    if code == 0:
        return "complete" if are_done else "damaged"
    return "interrupted" if code == 130 else "failed"


def _passes(output: Place, stored: Mapping[str, Any], journal: Journal, is_running: bool) -> tuple[PassStatus, ...]:
    found: list[PassStatus] = []
    is_first_open = True
    trust = replace(journal.trust, doubt=None if is_running else journal.unclean_session)
    for planned in stored["plan"]["passes"]:
        left = _left(output, stored, journal, planned)
        intact = sum(left.is_intact(unit, trust) for unit in left.state.done)
        found.append(_pass(planned, left.state, intact, is_running, is_first_open))
        is_first_open = is_first_open and found[-1].state in ("done", "holes")
    return tuple(found)


def _pass(
    planned: Mapping[str, Any], state: PassState, intact: int, is_running: bool, is_first_open: bool
) -> PassStatus:
    holes, missing = state.holes, len(state.done) - intact
    failed = tuple(_set_aside(unit, facts, False) for unit, facts in sorted(state.failed.items()))
    aside = tuple(_set_aside(unit, facts, unit in holes) for unit, facts in sorted(state.quarantined.items()))
    open_units = int(planned["units"]) - len(state.done) - len(failed) - sum(not unit.is_hole for unit in aside)
    began = is_first_open or bool(state.done) or bool(failed) or bool(aside)
    unknown = open_units if began and not is_running else 0
    word: PassWord = "done"
    if state.finished and intact == planned["units"]:
        word = "holes" if holes else "done"
    elif is_running:
        word = "running" if is_first_open else "waiting"
    elif missing:
        word = "missing"
    elif len(aside) > len(holes):
        word = "quarantined"
    elif failed:
        word = "failed"
    else:
        word = "unknown" if began else "waiting"
    return PassStatus(planned["name"], word, int(planned["units"]), intact, missing, unknown, failed, aside)


def _set_aside(unit: int, facts: Mapping[str, Any], is_hole: bool) -> SetAside:
    peak = facts.get("peak")
    return SetAside(
        unit,
        str(facts.get("core", "")),
        str(facts.get("error", "")),
        int(facts.get("attempts", 1)),
        str(facts.get("kind", "")),
        None if peak is None else int(peak),
        is_hole,
    )


def _left(output: Place, stored: Mapping[str, Any], journal: Journal, planned: Mapping[str, Any]) -> Left:
    """What a pass left, by the plan that is stored."""
    name = planned["name"]
    fingerprint = stored["fingerprints"][name]
    arrays = {array["name"]: array for array in stored["plan"]["arrays"]}
    folders = {array: array_folder(output, array, name, fingerprint, journal.locations) for array in planned["writes"]}
    return Left(
        state=journal.state(fingerprint),
        records=run_folder(output) / "records" / pass_key(name, fingerprint),
        grid=Grid(triple(planned["shape"]), triple(planned["core"])),
        arrays={array: (folder, _layout(arrays[array])) for array, folder in folders.items()},
        is_merge=planned["merge"],
    )


def _layout(array: Mapping[str, Any]) -> ArrayLayout:
    shard = None if array["shard"] is None else triple(array["shard"])
    return ArrayLayout(triple(array["shape"]), array["dtype"], triple(array["chunk"]), shard, array["zarr_format"])
