"""What a run will take, from running its passes on samples of the volume.

    looked at:   27 small boxes, sorted by how bright they are       . . : : : | | | # #
    sampled:     three places, the middle ones of the dark, the         ^     ^     ^
                 middle and the bright third                         side by side = a volume of a few blocks

The samples are put side by side into one small volume, so that one threshold holds for bright and dark as in the run,
and the whole pipeline runs on it with the blocks, tiles and workers of the plan, in a scratch folder that is removed.
Times of units are then those of the run: what a unit takes on top of its voxels, what a voxel takes (the halo's too),
and what the first unit of a worker takes more, fitted for every pass (`run/estimate.py`), and scaled to the units and
voxels of the plan. Merges grow with the volume.

Not seen: other load on the machine, other machines, stages that find other things than the samples hold, and what
`measure` reads of other channels, images and regions. On a scheduler, the queue.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import UsageError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.geometry.scale import Scale
from chunkflow.plan.opened import Opened
from chunkflow.plan.pipeline import Pipeline
from chunkflow.plan.plan import Plan
from chunkflow.run.driver import run_plan
from chunkflow.run.engine import ClusterOptions, chosen_device
from chunkflow.run.estimate import Estimate, Seen, estimated
from chunkflow.run.events import Listener
from chunkflow.run.journal import Journal
from chunkflow.run.leftovers import probe_folder
from chunkflow.run.places import run_folder
from chunkflow.stages.measure import Measure
from chunkflow.stages.predict import Predict
from chunkflow.storage import omezarr_write
from chunkflow.storage.layout import ArrayLayout, layout_for_core
from chunkflow.storage.volume import Volume, create_array

PLACES = 3
LOOKED_AT = 27
LOOK_SIDE = 32
"""Voxels along a box that is looked at, at most."""
SEED = 5
WHOLE_SHARE = 0.7
"""Of the volume that the samples would make, from which all of it is run instead."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Boxes of the input, all of one shape, side by side along z."""

    boxes: tuple[Box, ...]

    @property
    def shape(self) -> Triple:
        """Of the volume that they make."""
        z, y, x = self.boxes[0].shape
        return z * len(self.boxes), y, x

    def read(self, volume: Opened, box: Box) -> NDArray[Any]:
        """Voxels of the volume that they make."""
        deep = self.boxes[0].shape[0]
        found = np.empty(box.shape, volume.dtype)
        for number in range(box.start[0] // deep, -(-box.stop[0] // deep)):
            low, high = max(box.start[0], number * deep), min(box.stop[0], (number + 1) * deep)
            z, y, x = self.boxes[number].start
            start = (z + low - number * deep, y + box.start[1], x + box.start[2])
            stop = (z + high - number * deep, y + box.stop[1], x + box.stop[2])
            found[low - box.start[0] : high - box.start[0]] = volume.read(Box(start, stop))
        return found


def probe(
    plan: Plan,
    *,
    on: str | None = None,
    workers: int | None = None,
    device: str = "auto",
    scratch: str | Path | None = None,
    options: ClusterOptions | None = None,
    on_event: Listener | None = None,
) -> Estimate:
    """Run samples of a plan's volume, and say what all of it would take.

    Parameters
    ----------
    on, workers, device, options : as for the run; the estimate holds for these.
    scratch : an existing folder to work in, on a disk as fast as the output's; by default the output's own, or the
        nearest above it that is there. Nothing is left in it.
    on_event : called with the progress of the samples' run.

    Raises
    ------
    UsageError : the scratch folder is not there.
    """
    sample = sample_of(plan)
    with probe_folder(_scratch(plan, scratch)) as folder:
        where = {"on": on, "workers": workers, "device": device, "options": options}
        seen = _run(plan, sample, folder, where, on_event or (lambda event: None))
        kind = chosen_device(device, on=on, options=options).kind
        return estimated(plan, seen, on=on, workers=workers, kind=kind, options=options, notes=_notes(plan))


def _scratch(plan: Plan, scratch: str | Path | None) -> Path:
    if scratch is not None:
        if not Path(scratch).is_dir():
            raise UsageError(f"the scratch folder {scratch} is not there", "Name one that is")
        return Path(scratch)
    if not isinstance(plan.output, Path):
        return Path(tempfile.gettempdir())
    output = plan.output.absolute().parent
    return next(folder for folder in (output, *output.parents) if folder.is_dir())


def _run(plan: Plan, sample: Sample, folder: Path, where: Mapping[str, Any], say: Listener) -> Seen:
    """The samples' run: its units, and the seconds of each pass."""
    small = _small_plan(plan, sample, folder)
    clock = _Clock(say)
    began = perf_counter()
    run_plan(small, on_event=clock, **where)
    took = perf_counter() - began
    journal = Journal.read(run_folder(small.output) / "journal.jsonl")
    units = {name: journal.state(known).done for name, known in journal.published_passes.items()}
    walls = {name: clock.busy(name, lines) for name, lines in units.items()}
    return Seen(plan=small, units=units, walls=walls, seconds=took, places=len(sample.boxes))


@dataclass(slots=True)
class _Clock:
    """When passes of a run began, had their first unit, and ended."""

    say: Listener
    began: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "pass":
            self.began[event["pass"]] = perf_counter()
        if event["event"] == "unit":
            self.first.setdefault(event["pass"], perf_counter())
            self.ended[event["pass"]] = perf_counter()
        self.say(event)

    def busy(self, name: str, lines: Mapping[int, Mapping[str, Any]]) -> float:
        """Seconds of a pass, without those until its first unit could begin: workers start in the first pass."""
        if name not in self.ended:
            return 0.0
        earliest = next(iter(lines.values()))  # lines are in the order of the journal
        idle = self.first[name] - self.began[name] - float(sum(earliest.get("spent", ())))
        return self.ended[name] - self.began[name] - max(0.0, idle)


def _notes(plan: Plan) -> tuple[str, ...]:
    found = []
    measure = next((s for s in plan.pipeline.stages if isinstance(s, Measure)), None)
    if measure is not None and (measure.channels or measure.regions or measure.image):
        found.append("what measure reads of other channels, images and regions is not in the estimate")
    if not isinstance(plan.output, Path):
        found.append("the samples were read and written on a local disk, the run goes to an object store")
    return tuple(found)


def sample_of(plan: Plan) -> Sample:
    """The places that are run, dark ones first; the whole volume where it is hardly larger."""
    source = plan.input
    side = _side(plan)
    if prod(side) * PLACES >= WHOLE_SHARE * prod(source.shape):
        return Sample((source.box,))
    rng = np.random.default_rng(SEED)
    looked = []
    for _ in range(LOOKED_AT):
        start = triple(tuple(int(rng.integers(n - s + 1)) for n, s in zip(source.shape, side, strict=True)))
        box = Box(start, triple(tuple(a + s for a, s in zip(start, side, strict=True))))
        looked.append((_brightness(plan, box), box))
    ordered = [box for _, box in sorted(looked, key=lambda found: (found[0], found[1]))]
    middles = [(2 * k + 1) * LOOKED_AT // (2 * PLACES) for k in range(PLACES)]
    return Sample(tuple(ordered[middle] for middle in middles))


def _side(plan: Plan) -> Triple:
    """A place in voxels of the input: a block (or tile, where that is longer), and half of another along y and x."""
    ratio = [n / m for n, m in zip(plan.input.shape, plan.shape, strict=True)]
    tiles = [p.draft.grid.core for p in plan.passes if p.draft.tiled and p.draft.grid.shape == plan.input.shape]
    sides = [
        max(round(b * r), *(t[axis] for t in tiles), 1)
        for axis, (b, r) in enumerate(zip(plan.block, ratio, strict=True))
    ]
    wide = (sides[0], sides[1] * 3 // 2, sides[2] * 3 // 2)
    return triple(tuple(min(s, n) for s, n in zip(wide, plan.input.shape, strict=True)))


def _brightness(plan: Plan, place: Box) -> float:
    """Mean of a small box in the middle of a place; of masks and labels the share that is not background."""
    side = [min(LOOK_SIDE, n) for n in place.shape]
    start = triple(tuple(a + (n - s) // 2 for a, n, s in zip(place.start, place.shape, side, strict=True)))
    data = plan.input.read(Box(start, triple(tuple(a + s for a, s in zip(start, side, strict=True)))))
    if plan.pipeline.input.kind != "image":
        return float(np.count_nonzero(data)) / data.size
    return float(np.nan_to_num(data.astype(np.float64)).mean())


def _small_plan(plan: Plan, sample: Sample, folder: Path) -> Plan:
    """The plan of the same pipeline on the samples."""
    seen = tuple(dict.fromkeys(channel.array for channel in plan.beside.network_channels))
    others = [volume for name in seen if isinstance(volume := plan.beside.arrays[name], Volume)]
    scale = plan.input.scale
    source = _written(plan.input, sample, folder / "input.ome.zarr", scale, others)
    pipeline = plan.pipeline
    options: dict[str, Any] = {"path": None, "channel": None, "time": None, "level": 0, "mask": None, "missing": "auto"}
    options |= {name: None for name in ("region", "statistics_from") if hasattr(pipeline.input, name)}
    if plan.mask is not None:
        options["mask"] = str(folder / "mask.ome.zarr")
        _written(plan.mask, sample, folder / "mask.ome.zarr", scale)
    alone: dict[str, Any] = {"channels": (), "background": 0.0, "regions": None, "image": None}
    stages = [replace(s, **alone) if isinstance(s, Measure) else s for s in pipeline.stages]
    order = tuple(1 + seen.index(channel.array) for channel in plan.beside.network_channels)
    stages = [replace(s, channels=order) if isinstance(s, Predict) and order else s for s in stages]
    small = Pipeline(stages, input=replace(pipeline.input, **options), output=pipeline.output, block=plan.block)
    return small.plan(source, folder / "out", block=plan.block, memory=plan.memory)


def _written(volume: Opened, sample: Sample, image: Path, scale: Scale, others: Sequence[Volume] = ()) -> Volume:
    """The samples as an image on disk, cut into files as the input is, with what it says of its optics; other channels
    behind it."""
    layout, axes = volume.layout, "czyx" if others else "zyx"
    if isinstance(volume, Volume):
        own = ArrayLayout(
            sample.shape, layout.dtype, layout.chunk, layout.shard, layout.zarr_format, level=layout.level
        )
    else:  # a TIFF, which is read by planes
        own = layout_for_core(sample.boxes[0].shape, sample.shape, layout.dtype)
    own = replace(own, leading=(1 + len(others),)) if others else own
    stored = create_array(image / "0", own, scale, axes=axes)
    form: Literal["0.5", "0.4"] = "0.5" if layout.zarr_format == 3 else "0.4"
    omezarr_write.write_image_group(image, name="probe", levels={"0": scale}, axes=axes, format=form)
    for number, source in enumerate((volume, *others)):
        target = replace(stored, at=(number,)) if others else stored
        for block in range(len(grid := Grid(sample.shape, own.write_unit))):
            core = grid.core_of(block)
            data = sample.read(source, core)
            if data.any():
                target.write(core, np.ascontiguousarray(data))
    with suppress(AttributeError):
        return replace(stored, channel=volume.channel, optics=volume.optics) if isinstance(volume, Volume) else stored
    return stored
