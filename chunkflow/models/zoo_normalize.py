"""A normalization and an activation on one array in memory: what test tensors of a package are made and checked with.

A run does the same from statistics of the whole volume and patch by patch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chunkflow.errors import ModelError
from chunkflow.models.usage import Normalization

Array = np.ndarray[Any, Any]


def normalized(image: Array, scaling: Normalization) -> Array:
    """float32 of (C, Z, Y, X): (image - offset) / scale, with statistics of each channel itself, or of all of them
    together where the scaling says so; then asinh(a v) / asinh(a).

    Raises
    ------
    ModelError : the array is one value throughout where statistics are asked for.
    """
    parts = [image] if scaling.together else list(image[:, None])
    numbers = [(part, _offset_and_scale(part, scaling)) for part in parts]
    values = np.concatenate([(part.astype(np.float64) - offset) / scale for part, (offset, scale) in numbers])
    if scaling.asinh is not None:
        values = np.arcsinh(scaling.asinh * values) / np.arcsinh(scaling.asinh)
    return values.astype(np.float32)


def activated(logits: Array, activation: str) -> Array:
    """float32: probabilities of (N, K, ...) outputs; softmax over K."""
    values = logits.astype(np.float64)
    if activation == "sigmoid":
        values = 0.5 * (1 + np.tanh(values / 2))  # nothing overflows
    if activation == "softmax":
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        values = powers / powers.sum(axis=1, keepdims=True)
    return values.astype(np.float32)


def _offset_and_scale(image: Array, scaling: Normalization) -> tuple[float, float]:
    if scaling.kind == "none":
        return 0.0, 1.0
    if scaling.kind == "linear":
        return scaling.offset, scaling.scale
    if scaling.kind == "percentiles":
        low, high = (float(value) for value in np.percentile(image, scaling.percentiles))
        offset, scale = low, high - low
    else:
        offset, scale = float(image.mean(dtype=np.float64)), float(image.std(dtype=np.float64))
    if scale <= 0:
        raise ModelError("the image is one value throughout", "Give one with something in it")
    return offset, scale
