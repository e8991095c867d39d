"""A run from start to end: one driver, one journal, passes in order.

    lock -> input unchanged? -> fingerprints -> audit -> passes that are missing -> audit -> publish -> drop temporaries

A pass is skipped when the journal holds it as finished, its files have the sizes they had, and nobody who must run
needs an array of it that was deleted since. So the same command resumes, a changed parameter computes what depends
on it, and a damaged result is healed. Blocks that fail are set aside; the others of their pass go on, and the run stops
before a pass that would need them.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from chunkflow.backend import Device, find_device
from chunkflow.errors import (
    BlockError,
    ChunkflowError,
    DiskFullError,
    IncompleteError,
    IntegrityError,
    UsageError,
)
from chunkflow.plan.passes import Pass
from chunkflow.plan.plan import Plan
from chunkflow.run.admission import check_admission, forget_run, remember_input
from chunkflow.run.engine import Engine, chosen_engine
from chunkflow.run.findings import Findings
from chunkflow.run.intact import Files, block_is_intact, merge_is_intact
from chunkflow.run.journal import Journal
from chunkflow.run.lock import OutputLock, next_epoch
from chunkflow.run.places import Places, run_folder
from chunkflow.run.publish import publish
from chunkflow.run.worker import Job, Needed, Source, UnitResult, run_unit
from chunkflow.stages.label import label_dtype
from chunkflow.storage.files import sweep_partial_files, write_atomic
from chunkflow.storage.layout import ArrayLayout
from chunkflow.storage.records import merged_path, read_record, write_record
from chunkflow.storage.tiff_stack import TiffStack
from chunkflow.storage.volume import Volume, create_array

if TYPE_CHECKING:
    from chunkflow.run.result import Result

log = logging.getLogger(__name__)

Event = Mapping[str, Any]
Listener = Callable[[Event], None]

ATTEMPTS = 2  # of a unit whose error may pass: a file system that hiccups


@dataclass(slots=True)
class Run:
    """What the functions of this module hand to each other."""

    plan: Plan
    places: Places
    journal: Journal
    engine: Engine
    device: Device
    epoch: tuple[str, int]
    say: Listener


def run_plan(
    plan: Plan,
    *,
    client: Any = None,
    on: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    restart: bool = False,
    overwrite: bool = False,
    on_event: Listener | None = None,
    command: str = "",
) -> Result:
    """Compute what the plan's output lacks.

    Parameters
    ----------
    client : a distributed Client to use; otherwise `on` decides.
    on : "local" (processes), "threads", "serial" or the address of a scheduler; by default threads on a GPU, serial
        where there is one block, else local.
    workers : by default one per core; one thread on a GPU.
    device : "auto", "gpu" or "cpu".
    restart : forget what an earlier run left.
    overwrite : write into a folder that holds something else.
    on_event : called with progress, as mappings with an "event".
    command : what the user typed, which `chunkflow status` shows to those who want to go on.

    Raises
    ------
    ChunkflowError : and its kinds, each with its exit code.
    """
    from chunkflow.run.result import open_result

    say = (lambda event: None) if on_event is None else on_event
    found = find_device(device)
    say({"event": "device", "text": str(found)})
    check_admission(plan, overwrite=overwrite, restart=restart)
    engine = chosen_engine(
        client=client, on=on, workers=workers, units=plan.largest_grid, memory=plan.memory, device=found
    )
    with closing(engine), OutputLock(plan.output / "run"):
        if restart:
            forget_run(plan.output / "run")
        remember_input(plan)
        with closing(Journal.open(plan.output / "run" / "journal.jsonl")) as journal:
            _run_locked(plan, journal, engine, found, say, command)
        result = open_result(plan.output)
        _write_report(result, say)
    return result


def _write_report(result: Result, say: Listener) -> None:
    """The report, which must never cost a run: what goes wrong with it is a warning."""
    from chunkflow.report.report import write_report

    try:
        write_report(result)
    except Exception as error:  # the result is complete and audited without it
        log.warning("the report could not be written", exc_info=error)
        say({"event": "warning", "text": f"the report could not be written: {error}"})


def _run_locked(plan: Plan, journal: Journal, engine: Engine, device: Device, say: Listener, command: str) -> None:
    kind = engine.kind()
    places = Places(plan, plan.fingerprints(kind))
    sweep_partial_files(plan.output)
    epoch = next_epoch(places.run)
    here = {"host": socket.gethostname(), "pid": os.getpid(), "command": command}
    journal.append("start", time=time(), epoch=epoch[1], kind=kind, **here)
    _store_plan(plan, places, kind)
    run = Run(plan, places, journal, engine, device, epoch, say)
    for warning in plan.warnings:
        say({"event": "warning", "text": warning})
    try:
        _compute(run)
    except BaseException as error:
        code = error.exit_code if isinstance(error, ChunkflowError) else 1
        journal.append("end", time=time(), code=130 if isinstance(error, KeyboardInterrupt) else code)
        raise
    journal.append("end", time=time(), code=0)


def _compute(run: Run) -> None:
    """Everything between the first line of the journal and the last."""
    needed = _needed(run)
    names = {p.name for p in needed}
    findings = Findings(
        run.plan.pipeline.to_dict(),
        run.plan.to_dict(),
        lambda name: read_record(merged_path(run.places.records(name))),
    )
    run.say({"event": "plan", "passes": [p.name for p in run.plan.passes], "needed": [p.name for p in needed]})
    for p in run.plan.passes:
        if p.name in names:
            _run_pass(run, p)
        else:
            run.say({"event": "reused", "pass": p.name, "units": p.units})
        for warning in findings.after(p.name):
            run.say({"event": "warning", "text": warning})
    _audit(run)
    publish(run.plan, run.places, run.journal)
    _drop_temporaries(run)


def _store_plan(plan: Plan, places: Places, kind: str) -> None:
    content = {
        "chunkflow": version("chunkflow-engine"),
        "python": platform.python_version(),
        "kind": kind,
        "pipeline": plan.pipeline.to_dict(),
        "plan": plan.to_dict(),
        "fingerprints": dict(places.fingerprints),
    }
    write_atomic(places.run / "plan.json", json.dumps(content, indent=1).encode())


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A pass that has to run.

    lost : units that were done and whose files are not as they were
    dropped : whether arrays of it that were deleted are needed again, so that all of it runs
    """

    what: Pass
    lost: tuple[int, ...]
    dropped: bool


