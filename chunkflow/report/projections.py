"""The section of the report that shows the whole volume at once: its brightest voxels along each axis, the skeleton.

    coarsest level  -->  largest value along z, y and x  -->  three pictures in the proportions of the sample
                         (read block by block)                with the curves of the graph over them

The coarsest level of an image has at most 256 voxels along every halved axis, so this reads megabytes whatever the size
of the volume. Where it is large all the same (no pyramid was kept), projections are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.box import triple
from chunkflow.geometry.grid import Grid
from chunkflow.report import pictures
from chunkflow.report.facts import RunFacts
from chunkflow.report.slices import figure, levels_of
from chunkflow.storage.volume import Volume

MOST_VOXELS = 2**26
"""Of a level that is read."""
MOST_BRANCHES = 20_000
"""Of a skeleton that is drawn: more cover the picture, and take minutes."""
BLOCK = 128


def projections(run: RunFacts) -> str:
    """Pictures with a switch; empty where nothing was saved, in a plane, or where no level is small."""
    result = run.result
    light = next((v for v in (result.image, result.probability) if v is not None), None)
    chosen = light or next((v for v in (result.labels, result.mask) if v is not None), None)
    if chosen is None or chosen.shape[0] == 1:
        return ""
    levels = levels_of(chosen)
    coarsest = levels[-1]
    if np.prod(coarsest.shape) > MOST_VOXELS:
        return ""
    flat = largest_along_axes(coarsest, foreground=light is None)
    middle = [t + v * (n - 1) / 2 for t, v, n in zip(*_frame(levels[0]), strict=True)]
    cuts = pictures.cuts_through(middle, levels[0].shape, levels[0].scale)
    grays = [picture_of(flat[cut.normal], cut, coarsest) for cut in cuts]
    window = pictures.contrast_window(grays) if light else (0.0, 1.0)
    layers = [[("gray", pictures.gray(picture, window))] for picture in grays]
    branches = run.table("branches")
    has_graph = branches is not None and 0 < len(branches) <= MOST_BRANCHES
    if has_graph:
        for cut, stack in zip(cuts, layers, strict=True):
            drawn = (
                pictures.curves(cut, part.curves["points_um"], part.curves["offsets"], near_um=np.inf)
                for part in result.graph_pieces()
            )
            stack.append(("curves", reduce(np.maximum, drawn)))
    switch = (
        "<input class='switch' type='checkbox' id='show-projected'><label for='show-projected'>skeleton</label>"
        if has_graph
        else ""
    )
    what = "Brightest voxels" if light else "Objects"
    return (
        f"{switch}{figure(cuts, layers, lines=False)}"
        f"<p class='caption'>{what} along z (xy), y (xz) and x (zy), from voxels of "
        f"{' × '.join(f'{v:.3g}' for v in coarsest.scale.voxel_um)} µm.</p>"
    )


def _frame(volume: Volume) -> tuple[Sequence[float], Sequence[float], Sequence[int]]:
    return volume.scale.translation_um, volume.scale.voxel_um, volume.shape


def largest_along_axes(volume: Volume, *, foreground: bool) -> list[NDArray[Any]]:
    """The largest value along z, y and x, of shapes (Y, X), (Z, X) and (Z, Y); of labels, whether there is one."""
    dtype = np.dtype(np.uint8) if foreground else volume.dtype
    shape = volume.shape
    low: Any = -np.inf if dtype.kind == "f" else np.iinfo(dtype).min
    found = [np.full([n for axis, n in enumerate(shape) if axis != normal], low, dtype) for normal in range(3)]
    grid = Grid(shape, triple(BLOCK))
    for index in range(len(grid)):
        core = grid.core_of(index)
        data = volume.read(core)
        data = (data > 0).astype(np.uint8) if foreground else data
        for normal in range(3):
            where = tuple(s for axis, s in enumerate(core.slices) if axis != normal)
            found[normal][where] = np.fmax(found[normal][where], data.max(axis=normal))
    return found


def picture_of(flat: NDArray[Any], cut: pictures.Cut, volume: Volume) -> NDArray[Any]:
    """The pixels of a cut from a projection along its normal."""
    rows = pictures.voxels_at(volume, cut.rows, cut.row_centres_um())
    columns = pictures.voxels_at(volume, cut.columns, cut.column_centres_um())
    picture = flat if cut.rows < cut.columns else flat.T
    return picture[np.ix_(rows, columns)]
