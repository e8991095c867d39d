"""One image of a batch, from file to row: what a process of the batch does with it, and never raises for it.

    import (of a file) -> plan -> run, block by block in this process -> measures, picture -> outcome on disk

An error is an outcome like any other, so one bad image costs its own row. Only what no other image could survive, a
full disk above all, ends the batch.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from chunkflow.errors import ChunkflowError, DiskFullError, InputChangedError, OutputInUseError
from chunkflow.plan.pipeline import Pipeline
from chunkflow.plan.plan import Plan
from chunkflow.run.batch_import import name_source, readable
from chunkflow.run.batch_inputs import Item
from chunkflow.run.batch_pictures import picture_of
from chunkflow.run.batch_state import RUN, BatchState, Outcome, key_of
from chunkflow.run.driver import run_plan
from chunkflow.run.engine import ClusterOptions
from chunkflow.run.measures import measures_of
from chunkflow.run.result import Result, shortfall
from chunkflow.stages.resample import Resample
from chunkflow.storage.omezarr import image_facts

log = logging.getLogger(__name__)

SMALL_BLOCK = (128, 256, 256)
IN_USE_LOOKS, IN_USE_SECONDS = 6, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a process needs to know to run images of a batch. Travels to it once for each task.

    output : folder of the batch
    memory : bytes that one image may take
    device : of its kernels
    restart, overwrite, report, allow_holes, mix_kinds : as `run_plan`
    histograms : count the image only, for a threshold that all share
    defer : leave alone what does not fit one block
    on, workers, cluster : engine of what does not; None is this process
    command : what the user typed
    """

    output: Path
    memory: int | None = None
    device: str = "cpu"
    restart: bool = False
    overwrite: bool = False
    report: bool = False
    allow_holes: bool = False
    mix_kinds: bool = False
    histograms: bool = False
    defer: bool = True
    on: str | None = "serial"
    workers: int | None = 1
    cluster: ClusterOptions | None = None
    command: str = ""


def run_images(work: Work, pipeline: Pipeline, items: Sequence[Item]) -> list[Outcome]:
    """Run the images of one file or store, which is imported once for all of them.

    Raises
    ------
    DiskFullError : and nothing else that is an Exception.
    """
    for _ in range(IN_USE_LOOKS):
        outcomes = _attempted(work, pipeline, items)
        if not any(outcome.exit_code == OutputInUseError.exit_code for outcome in outcomes):
            break
        sleep(IN_USE_SECONDS)  # a process of a batch that was killed ends within a second
    return outcomes


def _attempted(work: Work, pipeline: Pipeline, items: Sequence[Item]) -> list[Outcome]:
    began = perf_counter()
    folder = work.output / RUN / "inputs" / items[0].name
    outcomes: list[Outcome] = []
    try:
        with readable(items[0].path, folder, voxel_um=pipeline.input.voxel_um, inner=items[0].dataset) as image:
            for item in items:
                outcomes.append(_run_image(work, pipeline, item, image, began))
                began = perf_counter()
    except DiskFullError:
        raise
    except Exception as error:  # the import failed: none of them can be run
        left = items[len(outcomes) :]
        outcomes += [_failed(work, key_of(pipeline, item), item, error, perf_counter() - began) for item in left]
    return outcomes