def outstanding(plan: Plan, places: Places, journal: Journal) -> list[Outstanding]:
    """Passes to run, in order; looks only. Goes backwards: whoever runs may need arrays that were deleted since."""
    found: list[Outstanding] = []
    wanted: set[str] = {a.name for a in plan.arrays.values() if a.kept}
    for p in reversed(plan.passes):
        state = journal.state(places.fingerprints[p.name])
        lost = tuple(unit for unit in state.done if not _is_intact(plan, places, journal, p, unit))
        dropped = bool(state.dropped & wanted & {spec.name for spec in p.draft.writes})
        if lost or dropped or not state.finished or len(state.done) != p.units:
            found.append(Outstanding(p, lost, dropped))
            wanted |= set(p.reads)
    return found[::-1]


def reusable(plan: Plan, kind: str) -> tuple[str, ...]:
    """Names of the passes that a run on this kind of compute would take from the output as they are; looks only."""
    path = run_folder(plan.output) / "journal.jsonl"
    if not path.is_file():
        return ()
    needed = {task.what.name for task in outstanding(plan, Places(plan, plan.fingerprints(kind)), Journal.read(path))}
    return tuple(p.name for p in plan.passes if p.name not in needed)


def _needed(run: Run) -> list[Pass]:
    """Passes to run, in order; the journal forgets what they have lost."""
    needed = outstanding(run.plan, run.places, run.journal)
    for task in needed:
        fingerprint = run.places.fingerprints[task.what.name]
        for unit in task.lost:
            log.warning("pass %s: unit %d has lost files, and is computed again", task.what.name, unit)
            run.journal.append("lost", **{"pass": fingerprint, "unit": unit})
        if task.dropped:
            run.journal.append("reset", **{"pass": fingerprint})
    return [task.what for task in needed]


