"""A residual U-Net (Çiçek et al. 2016, with the residual blocks of He et al. 2016), described by plain numbers.

    stem      convolution with a stride, where the config has one             -> shuffled back to full resolution
    level 0   block ------------------------------> join, block -> convolution -> outputs
                 \\ max-pool                       / transposed convolution
    level 1       block ------------> join, block
                     \\ max-pool     /
    level 2           block ---------

Kernels and pools are told per level and axis, so one class serves volumes, thick planes and single planes:

    3-D        kernels (3, 3, 3), pools (2, 2, 2)
    thick z    the first levels (1, 3, 3) and (1, 2, 2), the others as in 3-D
    2.5-D      the first level (5, 3, 3): five planes decide about the middle one; else (1, 3, 3) and (1, 2, 2)
    2-D        (1, 3, 3) and (1, 2, 2) throughout

A patch must be a multiple of `stride` voxels, and the output moves with the input exactly when the input moves by
multiples of it. Group and instance norm take statistics over the whole patch: their result depends on the patch, which
is why patches lie on one lattice for the whole volume. Batch norm uses stored statistics and does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from math import prod
from typing import Any, Literal, Self

import torch
from torch import nn

from chunkflow.errors import ModelError, nearest
from chunkflow.models import planes
from chunkflow.models.layers import Growth, Pointwise, ResidualBlock, is_channels_last, same_padding

Triple = tuple[int, int, int]
Dimensions = Literal["3d", "2.5d", "2d"]

NORMS = ("group", "batch", "instance", "none")
MAX_LEVELS = 8
MAX_WIDTH = 2**20


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
    """Numbers per voxel of the output."""

    widths: tuple[int, ...] = (16, 32, 64)
    """Channels of each level, the finest first; their number is the depth."""

    norm: str = "group"
    """"group" (8 channels per group, or all where they do not divide), "batch" (stored statistics), "instance" (every
    channel by itself) or "none"."""

    kernels: tuple[Triple, ...] = ((3, 3, 3),)
    """Kernel of each level, odd; levels that are not listed have the last one."""

    pools: tuple[Triple, ...] = ((2, 2, 2),)
    """Voxels of a level that become one of the next; steps that are not listed have the last one."""

    stem: Triple = (1, 1, 1)
    """Stride of a first convolution, undone at the end: a fraction of the work where the sampling is finer than what is
    to be seen."""

    upsampling: Triple = (1, 1, 1)
    """Voxels of the output per voxel of the input, for super-resolution."""

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels"):
            _check(_is_count(getattr(self, name)), name, getattr(self, name), "a whole number of at least 1")
        widths = self.widths
        good = isinstance(widths, tuple) and 1 <= len(widths) <= MAX_LEVELS and all(map(_is_count, widths))
        good = good and max(widths) <= MAX_WIDTH
        _check(good, "widths", widths, f"1 to {MAX_LEVELS} whole numbers up to {MAX_WIDTH}, as in [16, 32, 64]")
        _check(self.norm in NORMS, "norm", self.norm, " or ".join(NORMS))
        levels = len(widths)
        for name, most in (("kernels", levels), ("pools", max(1, levels - 1))):
            value = getattr(self, name)
            good = isinstance(value, tuple) and 1 <= len(value) <= most and all(map(_is_triple, value))
            _check(good, name, value, f"1 to {most} lists of three whole numbers")
        _check(all(k % 2 for kernel in self.kernels for k in kernel), "kernels", self.kernels, "odd numbers")
        for name in ("stem", "upsampling"):
            value = getattr(self, name)
            _check(_is_triple(value) and max(value) <= 8, name, value, "three whole numbers from 1 to 8")

    @property
    def level_kernels(self) -> tuple[Triple, ...]:
        """The kernel of every level."""
        return _filled(self.kernels, len(self.widths))

    @property
    def steps(self) -> tuple[Triple, ...]:
        """The pool between every two levels."""
        return _filled(self.pools, len(self.widths) - 1)

    @property
    def stride(self) -> Triple:
        """Voxels of the image per voxel of the coarsest level, for z, y, x."""
        z, y, x = (prod(factors) for factors in zip(self.stem, *self.steps, strict=True))
        return z, y, x

    @classmethod
    def of(cls, dimensions: Dimensions, **parameters: Any) -> Self:
        """The usual kernels and pools of a 3-D, 2.5-D or 2-D network; other parameters as they are."""
        plane: dict[str, Any] = {"pools": ((1, 2, 2),)}
        if dimensions == "2d":
            parameters = {**plane, "kernels": ((1, 3, 3),), **parameters}
        if dimensions == "2.5d":
            kernels = ((5, 3, 3), (1, 3, 3))
            parameters = {**plane, "kernels": kernels[: len(parameters.get("widths", kernels))], **parameters}
        return cls(**parameters)

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
        return cls(**{key: _tuples(value) for key, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Numbers, texts and lists: what YAML and JSON can hold."""
        return {key: _lists(value) for key, value in asdict(self).items()}


