"""What a file is, before anything is computed with it: an OME-Zarr image, a TIFF or a network. Reads no voxel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from chunkflow.errors import InputNotFoundError
from chunkflow.models import load
from chunkflow.storage.omezarr import image_facts
from chunkflow.storage.tiff import read_tiff
from chunkflow.storage.volume import Volume, missing_chunks

Facts = Mapping[str, Any]

TIFF_SUFFIXES = (".tif", ".tiff")
MODEL_SUFFIXES = (".safetensors", ".pt", ".pth", ".pt2")


def check(path: str | Path) -> Facts:
    """The facts about an image or a network, as JSON values by name, in the order to show them.

    Raises
    ------
    InputError, ModelError : it is neither, or it is one that cannot be used.
    """
    place = Path(path)
    if not place.exists():
        raise InputNotFoundError(f"{path} does not exist", "Check the path")
    if place.suffix in MODEL_SUFFIXES or (place / load.HEADER).is_file():
        return _model(place)
    if place.is_file() and place.suffix.lower() in TIFF_SUFFIXES:
        return _tiff(place)
    return _image(place)


def _model(path: Path) -> Facts:
    model = load.load_model(path)
    return {
        "kind": "network",
        "path": str(path),
        "architecture": type(model.module).__name__,
        "stride": model.stride,
        "out_channels": model.out_channels,
        "digest": model.digest,
    }


def _tiff(path: Path) -> Facts:
    image = read_tiff(path)
    return {
        "kind": "TIFF (import it to run a pipeline on it)",
        "path": str(path),
        "axes": image.axes,
        "shape": list(image.shape),
        "dtype": str(image.dtype),
        "channels": list(image.channels),
        "voxel_um": None if image.voxel_um is None else list(image.voxel_um),
        "voxel_um_from": image.voxel_source,
    }


def _image(path: Path) -> Facts:
    image = image_facts(path)
    finest = image.levels[0]
    return {
        "kind": f"OME-Zarr {'0.4' if finest.layout.zarr_format == 2 else '0.5'}",
        "path": image.path,
        "axes": finest.axes,
        "shape": list(finest.array.shape),
        "dtype": str(finest.dtype),
        "channels": [name or str(number) for number, name in enumerate(image.channels)],
        "times": image.times,
        "voxel_um": list(finest.scale.voxel_um),
        "chunk": list(finest.layout.chunk),
        "shard": None if finest.layout.shard is None else list(finest.layout.shard),
        "levels": [list(level.shape) for level in image.levels],
        "missing_chunks": [_all_missing(level) for level in image.levels],
    }


def _all_missing(level: Volume) -> int:
    """Missing files over all channels and time points."""
    return sum(missing_chunks(replace(level, at=at)) for at in np.ndindex(level.layout.leading))