def _is_intact(plan: Plan, places: Places, journal: Journal, p: Pass, unit: int) -> bool:
    """Whether the record and the files of a unit that is done have the sizes they had. Dropped arrays are let be."""
    state = journal.state(places.fingerprints[p.name])
    records = places.records(p.name)
    if p.draft.merge is not None:
        return merge_is_intact(state.done[unit], records)
    files = []
    for spec in p.draft.writes:
        folder = None if spec.name in state.dropped else places.locate(spec.name, journal.locations)
        files.append(Files(folder, places.objects(spec.name, unit, plan.arrays[spec.name].layout)))
    return block_is_intact(state.done[unit], records, unit, files)


def _run_pass(run: Run, p: Pass) -> None:
    fingerprint = run.places.fingerprints[p.name]
    state = run.journal.state(fingerprint)
    job = _job(run, p)
    pending = [unit for unit in range(p.units) if unit not in state.done]
    run.say({"event": "pass", "pass": p.name, "units": p.units, "done": p.units - len(pending)})
    log.info("pass %s: %d of %d units to do", p.name, len(pending), p.units)
    failed: dict[int, BaseException] = {}
    for attempt in range(ATTEMPTS):
        failed = _run_units(run, p, job, pending)
        pending = sorted(unit for unit, error in failed.items() if not isinstance(error, BlockError))
        if not pending:
            break
        log.warning("pass %s: attempt %d failed for %d units", p.name, attempt + 1, len(pending))
    if failed:
        _set_aside(run, p, failed)
    run.journal.append("finished", **{"pass": fingerprint, "name": p.name})


def _run_units(run: Run, p: Pass, job: Job, units: Sequence[int]) -> dict[int, BaseException]:
    """Compute units and journal those that are done; returns the errors of the others."""
    fingerprint = run.places.fingerprints[p.name]
    failed: dict[int, BaseException] = {}
    outcomes = run.engine.map(partial(run_unit, job), units)
    for unit, outcome in outcomes:
        if isinstance(outcome, UnitResult):
            facts = {"objects": outcome.objects, "record": outcome.record}
            spent = {"seconds": round(outcome.seconds, 4), "peak": outcome.peak_bytes, "worker": outcome.worker}
            run.journal.append("unit", **{"pass": fingerprint, "unit": unit}, **facts, **spent)
        elif isinstance(outcome, DiskFullError | UsageError) or not isinstance(outcome, Exception):
            raise outcome  # no other block can fare better
        else:
            failed[unit] = outcome
        state = run.journal.state(fingerprint)
        run.say({"event": "unit", "pass": p.name, "units": p.units, "done": len(state.done), "failed": len(failed)})
    return failed


def _set_aside(run: Run, p: Pass, failed: Mapping[int, BaseException]) -> None:
    for unit, error in sorted(failed.items()):
        text = "".join(traceback.format_exception(error))
        core = p.draft.grid.core_of(unit)
        facts = {"unit": unit, "core": str(core), "error": str(error), "traceback": text}
        run.journal.append("failed", **{"pass": run.places.fingerprints[p.name]}, name=p.name, **facts)
        run.say({"event": "failed", "pass": p.name, "unit": unit, "core": str(core), "error": str(error)})
    unit, error = min(failed.items())
    raise IncompleteError(
        f"{len(failed)} of {p.units} blocks of pass {p.name} failed and were set aside; block {unit} at "
        f"{p.draft.grid.core_of(unit)}: {error}",
        f"See chunkflow status {run.plan.output}; the same command goes on where this one stopped",
    ) from error


