"""What a package of the BioImage Model Zoo does before and after its network, in our words.

    preprocessing     linear steps, one that scales by statistics, arithmetic     -> Normalization, then arithmetic
    postprocessing    arithmetic, sigmoid or softmax, a threshold                 -> arithmetic, Usage

Statistics of a *sample* become those of the whole volume: that is what a sample is here. Arithmetic on single values
(clip, linear scaling) goes into the network's module. Steps that need more than that are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from chunkflow.errors import ModelError
from chunkflow.models.adapters import Network
from chunkflow.models.model import import_torch
from chunkflow.models.usage import Normalization

if TYPE_CHECKING:
    import torch

Arithmetic = Callable[["torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True, slots=True)
class Before:
    """normalization : of the grey values; arithmetic : on what comes out of it, in order."""

    normalization: Normalization
    arithmetic: tuple[Arithmetic, ...]


@dataclass(frozen=True, slots=True)
class After:
    """arithmetic : on the network's outputs, in order; activation : after it; threshold : of the last step, if any."""

    arithmetic: tuple[Arithmetic, ...]
    activation: str
    threshold: float | None


def before(steps: Sequence[Any], tensor: str, space: frozenset[str], channels: int = 1) -> Before:
    """The steps of `preprocessing`, as bioimageio.spec parsed them.

    tensor : name of the input; space : names of its axes in space; channels : that it has

    Raises
    ------
    ModelError : a step is of another kind, or stands where it cannot be taken apart.
    """
    scaling = Normalization()
    arithmetic: list[Arithmetic] = []
    for number, step in enumerate(steps):
        if step.id == "ensure_dtype":
            _check_type(step, is_first=number == 0)
        elif step.id in ("zero_mean_unit_variance", "scale_range"):
            if arithmetic or scaling.kind not in ("none", "linear") or scaling.scale < 0:
                raise ModelError(f"preprocessing takes statistics after {_other(steps, step)}", REMEDY)
            scaling = _statistics(step, tensor, space, channels)
        elif (linear := _linear(step)) is not None and len(linear) == 1 and scaling.kind == "none" and not arithmetic:
            scaling = Normalization(kind="linear", offset=linear[0][0], scale=linear[0][1])
        else:
            arithmetic.append(_arithmetic(step, "preprocessing"))
    return Before(scaling, tuple(arithmetic))


def after(steps: Sequence[Any]) -> After:
    """The steps of `postprocessing`, as bioimageio.spec parsed them.

    Raises
    ------
    ModelError : a step is of another kind.
    """
    torch = import_torch()
    kept = [step for step in steps if step.id != "ensure_dtype"]
    for step in steps:
        if step.id == "ensure_dtype" and (step is not steps[-1] or not kept or kept[-1].id != "binarize"):
            _check_type(step, is_first=False)
    threshold = None
    if kept and kept[-1].id == "binarize":
        threshold = _number(kept.pop().kwargs.threshold, "binarize")
    activation = "none"
    if kept and kept[-1].id in ("sigmoid", "softmax"):
        activation = _activation(kept.pop())
    arithmetic: list[Arithmetic] = []
    for step in kept:
        if step.id == "sigmoid":
            arithmetic.append(torch.sigmoid)
        elif step.id == "softmax":
            _activation(step)
            arithmetic.append(partial(torch.softmax, dim=1))
        else:
            arithmetic.append(_arithmetic(step, "postprocessing"))
    return After(tuple(arithmetic), activation, threshold)


def with_arithmetic(network: Network, first: Sequence[Arithmetic], last: Sequence[Arithmetic]) -> Network:
    """The network between the two rows of steps."""
    if not first and not last:
        return network

    def apply(patches: torch.Tensor) -> torch.Tensor:
        for step in (*first, network, *last):
            patches = step(patches)
        return patches

    return apply


REMEDY = "Apply the network without this step, as .pt2 or .onnx with chunkflow.json, and do it in the pipeline"


