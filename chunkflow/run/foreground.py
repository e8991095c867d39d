"""Where objects are in volumes of labels: how many voxels of each class every cell of 32^3 holds.

    block by block  ->  cells with foreground (start, counts)  ->  a voxel of a class, each as likely as any other

A cell takes 60 bytes, so the index of 10^12 labelled voxels takes 2 GB at most, and less where much is background.
The labels are read once, and never held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from chunkflow.errors import InputError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.models.targets import Target
from chunkflow.storage.volume import Volume

CELL = 32
BLOCK: Triple = (4 * CELL, 4 * CELL, 4 * CELL)


@dataclass(frozen=True, slots=True, eq=False)
class Foreground:
    """Cells of some regions that hold foreground.

    region : (N,) which region each is in
    start, stop : (N, 3) voxels of the volume
    counts : (N, K) voxels of each class
    """

    region: NDArray[np.int32]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def present(self) -> NDArray[np.intp]:
        """Classes that occur at all."""
        return np.flatnonzero(self.counts.sum(axis=0))

    def pick(self, rng: Generator) -> tuple[int, Box, int, int]:
        """A class, each that occurs as often, and a voxel of it, each as likely: region, cell, class, which in it."""
        chosen = int(rng.choice(self.present))
        reached = np.cumsum(self.counts[:, chosen])
        voxel = int(rng.integers(reached[-1]))
        cell = int(np.searchsorted(reached, voxel, side="right"))
        before = int(reached[cell - 1]) if cell else 0
        box = Box(triple(self.start[cell].tolist()), triple(self.stop[cell].tolist()))
        return int(self.region[cell]), box, chosen, voxel - before


def classes_of(labels: NDArray[Any], target: Target) -> NDArray[Any]:
    """Labels as what is balanced: the classes of a target from 1, or 1 for any object; 0 is background and unknown."""
    known = labels if target.ignore is None else np.where(labels == target.ignore, 0, labels)
    if target.kind == "classes":
        return np.where((known > 0) & (known < target.classes), known, 0)
    return (known > 0).astype(np.uint8)


def class_count(target: Target) -> int:
    """Classes that are balanced, background aside."""
    return target.classes - 1 if target.kind == "classes" else 1


def find_foreground(regions: Sequence[tuple[Volume, Box]], target: Target) -> Foreground:
    """Look through labels once.

    Raises
    ------
    InputError : a label is beyond the classes of the target.
    """
    number = class_count(target)
    cells: list[tuple[int, Box, NDArray[np.int64]]] = []
    for index, (volume, box) in enumerate(regions):
        grid = Grid(box.shape, BLOCK)
        for block in range(len(grid)):
            place = _moved(grid.core_of(block), box.start)
            labels = volume.read(place)
            _check_classes(labels, target, volume)
            classes = classes_of(labels, target)
            if classes.any():
                cells += [(index, cell, counts) for cell, counts in _cells(classes, place, number)]
    return Foreground(
        np.array([index for index, _, _ in cells], np.int32),
        np.array([cell.start for _, cell, _ in cells], np.int64).reshape(-1, 3),
        np.array([cell.stop for _, cell, _ in cells], np.int64).reshape(-1, 3),
        np.array([counts for _, _, counts in cells], np.int64).reshape(-1, number),
    )


def _check_classes(labels: NDArray[Any], target: Target, volume: Volume) -> None:
    if target.kind != "classes":
        return
    known = labels if target.ignore is None else labels[labels != target.ignore]
    low, high = int(known.min(initial=0)), int(known.max(initial=0))
    if low < 0 or high >= target.classes:
        raise InputError(
            f"{volume.path} holds label {low if low < 0 else high}, and the target has {target.classes} classes,"
            f" 0 to {target.classes - 1}",
            f"Use target: {{classes: {high + 1}}}" if low >= 0 and high < 256 else "Name it as target: {ignore: LABEL}",
        )


def _cells(classes: NDArray[Any], place: Box, number: int) -> list[tuple[Box, NDArray[np.int64]]]:
    grid = Grid(place.shape, (CELL, CELL, CELL))
    found = []
    for index in range(len(grid)):
        core = grid.core_of(index)
        counts = np.bincount(classes[core.slices].ravel(), minlength=number + 1)[1:]
        if counts.any():
            found.append((_moved(core, place.start), counts))
    return found


def _moved(box: Box, start: Triple) -> Box:
    return box.relative_to(triple(tuple(-v for v in start)))
