"""The inputs of a plan: opened, checked against what the pipeline says of them, and known from a changed one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from chunkflow.errors import UsageError
from chunkflow.plan.opened import Named, Opened, identity_of, open_on_grid
from chunkflow.plan.pipeline import Pipeline
from chunkflow.plan.reading import files_of
from chunkflow.storage.identity import identity
from chunkflow.storage.inventory import missing_chunks
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.volume import Volume


def open_inputs(pipeline: Pipeline, volume: Volume | str | Path | None) -> tuple[Volume, Opened | None]:
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
    time = None if options.time == "all" else options.time
    return source, open_on_grid(Named(path=options.mask, called="the mask"), source, time=time)


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether a voxel of that type can have the value."""
    if dtype.kind == "f":
        return bool(np.isfinite(value))
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.iinfo(np.uint8)
    return (isinstance(value, int) or value.is_integer()) and limits.min <= value <= limits.max


def input_identity(source: Volume, mask: Opened | None, pipeline: Pipeline) -> Mapping[str, Any]:
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
        seen["mask"] = identity_of(mask)
    return seen
