"""Pictures of a volume, small enough for one HTML page.

Three planes cut the volume. All share one pixel size, the same along both sides of a picture, so a volume with long
voxels keeps its proportions and the planes fit together along their edges:

        x ->      z ->            A plane is read from the coarsest level whose voxels are no larger than a pixel, in
     y [  xy  ] [ zy ]            strips one chunk wide, and only the voxels under pixel centres are kept. So a plane
     z [  xz  ]                   of a terabyte takes the memory of a strip, and about a megabyte as PNG.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.geometry.scale import MicrometerTriple, Scale
from chunkflow.storage.volume import Volume

Pixels: TypeAlias = NDArray[np.uint8]

PICTURE_PX = 1100
"""Pixels of the longest side of the three planes put together."""
PLANES = ((0, 1, 2), (1, 0, 2), (2, 1, 0))
"""(normal, rows, columns) of the planes, as axes of the volume: xy, xz and zy."""
SURVEY_BLOCK = 64
SURVEY_BLOCKS = 256
"""Blocks of the coarsest level that are looked at to find planes worth showing."""
CONTRAST = (0.5, 99.8)
"""Percentiles shown as black and white: a few hot voxels do not darken the rest."""
CURVE_COLOR = (255, 64, 48, 255)
SEGMENTS_AT_ONCE = 10**5


@dataclass(frozen=True, slots=True)
class Cut:
    """A plane across a volume as a picture of square pixels.

    normal, rows, columns : axes of the volume: the one cut, and those that run down and to the right
    at_um : where it cuts the normal
    origin_um : corner of the first pixel along rows and columns
    pixel_um : side of a pixel
    shape : rows and columns in pixels
    """

    normal: int
    rows: int
    columns: int
    at_um: float
    origin_um: tuple[float, float]
    pixel_um: float
    shape: tuple[int, int]

    @property
    def name(self) -> str:
        """The letters of its columns and rows."""
        return "zyx"[self.columns] + "zyx"[self.rows]

    def row_centres_um(self) -> NDArray[np.float64]:
        """Position of the pixels along the rows axis."""
        return self.origin_um[0] + self.pixel_um * (np.arange(self.shape[0], dtype=np.float64) + 0.5)

    def column_centres_um(self) -> NDArray[np.float64]:
        """Position of the pixels along the columns axis."""
        return self.origin_um[1] + self.pixel_um * (np.arange(self.shape[1], dtype=np.float64) + 0.5)


def cuts_through(point_um: Sequence[float], shape: Triple, scale: Scale) -> tuple[Cut, ...]:
    """The three planes through a point, or the only one of a volume that is a plane itself."""
    corner = [t - v / 2 for t, v in zip(scale.translation_um, scale.voxel_um, strict=True)]
    size = [n * v for n, v in zip(shape, scale.voxel_um, strict=True)]
    depth = size[0] if shape[0] > 1 else 0.0
    pixel = (max(size[1], size[2]) + depth) / PICTURE_PX
    return tuple(
        Cut(
            normal,
            rows,
            columns,
            float(point_um[normal]),
            (corner[rows], corner[columns]),
            pixel,
            (max(1, round(size[rows] / pixel)), max(1, round(size[columns] / pixel))),
        )
        for normal, rows, columns in (PLANES if depth else PLANES[:1])
    )


def sampled(cut: Cut, levels: Sequence[Volume]) -> NDArray[Any]:
    """The voxels under the pixel centres of a cut. `levels` are one array's, finest first."""
    volume = level_for(cut, levels)
    rows = voxels_at(volume, cut.rows, cut.row_centres_um())
    columns = voxels_at(volume, cut.columns, cut.column_centres_um())
    plane = int(voxels_at(volume, cut.normal, np.array([cut.at_um]))[0])
    picture = np.zeros(cut.shape, volume.dtype)
    strip = volume.layout.chunk[cut.rows]
    for first in range(0, volume.shape[cut.rows], strip):
        here = slice(*np.searchsorted(rows, (first, first + strip)))
        if here.start < here.stop:
            picture[here] = _strip(volume, cut, plane, first, strip)[rows[here] - first][:, columns]
    return picture


def level_for(cut: Cut, levels: Sequence[Volume]) -> Volume:
    """The coarsest level whose voxels are no larger than a pixel; the finest where none is."""

    def is_fine(volume: Volume) -> bool:
        voxel = volume.scale.voxel_um
        return max(voxel[cut.rows], voxel[cut.columns]) <= cut.pixel_um * (1 + 1e-6)

    return next((volume for volume in reversed(levels) if is_fine(volume)), levels[0])


