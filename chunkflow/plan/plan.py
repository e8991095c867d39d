"""A plan: passes settled on grids, with their arrays, memory and fingerprints. Reads no voxel and writes nothing.

    stages --drafts(flow)--> drafts --layout, memory, checks--> passes --fingerprints--> what can be re-used

What cannot work is refused here, before any work starts: blocks that do not fit shards, a PSF larger than the volume,
a block that does not fit the memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from chunkflow.backend import available_cores
from chunkflow.errors import PlanError, UsageError
from chunkflow.geometry.box import Triple, triple
from chunkflow.geometry.scale import Scale
from chunkflow.plan import memory
from chunkflow.plan.beside import Beside, open_beside
from chunkflow.plan.fingerprint import fingerprint
from chunkflow.plan.passes import (
    Pass,
    PlannedArray,
    arrays_of,
    drafts_of,
    reads_of,
    saved_arrays,
    settled,
    warnings_of,
)
from chunkflow.plan.pipeline import Pipeline
from chunkflow.stages import pyramid
from chunkflow.stages.infer import InferCores, InferViews
from chunkflow.storage.identity import identity
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.volume import Volume, missing_chunks

if TYPE_CHECKING:
    from collections.abc import Callable

    from chunkflow.run.result import Result

BLOCK_SIDES = (256, 192, 128, 96, 64, 32)
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
    mask: Volume | None
    beside: Beside
    input_identity: Mapping[str, Any]
    output: Path
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
        """Projected peak of a worker process."""
        return self.process_bytes + max(p.peak_bytes for p in self.passes)

    @property
    def process_bytes(self) -> int:
        """What a worker process takes before it holds any voxel."""
        has_network = any(isinstance(step, InferCores | InferViews) for p in self.passes for step in p.draft.steps)
        return memory.PROCESS_BYTES + (memory.TORCH_BYTES if has_network else 0)

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
        restart: bool = False,
        overwrite: bool = False,
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
            restart=restart,
            overwrite=overwrite,
            on_event=on_event,
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values: what `plan --json` prints."""
        return {
            "input": {
                "path": self.input.path,
                "shape": list(self.input.shape),
                "dtype": str(self.input.dtype),
                "voxel_um": list(self.input.scale.voxel_um),
                "missing_chunks": int(self.input_identity.get("missing", 0)),
            },
            "output": {"path": str(self.output), "shape": list(self.shape), "voxel_um": list(self.scale.voxel_um)},
            "block": list(self.block),
            "passes": [
                {
                    "name": p.name,
                    "units": p.units,
                    "merge": p.draft.merge is not None,
                    "shape": list(p.draft.grid.shape),
                    "core": list(p.draft.grid.core),
                    "halo": list(p.halo),
                    "read_amplification": round(p.draft.grid.read_amplification(p.halo), 3) if p.reads else None,
                    "reads": list(p.reads),
                    "writes": [spec.name for spec in p.draft.writes],
                    "peak_bytes": p.peak_bytes,
                }
                for p in self.passes
            ],
            "arrays": [
                {
                    "name": a.name,
                    "shape": list(a.layout.shape),
                    "dtype": a.layout.dtype,
                    "chunk": list(a.layout.chunk),
                    "shard": list(a.layout.shard) if a.layout.shard else None,
                    "zarr_format": a.layout.zarr_format,
                    "bytes": a.nbytes,
                    "kept": a.kept,
                    "producer": a.producer,
                }
                for a in self.arrays.values()
            ],
            "facts": dict(self.facts),
            "peak_bytes_per_worker": self.peak_bytes,
            "memory_bytes_per_worker": self.memory,
            "warnings": list(self.warnings),
        }


