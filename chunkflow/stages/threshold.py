"""Foreground by a threshold: one for the whole volume, from its exact histogram, or one per voxel, from a window.

histogram rules    smooth -> counts -> threshold;  smooth -> mask          the volume is read twice
local rules        smooth -> window -> mask                               no pass of their own
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import array_module
from chunkflow.errors import ConfigError
from chunkflow.geometry.box import Box, Triple
from chunkflow.kernels import filters, local_threshold, threshold
from chunkflow.kernels.threshold_rules import CLASS_RULES, RULES
from chunkflow.stages.base import BlockStep, Draft, Flow, Merged, Output, Record, View, host, iterate
from chunkflow.stages.local_threshold import LocalAbove, LocalMethod
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
        selecting = 0 if self.valid is None else 6 * prod(out)
        return selecting + 16 * min(prod(out), threshold.CHUNK) + 24 * threshold.EQUAL_BINS


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
    """The threshold from the counts of all blocks; of a rule for several classes, the one that foreground is above."""

    method: str
    dtype: str
    array: str
    limits: str
    classes: int = 2
    above: int = 1

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        bins = bins_of(values[self.limits], self.dtype, self.array)
        counts = counted(records["histogram"], bins)
        left = {"histogram": counts, "edges": np.asarray(bins.edges)}
        if self.method in RULES:
            return Merged({"threshold": np.array([RULES[self.method](counts, bins)]), **left})
        found = CLASS_RULES[self.method](counts, bins, self.classes)
        return Merged({"threshold": found[self.above - 1 : self.above], "thresholds": found, **left})

    def working_bytes(self, blocks: int) -> int:
        return 32 * 65536 * 8  # 20 measured, of multi-otsu; counts and edges


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


Method = Literal[
    "otsu", "li", "isodata", "yen", "kapur", "triangle", "huang", "multi-otsu", "kmeans", "fixed", LocalMethod
]
LOCAL = get_args(LocalMethod)
DEFAULT_CLASSES = {"multi-otsu": 3, "kmeans": 2}
DEFAULT_K = -0.2

BATCH = "batch"
"""What `from` says for one threshold of all files of a batch, by `method` from their histograms added up."""

OF_METHODS: Mapping[str, tuple[str, ...]] = {
    "value": ("fixed",),
    "classes": tuple(CLASS_RULES),
    "above": tuple(CLASS_RULES),
    "window_um": LOCAL,
    "k": ("sauvola", "niblack"),
    "spread": ("sauvola",),
    "offset": LOCAL,
    "floor": LOCAL,
}
"""Parameters that some methods look at alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Foreground is what lies above a threshold.

    method : from the histogram of the whole volume (nodata and what the mask excludes left out) "otsu", "li",
        "isodata", "yen", "kapur", "triangle", "huang", or with several classes "multi-otsu" and "kmeans"; for every
        voxel from a window around it "sauvola", "niblack", "adaptive-mean", "adaptive-gaussian"; or "fixed"
    value : the threshold, for "fixed"
    from_ : (`from` in a pipeline file) take it from elsewhere: a value, or what a pipeline file reads it from, the
        folder of a result or a text or JSON file with a number. The method is "fixed" then. "batch": all files of a
        batch share one, by the method from their histograms added up
    smooth_um : sigma of a Gaussian applied first, in um; 0 is none
    classes : of multi-otsu (3) and kmeans (2), up to 5
    above : which of the classes - 1 thresholds foreground is above, from 1; the highest by default
    window_um : width of the window, for local methods
    k : for sauvola and niblack; negative (-0.2) for bright objects, positive for dark ground (see docs/thresholds.md)
    spread : the largest standard deviation there is, for sauvola; half the range of the volume by default
    offset : taken off local thresholds; negative for bright objects
    floor : local thresholds are no lower
    """

    method: Method = "otsu"
    value: float | None = None
    from_: float | str | None = None
    smooth_um: float = 0.0
    classes: int | None = None
    above: int | None = None
    window_um: float | None = None
    k: float | None = None
    spread: float | None = None
    offset: float | None = None
    floor: float | None = None

    key: ClassVar[str] = "threshold"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        self._take_value()
        for name, methods in OF_METHODS.items():
            value = getattr(self, name)
            if value is not None and self.method not in methods:
                raise ConfigError(
                    f"threshold: {name} {value} beside method {self.method}, which does not look at it",
                    f"Leave it out, or use {' or '.join(methods)}",
                )
        if self.method == "fixed" and self.value is None and self.from_ is None:
            raise ConfigError("threshold: method fixed with no value", "Give value: V, or from: FILE")
        if self.smooth_um < 0:
            raise ConfigError(f"threshold: smooth_um {self.smooth_um} is negative", "Use 0 for none")
        if self.method in CLASS_RULES:
            self._check_classes()
        if self.method in LOCAL and (self.window_um is None or self.window_um <= 0):
            given = "no window_um" if self.window_um is None else f"window_um {self.window_um}"
            raise ConfigError(
                f"threshold: method {self.method} with {given}",
                "Give the width of a window in um: several objects wide",
            )
        if self.spread is not None and self.spread <= 0:
            raise ConfigError(f"threshold: spread {self.spread} is not positive", "Give a standard deviation")

    def _take_value(self) -> None:
        """With `from`, the method is fixed; a value that `from` names is the value."""
        if self.from_ is None:
            return
        if self.from_ == BATCH:
            if self.method == "fixed" or self.method in LOCAL:
                raise ConfigError(
                    f"threshold: from batch beside method {self.method}, which looks at no histogram",
                    "Use otsu, li or another rule of histograms",
                )
            return
        if self.method not in ("otsu", "fixed"):
            raise ConfigError(
                f"threshold: from stands beside method {self.method}", "Keep one of them: from says what the value is"
            )
        object.__setattr__(self, "method", "fixed")
        if isinstance(self.from_, str):
            return
        if self.value not in (None, self.from_):
            raise ConfigError(f"threshold: value {self.value} and from {self.from_} differ", "Keep one of them")
        object.__setattr__(self, "value", float(self.from_))

    def _check_classes(self) -> None:
        if not 2 <= self.class_count <= 5:
            raise ConfigError(f"threshold: {self.class_count} classes", "Use 2 to 5")
        if not 1 <= self.above_number < self.class_count:
            raise ConfigError(
                f"threshold: above {self.above} of {self.class_count - 1} thresholds",
                f"Use 1 to {self.class_count - 1}, from the lowest",
            )

    @property
    def class_count(self) -> int:
        """Classes that a rule for several makes."""
        return DEFAULT_CLASSES.get(self.method, 2) if self.classes is None else self.classes

    @property
    def above_number(self) -> int:
        """Which of their thresholds foreground is above, from 1."""
        return self.class_count - 1 if self.above is None else self.above

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        if self.from_ == BATCH:
            raise ConfigError(
                "threshold: from batch is one threshold of several files, and this is a run of one image",
                "Run several files at once, or leave from out",
            )
        if flow.signal is None:
            raise ConfigError(f"threshold: the input is {flow.kind}, not an image", "Leave threshold out")
        before: tuple[BlockStep, ...] = ()
        needs: tuple[str, ...] = ()
        source = flow.signal
        if self.smooth_um > 0:
            z, y, x = (self.smooth_um / v for v in flow.scale.voxel_um)
            smooth = Smooth(array=flow.signal, sigma_vox=(z, y, x), valid=flow.valid, limits=flow.signal_range)
            before, needs, source = (smooth,), (flow.signal_range,), "smooth"
        if self.method in LOCAL:
            local = self._local(flow, source)
            return (), replace(flow, mask_steps=(*before, local), mask_needs=(flow.signal_range,))
        above = Above(array=source, value=self._fixed(), valid=flow.valid)
        if self.method == "fixed":
            return (), replace(flow, mask_steps=(*before, above), mask_needs=needs)
        return self._histogram(flow, before, source), replace(
            flow, mask_steps=(*before, above), mask_needs=(*needs, "threshold")
        )

    def _histogram(self, flow: Flow, before: tuple[BlockStep, ...], source: str) -> tuple[Draft, ...]:
        """The counts of all blocks, and the threshold from them."""
        counts = Histogram(array=source, dtype=flow.signal_dtype, valid=flow.valid, limits=flow.signal_range)
        merge = MergeThreshold(
            method=self.method,
            dtype=flow.signal_dtype,
            array=source,
            limits=flow.signal_range,
            classes=self.class_count,
            above=self.above_number,
        )
        return (
            Draft(name="histogram", grid=flow.grid, steps=(*before, counts), needs=(flow.signal_range,)),
            Draft(name="threshold", grid=flow.grid, merge=merge, needs=("histogram", flow.signal_range)),
        )

    def _fixed(self) -> float | None:
        if self.method == "fixed" and self.value is None:
            raise ConfigError(
                f"threshold: from {self.from_} was not read", "Use Pipeline.from_yaml, or give its value: value=V"
            )
        return self.value

    def _local(self, flow: Flow, source: str) -> LocalAbove:
        window = float(self.window_um or 0)
        z, y, x = (window / 6 / v for v in flow.scale.voxel_um)
        return LocalAbove(
            array=source,
            valid=flow.valid,
            limits=flow.signal_range,
            dtype="float32" if source == "smooth" else flow.signal_dtype,
            method=self.method,
            radius=local_threshold.window_radius(window, flow.scale.voxel_um),
            sigma_vox=(z, y, x),
            k=DEFAULT_K if self.k is None else self.k,
            spread=self.spread,
            offset=self.offset or 0.0,
            floor=self.floor,
        )
