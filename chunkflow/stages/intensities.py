"""Intensities of objects: exact sums over a block, of the measured image and of other channels.

    channel-K    range of channel K, where its sums need one: of floats, whose fixed point follows from it
    image-K      the same of a channel of the image that `measure` names
    measure      positions and intensities per object; per channel, its own sums and its products with the intensity

An image that lies on the input's grid is resampled linearly where the objects lie on another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import colocalization, limbs, measure, resample
from chunkflow.stages.base import ChannelImage, Draft, Flow, Output, Record, Region, Resampling, View, host
from chunkflow.stages.scan import Range, range_draft


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Exact sums over the objects of a core: positions, and intensities of one array where there is one."""

    intensity: str | None
    dtype: str
    resampling: Resampling | None
    limits: str

    version: ClassVar[int] = 2
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        if self.intensity is None:
            return {"labels": out}
        return {"labels": out, self.intensity: self.resampling.source(out) if self.resampling else out}

    def run(self, view: View, out: Box) -> Output:
        labels = host(view.regions["labels"].cut(out))
        power = scale_power(view.values[self.limits], self.dtype) if self.limits else 0
        values: NDArray[Any] | None = None
        if self.intensity is not None and labels.any():
            values = sampled(view.regions[self.intensity], self.resampling, out)
        elif self.intensity is not None:
            values = np.zeros(out.shape, self.dtype)
        sums = measure.object_sums(labels, out.start, values, scale_power=power)
        return Output(record={f.name: getattr(sums, f.name) for f in fields(sums)})

    def working_bytes(self, out: Triple) -> int:
        return 22 * prod(out)  # 21 measured on noise with float intensities, 9 with integers


def sampled(region: Region, resampling: Resampling | None, out: Box) -> NDArray[Any]:
    """Voxels of an image on the present grid, resampled linearly where that is not its own."""
    if resampling is None:
        return host(region.cut(out))
    r = resampling
    return host(
        resample.linear(region.data, region.box.start, out.start, out.stop, r.shape_in, r.voxel_in, r.voxel_out)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """Exact sums of other channels over the objects of a core, and of their products with the measured intensity.

    measured : what `Sums` adds up
    channels : raw; resampled with the image
    backgrounds : of the measured intensity and of each channel (see `kernels.colocalization`)
    """

    measured: Sums
    channels: tuple[ChannelImage, ...]
    resampling: Resampling | None
    backgrounds: tuple[float, ...]

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        box = self.resampling.source(out) if self.resampling else out
        return {**{channel.array: box for channel in self.channels}, **self.measured.reads(out)}

    def run(self, view: View, out: Box) -> Output:
        labels = host(view.regions["labels"].cut(out))
        if not labels.any():
            labels = labels[:1, :1, :1]  # nothing is summed, whatever the images hold
            out = Box(out.start, triple(tuple(n + 1 for n in out.start)))
        first = self.measured
        p = None if first.intensity is None else sampled(view.regions[first.intensity], first.resampling, out)
        power = scale_power(view.values[first.limits], first.dtype) if first.limits else 0
        record: dict[str, NDArray[Any]] = {}
        for number, (channel, background) in enumerate(zip(self.channels, self.backgrounds[1:], strict=True)):
            q = sampled(view.regions[channel.array], self.resampling, out)
            powers = power, channel_power(view.values, channel, self.resampling)
            backgrounds = self.backgrounds[0], background
            sums = colocalization.channel_sums(labels, q, p, powers=powers, backgrounds=backgrounds)
            record |= {f"channel{number}_{f.name}": getattr(sums, f.name) for f in fields(sums)}
        return Output(record=record)

    def working_bytes(self, out: Triple) -> int:
        return 48 * prod(out)


def scale_power(limits: Record, dtype: str) -> int:
    """The fixed-point power of the volume's intensities."""
    return limbs.intensity_power(max(abs(float(limits["low"][0])), abs(float(limits["high"][0]))), dtype)


def channel_power(values: Mapping[str, Record], channel: ChannelImage, resampling: Resampling | None) -> int:
    """The fixed-point power of a channel; of floats it follows from their range."""
    limits = range_of(channel, resampling)
    return scale_power(values[limits], "float32" if resampling else channel.dtype) if limits else 0


def range_of(channel: ChannelImage, resampling: Resampling | None) -> str:
    """The merge that holds a channel's exact range, "" where its sums do not need one."""
    is_float = resampling is not None or np.dtype(channel.dtype).kind == "f"
    return f"{_pass_of(channel)}-range" if is_float else ""


def _pass_of(channel: ChannelImage) -> str:
    array, _, number = channel.array.partition(":")
    return f"{'channel' if array == 'input' else 'image'}-{number}"


def range_drafts(channel: ChannelImage, flow: Flow) -> tuple[Draft, ...]:
    """The exact range of a channel on its own grid, where its sums need one."""
    merge = range_of(channel, flow.resampling)
    if not merge:
        return ()
    scan, grid = _pass_of(channel), Grid(flow.input_shape, flow.block)
    return (
        Draft(name=scan, grid=grid, steps=(Range(array=channel.array, valid=None),)),
        range_draft(scan=scan, merge=merge, grid=grid),
    )


def measured_sums(flow: Flow, intensity: str) -> Sums:
    """The sums over the array that is measured: "raw", the input or the image named instead, "image" or "none"."""
    if intensity == "raw" and flow.measured is not None:
        dtype = "float32" if flow.resampling else flow.measured.dtype
        limits = range_of(flow.measured, flow.resampling)
        return Sums(intensity=flow.measured.array, dtype=dtype, resampling=flow.resampling, limits=limits)
    if flow.kind != "image" or intensity == "none":
        return Sums(intensity=None, dtype="uint8", resampling=None, limits="")
    if intensity == "image":
        return Sums(intensity=str(flow.image), dtype=flow.image_dtype, resampling=None, limits=flow.image_range)
    dtype = "float32" if flow.resampling else flow.input_dtype
    return Sums(intensity="input", dtype=dtype, resampling=flow.resampling, limits=flow.input_range)


def sums_of(record: Record) -> measure.ObjectSums:
    """What `Sums` left in a block."""
    return measure.ObjectSums(**{f.name: record[f.name] for f in fields(measure.ObjectSums)})


def channel_of(record: Record, *, number: int) -> colocalization.ChannelSums:
    """What `Channels` left in a block of one channel, by its place in the list."""
    names = (f.name for f in fields(colocalization.ChannelSums))
    return colocalization.ChannelSums(*(record[f"channel{number}_{name}"] for name in names))
