"""Objects of the whole volume from blocks that each see only their own core.

    label          components of a core, provisional ids from 1; for holes also its 6-connected regions of anything
    seams          per block: which of its components and regions touch those of its 13 forward neighbours
    label-merge    union-find, slab by slab -> final ids in raster order of the first voxel, without filtered ones
    regions-merge  region graph -> components, cavities and what fills them, per object
    relabel        provisional -> final labels, with holes filled if asked for, and the same with all cavities filled

A seam is decided from the boundary planes that the label pass recorded: no voxel is read twice.
Stops working where the regions of all blocks (about 150 bytes each) do not fit one worker's memory: those are what
cavities and loops are counted by. Without skeleton, measure and fill_holes there is no such limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, floor, prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ConfigError, InputError
from chunkflow.geometry.box import Box, Triple
from chunkflow.kernels import components, contact, topology
from chunkflow.stages.base import ArraySpec, BlockStep, Draft, Flow, Output, Record, View, host
from chunkflow.stages.distance import Width, spacing_weights
from chunkflow.stages.label_merge import MergeLabels, MergeRegions
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.scan import is_inside

Pairs = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NonZero:
    """Foreground of an input that is a mask."""

    has_mask: bool
    nodata: float | None

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("mask",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"input": out, "input_mask": out} if self.has_mask else {"input": out}

    def run(self, view: View, out: Box) -> Output:
        values = view.regions["input"].cut(out)
        mask = values != 0
        if self.nodata is not None:
            mask &= values != values.dtype.type(self.nodata)
        if self.has_mask:
            mask &= is_inside(view.regions["input_mask"].cut(out))
        return Output(arrays={"mask": mask.astype(np.uint8)})

    def working_bytes(self, out: Triple) -> int:
        return 2 * prod(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledInput:
    """Labels of an input that is labels, without those the user's mask excludes."""

    has_mask: bool
    nodata: float | None

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("labelled",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"input": out, "input_mask": out} if self.has_mask else {"input": out}

    def run(self, view: View, out: Box) -> Output:
        labels = view.regions["input"].cut(out)
        nothing = labels.dtype.type(0)
        if self.nodata is not None:
            labels = np.where(labels == labels.dtype.type(self.nodata), nothing, labels)
        if self.has_mask:
            labels = np.where(is_inside(view.regions["input_mask"].cut(out)), labels, nothing)
        if labels.size and labels.min() < 0:
            raise InputError(f"a label of the input is negative: {labels.min()} in {out}", "Labels are 0 or more")
        labels = labels.astype(f"u{labels.dtype.itemsize}", copy=False)
        return Output(arrays={"labelled": labels})

    def working_bytes(self, out: Triple) -> int:
        return 9 * prod(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Provisional components of a core; with `topology`, its regions and their contacts too.

    fill_holes : whether regions say if they touch a side of the volume, axes one voxel long left aside
    """

    array: str
    connectivity: int
    topology: bool
    clear_border: bool
    fill_holes: bool

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("provisional", "pieces")
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {self.array: out}

    def run(self, view: View, out: Box) -> Output:
        values = host(view.regions[self.array].cut(out))
        values = values.astype(bool) if self.array == "mask" else values
        labels, table = components.label_block(values, self.connectivity)
        record: dict[str, Any] = {
            "first": components.volume_index(table.first, out.shape, out.start, view.shape),
            "size": table.size,
            "value": table.value,
        }
        if self.clear_border:
            record["excluded"] = topology.touches_sides(labels, len(table), _long_sides(view))
        if len(table):
            record |= _prefixed("component_", contact.shell(labels))
        if not self.topology:
            return Output(arrays={"provisional": labels}, record=record)
        regions = topology.block_regions(labels, view.grid.sides(view.block))
        record |= {
            "region_value": regions.table.value,
            "region_size": regions.table.size,
            "region_border": regions.touches_border,
            "region_adjacency": regions.adjacency,
            "region_links26": regions.links26,
        } | _prefixed("region_", contact.shell(regions.pieces))
        if self.fill_holes:
            record["region_open"] = topology.touches_sides(regions.pieces, len(regions.table), _long_sides(view))
        return Output(arrays={"provisional": labels, "pieces": regions.pieces}, record=record)

    def working_bytes(self, out: Triple) -> int:
        return (20 if self.topology else 14) * prod(out)  # 17 and 11 measured on noise of 10^5 objects


def _long_sides(view: View) -> topology.Sides:
    """Which sides of a core are sides of the volume; an axis one voxel long has none."""
    z, y, x = (
        sides if n > 1 else (False, False) for sides, n in zip(view.grid.sides(view.block), view.shape, strict=True)
    )
    return z, y, x


def _prefixed(prefix: str, planes: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + "plane_" + name: plane for name, plane in planes.items()}


def _shell(record: Record, prefix: str) -> dict[str, NDArray[Any]]:
    start = prefix + "plane_"
    return {name[len(start) :]: plane for name, plane in record.items() if name.startswith(start)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """Contacts of one block's components and regions with those of its forward neighbours.

    Records rows (component, neighbour, component): ids within the blocks, and the index of the neighbour.
    """

    connectivity: int
    topology: bool

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {}

    def run(self, view: View, out: Box) -> Output:
        here = view.records["label"][view.block]
        found: dict[str, list[Pairs]] = {"components": [], "faces": [], "links26": []}
        for direction in contact.FORWARD:
            neighbour = view.grid.neighbour(view.block, direction)
            if neighbour is None:
                continue
            there = view.records["label"][neighbour]
            if len(here["first"]) and len(there["first"]):
                pairs = contact.touching(
                    _shell(here, "component_"), _shell(there, "component_"), direction, self.connectivity
                )
                same = contact.same_value(pairs, here["value"], there["value"])
                found["components"].append(_rows(pairs[same], neighbour))
            if self.topology:
                self._regions(here, there, direction, neighbour, found)
        empty = np.zeros((0, 3), np.int64)
        return Output(record={name: np.concatenate([empty, *rows]) for name, rows in found.items()})

    @staticmethod
    def _regions(here: Record, there: Record, direction: Triple, neighbour: int, found: dict[str, list[Pairs]]) -> None:
        a, b = _shell(here, "region_"), _shell(there, "region_")
        if sum(map(abs, direction)) == 1:
            found["faces"].append(_rows(contact.touching(a, b, direction, 6), neighbour))
        if len(here["first"]) and len(there["first"]):
            pairs = contact.touching(a, b, direction, 26)
            both = (here["region_value"][pairs[:, 0] - 1] != 0) & (there["region_value"][pairs[:, 1] - 1] != 0)
            found["links26"].append(_rows(pairs[both], neighbour))

    def working_bytes(self, out: Triple) -> int:
        z, y, x = out
        return 200 * (z * y + y * x + z * x)


def _rows(pairs: Pairs, neighbour: int) -> Pairs:
    return np.stack((pairs[:, 0], np.full(len(pairs), neighbour, np.int64), pairs[:, 1]), axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relabel:
    """Final labels of a core, their holes filled where `holes`; and with all cavities filled where `filled`."""

    holes: bool
    filled: bool

    version: ClassVar[int] = 2
    produces: ClassVar[tuple[str, ...]] = ("labels", "filled")
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"provisional": out, "pieces": out} if self.holes or self.filled else {"provisional": out}

    def spares(self, values: Mapping[str, Record], block: int) -> frozenset[str]:
        """See `stages.base.Sparer`."""
        fills = any(table.any() for name, table in values.get("regions-merge", {}).items() if name in ("holes", "fill"))
        return frozenset(() if fills else {"pieces"})

    def run(self, view: View, out: Box) -> Output:
        ids = view.values["label-merge"]["ids"].astype(label_dtype(view.values["label-merge"]))
        labels = components.replaced(view.regions["provisional"].cut(out), ids)
        if self.holes:
            labels = self._with(labels, "holes", view, out)
        if not self.filled:
            return Output(arrays={"labels": labels})
        filled = self._with(labels, "fill", view, out)
        return Output(arrays={"labels": labels, "filled": filled}, record={"unlike": np.array([filled is not labels])})

    @staticmethod
    def _with(labels: NDArray[Any], table: str, view: View, out: Box) -> NDArray[Any]:
        """Labels, and where there are none what a table of `regions-merge` says of the region."""
        of_region = view.values["regions-merge"][table].astype(labels.dtype)
        if not of_region.any():
            return labels
        return np.asarray(np.maximum(labels, components.replaced(view.regions["pieces"].cut(out), of_region)))

    def working_bytes(self, out: Triple) -> int:
        return 8 * prod(out)


def label_dtype(merged: Record) -> np.dtype[Any]:
    """The smallest of uint16, uint32 and uint64 that holds every id."""
    largest = int(merged["largest"][0])
    return np.dtype(next(d for d in ("uint16", "uint32", "uint64") if largest <= np.iinfo(d).max))


def check_holes(key: str, fill_holes: bool, max_hole_um3: float | None) -> None:
    """Whether what a stage was told of holes makes sense.

    Raises
    ------
    ConfigError : the largest volume is not positive, or holes are not to be filled.
    """
    if max_hole_um3 is None:
        return
    if max_hole_um3 <= 0:
        raise ConfigError(f"{key}: max_hole_um3 {max_hole_um3} fills nothing", "Give a volume in um^3, or null for any")
    if not fill_holes:
        raise ConfigError(f"{key}: max_hole_um3 is given, but holes are not filled", "Add fill_holes: true")


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """Connected components of the foreground.

    connectivity : 6, 18 or 26; of no effect on an input of labels, which keep their ids
    min_voxels : objects of fewer voxels are dropped, after merging, and the others numbered without them
    min_volume_um3 : the same in um^3; give one of the two
    clear_border : whether objects that touch a side of the volume are dropped too
    fill_holes : whether background that one object encloses becomes the object's, after the filters; what holds
        another object stays, and so does what reaches a side of the volume. In a single plane, rings are filled. All
        background counts, voxels outside a mask too
    max_hole_um3 : only holes of at most this volume are filled; null is any
    """

    connectivity: Literal[6, 18, 26] = 26
    min_voxels: int = 0
    min_volume_um3: float | None = None
    clear_border: bool = False
    fill_holes: bool = False
    max_hole_um3: float | None = None

    key: ClassVar[str] = "label"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if self.connectivity not in (6, 18, 26):
            raise ConfigError(f"label: connectivity {self.connectivity} does not exist", "Use 6, 18 or 26")
        if self.min_voxels < 0 or (self.min_volume_um3 or 0) < 0:
            raise ConfigError("label: a minimum size is negative", "Use 0 for none")
        if self.min_voxels and self.min_volume_um3 is not None:
            raise ConfigError("label: min_voxels and min_volume_um3 are both given", "Keep one")
        check_holes(self.key, self.fill_holes, self.max_hole_um3)

    def smallest(self, voxel_um: tuple[float, float, float]) -> int:
        """The minimum size in voxels; volumes are compared as volume_vox * voxel volume >= minimum."""
        if self.min_volume_um3 is None:
            return self.min_voxels
        # Without the margin, 0.3 / 0.1 would ask for 4 voxels where 3 are exactly enough.
        return ceil(self.min_volume_um3 / prod(voxel_um) * (1 - 1e-12))

    def largest_hole(self, voxel_um: tuple[float, float, float]) -> int | None:
        """Voxels of the largest hole that is filled, 0 where none is; None for any."""
        if not self.fill_holes:
            return 0
        return None if self.max_hole_um3 is None else floor(self.max_hole_um3 / prod(voxel_um) * (1 + 1e-12))

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        grid = flow.grid
        before, needs, array = self._foreground(flow)
        counted = bool(flow.wants & {"skeleton", "measure"})
        topology = counted or self.fill_holes
        # Labels that come in keep their ids, and all that is counted of their pieces is 26-connected.
        connectivity = 26 if flow.kind == "labels" else self.connectivity
        find = Components(
            array=array,
            connectivity=connectivity,
            topology=topology,
            clear_border=self.clear_border,
            fill_holes=self.fill_holes,
        )
        writes = [ArraySpec(name="provisional", dtype="uint32")]
        writes += [ArraySpec(name="pieces", dtype="uint32")] if topology else []
        writes += [ArraySpec(name="mask", dtype="uint8")] if "mask" in flow.save and array == "mask" else []
        seams = Seams(connectivity=connectivity, topology=topology)
        smallest = self.smallest(flow.scale.voxel_um)
        ids = MergeLabels(grid=grid, min_voxels=smallest, keep_ids=flow.kind == "labels")
        drafts = [
            Draft(name="label", grid=grid, steps=(*before, find), writes=tuple(writes), needs=needs),
            Draft(name="seams", grid=grid, steps=(seams,), needs=("label",)),
            Draft(name="label-merge", grid=grid, merge=ids, needs=("label", "seams")),
        ]
        merges: tuple[str, ...] = ("label-merge",)
        finals = [ArraySpec(name="labels", dtype="labels")]
        if topology:
            regions = ("label", "seams", "label-merge")
            merge = MergeRegions(largest_hole=self.largest_hole(flow.scale.voxel_um))
            drafts.append(Draft(name="regions-merge", grid=grid, merge=merge, needs=regions))
            merges += ("regions-merge",)
        if counted:
            finals.append(ArraySpec(name="filled", dtype="labels"))
        steps: tuple[BlockStep, ...] = (Relabel(holes=self.fill_holes, filled=counted),)
        if "skeleton" in flow.wants:
            steps += (Width(labels="filled", weights=spacing_weights(flow.shape, flow.scale.voxel_um)[0]),)
        drafts.append(Draft(name="relabel", grid=grid, steps=steps, writes=tuple(finals), needs=merges))
        return tuple(drafts), replace(flow, labels="labels", filled="filled" if counted else None)

    def _foreground(self, flow: Flow) -> tuple[tuple[BlockStep, ...], tuple[str, ...], str]:
        """Steps that make the array to label, the passes they need, and its name."""
        if flow.kind == "labels":
            return (LabelledInput(has_mask=flow.has_mask, nodata=flow.nodata),), (), "labelled"
        if flow.kind == "mask":
            return (NonZero(has_mask=flow.has_mask, nodata=flow.nodata),), (), "mask"
        if not flow.mask_steps:
            raise ConfigError(
                "label: no stage before it says what foreground is", "Put threshold or predict in front of it"
            )
        return flow.mask_steps, flow.mask_needs, "mask"
