"""The network a training begins with: drawn from a seed, or given weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from chunkflow.errors import ModelError
from chunkflow.models import shipped
from chunkflow.models.unet import UNet, UNetConfig

ENCODER = ("stem", "down")
"""Child modules on the way down."""
HEAD = "head."
"""What the names of the last layer's weights begin with."""


def config_of(parameters: Mapping[str, Any] | None, *, in_channels: int, out_channels: int) -> UNetConfig:
    """The network that a training names: `dimensions` and parameters of `UNetConfig`.

    Raises
    ------
    ModelError : a parameter is unknown or wrong, or names channels, which follow from the data.
    """
    values = dict(parameters or {})
    for name in ("in_channels", "out_channels"):
        if name in values:
            raise ModelError(f"network: {name} follows from the pairs and the target", "Leave it out")
    dimensions = values.pop("dimensions", "3d")
    if dimensions not in ("3d", "2.5d", "2d"):
        raise ModelError(f"network: dimensions {dimensions!r} are not known", "Use 3d, 2.5d or 2d")
    usual = UNetConfig.of(dimensions, **({"widths": tuple(values["widths"])} if _is_list(values.get("widths")) else {}))
    return UNetConfig.from_dict({**usual.to_dict(), **values, "in_channels": in_channels, "out_channels": out_channels})


def drawn(config: UNetConfig, seed: int) -> UNet:
    """The network with random weights; a seed gives the same ones, and torch's own generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(config)


def continued(path: str | Path, *, in_channels: int, out_channels: int, seed: int) -> UNet:
    """The network in a file, for other outputs with a last layer that is drawn anew.

    Raises
    ------
    ModelError : it is not of our own architecture, or takes another number of channels.
    """
    source = shipped.load_unet(Path(path))
    if source.config.in_channels != in_channels:
        raise ModelError(
            f"{path} takes {source.config.in_channels} channels, the pairs have {in_channels}",
            "Name as many channels of the image",
        )
    network = drawn(replace(source.config, out_channels=out_channels), seed)
    kept = source.state_dict()
    if source.config.out_channels != out_channels:
        kept = {name: value for name, value in kept.items() if not name.startswith(HEAD)}
    network.load_state_dict(kept, strict=False)
    return network.train()


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)
