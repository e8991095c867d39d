"""What a pipeline reads beside its input: other channels of the image, or of another, and parent regions.

    measure: {channels: [dapi]}       -> "input:1", the array of the input at another channel
    measure: {image: raw.zarr}        -> "input_image:0", an image on the input's grid: OME-Zarr or TIFF
    predict: {channels: [mito, dapi]}  -> "input:0" and "input:1" (see `plan.network_channels`)
    measure: {regions: cells.zarr}    -> "input_regions", a label image on the input's grid: OME-Zarr or TIFF
    measure: {regions: RoiSet.zip}    -> polygons, constants of the passes that fill them

What does not fit the input is refused here, before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from chunkflow.errors import ConfigError, InputError, UsageError
from chunkflow.geometry.box import Triple
from chunkflow.plan.mask_values import warnings_of_mask
from chunkflow.plan.network_channels import network_channels, network_images
from chunkflow.plan.opened import (
    Named,
    Opened,
    channel_number,
    channels_in,
    elsewhere,
    identity_of,
    open_on_grid,
    part_of,
    whole_of,
)
from chunkflow.plan.options import InputOptions
from chunkflow.plan.pipeline import Pipeline
from chunkflow.stages.base import ChannelImage, Record, RegionImage
from chunkflow.stages.measure import Measure
from chunkflow.storage import rois
from chunkflow.storage.column_units import UNITS
from chunkflow.storage.inventory import missing_chunks
from chunkflow.storage.omezarr import channel_of
from chunkflow.storage.stores import place_of
from chunkflow.storage.tiff_stack import SUFFIXES
from chunkflow.storage.volume import Volume

REGIONS = "input_regions"
IMAGE = "input_image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Images beside the input.

    arrays : what is read, by the name that steps read it by
    identities : what tells each of them from a changed one, as JSON values
    measured : the channel that is measured instead of the input, None where it is the input
    channels, network_channels, regions : what stages are told of them
    warnings : sentences for the user
    """

    arrays: Mapping[str, Opened] = field(default_factory=dict)
    identities: Mapping[str, Any] = field(default_factory=dict)
    measured: ChannelImage | None = None
    channels: tuple[ChannelImage, ...] = ()
    network_channels: tuple[ChannelImage, ...] = ()
    regions: RegionImage | None = None
    warnings: tuple[str, ...] = ()


def open_beside(pipeline: Pipeline, source: Volume, input_identity: Mapping[str, Any]) -> Beside:
    """Open what the stages of a pipeline name beside the input, and look whether an input that is called a mask is one.

    Raises
    ------
    ConfigError : channels are named that the image does not have, or of an input that is no image.
    InputNotFoundError, InputError : an image or regions that are not there, or lie on another grid; regions that are no
        labels.
    UsageError : a mask of grey values.
    """
    options = pipeline.input
    stage = next((stage for stage in pipeline.stages if isinstance(stage, Measure)), Measure())
    _check_kind(stage, options.kind)
    channels = _channels(stage, pipeline, source, input_identity)
    image, regions = _image(stage, options, source), _regions(stage, options, source)
    return Beside(
        arrays={**channels.arrays, **image.arrays, **regions.arrays},
        identities={**channels.identities, **image.identities, **regions.identities},
        measured=image.measured,
        channels=(*channels.channels, *image.channels),
        network_channels=channels.network_channels,
        regions=regions.regions,
        warnings=(*warnings_of_mask(source, options), *channels.warnings, *image.warnings, *regions.warnings),
    )


def _check_kind(stage: Measure, kind: str) -> None:
    if kind == "image":
        return
    if stage.channels and stage.image is None:
        raise ConfigError(
            f"measure: channels are those of an image, and the input is {kind}",
            "Name the image that they are of with measure: {image: PATH}, or segment it in the same pipeline",
        )
    if stage.image is not None and stage.intensity == "image":
        raise ConfigError(
            f"measure: intensity image is what the segmentation saw, and the input is {kind}",
            f"Leave intensity out: what is measured then is {stage.image}",
        )


