"""Parent regions: which cell, or which part of a tissue, an object, a node or a branch lies in.

    region-points   nodes and points of the branches' curves, given to the blocks they lie in         (with a skeleton)
    region-blocks   regions of a block: voxels by pair of object and region; the region at each of its points
    regions         -> the table of regions, and the column `region_id` of objects, nodes and branches

Regions are a label image or polygons on the grid of the input, resampled by nearest where the image is resampled. Voxel
counts are integers, and points are put together in the order of the graph: no number depends on the blocks. A node or
a point of a branch lies in the region of the voxel nearest to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.analysis import regions as networks
from chunkflow.errors import InputError
from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import parents, polygons, resample
from chunkflow.kernels.union import Shelf
from chunkflow.stages.base import Draft, Flow, Merged, Output, Record, RegionImage, Resampling, View, host, iterate
from chunkflow.stages.graph import PARTS
from chunkflow.stages.merging import folded

POINTS, BLOCKS, MERGED = "region-points", "region-blocks", "regions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """The regions on the present grid, unsigned: read from `array`, or filled from polygons where that is empty."""

    array: str
    resampling: Resampling | None

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("regions",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {self.array: self._source(out)} if self.array else {}

    def run(self, view: View, out: Box) -> Output:
        box = self._source(out)
        if self.array:
            data = _unsigned(host(view.regions[self.array].cut(box)), box)
        else:
            data = polygons.fill(polygons.Polygons(**view.values[""]), box.start, box.stop)
        r = self.resampling
        if r is not None:
            data = resample.nearest(data, box.start, out.start, out.stop, r.shape_in, r.voxel_in, r.voxel_out)
        return Output(arrays={"regions": data})

    def _source(self, out: Box) -> Box:
        return self.resampling.source(out) if self.resampling else out

    def working_bytes(self, out: Triple) -> int:
        return 8 * (prod(out) + self._source(Box.of_shape(out)).size)


def _unsigned(data: NDArray[Any], box: Box) -> NDArray[Any]:
    """Region ids as unsigned integers of the same size."""
    if data.dtype.kind == "i" and data.min() < 0:
        first = [int(a + b) for a, b in zip(np.argwhere(data < 0)[0], box.start, strict=True)]
        raise InputError(
            f"measure: the regions hold the negative label {data.min()}, first at z, y, x = {tuple(first)}",
            "Save region ids from 1 on, and 0 for what is no region",
        )
    return data.view(f"u{data.dtype.itemsize}") if data.dtype.kind in "ib" else data


@dataclass(frozen=True, slots=True, kw_only=True)
class CountShared:
    """Voxels of the core by pair of object and region."""

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"labels": out, "regions": out}

    def run(self, view: View, out: Box) -> Output:
        found = parents.block_shared(*(host(view.regions[name].cut(out)) for name in ("labels", "regions")))
        return Output(record={"shared_item": found.item, "shared_region": found.region, "shared": found.voxels})

    def working_bytes(self, out: Triple) -> int:
        return 64 * prod(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUp:
    """The region at each point of the graph that lies in the core."""

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"regions": out}

    def run(self, view: View, out: Box) -> Output:
        part = view.values[POINTS]
        point = part.get("point", np.zeros(0, np.int64))
        voxel = np.stack(np.unravel_index(part.get("voxel", point), view.shape)) - np.array(out.start)[:, None]
        region = host(view.regions["regions"].cut(out))[tuple(voxel)]
        return Output(record={"point": point, "point_region": region.astype(np.uint64)})

    def working_bytes(self, out: Triple) -> int:
        return prod(out)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the skeleton graph; row k of its tables is node or branch k."""

    nodes: Record
    branches: Record
    curves: Record

    @property
    def places_um(self) -> NDArray[np.float64]:
        """(V + P, 3) z, y, x of the nodes, then of the points of the curves."""
        nodes = np.stack([self.nodes[f"{axis}_um"] for axis in "zyx"], axis=1)
        return np.concatenate((nodes, self.curves["points_um"]))


