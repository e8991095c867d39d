"""The voxel size that a TIFF states, in um, and the sentence that says where it was found or why there is none.

OME-XML, ImageJ, tifffile and the plain resolution tags each have their own way. A size is used when it covers z, y and
x; nothing is guessed, because a wrong voxel size is wrong in every number that follows:

- 1.0 on every axis is what software writes when it does not know;
- ImageJ leaves `spacing` out both when it is 1 and when it is not known;
- up to 1200 whole dots per inch are for a printer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import tifffile

from chunkflow.geometry.scale import MicrometerTriple, um_per
from chunkflow.storage.image_source import is_size, no_length, unknown_unit

_UNIT_OF_TAG = {2: "inch", 3: "cm"}
_PRINTER_DPI = 1200
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


@dataclass(frozen=True, slots=True)
class FoundScale:
    """What a file says about its voxel size."""

    voxel_um: MicrometerTriple | None
    """z, y, x in um; None where the file does not say, or cannot mean it."""
    source: str
    """Where it was found, or why it was not."""


def found_scale(file: tifffile.TiffFile, series: int, planes: int) -> FoundScale:
    """Voxel size of one image of a TIFF with that many planes along z."""
    if file.is_ome:
        pixels = ome_pixels(file, series)
        units = [str(pixels.get(f"PhysicalSize{letter}Unit") or "") for letter in "ZYX"]
        return _settled(_ome_sizes(pixels), "OME-XML PhysicalSize", planes, units)
    if file.imagej_metadata:
        units = _described_units(file.imagej_metadata)
        return _settled(_described_sizes(file, file.imagej_metadata), "ImageJ spacing and resolution", planes, units)
    described = (file.shaped_metadata or ({},))[0]
    units = _described_units(described)
    if um_per(str(described.get("unit", ""))) is not None:
        return _settled(_described_sizes(file, described), "tifffile spacing and resolution", planes, units)
    return _settled(_resolution_sizes(file, None), "TIFF resolution tags", planes, units)


def found_translation(file: tifffile.TiffFile, series: int, voxel_um: MicrometerTriple | None) -> MicrometerTriple:
    """Centre of voxel 0 in um: ImageJ's origin, which is the voxel at 0, or where OME-XML puts the first plane.

    Zero where the file does not say, says it in no unit of length, or its voxel size is not known.
    """
    if voxel_um is None:
        return 0.0, 0.0, 0.0
    if file.is_ome:
        planes = listed(ome_pixels(file, series).get("Plane"))
        z, y, x = (_position(planes[0] if planes else {}, letter) for letter in "ZYX")
        return z, y, x
    described = file.imagej_metadata or {}
    origins = [float(described.get(f"{letter}origin", 0.0)) for letter in "zyx"]
    z, y, x = (0.0 - _finite(origin) * voxel for origin, voxel in zip(origins, voxel_um, strict=True))
    return z, y, x


def _finite(position: float) -> float:
    """0 for a position that is none."""
    return position if isfinite(position) else 0.0


def _position(plane: Mapping[str, Any], letter: str) -> float:
    um = um_per(str(plane.get(f"Position{letter}Unit", "reference frame")))
    return 0.0 if um is None else _finite(float(plane.get(f"Position{letter}", 0.0))) * um


def ome_pixels(file: tifffile.TiffFile, series: int) -> Mapping[str, Any]:
    """The Pixels element of one image of an OME-TIFF; empty where it has none."""
    pixels = _ome_image(file, series).get("Pixels")
    return pixels if isinstance(pixels, dict) else {}


def ome_name(file: tifffile.TiffFile, series: int) -> str:
    """The name of one image of an OME-TIFF; empty where it has none."""
    return str(_ome_image(file, series).get("Name") or "")


def _ome_image(file: tifffile.TiffFile, series: int) -> Mapping[str, Any]:
    root = tifffile.xml2dict(file.ome_metadata or "<OME/>").get("OME") or {}
    images = listed(root.get("Image"))
    found = images[series] if series < len(images) else None
    return found if isinstance(found, dict) else {}


def listed(value: Any) -> list[Any]:
    """What xml2dict gives for an element that may come once, several times or not at all."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _ome_sizes(pixels: Mapping[str, Any]) -> dict[str, float]:
    sizes = {}
    for letter in "zyx":
        size = pixels.get(f"PhysicalSize{letter.upper()}")
        um = um_per(str(pixels.get(f"PhysicalSize{letter.upper()}Unit", "um")))
        if size is not None and um is not None:
            sizes[letter] = float(size) * um
    return sizes


def _described_sizes(file: tifffile.TiffFile, described: Mapping[str, Any]) -> dict[str, float]:
    """Sizes of a file whose text gives unit and z spacing, and whose tags give y and x."""
    unit = described.get("unit")
    sizes = _resolution_sizes(file, _plain_unit(unit) if unit else None, _plain_unit(described.get("yunit") or ""))
    spacing_unit = _plain_unit(described.get("zunit") or unit or _tag_unit(file))
    um = um_per(spacing_unit)
    if "spacing" in described and um is not None:
        sizes["z"] = float(described["spacing"]) * um
    return sizes


def _described_units(described: Mapping[str, Any]) -> list[str]:
    return [_plain_unit(described.get(name) or "") for name in ("unit", "yunit", "zunit")]


def _plain_unit(unit: Any) -> str:
    """ImageJ writes the micro sign as an escape, and some readers turn it into two letters."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), str(unit)).replace("\u00c2", "")


def _tag_unit(file: tifffile.TiffFile) -> str:
    tag = file.pages.first.tags.get("ResolutionUnit")
    return _UNIT_OF_TAG.get(int(tag.value), "") if tag is not None else ""


def _resolution_sizes(file: tifffile.TiffFile, unit: str | None, y_unit: str = "") -> dict[str, float]:
    """y and x from the resolution tags, which count pixels per unit."""
    sizes = {}
    for letter, tag_name in (("y", "YResolution"), ("x", "XResolution")):
        tag = file.pages.first.tags.get(tag_name)
        named = (y_unit if letter == "y" else "") or unit or _tag_unit(file)
        um = um_per(named)
        if tag is None or um is None or not all(tag.value):
            continue
        count, per = tag.value
        dots = count / per
        if named != "inch" or dots > _PRINTER_DPI or dots != int(dots):
            sizes[letter] = per / count * um
    return sizes


def _settled(sizes: Mapping[str, float], place: str, planes: int, units: Sequence[str]) -> FoundScale:
    """The size, if it covers every axis and can be meant; `units` are the words for them in the file."""
    unit = unknown_unit(units)
    if unit and not ({"y", "x"} if planes == 1 else {"z", "y", "x"}) <= set(sizes):
        return FoundScale(None, no_length(unit, place))
    if not {"y", "x"} <= set(sizes):
        return FoundScale(None, "the file states no voxel size in a unit of length")
    y, x = sizes["y"], sizes["x"]
    if "z" not in sizes and planes > 1:
        return FoundScale(None, f"the file gives {y:g} um for y and {x:g} um for x ({place}) but no z spacing")
    voxel = (sizes.get("z", 1.0), y, x)
    if not is_size(voxel):
        return FoundScale(None, f"the file gives a voxel size of {voxel} um ({place}), not three positive numbers")
    if voxel == (1.0, 1.0, 1.0):
        return FoundScale(
            None, f"the file gives a voxel size of 1.0 everywhere ({place}), as software does that does not know it"
        )
    return FoundScale(voxel, place if "z" in sizes else f"{place}; a single plane counts as 1 um thick")
