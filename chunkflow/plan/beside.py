"""What a pipeline reads beside its input: other channels of the image, and parent regions.

    measure: {channels: [dapi]}       -> "input:1", the array of the input at another channel
    measure: {regions: cells.zarr}    -> "input_regions", a label image on the input's grid: OME-Zarr or TIFF
    measure: {regions: RoiSet.zip}    -> polygons, constants of the passes that fill them

What does not fit the input is refused here, before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chunkflow.errors import ConfigError, InputError, InputNotFoundError, UsageError
from chunkflow.geometry.box import Triple
from chunkflow.plan.pipeline import Pipeline
from chunkflow.stages.base import ChannelImage, Record, RegionImage
from chunkflow.stages.measure import Measure
from chunkflow.storage import rois, tiff_stack
from chunkflow.storage.hierarchy import zarr_kind
from chunkflow.storage.identity import identity
from chunkflow.storage.inventory import missing_chunks
from chunkflow.storage.omezarr import channel_of, image_facts, open_volume
from chunkflow.storage.stores import place_of
from chunkflow.storage.tables import UNITS
from chunkflow.storage.tiff_stack import TiffStack, open_tiff_stack
from chunkflow.storage.volume import Volume, open_array

REGIONS = "input_regions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Images beside the input.

    arrays : what is read, by the name that steps read it by
    identities : what tells each of them from a changed one, as JSON values
    channels, regions : what stages are told of them
    warnings : sentences for the user
    """

    arrays: Mapping[str, Volume | TiffStack] = field(default_factory=dict)
    identities: Mapping[str, Any] = field(default_factory=dict)
    channels: tuple[ChannelImage, ...] = ()
    regions: RegionImage | None = None
    warnings: tuple[str, ...] = ()


def open_beside(pipeline: Pipeline, source: Volume, input_identity: Mapping[str, Any]) -> Beside:
    """Open what the stages of a pipeline name beside the input.

    Raises
    ------
    ConfigError : channels are named that the input does not have, or of an input that is no image.
    InputNotFoundError, InputError : regions that are not there, are no labels, or lie on another grid.
    """
    stage = next((stage for stage in pipeline.stages if isinstance(stage, Measure)), None)
    if stage is None:
        return Beside()
    if stage.channels and pipeline.input.kind != "image":
        raise ConfigError(
            f"measure: channels are those of an image, and the input is {pipeline.input.kind}",
            "Leave channels out, or segment the image in the same pipeline",
        )
    volumes = _channel_volumes(stage.channels, source)
    if stage.regions is not None and source.window is not None:
        raise ConfigError(
            f"measure: the regions {stage.regions} lie on the whole image, and a part of it is run",
            "Leave them out with --set measure.regions=null, or run the whole image",
        )
    arrays: dict[str, Volume | TiffStack] = dict(volumes)
    # Channels lie in one array, so its files, which the input's identity tells of, are those of all of them.
    identities: dict[str, Any] = {name: {"input": input_identity, "at": list(v.at)} for name, v in volumes.items()}
    regions, warnings = None, _missing(volumes, pipeline.input.missing)
    if stage.regions is not None and Path(stage.regions).suffix.lower() in rois.SUFFIXES:
        regions = _polygons(stage.regions, source.shape, pipeline.input.time_point)
    elif stage.regions is not None:
        regions, opened = RegionImage(array=REGIONS), _open_regions(stage.regions, source, pipeline.input.time_point)
        warnings += _moved(stage.regions, opened, source)
        arrays[REGIONS] = opened
        identities[REGIONS] = identity(opened) if isinstance(opened, Volume) else opened.identity()
    return Beside(
        arrays=arrays,
        identities=identities,
        channels=_channel_images(volumes),
        regions=regions,
        warnings=warnings,
    )


