"""The inputs of a plan: opened, checked against what the pipeline says of them, and known from a changed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from chunkflow.errors import UsageError
from chunkflow.plan.pipeline import Pipeline
from chunkflow.plan.reading import files_of
from chunkflow.storage.identity import identity
from chunkflow.storage.inventory import missing_chunks
from chunkflow.storage.layout import ArrayLayout
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.tiff_stack import TiffStack
from chunkflow.storage.volume import Volume


def open_inputs(pipeline: Pipeline, volume: Volume | str | Path | None) -> tuple[Volume, Volume | None]:
    """The image and the user's mask.

    Raises
    ------
    UsageError : and its kinds, where they do not fit each other or the pipeline.
    """
    options = pipeline.input
    if volume is None and options.path is None:
        raise UsageError("no input is named", "Give --input IN, or input: {path: IN} in the pipeline")
    if isinstance(volume, Volume):
        source = volume
    else:
        path = str(volume if volume is not None else options.path)
        source = open_volume(path, channel=options.channel, time=options.time_point, level=options.level)
    if options.voxel_um is not None:
        source = replace(source, scale=replace(source.scale, voxel_um=options.voxel_um))
    if options.kind == "labels" and source.dtype.kind not in "iu":
        raise UsageError(f"the input holds {source.dtype}, not labels", "Use kind: image, or a volume of integers")
    if options.nodata is not None and not _holds(source.dtype, options.nodata):
        raise UsageError(
            f"nodata {options.nodata} is no value of the input's {source.dtype} voxels",
            "Give a value that occurs in it",
        )
    if options.mask is None:
        return source, None
    mask = open_volume(options.mask)
    if any(abs(a - b) > 1e-3 * b for a, b in zip(mask.scale.voxel_um, source.scale.voxel_um, strict=True)):
        raise UsageError(
            f"the mask {options.mask} has voxels of {mask.scale.voxel_um} um, the input of {source.scale.voxel_um}",
            "Give a mask on the input's grid",
        )
    if mask.shape != source.shape:
        raise UsageError(
            f"the mask {options.mask} has shape {mask.shape}, the input {source.shape}",
            "Give a mask on the input's grid",
        )
    return source, mask


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a voxel of that type can have the value."""
    if dtype.kind == "f":
        return bool(np.isfinite(value))
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.iinfo(np.uint8)
    return float(value).is_integer() and limits.min <= value <= limits.max


def input_identity(source: Volume, mask: Volume | None, pipeline: Pipeline) -> Mapping[str, Any]:
    """What the input is known by, and how many of its chunks are missing.

    Raises
    ------
    UsageError : some are, and the pipeline does not allow it.
    """
    known = identity(source)
    # Of an array without any file, nothing is looked for: 10^6 names take a minute.
    missing = missing_chunks(source) if known["files"] else files_of(source.layout)
    if missing and pipeline.input.missing == "fail":
        raise UsageError(
            f"{missing} chunks of {source.path} are missing", "Restore them, or read them as zeros with missing: auto"
        )
    seen: dict[str, Any] = {"image": known, "missing": missing}
    if mask is not None:
        seen["mask"] = identity(mask)
    return seen


def layout_of(opened: Volume | TiffStack) -> ArrayLayout:
    """How an input is cut into files; a TIFF is one, read plane by plane."""
    if isinstance(opened, Volume):
        return opened.layout
    _, y, x = opened.shape
    return ArrayLayout(opened.shape, opened.dtype.name, (1, y, x), opened.shape)
