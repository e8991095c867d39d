"""The test tensors of a package: an image and what the network's makers say comes out of it.

Differences are judged as bioimageio does: a value is off if |got - expected| > absolute + relative * |expected|, and
one in 10,000 may be; both tolerances are 1e-3 unless the package says otherwise. Arrays are read without pickles.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chunkflow.errors import ModelError
from chunkflow.models.files import Package, first_line
from chunkflow.models.model import Model, import_torch
from chunkflow.models.zoo_normalize import activated, normalized

RELATIVE = ABSOLUTE = 1e-3
OFF_PER_MILLION = 100
MOST_BYTES = 2**31


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far outputs may be from the test tensor, and how many per million further."""

    relative: float = RELATIVE
    absolute: float = ABSOLUTE
    off_per_million: float = OFF_PER_MILLION


@dataclass(frozen=True, slots=True)
class Comparison:
    """largest : the largest difference; off_per_million : values beyond the tolerance; is_good : few enough are."""

    largest: float
    off_per_million: float
    is_good: bool


def run_test(path: Path, model: Model) -> Comparison | None:
    """What the network makes of its own test image, compared with what it should; None where the package has none.

    Raises
    ------
    ModelError : the tensors cannot be read or do not fit the network, or the outputs are off.
    """
    package = Package(path)
    taken, given = _tensors(package)
    if taken is None or given is None:
        return None
    image, expected = _volumes(_array(package, taken)), _volumes(_array(package, given))
    got = np.concatenate([_applied(path, model, sample) for sample in image])
    if _is_mask(package):
        got = (got > model.usage.threshold).astype(np.float32)
    if got.shape != expected.shape:
        raise ModelError(
            f"{path} gives an output {got.shape} for its own test image, whose output is {expected.shape}",
            "Get the package from who made it",
        )
    comparison = compare(got, expected, _tolerance(package))
    if not comparison.is_good:
        raise ModelError(
            f"{path} gives other values for its own test image than its makers say: up to {comparison.largest:.3g} "
            f"apart, {comparison.off_per_million:.3g} per million too far",
            "Do not use it before you know why; another torch or onnxruntime may be needed",
        )
    return comparison


def compare(got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], tolerance: Tolerance) -> Comparison:
    """Both of one shape; NaN is off wherever it stands."""
    expected = expected.astype(np.float64)
    difference = np.abs(got - expected)
    good = difference <= tolerance.absolute + tolerance.relative * np.abs(expected)
    off = 1e6 * float(1 - good.mean())
    return Comparison(float(difference.max()), off, off <= tolerance.off_per_million)


def _applied(path: Path, model: Model, sample: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(1, K, Z, Y, X): scaling, network and activation, with statistics of this sample."""
    torch = import_torch()
    scaled = torch.from_numpy(normalized(sample, model.usage.normalization)[None]).to(model.device)
    try:
        with torch.inference_mode():
            logits = model.module(scaled).float().cpu().numpy()
    except Exception as error:  # runtimes raise kinds of their own
        raise ModelError(
            f"{path} cannot be applied to its own test image {sample.shape}: {first_line(error)}",
            "Get the package from who made it",
        ) from error
    return activated(logits, model.usage.activation)


def _volumes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(N, C, Z, Y, X), planes as volumes of one plane."""
    return array if array.ndim == 5 else array[:, :, None]


def _array(package: Package, entry: Any) -> np.ndarray[Any, Any]:
    """A tensor from an .npy file, as numbers."""
    name = entry["source"] if isinstance(entry, Mapping) else entry
    digest = entry.get("sha256") if isinstance(entry, Mapping) else None
    content = package.read(str(name), digest=digest, most=MOST_BYTES)
    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # a dozen kinds for a file that is none
        raise ModelError(
            f"{name} of {package.path} is no array: {first_line(error)}", "Get the package again"
        ) from error
    if array.dtype.kind not in "biuf" or array.ndim not in (4, 5) or not array.size:
        raise ModelError(f"{name} of {package.path} is {array.dtype} {array.shape}, no image", "Get the package again")
    return array


def _tensors(package: Package) -> tuple[Any, Any]:
    """The files of the test tensors, in the words of format 0.5 or 0.4; a known network has one of each."""
    content = package.description
    if "test_inputs" in content:
        return tuple((content.get(key) or [None])[0] for key in ("test_inputs", "test_outputs"))  # type: ignore[return-value]
    return content["inputs"][0].get("test_tensor"), content["outputs"][0].get("test_tensor")


def _is_mask(package: Package) -> bool:
    """Whether the test output is what lies above the threshold."""
    steps = package.description["outputs"][0].get("postprocessing") or []
    names = [step.get("id", step.get("name")) for step in steps if isinstance(step, Mapping)]
    return "binarize" in names


def _tolerance(package: Package) -> Tolerance:
    """What config: bioimageio: reproducibility_tolerance says, the first entry for real outputs."""
    config = package.description.get("config")
    ours = config.get("bioimageio") if isinstance(config, Mapping) else None
    entries = ours.get("reproducibility_tolerance") if isinstance(ours, Mapping) else None
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, Mapping) and entry.get("output_ids") != "any_discrete_output":
            return Tolerance(  # numbers: bioimageio.spec has looked
                float(entry.get("relative_tolerance", RELATIVE)),
                float(entry.get("absolute_tolerance", ABSOLUTE)),
                float(entry.get("mismatched_elements_per_million", OFF_PER_MILLION)),
            )
    return Tolerance()
