"""Scores on boxes that no patch of a training reaches into.

    box  ->  patches on a lattice, reflected at its faces  ->  network  ->  blended by Gaussian weights  ->  scores

The boxes are few and are held in memory with their targets; counts of all of them are added up before a score is made,
so a box without foreground does not count as a perfect one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.analysis.scores import Errors, Hits, Overlaps, instance_scores
from chunkflow.errors import InputError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import blend
from chunkflow.models.targets import Target
from chunkflow.run.block_cache import BlockCache
from chunkflow.run.foreground import classes_of
from chunkflow.run.objects_of_outputs import objects_of, truth_of
from chunkflow.run.patches import Region

Apply = Callable[[NDArray[np.float32]], NDArray[np.float32]]

LOWER_IS_BETTER = ("adapted_rand", "voi_split", "voi_merge", "mse")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Example:
    """A box that is predicted: (C, Z, Y, X) image, labels or the other image, target and weight as in training."""

    name: str
    image: NDArray[np.float32]
    labels: NDArray[Any]
    target: NDArray[Any]
    weight: NDArray[np.float32]


def usual_score(target: Target) -> str:
    """What decides which weights are kept, where nobody says."""
    if target.kind == "image":
        return "mse"
    return "average_precision_50" if target.is_instances else "dice"


def score_names(target: Target) -> tuple[str, ...]:
    """What `scores` gives for a target."""
    objects = ("adapted_rand", "voi_split", "voi_merge", "average_precision_50", "average_precision_75")
    if target.kind == "image":
        return "mse", "psnr", "correlation"
    if target.kind == "classes":
        return "dice", "iou", *(f"dice_{k}" for k in range(1, target.classes))
    if target.kind == "distance":
        return "mse", "correlation", *objects, "average_precision"
    if target.kind == "foreground":
        return "dice", "iou"
    return "dice", "iou", *objects, "average_precision"


def examples(
    regions: Sequence[Region], target: Target, *, side: Triple, count: int, seed: int, cache: BlockCache
) -> list[Example]:
    """At most `count` boxes of at most `side` voxels, drawn by a seed, those with foreground first."""
    boxes = [(region, box) for region in regions for box in _boxes(region.box, side)]
    order = np.random.default_rng(seed).permutation(len(boxes))
    empty: list[Example] = []
    full: list[Example] = []
    for index in order.tolist():
        if len(full) == count:
            break
        region, box = boxes[index]
        has_foreground = target.kind == "image" or bool(classes_of(cache.read(region.labels, box), target).any())
        if has_foreground or len(empty) < count:
            (full if has_foreground else empty).append(_example(region, box, target, cache))
    if not full:
        raise InputError(
            "the part that is kept for validation holds no foreground", "Give validation: {pairs: [...]}, or share: 0"
        )
    return (full + empty)[:count]


def _boxes(whole: Box, side: Triple) -> Iterator[Box]:
    """A grid of boxes, as many as fit; one that is smaller where none does."""
    core = triple(tuple(min(n, s) for n, s in zip(whole.shape, side, strict=True)))
    grid = Grid(whole.shape, core)
    for index in range(len(grid)):
        found = grid.core_of(index)
        if found.shape == core:
            yield found.relative_to(triple(tuple(-v for v in whole.start)))


def _example(region: Region, box: Box, target: Target, cache: BlockCache) -> Example:
    voxel_um = region.labels.scale.voxel_um
    margin = target.margin_vox(voxel_um)
    wide = box.grow(margin)
    labels = cache.read_mirrored(region.labels, wide, region.box)
    if region.other is not None:
        labels = region.other.apply(labels)
    known = np.zeros(wide.shape, np.bool_)
    known[wide.clip(region.box).relative_to(wide.start).slices] = True
    made, weight = target.make(labels, known, voxel_um)
    core = box.relative_to(wide.start).slices
    images = [s.apply(cache.read(volume, box)) for volume, s in zip(region.images, region.scalings, strict=True)]
    return Example(
        name=f"{region.images[0].path} {box}",
        image=np.stack(images),
        labels=labels[core],
        target=made[(slice(None), *core)],
        weight=weight[(slice(None), *core)],
    )


def predicted(apply: Apply, image: NDArray[np.float32], patch: Triple, stride: Triple) -> NDArray[np.float32]:
    """(K, Z, Y, X) outputs of a box, from patches that share about a quarter and are blended."""
    shape = triple(image.shape[1:])
    steps = [p - (p // 4 // s * s if n > p else 0) for n, p, s in zip(shape, patch, stride, strict=True)]
    weights = blend.gaussian_weights(patch)
    total, norm = None, np.zeros(shape, np.float32)
    for at in product(*(range(0, max(1, n - p + s), s) for n, p, s in zip(shape, patch, steps, strict=True))):
        first = triple(at)
        cut = np.stack([blend.cut_patch(channel, (0, 0, 0), first, patch, shape) for channel in image])
        outputs = apply(cut[None])[0]
        total = np.zeros((len(outputs), *shape), np.float32) if total is None else total
        covered = Box(first, triple(tuple(f + p for f, p in zip(first, patch, strict=True)))).clip(Box.of_shape(shape))
        part = covered.relative_to(first).slices
        total[(slice(None), *covered.slices)] += weights[part] * outputs[(slice(None), *part)]
        norm[covered.slices] += weights[part]
    assert total is not None
    return np.asarray(total / norm)


def scores(pairs: Sequence[tuple[Example, NDArray[np.float32]]], target: Target) -> dict[str, float]:
    """Scores of predicted boxes, those of `score_names`."""
    found: dict[str, float] = {}
    if target.kind in ("image", "distance"):
        errors = sum((Errors.of(p[0], e.target[0], e.weight[0] > 0) for e, p in pairs), Errors())
        found |= {"mse": errors.mse, "psnr": errors.psnr, "correlation": errors.correlation}
    elif target.kind == "classes":
        found |= _scores_of_classes(pairs, target)
    else:
        channels = 1 if target.kind == "foreground+boundary" else len(pairs[0][1])
        hits = sum(
            (Hits.of(p[k] > 0.5, e.target[k] >= 0.5, _weight(e, k)) for e, p in pairs for k in range(channels)), Hits()
        )
        found |= {"dice": hits.dice, "iou": hits.iou}
    if target.is_instances:
        overlaps = []
        for example, outputs in pairs:
            # Not the weights: those of affinities are pairs', and every box lies inside its volume.
            known = np.ones(outputs.shape[1:], np.bool_) if target.ignore is None else example.labels != target.ignore
            overlaps.append(Overlaps.of(truth_of(example.labels, target, known), objects_of(outputs, target), known))
        found |= instance_scores(overlaps)
    return {name: found[name] for name in score_names(target)}


def _weight(example: Example, channel: int) -> NDArray[np.bool_]:
    return np.asarray(example.weight[min(channel, len(example.weight) - 1)] > 0)


def _scores_of_classes(pairs: Sequence[tuple[Example, NDArray[np.float32]]], target: Target) -> dict[str, float]:
    """Of each class but background, and their means over the classes that occur."""
    by_class = {
        k: sum((Hits.of(p.argmax(0) == k, e.target[0] == k, e.weight[0] > 0) for e, p in pairs), Hits())
        for k in range(1, target.classes)
    }
    occur = [hits for hits in by_class.values() if hits.both + hits.true_only + hits.found_only] or [Hits()]
    return {
        "dice": float(np.mean([hits.dice for hits in occur])),
        "iou": float(np.mean([hits.iou for hits in occur])),
        **{f"dice_{k}": hits.dice for k, hits in by_class.items()},
    }


def validator(
    boxes: Sequence[Example], target: Target, patch: Triple, stride: Triple
) -> Callable[[Apply], Mapping[str, float]]:
    """What a training calls now and then."""

    def validate(apply: Apply) -> Mapping[str, float]:
        return scores([(box, predicted(apply, box.image, patch, stride)) for box in boxes], target)

    return validate
