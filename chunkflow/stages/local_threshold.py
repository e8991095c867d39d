"""Foreground by a threshold of each voxel's own, from a window around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.box import Box, Triple
from chunkflow.kernels import filters, local_threshold
from chunkflow.stages.base import Output, View, host
from chunkflow.stages.scan import DATA, INSIDE

LocalMethod = Literal["sauvola", "niblack", "adaptive-mean", "adaptive-gaussian"]
RULES: Mapping[str, local_threshold.Rule] = {"sauvola": "sauvola", "niblack": "niblack", "adaptive-mean": "mean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAbove:
    """Foreground: usable voxels above the threshold of their window, in which usable voxels alone count.

    radius : of the window, voxels; sigma_vox : of the Gaussian in its place, for "adaptive-gaussian"
    k, spread, offset : see `kernels.local_threshold.LocalRule`; no spread is half the range of the volume
    floor : thresholds are no lower
    """

    array: str
    valid: str | None
    limits: str
    dtype: str
    method: str
    radius: Triple
    sigma_vox: tuple[float, float, float]
    k: float
    spread: float | None
    offset: float
    floor: float | None

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("mask",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        box = out.grow(self._halo)
        return {self.array: box, self.valid: box} if self.valid else {self.array: box}

    @property
    def _halo(self) -> Triple:
        return self.radius if self.method in RULES else filters.smooth_halo(self.sigma_vox)

    def run(self, view: View, out: Box) -> Output:
        region = view.regions[self.array]
        valid = None if self.valid is None else host(view.regions[self.valid].cut(region.box)) == DATA | INSIDE
        limits = view.values[self.limits]
        low, high = float(limits["low"][0]), float(limits["high"][0])
        inside = out.relative_to(region.box.start)
        mask = np.empty(out.shape, np.uint8)
        planes = self._planes(host(region.data), valid, range(inside.start[0], inside.stop[0]), (low, high))
        for plane, (values, thresholds) in zip(mask, planes, strict=True):
            if self.floor is not None:
                thresholds = np.maximum(thresholds, self.floor)
            plane[:] = (values > thresholds)[inside.slices[1:]]
        if valid is not None:
            mask &= valid[inside.slices]
        return Output(arrays={"mask": mask})

    def _planes(
        self, image: NDArray[Any], valid: NDArray[np.bool_] | None, planes: range, limits: tuple[float, float]
    ) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Values and thresholds of planes of an image, plane after plane."""
        if self.method not in RULES:
            smooth = filters.gaussian_smooth(image, valid, self.sigma_vox)
            return ((image[z].astype(np.float64), smooth[z].astype(np.float64) - self.offset) for z in planes)
        spread = self.spread or (limits[1] - limits[0]) / 2 or 1.0
        rule = local_threshold.LocalRule(rule=RULES[self.method], k=self.k, spread=spread, offset=self.offset)
        return local_threshold.threshold_planes(
            image, valid, planes=planes, radius=self.radius, rule=rule, limits=limits, dtype=self.dtype
        )

    def working_bytes(self, out: Triple) -> int:
        depth, *plane = (n + 2 * h for n, h in zip(out, self._halo, strict=True))
        smoothing = 0 if self.method in RULES else 20 * depth
        return (depth + smoothing + 200) * prod(plane)
