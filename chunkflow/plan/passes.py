"""Passes of a plan: the drafts of all stages on a volume, settled on arrays, halos and memory. Reads no voxel.

stages --drafts(flow)--> drafts --layouts--> arrays that are written --boxes, memory--> passes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from chunkflow.errors import ConfigError, PlanError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.scale import doubt_of
from chunkflow.plan import memory
from chunkflow.plan.beside import Beside
from chunkflow.plan.opened import Opened
from chunkflow.plan.pipeline import Pipeline
from chunkflow.plan.region import Part, with_lent
from chunkflow.stages.base import ArraySpec, Draft, Flow, boxes_of_chain
from chunkflow.stages.label import Label
from chunkflow.stages.scan import Scan
from chunkflow.storage.copies import copied
from chunkflow.storage.layout import ArrayLayout, layout_for_core
from chunkflow.storage.volume import Volume

SMALL_CHUNK = 16


@dataclass(frozen=True, slots=True)
class PlannedArray:
    """An array that a pass writes.

    layout : shape, dtype ("uint32" until the number of labels is known), chunks and shards
    labels : whether the dtype follows the number of labels
    kept : whether it stays in the result; the others are deleted at the end of the run
    """

    name: str
    layout: ArrayLayout
    labels: bool
    kept: bool
    producer: str

    @property
    def nbytes(self) -> int:
        """Size without compression."""
        return prod(self.layout.shape) * np.dtype(self.layout.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Pass:
    """A draft settled: what it reads from storage, what it writes and what a unit of it takes.

    peak_bytes : of a unit that is computed; ahead_bytes : of one more, which is read or written meanwhile
    device_bytes : of a unit on a GPU, where steps of it run there
    """

    draft: Draft
    reads: tuple[str, ...]
    halo: Triple
    peak_bytes: int
    ahead_bytes: int = 0
    device_bytes: int = 0

    @property
    def holds_voxels(self) -> bool:
        """Whether units hold voxels, so that their memory is bounded by boxes; others look at records alone."""
        return bool(self.reads or self.draft.writes)

    @property
    def name(self) -> str:
        return self.draft.name

    @property
    def units(self) -> int:
        """Blocks of the grid; a merge is one unit."""
        return 1 if self.draft.merge else len(self.draft.grid)


def drafts_of(
    pipeline: Pipeline,
    source: Volume,
    mask: Opened | None,
    block: Triple,
    beside: Beside | None = None,
    part: Part | None = None,
) -> tuple[list[Draft], Flow]:
    """The drafts of all stages on a volume, in order, and the flow that leaves the last; `part` says that it is one."""
    beside = beside or Beside()
    options = pipeline.input
    stages = list(pipeline.stages)
    if options.kind == "image":
        stages.insert(0, Scan())
    elif options.kind == "labels" and not any(isinstance(stage, Label) for stage in stages):
        stages.insert(0, Label())
    scale = source.scale.shrunk(options.expansion) if options.expansion != 1 else source.scale
    flow = Flow(
        kind=options.kind,
        shape=source.shape,
        scale=scale,
        input_shape=source.shape,
        input_scale=scale,
        input_dtype=source.dtype.name,
        block=block,
        save=frozenset(pipeline.output.save),
        wants=frozenset(stage.key for stage in stages),
        image_by=next((stage.key for stage in reversed(stages) if getattr(stage, "makes_image", False)), ""),
        nodata=options.nodata,
        has_mask=mask is not None,
        expansion=options.expansion,
        channel=source.channel,
        channel_number=dict(zip((a for a in source.axes if a not in "zyx"), source.at, strict=True)).get("c", 0),
        optics=source.optics,
        measured=beside.measured,
        channels=beside.channels,
        network_channels=beside.network_channels,
        at_hand=copied,
        regions=beside.regions,
        origin=(0, 0, 0) if part is None else part.box.start,
        whole=None if part is None else part.whole,
        is_anchored=part is not None and bool(part.lent),
        facts={} if part is None else {"region": part.facts},
        warnings=() if part is None else part.warnings,
    )
    drafts: list[Draft] = []
    for stage in stages:
        try:
            added, flow = stage.drafts(flow)
        except MemoryError as error:
            raise _too_large(stage.key, error) from error
        drafts += added
    return with_lent(drafts, {} if part is None else part.lent), flow


def _too_large(key: str, error: MemoryError) -> PlanError:
    """What is said of a stage whose constants do not fit: of all that stages plan with, only PSFs are so large."""
    if key == "deconvolve":
        return PlanError(
            f"deconvolve: the PSF is too large for the memory here ({error})",
            "Check its widths and the voxel size, which are in um, or cut it with psf: {size: [z, y, x]} in voxels",
        )
    return PlanError(f"{key}: what it is planned with does not fit the memory ({error})", "Check its sizes, in um")


def saved_arrays(pipeline: Pipeline, drafts: Sequence[Draft]) -> list[ArraySpec]:
    """The arrays that are kept."""
    made = {spec.name: spec for draft in drafts for spec in draft.writes}
    makers = {
        "probability": "predict or pixels",
        "classes": "predict: {output: classes}",
        "mask": "threshold, or predict with one, and label",
    }
    for name, stage in makers.items():
        if name in pipeline.output.save and name not in made:
            raise ConfigError(f"output: save names {name}, which nothing makes", f"Add {stage}, or leave it out")
    wanted = pipeline.output.dtype
    if wanted is not None and "image" in made and made["image"].dtype != wanted:
        raise ConfigError(
            f"output: dtype {wanted}, and the image is a copy of the input, which is {made['image'].dtype}",
            "Leave dtype out, or add a stage that makes the image",
        )
    return [made[name] for name in pipeline.output.save if name in made]


def reads_of(draft: Draft) -> tuple[str, ...]:
    """Names of the arrays that a draft reads from storage."""
    core = draft.grid.core_of(memory.widest_block(draft.grid))
    products = [spec.source for spec in draft.writes]
    return tuple(boxes_of_chain(draft.steps, core, Box.of_shape(draft.grid.shape), products)[1])


def arrays_of(pipeline: Pipeline, drafts: Sequence[Draft], kept: set[str]) -> dict[str, PlannedArray]:
    """Every array that the drafts write, by name."""
    options = pipeline.output
    found: dict[str, PlannedArray] = {}
    for draft in drafts:
        for spec in draft.writes:
            stays = spec.name.partition("@")[0] in kept
            dtype = "uint32" if spec.dtype == "labels" else spec.dtype
            level0 = spec.name in kept and not draft.tiled
            layout = layout_for_core(
                draft.grid.core,
                draft.grid.shape,
                dtype,
                2 if stays and options.format == "0.4" else 3,
                chunk=options.chunk if level0 or (stays and draft.tiled) else None,
                shard=options.shard if level0 or (stays and draft.tiled) else None,
                level=options.compression,
            )
            found[spec.name] = PlannedArray(spec.name, layout, spec.dtype == "labels", stays, draft.name)
    return found


def settled(
    draft: Draft,
    reads: tuple[str, ...],
    arrays: Mapping[str, PlannedArray],
    readable: Mapping[str, tuple[Triple, str]],
) -> Pass:
    """The pass that a draft becomes; `readable` is shape and dtype of every array that can be read."""
    if draft.merge is not None:
        return Pass(draft, (), (0, 0, 0), draft.merge.working_bytes(len(draft.grid)))
    writes = {spec.source: arrays[spec.name].layout.dtype for spec in draft.writes}
    peak = memory.unit_bytes(draft.steps, draft.grid, writes, readable)
    ahead = memory.ahead_bytes(draft.steps, draft.grid, writes, readable) if len(draft.grid) > 1 else 0
    on_device = any(step.on_device for step in draft.steps)
    device = memory.device_bytes(draft.steps, draft.grid, writes, readable) if on_device else 0
    return Pass(draft, reads, _halo(draft, readable), peak, ahead, device)


def _halo(draft: Draft, readable: Mapping[str, tuple[Triple, str]]) -> Triple:
    """Voxels read beyond the core in arrays on the pass's own grid, on the side where it is more, by a middle block."""
    core = draft.grid.core_of(memory.widest_block(draft.grid))
    products = [spec.source for spec in draft.writes]
    wanted = boxes_of_chain(draft.steps, core, Box.of_shape(draft.grid.shape), products)[1]
    own = [box for name, box in wanted.items() if readable[name][0] == draft.grid.shape]
    beyond = [[max(core.start[a] - box.start[a], box.stop[a] - core.stop[a]) for a in range(3)] for box in own]
    return triple(tuple(max((sides[a] for sides in beyond), default=0) for a in range(3)))


