"""Whether an input that is called a mask is one, by a few places of it: an image would be foreground everywhere.

    values beside 0     one                         a mask: 1, 255, whatever
                        several, neighbours alike   labels, which count as foreground together: a warning
                        several, neighbours differ  an image: refused

Of two voxels side by side that are not 0, labels give one value nearly always and grey values with noise hardly ever:
0.79 to 0.99 of the pairs in label images of nuclei, EM and bars, 0.00 to 0.05 in images of nuclei, yeast and beads.
Nothing is said of what a damaged chunk holds, nor of arrays whose chunks are too large to look at.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import IntegrityError, StoreError, UsageError
from chunkflow.geometry.box import Box, triple
from chunkflow.plan.options import InputOptions
from chunkflow.storage.volume import Volume

PLACES = 8
"""Chunks that are looked at, at most."""
DECODED = 2**26
"""Voxels that are decoded for it, at most; nothing is said of arrays whose chunks hold more."""
SIDE = 96
"""Voxels along each axis of a place, at most."""
ALIKE = 0.5
"""Share of pairs of neighbours of one value."""


def warnings_of_mask(source: Volume, options: InputOptions) -> tuple[str, ...]:
    """What is said of an input of `kind: mask`.

    Raises
    ------
    UsageError : it is an image.
    """
    if options.kind != "mask" or source.dtype.kind == "b":
        return ()
    values: set[float] = set()
    alike = pairs = 0
    for box in _places(source):
        data = _foreground(source, box, options.nodata)
        values |= set(np.unique(data[data != 0]).tolist())
        same, both = _neighbours(data)
        alike, pairs = alike + same, pairs + both
    if len(values) < 2:
        return ()
    shown = ", ".join(f"{value:g}" for value in sorted(values)[:4]) + (", ..." if len(values) > 4 else "")
    if alike < ALIKE * pairs:
        raise UsageError(
            f"kind: mask, and {source.path} holds grey values ({shown}), all of which would be foreground",
            "Use kind: image, and a threshold stage in front of label",
        )
    return (
        f"the mask {source.path} holds several values beside 0 ({shown}), all of which count as foreground: objects "
        "that touch become one. Labels are kept apart with kind: labels; grey values need kind: image and a threshold",
    )


def _places(source: Volume) -> list[Box]:
    """Boxes in the middle of a few chunks, always the same ones."""
    chunk = triple([min(c, n) for c, n in zip(source.layout.chunk, source.shape, strict=True)])
    count = min(PLACES, DECODED // prod(chunk))
    chunks = [-(-n // c) for n, c in zip(source.shape, chunk, strict=True)]
    chosen = np.random.default_rng(0).integers(chunks, size=(PLACES, 3))[:count]
    side = [min(c, SIDE) for c in chunk]
    starts = {tuple(int(a) * c + (c - s) // 2 for a, c, s in zip(at, chunk, side, strict=True)) for at in chosen}
    boxes = (Box(triple(start), triple([a + s for a, s in zip(start, side, strict=True)])) for start in sorted(starts))
    return [inside for box in boxes if (inside := box.clip(source.box)).size]


def _foreground(source: Volume, box: Box, nodata: float | None) -> NDArray[Any]:
    """Voxels of a place, 0 where they hold no data; nothing where they cannot be read, which the run will tell of."""
    try:
        data = source.read(box)
    except (IntegrityError, StoreError):
        return np.zeros((1, 1, 1), source.dtype)
    unknown = data != data
    if nodata is not None:
        unknown |= data == nodata
    return np.where(unknown, data.dtype.type(0), data)


def _neighbours(data: NDArray[Any]) -> tuple[int, int]:
    """Pairs of neighbours of one value, and all pairs, of those that are not 0 along y and x."""
    alike = pairs = 0
    for a, b in ((data[:, 1:], data[:, :-1]), (data[:, :, 1:], data[:, :, :-1])):
        both = (a != 0) & (b != 0)
        alike += int(((a == b) & both).sum())
        pairs += int(both.sum())
    return alike, pairs
