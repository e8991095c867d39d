"""The layers of our networks, which do on a CPU what torch's own do, faster."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import linear
from torch.nn.utils.fusion import fuse_conv_bn_eval

Triple = tuple[int, int, int]


class ResidualBlock(nn.Module):
    """Two convolutions, each normalised, added to the input (brought to the same width by a 1x1x1 convolution)."""

    def __init__(self, before: int, width: int, kernel: Triple, norm: str) -> None:
        super().__init__()
        has_bias = norm == "none"
        self.first = nn.Conv3d(before, width, kernel, padding=same_padding(kernel), bias=has_bias)
        self.first_norm = norm_of(norm, width)
        self.second = nn.Conv3d(width, width, kernel, padding=same_padding(kernel), bias=has_bias)
        self.second_norm = norm_of(norm, width)
        self.shortcut = nn.Identity() if before == width else Pointwise(before, width, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu_(self.first_norm(self.first(x)))
        inner = self.second_norm(self.second(inner))
        return torch.relu_(inner.add_(self.shortcut(x)))  # in place: a fifth of the time went into new arrays

    def fold(self) -> None:
        """Put stored statistics into the convolutions before them."""
        for name in ("first", "second"):
            norm = getattr(self, f"{name}_norm")
            if isinstance(norm, nn.BatchNorm3d):
                setattr(self, name, fuse_conv_bn_eval(getattr(self, name), norm))
                setattr(self, f"{name}_norm", nn.Identity())
        extra, bias = getattr(self.shortcut, "bias", None), self.second.bias
        if isinstance(self.second_norm, nn.Identity) and extra is not None and bias is not None:
            bias.data += extra.data  # one pass over the voxels less
            self.shortcut.bias = None


class Pointwise(nn.Conv3d):
    """A 1x1x1 convolution as one product of matrices, in the order the voxels lie in: torch's own takes a slow way on a
    CPU and turns channels-last arrays round (a fifth of a network's time)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        weight = self.weight.flatten(1)
        if is_channels_last(input):
            return linear(input.permute(0, 2, 3, 4, 1), weight, self.bias).permute(0, 4, 1, 2, 3)
        product = weight @ input.flatten(2)
        product = product if self.bias is None else product + self.bias[:, None]
        output: torch.Tensor = product.reshape(*product.shape[:2], *input.shape[2:])
        return output


class Growth(nn.ConvTranspose3d):
    """A transposed convolution whose kernel is its stride: every voxel becomes a small box of them, by one product of
    matrices. Channels-last arrays stay so."""

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        if not is_channels_last(input):
            return super().forward(input, output_size)
        boxes = self._boxes(input)
        n, z, a, y, b, x, c, channels = boxes.shape
        grown = boxes.reshape(n, z * a, y * b, x * c, channels)
        return (grown if self.bias is None else grown.add_(self.bias)).permute(0, 4, 1, 2, 3)

    def put(self, input: torch.Tensor, into: torch.Tensor) -> None:
        """The output, in an array that is there."""
        if not is_channels_last(input):
            into.copy_(super().forward(input))
            return
        boxes = self._boxes(input)
        into.permute(0, 2, 3, 4, 1).view(boxes.shape).copy_(boxes)
        if self.bias is not None:
            into.add_(self.bias[:, None, None, None])

    def _boxes(self, input: torch.Tensor) -> torch.Tensor:
        """(N, Z, a, Y, b, X, c, channels), of boxes of a x b x c voxels."""
        n, _, z, y, x = input.shape
        _, channels, a, b, c = self.weight.shape
        weight = self.weight.permute(2, 3, 4, 1, 0).flatten(0, 3)
        boxes = linear(input.permute(0, 2, 3, 4, 1), weight).reshape(n, z, y, x, a, b, c, channels)
        return boxes.permute(0, 1, 4, 2, 5, 3, 6, 7)


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether the channels of a voxel lie side by side; arrays of one channel count as well."""
    return x.is_contiguous(memory_format=torch.channels_last_3d)


class Grouped(nn.GroupNorm):
    """Group norm of arrays whose channels come first: with the channels last, torch's own loses up to three digits on a
    CPU where a mean is large beside its deviation."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.contiguous())


def norm_of(norm: str, width: int) -> nn.Module:
    """The layer of a name of `unet.NORMS`."""
    if norm == "none":
        return nn.Identity()
    if norm == "batch":
        return nn.BatchNorm3d(width)
    if norm == "instance":
        return Grouped(width, width)
    return Grouped(width // 8 if width % 8 == 0 else 1, width)


def same_padding(kernel: Triple) -> Triple:
    """Padding that keeps the shape."""
    return kernel[0] // 2, kernel[1] // 2, kernel[2] // 2
