"""Tables of what was found: exact counts and sums per block, merged with topology and graph.

    measure    sums of positions and intensities, surface crossings, contacts, largest distances   -> objects
                                                                                                   -> contacts
    networks   nodes and branches of the graph, counted per object
    graph-metrics  the shapes of networks (`stages.network_tables`), where they are asked for
    channel-*  ranges of other channels of the input, which `measure` then sums too (`stages.intensities`)
    region-*   which cell, or part of a tissue, objects, nodes and branches lie in (`stages.regions`)

All that blocks leave are integers, so the tables have the same bits whatever the blocks were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ConfigError
from chunkflow.geometry.box import Box, Triple
from chunkflow.kernels import branches, colocalization, distance, measure, surface
from chunkflow.stages import oriented, regions
from chunkflow.stages.base import (
    BlockStep,
    ChannelImage,
    Draft,
    Flow,
    Merged,
    Output,
    Record,
    Resampling,
    View,
    host,
    iterate,
)
from chunkflow.stages.distance import spacing_weights
from chunkflow.stages.graph import PARTS
from chunkflow.stages.intensities import (
    Channels,
    Sums,
    channel_of,
    channel_power,
    range_drafts,
    range_of,
    scale_power,
    sums_of,
)
from chunkflow.stages.merging import folded
from chunkflow.stages.network_tables import MergeNetworks, metrics_drafts
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.skeleton import Euler


@dataclass(frozen=True, slots=True, kw_only=True)
class Surfaces:
    """Crossings of the objects' surfaces, and the faces between objects, as far as a block owns them."""

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"labels": out.grow((1, 1, 1))}

    def run(self, view: View, out: Box) -> Output:
        labels = self._with_border(view, out)
        crossings, contacts = surface.block_crossings(labels), surface.block_contacts(labels)
        return Output(
            record={
                "surface_label": crossings.label,
                "crossings": crossings.crossings,
                "contact_pair": contacts.pair,
                "contact_faces": contacts.faces,
            }
        )

    @staticmethod
    def _with_border(view: View, out: Box) -> NDArray[Any]:
        """The core and one voxel around it, zeros outside the volume."""
        region, box = view.regions["labels"], out.grow((1, 1, 1))
        inside = box.clip(region.box)
        before = [a - b for a, b in zip(inside.start, box.start, strict=True)]
        behind = [b - a for a, b in zip(inside.stop, box.stop, strict=True)]
        return np.pad(host(region.cut(inside)), list(zip(before, behind, strict=True)))

    def working_bytes(self, out: Triple) -> int:
        return 28 * prod(n + 2 for n in out)  # 27 measured on noise of half the voxels, 8 on blobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Inscribed:
    """The largest squared distance in each object with its cavities filled, as far as it lies in the core."""

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"filled": out, "distance": out}

    def run(self, view: View, out: Box) -> Output:
        filled, distances = (host(view.regions[name].cut(out)) for name in ("filled", "distance"))
        found = measure.largest_values(filled, distances)
        return Output(record={"inscribed_label": found.label, "inscribed_d2": found.value})

    def working_bytes(self, out: Triple) -> int:
        return 16 * prod(out)


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

    version: ClassVar[int] = 6

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        totals = folded(records[self.sums], sums_of, measure.merge_sums)
        power = scale_power(values[self.limits], self.dtype) if self.limits else 0
        columns = measure.object_columns(
            totals, self.shape, self.voxel_um, translation_um=self.translation_um, scale_power=power
        )
        border = columns.pop("touches_border")
        columns["intensity_of"] = np.full(len(totals), self.measured)
        for number, channel in enumerate(self.channels):
            columns |= self._channel(number, channel, totals, records[self.sums], values)
        columns |= self._shape(totals, columns["volume_um3"], records[self.sums])
        if self.extents:
            columns |= oriented.extent_columns(columns, records[self.extents], self.voxel_um)
        columns |= self._form(columns, records)
        columns |= self._topology(columns["object_id"], records[self.euler], values)
        if self.regions:
            parents = values[self.regions]
            columns |= {name: parents[f"objects.{name}"] for name in ("region_id", "region_fraction")}
        return Merged({name: np.asarray(column) for name, column in columns.items()} | {"touches_border": border})

    def _channel(
        self,
        number: int,
        channel: ChannelImage,
        totals: measure.ObjectSums,
        records: Sequence[Record],
        values: Mapping[str, Record],
    ) -> dict[str, NDArray[Any]]:
        """Intensities of another channel, and how they go with the measured one."""
        power = channel_power(values, channel, self.resampling)
        sums = folded(records, partial(channel_of, number=number), colocalization.merge_channel_sums)
        return colocalization.channel_columns(sums, totals, name=channel.name, power=power)

    def _shape(
        self, totals: measure.ObjectSums, volume_um3: NDArray[np.float64], records: Sequence[Record]
    ) -> dict[str, NDArray[Any]]:
        """Surface and sphericity, null in a plane; axes; and the inscribed radius, null where it is not known."""
        known = folded(records, _crossings_of, surface.merge_crossings)
        area = surface.surface_areas(known.crossings, self.voxel_um)
        if min(self.shape) == 1:
            area = np.full(len(totals), np.nan)
        shape = {"surface_um2": area, "sphericity": surface.sphericity(volume_um3, area)}
        shape |= measure.axis_columns(totals, self.voxel_um)
        return shape | {"inscribed_radius_um": self._inscribed(totals.label, records)}

    def _form(
        self, columns: Mapping[str, NDArray[Any]], records: Mapping[str, Sequence[Record]]
    ) -> dict[str, NDArray[Any]]:
        """What a skeleton tells of each object, "" without one."""
        label = columns["object_id"]
        length, count = np.zeros(len(label)), np.zeros(len(label), np.int64)
        for part in iterate(records[PARTS]) if self.graph else ():
            rows = np.searchsorted(label, part["branches.object_id"])
            np.add.at(length, rows, part["branches.length_um"])
            np.add.at(count, rows, 1)
        volume, area, inscribed = (columns[name] for name in ("volume_um3", "surface_um2", "inscribed_radius_um"))
        return {"form": branches.forms(volume, area, length, count, inscribed, voxel_um=min(self.voxel_um))}

    def _inscribed(self, label: NDArray[np.uint64], records: Sequence[Record]) -> NDArray[np.float64]:
        if not self.graph:
            return np.full(len(label), np.nan)
        found = folded(records, _largest_of, measure.merge_largest)
        d2 = _matched(label, found.label, found.value)
        is_known = (d2 >= 0) & (d2 < distance.FAR)  # nothing but the object: no distance at all
        return np.where(is_known, np.sqrt(np.where(is_known, d2, 0)) * self.unit_um, np.nan)

    def _topology(
        self, label: NDArray[np.uint64], euler: Sequence[Record], values: Mapping[str, Record]
    ) -> dict[str, NDArray[Any]]:
        regions = values["regions-merge"]
        chi = _summed(label, euler, "chi_label", "chi")
        filled_chi = _summed(label, euler, "filled_label", "filled_chi")
        b0, b0_filled, b2, b2_open = (
            _matched(label, regions["label"], regions[name]) for name in ("b0", "b0_filled", "b2", "b2_open")
        )
        b1_filled = b0_filled + b2_open - filled_chi
        found: dict[str, NDArray[Any]] = {"b0": b0, "b1": b0 + b2 - chi, "b2": b2, "b1_filled": b1_filled}
        if not self.graph:
            return found | {"b1_graph": np.full(len(label), np.nan), "certified": np.zeros(len(label), bool)}
        graph = values[self.graph]
        found["b1_graph"] = _matched(label, graph["graph_label"], graph["graph_b1"])
        is_open = _matched(label, graph["open_label"], graph["open_count"]) > 0
        return found | {"certified": ~is_open & (found["b1_graph"] == b1_filled)}

    def working_bytes(self, blocks: int) -> int:
        return 65536 * blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeContacts:
    """One row per pair of objects that share a voxel face."""

    sums: str
    voxel_um: tuple[float, float, float]

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        contacts = folded(records[self.sums], _contacts_of, surface.merge_contacts)
        return Merged(surface.contact_columns(contacts, self.voxel_um))

    def working_bytes(self, blocks: int) -> int:
        return 65536 * blocks


