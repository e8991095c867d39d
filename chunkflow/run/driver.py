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
import socket
from collections.abc import Mapping
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from chunkflow.errors import (
    ChunkflowError,
    DiskFullError,
    IncompleteError,
    InputChangedError,
    IntegrityError,
    OutputInUseError,
    is_disk_full,
)
from chunkflow.plan.inputs import input_identity
from chunkflow.plan.passes import Pass
from chunkflow.plan.plan import Plan
from chunkflow.run.admission import changes_of_input, check_admission, forget_run, remember_input
from chunkflow.run.engine import ClusterOptions, chosen_device, engine_for
from chunkflow.run.events import Listener, Stream
from chunkflow.run.findings import Findings, kinds_of_run
from chunkflow.run.journal import Journal
from chunkflow.run.leftovers import sweep_probes
from chunkflow.run.lock import OutputLock, next_epoch
from chunkflow.run.ongoing import Run
from chunkflow.run.outstanding import Accepted, forget, lost_units, outstanding, reusable
from chunkflow.run.places import Places
from chunkflow.run.temporaries import drop_others, drop_read
from chunkflow.run.visit import run_pass
from chunkflow.run.worker import OnOom, StaleRunError
from chunkflow.storage.files import sweep_partial_files, write_atomic
from chunkflow.storage.records import merged_path, read_record
from chunkflow.storage.stores import Place, listed_once, place_of

if TYPE_CHECKING:
    from chunkflow.run.result import Result

__all__ = ["reusable", "run_plan"]

log = logging.getLogger(__name__)

SAID_BYTES = 1000  # of an error, that the journal keeps: less than the reserve of its last words


def run_plan(
    plan: Plan,
    *,
    client: Any = None,
    on: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    options: ClusterOptions | None = None,
    restart: bool = False,
    overwrite: bool = False,
    on_oom: OnOom = "fail",
    allow_holes: bool = False,
    mix_kinds: bool = False,
    on_event: Listener | None = None,
    command: str = "",
    report: bool = True,
) -> Result:
    """Compute what the plan's output lacks.

    Parameters
    ----------
    client : a distributed Client to use; otherwise `on` decides.
    on : "local" (processes), "threads", "serial" or the address of a scheduler; by default threads on a GPU, serial
        where there is one block, else local.
    workers : by default one per core; one thread on a GPU.
    device : "auto", "gpu" or "cpu".
    options : a profile of the site, how long to wait, and whether to do without TLS.
    restart : forget what an earlier run left.
    overwrite : write into a folder that holds something else.
    on_oom : what becomes of a block that does not fit the GPU: "fail" sets it aside, "host" computes it on the CPU,
        which is recorded.
    allow_holes : blocks that are set aside are read as background by later passes, instead of stopping the run;
        without it the next run tries them again, and computes again what stood on them.
    mix_kinds : go on with what was computed on another kind of device, processor or library versions, and take workers
        of any; the result is marked as mixed. Without it passes of another kind are computed again.
    on_event : called with progress, as mappings with an "event".
    command : what the user typed, which `chunkflow status` shows to those who want to go on.
    report : whether to write report.html, which takes half a second of a small volume; of a run that fails too.

    Raises
    ------
    ChunkflowError : and its kinds, each with its exit code.
    """
    say = Stream(on_event)
    found = chosen_device(device, on=on, options=options)
    say({"event": "device", "text": str(found)})
    check_admission(plan, overwrite=overwrite, restart=restart)
    engine = engine_for(plan, found, client=client, on=on, workers=workers, options=options)
    has_begun, is_ours = False, True
    try:
        with closing(engine), OutputLock(plan.output / "run"):
            if restart:
                forget_run(plan.output / "run")
            say.keep_in(plan.output / "run")
            remember_input(plan)
            with closing(Journal.open(plan.output / "run" / "journal.jsonl")) as journal:
                accepted = Accepted(
                    kind=engine.kind(),
                    mixed=mix_kinds or on_oom == "host",
                    holes=allow_holes,
                    doubt=journal.unclean_session,
                )
                base = _base_kind(plan.output / "run", journal, accepted, mix_kinds, say)
                places = Places(plan, plan.fingerprints(base))
                epoch = next_epoch(places.run)
                run = Run(plan, places, journal, engine, found, epoch, say, on_oom, accepted, command)
                has_begun = True
                _run_locked(run, base)
            from chunkflow.run.result import open_result

            result = open_result(plan.output)
            if report:
                say.flush()
                _write_report(result, say)
    except Exception as error:
        is_ours = not isinstance(error, StaleRunError | OutputInUseError)
        if report and has_begun and is_ours:
            with suppress(Exception):  # nothing may stand before the error of the run
                from chunkflow.run.result import Result

                say.flush()
                if _write_report(Result(plan.output), say):
                    say({"event": "report", "path": str(plan.output / "report.html")})
        raise
    finally:
        if is_ours:
            say.flush()
    return result


def _write_report(result: Result, say: Listener) -> bool:
    """The report, which must never cost a run: what goes wrong with it is a warning. Whether it is there."""
    from chunkflow.report.report import write_report

    try:
        write_report(result)
    except Exception as error:  # the result is complete and audited without it
        log.debug("the report could not be written", exc_info=error)
        say({"event": "warning", "of": "report", "text": f"the report could not be written: {error}"})
        return False
    return True


