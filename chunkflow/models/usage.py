"""How a network is meant to be applied: what its input was scaled by, what its outputs are.

It travels with the weights (`models.load`), so that nobody types it again: `chunkflow train` writes it, a package of
the BioImage Model Zoo says it in its own words, and the stage `predict` takes from it what its parameters leave open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import Any, Self

from chunkflow.errors import ModelError, nearest

NORMALIZATIONS = ("none", "percentiles", "mean-sd", "linear")
ACTIVATIONS = ("sigmoid", "softmax", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """From grey values to what a network takes: (value - offset) / scale, then asinh(a v) / asinh(a) where it says a.

    Raises
    ------
    ModelError : a value is unknown or out of range.
    """

    kind: str = "none"
    """"percentiles" of the volume become 0 and 1; "mean-sd": its mean becomes 0, its standard deviation 1; "linear":
    offset and scale are given; "none"."""

    percentiles: tuple[float, float] = (1.0, 99.8)
    """For "percentiles", in per cent, in order."""

    offset: float = 0.0
    """For "linear": the grey value that becomes 0."""

    scale: float = 1.0
    """For "linear": grey values per unit."""

    asinh: float | None = None
    """Compresses what is bright: 0 and 1 stay, values far above grow as their logarithm. None is off."""

    together: bool = False
    """Whether percentiles, mean and deviation are those of all channels together; else each channel has its own."""

    def __post_init__(self) -> None:
        if self.kind not in NORMALIZATIONS:
            raise ModelError(f"normalization {self.kind!r} is not known", nearest(str(self.kind), NORMALIZATIONS))
        low, high = _pair(self.percentiles)
        if not 0 <= low < high <= 100:
            raise ModelError(f"normalization percentiles {self.percentiles} are not in order", "Use [1, 99.8], say")
        if not (_is_number(self.offset) and _is_number(self.scale) and self.scale != 0):
            raise ModelError(
                f"normalization offset {self.offset!r} and scale {self.scale!r}", "Give numbers, and a scale beyond 0"
            )
        if not isinstance(self.together, bool):
            raise ModelError(f"normalization together {self.together!r} is neither true nor false", "Leave it out")
        if self.asinh is not None and not (_is_number(self.asinh) and self.asinh > 0):
            raise ModelError(f"normalization asinh {self.asinh!r} is not positive", "Use 3, say, or null")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` wrote."""
        return cls(**_known(cls, values, "a normalization"))

    def to_dict(self) -> dict[str, Any]:
        """Numbers, texts and lists: what YAML and JSON can hold."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How a network is meant to be applied.

    Raises
    ------
    ModelError : a value is unknown or out of range.
    """

    normalization: Normalization = field(default_factory=Normalization)
    """Of the image, by numbers of the whole volume."""

    activation: str = "sigmoid"
    """What turns outputs into results: "sigmoid", "softmax" over the channels, or "none"."""

    outputs: tuple[str, ...] = ()
    """Names of the channels of the output, in order; empty where nobody said."""

    inputs: tuple[str, ...] = ()
    """Names of the channels it was trained on, in order; empty where nobody said."""

    threshold: float | None = None
    """Foreground is above it; None where nobody said."""

    voxel_um: tuple[float, float, float] | None = None
    """Voxel size it was trained for, z, y, x in um; None where nobody said."""

    deconvolved: bool | None = None
    """Whether it was trained on deconvolved images; None where nobody said."""

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ModelError(f"activation {self.activation!r} is not known", nearest(str(self.activation), ACTIVATIONS))
        for what, names in (("outputs", self.outputs), ("inputs", self.inputs)):
            if not all(isinstance(name, str) for name in names):
                raise ModelError(f"{what} {list(names)} are not names", "Give texts")
        if self.threshold is not None and not _is_number(self.threshold):
            raise ModelError(f"threshold {self.threshold!r} is no number", "Use 0.5, say, or null")
        if self.voxel_um is not None and not (
            len(self.voxel_um) == 3 and all(_is_number(v) and v > 0 for v in self.voxel_um)
        ):
            raise ModelError(f"voxel_um {self.voxel_um} is no voxel size", "Give um for z, y, x")
        if self.deconvolved is not None and not isinstance(self.deconvolved, bool):
            raise ModelError(f"deconvolved {self.deconvolved!r} is neither true nor false", "Use null where unknown")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` wrote."""
        known = _known(cls, values, "a network's usage")
        if isinstance(known.get("normalization"), Mapping):
            known["normalization"] = Normalization.from_dict(known["normalization"])
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Numbers, texts, lists and maps: what YAML and JSON can hold."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["normalization"] = self.normalization.to_dict()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def _known(kind: type[Any], values: Mapping[str, Any], what: str) -> dict[str, Any]:
    names = [f.name for f in fields(kind)]
    for key in values:
        if key not in names:
            raise ModelError(f"{what} has no {key!r}", nearest(str(key), names))
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _pair(value: Any) -> tuple[float, float]:
    if not (isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))):
        raise ModelError(f"normalization percentiles {value!r} are not two numbers", "Use [1, 99.8], say")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
