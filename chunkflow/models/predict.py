"""Apply a network to patches so that the same patch always gives the same bits.

A library picks its convolution by the shape of the batch, so every batch has the same shape: short ones are filled
with zero patches. One thread, no autotuning, no TF32, deterministic algorithms, and activations patch by patch.

The whole batch is on the device at once, with every intermediate array of the network: see `unet` for its size.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkflow.backend import array_module, to_host
from chunkflow.errors import ConfigError, ModelError, nearest

if TYPE_CHECKING:
    import torch

    from chunkflow.models.load import Model

ACTIVATIONS = ("sigmoid", "softmax", "none")


def predict(model: Model, patches: Any, *, activation: str = "sigmoid", channel: int = 0, batch: int = 1) -> Any:
    """One output channel of the network for each patch.

    patches : (N, 1, Z, Y, X) float32, numpy or cupy; on the network's GPU they are passed without a host copy
    activation : "sigmoid" or "softmax" (over the channels) give probabilities, "none" gives the logits
    batch : patches in one forward pass; another batch may change the last bits, so it belongs to the pipeline
    Returns (N, Z, Y, X) float32, where the patches are.

    Sets this process to one CPU thread and to deterministic algorithms, and leaves it so: a worker does nothing else.

    Raises
    ------
    ModelError : the network has no such channel, cannot take patches of that shape, gives another shape, or NaN.
    """
    import torch

    _check_request(model, patches, activation, channel, batch)
    _make_deterministic()
    xp = array_module(patches)
    result = xp.empty((patches.shape[0], *patches.shape[2:]), dtype=xp.float32)
    for first in range(0, len(patches), batch):
        part = patches[first : first + batch]
        full = xp.zeros((batch, *patches.shape[1:]), dtype=xp.float32)
        full[: len(part)] = part
        with torch.inference_mode():
            logits = _forward(model, _to_tensor(full, model.device))
            for i in range(len(part)):
                result[first + i] = _to_array(_activated(logits[i], activation, channel), xp)
    return result


def _check_request(model: Model, patches: Any, activation: str, channel: int, batch: int) -> None:
    if activation not in ACTIVATIONS:
        raise ConfigError(f"unknown activation {activation!r}", nearest(activation, ACTIVATIONS))
    if batch < 1:
        raise ConfigError(f"batch {batch} is not a number of patches", "Give at least 1")
    if not 0 <= channel < model.out_channels:
        raise ModelError(
            f"the network has no output channel {channel}: it has {model.out_channels}",
            f"Give a channel from 0 to {model.out_channels - 1}",
        )
    shape = tuple(patches.shape[2:])
    if any(n % model.stride for n in shape):
        near = [max(model.stride, round(n / model.stride) * model.stride) for n in shape]
        raise ModelError(f"patch {shape} is not a multiple of the network's stride {model.stride}", f"Use {near}")


def _make_deterministic() -> None:
    """One thread (of every thread that calls: OpenMP keeps the number per thread) and one algorithm."""
    import torch

    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses under the next line
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory costs time and guards only against reading what nobody wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _forward(model: Model, patches: torch.Tensor) -> torch.Tensor:
    """Logits (N, out_channels, Z, Y, X), finite."""
    import torch

    shape = tuple(patches.shape)
    try:
        logits: torch.Tensor = model.module(patches)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"a batch of {shape} does not fit the GPU", "Use a smaller patch or batch") from error
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(
            f"the network cannot be applied to patches {shape}: {cause}", "Use the patch and batch it was made for"
        ) from error
    wanted = (shape[0], model.out_channels, *shape[2:])
    got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if got != wanted:
        raise ModelError(
            f"the network gives {got} for patches {shape}, not {wanted}", "Use a network that keeps the shape"
        )
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("the network gives NaN or infinity", "Check its weights and the range of its input")
    return logits.float()


def _activated(logits: torch.Tensor, activation: str, channel: int) -> torch.Tensor:
    """(Z, Y, X) of one patch (out_channels, Z, Y, X).

    By itself and contiguous: torch computes the last few values of an array with other instructions than the rest
    and does not promise the same bits, which would show where in the batch a patch stood.
    """
    import torch

    if activation == "softmax":
        return torch.softmax(logits.contiguous(), dim=0)[channel].contiguous()
    one = logits[channel].contiguous()
    return torch.sigmoid(one) if activation == "sigmoid" else one


def _to_tensor(array: Any, device: str) -> torch.Tensor:
    """By DLPack, so without a copy where the array lies on the network's device."""
    from torch.utils.dlpack import from_dlpack

    tensor: torch.Tensor = from_dlpack(to_host(array) if device == "cpu" else array)
    return tensor.to(device)


def _to_array(tensor: torch.Tensor, xp: Any) -> Any:
    """The tensor as an array of `xp`, by DLPack where that is possible."""
    if xp is np:
        return tensor.cpu().numpy()
    return xp.from_dlpack(tensor) if tensor.is_cuda else xp.asarray(tensor.numpy())
