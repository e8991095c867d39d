"""One skeleton and one graph for the whole volume, voxel for voxel what a single run would give.

    shortcuts, distance-x ..  exact squared distances of the filled labels, where no crop holds them (`stages.distance`)
    thin          certified thinning of a core and its halo; lists the skeleton's voxels and those it leaves open
    residual-1..  2 x 2 x 2 lists of open voxels at a time: what they decide leaves, the rest climbs to the root
    residual-merge  gives each block what was decided of it above
    skeleton      the voxels decided in a block and above it, as an array and as a list
    graph ..      the graph of all skeleton voxels (`stages.graph`)

The certificate of `kernels.thinning` says which voxels a crop cannot decide; at the root of the tree at the latest they
are. Only distances beyond 46,340 voxels, which no int32 holds, leave voxels open: those are counted and their object is
not certified. A joint of the tree holds what climbs to it: next to nothing of tubes, a fifth to two fifths of the
voxels of an object much thicker than the blocks (at the root; all, deep inside), which larger blocks make less. The
plan counts all of a joint's voxels, which nothing exceeds, and warns where a worker could not hold so many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, product
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import to_device
from chunkflow.errors import ConfigError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import components, decisions, measure, residual, thinning, thinning_gpu
from chunkflow.kernels.euler import euler
from chunkflow.kernels.open_voxels import OpenVoxels, collect
from chunkflow.stages.base import (
    ArraySpec,
    Draft,
    Flow,
    Merged,
    Output,
    Record,
    Region,
    View,
    host,
    iterate,
)
from chunkflow.stages.distance import MARGIN, SHORTCUTS, Near, distance_drafts, near_distances, spacing_weights
from chunkflow.stages.graph import AssemblePart, graph_drafts
from chunkflow.stages.label import label_dtype
from chunkflow.stages.parameters import check_parameters

THINNING_HALO = 8  # cheapest on networks: 1 % of the voxels stay open for the tree

THINNING_BYTES, DEVICE_THINNING_BYTES = 18, 25  # per voxel of a crop
TOLD_BYTES = 48  # what a joint is told, per voxel on three sides of a block below it: 9 B each, of few of them
LONG_VOXELS = 5  # long side per short one: at 10, a rod 18 um long and 1.8 um wide had 8.0 um of the 15.6 um in cubes


def open_borders(box: Box, shape: Triple) -> NDArray[np.bool_]:
    """(3, 2) bool: the sides of a box behind which the volume goes on."""
    return np.array([[a > 0, b < n] for a, b, n in zip(box.start, box.stop, shape, strict=True)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Euler:
    """Euler characteristic of each object and of the same with its cavities filled, as far as a block owns it.

    by_shortcuts : labels are read where `shortcuts` says that they are unlike the filled ones, not everywhere
    """

    by_shortcuts: bool

    version: ClassVar[int] = 2
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"labels": out.grow((1, 1, 1)), "filled": out.grow((1, 1, 1))}

    def spares(self, values: Mapping[str, Record], block: int) -> frozenset[str]:
        """See `stages.base.Sparer`."""
        is_spared = self.by_shortcuts and block not in values[SHORTCUTS]["unlike"]
        return frozenset({"labels"} if is_spared else ())

    def run(self, view: View, out: Box) -> Output:
        filled = self._owned(view.regions["filled"], view)
        label, chi = euler(filled)
        record = {"chi_label": label, "chi": chi, "filled_label": label, "filled_chi": chi}
        labels = self._owned(view.regions["labels"], view) if "labels" in view.regions else filled
        if not np.array_equal(labels, filled):
            record["chi_label"], record["chi"] = euler(labels)
        return Output(record=record)

    @staticmethod
    def _owned(region: Region, view: View) -> NDArray[Any]:
        """The core, one layer before it, and one of zeros behind it where it ends with the volume."""
        core = view.core
        box = Box(core.grow((1, 1, 1)).start, core.stop)
        inside = box.clip(region.box)
        before = [a - b for a, b in zip(inside.start, box.start, strict=True)]
        behind = [int(b == n) for b, n in zip(core.stop, view.shape, strict=True)]
        return np.pad(host(region.cut(inside)), list(zip(before, behind, strict=True)))

    def working_bytes(self, out: Triple) -> int:
        return 24 * prod(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thin:
    """Thinning of a core: lists of its skeleton voxels, of open ones, and of what its outermost voxels became."""

    weights: Triple
    halo: int
    t0: int
    inscribed: bool

    version: ClassVar[int] = 3
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"filled": out.grow(triple(self.halo + MARGIN)), "distance": out.grow(triple(self.halo))}

    def spares(self, values: Mapping[str, Record], block: int) -> frozenset[str]:
        """See `stages.base.Sparer`."""
        return frozenset(() if block in values[SHORTCUTS]["far"] else {"distance"})

    def run(self, view: View, out: Box) -> Output:
        crop = out.grow(triple(self.halo)).clip(Box.of_shape(view.shape))
        labels = Region(crop, host(view.regions["filled"].cut(crop)))
        ids = labels.cut(out)
        if not ids.any():
            return Output(record=_decided() | _listed(OpenVoxels.empty()) | _told() | self._inscribed(ids, ids))
        measured = self._distances(view, crop)
        distances = Region(crop, host(measured))
        origin = crop.start
        borders = open_borders(crop, view.shape)
        if view.device == "gpu":
            given = (view.regions["filled"].cut(crop), measured)
            thinned = thinning_gpu.thin(*given, origin=origin, open_borders=borders, t0=self.t0)
        else:
            thinned = thinning.thin(
                labels.data, distances.data, origin=origin, open_borders=borders, weights=self.weights, t0=self.t0
            )
        inner = out.relative_to(origin)
        history = thinned.history[inner.slices]
        open_voxels = OpenVoxels.empty()
        if thinned.start is not None:
            open_voxels = collect(
                labels.data,
                distances.data,
                thinned.history,
                thinned.start,
                low=inner.start,
                high=inner.stop,
                origin=origin,
                shape=view.shape,
            )
        outward = np.zeros(out.shape, np.bool_)
        for axis, (low, high) in enumerate(open_borders(out, view.shape)):
            planes = np.moveaxis(outward, axis, 0)
            planes[0] |= low
            planes[-1] |= high
        outward &= (history != 0) & (history != thinning.OPEN)
        at, told = np.flatnonzero(history == thinning.ALIVE), np.flatnonzero(outward)
        place = (out.shape, out.start, view.shape)
        decided = _decided(components.volume_index(at, *place), ids.ravel()[at], distances.cut(out).ravel()[at])
        tells = _told(components.volume_index(told, *place), history.ravel()[told])
        return Output(record=decided | _listed(open_voxels) | tells | self._inscribed(ids, distances.cut(out)))

    def _distances(self, view: View, crop: Box) -> Any:
        """Squared distances of the crop to thin, on the view's device."""
        if "distance" in view.regions:
            return view.regions["distance"].cut(crop)
        wide = view.regions["filled"]
        found = near_distances(Region(wide.box, host(wide.data)), view.shape, self.weights)
        return to_device(np.ascontiguousarray(found[crop.relative_to(wide.box.start).slices]), view.device)

    def _inscribed(self, ids: NDArray[Any], distances: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The largest squared distance in each object, as far as it lies in the core."""
        if not self.inscribed:
            return {}
        found = measure.largest_values(ids, np.asarray(distances, np.int32))
        return {"inscribed_label": found.label, "inscribed_d2": found.value}

    def working_bytes(self, out: Triple) -> int:
        return self._bytes(out, THINNING_BYTES)

    def device_working_bytes(self, out: Triple) -> int:
        return self._bytes(out, DEVICE_THINNING_BYTES)

    def _bytes(self, out: Triple, thinning: int) -> int:
        crop, wide = (prod(n + 2 * beyond for n in out) for beyond in (self.halo, self.halo + MARGIN))
        return max(thinning * crop, 14 * wide) + decisions.TABLE_BYTES


def _decided(
    index: NDArray[Any] | Sequence[int] = (), label: NDArray[Any] | Sequence[int] = (), d2: Any = ()
) -> dict[str, NDArray[Any]]:
    """Columns of skeleton voxels: index in the volume, object, squared distance."""
    return {"index": np.asarray(index, np.int64), "label": np.asarray(label, np.uint64), "d2": np.asarray(d2, np.int64)}


def _told(index: NDArray[Any] | Sequence[int] = (), history: Any = ()) -> dict[str, NDArray[Any]]:
    """Columns of voxels that neighbours in other blocks may wait for, and what they became."""
    return {"told_index": np.asarray(index, np.int64), "told_history": np.asarray(history, np.uint8)}


def _listed(open_voxels: OpenVoxels) -> dict[str, NDArray[Any]]:
    """Columns of open voxels, as a record."""
    return {f"open_{column.name}": getattr(open_voxels, column.name) for column in fields(open_voxels)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """One joint of the tree: the open voxels of 2 x 2 x 2 blocks of the grid below, solved as far as they go.

    below, source : that grid, and the pass that left its records
    """

    below: Grid
    source: str
    t0: int

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {}

    def run(self, view: View, out: Box) -> Output:
        records = view.records[self.source]
        parts: dict[str, list[Any]] = {column.name: [] for column in fields(OpenVoxels)}
        told = [_told()]
        for child in self._children(view):
            record = records[child]
            for name, listed in parts.items():
                listed.append(record[f"open_{name}"])
            told.append({name: record[name] for name in told[0]})
        del record
        index, history = (np.concatenate([part[name] for part in told]) for name in told[0])
        joined = OpenVoxels.gathered(parts)
        del told
        solved = residual.solve(joined, index, history, shape=view.shape, t0=self.t0)
        index = np.concatenate((index, solved.index[solved.is_awaited]))
        history = np.concatenate((history, solved.history[solved.is_awaited]))
        outward = _at_sides(index, view.core, view.shape)
        alive = solved.history == thinning.ALIVE
        decided = _decided(solved.index[alive], solved.label[alive], solved.key[alive] >> 3)
        return Output(record=decided | _listed(solved.still_open) | _told(index[outward], history[outward]))

    def _children(self, view: View) -> list[int]:
        """Blocks of the grid below that lie in this one."""
        z, y, x = (
            range(2 * p, min(2 * p + 2, n))
            for p, n in zip(view.grid.position(view.block), self.below.counts, strict=True)
        )
        return [self.below.index(position) for position in product(z, y, x)]

    def working_bytes(self, out: Triple) -> int:
        z, y, x = (min(n, m) for n, m in zip(self.below.core, self.below.shape, strict=True))
        told = TOLD_BYTES * (z * y + y * x + z * x)
        return decisions.TABLE_BYTES + told + residual.VOXEL_BYTES * prod(out)  # all are open deep inside a solid


def _at_sides(index: NDArray[np.int64], box: Box, shape: Triple) -> NDArray[np.bool_]:
    """Which voxels of a box have neighbours outside it."""
    found = np.zeros(len(index), np.bool_)
    for position, low, high, length in zip(np.unravel_index(index, shape), box.start, box.stop, shape, strict=True):
        found |= ((position == low) & (low > 0)) | ((position == high - 1) & (high < length))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResidual:
    """What the tree decided, cut into blocks, and how many voxels of which object nothing decided.

    Holds the skeleton voxels that the tree found, which are few beside those that blocks did: 94 MiB per million.

    tree : its passes, the root last; none where one block holds the volume
    grid : the blocks
    """

    tree: tuple[str, ...]
    grid: Grid

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        found = [{name: record[name] for name in _decided()} for record in _of_passes(records, self.tree)]
        voxels = _concatenated([_decided(), *found])
        (root,) = iterate(records[self.tree[-1] if self.tree else "thin"])
        open_label, open_count = np.unique(root["open_label"], return_counts=True)
        parts = (
            (block, {name: column[rows] for name, column in voxels.items()})
            for block, rows in self.grid.group(voxels["index"])
        )
        return Merged({"open_label": open_label, "open_count": open_count}, parts)

    def working_bytes(self, blocks: int) -> int:
        return 4096 * blocks


def _of_passes(records: Mapping[str, Sequence[Record]], names: Sequence[str]) -> Iterator[Record]:
    return chain.from_iterable(iterate(records[name]) for name in names)


def _concatenated(parts: Sequence[Record]) -> dict[str, NDArray[Any]]:
    """Columns of several records one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assemble:
    """The skeleton of a core, object ids on its voxels: those its block decided and those that the tree did."""

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("skeleton",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {}

    def run(self, view: View, out: Box) -> Output:
        own, above = view.records["thin"][view.block], view.values["residual-merge"]
        voxels = _concatenated([{name: part[name] for name in _decided()} for part in (own, above) if "index" in part])
        skeleton = np.zeros(out.shape, label_dtype(view.values["label-merge"]))
        position = np.stack(np.unravel_index(voxels["index"], view.shape))
        skeleton[tuple(position - np.array(out.start)[:, None])] = voxels["label"]
        return Output(arrays={"skeleton": skeleton}, record=voxels)

    def working_bytes(self, out: Triple) -> int:
        return 8 * prod(out)


def tree_above(grid: Grid) -> tuple[Grid, ...]:
    """Grids of blocks twice as long as those below, up to one block that holds all."""
    grids = []
    while len(grid) > 1:
        grid = Grid(grid.shape, triple(tuple(2 * n for n in grid.core)))
        grids.append(grid)
    return tuple(grids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """Curve skeletons and the graph they form.

    prune_radii : a terminal branch shorter than this many radii at its junction, and one voxel, is dropped; 0 is off
    max_halo : voxels beyond its core that a block may look at for thinning, which never takes more than 8; changes
        how much is left to the tree, and no voxel
    t0 : thinning passes before ends of branches are held fast; 1 leaves few spurs on rough surfaces but shortens
        branches that taper, 0 keeps both
    """

    prune_radii: float = 1.0
    max_halo: int = 64
    t0: int = 1

    key: ClassVar[str] = "skeleton"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if self.prune_radii < 0:
            raise ConfigError(f"skeleton: prune_radii {self.prune_radii} is negative", "Use 0 to keep every branch")
        if not 0 <= self.t0 < thinning.LAST_PASS:
            raise ConfigError(f"skeleton: t0 {self.t0} is not a number of passes", "Use 1, or 0 to keep every end")
        if self.max_halo < 1:
            raise ConfigError(f"skeleton: max_halo {self.max_halo} leaves blocks blind", "Use 1 or more, say 64")

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        if flow.filled is None:
            raise ConfigError("skeleton: there are no labels to thin", "Put label in front of it")
        grid = flow.grid
        weights, unit_um = spacing_weights(flow.shape, flow.scale.voxel_um)
        halo = min(THINNING_HALO, self.max_halo)
        near = Near(grid=grid, halo=halo)
        thin = Thin(weights=weights, halo=halo, t0=self.t0, inscribed="measure" in flow.wants)
        tree = self._tree(grid)
        names = tuple(draft.name for draft in tree)
        assemble = AssemblePart(
            shape=flow.shape,
            prune_radii=self.prune_radii,
            voxel_um=flow.scale.voxel_um,
            translation_um=flow.scale.translation_um,
            unit_um=unit_um,
        )
        skeleton = ArraySpec(name="skeleton", dtype="labels")
        needs = ("label-merge", "thin", "residual-merge")
        gather = MergeResidual(tree=names, grid=grid)
        drafts = (
            *distance_drafts(flow.shape, grid.core, labels=flow.filled, name="distance", weights=weights, near=near),
            Draft(name="thin", grid=grid, steps=(Euler(by_shortcuts=True), thin), needs=(SHORTCUTS,)),
            *tree,
            Draft(name="residual-merge", grid=grid, merge=gather, needs=names or ("thin",)),
            Draft(name="skeleton", grid=grid, steps=(Assemble(),), writes=(skeleton,), needs=needs),
            *graph_drafts(assemble, grid),
        )
        return drafts, replace(flow, euler="thin", graph="graph", warnings=(*flow.warnings, *_warnings(flow)))

    def _tree(self, grid: Grid) -> tuple[Draft, ...]:
        """The passes that decide what the blocks leave open, the root last."""
        drafts: list[Draft] = []
        for level, above in enumerate(tree_above(grid), start=1):
            source = drafts[-1].name if drafts else "thin"
            step = Residual(below=grid, source=source, t0=self.t0)
            drafts.append(Draft(name=f"residual-{level}", grid=above, steps=(step,), needs=(source,)))
            grid = above
        return tuple(drafts)


def _warnings(flow: Flow) -> tuple[str, ...]:
    """Thinning takes whole voxels off, so an object loses at its ends along the long side of voxels what it is wide."""
    sides = {axis: um for axis, um, n in zip("zyx", flow.scale.voxel_um, flow.shape, strict=True) if n > 1}
    ratio = max(sides.values(), default=1.0) / min(sides.values(), default=1.0)
    if ratio < LONG_VOXELS:
        return ()
    axis = max(sides, key=lambda axis: sides[axis])
    return (
        f"voxels are {ratio:.3g} times as long along {axis} as they are wide: skeletons along it come out too short. "
        "Put resample: {voxel_um: isotropic} in front of skeleton",
    )
