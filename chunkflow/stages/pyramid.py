"""Coarser copies of every saved array, each level from the level below, so that viewers open terabytes.

A level halves y and x, and z while z is not coarser than they are, until no halved axis is longer than 256. Images are
averaged over the voxels that exist; labels take the most frequent id, ties the smallest that is not background.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.geometry.scale import Scale
from chunkflow.kernels import downsample
from chunkflow.stages.base import ArraySpec, Draft, Output, View

SLAB_VOXELS = 2**18
LONGEST = 256  # voxels of a halved axis at which a pyramid ends

PyramidMode = Literal["auto", "xy", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coarsen:
    """One level of one array from the level below."""

    source: str
    factors: Triple
    source_shape: Triple
    labels: bool

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("coarse",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        start = triple(tuple(a * f for a, f in zip(out.start, self.factors, strict=True)))
        stop = triple(tuple(b * f for b, f in zip(out.stop, self.factors, strict=True)))
        return {self.source: Box(start, stop).clip(Box.of_shape(self.source_shape))}

    def run(self, view: View, out: Box) -> Output:
        reduce = downsample.mode2 if self.labels else downsample.mean2
        finer = view.regions[self.source].data
        coarse = np.empty(out.shape, finer.dtype)
        rows = _rows_of(out.shape)
        for row in range(0, out.shape[0], rows):  # a slab at a time: the mode of 8 voxels takes 52 bytes
            slab = finer[row * self.factors[0] : (row + rows) * self.factors[0]]
            coarse[row : row + rows] = reduce(np.ascontiguousarray(slab), self.factors)
        return Output(arrays={"coarse": coarse})

    def working_bytes(self, out: Triple) -> int:
        _, y, x = out
        return 56 * min(_rows_of(out), out[0]) * y * x  # 52 measured


def _rows_of(out: Triple) -> int:
    """Planes of a slab."""
    return max(1, SLAB_VOXELS // (out[1] * out[2]))


def factors_of(shape: Triple, voxel_um: tuple[float, float, float], mode: PyramidMode) -> Triple | None:
    """How the next level shrinks each axis, or None at the top of the pyramid."""
    if mode == "none":
        return None
    z = 2 if mode == "auto" and voxel_um[0] <= min(voxel_um[1:]) * (1 + 1e-9) else 1
    factors = (z, 2, 2)
    longest = max(n for n, f in zip(shape, factors, strict=True) if f > 1)
    return factors if longest > LONGEST else None


def levels(
    *, array: str, dtype: str, labels: bool, shape: Triple, scale: Scale, block: Triple, mode: PyramidMode
) -> tuple[list[Draft], list[Scale]]:
    """Drafts of all levels above the array itself, and the scale of each level from 0 on.

    Level k of an array is named ARRAY@k.
    """
    drafts: list[Draft] = []
    scales = [scale]
    source = array
    while (factors := factors_of(shape, scale.voxel_um, mode)) is not None:
        step = Coarsen(source=source, factors=factors, source_shape=shape, labels=labels)
        shape = triple(tuple(-(-n // f) for n, f in zip(shape, factors, strict=True)))
        scale = scale.coarsened(factors)
        source = f"{array}@{len(scales)}"
        spec = ArraySpec(name=source, dtype=dtype, product="coarse")
        needs = ("label-merge",) if dtype == "labels" else ()
        drafts.append(
            Draft(name=f"pyramid-{source}", grid=Grid(shape, block), steps=(step,), writes=(spec,), needs=needs)
        )
        scales.append(scale)
    return drafts, scales