def _crossings_of(record: Record) -> surface.Crossings:
    return surface.Crossings(record["surface_label"], record["crossings"])


def _contacts_of(record: Record) -> surface.Contacts:
    return surface.Contacts(record["contact_pair"], record["contact_faces"])


def _largest_of(record: Record) -> measure.Largest:
    return measure.Largest(record["inscribed_label"], record["inscribed_d2"])


def _summed(label: NDArray[np.uint64], records: Sequence[Record], key: str, name: str) -> NDArray[np.int64]:
    total = np.zeros(len(label), np.int64)
    for record in iterate(records):
        np.add.at(total, np.searchsorted(label, record[key]), record[name])
    return total


def _matched(label: NDArray[np.uint64], keys: NDArray[np.uint64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The value of each label, 0 where the keys lack it. `label` is sorted and holds every key that is an object."""
    found = np.zeros(len(label), np.int64)
    known = np.isin(keys, label)
    found[np.searchsorted(label, keys[known])] = values[known]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Tables of objects (and of branches and nodes, where there is a skeleton).

    intensity : "raw": the input, resampled linearly where the image is; "image": what the segmentation saw; "none"
    channels : other channels of the input, by name or number, which are measured too: raw, resampled linearly where
        the image is; and how each goes with the intensity (Pearson, Manders)
    background : what Manders' fractions take for dark, in grey values: one number for all, or one for the intensity
        and one for each channel; 0 as Manders has it, thresholds where there is an offset
    regions : parent regions on the input's grid: an OME-Zarr label image, a TIFF stack of labels, or the RoiSet.zip of
        ImageJ's ROI Manager
    oriented_extents : sides of the boxes around objects that lie along their axes; reads the labels once more
    graph_metrics : the shape of each object's network beside random graphs, in a table of its own: 0.03 s for an
        object at the least, 0.3 s for one of 200 nodes, a minute for one of 20,000
    """

    intensity: Literal["raw", "image", "none"] = "raw"
    channels: tuple[str | int, ...] = ()
    background: float | tuple[float, ...] = 0.0
    regions: str | None = None
    oriented_extents: bool = False
    graph_metrics: bool = False

    key: ClassVar[str] = "measure"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if isinstance(self.background, tuple) and len(self.background) != 1 + len(self.channels):
            raise ConfigError(
                f"measure: background has {len(self.background)} values for the intensity and {len(self.channels)} "
                "channels",
                "Give one value for all, or one for the intensity and one for each channel",
            )

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        if flow.labels is None:
            raise ConfigError("measure: there are no labels to measure", "Put label in front of it")
        if self.graph_metrics and not flow.graph:
            raise ConfigError(
                "measure: graph_metrics needs skeletons, and there are none", "Put skeleton in front of it"
            )
        sums = self._sums(flow)
        steps: tuple[BlockStep, ...] = (sums, Surfaces())
        steps += (self._channels(flow, sums),) if flow.channels else ()
        steps += () if flow.euler else (Euler(),)
        steps += (Inscribed(),) if flow.graph else ()
        ranges = tuple(filter(None, (range_of(channel, flow.resampling) for channel in flow.channels)))
        needs = (*filter(None, (sums.limits,)), *ranges)
        euler = flow.euler or "measure"
        merge = MergeObjects(
            sums="measure",
            euler=euler,
            graph=flow.graph,
            shape=flow.shape,
            voxel_um=flow.scale.voxel_um,
            translation_um=flow.scale.translation_um,
            dtype=sums.dtype,
            limits=sums.limits,
            unit_um=spacing_weights(flow.shape, flow.scale.voxel_um)[1] if flow.graph else 1.0,
            measured={None: "none", "input": "raw"}.get(sums.intensity, "image"),
            channels=flow.channels,
            resampling=flow.resampling,
            regions=regions.MERGED if flow.regions else "",
            extents=oriented.EXTENTS if self.oriented_extents else "",
        )
        contacts = MergeContacts(sums="measure", voxel_um=flow.scale.voxel_um)
        graph = (flow.graph, PARTS) if flow.graph else ()
        parents = regions.region_drafts(flow, flow.regions) if flow.regions else ()
        known: tuple[str, ...] = (regions.MERGED,) if flow.regions else ()
        boxes: tuple[Draft, ...] = ()
        if self.oriented_extents:
            boxes = oriented.extent_drafts(flow.grid, "measure", flow.scale.voxel_um)
            known += (oriented.EXTENTS,)
        merged = tuple(dict.fromkeys(("measure", euler, "regions-merge", *graph, *known, *needs)))
        drafts: tuple[Draft, ...] = (
            *(draft for channel in flow.channels for draft in range_drafts(channel, flow)),
            Draft(name="measure", grid=flow.grid, steps=steps, needs=needs),
            *boxes,
            *parents,
            Draft(name="objects", grid=flow.grid, merge=merge, needs=merged),
            Draft(name="contacts", grid=flow.grid, merge=contacts, needs=("measure",)),
        )
        if flow.graph:
            drafts += (Draft(name="networks", grid=flow.grid, merge=MergeNetworks(), needs=(PARTS,)),)
        if self.graph_metrics:
            drafts += metrics_drafts(len(flow.grid))
        return drafts, replace(flow, euler=euler, warnings=(*flow.warnings, *_warnings(flow)))

    def _sums(self, flow: Flow) -> Sums:
        if max(flow.finer) > 1 and (self.intensity == "raw" or flow.channels or flow.regions):
            raise ConfigError(
                f"measure: the network made the grid {flow.finer} times finer than that of the input, whose voxels, "
                "channels and regions do not lie on it",
                "Use intensity: image or none, and no channels or regions",
            )
        if flow.kind != "image" or self.intensity == "none":
            return Sums(intensity=None, dtype="uint8", resampling=None, limits="")
        if self.intensity == "image":
            return Sums(intensity=str(flow.image), dtype=flow.image_dtype, resampling=None, limits=flow.image_range)
        dtype = "float32" if flow.resampling else flow.input_dtype
        return Sums(intensity="input", dtype=dtype, resampling=flow.resampling, limits=flow.input_range)

    def _channels(self, flow: Flow, sums: Sums) -> Channels:
        given = self.background
        backgrounds = tuple(map(float, given if isinstance(given, tuple) else (given,) * (1 + len(flow.channels))))
        return Channels(measured=sums, channels=flow.channels, resampling=flow.resampling, backgrounds=backgrounds)


def _warnings(flow: Flow) -> tuple[str, ...]:
    """That a plane has volumes only because it is given a thickness."""
    if flow.shape[0] > 1:
        return ()
    return (
        f"the image is a single plane, which counts as {flow.scale.voxel_um[0]:g} um thick: volumes are areas times "
        "that, and objects have no surface. Where it matters, give the thickness with --voxel-um Z Y X",
    )