def warnings_of(arrays: Mapping[str, PlannedArray], seen: Mapping[str, Any], source: Volume) -> list[str]:
    """Sentences for the user about arrays and input."""
    doubt = doubt_of(source.scale.voxel_um, source.shape)
    found = [doubt] if doubt else []
    small = [a.name for a in arrays.values() if a.kept and _has_small_chunk(a.layout)]
    if small:
        found.append(
            f"chunks of {', '.join(small)} are under {SMALL_CHUNK} voxels along an axis: many small reads. "
            "Use blocks that are multiples of 32"
        )
    if seen["missing"]:
        found.append(f"{seen['missing']} chunks of {source.path} are missing and read as zeros")
    return found


def record_warnings(passes: Sequence[Pass], limit: int) -> list[str]:
    """What is said of merges that may not fit: how many records there are is not known before.

    Joints of the residual tree are left out: their bound is a joint of nothing but a solid's inside, of any size.
    """
    over = [p for p in passes if p.draft.merge is not None and p.peak_bytes > limit]
    if not over:
        return []
    worst = max(over, key=lambda p: p.peak_bytes)
    others = f", and {len(over) - 1} others less" if len(over) > 1 else ""
    return [
        f"{worst.name} may take {worst.peak_bytes / 2**30:,.0f} GiB in one worker{others}, more than the "
        f"{limit / 2**30:,.1f} GiB there are: so much where every block is full of objects, and next to nothing where "
        "they are few. Use larger blocks, or a worker with more memory"
    ]


def _has_small_chunk(layout: ArrayLayout) -> bool:
    return any(c < min(SMALL_CHUNK, n) for c, n in zip(layout.chunk, layout.shape, strict=True))