def _base_kind(folder: Place, journal: Journal, accepted: Accepted, mix_kinds: bool, say: Listener) -> str:
    """The kind of compute that passes are known by: this one, or that of the run which is gone on with, mixed."""
    try:
        before = str(json.loads((folder / "plan.json").read_text(encoding="utf-8"))["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return accepted.kind
    if before == accepted.kind or not journal.passes:
        return accepted.kind
    text = f"this run computes on {accepted.kind}, the last one on {before}"
    if mix_kinds:
        say({"event": "warning", "text": f"{text}: what it left is taken over, and the result marked as mixed"})
        return before
    say({"event": "warning", "text": f"{text}: its passes are computed again (--mix-kinds takes them over)"})
    return accepted.kind


def _run_locked(run: Run, base: str) -> None:
    sweep_partial_files(run.plan.output)
    if isinstance(run.plan.output, Path):
        sweep_probes(run.plan.output.absolute().parent)
    here = {"host": socket.gethostname(), "pid": os.getpid(), "command": run.command}
    options = {"allow_holes": run.accepted.holes, "mixed": run.accepted.mixed}
    run.journal.append("start", time=time(), epoch=run.epoch[1], kind=run.accepted.kind, **here, **options)
    described = run.plan.to_dict()
    _store_plan(run, described, base)
    for warning in run.plan.warnings:
        run.say({"event": "warning", "text": warning})
    try:
        _compute(run, described)
    except BaseException as error:
        with suppress(OSError):  # a disk that is fuller than the reserve: the error says it
            said = {"error": str(error)[:SAID_BYTES]} if str(error) else {}
            run.journal.append("end", time=time(), code=_exit_code(error), **said)
        raise
    holes = sum(len(run.journal.state(run.fingerprint(p.name)).holes) for p in run.plan.passes)
    run.journal.append("end", time=time(), code=IncompleteError.exit_code if holes else 0)


def _exit_code(error: BaseException) -> int:
    if is_disk_full(error):
        return DiskFullError.exit_code
    if isinstance(error, ChunkflowError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else ChunkflowError.exit_code


def _compute(run: Run, described: Mapping[str, Any]) -> None:
    """Everything between the first line of the journal and the last; `described` is the plan as JSON values."""
    needed = _needed(run)
    names = {p.name for p in needed}
    findings = Findings(
        run.plan.pipeline.to_dict(),
        described,
        lambda name: read_record(merged_path(run.places.records(name))),
        {p.name: run.journal.state(run.fingerprint(p.name)) for p in run.plan.passes},
    )
    run.say({"event": "plan", "passes": [p.name for p in run.plan.passes], "needed": [p.name for p in needed]})
    for p in run.plan.passes:
        if p.name in names:
            run_pass(run, p)
        else:
            run.say({"event": "reused", "pass": p.name, "units": p.units})
        if run.plan.pipeline.output.scratch == "drop":
            drop_read(run, p)
        for warning in findings.after(p.name):
            run.say({"event": "warning", "text": warning})
    for warning in kinds_of_run(findings.states):
        run.say({"event": "warning", "text": warning})
    _audit(run)
    from chunkflow.run.publish import publish  # tables, pandas, pyarrow: 60 MiB, not to be held for the whole run

    publish(run.plan, run.places, run.journal)
    drop_others(run)


def _store_plan(run: Run, described: Mapping[str, Any], kind: str) -> None:
    content = {
        "chunkflow": version("chunkflow-engine"),
        "python": platform.python_version(),
        "kind": kind,
        "pipeline": run.plan.pipeline.to_dict(),
        "plan": described,
        "fingerprints": dict(run.places.fingerprints),
    }
    write_atomic(run.places.run / "plan.json", json.dumps(content, indent=1).encode())


def _needed(run: Run) -> list[Pass]:
    """Passes to run, in order; the journal forgets what they have lost."""
    with listed_once(run.plan.output):
        tasks = outstanding(run.plan, run.places, run.journal, run.accepted)
    for task in tasks:
        if task.lost:
            log.warning("pass %s: units %s have lost files, and are computed again", task.what.name, task.lost)
    forget(run.places, run.journal, tasks)
    return [task.what for task in tasks]


def _audit(run: Run) -> None:
    """Done means all done, before anything is published: every unit of every pass, its files, and the input it read."""
    with listed_once(run.plan.output):
        for p in run.plan.passes:
            state = run.journal.state(run.fingerprint(p.name))
            lost = set(range(p.units)) - state.done.keys()
            lost |= set(lost_units(run.plan, run.places, run.journal, p))
            if lost:
                raise IntegrityError(
                    f"{len(lost)} of {p.units} units of pass {p.name} are missing or damaged after the run",
                    "Check the disk, and run the same command again",
                )
    now = {**input_identity(run.plan.input, run.plan.mask, run.plan.pipeline)}
    if changes := changes_of_input(run.plan.input_identity, now):
        _forget_unaudited(run)
        raise InputChangedError(
            f"the input changed while it was read: {'; '.join(changes)}", "Restore it, or add --restart"
        )
    file, number = run.epoch
    if not place_of(file).is_file() or place_of(file).read_text(encoding="ascii") != str(number):
        raise StaleRunError(f"{run.plan.output} was deleted or taken over while the run went on", "Run it again")


def _forget_unaudited(run: Run) -> None:
    """Passes of this result may have read what was there for a moment; those of a published one did not."""
    audited = set(run.journal.published_passes.values())
    for p in reversed(run.plan.passes):
        if run.fingerprint(p.name) not in audited:
            run.journal.append("reset", **{"pass": run.fingerprint(p.name)})
