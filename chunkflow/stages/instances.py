"""Objects that touch, told apart by the exact watershed of `kernels.watershed`: the same for any blocks.

    foreground    the mask, kept because every later pass looks at it
    depth-x ..    exact squared distance of the foreground to the background (only where the relief is a distance)
    seeds         the relief, and its minima as far as one block can tell
    seeds-seams   cheapest edges across the faces of the blocks
    seeds-merge   minima of the whole volume with dynamics above h, spread out
    flood         basins of each block from the seeds
    flood-seams   cheapest edges across the faces of the blocks
    flood-merge   basin -> instance, in raster order of the first voxel, small ones dropped
    boundaries, agglomerate    instances behind an open boundary become one, if asked for (see `stages.agglomerate`)
    label ...     the passes of `stages.label` on the instances, as on an input that is labels

A relief has its minima inside objects: minus the distance, minus the intensity, or the intensity where borders are
bright. The merges go slab by slab (`stages.instances_merge`); every block that has plateaus builds a tree of all seeds,
half a second for a million of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ConfigError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.kernels import contact, distance, filters, watershed
from chunkflow.stages.agglomerate import agglomerate_drafts
from chunkflow.stages.base import ArraySpec, BlockStep, Draft, Flow, Output, View, host
from chunkflow.stages.distance import distance_drafts, spacing_weights
from chunkflow.stages.instances_merge import MergeFlood, MergeSeeds
from chunkflow.stages.label import Label, NonZero, check_holes
from chunkflow.stages.naming import Name, named_objects
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.scan import DATA

SIDE_STEPS = 16  # sides of a voxel, to part plateaus by, are rounded to this part of the shortest
FRAME_BYTES = 64  # per voxel of a block's frame; 57 measured on noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Relief:
    """The relief to flood, smoothed; looked at in the foreground alone.

    array : "depth", or the signal; unit : what one unit of its root (of a depth) or value is, negative to turn it over
    """

    array: str
    unit: float
    sigma_vox: tuple[float, float, float]
    valid: str | None

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("relief",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        box = out.grow(filters.smooth_halo(self.sigma_vox))
        arrays = {self.array: box, "mask": out}
        return arrays | {self.valid: box} if self.valid else arrays

    def run(self, view: View, out: Box) -> Output:
        if not view.regions["mask"].cut(out).any():
            return Output(arrays={"relief": np.zeros(out.shape, np.float32)})
        region = view.regions[self.array]
        values = host(region.data).astype(np.float64)
        if self.array == "depth":
            values = np.sqrt(np.where(values == distance.UNKNOWN, distance.FAR, values))
        relief = (self.unit * values).astype(np.float32)
        if any(self.sigma_vox):
            valid = None if self.valid is None else (host(view.regions[self.valid].cut(region.box)) & DATA).astype(bool)
            relief = filters.gaussian_smooth(relief, valid, self.sigma_vox)
        return Output(arrays={"relief": np.ascontiguousarray(relief[out.relative_to(region.box.start).slices])})

    def working_bytes(self, out: Triple) -> int:
        halo = filters.smooth_halo(self.sigma_vox)
        return 24 * prod(n + 2 * h for n, h in zip(out, halo, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class FindSeeds:
    """Minima of the relief in a core, and what the merge needs of those it cannot decide."""

    h: float
    connectivity: int

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {name: out.grow((1, 1, 1)) for name in ("relief", "mask")}

    def run(self, view: View, out: Box) -> Output:
        frame = _frame(view, out)
        found = watershed.minima_block(frame, self.h, self.connectivity)
        names = ("minimum", "key", "edges", "deep", "deep_key", "lowest", "lowest_key")
        record = {name: getattr(found, name) for name in names}
        record["seeded"] = np.zeros(len(found.minimum), bool)
        return Output(record=record | _planes(frame, found.slot, len(found.minimum)))

    def working_bytes(self, out: Triple) -> int:
        return FRAME_BYTES * prod(n + 2 * watershed.FRAME for n in out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """Basins of a core from its seeds, slots from 1, and what the merge needs to name them."""

    connectivity: int
    sides: Triple

    version: ClassVar[int] = 2
    produces: ClassVar[tuple[str, ...]] = ("basins",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {name: out.grow(triple(watershed.FRAME)) for name in ("relief", "mask")}

    def run(self, view: View, out: Box) -> Output:
        frame = _frame(view, out)
        merged = view.values["seeds-merge"]
        seeds, here = merged["seeds"], merged.get("here", np.zeros(0, np.int64))
        if frame.own.any():
            watershed.part_plateaus(frame, seeds, self.sides)
        found = watershed.flood_block(frame, seeds[here], here + 1, self.connectivity)
        record = {name: getattr(found, name) for name in ("label", "first", "size", "edges")}
        record["seeded"] = found.label > 0
        record["highest"] = _highest(frame)
        return Output(arrays={"basins": found.slot}, record=record | _planes(frame, found.slot, len(found.label)))

    def working_bytes(self, out: Triple) -> int:
        return FRAME_BYTES * prod(n + 2 * watershed.FRAME for n in out)


def _frame(view: View, out: Box) -> watershed.Frame:
    relief, mask = view.regions["relief"], view.regions["mask"]
    near = relief.box.clip(mask.box)
    return watershed.frame_of(
        host(relief.cut(near)),
        host(mask.cut(near)).astype(bool),
        origin=near.start,
        core=(out.start, out.stop),
        volume=view.shape,
    )


def _highest(frame: watershed.Frame) -> NDArray[np.float64]:
    """(1,) largest absolute relief of the core's foreground."""
    key = frame.key[frame.own]
    ends = np.array([key.min(), key.max()]) if key.size else np.zeros(0, np.uint32)
    return np.asarray(np.abs(watershed.key_value(ends)).max(initial=0.0, keepdims=True))


