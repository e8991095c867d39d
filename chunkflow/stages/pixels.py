"""A random forest over the whole volume: features of a voxel's surroundings in, the probability of one class out.

    pixels-histogram    counts of grey values                       -> pixels-scale: two percentiles of the volume
    pixels              image + halo, scaled -> features -> probability, its range     -> pixels-range

Features and forest are the same bits in any block (`kernels.features`, `kernels.trees`). Features take 40 bytes per
voxel and scale, a block at a time, and border voxels of neighbours are smoothed twice: large scales want large blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from typing import ClassVar

import numpy as np

from chunkflow.errors import ConfigError, ModelError
from chunkflow.geometry.box import Box, Triple
from chunkflow.kernels import features, trees
from chunkflow.models import pixels
from chunkflow.models.usage import Normalization
from chunkflow.stages.base import ArraySpec, Draft, Flow, Output, View, host
from chunkflow.stages.normalize import normalized, scale_drafts, scale_name
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.scan import Range, range_draft
from chunkflow.stages.threshold import Above

LONGEST_HALO = 192
"""Voxels that features may look at on each side: beyond, a block reads hundreds of times what it writes."""


@lru_cache(maxsize=2)
def _classifier(path: str, digest: str) -> pixels.PixelClassifier:
    """The classifier, once per process. A file that changed since the plan is refused."""
    found = pixels.load_pixels(path)
    if found.digest != digest:
        raise ModelError(f"the classifier {path} is not the one the run was planned with", "Plan the run again")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Classify:
    """Probability of one class over a core."""

    array: str
    path: str = field(metadata={"fingerprint": False})  # its digest says what it is
    digest: str
    column: int
    normalization: Normalization
    scales_um: tuple[float, ...]
    voxel_um: tuple[float, float, float]

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("probability",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {self.array: out.grow(features.halo(self.scales_um, self.voxel_um))}

    def run(self, view: View, out: Box) -> Output:
        region, forest = view.regions[self.array], _classifier(self.path, self.digest).forest
        found = features.features(
            normalized(host(region.data), self.normalization, view.values[scale_name(PixelClassifier.key)]),
            region.box.start,
            start=out.start,
            stop=out.stop,
            shape=view.shape,
            scales_um=self.scales_um,
            voxel_um=self.voxel_um,
        )
        probability = trees.probability(
            found,
            roots=forest.roots,
            feature=forest.feature,
            threshold=forest.threshold,
            left=forest.left,
            right=forest.right,
            value=np.ascontiguousarray(forest.value[:, self.column]),
        )
        return Output(arrays={"probability": probability})

    def working_bytes(self, out: Triple) -> int:
        return features.working_bytes(out, self.scales_um, self.voxel_um) + 12 * prod(out)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelClassifier:
    """Foreground probability from a random forest that was trained on scribbles.

    path : what `chunkflow train-pixels` wrote, .npz
    foreground : the class whose probability it is, by its name or its value in the scribbles; null is the second of two
    threshold : foreground is above it; null leaves the probability to a threshold stage
    """

    path: str
    foreground: int | str | None = None
    threshold: float | None = 0.5

    key: ClassVar[str] = "pixels"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        if flow.signal is None:
            raise ConfigError(f"pixels: the input is {flow.kind}, not an image", "Leave pixels out")
        classifier = pixels.load_pixels(self.path)
        try:
            column = classifier.column(self.foreground)
        except ConfigError as error:
            raise ConfigError(f"pixels: foreground {self.foreground!r}: {error.what}", error.remedy) from error
        self._check_features(classifier, flow)
        normalization = Normalization(kind="percentiles", percentiles=classifier.percentiles)
        classify = Classify(
            array=flow.signal,
            path=self.path,
            digest=classifier.digest,
            column=column,
            normalization=normalization,
            scales_um=classifier.scales_um,
            voxel_um=flow.scale.voxel_um,
        )
        steps = (classify, Range(array="probability", valid=flow.valid))
        written = ArraySpec(name="probability", dtype="float32")
        drafts = (
            *scale_drafts(flow, normalization, self.key),
            Draft(name="pixels", grid=flow.grid, steps=steps, writes=(written,), needs=(scale_name(self.key),)),
            range_draft(scan="pixels", merge="pixels-range", grid=flow.grid),
        )
        after = replace(flow, signal="probability", signal_dtype="float32", signal_range="pixels-range")
        if self.threshold is not None:
            above = Above(array="probability", value=self.threshold, valid=flow.valid)
            after = replace(after, mask_steps=(above,), mask_needs=())
        return drafts, after

    def _check_features(self, classifier: pixels.PixelClassifier, flow: Flow) -> None:
        if classifier.features != features.names(classifier.scales_um):
            raise ModelError(
                f"pixels: {self.path} was trained on other features than those known here", "Train it again"
            )
        check_scales(classifier.scales_um, flow.scale.voxel_um, self.key)


def check_scales(scales_um: Sequence[float], voxel_um: tuple[float, float, float], where: str) -> None:
    """Refuse scales whose features look too far to be computed in blocks.

    Raises
    ------
    ConfigError : with what `where` names in front.
    """
    largest = max(scales_um)
    if largest / min(voxel_um) > LONGEST_HALO or max(features.halo(scales_um, voxel_um)) > LONGEST_HALO:
        raise ConfigError(
            f"{where}: features of {largest:g} um look at more than {LONGEST_HALO} voxels of {min(voxel_um):g} um on "
            "each side",
            "Resample to larger voxels first, or train with smaller --scales-um",
        )
