"""The channels that a network of several sees: raw, each by numbers of its own.

    predict-channels     on a resampled grid: every channel on it; smallest and largest value of each -> its range
    predict-histogram    counts of grey values of each                                                -> predict-scale

A network of one channel reads what the stages before it made of the input's channel, and none of this is needed. One of
several reads channels of the input as they are stored: stages that restore know one channel, so the others would be
raw beside it, unlike what the network was trained on. Resampling is no restoration, and is done alike to all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ConfigError, ModelError
from chunkflow.geometry.box import Box, Triple
from chunkflow.kernels import resample, threshold
from chunkflow.models.load import Model
from chunkflow.models.usage import Normalization
from chunkflow.stages.base import (
    ArraySpec,
    BlockStep,
    ChannelImage,
    Draft,
    Flow,
    Merged,
    Output,
    Record,
    Resampling,
    View,
    iterate,
)
from chunkflow.stages.normalize import histogram_name, scale_name, scale_of
from chunkflow.stages.scan import DATA, INSIDE
from chunkflow.stages.threshold import Histogram, bins_of

Channel = int | str

CHANNELS = "predict-channels"
RANGES = "predict-channels-range"


def chosen_channels(model: Model, named: Sequence[Channel] | None, names: Sequence[str]) -> tuple[Channel, ...]:
    """The channels of an image that a network sees, in its order; none where it sees one, the signal of the flow.

    named : what the user says, by name or number
    names : of the image's channels, "" where one has none

    Raises
    ------
    ConfigError, ModelError : the network takes another number of channels.
    """
    count, image = model.in_channels, f"{_counted(len(names))}{_listed(names)}"
    if named is not None and len(named) != count:
        raise ConfigError(
            f"predict: channels names {len(named)}, and the network takes {count}; the image has {image}",
            "Name as many as it takes, in the order of its training",
        )
    if named is not None:
        return tuple(named)
    if count == 1:
        return ()
    if count != len(names):
        enough = len(names) > count
        raise ModelError(
            f"predict: the network takes {_counted(count)}, and the image has {image}",
            f"Name {count} of them, in the order of its training: predict: {{channels: [...]}}"
            if enough
            else "Import an image with all of them, or use a network of fewer",
        )
    return tuple(range(count))


def _counted(count: int) -> str:
    return f"{count} channel{'' if count == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(name or str(number) for number, name in enumerate(names))})" if any(names) else ""


def channel_drafts(flow: Flow, how: Normalization) -> tuple[tuple[Draft, ...], tuple[str, ...]]:
    """The passes that bring the flow's channels to its grid and find what they are scaled by; the arrays to read."""
    seen, resampling = tuple(dict.fromkeys(flow.network_channels)), flow.resampling
    names = {channel.array: channel.array for channel in seen}
    steps: list[BlockStep] = []
    if resampling is not None:
        names = {channel.array: _resampled(channel) for channel in seen}
        sources = tuple(channel.array for channel in seen)
        steps.append(InterpolateChannels(arrays=sources, products=tuple(names.values()), resampling=resampling))
    arrays = tuple(names[channel.array] for channel in flow.network_channels)
    counts = how.kind in ("percentiles", "mean-sd")
    if counts:
        steps.append(ChannelRanges(arrays=arrays, valid=flow.valid))
    if not steps:
        return (), arrays
    writes = tuple(ArraySpec(name=name, dtype="float32") for name in names.values()) if resampling else ()
    first = Draft(name=CHANNELS, grid=flow.grid, steps=tuple(steps), writes=writes)
    if not counts:
        return (first,), arrays
    dtypes = tuple("float32" if resampling else channel.dtype for channel in flow.network_channels)
    counted_by = histogram_name("predict")
    merge = MergeChannelScales(how=how, dtypes=dtypes)
    histograms = ChannelHistograms(arrays=arrays, dtypes=dtypes, valid=flow.valid)
    return (
        first,
        Draft(name=RANGES, grid=flow.grid, merge=MergeChannelRanges(together=how.together), needs=(CHANNELS,)),
        Draft(name=counted_by, grid=flow.grid, steps=(histograms,), needs=(RANGES,)),
        Draft(name=scale_name("predict"), grid=flow.grid, merge=merge, needs=(counted_by, RANGES)),
    ), arrays


def _resampled(channel: ChannelImage) -> str:
    return channel.array.replace("input:", "predict-channel-")


