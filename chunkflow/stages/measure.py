"""Tables of what was found: exact sums per object, merged with topology and graph into one row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ConfigError
from chunkflow.geometry.box import Box, Triple
from chunkflow.kernels import measure, resample
from chunkflow.stages.base import BlockStep, Draft, Flow, Merged, Output, Record, Resampling, View, host, iterate
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.skeleton import Euler

MERGED_AT_ONCE = 64  # blocks whose sums are held before they are merged


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Exact sums over the objects of a core: positions, and intensities of one array where there is one."""

    intensity: str | None
    dtype: str
    resampling: Resampling | None
    limits: str

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        if self.intensity is None:
            return {"labels": out}
        return {"labels": out, self.intensity: self.resampling.source(out) if self.resampling else out}

    def run(self, view: View, out: Box) -> Output:
        labels = host(view.regions["labels"].cut(out))
        power = 0 if self.intensity is None else scale_power(view.values[self.limits], self.dtype)
        values = self._intensities(view, out) if labels.any() else None
        if values is None and self.intensity is not None:
            values = np.zeros(out.shape, self.dtype)
        sums = measure.object_sums(labels, out.start, values, scale_power=power)
        return Output(record={f.name: getattr(sums, f.name) for f in fields(sums)})

    def _intensities(self, view: View, out: Box) -> NDArray[Any] | None:
        if self.intensity is None:
            return None
        region = view.regions[self.intensity]
        if self.resampling is None:
            return host(region.cut(out))
        r = self.resampling
        return host(
            resample.linear(region.data, region.box.start, out.start, out.stop, r.shape_in, r.voxel_in, r.voxel_out)
        )

    def working_bytes(self, out: Triple) -> int:
        return 28 * prod(out)


def scale_power(limits: Record, dtype: str) -> int:
    """The fixed-point power of the volume's intensities."""
    return measure.intensity_power(max(abs(float(limits["low"][0])), abs(float(limits["high"][0]))), dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeObjects:
    """One row per object. Without a graph, `b1_graph` is null and nothing is certified."""

    sums: str
    euler: str
    graph: str
    shape: Triple
    voxel_um: tuple[float, float, float]
    translation_um: tuple[float, float, float]
    dtype: str
    limits: str

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        totals = _merged_sums(records[self.sums])
        power = scale_power(values[self.limits], self.dtype) if self.limits else 0
        columns = measure.object_columns(
            totals, self.shape, self.voxel_um, translation_um=self.translation_um, scale_power=power
        )
        columns |= self._topology(columns["object_id"], records[self.euler], values)
        border = columns.pop("touches_border")
        return Merged({name: np.asarray(column) for name, column in columns.items()} | {"touches_border": border})

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


def _merged_sums(records: Sequence[Record]) -> measure.ObjectSums:
    waiting: list[measure.ObjectSums] = []
    for record in iterate(records):
        waiting.append(measure.ObjectSums(**{f.name: record[f.name] for f in fields(measure.ObjectSums)}))
        if len(waiting) == MERGED_AT_ONCE:
            waiting = [measure.merge_sums(waiting)]
    return measure.merge_sums(waiting)


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
    """

    intensity: Literal["raw", "image", "none"] = "raw"

    key: ClassVar[str] = "measure"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        if flow.labels is None:
            raise ConfigError("measure: there are no labels to measure", "Put label in front of it")
        sums = self._sums(flow)
        steps: tuple[BlockStep, ...] = (sums,) if flow.euler else (sums, Euler())
        needs = (sums.limits,) if sums.limits else ()
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
        )
        graph = (flow.graph,) if flow.graph else ()
        merged = tuple(dict.fromkeys(("measure", euler, "regions-merge", *graph, *needs)))
        drafts = (
            Draft(name="measure", grid=flow.grid, steps=steps, needs=needs),
            Draft(name="objects", grid=flow.grid, merge=merge, needs=merged),
        )
        return drafts, replace(flow, euler=euler)

    def _sums(self, flow: Flow) -> Sums:
        if flow.kind != "image" or self.intensity == "none":
            return Sums(intensity=None, dtype="uint8", resampling=None, limits="")
        if self.intensity == "image":
            return Sums(intensity=str(flow.image), dtype=flow.image_dtype, resampling=None, limits=flow.image_range)
        dtype = "float32" if flow.resampling else flow.input_dtype
        return Sums(intensity="input", dtype=dtype, resampling=flow.resampling, limits=flow.input_range)
