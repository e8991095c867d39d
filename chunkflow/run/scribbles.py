"""What is learnt from scribbles, gathered block by block from volumes that do not fit in memory.

Blocks are a lattice fixed here, so that the same seed draws the same voxels. Features are computed in the box around
the voxels drawn of a block. Holds the features of all voxels drawn, 40 bytes per scale each, and those of one box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import InputError
from chunkflow.geometry.box import Box, triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import features
from chunkflow.run.normalising import Progress, read_finite
from chunkflow.stages.normalize import scaled
from chunkflow.storage.volume import Volume

BLOCK_SIDE = 64

Counts = Mapping[int, Mapping[int, int]]
"""Voxels by label, by number of the block; blocks without any left out."""


def samples_of(
    source: Volume,
    marks: Volume,
    counts: Counts,
    scales_um: Sequence[float],
    limits: tuple[float, float],
    drawn: Mapping[int, NDArray[np.int64]],
    tell: Progress,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features (N, F) and labels (N,) of the voxels drawn, block by block, in raster order in each."""
    low, high = limits
    grid = Grid(marks.shape, triple(BLOCK_SIDE))
    around = features.halo(scales_um, source.scale.voxel_um)
    found: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    passed = dict.fromkeys(drawn, 0)
    for done, (number, here) in enumerate(sorted(counts.items())):
        block = grid.core_of(number)
        here_drawn = {label: _between(drawn[label], passed[label], count) for label, count in here.items()}
        passed |= {label: passed[label] + count for label, count in here.items()}
        at, label = _positions(marks.read(block), here_drawn)
        if len(at):
            box = Box(
                triple((at.min(axis=0) + block.start).tolist()), triple((at.max(axis=0) + block.start + 1).tolist())
            )
            read = box.grow(around).clip(source.box)
            values = features.features(
                scaled(read_finite(source, read), low, high - low),
                read.start,
                start=box.start,
                stop=box.stop,
                shape=source.shape,
                scales_um=scales_um,
                voxel_um=source.scale.voxel_um,
            )
            z, y, x = (at - at.min(axis=0)).T
            found.append(values[z, y, x])
            labels.append(label)
        tell("features", done + 1, len(counts))
    return np.concatenate(found), np.concatenate(labels)


def drawn_from(counts: Counts, *, per_class: int, seed: int) -> dict[int, NDArray[np.int64]]:
    """For each label which of its voxels are learnt from, counted in the order of the blocks; sorted."""
    rng = np.random.default_rng(seed)
    total: dict[int, int] = {}
    for here in counts.values():
        for label, count in here.items():
            total[label] = total.get(label, 0) + count
    return {
        label: np.sort(rng.choice(count, min(count, per_class), replace=False, shuffle=False)).astype(np.int64)
        for label, count in sorted(total.items())
    }


def _between(ranks: NDArray[np.int64], first: int, count: int) -> NDArray[np.int64]:
    """The ranks of `count` voxels from `first` on, counted from there."""
    low, high = np.searchsorted(ranks, (first, first + count))
    return ranks[low:high] - first


def _positions(
    block: NDArray[Any], drawn: Mapping[int, NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N, 3) where the voxels drawn lie in the block, in raster order, and (N,) their labels."""
    places = {label: np.flatnonzero(block == label)[ranks] for label, ranks in drawn.items()}
    flat = np.concatenate(list(places.values()))
    label = np.repeat(list(places), [len(p) for p in places.values()])
    order = np.argsort(flat)
    return np.stack(np.unravel_index(flat[order], block.shape), axis=1), label[order].astype(np.int64)


def count_scribbles(marks: Volume, tell: Progress) -> Counts:
    """Voxels of each label in each block that holds any, by the block's number."""
    grid, found = Grid(marks.shape, triple(BLOCK_SIDE)), dict[int, dict[int, int]]()
    for number in range(len(grid)):
        labels, counts = np.unique(marks.read(grid.core_of(number)), return_counts=True)
        here = {int(label): int(count) for label, count in zip(labels, counts, strict=True) if label != 0}
        if here and min(here) < 0:
            raise InputError(f"the scribbles hold the negative label {min(here)}", "Use 0 where nothing is said")
        if here:
            found[number] = here
        tell("scribbles", number + 1, len(grid))
    return found