def _run_image(work: Work, pipeline: Pipeline, item: Item, image: Path, began: float) -> Outcome:
    key = key_of(pipeline, item)
    state = BatchState(work.output)
    if work.histograms:
        state.file(item.name).unlink(missing_ok=True)  # the run for its histogram replaces the result
    try:
        plan = _planned(work, pipeline, item, image)
        if work.defer and not fits_one_block(plan):
            return Outcome(name=item.name, key=key, status="large")
        result = _computed(work, plan, item)
        if work.histograms:
            merged = result.pass_values("threshold")
            state.store_histogram(item.name, key, {name: merged[name] for name in ("histogram", "edges")})
            return Outcome(name=item.name, key=key, status="done", seconds=perf_counter() - began)
        short = shortfall(result)
        row = {**measures_of(result), "incomplete": "" if short is None else short.what}
        state.store_picture(item.name, picture_of(result))
        kernels = _kernel_seconds(result)
    except DiskFullError:
        raise
    except Exception as error:  # of this image: the others go on
        if isinstance(error, ChunkflowError):
            name_source(error, image, Path(item.path))
        return _failed(work, key, item, error, perf_counter() - began)
    seconds = perf_counter() - began
    done = Outcome(name=item.name, key=key, status="done", row=row, seconds=seconds, kernel_seconds=kernels)
    state.store(done)
    return done


def fits_one_block(plan: Plan) -> bool:
    """Whether one process does best with a volume alone."""
    return all(n <= b for n, b in zip(plan.shape, plan.block, strict=True))


def _planned(work: Work, pipeline: Pipeline, item: Item, image: Path) -> Plan:
    """The plan of one image; its result names the file that the user has, not the import."""
    time = item.time if item.time is not None else pipeline.input.time
    chosen = replace(pipeline.input, path=item.path, time=time)
    own = replace(pipeline, input=chosen)
    resume = not work.restart
    if work.on == "serial":
        block = SMALL_BLOCK if own.block == "auto" and own.input.region is None and _is_small(own, image) else None
        return own.plan(image, work.output / item.name, block=block, memory=work.memory, workers=1, resume=resume)
    return own.plan(image, work.output / item.name, memory=work.memory, workers=work.workers, resume=resume)


def _is_small(pipeline: Pipeline, image: Path) -> bool:
    """Whether one block holds the image, so that trying others costs time alone: a fifth of a second."""
    shape = image_facts(image).levels[0].shape
    grows = any(isinstance(stage, Resample) for stage in pipeline.stages)
    return not grows and all(n <= side for n, side in zip(shape, SMALL_BLOCK, strict=True))


def _computed(work: Work, plan: Plan, item: Item) -> Result:
    """The result. An image that failed and was replaced since starts over; one that was done is refused."""
    options: dict[str, Any] = {
        "on": work.on,
        "workers": work.workers,
        "options": work.cluster,
        "device": work.device,
        "overwrite": work.overwrite,
        "allow_holes": work.allow_holes,
        "mix_kinds": work.mix_kinds,
        "command": work.command,
        "report": work.report and not work.histograms,
    }
    try:
        return run_plan(plan, restart=work.restart, **options)
    except InputChangedError:
        before = BatchState(work.output).outcome(item.name)
        if before is None or before.status != "failed" or before.exit_code == InputChangedError.exit_code:
            raise  # also the second time
        return run_plan(plan, restart=True, **options)


def _failed(work: Work, key: str, item: Item, error: Exception, seconds: float) -> Outcome:
    is_known = isinstance(error, ChunkflowError)
    log.info("%s failed", item.name, exc_info=error)
    text = (
        str(error) if is_known else f"unexpected {type(error).__name__}: {error}; a fault of chunkflow, please report"
    )
    code = error.exit_code if isinstance(error, ChunkflowError) else 1
    outcome = Outcome(
        name=item.name,
        key=key,
        status="failed",
        error=" ".join(text.replace(f"{item.path}: ", "").replace(item.path, item.file).split()),
        exit_code=code,
        traceback="" if is_known else "".join(traceback.format_exception(error)),
        seconds=seconds,
    )
    BatchState(work.output).store(outcome)
    with suppress(FileNotFoundError):
        BatchState(work.output).picture_file(item.name).unlink()
    return outcome


def _kernel_seconds(result: Result) -> float:
    """Spent on computing, between reading and writing."""
    journal = result.journal
    passes = set(journal.published_passes.values())
    units: list[Any] = [unit for key in passes for unit in journal.passes[key].done.values()]
    return float(sum(unit["spent"][1] for unit in units if "spent" in unit))
