"""A region of a volume, run for real: what of the input is read, and what a run of the whole volume lends it.

A region alone is a volume of its own: its thresholds are those of its own voxels. With statistics from a run of the
whole volume, the merges that found one value for all of it (ranges, levels, iterations, scales, the threshold) are not
run: what they left there is taken. The region is then widened, so that what was asked for comes out as it did there:

    |------------------------- the whole volume -------------------------|
    .        .        .        .        .        .        .        .            tiles
                             [ asked for ]
                           <-- reach     reach -->                               filters, halos, whole tiles
                      [--------- read -----------]                               begins at a multiple of the tiles

Every step says what voxels it needs for an output (`reads`), so the reach follows from the plan, back to front, and
no halo is written down here. Lent values are known by the fingerprints of the passes that found them: the same
settings, versions and input up to there, or the run is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from math import ceil, floor, gcd, lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from chunkflow.errors import ConfigError, InputNotFoundError, IntegrityError, UsageError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.stages.base import Draft, Merged, Record, boxes_of_chain, hull
from chunkflow.stages.infer import InferCores, InferViews
from chunkflow.stages.resample import Resample
from chunkflow.stages.tile_labels import LabelTile
from chunkflow.storage.records import merged_path, read_record

if TYPE_CHECKING:
    from chunkflow.plan.passes import Pass
    from chunkflow.plan.pipeline import OutputOptions, Pipeline
    from chunkflow.plan.plan import Plan

LENT = frozenset(
    {
        "range", "correct-levels", "correct-range", "deconvolve-check", "deconvolve-range", "resample-range",
        "apply-range", "predict-channels-range", "predict-scale", "predict-range", "pixels-scale", "pixels-range",
        "vesselness-range", "threshold",
    }
)  # fmt: skip
"""Merges that find values of the whole volume."""
BY_PLANE = ("gain", "level")
"""Columns of `correct-levels` that have a value for each plane."""
OBJECTS = ("label", "foreground", "apply")
"""The first pass of stages that say what an object is: up to there a voxel follows from those near it."""
SEEN = ("kind", "channel", "time", "level", "voxel_um", "nodata", "mask", "nan", "expansion")
"""Input options that decide what voxels are."""


def in_region(pipeline: Pipeline, region: str | None, statistics_from: str | Path | None = None) -> Pipeline:
    """The pipeline on a part of its input, where one is named; see `InputOptions`."""
    options = pipeline.input
    region = options.region if region is None else region
    lender = options.statistics_from if statistics_from is None else str(statistics_from)
    return replace(pipeline, input=replace(options, region=region, statistics_from=lender))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The part of a volume that is run.

    box : what is read, in voxels of the whole volume; asked : what was asked for, in it
    whole : shape of the whole volume
    lent : values of merges of the whole volume, by name; none where the part is a volume of its own
    """

    box: Box
    asked: Box
    whole: Triple
    lent: Mapping[str, Record] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """For people and for the plan as JSON."""
        return {"asked": str(self.asked), "read": str(self.box), "whole": list(self.whole), "lent": sorted(self.lent)}

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.box == self.asked:
            return ()
        return (f"the region {self.asked} is widened to {self.box}, so that what was asked for equals the whole run's",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lent:
    """What a merge of the whole volume left, in place of the merge."""

    found: Record

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        return Merged(self.found)

    def working_bytes(self, blocks: int) -> int:
        return 4 * sum(column.nbytes for column in self.found.values())


def with_lent(drafts: Sequence[Draft], lent: Mapping[str, Record]) -> list[Draft]:
    """The drafts of a part: merges whose values are lent, and no pass that only such a merge would look at."""
    if not lent:
        return list(drafts)
    found = [replace(d, merge=Lent(found=lent[d.name]), needs=()) if d.name in lent else d for d in drafts]
    needed = {name for draft in found for name in draft.needs}
    return [d for d in found if d.merge is not None or d.writes or d.name in needed]


@dataclass(frozen=True, slots=True)
class Lender:
    """A finished run of the whole volume, as its folder has it."""

    folder: Path
    stored: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Lender:
        """Read what a run was planned with.

        Raises
        ------
        InputNotFoundError : the folder holds no run.
        """
        path = Path(folder) / "run" / "plan.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            needed = (stored["pipeline"]["stages"], stored["plan"]["block"], stored["fingerprints"], stored["kind"])
            if not all(needed):
                raise ValueError("it is not complete")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputNotFoundError(
                f"statistics from {folder}: it holds no run", "Give the output folder of a run of the whole volume"
            ) from error
        return cls(Path(folder), stored)

    @property
    def block(self) -> Triple:
        """Nominal core of its blocks."""
        return triple(self.stored["plan"]["block"])

    def output(self, options: OutputOptions) -> OutputOptions:
        """What it wrote, as the layout of arrays is part of what a pass is known by."""
        theirs = self.stored["pipeline"].get("output", {})
        return replace(options, **{f.name: theirs[f.name] for f in fields(options) if f.name in theirs})

    def lent(self, whole: Plan, box: Box) -> dict[str, Record]:
        """Values of the merges of `whole`, the plan of the same pipeline on the whole volume, for a part of it.

        Raises
        ------
        ConfigError : the run found them with other settings, another version or another input.
        UsageError : the run has not come that far.
        """
        known, own = self.stored["fingerprints"], whole.fingerprints(self.stored["kind"])
        found: dict[str, Record] = {}
        for p in whole.passes:
            if p.name not in LENT:
                continue
            if known.get(p.name) != own[p.name]:
                raise ConfigError(
                    f"statistics from {self.folder}: {self._difference(whole.pipeline, p.name)}",
                    "Use the settings of that run up to there, run it again with these, or leave --statistics-from out",
                )
            path = merged_path(self.folder / "run" / "records" / f"{p.name}-{own[p.name][:16]}")
            try:
                found[p.name] = _cut(read_record(path), p.name, box, whole.input.shape[0])
            except (OSError, IntegrityError) as error:
                raise UsageError(
                    f"statistics from {self.folder}: its run has left no {p.name}", "Let it run to its end first"
                ) from error
        return found

    def _difference(self, pipeline: Pipeline, name: str) -> str:
        """What is not as it was in that run, as far as a merge looks."""
        here, there = pipeline.to_dict(), self.stored["pipeline"]
        for key in SEEN:
            if here["input"][key] != there["input"].get(key):
                return f"input: {key} is {here['input'][key]!r} here and {there['input'].get(key)!r} there"
        theirs = {key: values for stage in there["stages"] for key, values in stage.items()}
        for stage in here["stages"]:
            ((key, values),) = stage.items()
            if key not in theirs:
                return f"it has no stage {key}"
            for parameter, value in values.items():
                if value != theirs[key].get(parameter):
                    return f"{key}: {parameter} is {value!r} here and {theirs[key].get(parameter)!r} there"
            if key == name.partition("-")[0]:
                break
        if whole_region := there["input"].get("region"):
            return f"it is a run of the region {whole_region}"
        return "its input is not this one, or it was made by another version of chunkflow"


def _cut(found: Record, name: str, box: Box, planes: int) -> Record:
    """The values for the planes of a part."""
    if name != "correct-levels":
        return found
    first, last = box.start[0], box.stop[0]
    return {n: column[first:last] if n in BY_PLANE and len(column) == planes else column for n, column in found.items()}


def read_box(whole: Plan, asked: Box) -> Box:
    """The voxels to read so that those asked for come out as from the whole volume.

    asked : in voxels of the input
    """
    passes = _before_objects(whole)
    resampled = _resampled(whole)
    ratio = [r * f for r, f in zip(resampled, _finer(passes), strict=True)]
    ends = {whole.shape: _on_grid(asked, ratio, whole.shape), whole.input.shape: asked}
    wanted = {"input": asked}
    for p in reversed(passes):
        grid, steps = p.draft.grid, p.draft.steps
        boxes = [wanted[spec.name] for spec in p.draft.writes if spec.name in wanted]
        boxes += [ends[grid.shape]] if grid.shape in ends else []
        tile = next((step for step in steps if isinstance(step, LabelTile)), None)
        if tile is not None:  # its array is of views side by side
            seen = _aligned(ends[tile.lattice.shape], tile.lattice.core, tile.lattice.shape).grow(tile.lattice.halo)
            wanted[tile.array] = hull([seen, wanted.get(tile.array, seen)])
            continue
        if not boxes:
            continue
        box = hull(boxes)
        box = _aligned(box, grid.core, grid.shape) if p.draft.tiled else box
        products = [spec.source for spec in p.draft.writes]
        for name, need in boxes_of_chain(steps, box, Box.of_shape(grid.shape), products)[1].items():
            wanted[name] = hull([need, wanted.get(name, need)])
    channels = [box for name, box in wanted.items() if name == "input" or name.startswith("input:")]
    reads = hull(channels).clip(whole.input.box)
    start = [n // m * m for n, m in zip(reads.start, _multiples(whole, passes, resampled, ratio), strict=True)]
    return Box(triple(start), reads.stop)


def _before_objects(whole: Plan) -> list[Pass]:
    """The passes that make arrays, up to the first that knows of objects."""
    found = []
    for p in whole.passes:
        if p.draft.merge is None and p.draft.writes:
            found.append(p)
        if p.name in OBJECTS and not (p.name == "apply" and p.draft.grid.shape in (whole.input.shape, whole.shape)):
            break
    return found


def _aligned(box: Box, core: Triple, shape: Triple) -> Box:
    """The tiles that meet a box."""
    start = triple(tuple(max(a, 0) // c * c for a, c in zip(box.start, core, strict=True)))
    stop = triple(tuple(-(-b // c) * c for b, c in zip(box.stop, core, strict=True)))
    return Box(start, stop).clip(Box.of_shape(shape))


def _on_grid(box: Box, ratio: Sequence[Fraction], shape: Triple) -> Box:
    """At least the voxels of a box, on a grid of `ratio` voxels per voxel."""
    start = triple(tuple(floor(a * r) for a, r in zip(box.start, ratio, strict=True)))
    stop = triple(tuple(ceil(b * r) + 1 for b, r in zip(box.stop, ratio, strict=True)))
    return Box(start, stop).clip(Box.of_shape(shape))


def _resampled(whole: Plan) -> list[Fraction]:
    """Voxels behind a resample per voxel of the input, along each axis."""
    stage = next((stage for stage in whole.pipeline.stages if isinstance(stage, Resample)), None)
    expansion = whole.pipeline.input.expansion
    scale = whole.input.scale.shrunk(expansion) if expansion != 1 else whole.input.scale
    target = scale.voxel_um if stage is None else stage.target(scale)
    return [Fraction(repr(a)) / Fraction(repr(b)) for a, b in zip(scale.voxel_um, target, strict=True)]


def _finer(passes: Sequence[Pass]) -> Triple:
    """Voxels that a network makes of one, along each axis."""
    steps = (step for p in passes for step in p.draft.steps)
    return next((step.lattice.finer for step in steps if isinstance(step, InferCores | InferViews)), (1, 1, 1))


def _multiples(whole: Plan, passes: Sequence[Pass], resampled: Sequence[Fraction], ratio: Sequence[Fraction]) -> Triple:
    """Of what voxels of the input a part begins at multiples: there the tiles of every pass begin, voxels of a
    resampled grid coincide, and skeletons find the parity of the coordinates that thinning goes by."""
    here: Sequence[Fraction] = [Fraction(1)] * 3
    found = [_voxels(resampled, (1, 1, 1))]
    if any(stage.key == "skeleton" for stage in whole.pipeline.stages):
        found.append(_voxels(ratio, (2, 2, 2)))
    for p in passes:
        here = resampled if p.name == "resample" else here
        if p.draft.tiled:
            found.append(_voxels(here, _tile(p)))
        if len(p.draft.constants.get("psf_planes", ())) > 1:  # positions between them are rounded from plane 0 on
            found.append((whole.input.shape[0], 1, 1))
    z, y, x = (lcm(*(m[axis] for m in found)) for axis in range(3))
    return z, y, x


def _tile(p: Pass) -> Triple:
    """Voxels of a tile in the array that a pass reads."""
    for step in p.draft.steps:
        if isinstance(step, InferCores | InferViews):
            lattice = step.lattice
            return triple(tuple(s * g for s, g in zip(lattice.step, lattice.group, strict=True)))
        if isinstance(step, LabelTile):
            return step.lattice.core
    return p.draft.grid.core


def _voxels(ratio: Sequence[Fraction], core: Triple) -> Triple:
    """The least number of voxels of the input that are a multiple of `core` voxels on a grid of that ratio."""
    return triple(tuple(r.denominator * (c // gcd(c, r.numerator)) for r, c in zip(ratio, core, strict=True)))
