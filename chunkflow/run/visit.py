"""One pass of a run: its units are tried, those that fail are tried again, those that fail again are set aside.

    pending --engine--> done                                    a line with sizes and digests of its files
                        failed, and the next try may go well    tried once more after the others
                        failed for good                         set aside (quarantined), with a report
                        not heard of                            tried once more; a run never takes it for done

Others of the pass go on. Then the run ends, or, where holes are allowed, a set-aside block is computed as background.
A unit that finds damage is not at fault: whoever wrote what it read is looked for, and computed again by the next run.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import time
from typing import Any

from chunkflow.errors import (
    AccessError,
    BlockError,
    ChunkflowError,
    DiskFullError,
    IncompleteError,
    IntegrityError,
    UsageError,
)
from chunkflow.plan.passes import Pass
from chunkflow.run.engine import Outcome
from chunkflow.run.failures import failure_of, is_of_the_run, kind_of_failure, trace_of
from chunkflow.run.holes import job_of_holes
from chunkflow.run.jobs import job_of
from chunkflow.run.lanes import Lanes
from chunkflow.run.merge_memory import check_merge
from chunkflow.run.ongoing import Run
from chunkflow.run.outstanding import forget, outstanding
from chunkflow.run.resident import peak_bytes
from chunkflow.run.worker import Job, StaleRunError, UnitResult, run_unit
from chunkflow.stages.base import in_order
from chunkflow.storage.retry import take_counts

log = logging.getLogger(__name__)

ATTEMPTS = 2  # of a unit whose error may pass: a file system that hiccups
HOPELESS = 8  # units that all say that what was asked for cannot be done, before any is done: no other can fare better


@dataclass(slots=True)
class Failure:
    """What is known of a unit that failed: its last error and how often it was tried."""

    error: BaseException
    attempts: int


def run_pass(run: Run, p: Pass) -> None:
    """Compute what a pass lacks, and journal it as finished.

    Raises
    ------
    IncompleteError : blocks were set aside, and holes are not allowed or cannot be made.
    BlockMemoryError : a merge cannot fit where it is to run.
    IntegrityError : something that it reads is damaged, or the engine lost units.
    """
    state = run.journal.state(run.fingerprint(p.name))
    job = job_of(run, p)
    pending = in_order(job.steps, [unit for unit in range(p.units) if unit not in state.done], job.grid)
    run.say({"event": "pass", "pass": p.name, "units": p.units, "done": p.units - len(pending)})
    log.info("pass %s: %d of %d units to do", p.name, len(pending), p.units)
    if pending and p.draft.merge is not None:
        check_merge(run, p)
    failures: dict[int, Failure] = {}
    for attempt in range(1, ATTEMPTS + 1):
        _run_units(run, p, job, pending, failures)
        open_units = [unit for unit in range(p.units) if unit not in state.done]
        pending = [u for u in open_units if u not in failures or not isinstance(failures[u].error, BlockError)]
        if not pending:
            break
        log.warning("pass %s: attempt %d failed for %d units", p.name, attempt, len(pending))
    failures = {unit: failure for unit, failure in failures.items() if unit not in state.done}
    if failures:
        _check_what_it_reads(run, p, failures)
        _set_aside(run, p, failures)
        _leave_holes(run, p, job, failures)
    unheard = [unit for unit in range(p.units) if unit not in state.done]
    if unheard:
        raise IntegrityError(
            f"nothing was heard of {len(unheard)} of {p.units} blocks of pass {p.name}, of block {unheard[0]} first",
            "Run the same command again",
        )
    own = {"requests": counts} if (counts := take_counts()) else {}  # of this process, since the pass before
    run.journal.append("finished", **{"pass": run.fingerprint(p.name), "name": p.name}, **own)


def _run_units(run: Run, p: Pass, job: Job, units: Sequence[int], failures: dict[int, Failure]) -> None:
    """Compute units and journal how they ended."""
    state = run.journal.state(run.fingerprint(p.name))
    voxels = written = 0
    for unit, outcome in _outcomes(run, job, units):
        if isinstance(outcome, UnitResult):
            _journal_done(run, p, outcome)
            run.gpus.hear(p.name, outcome.worker, outcome.gpu)
            run.tell_dashboard()
            failures.pop(unit, None)
            voxels += 0 if p.draft.merge is not None else p.draft.grid.core_of(unit).size
            written += outcome.written_bytes
        elif isinstance(outcome, AccessError | DiskFullError | StaleRunError) or not isinstance(outcome, Exception):
            raise outcome  # no other block can fare better
        else:
            before = failures[unit].attempts if unit in failures else 0
            outcome = outcome if isinstance(outcome, ChunkflowError) else failure_of(outcome)  # of a task that was lost
            failures[unit] = Failure(outcome, before + 1)
            facts = {"unit": unit, "core": str(p.draft.grid.core_of(unit)), "attempts": before + 1}
            run.journal.append("failed", **{"pass": run.fingerprint(p.name)}, **facts, error=str(outcome))
            _stop_if_hopeless(p, failures, bool(state.done))
        counted = {"done": len(state.done), "failed": len(failures), "voxels": voxels, "bytes": written}
        run.say({"event": "unit", "pass": p.name, "units": p.units, **counted})


def _outcomes(run: Run, job: Job, units: Sequence[int]) -> Iterator[Outcome[UnitResult]]:
    found = run.engine.map(partial(attempt_unit, job, run.engine.lanes), units)
    run.tell_dashboard()  # before the first unit, where a cluster is there by now
    return found


def attempt_unit(job: Job, lanes: Lanes | None, unit: int) -> UnitResult:
    """A unit, whose error is a sentence (see `run.failures`) and tells how much memory its process took."""
    try:
        return run_unit(job, unit, lanes)
    except BaseException as error:
        if is_of_the_run(error):
            raise
        failure = failure_of(error)
    failure.__dict__["peak_bytes"] = peak_bytes()
    raise failure  # outside of the handler, or it would take what it stands for with it


def _stop_if_hopeless(p: Pass, failures: Mapping[int, Failure], any_done: bool) -> None:
    """A mistake in what was asked for ends the run, one of a single block does not."""
    errors = [failure.error for failure in failures.values()]
    if any_done or not all(isinstance(error, UsageError) for error in errors):
        return
    if p.draft.merge is not None or len(errors) >= min(HOPELESS, p.units):
        raise errors[0]


def _journal_done(run: Run, p: Pass, result: UnitResult, **more: Any) -> None:
    """The line that makes a unit done.

    Raises
    ------
    UsageError : it was computed on another kind than the run's, which the user did not accept.
    """
    accepted = run.accepted
    if result.kind != accepted.kind and not accepted.mixed:
        raise UsageError(
            f"block {result.unit} of pass {p.name} was computed on {result.kind}, the run on {accepted.kind}",
            "Use workers of one kind, or --mix-kinds, which marks the result as mixed",
        )
    here = run.journal.starts[-1].get("kind") if run.journal.starts else None
    facts: dict[str, Any] = {"objects": result.objects, "record": result.record}
    spent = {"spent": [round(s, 4) for s in result.spent], "peak": result.peak_bytes}
    facts |= {"digests": result.seal.digests, "stamp": result.seal.stamp}
    facts |= {"at": round(time(), 3), **spent, "worker": result.worker, "device": result.device}
    if result.kind != here:
        facts["kind"] = result.kind
    if result.requests:
        facts["requests"] = result.requests
    run.journal.append("unit", **{"pass": run.fingerprint(p.name), "unit": result.unit}, **facts, **more)


def _check_what_it_reads(run: Run, p: Pass, failures: Mapping[int, Failure]) -> None:
    """Where what units read is damaged, whoever wrote it is computed again, and nobody is set aside for it."""
    found_damage = any(isinstance(failure.error, IntegrityError) for failure in failures.values())
    accepted = replace(run.accepted, doubt=0 if found_damage else run.accepted.doubt)  # 0: every byte
    tasks = outstanding(run.plan, run.places, run.journal, accepted)
    damaged = next((task for task in tasks if task.lost), None)
    if damaged is None:
        return  # it is the input that is damaged: those blocks cannot be computed
    forget(run.places, run.journal, [task for task in tasks if task.starts_over or task.lost])
    name, lost = damaged.what.name, damaged.lost
    at = damaged.what.draft.grid.core_of(lost[0])
    raise IntegrityError(
        f"{len(lost)} units of pass {name} were damaged since they were written; unit {lost[0]} at {at}",
        "Check the disk, and run the same command again, which computes them again",
    )


def _set_aside(run: Run, p: Pass, failures: Mapping[int, Failure]) -> None:
    """Journal a report of each block that failed for good."""
    for unit, failure in sorted(failures.items()):
        error = failure.error
        core = str(p.draft.grid.core_of(unit))
        facts = {"unit": unit, "core": core, "attempts": failure.attempts, "kind": kind_of_failure(error)}
        facts |= {"error": str(error), "peak": getattr(error, "peak_bytes", None), "command": run.command}
        trace = trace_of(error)
        run.journal.append(
            "quarantined", **{"pass": run.fingerprint(p.name)}, name=p.name, **facts, traceback=trace, time=time()
        )
        run.say({"event": "failed", "pass": p.name, "unit": unit, "core": core, "error": str(error)})


def _leave_holes(run: Run, p: Pass, job: Job, failures: Mapping[int, Failure]) -> None:
    """Compute blocks that were set aside as background, where that is allowed."""
    unit, failure = min(failures.items())
    said = (
        f"{len(failures)} of {p.units} blocks of pass {p.name} failed and were set aside; block {unit} at "
        f"{p.draft.grid.core_of(unit)}: {failure.error}"
    )
    status = f"chunkflow status {shlex.quote(str(run.plan.output))}"
    if not run.accepted.holes or p.draft.merge is not None:
        way = "" if p.draft.merge is not None else "; --allow-holes goes on without them"
        raise IncompleteError(
            said, f"See {status}; the same command goes on where this one stopped{way}"
        ) from failure.error
    readable = {name: (layout.shape, layout.dtype) for name, layout in run.plan.layouts.items()}
    for unit, outcome in _outcomes(run, job_of_holes(job, readable), sorted(failures)):
        if not isinstance(outcome, UnitResult):
            raise IncompleteError(
                f"{said}. Block {unit} cannot be left as a hole either: on background it fails with {outcome}",
                f"See {status}",
            ) from failure.error
        _journal_done(run, p, outcome, hole=True)
        run.say({"event": "hole", "pass": p.name, "unit": unit, "core": str(p.draft.grid.core_of(unit))})