@dataclass(frozen=True, slots=True, kw_only=True)
class InterpolateChannels:
    """Channels of the input on the present grid, float32: what `stages.resample` makes of the input's own."""

    arrays: tuple[str, ...]
    products: tuple[str, ...]
    resampling: Resampling

    version: ClassVar[int] = 1
    on_device: ClassVar[bool] = True

    @property
    def produces(self) -> tuple[str, ...]:
        return self.products

    def reads(self, out: Box) -> Mapping[str, Box]:
        return dict.fromkeys(self.arrays, self.resampling.source(out))

    def run(self, view: View, out: Box) -> Output:
        r = self.resampling
        made: dict[str, Any] = {}
        for name, product in zip(self.arrays, self.products, strict=True):
            region = view.regions[name]
            made[product] = resample.linear(
                region.data, region.box.start, out.start, out.stop, r.shape_in, r.voxel_in, r.voxel_out
            )
        return Output(arrays=made)

    def working_bytes(self, out: Triple) -> int:
        return 12 * max(prod(out), self.resampling.source(Box.of_shape(out)).size)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRanges:
    """Smallest and largest usable value of each channel in a block, (C,); beyond all numbers where there is none."""

    arrays: tuple[str, ...]
    valid: str | None

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        return _with_valid(self.arrays, self.valid, out)

    def run(self, view: View, out: Box) -> Output:
        low, high = np.full(len(self.arrays), np.inf), np.full(len(self.arrays), -np.inf)
        for number, name in enumerate(self.arrays):
            data = view.regions[name].cut(view.core)
            if self.valid is not None:
                data = data[view.regions[self.valid].cut(view.core) == DATA | INSIDE]
            if data.size:
                low[number], high[number] = float(data.min()), float(data.max())
        return Output(record={"low": low, "high": high})

    def working_bytes(self, out: Triple) -> int:
        return 10 * prod(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeChannelRanges:
    """Range of each channel of the whole volume, (C,).

    together : the same for all of them, that of all
    """

    together: bool

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        low: Any = np.inf
        high: Any = -np.inf
        for record in iterate(records[CHANNELS]):
            low, high = np.minimum(low, record["low"]), np.maximum(high, record["high"])
        if self.together:
            low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
        return Merged({"low": low, "high": high})

    def working_bytes(self, blocks: int) -> int:
        return 200 * blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelHistograms:
    """Counts of the usable voxels of a core in each channel, as pairs (bin, count) of the bins that occur."""

    arrays: tuple[str, ...]
    dtypes: tuple[str, ...]
    valid: str | None

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        return _with_valid(self.arrays, self.valid, out)

    def run(self, view: View, out: Box) -> Output:
        record: dict[str, NDArray[Any]] = {}
        for number, step in enumerate(self._steps()):
            own = replace(view, values={RANGES: _limits(view.values[RANGES], number)})
            record |= {f"{name}{number}": column for name, column in step.run(own, out).record.items()}
        return Output(record=record)

    def _steps(self) -> list[Histogram]:
        pairs = zip(self.arrays, self.dtypes, strict=True)
        return [Histogram(array=name, dtype=dtype, valid=self.valid, limits=RANGES) for name, dtype in pairs]

    def working_bytes(self, out: Triple) -> int:
        return max(step.working_bytes(out) for step in self._steps())


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeChannelScales:
    """Offset and scale of each channel of the whole volume, (C,); see `stages.normalize.MergeScale`."""

    how: Normalization
    dtypes: tuple[str, ...]

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        bins = [bins_of(_limits(values[RANGES], number), dtype, CHANNELS) for number, dtype in enumerate(self.dtypes)]
        counts = [np.zeros(one.count, np.int64) for one in bins]
        for record in iterate(records[histogram_name("predict")]):
            for number, total in enumerate(counts):
                total[record[f"bin{number}"]] += record[f"count{number}"]
        if self.how.together:
            counts = [sum(counts[1:], start=counts[0])] * len(counts)
        found = [
            scale_of(self.how, total, one, f"predict, channel {number} of the network")
            for number, (total, one) in enumerate(zip(counts, bins, strict=True))
        ]
        return Merged({"offset": np.array([o for o, _ in found]), "scale": np.array([s for _, s in found])})

    def working_bytes(self, blocks: int) -> int:
        return 4 * threshold.EQUAL_BINS * 8 * (1 + len(self.dtypes))


def _limits(ranges: Record, number: int) -> Record:
    """The range of one channel, as bins are made from it."""
    return {name: column[number : number + 1] for name, column in ranges.items()}


def _with_valid(arrays: Sequence[str], valid: str | None, out: Box) -> Mapping[str, Box]:
    return dict.fromkeys((*arrays, valid) if valid else arrays, out)
