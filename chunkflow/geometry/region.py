"""A region of a volume as people write it, in voxels or in micrometers.

10:60,0:256,100:400        voxels, half-open, in z, y, x
10-15um,0-25um,:           micrometers: the voxels whose centres lie between, where viewers show them; : is all
20,:,:                     one plane
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import ceil

from chunkflow.errors import UsageError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.scale import Scale

EXAMPLE = "Write z,y,x as voxels 10:60,0:256,100:400 or micrometers 10-15um,0-25um,: (: is all of an axis)"
_VOXELS = re.compile(r"(\d*)\s*:\s*(\d*)")
_PLANE = re.compile(r"\d+")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_MICROMETERS = re.compile(rf"({_NUMBER})\s*[-:]\s*({_NUMBER})\s*(?:um|\u00b5m|\u03bcm)", re.IGNORECASE)


def parse_region(text: str, scale: Scale, shape: Triple) -> Box:
    """The voxels that a text names.

    Parameters
    ----------
    scale : of the volume; its translation counts, so that micrometers are those that viewers show
    shape : of the volume, in voxels

    Raises
    ------
    UsageError : the text is no region, or one that is empty or reaches outside the volume.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3:
        raise UsageError(f"the region {text!r} has {len(parts)} parts, not one for each of z, y, x", EXAMPLE)
    spans = [
        _span(part, axis, origin, voxel, length, text)
        for part, axis, origin, voxel, length in zip(
            parts, "zyx", scale.translation_um, scale.voxel_um, shape, strict=True
        )
    ]
    return Box(triple([start for start, _ in spans]), triple([stop for _, stop in spans]))


def _span(part: str, axis: str, origin: float, voxel: float, length: int, text: str) -> tuple[int, int]:
    """First voxel and the one behind the last, along one axis."""
    if found := _VOXELS.fullmatch(part):
        start, stop = int(found[1] or 0), int(found[2]) if found[2] else length
    elif _PLANE.fullmatch(part):
        start, stop = int(part), int(part) + 1
    elif found := _MICROMETERS.fullmatch(part):
        start, stop = (_voxel_from(float(um), origin, voxel) for um in found.groups())
    else:
        raise UsageError(f"{part!r} of the region {text!r} is no range along {axis}", EXAMPLE)
    has = f"the volume has {length} voxels along {axis}, {_ends(origin, voxel, length)} um"
    if start >= stop:
        raise UsageError(f"{part!r} of the region {text!r} holds no voxel", f"Give start before end; {has}")
    if start < 0 or stop > length:
        raise UsageError(f"{part!r} of the region {text!r} reaches outside: {has}", "Give a part of it")
    return start, stop


def _voxel_from(um: float, origin: float, voxel: float) -> int:
    """The first voxel whose centre is at `um` or behind; numbers are taken as the decimals that they are written as."""
    return ceil((Fraction(repr(um)) - Fraction(repr(origin))) / Fraction(repr(voxel)))


def _ends(origin: float, voxel: float, length: int) -> str:
    return f"{origin:.6g}-{origin + length * voxel:.6g}"
