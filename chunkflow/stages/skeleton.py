"""One skeleton and one graph for the whole volume, voxel for voxel what a single run would give.

    distance   exact squared distances of the filled labels, in integers; a block looks further until it is sure
    thin       certified thinning with those distances; the same growth; records the skeleton's voxels
    graph      all skeleton voxels -> exact multigraph -> pruned -> nodes and branches

The certificates of `kernels.distance` and `kernels.thinning` say which voxels a crop cannot decide. A block that has
such voxels in its core reads a halo three times as large, up to `max_halo`; what is open there is counted per object,
which then is not certified. The graph step holds about 200 bytes per skeleton voxel in one worker: 10^7 voxels,
some 10 m of neurites at 1 um, in 2 GB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import prod, sqrt
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ConfigError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.kernels import branches, components, distance, graph, pruning, thinning, topology
from chunkflow.stages.base import (
    ArraySpec,
    BlockStep,
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
from chunkflow.stages.parameters import check_parameters

DISTANCE_HALO = 16  # certifies tubes of a radius up to 17 voxels at once
THINNING_HALO = 8  # cheapest on networks: 1 % of the voxels stay open and grow


def grown_halo(halo: int, max_halo: int) -> int | None:
    """The next halo to try, three times as large, or None at the largest."""
    return min(max_halo, 3 * halo) if halo < max_halo else None


def open_borders(box: Box, shape: Triple) -> NDArray[np.bool_]:
    """(3, 2) bool: the sides of a box behind which the volume goes on."""
    return np.array([[a > 0, b < n] for a, b, n in zip(box.start, box.stop, shape, strict=True)])


def spacing_weights(shape: Triple, voxel_um: tuple[float, float, float]) -> tuple[Triple, float]:
    """Squared integer spacings for `kernels.distance`, and the um that one unit of distance is.

    An axis one voxel long has no distances: its faces count as farther than anything, so that the radii of a 2-D image
    are those in its plane.
    """
    is_long = [n > 1 for n in shape]
    first = is_long.index(True) if any(is_long) else 0
    sides = tuple(v if long else voxel_um[first] for v, long in zip(voxel_um, is_long, strict=True))
    z, y, x = weights = distance.integer_weights((sides[0], sides[1], sides[2]))
    unit_um = sides[first] / sqrt(weights[first])
    if not any(is_long):
        return (z, y, x), unit_um
    beyond = min(distance.FAR - 1, sum(w * n * n for w, n, long in zip(weights, shape, is_long, strict=True) if long))
    return triple(tuple(w if long else beyond for w, long in zip(weights, is_long, strict=True))), unit_um


@dataclass(frozen=True, slots=True, kw_only=True)
class Euler:
    """Euler characteristic of each object and of the same with its cavities filled, as far as a block owns it."""

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"labels": out.grow((1, 1, 1)), "filled": out.grow((1, 1, 1))}

    def run(self, view: View, out: Box) -> Output:
        labels, filled = (self._owned(view.regions[name], view) for name in ("labels", "filled"))
        label, chi = topology.euler(labels)
        record = {"chi_label": label, "chi": chi, "filled_label": label, "filled_chi": chi}
        if not np.array_equal(labels, filled):
            record["filled_label"], record["filled_chi"] = topology.euler(filled)
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
class Distance:
    """Exact squared distances of a core, UNKNOWN where the halo did not suffice."""

    weights: Triple
    halo: int
    max_halo: int

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("distance",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"filled": out.grow(triple(self.halo))}

    def run(self, view: View, out: Box) -> Output:
        if not view.regions["filled"].cut(out).any():
            return Output(arrays={"distance": np.zeros(out.shape, np.int32)})
        return self.settle(self.solve(view.regions, view.shape), view, out)

    def solve(self, regions: Mapping[str, Region], shape: Triple) -> Region:
        labels = regions["filled"]
        crop = distance.squared_distance(
            host(labels.data), weights=self.weights, open_borders=open_borders(labels.box, shape)
        )
        return Region(labels.box, crop)

    def settle(self, solved: Region, view: View, out: Box) -> Output:
        core = solved.cut(out)
        return Output(arrays={"distance": core}, wants_more=bool((core == distance.UNKNOWN).any()))

    def grown(self) -> Self | None:
        larger = grown_halo(self.halo, self.max_halo)
        return None if larger is None else replace(self, halo=larger)

    def working_bytes(self, out: Triple) -> int:
        return 5 * prod(n + 2 * self.halo for n in out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thin:
    """The skeleton of a core, object ids on its voxels; records them as a sparse list."""

    weights: Triple
    halo: int
    max_halo: int
    t0: int

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("skeleton",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        box = out.grow(triple(self.halo))
        return {"filled": box, "distance": box}

    def run(self, view: View, out: Box) -> Output:
        ids = view.regions["filled"].cut(out)
        if not ids.any():
            return Output(arrays={"skeleton": np.zeros(out.shape, ids.dtype)}, record=_no_voxels())
        return self.settle(self.solve(view.regions, view.shape), view, out)

    def solve(self, regions: Mapping[str, Region], shape: Triple) -> Region:
        labels = regions["filled"]
        thinned = thinning.thin(
            host(labels.data),
            host(regions["distance"].data),
            origin=labels.box.start,
            open_borders=open_borders(labels.box, shape),
            weights=self.weights,
            t0=self.t0,
        )
        return Region(labels.box, thinned.history)

    def settle(self, solved: Region, view: View, out: Box) -> Output:
        ids, distances = view.regions["filled"].cut(out), view.regions["distance"].cut(out)
        thinned = thinning.Thinned(solved.cut(out))
        alive, is_open = thinned.skeleton, thinned.is_open
        at = np.flatnonzero(alive)
        record = {
            "index": components.volume_index(at, out.shape, out.start, view.shape),
            "label": ids.ravel()[at].astype(np.uint64),
            "d2": distances.ravel()[at].astype(np.int64),
        }
        record["open_label"], record["open_count"] = np.unique(ids[is_open].astype(np.uint64), return_counts=True)
        skeleton = np.where(alive, ids, ids.dtype.type(0))
        return Output(arrays={"skeleton": skeleton}, record=record, wants_more=bool(is_open.any()))

    def grown(self) -> Self | None:
        larger = grown_halo(self.halo, self.max_halo)
        return None if larger is None else replace(self, halo=larger)

    def working_bytes(self, out: Triple) -> int:
        return 14 * prod(n + 2 * self.halo for n in out) + 32 * 2**20


def _no_voxels() -> Record:
    return {
        "index": np.zeros(0, np.int64),
        "label": np.zeros(0, np.uint64),
        "d2": np.zeros(0, np.int64),
        "open_label": np.zeros(0, np.uint64),
        "open_count": np.zeros(0, np.int64),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeGraph:
    """The graph of the whole volume from the skeleton voxels of all blocks."""

    shape: Triple
    prune_radii: float
    voxel_um: tuple[float, float, float]
    translation_um: tuple[float, float, float]
    unit_um: float

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        voxels: dict[str, list[NDArray[Any]]] = {name: [empty] for name, empty in _no_voxels().items()}
        for record in iterate(records["thin"]):
            for name, parts in voxels.items():
                if len(record[name]):
                    parts.append(record[name])
        joined = {name: np.concatenate(parts) for name, parts in voxels.items()}
        order = np.argsort(joined["index"], kind="stable")
        whole = graph.assemble(joined["index"][order], joined["label"][order], joined["d2"][order], shape=self.shape)
        pruned = pruning.prune(whole, prune_radii=self.prune_radii, spacing_um=self.voxel_um, unit_um=self.unit_um)
        label, b0, b1 = graph.loops_per_object(pruned)
        open_label, where = np.unique(joined["open_label"], return_inverse=True)
        open_count = np.zeros(len(open_label), np.int64)
        np.add.at(open_count, where, joined["open_count"])
        found = {"graph_label": label, "graph_b0": b0, "graph_b1": b1}
        found |= {"open_label": open_label, "open_count": open_count}
        return Merged(found | self._tables(pruned))

    def _tables(self, pruned: graph.SkeletonGraph) -> dict[str, NDArray[Any]]:
        """Columns of nodes and branches, and the curves of the branches, by "table.column"."""
        spacing, unit, origin = self.voxel_um, self.unit_um, self.translation_um
        nodes = branches.node_columns(pruned, spacing_um=spacing, unit_um=unit, translation_um=origin)
        rows = branches.branch_columns(pruned, spacing_um=spacing, unit_um=unit)
        curves = branches.polylines(pruned, spacing_um=spacing, unit_um=unit, translation_um=origin, smooth=True)
        tables = {f"nodes.{name}": column for name, column in nodes.items()}
        tables |= {f"branches.{name}": column for name, column in rows.items()}
        tables |= {f"curves.{f.name}": getattr(curves, f.name) for f in fields(curves)}
        return tables

    def working_bytes(self, blocks: int) -> int:
        return 65536 * blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """Curve skeletons and the graph they form.

    prune_radii : a terminal branch shorter than this many radii at its junction, and one voxel, is dropped; 0 is off
    max_halo : voxels beyond its core that a block may look at most
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
        measured = Distance(weights=weights, halo=min(DISTANCE_HALO, self.max_halo), max_halo=self.max_halo)
        thin = Thin(weights=weights, halo=min(THINNING_HALO, self.max_halo), max_halo=self.max_halo, t0=self.t0)
        merge = MergeGraph(
            shape=flow.shape,
            prune_radii=self.prune_radii,
            voxel_um=flow.scale.voxel_um,
            translation_um=flow.scale.translation_um,
            unit_um=unit_um,
        )
        distances = ArraySpec(name="distance", dtype="int32")
        skeleton = ArraySpec(name="skeleton", dtype="labels")
        steps: tuple[BlockStep, ...] = (Euler(), measured)
        drafts = (
            Draft(name="distance", grid=grid, steps=steps, writes=(distances,)),
            Draft(name="thin", grid=grid, steps=(thin,), writes=(skeleton,), needs=("label-merge",)),
            Draft(name="graph", grid=grid, merge=merge, needs=("thin",)),
        )
        return drafts, replace(flow, euler="distance", graph="graph")
