"""Samples for a training, cut from volumes on disk.

    number  ->  place (near an object, or anywhere)  ->  geometry  ->  read exactly what it needs  ->  turned and bent
    image:   crop -> normalise -> look -> compress          labels:  targets and weights -> crop

A sample follows from its number and the seed alone, so it is the same in whatever order and thread it is made. A region
is mirrored at its faces; beyond them nothing counts. That keeps what validates out of training, and makes targets near
a face what they would be if objects went on there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from chunkflow.errors import InputError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.models.augment import Augment, Float, generator
from chunkflow.models.targets import Target
from chunkflow.run.block_cache import BlockCache
from chunkflow.run.foreground import Foreground, classes_of
from chunkflow.run.normalising import Scaling
from chunkflow.storage.volume import Volume


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Region:
    """A part of a pair that patches are cut from.

    images : a volume per channel; labels : labels, or the other image
    scalings : of each channel; other : of the other image, where that is the target
    """

    images: tuple[Volume, ...]
    labels: Volume
    box: Box
    scalings: tuple[Scaling, ...]
    other: Scaling | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SampledPatches:
    """Samples by number; see the module. Threads may ask at once."""

    regions: tuple[Region, ...]
    foreground: Foreground | None
    share: float
    """Of samples near an object."""
    target: Target
    patch: Triple
    augment: Augment
    seed: int
    cache: BlockCache
    beyond: float = 0.0
    """How far a patch may reach beyond the faces of a region, as a share of its side."""

    def sample(self, number: int) -> tuple[Float, NDArray[Any], Float]:
        """Image (C, Z, Y, X) float32, target (K, Z, Y, X) and weight (1 or K, Z, Y, X) float32."""
        region, start = self._place(generator(self.seed, number, "place"))
        voxel_um = region.labels.scale.voxel_um
        reach = self.augment.reach_vox
        margin = triple(tuple(max(reach if n > 1 else 0, m) if n > 1 else 0 for n, m in self._sides(voxel_um)))
        shape = triple(tuple(n + 2 * m for n, m in zip(self.patch, margin, strict=True)))
        geometry = self.augment.geometry(self.seed, number, shape, voxel_um)
        first = triple(tuple(s - m for s, m in zip(start, margin, strict=True)))
        box = Box(*geometry.box).relative_to(triple(tuple(-v for v in first)))
        core = tuple(slice(m, m + n) for m, n in zip(margin, self.patch, strict=True))

        labels = self.cache.read_mirrored(region.labels, box, region.box)
        labels = geometry.labels(labels) if region.other is None else region.other.apply(geometry.image(labels))
        known = geometry.labels(_inside(box, region.box))
        target, weight = self.target.make(labels, known, voxel_um)

        wide = tuple(slice(m - min(m, reach), m + n + min(m, reach)) for m, n in zip(margin, self.patch, strict=True))
        near = tuple(slice(min(m, reach), min(m, reach) + n) for m, n in zip(margin, self.patch, strict=True))
        images = []
        for channel, (volume, scaling) in enumerate(zip(region.images, region.scalings, strict=True)):
            grey = geometry.image(self.cache.read_mirrored(volume, box, region.box))[wide]
            seen = self.augment.look(scaling.linear(grey), self.seed, number, channel=channel, dark=scaling.dark)
            images.append(scaling.compressed(seen[near]))
        return (
            np.stack(images).astype(np.float32, copy=False),
            np.ascontiguousarray(target[(slice(None), *core)]),
            np.ascontiguousarray(weight[(slice(None), *core)]),
        )

    def _sides(self, voxel_um: tuple[float, float, float]) -> list[tuple[int, int]]:
        return list(zip(self.patch, self.target.margin_vox(voxel_um), strict=True))

    def _place(self, rng: Generator) -> tuple[Region, Triple]:
        """Region and first voxel of a patch."""
        near = rng.random() < self.share
        shift = rng.uniform(-0.25, 0.25, 3)
        if near and self.foreground is not None:
            index, cell, chosen, which = self.foreground.pick(rng)
            region = self.regions[index]
            classes = classes_of(self.cache.read(region.labels, cell), self.target)
            voxel = np.array(np.unravel_index(np.flatnonzero(classes == chosen + 1)[which], cell.shape))
            first = np.array(cell.start) + voxel - np.array(self.patch) // 2 + np.rint(shift * self.patch).astype(int)
        else:
            sizes = np.array([region.box.size for region in self.regions], np.float64)
            region = self.regions[int(rng.choice(len(sizes), p=sizes / sizes.sum()))]
            room = [max(0, n + 2 * b - p) for n, b, p in zip(region.box.shape, self._beyond, self.patch, strict=True)]
            first = np.array(region.box.start) - self._beyond + rng.integers(0, np.array(room) + 1)
        lows = [a - b for a, b in zip(region.box.start, self._beyond, strict=True)]
        highs = [a + b for a, b in zip(region.box.stop, self._beyond, strict=True)]
        return region, triple(
            tuple(
                min(max(int(f), low), high - p) if high - low >= p else low - (p - (high - low)) // 2
                for f, p, low, high in zip(first, self.patch, lows, highs, strict=True)
            )
        )

    @property
    def _beyond(self) -> Triple:
        """Voxels beyond the faces; none along an axis of one voxel."""
        z, y, x = (round(self.beyond * n) if n > 1 else 0 for n in self.patch)
        return z, y, x


def _inside(box: Box, region: Box) -> NDArray[np.bool_]:
    """Which voxels of a box lie in a region."""
    known = np.zeros(box.shape, np.bool_)
    known[box.clip(region).relative_to(box.start).slices] = True
    return known


def check_labels(volume: Volume, target: Target) -> None:
    """Refuse labels that are no whole numbers.

    Raises
    ------
    InputError : they are floats.
    """
    if target.kind != "image" and volume.dtype.kind not in "biu":
        raise InputError(
            f"{volume.path} holds {volume.dtype} values, not labels",
            "Store whole numbers, or use target: {kind: image}",
        )