def make_plan(
    pipeline: Pipeline,
    volume: Volume | str | Path | None = None,
    output: str | Path | None = None,
    *,
    block: Triple | None = None,
    memory: int | None = None,
    workers: int | None = None,
    resume: bool = True,
) -> Plan:
    """Settle a pipeline on a volume.

    Parameters
    ----------
    volume, output : what to read and write; by default what the pipeline says.
    block : nominal core of the blocks; by default the pipeline's. "auto" is that of the run in `output`, where there is
        one and `resume` is true, so that another machine goes on with the same blocks; else the largest cube that fits.
    memory : bytes one worker may take; by default this machine's, shared among `workers` (default: one per core).

    Raises
    ------
    UsageError : and its kinds, when the plan cannot work; exit code 2.
    """
    if output is None and pipeline.output.path is None:
        raise UsageError("no output is named", "Give -o OUT, or output: {path: OUT} in the pipeline")
    target = Path(output if output is not None else str(pipeline.output.path))
    source, mask = _open_inputs(pipeline, volume)
    limit = memory or int(psutil.virtual_memory().total * MEMORY_SHARE / (workers or available_cores()))
    if workers is not None and workers < 1:
        raise UsageError(f"{workers} workers cannot work", "Use 1 or more")
    wanted = block or (pipeline.block if pipeline.block != "auto" else _stored_block(target) if resume else None)
    seen = _identity(source, mask, pipeline)
    beside = open_beside(pipeline, source, seen)
    if wanted is not None:
        plan = _settle(pipeline, source, mask, beside, seen, target, wanted, limit)
        _check_memory(plan)
        return plan
    for side in BLOCK_SIDES:
        plan = _settle(pipeline, source, mask, beside, seen, target, triple(side), limit)
        if plan.peak_bytes <= limit:
            return plan
    _check_memory(plan)
    return plan


def _stored_block(output: Path) -> Triple | None:
    """The block of the run that an output folder holds."""
    path = output / "run" / "plan.json"
    if not path.is_file():
        return None
    try:
        z, y, x = json.loads(path.read_text(encoding="utf-8"))["plan"]["block"]
    except (ValueError, KeyError, TypeError):
        return None  # damaged: the block is chosen anew, and what it changes is computed again
    return z, y, x


def _open_inputs(pipeline: Pipeline, volume: Volume | str | Path | None) -> tuple[Volume, Volume | None]:
    options = pipeline.input
    if volume is None and options.path is None:
        raise UsageError("no input is named", "Give --input IN, or input: {path: IN} in the pipeline")
    if isinstance(volume, Volume):
        source = volume
    else:
        path = str(volume if volume is not None else options.path)
        source = open_volume(path, channel=options.channel, time=options.time, level=options.level)
    if options.kind == "labels" and source.dtype.kind not in "iu":
        raise UsageError(f"the input holds {source.dtype}, not labels", "Use kind: image, or a volume of integers")
    if options.nodata is not None and not _holds(source.dtype, options.nodata):
        raise UsageError(
            f"nodata {options.nodata} is no value of the input's {source.dtype} voxels",
            "Give a value that occurs in it",
        )
    if options.mask is None:
        return source, None
    mask = open_volume(options.mask)
    if any(abs(a - b) > 1e-3 * b for a, b in zip(mask.scale.voxel_um, source.scale.voxel_um, strict=True)):
        raise UsageError(
            f"the mask {options.mask} has voxels of {mask.scale.voxel_um} um, the input of {source.scale.voxel_um}",
            "Give a mask on the input's grid",
        )
    if mask.shape != source.shape:
        raise UsageError(
            f"the mask {options.mask} has shape {mask.shape}, the input {source.shape}",
            "Give a mask on the input's grid",
        )
    return source, mask


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a voxel of that type can have the value."""
    if dtype.kind == "f":
        return bool(np.isfinite(value))
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.iinfo(np.uint8)
    return float(value).is_integer() and limits.min <= value <= limits.max


def _identity(source: Volume, mask: Volume | None, pipeline: Pipeline) -> Mapping[str, Any]:
    """What the input is known by, and how many of its chunks are missing."""
    missing = missing_chunks(source)
    if missing and pipeline.input.missing == "fail":
        raise UsageError(
            f"{missing} chunks of {source.path} are missing", "Restore them, or read them as zeros with missing: auto"
        )
    seen: dict[str, Any] = {"image": identity(source), "missing": missing}
    if mask is not None:
        seen["mask"] = identity(mask)
    return seen


def _settle(
    pipeline: Pipeline,
    source: Volume,
    mask: Volume | None,
    beside: Beside,
    seen: Mapping[str, Any],
    output: Path,
    block: Triple,
    limit: int,
) -> Plan:
    drafts, flow = drafts_of(pipeline, source, mask, block, beside)
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
        warnings=(*warnings_of(arrays, seen, source), *beside.warnings, *flow.warnings),
    )


def _check_memory(plan: Plan) -> None:
    worst = max(plan.passes, key=lambda p: p.peak_bytes)
    if plan.peak_bytes > plan.memory:
        remedy = "a smaller tile" if worst.draft.tiled else "a smaller block"
        raise PlanError(
            f"pass {worst.name} takes {plan.peak_bytes / 2**20:.0f} MiB per worker, more than the "
            f"{plan.memory / 2**20:.0f} MiB there are",
            f"Use fewer workers, {remedy}",
        )
