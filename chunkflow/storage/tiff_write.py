"""TIFF out: voxels with their size, origin, names, colours and contrast, as ImageJ and Fiji read them.

    ImageJ hyperstack    8 and 16 bits unsigned, 32 bits float, up to 4 GB: opens in ImageJ as it is
    OME-TIFF             everything else, as BigTIFF: Fiji opens it through Bio-Formats

Planes are written as they come, so a file of any length needs the memory of one. ImageJ keeps an origin in voxels (the
voxel that lies at 0), a range and a table of colours for each channel, and a label for each plane, which is where the
name of its channel goes. OME-XML has a word for each of these but the contrast.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from chunkflow.errors import UsageError
from chunkflow.geometry.box import Triple
from chunkflow.geometry.scale import Scale
from chunkflow.storage.files import atomic_path
from chunkflow.storage.omezarr import Channel

IMAGEJ_BYTES = 2**32 - 2**25
"""Voxels that still fit beside the tags of a file with offsets of 32 bits."""
_IMAGEJ_TYPES = ("uint8", "uint16", "float32")
_TYPES = (*_IMAGEJ_TYPES, "int8", "int16", "int32", "uint32", "float64")


def stored_type(dtypes: Sequence[np.dtype[Any]], largest: int | None = None) -> np.dtype[Any]:
    """One type that holds the voxels of all channels without loss: their own, else the first that ImageJ knows.

    Parameters
    ----------
    largest : the largest value of the last channel, which is of labels; it counts instead of the type.

    Raises
    ------
    UsageError : there is none that TIFF readers know.
    """
    images = list(dtypes) if largest is None else list(dtypes[:-1])
    own = [images[0].name] if len(set(images)) == 1 and images[0].name in _TYPES else []
    # labels alone never become floats: that Fiji shows 3.0 for object 3 is for want of another type of 32 bits
    known = own + [name for name in _TYPES if images or np.dtype(name).kind == "u"]
    for name in known:
        found = np.dtype(name)
        if all(_holds(found, dtype) for dtype in images) and (largest is None or largest <= _most(found)):
            return found
    raise UsageError(
        f"no TIFF reader knows voxels of {', '.join(dtype.name for dtype in dtypes)} in one file",
        "Export fewer channels, or open the OME-Zarr",
    )


def _holds(stored: np.dtype[Any], dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f" or stored.kind == "u":
        return np.can_cast(dtype, stored)
    return int(np.iinfo(dtype).max) <= _most(stored)  # numpy casts 64 bits to float64, which has 53


def _most(dtype: np.dtype[Any]) -> int:
    """The whole numbers from 0 that a type holds, up to this one."""
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" else 2 ** (np.finfo(dtype).nmant + 1)


def tiff_kind(dtype: np.dtype[Any], shape: Sequence[int]) -> Literal["imagej", "ome"]:
    """Which of the two a file of such voxels is."""
    fits = prod(shape) * dtype.itemsize <= IMAGEJ_BYTES
    return "imagej" if fits and dtype.name in _IMAGEJ_TYPES else "ome"


def write_tiff_planes(
    path: str | Path,
    planes: Iterator[NDArray[Any]],
    *,
    shape: Triple,
    dtype: np.dtype[Any],
    scale: Scale,
    channels: Sequence[Channel],
) -> None:
    """Write (Y, X) planes, for each z those of all channels one after the other.

    Parameters
    ----------
    shape : z, y, x.
    dtype : of the planes, from `stored_type`.

    Raises
    ------
    DiskFullError : no space is left.
    """
    full = (shape[0], len(channels), *shape[1:])
    _, y, x = scale.voxel_um
    imagej = tiff_kind(dtype, full) == "imagej"
    metadata = _imagej(shape, scale, channels) if imagej else _ome(shape, scale, channels)
    with atomic_path(path) as partial:
        tifffile.imwrite(
            partial,
            planes,
            shape=full,
            dtype=dtype,
            imagej=imagej,
            ome=not imagej,
            bigtiff=not imagej,
            photometric="minisblack",
            resolution=(1 / x, 1 / y) if imagej else (1e4 / x, 1e4 / y),
            resolutionunit="NONE" if imagej else "CENTIMETER",
            metadata=metadata,
        )


def _imagej(shape: Triple, scale: Scale, channels: Sequence[Channel]) -> dict[str, Any]:
    origin = [-t / v for t, v in zip(scale.translation_um, scale.voxel_um, strict=True)]
    metadata: dict[str, Any] = {
        "axes": "ZCYX",
        "spacing": scale.voxel_um[0],
        "unit": "micron",
        "min": channels[0].window[0],
        "max": channels[0].window[1],
        "Labels": [channel.name for _ in range(shape[0]) for channel in channels],
        **{f"{letter}origin": value for letter, value in zip("zyx", origin, strict=True) if value},
    }
    if len(channels) > 1:
        metadata["mode"] = "composite"
        metadata["Ranges"] = tuple(float(end) for channel in channels for end in channel.window)
    if len(channels) > 1 or (channels[0].color or "FFFFFF") != "FFFFFF":
        metadata["LUTs"] = [_table(channel.color or "FFFFFF") for channel in channels]
    return metadata


def _table(color: str) -> NDArray[np.uint8]:
    """(3, 256), from black to the colour."""
    full = np.array([int(color[k : k + 2], 16) for k in (0, 2, 4)])
    table: NDArray[np.uint8] = np.rint(np.linspace(0, 1, 256) * full[:, None]).astype(np.uint8)
    return table


def _ome(shape: Triple, scale: Scale, channels: Sequence[Channel]) -> dict[str, Any]:
    count = shape[0] * len(channels)
    metadata: dict[str, Any] = {
        "axes": "ZCYX",
        "Channel": {
            "Name": [channel.name for channel in channels],
            "Color": [_signed(channel.color or "FFFFFF") for channel in channels],
        },
    }
    for letter, voxel in zip("ZYX", scale.voxel_um, strict=True):
        metadata |= {f"PhysicalSize{letter}": voxel, f"PhysicalSize{letter}Unit": "\u00b5m"}
    if any(scale.translation_um):
        z, y, x = scale.translation_um
        heights = [z + plane * scale.voxel_um[0] for plane in range(shape[0]) for _ in channels]
        metadata["Plane"] = {
            "PositionX": [x] * count,
            "PositionXUnit": ["\u00b5m"] * count,
            "PositionY": [y] * count,
            "PositionYUnit": ["\u00b5m"] * count,
            "PositionZ": heights,
            "PositionZUnit": ["\u00b5m"] * count,
        }
    return metadata


def _signed(color: str) -> int:
    """RGBA as OME-XML has it, a signed integer of 32 bits."""
    value = int(color, 16) << 8 | 0xFF
    return value - 2**32 if value >= 2**31 else value
