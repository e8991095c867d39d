"""The volumes of a training: opened, checked against each other, and divided into what is learnt and what validates.

    pairs  ->  opened, shapes and voxel sizes compared  ->  regions to learn from | regions to validate on

Nothing is read before all of them are known to fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from chunkflow.errors import ConfigError, InputError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.models.usage import Normalization
from chunkflow.run.normalising import Scaling, scaling_of
from chunkflow.run.patches import Region, check_labels
from chunkflow.run.training import Pair, Training
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.volume import Volume

SAME_VOXEL = 0.01
"""Relative difference below which two voxel sizes count as one."""


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A pair of one shape and voxel size: a volume per channel, and labels."""

    images: tuple[Volume, ...]
    labels: Volume

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """All of them."""
        return *self.images, self.labels


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """Pairs, those that validate behind the others, and which part of each is for what.

    learn, validate : (index of the pair, box)
    """

    pairs: tuple[Opened, ...]
    learn: tuple[tuple[int, Box], ...]
    validate: tuple[tuple[int, Box], ...]

    @property
    def voxel_um(self) -> tuple[float, float, float]:
        """Of all of them."""
        return self.pairs[0].labels.scale.voxel_um


def open_data(training: Training) -> Data:
    """Open and check all pairs; reads no voxel.

    Raises
    ------
    InputError : one cannot be opened, or shapes or voxel sizes differ.
    ConfigError : there is too little to keep some for validation.
    """
    own = [_open(pair, training) for pair in training.pairs]
    others = [_open(pair, training) for pair in training.validation.pairs]
    first = own[0].labels
    for pair in (*own[1:], *others):
        if not _is_same(pair.labels.scale.voxel_um, first.scale.voxel_um):
            raise InputError(
                f"{pair.labels.path} has voxels of {_sides(pair.labels)} um, {first.path} of {_sides(first)} um",
                "Resample one of them: a network learns one voxel size",
            )
    whole = [(index, pair.labels.box) for index, pair in enumerate((*own, *others))]
    if others or training.validation.share == 0:
        return Data((*own, *others), tuple(whole[: len(own)]), tuple(whole[len(own) :]))
    learn, validate = _divided(training, [pair.labels.box for pair in own])
    return Data(tuple(own), learn, validate)


def _open(pair: Pair, training: Training) -> Opened:
    channels = pair.channel if isinstance(pair.channel, tuple) else (pair.channel,)
    images = tuple(open_volume(pair.image, channel=c, time=pair.time, level=pair.level) for c in channels)
    labels = open_volume(pair.labels, channel=pair.labels_channel, time=pair.time, level=pair.level)
    image = images[0]
    if image.shape != labels.shape:
        raise InputError(
            f"{image.path} has {_by(image.shape)} voxels, {labels.path} {_by(labels.shape)}",
            "Give images and labels on one grid",
        )
    if not _is_same(image.scale.voxel_um, labels.scale.voxel_um):
        raise InputError(
            f"{image.path} has voxels of {_sides(image)} um, {labels.path} of {_sides(labels)} um",
            "Correct the metadata of one of them",
        )
    check_labels(labels, training.target)
    return Opened(images, labels)


def _divided(
    training: Training, boxes: Sequence[Box]
) -> tuple[tuple[tuple[int, Box], ...], tuple[tuple[int, Box], ...]]:
    """Whole volumes where there are enough for the share, else a slab of each."""
    share = training.validation.share
    kept = int(share * len(boxes) + 1e-9)
    if kept >= 1:
        order = np.random.default_rng(training.recipe.seed).permutation(len(boxes)).tolist()
        chosen = set(order[:kept])
        learn = tuple((i, box) for i, box in enumerate(boxes) if i not in chosen)
        return learn, tuple((i, boxes[i]) for i in sorted(chosen))
    parts = [_cut(box, share, training.patch) for box in boxes]
    return tuple((i, a) for i, (a, _) in enumerate(parts)), tuple((i, b) for i, (_, b) in enumerate(parts))


def _cut(box: Box, share: float, patch: Triple) -> tuple[Box, Box]:
    """A box without the end of its longest axis, and that end, which is a patch long at least."""
    axis = max(range(3), key=lambda a: (box.shape[a], a))
    length = max(round(share * box.shape[axis]), patch[axis])
    left = box.shape[axis] - length
    if left < patch[axis]:
        raise ConfigError(
            f"{_by(box.shape)} voxels are too few to keep a slab of {length} for validation beside a patch of"
            f" {patch[axis]}",
            "Use a smaller patch, validation: {pairs: [...]}, or validation: {share: 0}",
        )
    middle = box.start[axis] + left
    stop, start = list(box.stop), list(box.start)
    stop[axis] = start[axis] = middle
    return Box(box.start, triple(stop)), Box(triple(start), box.stop)


def regions_of(data: Data, training: Training) -> tuple[tuple[Region, ...], tuple[Region, ...]]:
    """What is learnt from and what validates, with the numbers that grey values are scaled by: reads all images."""
    found = [_scalings(pair, training) for pair in data.pairs]

    def region(index: int, box: Box) -> Region:
        pair, (scalings, other) = data.pairs[index], found[index]
        return Region(images=pair.images, labels=pair.labels, box=box, scalings=scalings, other=other)

    return tuple(region(*part) for part in data.learn), tuple(region(*part) for part in data.validate)


def _scalings(pair: Opened, training: Training) -> tuple[tuple[Scaling, ...], Scaling | None]:
    assert training.normalization is not None  # `train` settles it
    scalings = tuple(scaling_of(volume, training.normalization) for volume in pair.images)
    if training.target.kind != "image":
        return scalings, None
    usual: Normalization = replace(training.normalization, asinh=None)
    return scalings, scaling_of(pair.labels, training.target_normalization or usual)


def _is_same(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(abs(x - y) <= SAME_VOXEL * x for x, y in zip(a, b, strict=True))


def _sides(volume: Volume) -> str:
    return " x ".join(f"{v:.4g}" for v in volume.scale.voxel_um)


def _by(shape: Triple) -> str:
    return " x ".join(map(str, shape))
