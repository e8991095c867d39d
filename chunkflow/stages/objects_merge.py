"""The tables of objects and of contacts, from what all blocks left: a range of objects at a time.

    records of blocks --> ranges of labels on a shelf (`stages.ranges`) --> columns of a range = a part of the table

The value of such a merge is how many parts there are; part k holds the rows of range k, by increasing id.
A range takes some 40 MiB, whatever the number of objects; beside it lies what merges before left of every object, 40
bytes each (`regions-merge`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.box import Triple
from chunkflow.kernels import branches, colocalization, distance, measure, oriented, surface
from chunkflow.kernels.union import Shelf
from chunkflow.stages.base import ChannelImage, Merged, Record, Resampling, table_parts
from chunkflow.stages.graph import PARTS
from chunkflow.stages.intensities import channel_of, channel_power, scale_power, sums_of
from chunkflow.stages.oriented import extent_columns, reach_of
from chunkflow.stages.ranges import MERGE_BYTES, Ranges, Rows, Values, range_starts, summed


@dataclass(frozen=True, slots=True)
class Networks:
    """What the skeleton graph tells of objects."""

    label: NDArray[np.uint64]
    length_um: NDArray[np.float64]
    branches: NDArray[np.int64]
    loops: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeObjects:
    """One row per object. Without a graph, `b1_graph` and the inscribed radius are null and nothing is certified.

    unit_um : of the distances (see `stages.distance.spacing_weights`)
    measured : what the intensities are of, for people
    channels : that were summed too; resampling : of them
    regions : the merge that says which region each object lies in, "" without one
    extents : the pass that says how far each object reaches along its axes, "" without one
    """

    sums: str
    euler: str
    graph: str
    shape: Triple
    voxel_um: tuple[float, float, float]
    translation_um: tuple[float, float, float]
    dtype: str
    limits: str
    unit_um: float
    measured: str
    channels: tuple[ChannelImage, ...]
    resampling: Resampling | None
    regions: str
    extents: str

    version: ClassVar[int] = 8
    shelves: ClassVar[bool] = True

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record], shelf: Shelf) -> Merged:
        ranges = Ranges(range_starts(records[self.sums], lambda record: record["label"]), shelf)
        for name, kinds in self._kinds().items():
            ranges.sort(records[name], kinds)
        coarse = np.zeros(1, np.int64)  # counted while the parts are made
        return Merged({**table_parts(len(ranges)), "coarse": coarse}, enumerate(self._parts(ranges, values, coarse)))

    def _kinds(self) -> dict[str, dict[str, Rows[Any]]]:
        """What to sort of the records of each pass."""
        of_blocks: dict[str, Rows[Any]] = {
            "sums": Rows(sums_of, measure.merge_sums),
            "crossings": Rows(_crossings_of, surface.merge_crossings),
        }
        for number in range(len(self.channels)):
            of_blocks[f"channel{number}"] = Rows(partial(channel_of, number=number), colocalization.merge_channel_sums)
        kinds: dict[str, dict[str, Rows[Any]]] = {self.sums: of_blocks}
        if self.graph:
            kinds.setdefault(self.euler, {})["inscribed"] = Rows(_largest_of, measure.merge_largest)
            kinds[PARTS] = {"networks": Rows(_networks_of, _joined_networks)}
        kinds.setdefault(self.euler, {}).update(
            {
                "chi": Rows(lambda record: Values(record["chi_label"], record["chi"]), summed),
                "filled_chi": Rows(lambda record: Values(record["filled_label"], record["filled_chi"]), summed),
            }
        )
        if self.extents:
            kinds[self.extents] = {"reach": Rows(reach_of, oriented.merge_reach)}
        return kinds

    def _parts(self, ranges: Ranges, values: Mapping[str, Record], coarse: NDArray[np.int64]) -> Iterator[Record]:
        first = 0
        for number in range(len(ranges)):
            columns = self._columns(ranges, number, values)
            coarse += _without_spread(columns)
            if self.regions:
                own = slice(first, first + len(columns["object_id"]))
                parents = values[self.regions]
                columns |= {name: parents[f"objects.{name}"][own] for name in ("region_id", "region_fraction")}
                first = own.stop
            columns["touches_border"] = columns.pop("touches_border")  # the last one
            yield columns

    def _columns(self, ranges: Ranges, number: int, values: Mapping[str, Record]) -> dict[str, NDArray[Any]]:
        totals: measure.ObjectSums = ranges.take("sums", number)
        power = scale_power(values[self.limits], self.dtype) if self.limits else 0
        columns = measure.object_columns(
            totals, self.shape, self.voxel_um, translation_um=self.translation_um, scale_power=power
        )
        columns["intensity_of"] = np.full(len(totals), self.measured)
        for k, channel in enumerate(self.channels):
            sums = ranges.take(f"channel{k}", number)
            columns |= colocalization.channel_columns(
                sums,
                totals,
                name=channel.name,
                power=channel_power(values, channel, self.resampling),
                measured_power=power,
            )
        columns |= self._shape(totals, columns["volume_um3"], ranges, number)
        if self.extents:
            columns |= extent_columns(columns, ranges.take("reach", number), self.voxel_um)
        networks = ranges.take("networks", number) if self.graph else _NO_NETWORKS
        columns |= self._form(columns, networks)
        columns |= self._topology(totals.label, ranges, number, networks, values)
        return {name: np.asarray(column) for name, column in columns.items()}

    def _shape(
        self, totals: measure.ObjectSums, volume_um3: NDArray[np.float64], ranges: Ranges, number: int
    ) -> dict[str, NDArray[Any]]:
        """Surface and sphericity, null in a plane; axes; and the inscribed radius, null where it is not known."""
        area = surface.surface_areas(ranges.take("crossings", number).crossings, self.voxel_um)
        if min(self.shape) == 1:
            area = np.full(len(totals), np.nan)
        shape = {"surface_um2": area, "sphericity": surface.sphericity(volume_um3, area)}
        shape |= measure.axis_columns(totals, self.voxel_um)
        inscribed = np.full(len(totals), np.nan)
        if self.graph:
            inscribed = self._inscribed(totals.label, ranges.take("inscribed", number))
        return shape | {"inscribed_radius_um": inscribed}

    def _form(self, columns: Mapping[str, NDArray[Any]], networks: Networks) -> dict[str, NDArray[Any]]:
        """What a skeleton tells of each object, "" without one."""
        label = columns["object_id"]
        length, count = (_matched(label, networks.label, v) for v in (networks.length_um, networks.branches))
        volume, area, inscribed = (columns[name] for name in ("volume_um3", "surface_um2", "inscribed_radius_um"))
        return {"form": branches.forms(volume, area, length, count, inscribed, voxel_um=min(self.voxel_um))}

    def _inscribed(self, label: NDArray[np.uint64], found: measure.Largest) -> NDArray[np.float64]:
        d2 = _matched(label, found.label, found.value)
        is_known = (d2 >= 0) & (d2 < distance.FAR)  # nothing but the object: no distance at all
        return np.where(is_known, np.sqrt(np.where(is_known, d2, 0)) * self.unit_um, np.nan)

    def _topology(
        self,
        label: NDArray[np.uint64],
        ranges: Ranges,
        number: int,
        networks: Networks,
        values: Mapping[str, Record],
    ) -> dict[str, NDArray[Any]]:
        chi, filled_chi = (
            _matched(label, found.label, found.value)
            for found in (ranges.take(name, number) for name in ("chi", "filled_chi"))
        )
        regions = _between(values["regions-merge"], label)
        b0, b0_filled, b2, b2_open = (
            _matched(label, regions["label"], regions[name]) for name in ("b0", "b0_filled", "b2", "b2_open")
        )
        b1_filled = b0_filled + b2_open - filled_chi
        found: dict[str, NDArray[Any]] = {"b0": b0, "b1": b0 + b2 - chi, "b2": b2, "b1_filled": b1_filled}
        if not self.graph:
            return found | {"b1_graph": np.full(len(label), np.nan), "certified": np.zeros(len(label), bool)}
        graph = values[self.graph]
        found["b1_graph"] = _matched(label, networks.label, networks.loops)
        is_open = _matched(label, graph["open_label"], graph["open_count"]) > 0
        return found | {"certified": ~is_open & (found["b1_graph"] == b1_filled)}

    def working_bytes(self, blocks: int) -> int:
        return min(65536 * blocks, MERGE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeContacts:
    """One row per pair of objects that share a voxel face."""

    sums: str
    voxel_um: tuple[float, float, float]

    version: ClassVar[int] = 2
    shelves: ClassVar[bool] = True

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record], shelf: Shelf) -> Merged:
        ranges = Ranges(range_starts(records[self.sums], lambda record: record["contact_pair"][:, 0]), shelf)
        ranges.sort(records[self.sums], {"contacts": Rows(_contacts_of, surface.merge_contacts)})
        parts = (
            (number, surface.contact_columns(ranges.take("contacts", number), self.voxel_um))
            for number in range(len(ranges))
        )
        return Merged(table_parts(len(ranges)), parts)

    def working_bytes(self, blocks: int) -> int:
        return min(65536 * blocks, MERGE_BYTES)


def _without_spread(columns: Mapping[str, NDArray[Any]]) -> int:
    """Objects of which an intensity has a range and no standard deviation (`limbs.resolved`)."""
    lacks = np.zeros(len(columns["object_id"]), bool)
    for name in columns:
        if name.startswith("intensity_") and name.endswith("_sd"):
            lacks |= np.isnan(columns[name]) & ~np.isnan(columns[f"{name[:-2]}min"])
    return int(lacks.sum())


def _crossings_of(record: Record) -> surface.Crossings:
    return surface.Crossings(record["surface_label"], record["crossings"])


def _contacts_of(record: Record) -> surface.Contacts:
    return surface.Contacts(record["contact_pair"], record["contact_faces"])


def _largest_of(record: Record) -> measure.Largest:
    return measure.Largest(record["inscribed_label"], record["inscribed_d2"])


def _networks_of(record: Record) -> Networks:
    """Lengths and branches of the objects of a part of the graph, which holds them whole, added up in its order."""
    label = record["graph_label"]
    length, count = np.zeros(len(label)), np.zeros(len(label), np.int64)
    rows = np.searchsorted(label, record["branches.object_id"])
    np.add.at(length, rows, record["branches.length_um"])
    np.add.at(count, rows, 1)
    return Networks(label, length, count, record["graph_b1"])


def _joined_networks(parts: Sequence[Networks]) -> Networks:
    label, length, count, loops = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("label", "length_um", "branches", "loops")
    )
    order = np.argsort(label)
    return Networks(label[order], length[order], count[order], loops[order])


_NO_NETWORKS = Networks(np.zeros(0, np.uint64), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))


def _between(table: Record, label: NDArray[np.uint64]) -> Record:
    """The rows of a table by label that lie between the first and the last of some labels, which increase."""
    low, high = (0, 0) if not len(label) else (label[0], label[-1])
    rows = slice(np.searchsorted(table["label"], low), np.searchsorted(table["label"], high, side="right"))
    return {name: column[rows] for name, column in table.items()}


def _matched(label: NDArray[np.uint64], keys: NDArray[np.uint64], values: NDArray[Any]) -> NDArray[Any]:
    """The value of each label, 0 where the keys lack it. `label` is sorted and holds every key that is an object."""
    found = np.zeros(len(label), values.dtype)
    known = np.isin(keys, label)
    found[np.searchsorted(label, keys[known])] = values[known]
    return found