def _channels(stage: Measure, pipeline: Pipeline, source: Volume, input_identity: Mapping[str, Any]) -> Beside:
    """Channels of the input, which objects are measured in and networks see."""
    volumes = _channel_volumes(stage.channels, source) if stage.image is None else {}
    seen = network_channels(pipeline, source)
    opened = {**volumes, **dict(seen)}
    others = [volume for name, volume in opened.items() if volume.at != source.at or name in volumes]
    return Beside(
        arrays=opened,
        # Channels lie in one array, so its files, which the input's identity tells of, are those of all of them.
        identities={name: {"input": input_identity, "at": list(v.at)} for name, v in opened.items()},
        channels=_channel_images(volumes),
        network_channels=network_images(seen),
        warnings=_missing(others, pipeline.input.missing),
    )


def _channel_volumes(channels: Sequence[str | int], source: Volume) -> dict[str, Volume]:
    """The channels by the names that steps read them by: "input:" and their number."""
    found: dict[str, Volume] = {}
    for channel in channels:
        volume = channel_of(source, channel)
        name = f"input:{channel_number(volume)}"
        if name in found:
            raise _twice(channel)
        found[name] = volume
    return found


def _twice(channel: str | int) -> ConfigError:
    return ConfigError(f"measure: channel {channel!r} stands twice in channels", "Keep one of them")


def _image(stage: Measure, options: InputOptions, source: Volume) -> Beside:
    """The channels of the image that is measured instead of the input."""
    if stage.image is None:
        return Beside()
    named, whole = Named(path=stage.image, called="measure: the image"), whole_of(source)
    names = channels_in(named)
    if not stage.channels and len(names) > 1:
        listed = ", ".join(f"{number} ({name})" if name else str(number) for number, name in enumerate(names))
        raise ConfigError(
            f"{named} holds {len(names)} channels: {listed}",
            "Name those to measure, that of the intensity first, as in measure: {channels: [0, 1]}",
        )
    opened: dict[str, Opened] = {}
    for channel in stage.channels or (0,):
        one = open_on_grid(named, whole, time=options.time_point, channel=channel)
        name = f"{IMAGE}:{channel_number(one)}"
        if name in opened:
            raise _twice(channel)
        opened[name] = one
    arrays = {name: part_of(one, source) for name, one in opened.items()}
    images = _channel_images(arrays, place_of(named.path).name.partition(".")[0] if len(names) == 1 else "")
    is_measured = stage.intensity == "raw"
    first = next(iter(opened.values()))
    return Beside(
        arrays=arrays,
        identities={name: identity_of(one) for name, one in arrays.items()},
        measured=replace(images[0], name=_title(named.path, first, len(names))) if is_measured else None,
        channels=images[1:] if is_measured else images,
        warnings=(
            *elsewhere(named, first, whole),
            *_missing([one for one in arrays.values() if isinstance(one, Volume)], options.missing),
        ),
    )


def _title(path: str, opened: Opened, count: int) -> str:
    """What a table calls an image: its path from the folder or file that has an ending on, and the channel."""
    parts = [part for part in place_of(path).parts if part.strip("/")]
    first = next((k for k, part in enumerate(parts) if part.lower().endswith((".zarr", *SUFFIXES))), len(parts) - 1)
    title = "/".join(parts[first:])
    return title if count == 1 else f"{title}, {opened.channel or f'channel {channel_number(opened)}'}"


def _missing(volumes: Iterable[Volume], allowed: str) -> tuple[str, ...]:
    """What is said of channels that lack chunks."""
    found = []
    for volume in volumes:
        missing = missing_chunks(volume)
        lacking = f"{missing} chunks of channel {channel_number(volume)} of {volume.path} are missing"
        if missing and allowed == "fail":
            raise UsageError(lacking, "Restore them, or read them as zeros with missing: auto")
        if missing:
            found.append(f"{lacking} and read as zeros")
    return tuple(found)


