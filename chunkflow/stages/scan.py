"""The first visit of a volume: its exact range, which voxels are usable, and a copy where the user keeps one.

"valid" holds one byte per voxel: 0 where the input has no data, DATA where it has but the user's mask excludes it,
DATA | INSIDE where it counts. Smoothing looks at DATA, histograms and foreground at both. It is made from the raw
input, never from a processed image, whose zeros mean something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from chunkflow.backend import array_module
from chunkflow.errors import InputError
from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import resample
from chunkflow.stages.base import (
    ArraySpec,
    BlockStep,
    Draft,
    Flow,
    Merged,
    Output,
    Record,
    Resampling,
    View,
    iterate,
)

DATA = 1
INSIDE = 2


def is_inside(mask: Any) -> Any:
    """Where a user's mask says yes: non-zero, and not NaN."""
    return (mask != 0) & (mask == mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Marks the usable voxels (uint8, see the module) from the raw input and the user's mask."""

    nodata: float | None
    has_mask: bool
    resampling: Resampling | None

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("valid",)
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        box = self.resampling.source(out) if self.resampling else out
        return {"input": box, "input_mask": box} if self.has_mask else {"input": box}

    def run(self, view: View, out: Box) -> Output:
        raw = view.regions["input"]
        xp = array_module(raw.data)
        usable = xp.ones(raw.data.shape, bool) if self.nodata is None else raw.data != raw.data.dtype.type(self.nodata)
        valid = self._on_grid(usable, raw.box, out).astype(xp.uint8) * DATA
        if self.has_mask:
            mask = view.regions["input_mask"]
            valid |= self._on_grid(is_inside(mask.data), mask.box, out).astype(xp.uint8) * INSIDE
        else:
            valid |= INSIDE
        return Output(arrays={"valid": valid * (valid & DATA)})

    def _on_grid(self, usable: Any, box: Box, out: Box) -> Any:
        if self.resampling is None:
            return usable[out.relative_to(box.start).slices]
        r = self.resampling
        return resample.valid(usable, box.start, out.start, out.stop, r.shape_in, r.voxel_in, r.voxel_out)

    def working_bytes(self, out: Triple) -> int:
        return 4 * int(np.prod(out))


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """The input as it is, for `image` where no stage makes another."""

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("image",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"input": out}

    def run(self, view: View, out: Box) -> Output:
        return Output(arrays={"image": view.regions["input"].cut(out)})

    def working_bytes(self, out: Triple) -> int:
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Exact minimum and maximum of the usable voxels of one array, how often a block has them and its median, and the
    number of negative ones.

    Padding is counted exactly where it is the smallest or the largest value; any other value where it fills more than
    half of a block, because it is the median then.
    """

    array: str
    valid: str | None

    version: ClassVar[int] = 2
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {self.array: out, self.valid: out} if self.valid else {self.array: out}

    def run(self, view: View, out: Box) -> Output:
        data = view.regions[self.array].cut(view.core)
        xp = array_module(data)
        values = data.ravel() if self.valid is None else data[view.regions[self.valid].cut(view.core) == DATA | INSIDE]
        if values.size == 0:
            return Output(record={"count": np.zeros(1, np.int64)})
        low, high = values.min(), values.max()
        middle = xp.partition(values, values.size // 2)[values.size // 2]
        common = {float(value): int((values == value).sum()) for value in (low, middle, high)}
        record: dict[str, Any] = {"low": np.array([float(low)]), "high": np.array([float(high)])}
        record["common"] = np.array(list(common))
        record["common_count"] = np.array(list(common.values()), np.int64)
        record["count"] = np.array([values.size], np.int64)
        record["negative"] = np.array([int((values < 0).sum())], np.int64)
        return Output(record=record)

    def working_bytes(self, out: Triple) -> int:
        return 10 * int(np.prod(out))


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRange:
    """Range of the whole volume; the most common value and a lower bound of how often it occurs.

    Exact counts: `count` of usable voxels, `at_high` of those with the largest value, `negative`, and `clipped` where
    the step before counts what it clips.
    """

    source: str

    version: ClassVar[int] = 2

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        low, high, count, negative, clipped = np.inf, -np.inf, 0, 0, 0
        common: dict[float, int] = {}
        for record in iterate(records[self.source]):
            here = int(record["count"][0])
            clipped += int(record["clipped"][0]) if "clipped" in record else 0
            if here == 0:
                continue
            count += here
            negative += int(record["negative"][0])
            low, high = min(low, float(record["low"][0])), max(high, float(record["high"][0]))
            for value, times in zip(record["common"].tolist(), record["common_count"].tolist(), strict=True):
                common[value] = common.get(value, 0) + times
        if count == 0:
            raise InputError(
                "no voxel of the input is usable: all of it is nodata or outside the mask",
                "Check `input: nodata` and `input: mask`",
            )
        value, times = max(common.items(), key=lambda item: (item[1], -item[0]))
        return Merged(
            {
                "low": np.array([low]),
                "high": np.array([high]),
                "count": np.array([count], np.int64),
                "common": np.array([value]),
                "common_count": np.array([times], np.int64),
                "at_high": np.array([common[high]], np.int64),
                "negative": np.array([negative], np.int64),
                "clipped": np.array([clipped], np.int64),
            }
        )

    def working_bytes(self, blocks: int) -> int:
        return 200 * blocks


def range_draft(*, scan: str, merge: str, grid: Grid) -> Draft:
    """The merge of the ranges that the pass `scan` recorded."""
    return Draft(name=merge, grid=grid, merge=MergeRange(source=scan), needs=(scan,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """The visit in front of everything that looks at intensities: the planner's, not named by the user."""

    key: ClassVar[str] = "scan"

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        """Range of the usable raw voxels; their marks and a copy of the image, where no later stage makes them."""
        excluded = flow.nodata is not None or flow.has_mask
        copies = "image" in flow.save and not flow.image_by
        steps: list[BlockStep] = []
        writes: list[ArraySpec] = []
        if excluded:
            steps.append(Validity(nodata=flow.nodata, has_mask=flow.has_mask, resampling=None))
            if "resample" not in flow.wants:
                writes.append(ArraySpec(name="valid", dtype="uint8"))
        steps.append(Range(array="input", valid="valid" if excluded else None))
        if copies:
            steps.append(Copy())
            writes.append(ArraySpec(name="image", dtype=flow.input_dtype))
        scan = Draft(name="scan", grid=flow.grid, steps=tuple(steps), writes=tuple(writes))
        image = "image" if copies else "input"
        after = replace(
            flow,
            image=image,
            image_dtype=flow.input_dtype,
            image_range="range",
            signal=image,
            signal_dtype=flow.input_dtype,
            signal_range="range",
            input_range="range",
            valid="valid" if excluded and "resample" not in flow.wants else None,
        )
        return (scan, range_draft(scan="scan", merge="range", grid=flow.grid)), after