def _job(run: Run, p: Pass) -> Job:
    places, plan = run.places, run.plan
    reads = {name: _source(run, name) for name in p.reads}
    writes: dict[str, Source] = {}
    for spec in p.draft.writes:
        array = plan.arrays[spec.name]
        scale = plan.scale
        volume = create_array(
            places.locate(spec.name, run.journal.locations), _final_layout(run, array.layout, array.labels), scale
        )
        writes[spec.source] = Source(volume.path)
    constants = places.constants(p.name)
    if p.draft.constants:
        write_record(constants, p.draft.constants)
    return Job(
        name=p.name,
        steps=p.draft.steps,
        merge=p.draft.merge,
        grid=p.draft.grid,
        reads=reads,
        writes=writes,
        needs={name: _need(run, p, name) for name in p.draft.needs},
        records=str(places.records(p.name)),
        constants=str(constants) if p.draft.constants else "",
        nan=plan.pipeline.input.nan,
        device=run.device.kind,
        epoch=run.epoch,
    )


def _source(run: Run, name: str) -> Source:
    if name in ("input", "input_mask"):
        volume = run.plan.input if name == "input" else run.plan.mask
        if volume is None:
            raise IntegrityError(f"pass reads {name}, which the plan does not have")
        return _source_of(volume)
    if name in run.plan.beside.arrays:
        return _source_of(run.plan.beside.arrays[name])
    return Source(str(run.places.locate(name, run.journal.locations).resolve()))


def _source_of(opened: Volume | TiffStack) -> Source:
    path = str(Path(opened.path).resolve())
    return Source(path, opened.axes, opened.at) if isinstance(opened, Volume) else Source(path)


def _need(run: Run, p: Pass, name: str) -> Needed:
    needed = run.plan.pass_named(name)
    same_grid = needed.draft.grid == p.draft.grid
    folder = str(run.places.records(name).resolve())
    return Needed(folder, len(needed.draft.grid), needed.draft.merge is not None, same_grid)


def _final_layout(run: Run, layout: ArrayLayout, labels: bool) -> ArrayLayout:
    """The layout with the dtype that holds every label, once their number is known."""
    if not labels:
        return layout
    merged = read_record(merged_path(run.places.records("label-merge")))
    return replace(layout, dtype=label_dtype(merged).name)


def _audit(run: Run) -> None:
    """Done means all done: every unit of every pass, with its files, before anything is published."""
    for p in run.plan.passes:
        state = run.journal.state(run.places.fingerprints[p.name])
        lost = [
            unit
            for unit in range(p.units)
            if unit not in state.done or not _is_intact(run.plan, run.places, run.journal, p, unit)
        ]
        if lost:
            for unit in lost:
                run.journal.append("lost", **{"pass": run.places.fingerprints[p.name], "unit": unit})
            raise IntegrityError(
                f"{len(lost)} of {p.units} units of pass {p.name} are missing or damaged after the run",
                "Check the disk, and run the same command again",
            )


def _drop_temporaries(run: Run) -> None:
    """Delete arrays that are not kept, and what earlier settings left; the journal knows before the disk does."""
    for p in run.plan.passes:
        fingerprint = run.places.fingerprints[p.name]
        arrays = [s.name for s in p.draft.writes if not run.plan.arrays[s.name].kept]
        if set(arrays) - run.journal.state(fingerprint).dropped:
            run.journal.append("dropped", **{"pass": fingerprint, "arrays": arrays})
    current = {run.places.pass_key(p.name) for p in run.plan.passes}
    shutil.rmtree(run.places.run / "arrays", ignore_errors=True)
    for folder in (run.places.run / "records").iterdir():
        if folder.name not in current:
            shutil.rmtree(folder, ignore_errors=True)
    stale = set(run.journal.passes) - {run.places.fingerprints[p.name] for p in run.plan.passes}
    for fingerprint in sorted(stale):
        run.journal.append("reset", **{"pass": fingerprint})
    with suppress(FileNotFoundError):
        (run.places.run / "epoch.new").unlink()
