"""Objects from a function of the user's, as cellpose or StarDist, which sees one tile at a time.

A tile is a block of a lattice that the pipeline fixes, and is segmented together with a halo around it; so a tile's
segmentation depends on no block. What two neighbouring tiles both see, they number differently:

    volume    |-- tile 0 --|-- tile 1 --|-- tile 2 -|         a tile owns its core, and decides what is there
    "tiles"   |h  tile 0  h|h  tile 1  h|h  tile 2  h|        what tiles saw, side by side, not overlapping any more
                         ^^^^^                                the same voxels of the volume twice, 2 h wide

    segment            tile and halo -> "tiles", numbered from 1 in each; first voxel and voxels of each object
    segment-overlaps   objects of neighbouring tiles that are one, by `kernels.overlap`; what could not be decided
    segment-merge      objects of all tiles -> ids in raster order of the first voxel, small ones dropped
    segment-seams      pairs seen, merged and ambiguous at every seam: the table `seams`
    label ...          the passes of `stages.label` on the objects, as on an input that is labels

Only tiles that share a face are compared: what crosses an edge or a corner is seen by the tiles between, too. The merge
holds about 100 bytes per object and tile. Results are the same for any blocks if the function is deterministic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import BlockError, ConfigError, ModelError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import components, overlap, union
from chunkflow.stages.base import ArraySpec, Draft, Flow, Merged, Output, Record, Region, View, host, iterate
from chunkflow.stages.functions import Function, check_call, find_function, takes
from chunkflow.stages.label import Label, label_dtype
from chunkflow.stages.naming import largest_of, named_objects, ranked
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.scan import DATA, INSIDE

AHEAD: tuple[Triple, ...] = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
NOWHERE = np.iinfo(np.int64).max
VIEW_STEP = 8
SEAM_COLUMNS = ("pairs", "merged", "ambiguous")


@dataclass(frozen=True, slots=True)
class Lattice:
    """Tiles over a volume, and the array in which what they saw stands side by side.

    shape : of the volume; core : of a tile; halo : voxels beyond it that are segmented with it
    """

    shape: Triple
    core: Triple
    halo: Triple

    @property
    def tiles(self) -> Grid:
        """The cores, in the volume."""
        return Grid(self.shape, self.core)

    @property
    def views(self) -> Grid:
        """Cores with their halos in the array, numbered as the tiles are. Halos outside the volume are there, empty.

        Lengths are multiples of `VIEW_STEP`: one that is prime would be cut into chunks of one voxel.
        """
        core, shape = [], []
        for n, c, h, tiles in zip(self.shape, self.core, self.halo, self.tiles.counts, strict=True):
            step = VIEW_STEP if tiles > 1 else 1
            core.append(-(-(c + 2 * h) // step) * step)
            shape.append((tiles - 1) * (core[-1] - c) + n + 2 * h)
        return Grid(triple(shape), triple(core))

    def seen(self, tile: int) -> Box:
        """The voxels of the volume that a tile sees."""
        return self.tiles.read_of(tile, self.halo)

    def place(self, tile: int, box: Box) -> Box:
        """Where a tile's view of some voxels of the volume stands in the array."""
        start, view = self.tiles.core_of(tile).start, self.views.core_of(tile).start
        return box.relative_to(triple(tuple(s - h - v for s, h, v in zip(start, self.halo, view, strict=True))))

    def tile_of_view(self, box: Box) -> int:
        """The tile in whose view a box of the array begins."""
        return self.views.index(triple(tuple(s // c for s, c in zip(box.start, self.views.core, strict=True))))

    def meeting(self, box: Box) -> Iterator[tuple[int, Box]]:
        """Tiles that own voxels of a box of the volume, and which voxels those are."""
        grid = self.tiles
        low = triple(tuple(a // c for a, c in zip(box.start, self.core, strict=True)))
        high = triple(tuple(-(-b // c) for b, c in zip(box.stop, self.core, strict=True)))
        for position in np.ndindex(*(b - a for a, b in zip(low, high, strict=True))):
            tile = grid.index(triple(tuple(a + p for a, p in zip(low, position, strict=True))))
            yield tile, grid.core_of(tile).clip(box)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTile:
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
        labels = self._segmented(host(view.regions[self.array].cut(seen)).copy(), seen)
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

    def _segmented(self, image: NDArray[Any], box: Box) -> NDArray[Any]:
        """Unsigned labels of an image, as the function gives them, checked."""
        name = self.function.name
        try:
            found = self.function.load()(image, **self.options)
        except ModelError:
            raise
        except (Exception, SystemExit) as error:  # a function that means to end the program ends its tile
            raise BlockError(
                f"segment: {name} failed on {box}: {type(error).__name__}: {error}",
                "Correct the function or its options",
            ) from error
        try:
            labels = np.asarray(found)
        except ValueError as error:
            raise ModelError(
                f"segment: {name} gave no array at {box} ({error})", "Return one array of the image's shape"
            ) from error
        if labels.shape != box.shape:
            raise ModelError(
                f"segment: {name} gave {labels.shape} labels for {box.shape} voxels at {box}",
                "Return one label per voxel, as an array of the image's shape",
            )
        if labels.dtype.kind not in "iu":
            raise ModelError(f"segment: {name} gave {labels.dtype}, not labels", "Return integers, 0 for background")
        if labels.dtype.kind == "i" and labels.min() < 0:
            raise ModelError(
                f"segment: {name} gave the negative label {labels.min()} at {box}",
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
        for record in iterate(records["segment"]):
            first.append(record["first"])
            size.append(record["size"])
            counts.append(len(record["first"]))
        offsets = union.element_offsets(np.array(counts, np.int64))
        pairs = [np.zeros((0, 2), np.int64)]
        for tile, record in enumerate(iterate(records["segment-overlaps"])):
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
        for tile, record in enumerate(iterate(records["segment-overlaps"])):
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
        labelled = np.zeros(out.shape, label_dtype(view.values["segment-merge"]))
        for tile, box in self.lattice.meeting(out):
            ids = view.records["segment-merge"][tile]["ids"].astype(labelled.dtype)
            labelled[box.relative_to(out.start).slices] = ids[region.cut(self.lattice.place(tile, box))]
        return Output(arrays={"labelled": labelled})

    def working_bytes(self, out: Triple) -> int:
        return 8 * prod(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Objects from a function of the user's, tile by tile, put together where tiles overlap. Stands in place of label.

    function : "package.module:name". It takes an array (Z, Y, X) of what the segmentation sees, and the options as
        keywords, `voxel_um` (z, y, x) too where it has such a parameter, and returns integers of that shape: labels,
        0 for background. Sides of the volume come without a halo, so shapes differ
    options : keywords for it; numbers, texts, lists
    tile : voxels of a tile, per axis or for all three
    halo : voxels around a tile that the function sees with it; at least half as long as the objects
    overlap : two objects of neighbouring tiles are one if each is the other's largest overlap, and the mean of the
        shares that they have of each other, in what both tiles see, is above this (`kernels.overlap`)
    min_voxels : objects of fewer voxels are dropped, after merging, and the others numbered without them
    min_volume_um3 : the same in um^3; give one of the two
    bytes_per_voxel : memory the function takes beside its input, for the plan
    """

    function: str
    options: dict[str, Any] = field(default_factory=dict)
    tile: int | Triple = 128
    halo: int | Triple = 16
    overlap: float = 0.5
    min_voxels: int = 0
    min_volume_um3: float | None = None
    bytes_per_voxel: int = 64

    key: ClassVar[str] = "segment"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if min(triple(self.tile)) < 1:
            raise ConfigError(f"segment: tile {self.tile} is not positive", "Give voxels, 128 or [z, y, x]")
        if min(triple(self.halo)) < 0:
            raise ConfigError(f"segment: halo {self.halo} is negative", "Give voxels, 16 or [z, y, x]")
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"segment: overlap {self.overlap} is not a share below 1", "Use 0.5")
        if self.min_voxels < 0 or (self.min_volume_um3 or 0) < 0 or self.bytes_per_voxel < 0:
            raise ConfigError("segment: a minimum size or bytes_per_voxel is negative", "Use 0 for none")
        if self.min_voxels and self.min_volume_um3 is not None:
            raise ConfigError("segment: min_voxels and min_volume_um3 are both given", "Keep one")
        for name, value in self.options.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"segment: option {name} is {value!r}, which a pipeline file cannot hold ({error})",
                    "Give numbers, texts, lists or maps",
                ) from error

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        if flow.signal is None:
            raise ConfigError(f"segment: the input is {flow.kind}, not an image", "Leave segment out")
        if "threshold" in flow.wants:
            raise ConfigError("segment: a threshold before it changes nothing", "Leave the threshold out")
        lattice = self._lattice(flow.shape)
        function = find_function(self.function, self.key)
        find = SegmentTile(
            array=flow.signal,
            valid=flow.valid,
            lattice=lattice,
            function=function,
            options=self._options(function, flow.scale.voxel_um),
            bytes_per_voxel=self.bytes_per_voxel,
        )
        smallest = Label(min_voxels=self.min_voxels, min_volume_um3=self.min_volume_um3).smallest(flow.scale.voxel_um)
        compare = FindOverlaps(lattice=lattice, threshold=self.overlap)
        seams = MergeSeams(lattice=lattice, voxel_um=flow.scale.voxel_um, translation_um=flow.scale.translation_um)
        views, written = lattice.views, ArraySpec(name="tiles", dtype="uint32")
        drafts = (
            Draft(name="segment", grid=views, steps=(find,), writes=(written,), tiled=True),
            Draft(name="segment-overlaps", grid=views, steps=(compare,), tiled=True),
            Draft(
                name="segment-merge",
                grid=views,
                merge=MergeTiles(min_voxels=smallest),
                needs=("segment", "segment-overlaps"),
                tiled=True,
            ),
            Draft(name="segment-seams", grid=views, merge=seams, needs=("segment-overlaps",), tiled=True),
        )
        objects, after = named_objects(flow, NameTiles(lattice=lattice), "segment-merge")
        return (*drafts, *objects), after

    def _options(self, function: Function, voxel_um: tuple[float, float, float]) -> dict[str, Any]:
        options = ({"voxel_um": voxel_um} if takes(function, "voxel_um") else {}) | self.options
        check_call(function, options, self.key)
        return options

    def _lattice(self, shape: Triple) -> Lattice:
        """Tiles no longer than the volume; none but one along an axis needs a halo."""
        core = triple(tuple(min(t, n) for t, n in zip(triple(self.tile), shape, strict=True)))
        halo = triple(tuple(h if c < n else 0 for h, c, n in zip(triple(self.halo), core, shape, strict=True)))
        for name, c, n, h in zip("zyx", core, shape, halo, strict=True):
            if c < n and h == 0:
                raise ConfigError(
                    f"segment: halo {self.halo} leaves nothing along {name} that two tiles both see",
                    "Use half the length of an object, or a tile as long as the volume",
                )
        return Lattice(shape, core, halo)