def pieces_of(records: Mapping[str, Sequence[Record]]) -> Iterator[Piece]:
    """The parts of the graph in order: the one place that knows how it is left."""
    for record in iterate(records[PARTS]):
        yield Piece(
            nodes={name: record[f"nodes.{name}"] for name in ("z_um", "y_um", "x_um", "degree")},
            branches={name: record[f"branches.{name}"] for name in ("node_a", "node_b", "length_um")},
            curves={name: record[f"curves.{name}"] for name in ("points_um", "radius_um", "offsets")},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterPoints:
    """Gives each block the nodes and curve points whose nearest voxel lies in it; about 40 bytes each.

    grid : of the blocks
    """

    grid: Grid
    voxel_um: tuple[float, float, float]
    translation_um: tuple[float, float, float]

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        voxel = np.concatenate([np.zeros(0, np.int64), *(self._nearest(p.places_um) for p in pieces_of(records))])
        parts = ((block, {"point": rows, "voxel": voxel[rows]}) for block, rows in self.grid.group(voxel))
        return Merged({"points": np.array([len(voxel)])}, parts)

    def _nearest(self, places_um: NDArray[np.float64]) -> NDArray[np.int64]:
        """Flat index of the voxel nearest to each place."""
        at = np.rint((places_um - np.asarray(self.translation_um)) / np.asarray(self.voxel_um)).astype(np.int64)
        inside = np.clip(at, 0, np.asarray(self.grid.shape) - 1)  # they are means of voxels: outside by rounding alone
        return np.asarray(np.ravel_multi_index(tuple(inside.T), self.grid.shape), np.int64)

    def working_bytes(self, blocks: int) -> int:
        return 65536 * blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeParents:
    """The table of regions ("regions.*"), and where objects belong ("objects.*", in the order of their table).

    The parts, one for each part of the graph, say it of nodes and branches ("nodes.*", "branches.*").

    has_graph : whether there is a graph
    names : of the regions 1, 2 ..., none where they have none
    """

    has_graph: bool
    voxel_um: tuple[float, float, float]
    names: tuple[str, ...]

    version: ClassVar[int] = 3
    shelves: ClassVar[bool] = True

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record], shelf: Shelf) -> Merged:
        pairs = folded(records[BLOCKS], _shared_of, parents.merge_shared)
        region_id = np.unique(pairs.region[pairs.region > 0])
        of_objects = pairs.item > 0
        where = parents.parents_of(pairs.item[of_objects], pairs.region[of_objects], pairs.voxels[of_objects])
        table = self._objects(region_id, pairs, where)
        found: dict[str, NDArray[Any]] = {
            "objects.object_id": where.item,
            "objects.region_id": where.region,
            "objects.region_fraction": where.inside / where.total,
        }
        parts = 0
        if self.has_graph:
            table |= self._networks(region_id, records, int(values[POINTS]["points"][0]), shelf)
            parts = len(records[PARTS])
        places = ((number, shelf.take(f"places-{number}")) for number in range(parts))
        return Merged(found | {f"regions.{name}": column for name, column in table.items()}, places)

    def _objects(
        self, region_id: NDArray[np.uint64], pairs: parents.Shared, where: parents.Parents
    ) -> dict[str, NDArray[Any]]:
        """Columns of the table of regions that tell of voxels and objects."""
        inside = pairs.region > 0
        row = np.searchsorted(region_id, pairs.region[inside])
        voxels, is_object = pairs.voxels[inside], pairs.item[inside] > 0
        crosses = np.isin(pairs.item[inside], where.item[where.places > 1])

        def total(chosen: NDArray[np.bool_], amount: NDArray[Any]) -> NDArray[np.int64]:
            summed = np.zeros(len(region_id), np.int64)
            np.add.at(summed, row[chosen], amount[chosen])
            return summed

        whole = where.region[where.region > 0]
        volume, occupied = total(np.ones(len(row), np.bool_), voxels), total(is_object, voxels)
        table: dict[str, NDArray[Any]] = {"region_id": region_id}
        if self.names:
            table["name"] = np.array([self.names[region - 1] for region in region_id.tolist()], np.str_)
        return table | {
            "volume_vox": volume,
            "volume_um3": volume * prod(self.voxel_um),
            "objects": np.bincount(np.searchsorted(region_id, whole), minlength=len(region_id)),
            "objects_crossing": total(crosses, np.ones_like(voxels)),
            "objects_volume_vox": occupied,
            "objects_volume_um3": occupied * prod(self.voxel_um),
            "volume_fraction": occupied / volume,
        }

    def _networks(
        self, region_id: NDArray[np.uint64], records: Mapping[str, Sequence[Record]], points: int, shelf: Shelf
    ) -> dict[str, NDArray[Any]]:
        """Columns that tell of the graph; the region of each node and branch is put down, part by part."""
        region = np.zeros(points, np.uint64)
        for record in iterate(records[BLOCKS]):
            region[record["point"]] = record["point_region"]
        totals, first = networks.RegionNetworks(region_id), 0
        for number, piece in enumerate(pieces_of(records)):
            count = len(piece.nodes["degree"])
            node_region, point_region = np.split(region[first : first + len(piece.places_um)], [count])
            first += count + len(point_region)
            placed = self._placed(piece, node_region, point_region)
            totals.add(placed)
            shelf.put(f"places-{number}", {"nodes.region_id": node_region, "branches.region_id": placed.branch_region})
        return totals.columns()

    @staticmethod
    def _placed(piece: Piece, node_region: NDArray[np.uint64], point_region: NDArray[np.uint64]) -> networks.GraphPart:
        """A part of the graph and where its branches belong."""
        offsets = piece.curves["offsets"]
        lengths = networks.point_lengths(piece.curves["points_um"], offsets)
        shares = networks.branch_shares(lengths, offsets, point_region)
        return networks.GraphPart(
            **piece.branches,
            degree=piece.nodes["degree"],
            node_region=node_region,
            branch_region=parents.parents_of(shares.branch, shares.region, shares.length_um).region,
            shares=shares,
            point_region=point_region,
            point_um=lengths,
            radius_um=piece.curves["radius_um"],
        )

    def working_bytes(self, blocks: int) -> int:
        return 65536 * blocks


def _shared_of(record: Record) -> parents.Shared:
    return parents.Shared(record["shared_item"], record["shared_region"], record["shared"])


def region_drafts(flow: Flow, image: RegionImage) -> tuple[Draft, ...]:
    """The passes from a region image, or polygons, to the merge `MERGED`."""
    grid, scale = flow.grid, flow.scale
    steps = (Fill(array=image.array, resampling=flow.resampling), CountShared())
    merge = MergeParents(has_graph=bool(flow.graph), voxel_um=scale.voxel_um, names=image.names)
    if not flow.graph:
        return (
            Draft(name=BLOCKS, grid=grid, steps=steps, constants=image.polygons),
            Draft(name=MERGED, grid=grid, merge=merge, needs=(BLOCKS,)),
        )
    scatter = ScatterPoints(grid=grid, voxel_um=scale.voxel_um, translation_um=scale.translation_um)
    return (
        Draft(name=POINTS, grid=grid, merge=scatter, needs=(PARTS,)),
        Draft(name=BLOCKS, grid=grid, steps=(*steps, LookUp()), needs=(POINTS,), constants=image.polygons),
        Draft(name=MERGED, grid=grid, merge=merge, needs=(BLOCKS, POINTS, PARTS)),
    )