def _statistics(step: Any, tensor: str, space: frozenset[str], channels: int) -> Normalization:
    """Numbers of the whole volume; the small number that the format adds to divisors is left out."""
    axes = step.kwargs.axes
    if axes is not None and not space <= {str(axis) for axis in axes}:
        raise ModelError(f"{step.id} takes statistics along {[str(axis) for axis in axes]} only", REMEDY)
    together = channels > 1 and (axes is None or "channel" in {str(axis) for axis in axes})
    if step.id == "zero_mean_unit_variance":
        return Normalization(kind="mean-sd", together=together)
    reference = step.kwargs.reference_tensor
    if reference is not None and str(reference) != tensor:
        raise ModelError(f"scale_range takes percentiles of {reference}, another array", REMEDY)
    low, high = float(step.kwargs.min_percentile), float(step.kwargs.max_percentile)
    return Normalization(kind="percentiles", percentiles=(low, high), together=together)


def _linear(step: Any) -> list[tuple[float, float]] | None:
    """Offset and scale of (value - offset) / scale where the step is that: one for all channels, or one for each."""
    if step.id == "fixed_zero_mean_unit_variance":
        return _numbers(step, step.kwargs.mean, step.kwargs.std)
    if step.id == "scale_linear":
        pairs = _numbers(step, step.kwargs.gain, step.kwargs.offset)
        if any(gain == 0 for gain, _ in pairs):
            raise ModelError("scale_linear multiplies by 0", "Get the package from who made it")
        return [(-offset / gain, 1 / gain) for gain, offset in pairs]
    return None


def _arithmetic(step: Any, where: str) -> Arithmetic:
    """A step on single values, as a function of tensors."""
    torch = import_torch()
    linear = _linear(step)
    if linear is not None and len(linear) == 1:
        ((offset, scale),) = linear
        return lambda values: (values - offset) / scale
    if linear is not None:
        offsets, scales = (torch.tensor(numbers)[:, None, None, None] for numbers in zip(*linear, strict=True))
        return lambda values: (values - offsets.to(values.device)) / scales.to(values.device)
    if step.id == "clip" and step.kwargs.min_percentile is None and step.kwargs.max_percentile is None:
        low, high = step.kwargs.min, step.kwargs.max
        return lambda values: torch.clamp(values, low, high)
    raise ModelError(f"{where} has a step {step.id!r}, which is not known here", REMEDY)


def _activation(step: Any) -> str:
    if step.id == "softmax" and str(step.kwargs.axis) != "channel":
        raise ModelError(f"softmax goes along {step.kwargs.axis}, not along the channels", REMEDY)
    return str(step.id)


def _check_type(step: Any, *, is_first: bool) -> None:
    """The first one says what images are; later ones must leave real numbers."""
    if not is_first and step.kwargs.dtype not in ("float32", "float64"):
        raise ModelError(f"values are made {step.kwargs.dtype} on the way", REMEDY)


def _numbers(step: Any, first: Any, second: Any) -> list[tuple[float, float]]:
    """Pairs of two numbers of a step; several are those of the channels."""
    columns = [list(value) if isinstance(value, list | tuple) else [value] for value in (first, second)]
    count = max(map(len, columns))
    if count > 1 and str(step.kwargs.axis) != "channel":
        raise ModelError(f"{step.id} has {count} numbers along {step.kwargs.axis}", REMEDY)
    if any(len(column) not in (1, count) for column in columns):
        raise ModelError(f"{step.id} has {' and '.join(str(len(c)) for c in columns)} numbers", REMEDY)
    first_of, second_of = (list(map(float, column)) * (count if len(column) == 1 else 1) for column in columns)
    return list(zip(first_of, second_of, strict=True))


def _number(value: Any, name: str) -> float:
    """One number for all outputs."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if len(values) != 1:
        raise ModelError(f"{name} has {len(values)} numbers, one per channel", REMEDY)
    return float(values[0])


def _other(steps: Sequence[Any], step: Any) -> str:
    """The name of the step before."""
    return str(steps[list(steps).index(step) - 1].id)
