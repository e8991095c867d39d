"""How an array is cut into files, derived from the blocks that will write it.

A file (a shard, or a chunk where there are no shards) has one writer for its whole life: two writers in one shard lose
data without a word in every zarr version. So files divide the cores of the blocks:

    core   |-----------------------|-----------------------|
    shard  |-----------|-----------|-----------|-----------|    what one file holds, at most 128 per axis
    chunk  |-----|-----|-----|-----|-----|-----|-----|-----|    what one read decodes, at most 64 per axis

Cores are nominal: along an axis that one block covers no second writer exists, so its length counts as rounded up to a
multiple of 32 and the file may reach past the end of the array. A core whose length has no divisor near 64 (a prime)
gets tiny chunks; the plan warns of those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import DTypeLike

from chunkflow.errors import PlanError
from chunkflow.geometry.box import Box, Triple, triple

LONGEST_CHUNK = 64
LONGEST_SHARD = 128
_NOMINAL_STEP = 32
ZSTD_LEVEL = 3


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """Shape, type and files of one array whose last three axes are z, y, x."""

    shape: Triple
    """Voxels along z, y, x."""
    dtype: str
    """numpy name, such as `uint16`."""
    chunk: Triple
    """What one read decodes."""
    shard: Triple | None
    """What one file holds; None where each chunk is a file."""
    zarr_format: int = 3
    """3 for OME-Zarr 0.5, 2 for 0.4."""
    leading: tuple[int, ...] = ()
    """Lengths of axes before z (time, channel); no file spans two positions along them."""
    level: int = field(default=ZSTD_LEVEL, compare=False)
    """Of zstd, for what is written; arrays that differ in nothing else are read alike."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype).name)
        if self.shard is not None and self.zarr_format != 3:
            raise PlanError(f"shard {self.shard} needs zarr format 3", 'Leave the shard out, or write format "0.5"')
        if self.shard is not None and any(s % c for s, c in zip(self.shard, self.chunk, strict=True)):
            raise PlanError(f"shard {self.shard} is not a multiple of chunk {self.chunk}", "Change one of the two")

    @property
    def write_unit(self) -> Triple:
        """What one file holds along z, y, x."""
        return self.shard or self.chunk

    @property
    def full_shape(self) -> tuple[int, ...]:
        """Shape of the array with its leading axes."""
        return (*self.leading, *self.shape)


def layout_for_core(
    core: Triple,
    shape: Triple,
    dtype: DTypeLike,
    zarr_format: int = 3,
    *,
    chunk: Triple | None = None,
    shard: Triple | None = None,
    level: int = ZSTD_LEVEL,
) -> ArrayLayout:
    """Chunks and shards that divide the cores of the blocks that write the array.

    Parameters
    ----------
    core : what one block writes along z, y, x; an axis it covers (core >= shape) is nominal.
    shape : the array.
    chunk, shard : what the user fixed instead of the largest chunk up to 64 and the largest shard up to 128.
    level : of zstd.

    Raises
    ------
    PlanError : if a core is not a multiple of the given shard or chunk, or the shard not of the chunk.
    """
    if zarr_format != 3 and shard is not None:
        raise PlanError(f"shard {shard} needs zarr format 3", 'Leave the shard out, or write format "0.5"')
    chunks, shards = [], []
    for axis in range(3):
        fixed_chunk, fixed_shard = (given[axis] if given else None for given in (chunk, shard))
        if any(given is not None and given < 1 for given in (fixed_chunk, fixed_shard)):
            raise PlanError(f"chunk {chunk} or shard {shard} is not positive", "Give numbers above 0")
        covered = core[axis] >= shape[axis]
        length = _nominal(shape[axis], fixed_shard or fixed_chunk) if covered else core[axis]
        chunk_length, shard_length = _lengths("zyx"[axis], length, fixed_chunk, fixed_shard)
        chunks.append(chunk_length)
        shards.append(shard_length)
    sharded = triple(tuple(shards)) if zarr_format == 3 else None
    return ArrayLayout(shape, np.dtype(dtype).name, triple(tuple(chunks)), sharded, zarr_format, level=level)


def _nominal(length: int, unit: int | None) -> int:
    """Length of the core along an axis that one block covers. A single plane stays one: padding costs 32 times."""
    step = unit or (_NOMINAL_STEP if length > 1 else 1)
    return -(-length // step) * step


def _lengths(axis: str, core: int, chunk: int | None, shard: int | None) -> tuple[int, int]:
    """Chunk and shard along one axis."""
    for name, unit in (("shard", shard), ("chunk", chunk)):
        if unit is not None and core % unit:
            raise PlanError(
                f"block of {core} voxels along {axis} is not a multiple of the {name} of {unit}",
                f"Choose blocks that are multiples of {unit} along {axis}, or another {name}",
            )
    if chunk is None:
        chunk = _largest_divisor(shard or core, LONGEST_CHUNK)
    if shard is None:
        shard = chunk * _largest_divisor(core // chunk, max(1, LONGEST_SHARD // chunk))
    if shard % chunk:
        raise PlanError(
            f"shard of {shard} along {axis} is not a multiple of the chunk of {chunk}", "Change one of them"
        )
    return chunk, shard


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)


def check_aligned(layout: ArrayLayout, box: Box) -> None:
    """Raise PlanError unless `box` lies in the array and is a union of whole files (or ends where the array does)."""
    if box.size == 0 or not Box.of_shape(layout.shape).contains(box):
        raise PlanError(f"box {box} is empty or reaches outside the array of shape {layout.shape}", "Clip it first")
    for axis, unit in enumerate(layout.write_unit):
        start, stop = box.start[axis], box.stop[axis]
        if start % unit or (stop % unit and stop != layout.shape[axis]):
            raise PlanError(
                f"box {box} cuts through files of {layout.write_unit} voxels along {'zyx'[axis]}",
                f"Write whole files: blocks must be multiples of {unit} there",
            )


def objects_of(layout: ArrayLayout, box: Box, at: tuple[int, ...] = ()) -> list[str]:
    """Names, relative to the array, of the files that hold `box`, in raster order.

    Parameters
    ----------
    at : position along the leading axes.
    """
    prefix = ("c",) if layout.zarr_format == 3 else ()
    return ["/".join((*prefix, *map(str, (*at, *position)))) for position in file_positions(layout.write_unit, box)]


def file_positions(unit: Triple, box: Box) -> Iterator[Triple]:
    """Grid positions, in raster order, of the files of `unit` voxels that hold `box`."""
    ranges = (range(a // u, -(-b // u)) for a, b, u in zip(box.start, box.stop, unit, strict=True))
    yield from ((z, y, x) for z, y, x in product(*ranges))
