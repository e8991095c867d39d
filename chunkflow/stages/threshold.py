"""Foreground by one threshold for the whole volume, from its exact histogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import array_module
from chunkflow.errors import ConfigError
from chunkflow.geometry.box import Box, Triple
from chunkflow.kernels import filters, threshold
from chunkflow.stages.base import BlockStep, Draft, Flow, Merged, Output, Record, View, host, iterate
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.scan import DATA, INSIDE


@dataclass(frozen=True, slots=True, kw_only=True)
class Smooth:
    """Gaussian smoothing, divided by the kernel weight on voxels that hold data; inside the range of the whole."""

    array: str
    sigma_vox: tuple[float, float, float]
    valid: str | None
    limits: str

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("smooth",)
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        box = out.grow(filters.smooth_halo(self.sigma_vox))
        return {self.array: box, self.valid: box} if self.valid else {self.array: box}

    def run(self, view: View, out: Box) -> Output:
        image = view.regions[self.array]
        xp = array_module(image.data)
        valid = None if self.valid is None else (view.regions[self.valid].cut(image.box) & DATA).astype(bool)
        smooth = filters.gaussian_smooth(image.data, valid, self.sigma_vox)[out.relative_to(image.box.start).slices]
        limits = view.values[self.limits]
        # A weighted mean leaves the range of what it averages by rounding only; the histogram's edges are that range.
        low, high = (np.float32(limits[name][0]) for name in ("low", "high"))
        return Output(arrays={"smooth": xp.clip(smooth, low, high)})

    def working_bytes(self, out: Triple) -> int:
        halo = filters.smooth_halo(self.sigma_vox)
        return 20 * prod(n + 2 * h for n, h in zip(out, halo, strict=True))  # 18 measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Counts of the usable voxels of a core, as pairs (bin, count) of the bins that occur."""

    array: str
    dtype: str
    valid: str | None
    limits: str

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {self.array: out, self.valid: out} if self.valid else {self.array: out}

    def run(self, view: View, out: Box) -> Output:
        data = view.regions[self.array].cut(view.core)
        if self.valid is not None:
            data = data[view.regions[self.valid].cut(view.core) == DATA | INSIDE]
        counts = host(threshold.histogram(data, bins_of(view.values[self.limits], self.dtype, self.array)))
        present = np.flatnonzero(counts)
        return Output(record={"bin": present.astype(np.uint32), "count": counts[present]})

    def working_bytes(self, out: Triple) -> int:
        return 10 * prod(out)


def bins_of(limits: Record, dtype: str, array: str) -> threshold.Bins:
    """The bins of the whole volume: one per value for integers of up to 16 bits as they are, else 65,536."""
    low, high = float(limits["low"][0]), float(limits["high"][0])
    return threshold.Bins.of_range(low, high, dtype, smoothed=array == "smooth")


def counted(records: Sequence[Record], bins: threshold.Bins) -> NDArray[np.int64]:
    """Counts of the whole volume from those of its blocks."""
    counts = np.zeros(bins.count, np.int64)
    for record in iterate(records):
        counts[record["bin"]] += record["count"]
    return counts


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeThreshold:
    """The threshold from the counts of all blocks."""

    method: str
    dtype: str
    array: str
    limits: str

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        bins = bins_of(values[self.limits], self.dtype, self.array)
        counts = counted(records["histogram"], bins)
        value = threshold.otsu(counts, bins) if self.method == "otsu" else threshold.li(counts, bins)
        return Merged({"threshold": np.array([value]), "histogram": counts, "edges": np.asarray(bins.edges)})

    def working_bytes(self, blocks: int) -> int:
        return 4 * 65536 * 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Above:
    """Foreground: usable voxels above the threshold."""

    array: str
    value: float | None
    valid: str | None

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("mask",)
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {self.array: out, self.valid: out} if self.valid else {self.array: out}

    def run(self, view: View, out: Box) -> Output:
        value = float(view.values["threshold"]["threshold"][0]) if self.value is None else self.value
        data = view.regions[self.array].cut(out)
        mask: Any = data > value
        if self.valid is not None:
            mask &= view.regions[self.valid].cut(out) == DATA | INSIDE
        return Output(arrays={"mask": mask.astype(np.uint8)})

    def working_bytes(self, out: Triple) -> int:
        return 3 * prod(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Foreground is what lies above one threshold.

    method : "otsu" or "li", from the histogram of the whole volume (nodata and what the mask excludes left out), or
        "fixed"
    value : the threshold, for "fixed"
    smooth_um : sigma of a Gaussian applied first, in um; 0 is none
    """

    method: Literal["otsu", "li", "fixed"] = "otsu"
    value: float | None = None
    smooth_um: float = 0.0

    key: ClassVar[str] = "threshold"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if (self.method == "fixed") != (self.value is not None):
            given = "no value" if self.value is None else f"value {self.value}"
            raise ConfigError(f"threshold: method {self.method} with {given}", "Use method: fixed with value: V")
        if self.smooth_um < 0:
            raise ConfigError(f"threshold: smooth_um {self.smooth_um} is negative", "Use 0 for none")

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        if flow.signal is None:
            raise ConfigError(f"threshold: the input is {flow.kind}, not an image", "Leave threshold out")
        sigma = tuple(self.smooth_um / v for v in flow.scale.voxel_um)
        before: tuple[BlockStep, ...] = ()
        needs: tuple[str, ...] = ()
        source = flow.signal
        if self.smooth_um > 0:
            smooth = Smooth(
                array=flow.signal, sigma_vox=(sigma[0], sigma[1], sigma[2]), valid=flow.valid, limits=flow.signal_range
            )
            before, needs, source = (smooth,), (flow.signal_range,), "smooth"
        above = Above(array=source, value=self.value, valid=flow.valid)
        if self.method == "fixed":
            return (), replace(flow, mask_steps=(*before, above), mask_needs=needs)
        counts = Histogram(array=source, dtype=flow.signal_dtype, valid=flow.valid, limits=flow.signal_range)
        merge = MergeThreshold(method=self.method, dtype=flow.signal_dtype, array=source, limits=flow.signal_range)
        drafts = (
            Draft(name="histogram", grid=flow.grid, steps=(*before, counts), needs=(flow.signal_range,)),
            Draft(name="threshold", grid=flow.grid, merge=merge, needs=("histogram", flow.signal_range)),
        )
        return drafts, replace(flow, mask_steps=(*before, above), mask_needs=(*needs, "threshold"))