def _channel_images(volumes: Mapping[str, Opened], called: str = "") -> tuple[ChannelImage, ...]:
    """Channels with names that are safe in a column, no two alike: their own, or `called`; else their number."""
    numbers = {name: str(channel_number(volume)) for name, volume in volumes.items()}
    safe = {name: _safe(called or volume.channel) or numbers[name] for name, volume in volumes.items()}
    lower = [word.lower() for word in safe.values()]
    named = {name: word if lower.count(word.lower()) == 1 else f"{word}_{numbers[name]}" for name, word in safe.items()}
    if len({word.lower() for word in named.values()}) < len(named):  # "a", "a" and "a_1"
        named = numbers
    return tuple(
        ChannelImage(array=name, dtype=volume.dtype.name, name=named[name]) for name, volume in volumes.items()
    )


def _safe(channel: str) -> str:
    """Letters, digits and underscores; nothing where it ends as columns with a unit do."""
    words = re.findall(r"[^\W_]+", channel)
    return "" if words and words[-1] in UNITS else "_".join(words)


def _regions(stage: Measure, options: InputOptions, source: Volume) -> Beside:
    """Parent regions: polygons, or a label image on the grid of the input."""
    if stage.regions is None:
        return Beside()
    if source.window is not None:
        raise ConfigError(
            f"measure: the regions {stage.regions} lie on the whole image, and a part of it is run",
            "Leave them out with --set measure.regions=null, or run the whole image",
        )
    if place_of(stage.regions).suffix.lower() in rois.SUFFIXES:
        return Beside(regions=_polygons(stage.regions, source.shape, options.time_point))
    named = Named(
        path=stage.regions,
        called="measure: the regions",
        formats="an OME-Zarr label image, a TIFF stack of labels, or the RoiSet.zip of ImageJ's ROI Manager",
    )
    opened = open_on_grid(named, source, time=options.time_point)
    if opened.dtype.kind not in "iub":
        raise InputError(f"{named} hold {opened.dtype}, not labels", "Save region ids as whole numbers")
    return Beside(
        arrays={REGIONS: opened},
        identities={REGIONS: identity_of(opened)},
        regions=RegionImage(array=REGIONS),
        warnings=elsewhere(named, opened, source),
    )


def _polygons(path: str, shape: Triple, time: int | None) -> RegionImage:
    """ROIs as polygons; those of other time points are left out, and keep their numbers."""
    found = rois.read_rois(path)
    chosen = [(k, roi) for k, roi in enumerate(found, start=1) if roi.time is None or roi.time == (time or 0)]
    if not chosen:
        raise InputError(f"measure: no ROI of {path} lies at time point {time or 0}", "Check their positions")
    for _, roi in chosen:
        _check_place(path, roi, shape)
    rings = [ring for _, roi in chosen for ring in roi.rings]
    polygons: Record = {
        "points": np.concatenate(rings),
        "ring_start": np.cumsum([0, *map(len, rings)]),
        "region_start": np.cumsum([0, *(len(roi.rings) for _, roi in chosen)]),
        "region": np.array([k for k, _ in chosen], np.uint32),
        "plane": np.array([-1 if roi.plane is None else roi.plane for _, roi in chosen], np.int64),
    }
    return RegionImage(polygons=polygons, names=tuple(roi.name for roi in found))


def _check_place(path: str, roi: rois.Roi, shape: Triple) -> None:
    if roi.plane is not None and roi.plane >= shape[0]:
        raise InputError(
            f"measure: ROI {roi.name} of {path} lies on plane {roi.plane + 1}, and the input has {shape[0]}",
            "Give the ROIs of this image",
        )
    (y0, x0), (y1, x1) = roi.corners.min(axis=0), roi.corners.max(axis=0)
    if y1 <= 0 or x1 <= 0 or y0 >= shape[1] or x0 >= shape[2]:
        raise InputError(
            f"measure: ROI {roi.name} of {path} spans y {y0:g} to {y1:g} and x {x0:g} to {x1:g}, outside the input's "
            f"planes of {shape[1]} x {shape[2]} voxels",
            "Give the ROIs of this image",
        )