def voxels_at(volume: Volume, axis: int, position_um: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the voxel around each position along an axis."""
    voxel, centre = volume.scale.voxel_um[axis], volume.scale.translation_um[axis]
    index = np.floor((position_um - centre) / voxel + 0.5).astype(np.int64)
    return np.clip(index, 0, volume.shape[axis] - 1)


def _strip(volume: Volume, cut: Cut, plane: int, first: int, length: int) -> NDArray[Any]:
    """Some rows of a plane, all columns."""
    start, stop = [0, 0, 0], list(volume.shape)
    start[cut.normal], stop[cut.normal] = plane, plane + 1
    start[cut.rows], stop[cut.rows] = first, min(first + length, volume.shape[cut.rows])
    data: NDArray[Any] = volume.read(Box(triple(tuple(start)), triple(tuple(stop)))).take(0, axis=cut.normal)
    return data if cut.rows < cut.columns else data.T


def busiest_point_um(levels: Sequence[Volume], *, foreground: bool) -> MicrometerTriple:
    """Where the planes lie that hold most foreground (or, of an image, most light).

    Looks at the coarsest level, at `SURVEY_BLOCKS` of its blocks where there are more: drawn once for all, so that the
    same result has the same pictures.
    """
    volume = levels[-1]
    grid = Grid(volume.shape, triple(SURVEY_BLOCK))
    chosen = np.random.default_rng(0).permutation(len(grid))[:SURVEY_BLOCKS] if len(grid) > SURVEY_BLOCKS else None
    total = [np.zeros(n) for n in volume.shape]
    seen = [np.zeros(n) for n in volume.shape]
    for index in range(len(grid)) if chosen is None else sorted(chosen.tolist()):
        core = grid.core_of(index)
        data = volume.read(core)
        light = (data > 0).astype(np.float64) if foreground else np.nan_to_num(data.astype(np.float64))
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            total[axis][core.slices[axis]] += light.sum(axis=others)
            seen[axis][core.slices[axis]] += core.size // core.shape[axis]
    z, y, x = (_best_plane(a, b) for a, b in zip(total, seen, strict=True))
    (vz, vy, vx), (tz, ty, tx) = volume.scale.voxel_um, volume.scale.translation_um
    return tz + z * vz, ty + y * vy, tx + x * vx


def _best_plane(total: NDArray[np.float64], seen: NDArray[np.float64]) -> int:
    """The plane of the highest mean; of equal ones that nearest the middle."""
    mean = np.divide(total, seen, out=np.full(len(total), -np.inf), where=seen > 0)
    best = np.flatnonzero(mean == mean.max())
    return int(best[np.argmin(np.abs(best - len(total) // 2))])


def contrast_window(pictures: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Values to show as black and white, the same for all pictures."""
    values = np.concatenate([picture.ravel() for picture in pictures]).astype(np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, CONTRAST))
    return (low, high) if high > low else (float(values.min()), float(max(values.max(), values.min() + 1)))


def gray(picture: NDArray[Any], window: tuple[float, float]) -> Pixels:
    """(rows, columns) uint8 from values, black below the window and white above it."""
    low, high = window
    scaled: NDArray[np.float64] = (np.nan_to_num(picture.astype(np.float64), nan=low) - low) / (high - low)
    return np.round(scaled.clip(0, 1) * 255).astype(np.uint8)


def label_colors(labels: NDArray[Any]) -> Pixels:
    """(..., 3) uint8: a bright colour per id, from yellow by green and blue to violet; neighbouring ids far apart."""
    hue = 0.12 + 0.72 * np.modf(labels.astype(np.float64) * 0.6180339887498949)[0]
    distance: NDArray[np.float64] = np.abs((hue[..., None] * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    return np.round(255 * (0.25 + 0.75 * distance.clip(0, 1))).astype(np.uint8)


def outlines(labels: NDArray[Any], *, width: int = 1, fill: float = 0.0) -> Pixels:
    """(rows, columns, 4) uint8: the border pixels of each object in its colour, the rest clear.

    A border pixel is one of an object with another id, or none, up to `width` pixels away along rows or columns; where
    the picture ends, no border is drawn. `fill` is the opacity of the pixels inside.
    """
    border = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        for step in range(1, min(width, labels.shape[axis] - 1) + 1):
            ahead, behind = (
                labels.take(range(step, labels.shape[axis]), axis),
                labels.take(range(labels.shape[axis] - step), axis),
            )
            differ = ahead != behind
            rows, columns = differ.shape
            border[:rows, :columns] |= differ
            border[-rows:, -columns:] |= differ
    opacity = np.where(border, 255, round(255 * fill)) * (labels > 0)
    return np.dstack([label_colors(labels) * (opacity > 0)[..., None], opacity]).astype(np.uint8)


def curves(cut: Cut, points_um: NDArray[np.float64], offsets: NDArray[np.int64], *, near_um: float) -> Pixels:
    """(rows, columns, 4) uint8: the parts of curves within `near_um` of a plane, projected onto it.

    Parameters
    ----------
    points_um : (N, 3) points of all curves, one behind the other.
    offsets : (curves + 1,) where each begins.
    """
    mask = np.zeros((cut.shape[0] + 2, cut.shape[1] + 2), bool)  # two lines of margin for the width of the pen
    close = np.abs(points_um[:, cut.normal] - cut.at_um) <= near_um
    joined = close[:-1] & close[1:]
    joined[(offsets[1:-1] - 1)[(offsets[1:-1] > 0) & (offsets[1:-1] < len(close))]] = False
    axes, corner = [cut.rows, cut.columns], np.array(cut.origin_um)
    first = np.flatnonzero(joined)
    for k in range(0, len(first), SEGMENTS_AT_ONCE):
        here = first[k : k + SEGMENTS_AT_ONCE]
        start, stop = (points_um[index][:, axes] for index in (here, here + 1))
        steps = np.linspace(0, 1, 2 + ceil(np.abs(stop - start).max() / cut.pixel_um))
        along = start[:, None] + (stop - start)[:, None] * steps[None, :, None]
        pixel = np.floor((along - corner) / cut.pixel_um).astype(np.int64).reshape(-1, 2)
        y, x = pixel[((pixel >= 0) & (pixel < cut.shape)).all(axis=1)].T
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            mask[y + down, x + right] = True
    drawn = mask[: cut.shape[0], : cut.shape[1]]
    return np.asarray(drawn[..., None] * np.array(CURVE_COLOR, np.uint8), np.uint8)


def png_uri(pixels: Pixels) -> str:
    """A data URI of a gray (rows, columns) or RGBA (rows, columns, 4) picture."""
    return image_uri(Image.fromarray(pixels), "PNG")


def image_uri(image: Image.Image, kind: Literal["PNG", "JPEG"], **options: Any) -> str:
    """A data URI of a picture; `options` are those of `PIL.Image.Image.save`."""
    file = BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{b64encode(file.getvalue()).decode()}"
