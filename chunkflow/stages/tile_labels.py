"""Labels of tiles that a function of the user's finds in each, put together to objects of the volume.

What two neighbouring tiles both see, they number differently (see `stages.lattice`):

    apply              tile and halo -> "tiles", numbered from 1 in each; first voxel and voxels of each object
    apply-overlaps     objects of neighbouring tiles that are one, by `kernels.overlap`; what could not be decided
    apply-merge        objects of all tiles -> ids in raster order of the first voxel, small ones dropped
    apply-seams        pairs seen, merged and ambiguous at every seam: the table `seams`
    label ...          the passes of `stages.label` on the objects, as on an input that is labels

Only tiles that share a face are compared: what crosses an edge or a corner is seen by the tiles between, too. The merge
holds about 100 bytes per object and tile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ModelError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.kernels import components, overlap, union
from chunkflow.stages.base import ArraySpec, Draft, Flow, Merged, Output, Record, Region, View, host, iterate
from chunkflow.stages.functions import Function, applied
from chunkflow.stages.label import label_dtype
from chunkflow.stages.lattice import Lattice
from chunkflow.stages.naming import largest_of, named_objects, ranked
from chunkflow.stages.scan import DATA, INSIDE

AHEAD: tuple[Triple, ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
NOWHERE = np.iinfo(np.int64).max
SEAM_COLUMNS = ("pairs", "merged", "ambiguous")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTile:
    """What the function finds in a tile and its halo; of each object first voxel and number of voxels in the core."""

    array: str
    valid: str | None
    lattice: Lattice
    function: Function
    options: Mapping[str, Any]
    bytes_per_voxel: int = field(metadata={"fingerprint": False})

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("tiles",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        seen = self.lattice.seen(self.lattice.tile_of_view(out))
        return {self.array: seen, self.valid: seen} if self.valid else {self.array: seen}

    def run(self, view: View, out: Box) -> Output:
        seen, core = self.lattice.seen(view.block), self.lattice.tiles.core_of(view.block)
        labels = self._labelled(host(view.regions[self.array].cut(seen)).copy(), seen)
        if self.valid is not None:
            labels = np.where(host(view.regions[self.valid].cut(seen)) == DATA | INSIDE, labels, labels.dtype.type(0))
        numbers, present = components.dense_labels(np.ascontiguousarray(labels))
        tiles = np.zeros(out.shape, np.uint32)
        tiles[self.lattice.place(view.block, seen).relative_to(out.start).slices] = numbers
        own = numbers[core.relative_to(seen.start).slices].ravel()
        number, at, count = np.unique(own, return_index=True, return_counts=True)
        at = components.volume_index(at, core.shape, core.start, self.lattice.shape)
        first, size = np.full(len(present) + 1, NOWHERE), np.zeros(len(present) + 1, np.int64)
        first[number], size[number] = at, count
        return Output(arrays={"tiles": tiles}, record={"first": first[1:], "size": size[1:]})

    def _labelled(self, image: NDArray[Any], box: Box) -> NDArray[Any]:
        """Unsigned labels of an image, as the function gives them, checked."""
        labels, name = applied(self.function, image, self.options, box, "apply"), self.function.name
        if labels.dtype.kind not in "iu":
            raise ModelError(f"apply: {name} gave {labels.dtype}, not labels", "Return integers, 0 for background")
        if labels.dtype.kind == "i" and labels.min() < 0:
            raise ModelError(
                f"apply: {name} gave the negative label {labels.min()} at {box}",
                "Return 0 for background, 1 and more",
            )
        return labels.astype(f"u{labels.dtype.itemsize}", copy=False)

    def working_bytes(self, out: Triple) -> int:
        return (self.bytes_per_voxel + 40) * prod(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindOverlaps:
    """Objects of a tile that are one with objects of the tiles ahead, and how clear that was.

    Records rows of `pairs` (object, tile ahead, object) and of `seams` (tile ahead, axis, SEAM_COLUMNS).
    """

    lattice: Lattice
    threshold: float

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        stop = triple(tuple(b + 2 * h for b, h in zip(out.stop, self.lattice.halo, strict=True)))
        return {"tiles": Box(out.start, stop)}

    def run(self, view: View, out: Box) -> Output:
        region = view.regions["tiles"]
        pairs, seams = [np.zeros((0, 3), np.int64)], [np.zeros((0, 2 + len(SEAM_COLUMNS)), np.int64)]
        for axis, direction in enumerate(AHEAD):
            ahead = view.grid.neighbour(view.block, direction)
            if ahead is None:
                continue
            shared = self.lattice.seen(view.block).clip(self.lattice.seen(ahead))
            ours, theirs = (host(region.cut(self.lattice.place(t, shared))) for t in (view.block, ahead))
            found = overlap.overlaps(ours, theirs)
            is_alike = found.likeness > self.threshold
            one = found.pair[is_alike & found.is_mutual]
            pairs.append(np.stack((one[:, 0], np.full(len(one), ahead), one[:, 1]), axis=1))
            ambiguous = int((is_alike & ~found.is_mutual).sum())
            seams.append(np.array([[ahead, axis, len(found.pair), len(one), ambiguous]], np.int64))
        return Output(record={"pairs": np.concatenate(pairs), "seams": np.concatenate(seams)})

    def working_bytes(self, out: Triple) -> int:
        return 100 * max(prod(out) // n * 2 * h for n, h in zip(out, self.lattice.halo, strict=True)) + 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeTiles:
    """The id of every object of every tile."""

    min_voxels: int

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        first, size, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], []
        for record in iterate(records["apply"]):
            first.append(record["first"])
            size.append(record["size"])
            counts.append(len(record["first"]))
        offsets = union.element_offsets(np.array(counts, np.int64))
        pairs = [np.zeros((0, 2), np.int64)]
        for tile, record in enumerate(iterate(records["apply-overlaps"])):
            here, ahead, there = record["pairs"].T
            pairs.append(np.stack((offsets[tile] + here - 1, offsets[ahead] + there - 1), axis=1))
        classes, number = union.components_of(int(offsets[-1]), np.concatenate(pairs))
        earliest, total = np.full(number + 1, NOWHERE), np.zeros(number + 1, np.int64)
        np.minimum.at(earliest, classes + 1, np.concatenate(first))
        np.add.at(total, classes + 1, np.concatenate(size))
        ids = ranked(earliest, total, self.min_voxels)
        final, none = ids[classes + 1], np.zeros(1, np.uint64)
        parts = (
            (tile, {"ids": np.concatenate([none, final[offsets[tile] : offsets[tile + 1]]])})
            for tile in range(len(counts))
        )
        return Merged(largest_of(ids), parts)

    def working_bytes(self, blocks: int) -> int:
        return 65536 * blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeSeams:
    """One row per pair of tiles that share a face."""

    lattice: Lattice
    voxel_um: tuple[float, float, float]
    translation_um: tuple[float, float, float]

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        rows = [np.zeros((0, 3 + len(SEAM_COLUMNS)), np.int64)]
        for tile, record in enumerate(iterate(records["apply-overlaps"])):
            seams = record["seams"]
            rows.append(np.concatenate([np.full((len(seams), 1), tile), seams], axis=1))
        tile, ahead, axis, *counts = np.concatenate(rows).T
        columns = {"tile_a": tile, "tile_b": ahead, "axis": np.array(list("zyx"))[axis]}
        columns |= self._centres(tile, axis)
        return Merged(columns | dict(zip(SEAM_COLUMNS, counts, strict=True)))

    def _centres(self, tile: NDArray[np.int64], axis: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Centres of the faces behind tiles along an axis, in um."""
        boxes = [self.lattice.tiles.core_of(int(t)) for t in tile]
        start = np.array([box.start for box in boxes]).reshape(-1, 3)
        stop = np.array([box.stop for box in boxes]).reshape(-1, 3)
        centre = (start + stop - 1) / 2
        centre[np.arange(len(tile)), axis] = stop[np.arange(len(tile)), axis] - 0.5
        centre = centre * self.voxel_um + np.array(self.translation_um)
        return {f"{name}_um": centre[:, a] for a, name in enumerate("zyx")}

    def working_bytes(self, blocks: int) -> int:
        return 4096 * blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class NameTiles:
    """Objects of a block, from the cores of the tiles that it meets."""

    lattice: Lattice

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("labelled",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        (first, low), *_, (last, high) = [*self.lattice.meeting(out)] * 2
        return {"tiles": Box(self.lattice.place(first, low).start, self.lattice.place(last, high).stop)}

    def run(self, view: View, out: Box) -> Output:
        region: Region = view.regions["tiles"]
        labelled = np.zeros(out.shape, label_dtype(view.values["apply-merge"]))
        for tile, box in self.lattice.meeting(out):
            ids = view.records["apply-merge"][tile]["ids"].astype(labelled.dtype)
            labelled[box.relative_to(out.start).slices] = ids[region.cut(self.lattice.place(tile, box))]
        return Output(arrays={"labelled": labelled})

    def working_bytes(self, out: Triple) -> int:
        return 8 * prod(out)


def object_drafts(flow: Flow, find: LabelTile, *, threshold: float, min_voxels: int) -> tuple[tuple[Draft, ...], Flow]:
    """The passes from tiles to the objects of the volume, and on to final labels.

    threshold : likeness above which two objects are one; min_voxels : of the smallest object kept
    """
    lattice = find.lattice
    views, written = lattice.views, ArraySpec(name="tiles", dtype="uint32")
    compare = FindOverlaps(lattice=lattice, threshold=threshold)
    merge = MergeTiles(min_voxels=min_voxels)
    seams = MergeSeams(lattice=lattice, voxel_um=flow.scale.voxel_um, translation_um=flow.scale.translation_um)
    drafts = (
        Draft(name="apply", grid=views, steps=(find,), writes=(written,), tiled=True),
        Draft(name="apply-overlaps", grid=views, steps=(compare,), tiled=True),
        Draft(name="apply-merge", grid=views, merge=merge, needs=("apply", "apply-overlaps"), tiled=True),
        Draft(name="apply-seams", grid=views, merge=seams, needs=("apply-overlaps",), tiled=True),
    )
    objects, after = named_objects(flow, NameTiles(lattice=lattice), "apply-merge")
    return (*drafts, *objects), after
