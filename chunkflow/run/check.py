"""What a file is, before anything is computed with it: an OME-Zarr image, a TIFF or a network. Reads no voxel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from chunkflow.errors import InputNotFoundError
from chunkflow.models import files, load, pixels
from chunkflow.models.model import Model
from chunkflow.models.trace import reach
from chunkflow.models.usage import Normalization
from chunkflow.stages.predict import packaged
from chunkflow.storage.copies import HEADERS, copied
from chunkflow.storage.inventory import missing_chunks
from chunkflow.storage.omezarr import image_facts
from chunkflow.storage.stores import Place, is_url, place_of
from chunkflow.storage.tiff import read_tiff
from chunkflow.storage.volume import Volume

Facts = Mapping[str, Any]

TIFF_SUFFIXES = (".tif", ".tiff")


def check(path: str | Path) -> Facts:
    """The facts about an image or a network, as JSON values by name, in the order to show them.

    A package of the BioImage Model Zoo is applied to its own test image.

    Raises
    ------
    InputError, ModelError : it is neither, or it is one that cannot be used; a network gives other values for its test
        image than its makers say.
    """
    if is_url(path):
        return _of_store(str(path))
    place = Path(packaged(str(path)))
    if not place.exists():
        raise InputNotFoundError(f"{path} does not exist", "Check the path")
    if pixels.is_pixel_classifier(place):
        return _forest(place)
    if files.is_network(place):
        return _model(place)
    if place.is_file() and place.suffix.lower() in TIFF_SUFFIXES:
        return _tiff(place)
    return _image(place)


def _of_store(url: str) -> Facts:
    place = place_of(url)
    is_file = place.suffix.lower() in (*files.SUFFIXES, ".zip")
    if is_file or any((place / name).is_file() for name in HEADERS):
        return {**_model(Path(copied(url))), "path": url}
    return _image(place)


def _model(path: Path) -> Facts:
    model = load.load_model(path)
    usage = model.usage
    return {
        "kind": "network",
        "path": str(path),
        "form": model.kind,
        "architecture": model.architecture,
        "in_channels": model.in_channels,
        "out_channels": model.out_channels,
        "stride": list(model.stride),
        "upsampling": list(model.upsampling),
        "receptive_field": _receptive_field(model),
        "patch": ["any" if side is None else side for side in model.patch],
        "patch_min": list(model.patch_min),
        "normalization": _normalization(usage.normalization),
        "activation": usage.activation,
        "inputs": list(usage.inputs) or None,
        "outputs": list(usage.outputs) or None,
        "threshold": usage.threshold,
        "voxel_um": None if usage.voxel_um is None else list(usage.voxel_um),
        "deconvolved": usage.deconvolved,
        "halo": None if model.halo is None else list(model.halo),
        "digest": model.digest,
        **_own_test(path, model),
    }


def _receptive_field(model: Model) -> str:
    far = reach(model)
    if far is None:
        return "the whole patch, or more than can be told"
    return f"{' x '.join(map(str, far))} voxels to each side of a box of whole strides"


def _normalization(scaling: Normalization) -> str:
    """In a few words."""
    words = {
        "percentiles": f"percentiles {scaling.percentiles[0]:g} and {scaling.percentiles[1]:g} to 0 and 1",
        "mean-sd": "mean to 0, standard deviation to 1",
        "linear": f"(value - {scaling.offset:g}) / {scaling.scale:g}",
    }.get(scaling.kind, scaling.kind)
    words += ", of all channels together" if scaling.together else ""
    return words if scaling.asinh is None else f"{words}, then asinh of {scaling.asinh:g} times that"


def _own_test(path: Path, model: Model) -> Facts:
    """What a package, as `train` writes one too, gives for its own test image; nothing for other forms."""
    if not files.has_description(path):
        return {}
    from chunkflow.models.zoo_check import run_test

    found = run_test(path, model)
    if found is None:
        return {"own_test": "it has none"}
    return {"own_test": f"passed, at most {found.largest:.2g} apart", "own_test_largest_difference": found.largest}


def _forest(path: Path) -> Facts:
    classifier = pixels.load_pixels(path)
    return {
        "kind": "pixel classifier",
        "path": str(path),
        "classes": [f"{known.label} {known.name} ({known.voxels} voxels)" for known in classifier.classes],
        "scales_um": list(classifier.scales_um),
        "voxel_um": list(classifier.voxel_um),
        "percentiles": list(classifier.percentiles),
        "trees": len(classifier.forest.roots),
        "nodes": len(classifier.forest.feature),
        "out_of_bag": classifier.training.get("out_of_bag"),
        "versions": [f"{name} {number}" for name, number in classifier.versions.items()],
        "digest": classifier.digest,
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


def _image(path: Place) -> Facts:
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
