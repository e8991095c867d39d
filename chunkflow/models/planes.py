"""A residual block of a U-Net some planes at a time, so that what it makes on the way is never there as a whole.

    input planes ......xxxxxxxxxx      each convolution sees `r` planes more on either side than it gives;
    first conv.  .......xxxxxxxx       what the last slab has computed of them is kept, and nothing is computed twice
    output       ........xxxxxx        beyond the ends planes are 0, as they are where a whole patch is padded

A U-Net's arrays are many times its image: most of what a patch takes in memory, and a fifth of its time, goes into
arrays that live for one operation. Slabs follow from the patch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import conv2d, conv3d

from chunkflow.models.layers import ResidualBlock

SLAB_BYTES = 2**22
"""Of one array of a slab: small enough for caches, and for the allocator to give the same pages again."""

Fill = Callable[[int, int, torch.Tensor], None]
"""Puts planes [low, high) of an array into a tensor (1, C, high - low, Y, X)."""


class Window:
    """Planes of an array that is made in order, from the first that may still be wanted on; 0 beyond its ends.

    fill : makes planes, each once, in whole multiples of `unit`; buffer : of a tensor (1, C, planes, Y, X)
    """

    def __init__(self, fill: Fill, count: int, buffer: Callable[[int], torch.Tensor], *, unit: int = 1) -> None:
        self._fill, self._count, self._buffer, self._unit = fill, count, buffer, unit
        self._held: torch.Tensor | None = None
        self._first = self._next = 0

    def planes(self, low: int, high: int) -> torch.Tensor:
        """Planes [low, high), some of them perhaps beyond the ends; later calls may not ask for more at a time."""
        if self._held is None:
            self._held = self._buffer(high - low + self._unit - 1)
            self._first = low
            self._held[:, :, : max(0, -low)].zero_()
        wanted = min(-(-high // self._unit) * self._unit, self._count)
        if wanted > self._next:
            self._fill(self._next, wanted, self._held[:, :, self._next - self._first : wanted - self._first])
            self._next = wanted
        if high > self._count:
            self._held[:, :, self._count - self._first : high - self._first].zero_()
        return self._held[:, :, low - self._first : high - self._first]

    def forget(self, below: int) -> None:
        """Let planes before this one go."""
        if self._held is not None:
            kept = self._held[:, :, below - self._first : max(below, self._next) - self._first]
            self._held[:, :, : kept.shape[2]] = kept if kept.shape[2] <= below - self._first else kept.clone()
            self._first = below


class Collected:
    """An array without the margin on every side of it, from its planes.

    shape : with the margin, (Z, Y, X)
    """

    def __init__(self, shape: Sequence[int], margin: tuple[int, int, int] = (0, 0, 0)) -> None:
        self._shape, self._margin = shape, margin
        self._array: torch.Tensor | None = None

    def put(self, first: int, made: torch.Tensor) -> None:
        """Planes from `first` on, whole: (1, C, planes, Y, X)."""
        (z, y, x), (mz, my, mx) = self._shape, self._margin
        if self._array is None:
            is_last = made.is_contiguous(memory_format=torch.channels_last_3d)
            form = torch.channels_last_3d if is_last else torch.contiguous_format
            shape = (1, made.shape[1], z - 2 * mz, y - 2 * my, x - 2 * mx)
            self._array = torch.empty(shape, dtype=made.dtype, device=made.device, memory_format=form)
        low, high = max(first, mz), min(first + made.shape[2], z - mz)
        if low < high:
            inner = made[:, :, low - first : high - first, my : y - my, mx : x - mx]
            self._array[:, :, low - mz : high - mz] = inner

    @property
    def array(self) -> torch.Tensor:
        """All of it, once every plane has been put."""
        assert self._array is not None
        return self._array


def block_by_planes(
    block: ResidualBlock, fill: Fill, shape: Sequence[int], *, multiple: int = 1, unit: int = 1
) -> Iterator[tuple[int, torch.Tensor]]:
    """(first plane, planes) of the output of a residual block, in order.

    block : one whose norms look at single voxels
    fill : makes its input, in whole multiples of `unit` planes; shape : of the input, (1, C, Z, Y, X)
    multiple : of planes in a slab
    """
    like = block.second.weight
    _, channels, count, y, x = shape
    width = block.second.out_channels
    reach = block.first.kernel_size[0] // 2

    def first(low: int, high: int, into: torch.Tensor) -> None:
        made = block.first_norm(_conv(block.first, inputs.planes(low - reach, high + reach)))
        torch.clamp_min(made, 0, out=into)

    inputs = Window(fill, count, lambda planes: _buffer(like, (1, channels, planes, y, x)), unit=unit)
    middle = Window(first, count, lambda planes: _buffer(like, (1, width, planes, y, x)))
    for low, high in slabs(count, width * y * x * like.element_size(), multiple):
        made = block.second_norm(_conv(block.second, middle.planes(low - reach, high + reach)))
        yield low, torch.relu_(_with_shortcut(made, block.shortcut, inputs.planes(low, high)))
        inputs.forget(high)
        middle.forget(high - reach)


def slabs(count: int, plane_bytes: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Nearly equal ranges of planes, in whole multiples; the first is as large as any."""
    units = count // multiple
    number = -(-units // max(1, SLAB_BYTES // (plane_bytes * multiple)))
    yield from pairwise(-(-i * units // number) * multiple for i in range(number + 1))


def _buffer(weight: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """An array to be filled, of the type that a layer computes in, its voxels' channels side by side where the layer's
    are."""
    is_last = weight.is_contiguous(memory_format=torch.channels_last_3d)
    form = torch.channels_last_3d if is_last else torch.contiguous_format
    kind = weight.device.type
    is_cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if is_cast else weight.dtype
    return torch.empty(shape, dtype=dtype, device=weight.device, memory_format=form)


def _conv(layer: nn.Conv3d, planes: torch.Tensor) -> torch.Tensor:
    """A convolution that gives the planes it can see both sides of, and pads rows and columns.

    With one channel, neighbouring planes are the channels of a convolution of planes: in three dimensions torch takes
    five to nine times as long for it, and turns what comes out round. For few planes it takes a convolution of its own
    that is 15 times as slow as oneDNN's, which is therefore called by name.
    """
    depth, y, x = layer.kernel_size
    if planes.shape[1] == 1:
        stacked = planes[0, 0].unfold(0, depth, 1).movedim(-1, 1)
        weight = layer.weight[:, 0].contiguous(memory_format=torch.channels_last)
        return conv2d(stacked, weight, layer.bias, padding=(y // 2, x // 2)).movedim(0, 1)[None]
    padding = (0, y // 2, x // 2)
    is_plain = planes.device.type == "cpu" and planes.dtype == layer.weight.dtype == torch.float32
    if is_plain and torch.backends.mkldnn.enabled and not torch.is_autocast_enabled("cpu"):
        ones = (1, 1, 1)
        made: torch.Tensor = torch.mkldnn_convolution(planes, layer.weight, layer.bias, padding, ones, ones, 1)
        return made
    return conv3d(planes, layer.weight, layer.bias, padding=padding)


def _with_shortcut(made: torch.Tensor, shortcut: nn.Module, planes: torch.Tensor) -> torch.Tensor:
    """`made` plus the shortcut, in place; a 1x1x1 convolution is a product of matrices added to what is there."""
    rows, sums = planes.permute(0, 2, 3, 4, 1), made.permute(0, 2, 3, 4, 1)
    are_flat = rows.is_contiguous() and sums.is_contiguous()
    if not (are_flat and isinstance(shortcut, nn.Conv3d) and made.dtype == planes.dtype == shortcut.weight.dtype):
        return made.add_(shortcut(planes))
    flat = sums.view(-1, sums.shape[-1])
    torch.addmm(flat, rows.reshape(-1, rows.shape[-1]), shortcut.weight.flatten(1).t(), out=flat)
    return made if shortcut.bias is None else made.add_(shortcut.bias[:, None, None, None])
