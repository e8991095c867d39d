"""What a pipeline names beside its input, opened: an OME-Zarr image, a bare zarr array, or a TIFF, on the input's grid.

A user's mask, parent regions and the image that `measure` looks at come this way, so all take the same files and are
refused for the same reasons, before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from chunkflow.errors import InputError, InputNotFoundError
from chunkflow.storage.hierarchy import zarr_kind
from chunkflow.storage.identity import identity
from chunkflow.storage.omezarr import channel_of, image_facts, open_volume
from chunkflow.storage.stores import place_of
from chunkflow.storage.tiff_stack import TiffStack, is_tiff, local_tiff, open_tiff_stack
from chunkflow.storage.volume import Volume, open_array

Opened: TypeAlias = Volume | TiffStack


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An image as the pipeline names it.

    called : what it is to the pipeline, for messages: "the mask"
    formats : what it may be, for messages
    """

    path: str
    called: str
    formats: str = "an OME-Zarr image or a TIFF stack"

    def __str__(self) -> str:
        return f"{self.called} {self.path}"


def whole_of(source: Volume) -> Volume:
    """The volume that an input is a part of; itself where it is none."""
    if source.window is None:
        return source
    moved = source.scale.moved([-n for n in source.window.start])
    return replace(source, window=None, scale=moved)


def open_on_grid(named: Named, whole: Volume, *, time: int | None, channel: int | str | None = None) -> Opened:
    """Open an image and compare its shape and voxels with the input's; of the levels it has, the one of that shape.

    Parameters
    ----------
    whole : the input, all of it.
    time : the time point of the input; of no meaning where the image has one alone.
    channel : needed where it has several.

    Raises
    ------
    InputNotFoundError, InputError : it is not there, is no such image, or lies on another grid.
    """
    opened = _opened(named, whole, time, channel)
    if opened.shape != whole.shape:
        raise InputError(
            f"{named}: shape {opened.shape}, the input {whole.shape}",
            "Give one on the input's grid, with a voxel for each of its voxels",
        )
    if isinstance(opened, Volume) and not _alike(opened.scale.voxel_um, whole.scale.voxel_um):
        raise InputError(
            f"{named}: voxels of {opened.scale.voxel_um} um, the input of {whole.scale.voxel_um}",
            "Give one on the input's grid, or correct its voxel size",
        )
    return opened


def _alike(voxel_um: tuple[float, ...], other_um: tuple[float, ...]) -> bool:
    return all(abs(a - b) <= 1e-3 * b for a, b in zip(voxel_um, other_um, strict=True))


def _opened(named: Named, whole: Volume, time: int | None, channel: int | str | None) -> Opened:
    kind = _kind(named)
    if kind == "tiff":
        image = local_tiff(named.path)
        return open_tiff_stack(named.path, channel=channel, time=time if "t" in image.axes else None)
    if kind == "array":  # without OME metadata: its shape says enough
        if channel not in (None, 0, "0"):
            raise InputError(f"{named}: an array that names no channels, and {channel!r} is asked for", "Leave it out")
        return open_array(named.path, whole.scale, axes=None, read_only=True)
    facts = image_facts(named.path)
    level = next((k for k, volume in enumerate(facts.levels) if volume.shape == whole.shape), 0)
    point = time if facts.times > 1 else None
    if isinstance(channel, str):  # by name, or a number in words
        return channel_of(open_volume(named.path, channel=0, time=point, level=level), channel)
    return open_volume(named.path, channel=channel, time=point, level=level)


def _kind(named: Named) -> str:
    """tiff, array or group.

    Raises
    ------
    InputNotFoundError, InputError : it is not there, or none of them.
    """
    place = place_of(named.path)
    found = zarr_kind(place)
    if found is not None:
        return found
    if not place.exists():
        raise InputNotFoundError(f"{named}: there is no such file or folder", "Check the path")
    if place.is_file() and is_tiff(named.path):
        return "tiff"
    raise InputError(f"{named}: no format that can be read", f"Give {named.formats}")


def channels_in(named: Named) -> tuple[str, ...]:
    """Names of the channels of an image, "" for those that have none.

    Raises
    ------
    InputNotFoundError, InputError : it is not there, or cannot be read.
    """
    kind = _kind(named)
    if kind == "group":
        return image_facts(named.path).channels or ("",)
    if kind == "array":
        return ("",)
    image = local_tiff(named.path)
    return image.channels if "c" in image.axes else ("",)


def channel_number(opened: Opened) -> int:
    """Which channel of its image was opened."""
    others = (letter for letter in opened.axes if letter not in "zyx")
    return dict(zip(others, opened.at, strict=True)).get("c", 0)


def identity_of(opened: Opened) -> Mapping[str, Any]:
    """What tells an image from a changed one, as JSON values."""
    return identity(opened) if isinstance(opened, Volume) else opened.identity()


def part_of(opened: Opened, source: Volume) -> Opened:
    """The part of an image on the whole grid that an input is of it."""
    return opened if source.window is None else opened.cropped(source.window)


def elsewhere(named: Named, opened: Opened, whole: Volume) -> tuple[str, ...]:
    """What is said of an image whose metadata put it elsewhere: many programs write no origin."""
    if isinstance(opened, TiffStack):
        if opened.voxel_um is None or _alike(opened.voxel_um, whole.scale.voxel_um):
            return ()
        return (f"{named}: voxels of {opened.voxel_um} um, the input of {whole.scale.voxel_um}; taken voxel for voxel",)
    here, there = whole.scale.translation_um, opened.scale.translation_um
    apart = zip(here, there, whole.scale.voxel_um, strict=True)
    if all(abs(a - b) <= 0.5 * v for a, b, v in apart):
        return ()
    return (f"{named}: begins at {there} um, the input at {here} um; taken voxel for voxel",)
