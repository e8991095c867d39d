"""ImageJ ROIs as rings, read from files that the format's own library wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import roifile

from chunkflow.errors import InputError, InputNotFoundError
from chunkflow.storage.rois import read_rois

TRIANGLE = [[3, 4], [20, 6], [9, 15]]
"""x, y."""


def shape(kind: roifile.ROI_TYPE, **values: object) -> roifile.ImagejRoi:
    roi = roifile.ImagejRoi()
    roi.roitype, roi.name = kind, kind.name.lower()
    roi.top, roi.left, roi.bottom, roi.right = 2, 3, 12, 23
    for name, value in values.items():
        setattr(roi, name, value)
    return roi


def write(path: Path, *rois: roifile.ImagejRoi) -> Path:
    roifile.roiwrite(path, list(rois) if path.suffix == ".zip" else rois[0])
    return path


def test_polygons_come_as_they_were_drawn(tmp_path: Path) -> None:
    whole = roifile.ImagejRoi.frompoints(np.array(TRIANGLE), name="a cell")
    sharp = roifile.ImagejRoi.frompoints(np.array(TRIANGLE) + 0.25, name="another")
    first, second = read_rois(write(tmp_path / "RoiSet.zip", whole, sharp))
    assert (first.name, second.name) == ("a cell", "another")
    np.testing.assert_array_equal(first.rings[0], np.array(TRIANGLE)[:, ::-1])
    np.testing.assert_array_equal(second.rings[0], np.array(TRIANGLE)[:, ::-1] + 0.25)
    assert (first.plane, first.time) == (None, None)


def test_a_single_roi_is_a_set_of_one(tmp_path: Path) -> None:
    (roi,) = read_rois(write(tmp_path / "cell.roi", roifile.ImagejRoi.frompoints(np.array(TRIANGLE), name="one")))
    np.testing.assert_array_equal(roi.corners, np.array(TRIANGLE)[:, ::-1])


def test_positions_count_from_one_and_zero_is_everywhere(tmp_path: Path) -> None:
    in_stack = shape(roifile.ROI_TYPE.RECT, position=7)
    in_hyperstack = shape(roifile.ROI_TYPE.RECT, name="b", c_position=2, z_position=5, t_position=3)
    found = read_rois(write(tmp_path / "RoiSet.zip", in_stack, in_hyperstack))
    assert [(roi.plane, roi.time) for roi in found] == [(6, None), (4, 2)]


def test_rectangles_and_ovals_span_their_boxes(tmp_path: Path) -> None:
    oval = shape(roifile.ROI_TYPE.OVAL)
    fine = shape(roifile.ROI_TYPE.RECT, name="fine", options=roifile.ROI_OPTIONS.SUB_PIXEL_RESOLUTION)
    fine.version, fine.xd, fine.yd, fine.widthd, fine.heightd = 227, 3.5, 2.25, 10.0, 4.5
    found = read_rois(write(tmp_path / "RoiSet.zip", shape(roifile.ROI_TYPE.RECT), oval, fine))
    for roi, low, high in zip(found, [(2, 3), (2, 3), (2.25, 3.5)], [(12, 23), (12, 23), (6.75, 13.5)], strict=True):
        np.testing.assert_allclose(roi.corners.min(axis=0), low)
        np.testing.assert_allclose(roi.corners.max(axis=0), high)
    y, x = (found[1].rings[0] - (7, 13)).T
    np.testing.assert_allclose((y / 5) ** 2 + (x / 10) ** 2, 1)


def test_composites_have_a_ring_for_each_hole(tmp_path: Path) -> None:
    outer, inner = [(3, 2), (23, 2), (23, 12), (3, 12)], [(8, 4), (18, 4), (18, 10), (8, 10)]
    path: list[float] = []
    for ring in (outer, inner):
        for op, point in zip([0, 1, 1, 1], ring, strict=True):
            path += [op, *point]
        path.append(4)
    roi = shape(roifile.ROI_TYPE.RECT, multi_coordinates=np.array(path, np.float32), shape_roi_size=len(path))
    (found,) = read_rois(write(tmp_path / "RoiSet.zip", roi))
    assert len(found.rings) == 2
    for ring, expected in zip(found.rings, (outer, inner), strict=True):
        np.testing.assert_array_equal(ring[:4], np.array(expected)[:, ::-1])


@pytest.mark.parametrize("kind", [roifile.ROI_TYPE.LINE, roifile.ROI_TYPE.POINT, roifile.ROI_TYPE.POLYLINE])
def test_what_encloses_nothing_is_named(kind: roifile.ROI_TYPE, tmp_path: Path) -> None:
    roi = shape(kind)
    if kind != roifile.ROI_TYPE.LINE:
        roi.integer_coordinates, roi.n_coordinates = np.array(TRIANGLE, np.int32), 3
    path = write(tmp_path / "RoiSet.zip", shape(roifile.ROI_TYPE.RECT), roi)
    with pytest.raises(InputError, match=rf"ROI 2 \({kind.name.lower()}\).*encloses no area.*Delete it"):
        read_rois(path)


def test_files_that_are_no_rois_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"not a zip")
    (tmp_path / "broken.roi").write_bytes(b"Iout" + bytes(10))
    for name in ("broken.zip", "broken.roi"):
        with pytest.raises(InputError, match="cannot be read as ImageJ ROIs"):
            read_rois(tmp_path / name)
    with pytest.raises(InputNotFoundError, match="is not a file"):
        read_rois(tmp_path / "none.zip")
