"""One threshold for all images of a batch: by the rule of the pipeline, from their histograms added up.

    pipeline up to its threshold  ->  a histogram per image  ->  one on common bins  ->  value
    the whole pipeline with that value, `fixed`                                       for every image

Images whose voxels are whole numbers have a bin per value, and their counts add exactly. Others have 65,536 bins
between their own extremes: a count goes to the common bin of its centre, which moves it by half a bin at most. Images
that fail are left out, so one more image may move the threshold, and every result is then computed anew from there
on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ConfigError
from chunkflow.kernels.threshold import EQUAL_BINS, Bins
from chunkflow.kernels.threshold_rules import CLASS_RULES, RULES
from chunkflow.plan.pipeline import Pipeline
from chunkflow.stages.pixels import PixelClassifier
from chunkflow.stages.predict import Predict
from chunkflow.stages.threshold import BATCH, Threshold

Histogram = Mapping[str, NDArray[Any]]

WHOLE_BINS = 2**17
"""Most common bins of whole numbers; images of 16 bits have half as many."""


def shared_stage(pipeline: Pipeline) -> Threshold | None:
    """The stage whose threshold all images share, if the pipeline has one."""
    found = (stage for stage in pipeline.stages if isinstance(stage, Threshold) and stage.from_ == BATCH)
    return next(found, None)


def counting(pipeline: Pipeline, stage: Threshold) -> Pipeline:
    """The pipeline as far as the histogram; what was made of the image so far is kept for the rest."""
    own = replace(stage, from_=None)
    before = pipeline.stages[: list(pipeline.stages).index(stage)]
    made = ("probability",) if any(isinstance(found, Predict | PixelClassifier) for found in before) else ()
    kept = replace(pipeline.output, save=("image", *made), pyramid="none")
    return replace(pipeline, stages=(*before, own), output=kept)


def with_value(pipeline: Pipeline, stage: Threshold, value: float) -> Pipeline:
    """The pipeline with the shared threshold as a number."""
    fixed = Threshold(method="fixed", value=value, smooth_um=stage.smooth_um)
    return replace(pipeline, stages=tuple(fixed if found is stage else found for found in pipeline.stages))


def common_threshold(histograms: Sequence[Histogram], stage: Threshold) -> float:
    """The threshold of all images as if they were one volume.

    Parameters
    ----------
    histograms : each with `histogram` (N,) int64 counts and `edges` (N + 1,) ascending, of equal bins.

    Raises
    ------
    ConfigError : there is no histogram.
    InputError : all voxels have one value.
    """
    if not histograms:
        raise ConfigError("threshold: from batch, and no image of the batch could be counted", "See why they failed")
    bins = _common_bins(histograms)
    counts = np.zeros(bins.count, np.int64)
    for found in histograms:
        edges = found["edges"]
        at = np.floor(((edges[:-1] + edges[1:]) / 2 - bins.first) / bins.width).astype(np.int64)
        np.add.at(counts, at.clip(0, bins.count - 1), found["histogram"])
    if stage.method in RULES:
        return float(RULES[stage.method](counts, bins))
    return float(CLASS_RULES[stage.method](counts, bins, stage.class_count)[stage.above_number - 1])


def _common_bins(histograms: Sequence[Histogram]) -> Bins:
    """One bin per value where all images have whole numbers, else equal ones between the extremes of all."""
    low = min(float(found["edges"][0]) for found in histograms)
    high = max(float(found["edges"][-1]) for found in histograms)
    whole = all(np.all(np.diff(f["edges"][:2]) == 1.0) and f["edges"][0] % 1 == 0.5 for f in histograms)
    if whole and high - low <= WHOLE_BINS:
        return Bins(low, 1.0, round(high - low))
    return Bins(low, (high - low) / EQUAL_BINS, EQUAL_BINS)
