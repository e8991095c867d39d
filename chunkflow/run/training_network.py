"""The network of a training, as every one of its processes begins with it."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from chunkflow.errors import ModelError
from chunkflow.run.training import Training
from chunkflow.storage.copies import copied

if TYPE_CHECKING:
    from chunkflow.models.unet import UNet


def network_of(training: Training) -> UNet:
    """The network to begin with.

    Raises
    ------
    ModelError : torch is missing, or parameters or weights do not fit.
    """
    from chunkflow.models.model import import_torch

    import_torch()
    from chunkflow.models.begin import config_of, continued, drawn

    channels = {"in_channels": training.in_channels, "out_channels": len(training.target.outputs)}
    seed = training.recipe.seed
    if training.start is None:
        network = drawn(config_of(training.network, **channels), seed)
    else:
        network = continued(copied(training.start), seed=seed, **channels)
        if training.network is not None and config_of(training.network, **channels) != network.config:
            raise ModelError(
                f"network differs from that of {training.start}", "Leave network out: it follows from the weights"
            )
    if max(network.config.upsampling) > 1:
        raise ModelError(
            f"network: upsampling {network.config.upsampling} with targets as large as the image", "Leave it out"
        )
    return network


def check_patch(training: Training, network: UNet) -> None:
    """Refuse patches that the network cannot take.

    Raises
    ------
    ModelError : the message names the nearest that fits.
    """
    stride = network.config.stride
    if any(p % s for p, s in zip(training.patch, stride, strict=True)):
        near = [max(s, round(p / s) * s) for p, s in zip(training.patch, stride, strict=True)]
        raise ModelError(
            f"patch {list(training.patch)} is not a multiple of the network's stride {list(stride)}", f"Use {near}"
        )
    voxels = prod(p // s for p, s in zip(training.patch, stride, strict=True))
    if network.config.norm == "instance" and voxels == 1:
        raise ModelError(
            f"patch {list(training.patch)} is one voxel to the coarsest level, and instance norm takes its deviation",
            "Use a larger patch, fewer levels, or norm: group",
        )
    if network.config.norm == "batch" and voxels * training.recipe.batch == 1:
        raise ModelError(
            f"patch {list(training.patch)} is one voxel to the coarsest level, and batch norm takes its deviation over"
            " a batch of 1",
            "Use a larger patch or batch, fewer levels, or norm: group",
        )