def _channel_volumes(channels: Sequence[str | int], source: Volume) -> dict[str, Volume]:
    """The channels by the names that steps read them by: "input:" and their number."""
    found: dict[str, Volume] = {}
    for channel in channels:
        volume = channel_of(source, channel)
        name = f"input:{_number(volume)}"
        if name in found:
            raise ConfigError(f"measure: channel {channel!r} stands twice in channels", "Keep one of them")
        found[name] = volume
    return found


def _missing(volumes: Mapping[str, Volume], allowed: str) -> tuple[str, ...]:
    """What is said of channels that lack chunks."""
    found = []
    for volume in volumes.values():
        missing = missing_chunks(volume)
        lacking = f"{missing} chunks of channel {_number(volume)} of {volume.path} are missing"
        if missing and allowed == "fail":
            raise UsageError(lacking, "Restore them, or read them as zeros with missing: auto")
        if missing:
            found.append(f"{lacking} and read as zeros")
    return tuple(found)


def _number(volume: Volume) -> int:
    others = (letter for letter in volume.axes if letter not in "zyx")
    return dict(zip(others, volume.at, strict=True)).get("c", 0)


def _channel_images(volumes: Mapping[str, Volume]) -> tuple[ChannelImage, ...]:
    """Channels with names that are safe in a column, no two alike."""
    numbers = {name: str(_number(volume)) for name, volume in volumes.items()}
    safe = {name: _safe(volume.channel) or numbers[name] for name, volume in volumes.items()}
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


def _open_regions(path: str, source: Volume, time: int | None) -> Volume | TiffStack:
    """A label image on the grid of the input."""
    opened = _label_image(path, source, time)
    if opened.dtype.kind not in "iub":
        raise InputError(
            f"measure: the regions {path} hold {opened.dtype}, not labels", "Save region ids as whole numbers"
        )
    if opened.shape != source.shape:
        raise InputError(
            f"measure: the regions {path} have shape {opened.shape}, the input {source.shape}",
            "Give regions on the input's grid, one label per voxel",
        )
    if isinstance(opened, Volume):
        voxels = zip(opened.scale.voxel_um, source.scale.voxel_um, strict=True)
        if any(abs(a - b) > 1e-3 * b for a, b in voxels):
            raise InputError(
                f"measure: the regions {path} have voxels of {opened.scale.voxel_um} um, the input of "
                f"{source.scale.voxel_um}",
                "Give regions on the input's grid, or correct their voxel size",
            )
    return opened


def _moved(path: str, opened: Volume | TiffStack, source: Volume) -> tuple[str, ...]:
    """What is said of regions whose metadata put them elsewhere: many programs write no origin."""
    if not isinstance(opened, Volume):
        return ()
    here, there = source.scale.translation_um, opened.scale.translation_um
    apart = zip(here, there, source.scale.voxel_um, strict=True)
    if all(abs(a - b) <= 0.5 * v for a, b, v in apart):
        return ()
    return (f"the regions {path} begin at {there} um and the input at {here} um; they are taken voxel for voxel",)


def _label_image(path: str, source: Volume, time: int | None) -> Volume | TiffStack:
    place = place_of(path)
    if zarr_kind(place) is None and not place.exists():
        raise InputNotFoundError(f"measure: the regions {path} do not exist", "Check the path")
    if place.is_file():
        if place.suffix.lower() in tiff_stack.SUFFIXES:
            return open_tiff_stack(path)
        raise InputError(
            f"measure: the regions {path} are no format that can be read",
            "Give an OME-Zarr label image, a TIFF stack of labels, or the RoiSet.zip of ImageJ's ROI Manager",
        )
    if zarr_kind(place) == "array":  # without OME metadata: its shape says enough
        return open_array(path, source.scale, axes=None, read_only=True)
    facts = image_facts(path)
    level = next((k for k, volume in enumerate(facts.levels) if volume.shape == source.shape), 0)
    return open_volume(path, time=time if facts.times > 1 else None, level=level)


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
