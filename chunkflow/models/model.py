"""A network that is ready to be applied, and what a file may state about one that cannot be read off its operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

from chunkflow.errors import ModelError, nearest
from chunkflow.models.usage import Usage

if TYPE_CHECKING:
    import torch

Triple = tuple[int, int, int]
Sides = tuple[int | None, int | None, int | None]
ONES: Triple = (1, 1, 1)

EXTRA_FILE = "chunkflow.json"


@dataclass(frozen=True, slots=True)
class Model:
    """A network that is ready to be applied.

    module : takes (N, in_channels, Z, Y, X) float32 and gives (N, out_channels, Z', Y', X'), the input's sides times
        `upsampling`, without activation
    digest : SHA-256 (hex) of the files it came from
    stride : voxels by which the input must move for the output to move alike; sides of a patch are multiples of it
    in_channels, out_channels : numbers per voxel of the input and of the output
    device : where the module lies, as torch names it
    upsampling : voxels of the output per voxel of the input
    usage : how the network is meant to be applied, as far as its files say
    kind, architecture : what the files are and what network is in them, in words
    patch : sides that the network insists on; None where it takes any multiple of the stride
    patch_min : the smallest sides it takes
    halo : voxels of the output at each border that its makers would cut away; None where nobody said
    """

    module: Callable[[torch.Tensor], torch.Tensor]
    digest: str
    stride: Triple
    out_channels: int
    device: str
    in_channels: int = 1
    upsampling: Triple = ONES
    usage: Usage = field(default_factory=Usage)
    kind: str = "network"
    architecture: str = ""
    patch: Sides = (None, None, None)
    patch_min: Triple = ONES
    halo: Triple | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """What is said beside a graph of operators: in chunkflow.json inside its file, or in a model.yaml beside it.

    Raises
    ------
    ModelError : a value is no whole number of at least 1.
    """

    stride: Triple = ONES
    """See `Model`; 1 where nobody said, so that the lattice of patches is not checked against it."""

    upsampling: Triple = ONES
    """Voxels of the output per voxel of the input."""

    in_channels: int | None = None
    """Channels of the input; None where the file itself tells."""

    usage: Usage = field(default_factory=Usage)
    """How the network is meant to be applied."""

    def __post_init__(self) -> None:
        if self.in_channels is not None and not is_count(self.in_channels):
            raise ModelError(f"in_channels {self.in_channels!r} is no number of channels", "Give 1, say")

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """{"stride": 8 or [1, 8, 8], "upsampling": ..., "in_channels": 1, "usage": {...}}, each of them optional."""
        known = ("stride", "upsampling", "in_channels", "usage")
        if not isinstance(values, Mapping):
            raise ModelError(f"what is stated of a network is {values!r}", "Give a map, as in {stride: 8}")
        for key in values:
            if key not in known:
                raise ModelError(f"a network states no {key!r}", nearest(str(key), known))
        plain: dict[str, Any] = dict(values)
        for key in ("stride", "upsampling"):
            if key in plain:
                plain[key] = _triple(plain[key], key)
        if "usage" in plain:
            plain["usage"] = usage_of(plain["usage"])
        return cls(**plain)


def usage_of(values: object) -> Usage:
    """The usage in a header; the usual one where there is none.

    Raises
    ------
    ModelError : it is no map, or a value is unknown or out of range.
    """
    if values is None:
        return Usage()
    if not isinstance(values, Mapping):
        raise ModelError(f"usage is {values!r}", "Give a map, as in {activation: sigmoid}")
    try:
        return Usage.from_dict(values)
    except (TypeError, AttributeError) as error:
        raise ModelError(
            f"usage {dict(values)!r} cannot be read: {error}", "Write it as docs/models.md shows"
        ) from error


def import_torch() -> ModuleType:
    """Torch, which only this package imports, and only when a network is read.

    Raises
    ------
    ModelError : it is not installed.
    """
    return import_extra("torch")


def import_extra(name: str) -> ModuleType:
    """A library of the optional group `models`.

    Raises
    ------
    ModelError : it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ModelError(
            f"this network needs {name}: {error}", "Run: pip install 'chunkflow-engine[models]'"
        ) from error


def is_count(value: object) -> bool:
    """Whether this is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _triple(value: object, name: str) -> Triple:
    values = [value] * 3 if isinstance(value, int) else value
    if not (isinstance(values, list | tuple) and len(values) == 3 and all(map(is_count, values))):
        raise ModelError(f"{name} of the network is {value!r}", "Give a whole number, or three for z, y and x")
    z, y, x = values
    return z, y, x
