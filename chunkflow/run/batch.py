"""Many images, one pipeline, one command: each image is a run of its own, and the batch is what they have in common.

    sources -> items -> [threshold of all] -> small ones, several in flight -> large ones, block by block -> summary
               names    histograms             one process each, whole images  the engine of `run`     contact sheet

An image that fits one block is computed by one process from start to end. What the images share is kept in OUT/run;
the folder OUT/NAME of an image is a result like any other. The same command goes on: what is done, under the same
pipeline, is not looked at again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from chunkflow.backend import available_cores, find_device
from chunkflow.errors import UsageError
from chunkflow.plan.pipeline import Pipeline
from chunkflow.plan.plan import MEMORY_SHARE
from chunkflow.run.batch_inputs import Item, found_items
from chunkflow.run.batch_item import Work, run_images
from chunkflow.run.batch_processes import DiedError, in_flight
from chunkflow.run.batch_samples import sampled
from chunkflow.run.batch_state import RUN, STATE, BatchState, Outcome, key_of
from chunkflow.run.batch_summary import summary_table, write_summary
from chunkflow.run.batch_threshold import common_threshold, counting, shared_stage, with_value
from chunkflow.run.engine import ClusterOptions
from chunkflow.run.events import Listener
from chunkflow.run.lock import OutputLock
from chunkflow.run.result import open_result
from chunkflow.storage.files import write_atomic


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a batch left.

    summary : a row per image and time point; `status` is done or failed
    reused : names of the images that were done before
    threshold : the one all images share, if they do
    """

    path: Path
    summary: pd.DataFrame
    reused: tuple[str, ...]
    threshold: float | None
    warnings: tuple[str, ...]

    @property
    def failed(self) -> pd.DataFrame:
        """The rows that have no result."""
        return self.summary[self.summary["status"] != "done"]

    @property
    def incomplete(self) -> pd.DataFrame:
        """Rows whose result lacks something: a proof of its skeletons, or blocks that were set aside."""
        told = self.summary["incomplete"] if "incomplete" in self.summary else pd.Series("", self.summary.index)
        return self.summary[told.fillna("") != ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a batch is run.

    samples : table of file, condition, replicate; by default samples.csv beside the images, where there is one
    conditions : pattern of the images' paths instead, such as `{condition}/{replicate}/*.tif`
    reports : write report.html of every image, half a second each
    on : engine of images larger than a block, as `run_plan`; "serial" starts no process, "local" does at once
    cluster : its profile and the like; smaller images are run in processes of this machine all the same
    workers : images in flight, by default one per core; one on a GPU
    device, restart, overwrite, allow_holes, mix_kinds, command : as `run_plan`
    """

    samples: str | Path | None = None
    conditions: str | None = None
    reports: bool = False
    on: str | None = None
    cluster: ClusterOptions | None = None
    workers: int | None = None
    device: str = "auto"
    restart: bool = False
    overwrite: bool = False
    allow_holes: bool = False
    mix_kinds: bool = False
    command: str = ""


def run_batch(
    pipeline: Pipeline,
    sources: Sequence[str | Path],
    output: str | Path,
    *,
    options: Options = Options(),
    on_event: Listener | None = None,
) -> BatchResult:
    """Run a pipeline on many images; `OUT/summary.csv` has a row for each, `OUT/index.html` a picture.

    Parameters
    ----------
    sources : files, folders, patterns, OME-Zarr images, plates.
    on_event : called with {"event": "file", "file", "status", "error", "done", "total", "failed", "seconds"} for each
        image that ends, and as `run_plan` calls it with devices and warnings.

    Raises
    ------
    UsageError : nothing can be run; an image that cannot is a row of the summary instead.
    """
    out = Path(output)
    say = (lambda event: None) if on_event is None else on_event
    every_time = pipeline.input.time == "all"
    items = found_items(sources, output=out, every_time=every_time)
    items, warnings = sampled(items, sources, samples=options.samples, conditions=options.conditions)
    _check_output(out, options.overwrite)
    with OutputLock(out / RUN):
        (out / RUN / "files").mkdir(exist_ok=True)  # what tells a batch, however early it is killed
        batch = _Batch(pipeline, out, items, options, say)
        for warning in warnings:
            say({"event": "warning", "text": warning})
        _write_state(batch, None, warnings)
        value, reused = batch.run()
        shutil.rmtree(out / RUN / "inputs", ignore_errors=True)  # empty folders of imports
        done = _result(out, items, reused, value, warnings)
        _write_state(batch, value, warnings)
        _write_sheet(done, say)
    return done


def _check_output(out: Path, overwrite: bool) -> None:
    """Refuse what a batch must not write into."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"the output {out} is a file", "Name a folder")
    if (out / RUN / "plan.json").is_file():
        raise UsageError(f"{out} holds the run of one image, and this is a batch", "Choose another output")
    known = (out / RUN / STATE).is_file() or (out / RUN / "files").is_dir()
    if out.exists() and any(entry.name != "run" for entry in out.iterdir()) and not known and not overwrite:
        raise UsageError(f"{out} holds something that is no batch", "Choose another output, or add --overwrite")


@dataclass(slots=True)
class _Batch:
    """What the steps of a batch hand to each other."""

    pipeline: Pipeline
    out: Path
    items: Sequence[Item]
    options: Options
    say: Listener
    failed: int = 0
    done: int = 0
    rule: str = ""

    def run(self) -> tuple[float | None, tuple[str, ...]]:
        """Run all there is to run; the threshold they share, and the names of those that were done."""
        device = find_device(self.options.device)
        self.say({"event": "device", "text": str(device)})
        work = self._work(device.kind)
        stage = shared_stage(self.pipeline)
        value = None
        if stage is not None:
            self.rule = stage.method
            value = self._shared_threshold(work, stage)
            self.pipeline = with_value(self.pipeline, stage, value)
            self.say({"event": "threshold", "value": value, "method": stage.method})
            work = replace(work, restart=False)  # it was, for the histograms
        left = [item for item in self.items if work.restart or not self._is_done(item)]
        reused = tuple(item.name for item in self.items if item not in left)
        self.done = len(reused)
        self.say({"event": "batch", "total": len(self.items), "done": len(reused)})
        for outcome in self._outcomes(work, self.pipeline, left):
            self._tell(outcome)
        return value, reused

    def _work(self, device: str) -> Work:
        options = self.options
        count = 1 if device == "gpu" or options.on == "serial" else options.workers or available_cores()
        return Work(
            output=self.out.resolve(),
            memory=int(psutil.virtual_memory().total * MEMORY_SHARE / max(1, min(count, len(self.items)))),
            device=device,
            restart=options.restart,
            overwrite=options.overwrite,
            report=options.reports,
            allow_holes=options.allow_holes,
            mix_kinds=options.mix_kinds,
            workers=count,
            command=options.command,
        )

    def _is_done(self, item: Item) -> bool:
        """Whether the result is there, of this pipeline and this image."""
        known = BatchState(self.out).outcome(item.name)
        if known is None or known.status != "done" or known.key != key_of(self.pipeline, item):
            return False
        try:
            open_result(self.out / item.name)
        except Exception:  # of whatever kind: it is run again, which says more
            return False
        return True

    def _shared_threshold(self, work: Work, stage: Any) -> float:
        """The histogram of every image that has none yet, and what they come to."""
        state, only = BatchState(self.out), counting(self.pipeline, stage)
        keys = {item.name: key_of(only, item) for item in self.items}
        left = [item for item in self.items if work.restart or state.histogram(item.name, keys[item.name]) is None]
        self.say({"event": "histograms", "total": len(self.items), "done": len(self.items) - len(left)})
        for outcome in self._outcomes(replace(work, histograms=True), only, left):
            self.say({"event": "histogram", "file": outcome.name, "status": outcome.status, "error": outcome.error})
        found = [state.histogram(item.name, keys[item.name]) for item in self.items]
        return common_threshold([histogram for histogram in found if histogram is not None], stage)

    def _outcomes(self, work: Work, pipeline: Pipeline, items: Sequence[Item]) -> Iterable[Outcome]:
        """Outcomes of all items, small ones first; large ones then have the engine for themselves."""
        tasks: dict[tuple[str, str | None], list[Item]] = {}
        for item in items:
            tasks.setdefault((item.path if item.is_file else item.name, item.dataset), []).append(item)
        large: list[Item] = []
        count = work.workers or 1
        groups = [tuple(group) for group in tasks.values()]
        function = partial(_run_task, replace(work, workers=1), pipeline)
        for group, outcomes in in_flight(function, groups, workers=count, at_once=self.options.on == "local"):
            for item, outcome in zip(group, _of_died(work, pipeline, group, outcomes), strict=True):
                if outcome.status == "large":
                    large.append(item)
                else:
                    yield outcome
        engine = self._engine(work)
        for item in large:
            yield from run_images(engine, pipeline, [item])

    def _engine(self, work: Work) -> Work:
        """What runs an image of several blocks: the place and the profile of the options, with the whole machine."""
        cluster = self.options.cluster
        found = replace(work, defer=False, on=self.options.on, workers=self.options.workers, memory=None)
        if cluster is None or cluster.profile is None:
            return replace(found, cluster=cluster)
        return replace(found, cluster=cluster, device=self.options.device, memory=cluster.worker_memory)

    def _tell(self, outcome: Outcome) -> None:
        self.done += 1
        self.failed += outcome.status != "done"
        facts = {"status": outcome.status, "error": outcome.error, "seconds": round(outcome.seconds, 3)}
        found = {name: outcome.row[name] for name in ("objects", "length_um", "loops") if name in outcome.row}
        counts = {"done": self.done, "total": len(self.items), "failed": self.failed}
        self.say({"event": "file", "file": outcome.name, **facts, **found, **counts})


def _run_task(work: Work, pipeline: Pipeline, items: Sequence[Item]) -> list[Outcome]:
    return run_images(work, pipeline, items)


def _of_died(
    work: Work, pipeline: Pipeline, items: Sequence[Item], outcomes: list[Outcome] | DiedError
) -> list[Outcome]:
    """The outcomes; of a process that died, that it did."""
    if not isinstance(outcomes, DiedError):
        return outcomes
    error = "the process died while it computed this image, alone, twice; most often for want of memory"
    found = []
    for item in items:
        outcome = Outcome(name=item.name, key=key_of(pipeline, item), status="failed", error=error, exit_code=3)
        BatchState(work.output).store(outcome)
        found.append(outcome)
    return found


def _result(
    out: Path, items: Sequence[Item], reused: tuple[str, ...], value: float | None, warnings: Sequence[str]
) -> BatchResult:
    """The summary of what is on disk, written."""
    state = BatchState(out)
    outcomes = {item.name: outcome for item in items if (outcome := state.outcome(item.name)) is not None}
    table = summary_table(items, outcomes)
    write_summary(out, table)
    return BatchResult(out, table, reused, value, tuple(warnings))


def _write_state(batch: _Batch, threshold: float | None, warnings: Sequence[str]) -> None:
    content = {
        "chunkflow": version("chunkflow-engine"),
        "command": batch.options.command,
        "pipeline": batch.pipeline.to_dict(),
        "images": [item.name for item in batch.items],
        "threshold": threshold,
        "threshold_method": batch.rule,
        "warnings": list(warnings),
    }
    write_atomic(batch.out / RUN / STATE, json.dumps(content, indent=1).encode())


def _write_sheet(done: BatchResult, say: Listener) -> None:
    """The contact sheet, which must never cost a batch."""
    from chunkflow.report.contact_sheet import write_contact_sheet

    try:
        write_contact_sheet(done)
    except Exception as error:  # the results are complete without it
        say({"event": "warning", "text": f"the contact sheet could not be written: {error}"})