def _planes(frame: watershed.Frame, slot: NDArray[np.uint32], count: int) -> dict[str, NDArray[Any]]:
    """Boundary planes for the seams, where there is anything that could touch."""
    if not count:
        return {}
    key, tie = (np.where(slot > 0, frame.core(values), values.dtype.type(0)) for values in (frame.key, frame.tie))
    named = {"slot": slot, "key": key, "tie": tie}
    return {f"{name}_{side}": plane for name, array in named.items() for side, plane in contact.shell(array).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamEdges:
    """Cheapest edges from a block's slots to those of its forward neighbours, and the index of each neighbour."""

    source: str
    connectivity: int

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {}

    def run(self, view: View, out: Box) -> Output:
        edges = [np.zeros((0, watershed.EDGE_COLUMNS), np.int64)]
        neighbours = [np.zeros(0, np.int64)]
        here = self._shore(view, view.block)
        for direction in contact.FORWARD if here else ():
            index = view.grid.neighbour(view.block, direction)
            there = None if index is None else self._shore(view, index)
            if here is None or there is None or index is None:
                continue
            found = watershed.seam_edges(here, there, direction, volume=view.shape, connectivity=self.connectivity)
            edges.append(found)
            neighbours.append(np.full(len(found), index, np.int64))
        return Output(record={"edges": np.concatenate(edges), "neighbour": np.concatenate(neighbours)})

    def _shore(self, view: View, block: int) -> watershed.Shore | None:
        record = view.records[self.source][block]
        if not len(record["seeded"]):
            return None
        core = view.grid.core_of(block)
        slot, key, tie = (
            {side: record[f"{name}_{side}"] for side in ("z0", "z1", "y0", "y1", "x0", "x1")}
            for name in ("slot", "key", "tie")
        )
        return watershed.Shore(core.start, core.shape, slot, key, tie, record["seeded"])

    def working_bytes(self, out: Triple) -> int:
        z, y, x = out
        return 600 * (z * y + y * x + z * x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """Objects that touch, told apart by a watershed of the foreground. Stands in place of label.

    on : "distance" to the background, in um; "intensity", of what the segmentation saw; "predicted-borders" or
        "predicted-distances", what `predict` was told to make of a network's outputs
    bright : where the intensity is high: "inside" objects or at their "borders"
    h : a minimum of the relief is a seed if the relief must rise by more than this to leave it for a lower one; in um,
        by default a quarter of the shortest side of a voxel, or in units of what it is on, without a default
    smooth_um : sigma of a Gaussian applied to the relief first, in um; 0 is none; by default the shortest side of a
        voxel for a distance, whose plateaus it parts, and none for all else
    min_seed_distance_um : of two seeds no farther from each other, the lower stays; connected foreground keeps one
    agglomerate : instances become one while the boundary between them is, in the mean over its voxel faces, deeper than
        this many um inside the foreground (on a distance), brighter than this value (bright inside, or predicted
        distances) or darker than it (bright or predicted borders), the most open boundary first; null is off. Of the
        two voxels of a face counts the shallower, dimmer or brighter one, smoothed as the relief is
    connectivity : 6, 18 or 26
    min_voxels : instances of fewer voxels are dropped, after merging, and the others numbered without them
    min_volume_um3 : the same in um^3; give one of the two
    fill_holes : whether background that one instance encloses becomes the instance's, as in label
    max_hole_um3 : only holes of at most this volume are filled; null is any
    """

    on: Literal["distance", "intensity", "predicted-borders", "predicted-distances"] = "distance"
    bright: Literal["inside", "borders"] = "inside"
    h: float | None = None
    smooth_um: float | None = None
    min_seed_distance_um: float = 0.0
    agglomerate: float | None = None
    connectivity: Literal[6, 18, 26] = 26
    min_voxels: int = 0
    min_volume_um3: float | None = None
    fill_holes: bool = False
    max_hole_um3: float | None = None

    key: ClassVar[str] = "instances"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if self.on != "distance" and self.h is None:
            raise ConfigError(f"instances: on {self.on} h has no default", "Give the depth of a seed in its units")
        for name in ("h", "smooth_um", "min_seed_distance_um", "min_voxels", "min_volume_um3"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"instances: {name} {getattr(self, name)} is negative", "Use 0 for none")
        if self.on == "distance" and (self.agglomerate or 0) < 0:
            raise ConfigError(f"instances: agglomerate {self.agglomerate} is negative", "Give a depth in um, or null")
        if self.min_voxels and self.min_volume_um3 is not None:
            raise ConfigError("instances: min_voxels and min_volume_um3 are both given", "Keep one")
        check_holes(self.key, self.fill_holes, self.max_hole_um3)

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        steps, needs = self._foreground(flow)
        relief, before = self._relief(flow)
        voxel_um = flow.scale.voxel_um
        h = min(voxel_um) / 4 if self.h is None else self.h
        find = FindSeeds(h=h, connectivity=self.connectivity)
        choose = MergeSeeds(grid=flow.grid, h=h, distance_um=self.min_seed_distance_um, voxel_um=voxel_um)
        flood = Flood(connectivity=self.connectivity, sides=_whole_sides(voxel_um))
        named = Label(min_voxels=self.min_voxels, min_volume_um3=self.min_volume_um3)
        smallest = named.smallest(voxel_um)
        name = MergeFlood(grid=flow.grid, min_voxels=smallest if self.agglomerate is None else 0)
        grid, mask = flow.grid, ArraySpec(name="mask", dtype="uint8")
        drafts = (
            Draft(name="foreground", grid=grid, steps=steps, writes=(mask,), needs=needs),
            *before,
            Draft(name="seeds", grid=grid, steps=(relief, find), writes=(ArraySpec(name="relief", dtype="float32"),)),
            self._seams(flow, "seeds"),
            Draft(name="seeds-merge", grid=grid, merge=choose, needs=("seeds", "seeds-seams")),
            Draft(
                name="flood",
                grid=grid,
                steps=(flood,),
                writes=(ArraySpec(name="basins", dtype="uint32"),),
                needs=("seeds-merge",),
            ),
            self._seams(flow, "flood"),
            Draft(name="flood-merge", grid=grid, merge=name, needs=("flood", "flood-seams", "seeds-merge")),
        )
        joined: tuple[Draft, ...] = ()
        if self.agglomerate is not None:
            limit = self.agglomerate if self._is_high_outside else -self.agglomerate
            joined = agglomerate_drafts(grid, limit=limit, min_voxels=smallest)
        merge = (drafts + joined)[-1].name
        objects, after = named_objects(flow, Name(array="basins", merge=merge), merge, self.holes)
        return (*drafts, *joined, *objects), after

    @property
    def holes(self) -> Label:
        """The stage that fills holes of instances."""
        return Label(fill_holes=self.fill_holes, max_hole_um3=self.max_hole_um3)

    @property
    def _is_high_outside(self) -> bool:
        """Whether the relief is the intensity as it is; otherwise a depth or an intensity turned over."""
        return self.on == "predicted-borders" or (self.on == "intensity" and self.bright == "borders")

    def _foreground(self, flow: Flow) -> tuple[tuple[BlockStep, ...], tuple[str, ...]]:
        if flow.kind == "labels":
            raise ConfigError("instances: the input is labels already", "Leave instances out, or use kind: mask")
        if flow.kind == "mask":
            return (NonZero(has_mask=flow.has_mask, nodata=flow.nodata),), ()
        if not flow.mask_steps:
            raise ConfigError(
                "instances: no stage before it says what foreground is", "Put threshold or predict in front of it"
            )
        return flow.mask_steps, flow.mask_needs

    def _relief(self, flow: Flow) -> tuple[Relief, tuple[Draft, ...]]:
        """The step that makes the relief, and the pass it needs."""
        usual = min(flow.scale.voxel_um) if self.on == "distance" else 0.0
        sigma_um = usual if self.smooth_um is None else self.smooth_um
        z, y, x = (sigma_um / v for v in flow.scale.voxel_um)
        if self.on != "distance":
            unit = 1.0 if self._is_high_outside else -1.0
            return Relief(array=self._source(flow), unit=unit, sigma_vox=(z, y, x), valid=flow.valid), ()
        weights, unit_um = spacing_weights(flow.shape, flow.scale.voxel_um)
        # The sides of the volume are not background: objects that the field of view cuts keep their depth at the cut.
        drafts = distance_drafts(
            flow.shape, flow.grid.core, labels="mask", name="depth", weights=weights, open_ends=True
        )
        return Relief(array="depth", unit=-unit_um, sigma_vox=(z, y, x), valid=None), drafts

    def _source(self, flow: Flow) -> str:
        """The array whose values are the relief."""
        if self.on == "intensity":
            if flow.signal is None:
                raise ConfigError(f"instances: the input is {flow.kind}, without intensities", "Use on: distance")
            return flow.signal
        wanted = self.on.removeprefix("predicted-")
        if wanted not in flow.reliefs:
            raise ConfigError(
                f"instances: on {self.on}, which no stage before it makes", f"Name them: predict: {{{wanted}: ...}}"
            )
        return flow.reliefs[wanted]

    def _seams(self, flow: Flow, source: str) -> Draft:
        step = SeamEdges(source=source, connectivity=self.connectivity)
        return Draft(name=f"{source}-seams", grid=flow.grid, steps=(step,), needs=(source,))


def _whole_sides(voxel_um: tuple[float, float, float]) -> Triple:
    """Sides of a voxel as whole numbers, near enough to say which seed is nearer."""
    return triple(tuple(round(SIDE_STEPS * side / min(voxel_um)) for side in voxel_um))
