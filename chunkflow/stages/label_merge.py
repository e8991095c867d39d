"""The two merges of labels: pieces of all blocks become objects, and regions become components and cavities.

    label-merge    union-find, slab by slab -> final ids in raster order of the first voxel, without filtered ones
    regions-merge  region graph -> components, cavities and what fills them, per object

The first goes through the volume in slabs (`stages.slabs`); the second holds all regions at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.grid import Grid
from chunkflow.kernels import topology, union
from chunkflow.stages.base import Merged, Record, iterate
from chunkflow.stages.slabs import Slabs, blocks_of_slab

Pairs = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeLabels:
    """Final ids. `keep_ids`: the input's own labels stay, and filters leave gaps."""

    grid: Grid
    min_voxels: int
    keep_ids: bool

    version: ClassVar[int] = 2
    shelves: ClassVar[bool] = True

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record], shelf: union.Shelf) -> Merged:
        slabs = Slabs.of(self.grid)
        pieces = _Pieces(slabs, records["label"], records["seams"])
        found: union.FinalIds | union.KeptValues
        number = len(slabs)
        if self.keep_ids:
            found = union.KeptValues(map(pieces.values, range(number)), number, shelf, min_size=self.min_voxels)
            largest = found.largest
        else:
            each = map(pieces.slab, range(number))
            found = union.FinalIds(each, number, shelf, voxels=prod(self.grid.shape), min_size=self.min_voxels)
            largest = found.count
        parts = (
            (block, {"ids": _table(ids[start:stop])})
            for number, ids in found
            for block, start, stop in slabs.spans(number)
        )
        return Merged({"count": np.array([found.count]), "largest": np.array([largest], np.uint64)}, parts)

    def working_bytes(self, blocks: int) -> int:
        return 4096 * min(blocks, 2 * blocks_of_slab(self.grid))


class _Pieces:
    """The components of all blocks, read slab by slab."""

    def __init__(self, slabs: Slabs, labels: Sequence[Record], seams: Sequence[Record]) -> None:
        self._slabs, self._labels, self._seams = slabs, labels, seams

    def slab(self, number: int) -> union.Slab:
        """A slab as the union-find sees it."""
        tables, offsets = self._tables(number)
        blocks = self._slabs.blocks(number)
        inner, ahead = [np.zeros((0, 2), np.int64)], [np.zeros((0, 3), np.int64)]
        for start, block in zip(offsets[:-1], blocks, strict=True):
            rows = self._seams[block]["components"]
            here = start + rows[:, 0] - 1
            there = rows[:, 1] - blocks.start
            is_inner = there < self._slabs.step
            inner.append(np.stack((here[is_inner], offsets[there[is_inner]] + rows[is_inner, 2] - 1), axis=1))
            further = there[~is_inner] - self._slabs.step
            ahead.append(np.stack((here[~is_inner], further, rows[~is_inner, 2] - 1), axis=1))
        first, size = (_joined(tables, name, np.int64) for name in ("first", "size"))
        return union.Slab(first, size, _excluded(tables), offsets, np.concatenate(inner), np.concatenate(ahead))

    def values(self, number: int) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.bool_]]:
        """Value, voxels and exclusion of the components of a slab."""
        tables, _ = self._tables(number)
        return _joined(tables, "value", np.uint64), _joined(tables, "size", np.int64), _excluded(tables)

    def _tables(self, number: int) -> tuple[list[Record], NDArray[np.int64]]:
        """The tables of a slab's blocks, and the first component of each."""
        tables = [_table_of(self._labels[block]) for block in self._slabs.blocks(number)]
        return tables, self._slabs.note(number, (len(table["first"]) for table in tables))


def _table_of(record: Record) -> Record:
    # Copies: an array of a record keeps all of its bytes, the planes too.
    return {name: np.array(record[name]) for name in ("first", "size", "value", "excluded") if name in record}


def _excluded(tables: Sequence[Record]) -> NDArray[np.bool_]:
    flags = [table.get("excluded", np.zeros(len(table["first"]), np.bool_)) for table in tables]
    return np.concatenate([np.zeros(0, np.bool_), *flags])


def _joined(tables: Sequence[Record], name: str, dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *(table[name] for table in tables)])


