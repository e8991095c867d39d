"""Regions that were drawn by hand in ImageJ or Fiji: RoiSet.zip of the ROI Manager, or a single .roi.

What encloses an area is read as closed rings in pixels, y and x: polygons, freehand and traced outlines, rectangles,
ovals (as polygons of 360 corners) and composites, whose holes are rings of their own. What encloses nothing (lines,
points, angles) is an error that names it. A ROI may lie on one plane of the stack and at one time point, or on all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import roifile
from numpy.typing import NDArray

from chunkflow.errors import InputError, InputNotFoundError

SUFFIXES = (".zip", ".roi")

_ENCLOSING = {
    roifile.ROI_TYPE.POLYGON,
    roifile.ROI_TYPE.RECT,
    roifile.ROI_TYPE.OVAL,
    roifile.ROI_TYPE.FREEHAND,
    roifile.ROI_TYPE.TRACED,
}
_OVAL_CORNERS = 360


@dataclass(frozen=True, slots=True)
class Roi:
    """One region of interest.

    name : as the ROI Manager lists it
    rings : closed, each (n, 2) y, x in pixels from the corner of pixel 0; even-odd
    plane, time : from 0; None for all of them
    """

    name: str
    rings: tuple[NDArray[np.float64], ...]
    plane: int | None
    time: int | None

    @property
    def corners(self) -> NDArray[np.float64]:
        """(n, 2) corners of all rings."""
        return np.concatenate(self.rings)


def read_rois(path: str | Path) -> tuple[Roi, ...]:
    """The regions of interest in a file, in its order.

    Raises
    ------
    InputNotFoundError, InputError : it is not there, is no ROI file, holds none, or one that encloses no area.
    """
    if not Path(path).is_file():
        raise InputNotFoundError(f"{path} is not a file", "Check the path")
    try:
        read = roifile.roiread(path)
    except Exception as error:  # whatever zipfile and the decoder raise
        raise InputError(f"{path} cannot be read as ImageJ ROIs ({error})", "Save it again from the ROI Manager") from (
            error
        )
    found = read if isinstance(read, list) else [read]
    if not found:
        raise InputError(f"{path} holds no ROI", "Save it again from the ROI Manager")
    return tuple(_parsed(path, number, roi) for number, roi in enumerate(found, start=1))


def _parsed(path: str | Path, number: int, roi: roifile.ImagejRoi) -> Roi:
    rings = tuple(ring for ring in _rings(path, roi) if len(ring) > 2)
    if not rings:
        raise InputError(
            f"{path}: ROI {number} ({roi.name}) is a {roi.roitype.name.lower()}, which encloses no area",
            "Delete it from the set",
        )
    if not all(np.isfinite(ring).all() for ring in rings):
        raise InputError(f"{path}: ROI {number} ({roi.name}) has corners that are no numbers", "Draw it again")
    plane = roi.z_position or roi.position  # the first in hyperstacks, the second in plain stacks; both from 1
    return Roi(roi.name, rings, plane - 1 if plane else None, roi.t_position - 1 if roi.t_position else None)


def _rings(path: str | Path, roi: roifile.ImagejRoi) -> list[NDArray[np.float64]]:
    if roi.multi_coordinates is None and roi.roitype not in _ENCLOSING:
        return []
    if roi.multi_coordinates is None and roi.roitype in (roifile.ROI_TYPE.RECT, roifile.ROI_TYPE.OVAL):
        return [_outline(roi)]
    try:
        given: list[Any] = list(roi.coordinates(multi=True))
    except (NotImplementedError, RuntimeError) as error:  # curves of Bezier type
        raise InputError(
            f"{path}: the outline of ROI {roi.name} cannot be read ({error})", "Interpolate it in ImageJ"
        ) from error
    return [np.asarray(ring, np.float64)[:, ::-1] for ring in given]


def _outline(roi: roifile.ImagejRoi) -> NDArray[np.float64]:
    """Corners of a rectangle or an oval."""
    corner = np.array([roi.top, roi.left], np.float64)
    sides = np.array([roi.bottom, roi.right]) - corner
    if roi.subpixelrect:
        corner, sides = np.array([roi.yd, roi.xd]), np.array([roi.heightd, roi.widthd])
    if roi.roitype == roifile.ROI_TYPE.RECT:
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)
    else:
        angle = np.arange(_OVAL_CORNERS) * (2 * np.pi / _OVAL_CORNERS)
        corners = np.stack((1 + np.sin(angle), 1 + np.cos(angle)), axis=1) / 2
    return np.asarray(corners * sides + corner)
