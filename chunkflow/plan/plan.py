"""A plan: passes settled on grids, with their arrays, memory and fingerprints. Writes nothing, and reads
no voxel but a few of an input that is called a mask.

    stages --drafts(flow)--> drafts --layout, memory, checks--> passes --fingerprints--> what can be re-used

What cannot work is refused here, before any work starts: blocks that do not fit shards, a PSF larger than the volume,
a block that does not fit the memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from chunkflow.backend import available_cores
from chunkflow.errors import PlanError, UsageError
from chunkflow.geometry.box import Triple
from chunkflow.geometry.region import parse_region
from chunkflow.geometry.scale import Scale
from chunkflow.plan import blocks, memory
from chunkflow.plan.beside import Beside, open_beside
from chunkflow.plan.disk import Disk, disk_of
from chunkflow.plan.fingerprint import fingerprint
from chunkflow.plan.inputs import input_identity, open_inputs
from chunkflow.plan.opened import Opened
from chunkflow.plan.passes import (
    Pass,
    PlannedArray,
    arrays_of,
    drafts_of,
    reads_of,
    record_warnings,
    saved_arrays,
    settled,
    warnings_of,
)
from chunkflow.plan.pipeline import Pipeline
from chunkflow.plan.reading import Traffic, traffic_of
from chunkflow.plan.region import Lender, Part, read_box
from chunkflow.plan.values import plan_values
from chunkflow.stages import pyramid
from chunkflow.stages.infer import InferCores, InferViews
from chunkflow.storage.layout import ArrayLayout
from chunkflow.storage.stores import Place, place_of
from chunkflow.storage.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from chunkflow.run.result import Result

SMALL_VOXELS = 2**22  # a few seconds of work, as long as a local cluster takes to start
MEMORY_SHARE = 0.8  # of the machine, for all workers together; the rest is the system's and the file cache's


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run will do.

    input, mask, beside : what is read; identities tell whether it changed
    output : folder of the result
    block : nominal core of the blocks
    passes : in order
    arrays : every array written, by name
    shape, scale : grid of the outputs; levels : scale of each pyramid level by array
    memory : bytes per worker that the plan was fitted to
    facts : what stages settled, for people: the PSF and where its numbers came from
    warnings : sentences for the user
    """

    pipeline: Pipeline
    input: Volume
    mask: Opened | None
    beside: Beside
    input_identity: Mapping[str, Any]
    output: Place
    block: Triple
    passes: tuple[Pass, ...]
    arrays: Mapping[str, PlannedArray]
    shape: Triple
    scale: Scale
    levels: Mapping[str, Sequence[Scale]]
    memory: int
    facts: Mapping[str, Any]
    warnings: tuple[str, ...]

    @property
    def peak_bytes(self) -> int:
        """Projected peak of a worker process; passes over records, which data decide, have warnings of their own."""
        known = [p for p in self.passes if p.holds_voxels or p.draft.merge is not None]
        ahead = (p.ahead_bytes if self.reads_ahead(p) else 0 for p in known)
        return self.process_bytes + max(p.peak_bytes + more for p, more in zip(known, ahead, strict=True))

    def reads_ahead(self, p: Pass) -> bool:
        """Whether a worker has room to read the next block of a pass, or write the last, while it computes one."""
        return self.process_bytes + p.peak_bytes + p.ahead_bytes <= self.memory

    @property
    def peak_of_blocks(self) -> int:
        """Projected peak of a worker process over the passes that hold voxels, none read ahead: a bound."""
        return self.process_bytes + max(p.peak_bytes for p in self.passes if p.holds_voxels)

    @property
    def layouts(self) -> dict[str, ArrayLayout]:
        """Layout of every array that is read or written, by name."""
        opened = {"input": self.input, **({} if self.mask is None else {"input_mask": self.mask}), **self.beside.arrays}
        return {name: volume.layout for name, volume in opened.items()} | {
            name: array.layout for name, array in self.arrays.items()
        }

    @property
    def disk(self) -> Disk:
        """What the arrays take, before compression."""
        return disk_of(self.passes, self.arrays)

    def traffic(self, p: Pass) -> Traffic:
        """What a pass moves."""
        return traffic_of(p, self.layouts)

    @property
    def process_bytes(self) -> int:
        """What a worker process takes before it holds any voxel."""
        has_network = any(isinstance(step, InferCores | InferViews) for p in self.passes for step in p.draft.steps)
        return memory.PROCESS_BYTES + (memory.TORCH_BYTES if has_network else 0)

    @property
    def is_small(self) -> bool:
        """Whether starting workers takes longer than computing all of it here."""
        return prod(self.shape) <= SMALL_VOXELS

    @property
    def largest_grid(self) -> int:
        """Units of the pass that has most: how many workers can be kept busy."""
        return max(p.units for p in self.passes)

    def pass_named(self, name: str) -> Pass:
        return next(p for p in self.passes if p.name == name)

    def fingerprints(self, kind: str) -> dict[str, str]:
        """Fingerprint of every pass on one kind of compute (see `chunkflow.backend.compute_kind`)."""
        source = {"identity": self.input_identity, "nan": self.pipeline.input.nan}
        found: dict[str, str] = {"input": fingerprint(source), "input_mask": fingerprint(source)}
        for name, seen in self.beside.identities.items():
            found[name] = fingerprint({"identity": seen, "nan": self.pipeline.input.nan})
        for p in self.passes:
            upstream = {name: found[self.arrays[name].producer if name in self.arrays else name] for name in p.reads}
            layouts = {spec.name: self.arrays[spec.name].layout for spec in p.draft.writes}
            found[p.name] = fingerprint(
                {
                    "name": p.name,
                    "steps": p.draft.steps,
                    "merge": p.draft.merge,
                    "grid": p.draft.grid,
                    "constants": p.draft.constants,
                    "layouts": layouts,
                    "reads": upstream,
                    "needs": {name: found[name] for name in p.draft.needs},
                    "kind": kind,
                }
            )
        return found

    def run(
        self,
        client: Any = None,
        *,
        on: str | None = None,
        workers: int | None = None,
        device: str = "auto",
        options: Any = None,
        restart: bool = False,
        overwrite: bool = False,
        on_oom: Literal["fail", "host"] = "fail",
        allow_holes: bool = False,
        mix_kinds: bool = False,
        on_event: Callable[[Any], None] | None = None,
    ) -> Result:
        """Do it. See `chunkflow.run.driver.run_plan`."""
        from chunkflow.run.driver import run_plan

        return run_plan(
            self,
            client=client,
            on=on,
            workers=workers,
            device=device,
            options=options,
            restart=restart,
            overwrite=overwrite,
            on_oom=on_oom,
            allow_holes=allow_holes,
            mix_kinds=mix_kinds,
            on_event=on_event,
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values: what `plan --json` prints."""
        return plan_values(self)


def make_plan(
    pipeline: Pipeline,
    volume: Volume | str | Path | None = None,
    output: str | Path | None = None,
    *,
    block: Triple | Literal["auto"] | None = None,
    memory: int | None = None,
    workers: int | None = None,
    resume: bool = True,
) -> Plan:
    """Settle a pipeline on a volume.

    Parameters
    ----------
    volume, output : what to read and write; by default what the pipeline says.
    block : nominal core of the blocks; by default the pipeline's. "auto" is that of the run in `output`, where there is
        one and `resume` is true, so that another machine goes on with the same blocks; else what moves least of what
        fits (`plan.blocks`).
    memory : bytes one worker may take; by default this machine's, shared among `workers` (default: one per core).

    Raises
    ------
    UsageError : and its kinds, when the plan cannot work; exit code 2.
    """
    if output is None and pipeline.output.path is None:
        raise UsageError("no output is named", "Give -o OUT, or output: {path: OUT} in the pipeline")
    target = place_of(output if output is not None else str(pipeline.output.path))
    source, mask = open_inputs(pipeline, volume)
    limit = memory or int(psutil.virtual_memory().total * MEMORY_SHARE / (workers or available_cores()))
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers cannot work", "Use 1 or more")
    asked = block or pipeline.block
    wanted = asked if asked != "auto" else _stored_block(target) if resume else None
    part = _part(pipeline, source, mask, target)
    if part is not None:
        source, mask = source.cropped(part.box), None if mask is None else mask.cropped(part.box)
    seen = input_identity(source, mask, pipeline)
    beside = open_beside(pipeline, source, seen)
    settle = partial(_settle, pipeline, source, mask, beside, seen, target, limit=limit, part=part)
    if wanted is not None:
        plan = settle(block=wanted)
    else:
        unit = pipeline.output.shard or pipeline.output.chunk
        tried = blocks.candidates(source.shape, unit, source.layout.chunk)
        plan = _cheapest((settle(block=block) for block in tried), workers or available_cores())
    _check_memory(plan)
    return plan


def _cheapest(plans: Iterable[Plan], workers: int) -> Plan:
    """The plan whose blocks move least, of those that fit; the one that needs least memory where none fits."""
    best: tuple[tuple[bool, float], Plan] | None = None
    smallest: Plan | None = None
    for plan in plans:
        if smallest is None or plan.peak_of_blocks < smallest.peak_of_blocks:
            smallest = plan
        if plan.peak_of_blocks > plan.memory:
            continue
        cost = (plan.peak_bytes > plan.memory, blocks.cost_of(plan, workers))
        if best is None or cost[0] < best[0][0] or (cost[0] == best[0][0] and cost[1] < blocks.CLEARLY * best[0][1]):
            best = cost, plan
    if best is not None:
        return best[1]
    if smallest is None:
        raise PlanError("there is no block to try", "Give one")
    return smallest


def _part(pipeline: Pipeline, source: Volume, mask: Opened | None, target: Place) -> Part | None:
    """The part of the volume that the pipeline asks for, and what a run of the whole volume lends it."""
    options = pipeline.input
    if options.region is None:
        return None
    scale = source.scale.shrunk(options.expansion) if options.expansion != 1 else source.scale
    asked = parse_region(options.region, scale, source.shape)
    if options.statistics_from is None:
        return Part(box=asked, asked=asked, whole=source.shape)
    lender = Lender.open(options.statistics_from)
    alone = replace(options, region=None, statistics_from=None)
    pipeline = replace(pipeline, input=alone, output=lender.output(pipeline.output))
    seen = input_identity(source, mask, pipeline)
    beside = open_beside(pipeline, source, seen)
    whole = _settle(pipeline, source, mask, beside, seen, target, lender.block, 0)
    box = read_box(whole, asked)
    return Part(box=box, asked=asked, whole=source.shape, lent=lender.lent(whole, box))


def _stored_block(output: Place) -> Triple | None:
    """The block of the run that an output folder holds."""
    path = output / "run" / "plan.json"
    if not path.is_file():
        return None
    try:
        z, y, x = json.loads(path.read_text(encoding="utf-8"))["plan"]["block"]
    except (ValueError, KeyError, TypeError):
        return None  # damaged: the block is chosen anew, and what it changes is computed again
    return z, y, x


def _settle(
    pipeline: Pipeline,
    source: Volume,
    mask: Opened | None,
    beside: Beside,
    seen: Mapping[str, Any],
    output: Place,
    block: Triple,
    limit: int,
    part: Part | None = None,
) -> Plan:
    drafts, flow = drafts_of(pipeline, source, mask, block, beside, part)
    saved = saved_arrays(pipeline, drafts)
    levels: dict[str, Sequence[Scale]] = {}
    for spec in saved:
        above, levels[spec.name] = pyramid.levels(
            array=spec.name,
            dtype=spec.dtype,
            labels=spec.name not in ("image", "probability"),
            shape=flow.shape,
            scale=flow.scale,
            block=block,
            mode=pipeline.output.pyramid,
        )
        drafts += above
    kept = {spec.name for spec in saved}
    reads = [reads_of(draft) for draft in drafts]
    used = {name for names in reads for name in names}
    drafts = [replace(d, writes=tuple(w for w in d.writes if w.name in used | kept or "@" in w.name)) for d in drafts]
    arrays = arrays_of(pipeline, drafts, kept)
    opened = {"input": source, **({} if mask is None else {"input_mask": mask}), **beside.arrays}
    readable = {name: (volume.shape, volume.dtype.name) for name, volume in opened.items()}
    readable |= {name: (array.layout.shape, array.layout.dtype) for name, array in arrays.items()}
    passes = tuple(settled(draft, names, arrays, readable) for draft, names in zip(drafts, reads, strict=True))
    return Plan(
        pipeline=pipeline,
        input=source,
        mask=mask,
        beside=beside,
        input_identity=seen,
        output=output,
        block=block,
        passes=passes,
        arrays=arrays,
        shape=flow.shape,
        scale=flow.scale,
        levels=levels,
        memory=limit,
        facts=flow.facts,
        warnings=(
            *warnings_of(arrays, seen, source),
            *record_warnings(passes, limit),
            *beside.warnings,
            *flow.warnings,
        ),
    )


def _check_memory(plan: Plan) -> None:
    """Refuse blocks that do not fit. What passes over records take follows from the data: that is a warning."""
    if plan.peak_of_blocks > plan.memory:
        worst = max((p for p in plan.passes if p.holds_voxels), key=lambda p: p.peak_bytes)
        remedy = "a smaller tile" if worst.draft.tiled else "a smaller block"
        raise PlanError(
            f"pass {worst.name} takes {(plan.process_bytes + worst.peak_bytes) / 2**20:.0f} MiB per worker, more than "
            f"the {plan.memory / 2**20:.0f} MiB there are",
            f"Use fewer workers, {remedy}",
        )
