"""OME-Zarr 0.4 and 0.5, read: which array of an image is meant, and where its voxels lie; `omezarr_write.py` writes.

    image.ome.zarr/      group: axes, levels, voxel sizes, optics  open_volume(path) -> Volume of one level,
      0/ 1/ 2/           arrays, each level half the one before        channel and time point
      labels/            group: list of names
        objects/         an image like the one above, of object ids

Foreign metadata enters here and is checked here; what cannot be understood without a guess is an error that names the
remedy. Axes other than t, c, z, y, x and transformations other than scale and translation are where this ends.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chunkflow.errors import AccessError, InputError, nearest
from chunkflow.geometry.scale import Scale, um_per
from chunkflow.storage.hierarchy import (
    Attributes,
    Node,
    existing_node,
    folder_inside,
    image_node,
    series_metadata,
    zarr_kind,
)
from chunkflow.storage.optics import Optics, ome_optics, sane_optics
from chunkflow.storage.stores import Place, place_of
from chunkflow.storage.volume import Volume, open_array

log = logging.getLogger(__name__)

Format: TypeAlias = Literal["0.5", "0.4"]

ZARR_FORMAT = {"0.5": 3, "0.4": 2}
OWN = "chunkflow"
"""Attribute of an image for what OME-Zarr has no word for."""


class _Foreign(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Axis(_Foreign):
    name: str
    type: str | None = None
    unit: str | None = None


class _Transformation(_Foreign):
    type: str
    scale: list[float] | None = None
    translation: list[float] | None = None


class _Dataset(_Foreign):
    path: str
    transformations: list[_Transformation] = Field(default=[], alias="coordinateTransformations")


class _Multiscale(_Foreign):
    axes: list[_Axis] = Field(min_length=2)
    datasets: list[_Dataset] = Field(min_length=1)
    transformations: list[_Transformation] = Field(default=[], alias="coordinateTransformations")
    version: str | None = None


def open_volume(
    path: str | Place, *, channel: int | str | None = None, time: int | None = None, level: int = 0
) -> Volume:
    """Open one level, channel and time point of an OME-Zarr image (0.4, 0.5 or bioformats2raw) for reading.

    Parameters
    ----------
    path : folder of the image.
    channel, time : name or number, and number; needed where the image has several.
    level : 0 is the finest.

    Raises
    ------
    InputNotFoundError : if nothing is there.
    InputError : if it is not one image with a voxel size, or the choice is missing or not there.
    """
    node = image_node(existing_node(place_of(path)))
    volume = _level(node, channel, time, level)
    count, chosen = _count(volume, "c"), _position(volume, "c")
    return replace(volume, channel=_channel_names(node, count)[chosen], optics=_optics(node, count)[chosen])


def channel_of(volume: Volume, channel: int | str) -> Volume:
    """Another channel of the image that a volume belongs to, at the same level and time point.

    Raises
    ------
    InputError : the image has no such channel (the message lists those it has), or the array lies in no image.
    """
    above: Sequence[Place] = place_of(volume.path).parents
    folder = next((parent for parent in above if zarr_kind(parent) == "group"), None)
    if folder is None:
        raise InputError(f"{volume.path} lies in no OME-Zarr image", "Give the image, whose metadata name its channels")
    node, count = image_node(existing_node(folder)), _count(volume, "c")
    chosen = _channel_index(node, channel, count)
    others = [letter for letter in volume.axes if letter not in "zyx"]
    at = tuple(chosen if letter == "c" else place for letter, place in zip(others, volume.at, strict=True))
    return replace(volume, at=at, channel=_channel_names(node, count)[chosen], optics=_optics(node, count)[chosen])


def _level(node: Node, channel: int | str | None, time: int | None, level: int) -> Volume:
    multiscale = _multiscale(node)
    letters = _letters(node, multiscale)
    if not 0 <= level < len(multiscale.datasets):
        raise InputError(f"{node.path} has no level {level}", f"It has levels 0 to {len(multiscale.datasets) - 1}")
    scale = _scale(node, multiscale, level, letters)
    array = open_array(folder_inside(node, multiscale.datasets[level].path), scale, axes=letters, read_only=True)
    lengths = dict(zip(letters, array.array.shape, strict=True))
    chosen = {
        "c": _channel_index(node, channel, lengths.get("c")),
        "t": _time_index(node, time, lengths.get("t")),
    }
    return replace(array, at=tuple(chosen[letter] for letter in letters if letter in chosen))


def _count(volume: Volume, letter: str) -> int:
    """Length of an axis of the array, 1 where it has none."""
    return dict(zip(volume.axes, volume.array.shape, strict=True)).get(letter, 1)


def _position(volume: Volume, letter: str) -> int:
    others = [axis for axis in volume.axes if axis not in "zyx"]
    return dict(zip(others, volume.at, strict=True)).get(letter, 0)


def _optics(node: Node, channels: int) -> tuple[Optics, ...]:
    """What the image says of each channel: in attributes of our own, else in the OME-XML beside it."""
    own = node.attributes.get(OWN)
    if isinstance(own, dict) and "optics" in own:
        return sane_optics(own["optics"], channels, f"{node.path / node.metadata_file}")
    try:
        found = series_metadata(node)
        if found is not None:
            file, image = found
            return ome_optics(file.read_bytes(), image, channels, str(file))
    except (OSError, InputError, AccessError) as error:  # some stores refuse what is not there
        log.warning("%s: no optics are read (%s)", node.path, error)
    return ({},) * channels


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """All that an image holds.

    channels : their names, empty where they have none
    levels : finest first, each at the first channel and time point
    optics : what the image says of the optics of each channel
    is_labels : whether it says that its voxels are ids of objects
    """

    path: str
    channels: tuple[str, ...]
    times: int
    levels: tuple[Volume, ...]
    optics: tuple[Optics, ...]
    is_labels: bool


def image_facts(path: str | Place) -> ImageFacts:
    """What an OME-Zarr image holds; reads no voxel.

    Raises
    ------
    InputError : as `open_volume`.
    """
    node = image_node(existing_node(place_of(path)))
    count = len(_multiscale(node).datasets)
    opened = [_level(node, channel=0, time=0, level=level) for level in range(count)]
    channels = _count(opened[0], "c")
    names, optics = _channel_names(node, channels), _optics(node, channels)
    levels = tuple(replace(level, channel=names[0], optics=optics[0]) for level in opened)
    times = _count(opened[0], "t")
    return ImageFacts(str(node.path), tuple(names), times, levels, optics, "image-label" in node.ome)


def _multiscale(node: Node) -> _Multiscale:
    entries = node.ome["multiscales"]
    try:
        multiscale = _Multiscale.model_validate(entries[0] if isinstance(entries, list) and entries else entries)
    except ValidationError as error:
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"])) or "multiscales"
        raise InputError(
            f"{node.path} has OME metadata that cannot be used ({where}: {first['msg']})",
            "OME-Zarr 0.4 and 0.5 can be read; convert other versions",
        ) from error
    version = node.ome.get("version") or multiscale.version
    if version not in (None, *ZARR_FORMAT):
        raise InputError(f"{node.path} is OME-Zarr {version}; 0.4 and 0.5 can be read", "Convert it to one of them")
    return multiscale


def _letters(node: Node, multiscale: _Multiscale) -> str:
    """One letter per axis; exactly one each of y and x, at most one each of t, c, z."""
    kinds = {"time": "t", "channel": "c"}
    letters = [kinds.get(axis.type or "", axis.name.lower()) for axis in multiscale.axes]
    known = len(set(letters)) == len(letters) and set(letters) <= set("tczyx")
    if not known or not set("yx") <= set(letters):
        names = ", ".join(axis.name for axis in multiscale.axes)
        raise InputError(
            f"{node.path} has the axes {names}; only t, c, z, y, x can be read, with y and x always there",
            "Split or rename the others",
        )
    return "".join(letters)


def _scale(node: Node, multiscale: _Multiscale, level: int, letters: str) -> Scale:
    """Voxel size and origin in um; a plane counts as 1 um thick."""
    voxel, origin = _composed(node, multiscale, level, len(letters))
    um = {
        letter: _unit_um(node, axis) for letter, axis in zip(letters, multiscale.axes, strict=True) if letter in "zyx"
    }
    spatial = {
        letter: (voxel[axis] * um[letter], origin[axis] * um[letter])
        for axis, letter in enumerate(letters)
        if letter in um
    }
    (z, z0), (y, y0), (x, x0) = (spatial.get(letter, (1.0, 0.0)) for letter in "zyx")
    try:
        return Scale((z, y, x), (z0, y0, x0))
    except InputError as error:
        raise InputError(f"{node.path}: {error.what}", f"Correct {node.metadata_file}") from error


def _composed(node: Node, multiscale: _Multiscale, level: int, axes: int) -> tuple[list[float], list[float]]:
    """Scale and translation of a level, with the transformations of the whole image applied after its own."""
    voxel, origin = [1.0] * axes, [0.0] * axes
    has_scale = False
    for transformation in (*multiscale.datasets[level].transformations, *multiscale.transformations):
        values = {"scale": transformation.scale, "translation": transformation.translation}.get(transformation.type)
        if transformation.type == "identity":
            continue
        if values is None or len(values) != axes:
            raise InputError(
                f"{node.path} has a {transformation.type!r} transformation that is not {axes} numbers of scale or"
                " translation",
                f"Correct {node.metadata_file}",
            )
        if transformation.type == "scale":
            has_scale = True
            voxel = [v * f for v, f in zip(voxel, values, strict=True)]
            origin = [o * f for o, f in zip(origin, values, strict=True)]
        else:
            origin = [o + t for o, t in zip(origin, values, strict=True)]
    if not has_scale:
        raise InputError(
            f"{node.path} states no voxel size for level {level}",
            f"Add a scale transformation to {node.metadata_file}, or import the original with --voxel-um Z Y X",
        )
    return voxel, origin


def _unit_um(node: Node, axis: _Axis) -> float:
    if axis.unit is None:
        raise InputError(
            f"{node.path} names no unit for axis {axis.name}, so its voxel size is not known",
            f'Add "unit": "micrometer" (or what it is) to the space axes in {node.metadata_file}',
        )
    um = um_per(axis.unit)
    if um is None:
        raise InputError(
            f"{node.path} has the unit {axis.unit!r} for axis {axis.name}, which is not a known length",
            f"Use micrometer, nanometer or millimeter in {node.metadata_file}",
        )
    return um


def _channel_names(node: Node, count: int) -> list[str]:
    omero = node.ome.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    if not isinstance(channels, list) or len(channels) != count:
        return [""] * count
    return [str(channel.get("label") or "") if isinstance(channel, dict) else "" for channel in channels]


def _channel_index(node: Node, channel: int | str | None, length: int | None) -> int:
    count = length or 1
    names = _channel_names(node, count)
    listed = ", ".join(f"{index} ({name})" if name else str(index) for index, name in enumerate(names))
    if channel is None:
        if count > 1:
            raise InputError(
                f"{node.path} holds {count} channels: {listed}",
                "Choose one with channel: NAME or NUMBER below input: in the pipeline, or --set input.channel=NAME",
            )
        return 0
    if isinstance(channel, str) and names.count(channel) == 1:
        return names.index(channel)
    if isinstance(channel, str) and not channel.isdigit():
        remedy = nearest(channel, filter(None, names)) if any(names) else f"Choose by number: {listed}"
        raise InputError(f"{node.path} has no one channel named {channel!r}", remedy)
    if not 0 <= int(channel) < count:
        raise InputError(f"{node.path} has no channel {channel}", f"It holds: {listed}")
    return int(channel)


def _time_index(node: Node, time: int | None, length: int | None) -> int:
    count = length or 1
    if time is None:
        if count > 1:
            raise InputError(
                f"{node.path} holds {count} time points: 0 to {count - 1}",
                "Choose one with time: NUMBER below input: in the pipeline, or --set input.time=NUMBER, "
                "or run each with time: all",
            )
        return 0
    if not 0 <= time < count:
        raise InputError(f"{node.path} has no time point {time}", f"It holds 0 to {count - 1}")
    return time


@dataclass(frozen=True, slots=True)
class Channel:
    """How viewers name and show one channel."""

    name: str
    window: tuple[float, float]
    """Values shown as black and as full colour."""
    color: str | None = None
    """RRGGBB; None for white where there is one channel, else for the next of a fixed list."""
    limits: tuple[float, float] | None = None
    """Ends of the slider, the least and the largest value; None for those of the window."""


def shown_channels(path: str | Place) -> tuple[Channel, ...]:
    """How viewers show the channels of an image, by its metadata; none where they say nothing that can be used."""
    omero = image_node(existing_node(place_of(path))).ome.get("omero")
    entries = omero.get("channels") if isinstance(omero, dict) else None
    try:
        return tuple(_shown(entry) for entry in entries or ())
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()


def _shown(entry: Attributes) -> Channel:
    window = entry["window"]
    low, high, least, largest = (float(window[name]) for name in ("start", "end", "min", "max"))
    color = str(entry.get("color") or "FFFFFF").lstrip("#")
    return Channel(str(entry.get("label") or ""), (low, high), color, (least, largest))