class UNet(nn.Module):
    """The network of `UNetConfig`: (N, in_channels, Z, Y, X) float32 -> (N, out_channels, Z, Y, X) without activation.

    Z, Y and X must be multiples of `config.stride`; those of the output are `config.upsampling` times as long.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, kernels, steps = config.widths, config.level_kernels, config.steps
        has_stem = max(config.stem) > 1
        self.stem = _strided(config.in_channels, widths[0], config.stem) if has_stem else nn.Identity()
        inputs = (widths[0] if has_stem else config.in_channels, *widths[:-1])
        self.down = nn.ModuleList(
            ResidualBlock(before, width, kernel, config.norm)
            for before, width, kernel in zip(inputs, widths, kernels, strict=True)
        )
        self.pools = nn.ModuleList(nn.MaxPool3d(step) for step in steps)
        self.grow = nn.ModuleList(
            Growth(coarse, fine, kernel_size=step, stride=step)
            for (fine, coarse), step in zip(pairwise(widths), steps, strict=True)
        )
        self.up = nn.ModuleList(
            ResidualBlock(2 * width, width, kernel, config.norm)
            for width, kernel in zip(widths[:-1], kernels[:-1], strict=True)
        )
        self.finer = tuple(a * b for a, b in zip(config.stem, config.upsampling, strict=True))
        kernel = kernels[0] if prod(self.finer) > 1 else (1, 1, 1)
        head = Pointwise if max(kernel) == 1 else nn.Conv3d
        self.head = head(widths[0], config.out_channels * prod(self.finer), kernel, padding=same_padding(kernel))

    def forward(self, image: torch.Tensor, margin: Triple = (0, 0, 0), *, whole: bool = False) -> torch.Tensor:
        """The output of every voxel, or of those that lie `margin` voxels (multiples of the stride) inside the image.

        The way up, which is most of the work, then computes what these voxels depend on and no more. On a CPU blocks go
        by planes where they can (see `models.planes`), unless they are to go over the patch as a whole.
        """
        joined, needed, last = self._margins(margin)
        if not whole and self._goes_by_planes(image):
            parts = [self._by_planes(part, joined, needed, last) for part in torch.split(image, 1)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        skips, x = [], self.stem(image)
        for block, pool, inner in zip(self.down[:-1], self.pools, joined, strict=True):
            x = block(x)
            skips.append(_trimmed(x, inner))
            x = pool(x)
        x = self.down[-1](x)
        for level in reversed(range(len(skips))):
            x = self.grow[level](_trimmed(x, needed[level]))
            x = self.up[level](torch.cat((skips.pop(), x), dim=1))
        return _to_space(_trimmed(self.head(x), last), self.finer)

    def _goes_by_planes(self, image: torch.Tensor) -> bool:
        """Whether some planes are computed at a time: where there are many, nothing looks at a whole patch, nobody asks
        for gradients, and the voxels of the output are those of the input."""
        if (
            self.training
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or torch._C._get_tracing_state() is not None
        ):
            return False
        alone = self.config.norm in ("batch", "none") and prod(self.finer) == 1
        is_large = prod(image.shape[2:]) * self.config.widths[0] * image.element_size() > planes.SLAB_BYTES
        return alone and is_large and image.device.type in ("cpu", "meta")

    def _by_planes(self, image: torch.Tensor, joined: list[Triple], needed: list[Triple], last: Triple) -> torch.Tensor:
        """The output of one patch, each block some planes at a time."""
        margins, skips, x = [last, *needed], [], image
        for level, inner in enumerate(joined):
            skip, x = self._down_by_planes(level, x, inner)
            skips.append(skip)
        slabs = planes.block_by_planes(_block(self.down, -1), _copied(x), x.shape)
        x = self._collected(len(skips), slabs, x.shape[2:], margins[-1])
        for level in reversed(range(len(skips))):
            fill, shape, step = self._joint(level, skips.pop(), x)
            slabs = planes.block_by_planes(_block(self.up, level), fill, shape, multiple=step, unit=step)
            x = self._collected(level, slabs, shape[2:], margins[level])
        return x

    def _down_by_planes(self, level: int, x: torch.Tensor, inner: Triple) -> tuple[torch.Tensor, torch.Tensor]:
        """The output of a level on the way down, `inner` voxels inside it, and what it gives to the next."""
        step = self.config.steps[level]
        skip, pooled = planes.Collected(x.shape[2:], inner), planes.Collected(_whole(x.shape[2:], step))
        for first, made in planes.block_by_planes(_block(self.down, level), _copied(x), x.shape, multiple=step[0]):
            skip.put(first, made)
            pooled.put(first // step[0], self.pools[level](made))
        return skip.array, pooled.array

    def _collected(
        self, level: int, slabs: Iterable[tuple[int, torch.Tensor]], shape: Sequence[int], margin: Triple
    ) -> torch.Tensor:
        """The output of a level, `margin` voxels inside it; of the finest, that of the network."""
        result = planes.Collected(shape, margin)
        for first, made in slabs:
            result.put(first, made if level else self.head(made))
        return result.array

    def _joint(self, level: int, skip: torch.Tensor, coarse: torch.Tensor) -> tuple[planes.Fill, Sequence[int], int]:
        """Where the two ways join: its planes, its shape, and of how many planes of it those of `coarse` make one."""
        width, step, growth = skip.shape[1], self.config.steps[level][0], self.grow[level]
        assert isinstance(growth, Growth)

        def fill(low: int, high: int, into: torch.Tensor) -> None:
            into[:, :width] = skip[:, :, low:high]
            growth.put(coarse[:, :, low // step : high // step], into[:, width:])

        return fill, (1, 2 * width, *skip.shape[2:]), step

    def _margins(self, margin: Triple) -> tuple[list[Triple], list[Triple], Triple]:
        """What can be left out on every side, in voxels of the level: where the two ways join, from what then comes up
        from the next level, and from the last output.

            needed of a block's output -> two convolutions wider -> whole steps of the pool -> needed of the next level
        """
        config = self.config
        head = tuple(k // 2 for k in self.head.kernel_size)
        left = tuple(m // s for m, s in zip(margin, config.stem, strict=True))
        wanted = tuple(max(0, m - h) for m, h in zip(left, head, strict=True))
        joined: list[Triple] = []
        coming: list[Triple] = []
        for kernel, step in zip(config.level_kernels[:-1], config.steps, strict=True):
            inner = tuple(max(0, w - 2 * (k // 2)) // s * s for w, k, s in zip(wanted, kernel, step, strict=True))
            joined.append((inner[0], inner[1], inner[2]))
            coming.append(_less(wanted, inner))
            wanted = tuple(i // s for i, s in zip(inner, step, strict=True))
        # Of what a level gives to the one above, its own join has left out some already; the coarsest has not.
        needed = [*coming[1:], _less(wanted, (0, 0, 0))] if joined else []
        return joined, needed, _less(left, joined[0] if joined else (0, 0, 0))

    def encoder(self) -> Iterator[nn.Parameter]:
        """Parameters of the way down: what is kept as it is when a trained network is fitted to new images."""
        yield from self.stem.parameters()
        yield from self.down.parameters()

    def fold(self) -> Self:
        """Put stored statistics into the convolutions before them, in place; for a trained network that is applied."""
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.fold()
        return self


def _strided(before: int, width: int, stride: Triple) -> nn.Module:
    """A convolution that makes one voxel of `stride` of them, seen with half as many on either side."""
    z, y, x = ((s + 2 * max(1, s // 2), max(1, s // 2)) for s in stride)
    return nn.Conv3d(before, width, (z[0], y[0], x[0]), stride=stride, padding=(z[1], y[1], x[1]))


def _less(a: tuple[int, ...], b: tuple[int, ...]) -> Triple:
    z, y, x = (p - q for p, q in zip(a, b, strict=True))
    return z, y, x


def _block(blocks: nn.ModuleList, level: int) -> ResidualBlock:
    block = blocks[level]
    assert isinstance(block, ResidualBlock)
    return block


def _whole(shape: Sequence[int], step: Triple) -> Triple:
    z, y, x = (n // s for n, s in zip(shape, step, strict=True))
    return z, y, x


def _copied(x: torch.Tensor) -> planes.Fill:
    """What puts planes of an array that is there."""

    def fill(low: int, high: int, into: torch.Tensor) -> None:
        into.copy_(x[:, :, low:high])

    return fill


def _trimmed(x: torch.Tensor, margin: Triple) -> torch.Tensor:
    """Without `margin` voxels on every side; a copy, which lets the whole go."""
    if max(margin) == 0:
        return x
    z, y, x_margin = margin
    inner = x[:, :, z : x.shape[2] - z, y : x.shape[3] - y, x_margin : x.shape[4] - x_margin]
    return inner.contiguous(memory_format=torch.channels_last_3d if is_channels_last(x) else torch.contiguous_format)


def _to_space(x: torch.Tensor, finer: tuple[int, ...]) -> torch.Tensor:
    """Channels as voxels of a finer grid: (N, C * fz * fy * fx, Z, Y, X) -> (N, C, Z * fz, Y * fy, X * fx).

    The three-dimensional form of Shi et al. 2016 (CVPR), doi:10.1109/CVPR.2016.207.
    """
    if prod(finer) == 1:
        return x
    n, _, z, y, x_size = x.shape
    fz, fy, fx = finer
    split = x.reshape(n, -1, fz, fy, fx, z, y, x_size).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return split.reshape(n, -1, z * fz, y * fy, x_size * fx)


def _filled(values: tuple[Triple, ...], count: int) -> tuple[Triple, ...]:
    return (*values, *[values[-1]] * (count - len(values)))[:count]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_triple(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(_is_count, value))


def _check(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise ModelError(f"U-Net parameter {name} is {value!r}", f"Give {wanted}")
