"""A U-Net that compresses what is bright in its input itself, for programs that know no such step before a network."""

from __future__ import annotations

from math import asinh as asinh_of

import torch

from chunkflow.models.unet import Triple, UNet, UNetConfig


class CompressedUNet(UNet):
    """`UNet` of asinh(a v) / asinh(a), which `Normalization.asinh` describes; the weights have the same names."""

    def __init__(self, config: UNetConfig, asinh: float) -> None:
        super().__init__(config)
        self.asinh = float(asinh)

    def forward(self, image: torch.Tensor, margin: Triple = (0, 0, 0), *, whole: bool = False) -> torch.Tensor:
        """As `UNet.forward`."""
        return super().forward(torch.asinh(image * self.asinh) / asinh_of(self.asinh), margin, whole=whole)
