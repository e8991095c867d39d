"""The contrast that viewers start with: percentiles of the coarsest level of an image.

A window from the least to the largest value shows a few hot voxels and no image. The coarsest level is small (at most
256 voxels along every halved axis) and has the same bits whatever the blocks, so what is written is the same too. Where
it is large all the same (no pyramid, or thousands of planes), boxes of it are looked at, drawn once for all.
"""

from __future__ import annotations

import numpy as np

from chunkflow.geometry.box import triple
from chunkflow.geometry.grid import Grid
from chunkflow.storage.volume import Volume

PERCENTILES = (0.1, 99.9)
"""Shown as black and as full colour."""
BOX = 64
BOXES = 96
"""About 25 million voxels."""
VALUES = 2**21
"""Of them, spread evenly; the rank of a percentile among so many is known to 0.005 %."""


def contrast_window(coarsest: Volume, limits: tuple[float, float]) -> tuple[float, float]:
    """Values to show as black and as full colour; `limits`, the range, where the percentiles are one value."""
    grid = Grid(coarsest.shape, triple(BOX))
    chosen = np.random.default_rng(0).permutation(len(grid))[:BOXES].tolist()
    boxes = [grid.core_of(index) for index in sorted(chosen)]
    step = -(-sum(box.size for box in boxes) // VALUES) | 1  # odd, so that it meets all columns of a box
    values = np.concatenate([coarsest.read(box).ravel()[::step].copy() for box in boxes])
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not len(finite):
        return limits
    # An order statistic, not a mean of two: a value that occurs, with no rounding of its own.
    low, high = (float(v) for v in np.percentile(finite, PERCENTILES, method="nearest"))
    return (low, high) if high > low else limits
