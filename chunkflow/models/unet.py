"""A 3-D residual U-Net (Çiçek et al. 2016, with the residual blocks of He et al. 2016), described by plain numbers.

    level 0   block ------------------------------> join, block -> 1x1x1 convolution -> logits
                 \\ max-pool 2                     / transposed convolution, stride 2
    level 1       block ------------> join, block
                     \\ max-pool 2    /
    level 2           block ---------

Every level halves all three axes, so a patch must be a multiple of `stride = 2 ** (levels - 1)` voxels, and the
output moves with the input exactly when the input moves by multiples of it. Group norm takes statistics over the
whole patch: its result depends on the patch, which is why patches lie on one lattice for the whole volume. Batch
norm uses stored statistics and does not.

Memory grows with the patch: about 8 arrays of `widths[0]` channels at full resolution, 0.15 GB measured for 64^3 at 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Self

import torch
from torch import nn

from chunkflow.errors import ModelError, nearest

NORMS = ("group", "batch")
MAX_LEVELS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """What a `UNet` is made of; it travels with the weights as YAML or JSON.

    Raises
    ------
    ModelError : a value is of the wrong type or out of range.
    """

    in_channels: int = 1
    """Channels of the image."""

    out_channels: int = 1
    """Logits per voxel."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Channels of each level, the finest first; their number is the depth."""

    norm: str = "group"
    """"group" (8 channels per group, or all where they do not divide) or "batch" (stored statistics)."""

    first_kernel: tuple[int, int, int] = (3, 3, 3)
    """Kernel of the finest level, odd; (1, 3, 3) where z steps are thick."""

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels"):
            _check(_is_count(getattr(self, name)), name, getattr(self, name), "a whole number of at least 1")
        widths = self.widths
        good = isinstance(widths, tuple) and 1 <= len(widths) <= MAX_LEVELS and all(map(_is_count, widths))
        _check(good, "widths", widths, f"1 to {MAX_LEVELS} whole numbers, as in [16, 32, 64]")
        _check(self.norm in NORMS, "norm", self.norm, " or ".join(NORMS))
        kernel = self.first_kernel
        good = isinstance(kernel, tuple) and len(kernel) == 3 and all(_is_count(k) and k % 2 for k in kernel)
        _check(good, "first_kernel", kernel, "three odd numbers, as in [3, 3, 3]")

    @property
    def stride(self) -> int:
        """Voxels per voxel of the coarsest level, the same on every axis."""
        return int(2 ** (len(self.widths) - 1))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The config that `to_dict` wrote, or that somebody typed.

        Raises
        ------
        ModelError : a key is unknown (the nearest is named) or a value is wrong.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ModelError(f"a U-Net has no parameter {key!r}", nearest(str(key), known))
        parsed: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**parsed)

    def to_dict(self) -> dict[str, Any]:
        """Numbers, texts and lists: what YAML and JSON can hold."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class UNet(nn.Module):
    """The network of `UNetConfig`: (N, in_channels, Z, Y, X) float32 -> logits (N, out_channels, Z, Y, X).

    Z, Y and X must be multiples of `config.stride`.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        kernels = [config.first_kernel] + [(3, 3, 3)] * (len(widths) - 1)
        inputs = (config.in_channels, *widths[:-1])
        self.down = nn.ModuleList(
            _ResidualBlock(before, width, kernel, config.norm)
            for before, width, kernel in zip(inputs, widths, kernels, strict=True)
        )
        self.pool = nn.MaxPool3d(2)
        self.grow = nn.ModuleList(
            nn.ConvTranspose3d(coarse, fine, kernel_size=2, stride=2) for fine, coarse in pairwise(widths)
        )
        self.up = nn.ModuleList(
            _ResidualBlock(2 * width, width, kernel, config.norm)
            for width, kernel in zip(widths[:-1], kernels[:-1], strict=True)
        )
        self.head = nn.Conv3d(widths[0], config.out_channels, kernel_size=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of every voxel."""
        skips: list[torch.Tensor] = []
        x = image
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for grow, block in zip(reversed(self.grow), reversed(self.up), strict=True):
            x = block(torch.cat((skips.pop(), grow(x)), dim=1))
        logits: torch.Tensor = self.head(x)
        return logits


class _ResidualBlock(nn.Module):
    """Two convolutions, each normalised, added to the input (brought to the same width by a 1x1x1 convolution)."""

    def __init__(self, before: int, width: int, kernel: tuple[int, int, int], norm: str) -> None:
        super().__init__()
        same = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.first = nn.Conv3d(before, width, kernel, padding=same, bias=False)
        self.first_norm = _norm(norm, width)
        self.second = nn.Conv3d(width, width, kernel, padding=same, bias=False)
        self.second_norm = _norm(norm, width)
        self.shortcut = nn.Identity() if before == width else nn.Conv3d(before, width, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.first_norm(self.first(x)))
        inner = self.second_norm(self.second(inner))
        return torch.relu(inner + self.shortcut(x))


def _norm(norm: str, width: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm3d(width)
    return nn.GroupNorm(width // 8 if width % 8 == 0 else 1, width)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise ModelError(f"U-Net parameter {name} is {value!r}", f"Give {wanted}")