def _table(final: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Final id by provisional id, 0 for 0."""
    return np.concatenate([np.zeros(1, np.uint64), final])


def _global_pairs(seams: Sequence[Record], name: str, offsets: NDArray[np.int64]) -> Pairs:
    """Seam rows of all blocks as pairs of elements."""
    pairs = [np.zeros((0, 2), np.int64)]
    for block, record in enumerate(iterate(seams)):
        rows = record[name]
        pairs.append(np.stack((offsets[block] + rows[:, 0] - 1, offsets[rows[:, 1]] + rows[:, 2] - 1), axis=1))
    return np.concatenate(pairs)


class _Regions(NamedTuple):
    """The regions of all blocks, those of block b from `offsets[b]`."""

    value: NDArray[np.uint64]
    size: NDArray[np.int64]
    border: NDArray[np.bool_]
    is_open: NDArray[np.bool_]
    """Whether a region touches a side of the volume, axes one voxel long left aside; empty where holes stay."""
    contacts: Pairs
    links: Pairs
    offsets: NDArray[np.int64]

    def topology(self, value: NDArray[np.uint64], border: NDArray[np.bool_]) -> tuple[topology.ObjectTopology, Any]:
        """What regions of these values say of objects; and which region of the whole volume each belongs to."""
        same = value[self.contacts[:, 0]] == value[self.contacts[:, 1]]
        # Components that the filters took are background now: their regions join the background's.
        region, number = union.components_of(len(value), self.contacts[same])
        merged_value = np.zeros(number, np.uint64)
        merged_value[region] = value
        merged_border = np.zeros(number, bool)
        np.logical_or.at(merged_border, region, border)
        linked = (value[self.links[:, 0]] == value[self.links[:, 1]]) & (value[self.links[:, 0]] != 0)
        contacts, links = _unique(region[self.contacts[~same]]), _unique(region[self.links[linked]])
        return topology.object_topology(merged_value, merged_border, contacts, links), region


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRegions:
    """Components and cavities per object, and which label fills which region: "holes" at once, "fill" for thinning.

    largest_hole : voxels of the largest hole that is filled before all else is counted; None for any, 0 for none

    Holds the regions of all blocks, parts of objects and of what lies between them, at once: 210 MiB per million.
    """

    largest_hole: int | None

    version: ClassVar[int] = 2

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        regions = self._regions(records)
        tables = {}
        value = regions.value
        if self.largest_hole != 0:
            tables["holes"] = self._holes(regions)
            value = np.maximum(value, tables["holes"])
        found, region = regions.topology(value, regions.border)
        tables["fill"] = found.fill[region]
        columns = {name: getattr(found, name) for name in ("label", "b0", "b0_filled", "b2", "b2_open")}
        spans = enumerate(pairwise(regions.offsets.tolist()))
        parts = ((b, {name: _table(t[start:stop]) for name, t in tables.items()}) for b, (start, stop) in spans)
        return Merged(columns, parts)

    def _holes(self, regions: _Regions) -> NDArray[np.uint64]:
        """For each region the label that fills it, 0 for none."""
        found, region = regions.topology(regions.value, regions.is_open)
        fill = found.fill
        if self.largest_hole is not None:
            size = np.zeros(len(fill), np.int64)
            np.add.at(size, region, regions.size)
            fill = np.where(size <= self.largest_hole, fill, np.uint64(0))
        return np.asarray(fill[region])

    def _regions(self, records: Mapping[str, Sequence[Record]]) -> _Regions:
        each: dict[str, list[NDArray[Any]]] = {name: [] for name in ("value", "size", "border", "open")}
        contacts, links = [np.zeros((0, 2), np.int64)], [np.zeros((0, 2), np.int64)]
        counts = []
        start = 0
        for block, record in enumerate(iterate(records["label"])):
            ids = records["label-merge"][block]["ids"]
            each["value"].append(ids[record["region_value"].astype(np.int64)])
            each["border"].append(record["region_border"])
            if self.largest_hole != 0:
                each["size"].append(record["region_size"])
                each["open"].append(record["region_open"])
            contacts.append(record["region_adjacency"].astype(np.int64) - 1 + start)
            links.append(record["region_links26"].astype(np.int64) - 1 + start)
            counts.append(len(record["region_value"]))
            start += counts[-1]
        offsets = union.element_offsets(np.array(counts, np.int64))
        contacts.append(_global_pairs(records["seams"], "faces", offsets))
        links.append(_global_pairs(records["seams"], "links26", offsets))
        return _Regions(
            value=np.concatenate(each["value"]),
            size=np.concatenate([np.zeros(0, np.int64), *each["size"]]),
            border=np.concatenate(each["border"]),
            is_open=np.concatenate([np.zeros(0, np.bool_), *each["open"]]),
            contacts=np.concatenate(contacts),
            links=np.concatenate(links),
            offsets=offsets,
        )

    def working_bytes(self, blocks: int) -> int:
        return 4096 * blocks


def _unique(pairs: Pairs) -> Pairs:
    return np.unique(np.sort(pairs, axis=1), axis=0) if len(pairs) else pairs.reshape(0, 2)
