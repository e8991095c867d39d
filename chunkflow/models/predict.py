"""Apply a network to patches so that a patch always gives the same bits, whatever else is in its batch.

A library picks its convolution by the shape of the batch, so every batch has the same shape: short ones are filled
with zero patches. The place in the batch may show in the last bits; a patch of a volume has one for good. One thread,
no autotuning, no TF32, deterministic algorithms, and activations patch by patch. Voxels have their channels side by
side (channels last), which is what convolutions on CPUs and tensor cores are quickest with.

The whole batch is on the device at once, with every intermediate array of the network: see `models.trace.peak_bytes`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from chunkflow.backend import array_module, is_out_of_device_memory, is_out_of_memory, to_host
from chunkflow.errors import BlockMemoryError, ConfigError, ModelError, nearest
from chunkflow.models.trace import inner_output, is_own, peak_bytes
from chunkflow.models.usage import ACTIVATIONS

if TYPE_CHECKING:
    import torch

    from chunkflow.models.model import Model

Triple = tuple[int, int, int]

PRECISIONS = ("float32", "bfloat16", "float16")
TURNS = {"none": 1, "flips": 8, "plane": 8, "all": 16}
"""How many ways a patch is looked at: as it is; flipped along each subset of the axes; flipped and turned by right
angles in the plane; both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """How a network is applied to a patch. Each value is part of the result.

    activation : "sigmoid" or "softmax" (over the channels) give probabilities, "none" what the network gives
    activations : the same for each of `channels`, where they differ; else empty
    channels : the outputs that are wanted; one may be wanted by two activations
    batch : patches in one forward pass; another batch may change the last bits
    margin : voxels on each side of a patch whose outputs are not wanted
    turns : one of `TURNS`: outputs are the mean over that many ways to look at the patch
    precision : one of `PRECISIONS`; below float32 by autocast, where the device has it
    """

    activation: str = "sigmoid"
    activations: tuple[str, ...] = ()
    channels: tuple[int, ...] = (0,)
    batch: int = 1
    margin: Triple = (0, 0, 0)
    turns: str = "none"
    precision: str = "float32"

    def __post_init__(self) -> None:
        chosen = [(name, ACTIVATIONS) for name in (self.activation, *self.activations)]
        for value, known in (*chosen, (self.turns, TURNS), (self.precision, PRECISIONS)):
            if value not in known:
                raise ConfigError(f"a network cannot be applied with {value!r}", nearest(str(value), known))
        if self.batch < 1:
            raise ConfigError(f"batch {self.batch} is not a number of patches", "Give at least 1")


def prepared(model: Model, *, compiled: bool = False) -> Model:
    """The network in the memory format it is applied in, and compiled by torch where that is wished.

    Compiled, its shapes are fixed and no algorithm is chosen by timing, so it is the same program every time on the
    same machine and torch; its last bits differ from those of the network as it is.
    """
    import torch

    module = model.module
    if not isinstance(module, torch.nn.Module):
        return model
    if is_own(model):  # others may hold torch's own group norm, which is inexact in this format on a CPU
        for weights in chain(module.parameters(), module.buffers()):
            if weights.ndim == 5:
                weights.data = weights.data.contiguous(memory_format=torch.channels_last_3d)
    if not compiled:
        return model
    return replace(model, module=torch.compile(module, fullgraph=True, dynamic=False))


def predict(model: Model, patches: Any, how: Application) -> Any:
    """What the network gives for each patch.

    patches : (N, in_channels, Z, Y, X) float32, numpy or cupy; on the network's GPU they are passed without a host copy
    Returns (N, len(how.channels), Z', Y', X') float32, where the patches are; Z' is (Z - 2 margin) times the network's
    upsampling.

    Sets this process to one CPU thread and to deterministic algorithms, and leaves it so: a worker does nothing else.

    Raises
    ------
    ModelError : the network has no such channel, cannot take patches of that shape, gives another shape, or NaN.
    BlockMemoryError : a batch does not fit the memory of the GPU; says which batch would.
    """
    import torch

    _check_request(model, patches, how)
    _make_deterministic()
    xp = array_module(patches)
    result = xp.empty((len(patches), len(how.channels), *_output_sides(model, patches.shape[2:], how)), xp.float32)
    for first in range(0, len(patches), how.batch):
        part = patches[first : first + how.batch]
        with torch.inference_mode():
            found = _retried(model, _to_tensor(_full(part, how.batch), model.device), how)
            for i in range(len(part)):
                result[first + i] = _to_array(found[i], xp)
    return result


def _full(patches: Any, batch: int) -> Any:
    """As many patches as a batch has, float32 and contiguous: those given, where they are that already."""
    xp = array_module(patches)
    shared = patches.flags.c_contiguous and getattr(patches.flags, "writeable", True)  # as DLPack wants it
    if shared and len(patches) == batch and patches.dtype == xp.float32:
        return patches
    full = xp.zeros((batch, *patches.shape[1:]), dtype=xp.float32)
    full[: len(patches)] = patches
    return full


def _check_request(model: Model, patches: Any, how: Application) -> None:
    for channel in how.channels:
        if not 0 <= channel < model.out_channels:
            raise ModelError(
                f"the network has no output channel {channel}: it has {model.out_channels}",
                f"Give a channel from 0 to {model.out_channels - 1}",
            )
    if patches.shape[1] != model.in_channels:
        raise ModelError(
            f"the network takes {model.in_channels} channels, not {patches.shape[1]}", "Give as many as it takes"
        )
    shape = tuple(patches.shape[2:])
    if any(n % s for n, s in zip(shape, model.stride, strict=True)):
        near = [max(s, round(n / s) * s) for n, s in zip(shape, model.stride, strict=True)]
        raise ModelError(f"patch {shape} is not a multiple of the network's stride {model.stride}", f"Use {near}")
    if how.turns in ("plane", "all") and shape[1] != shape[2]:
        raise ModelError(f"patch {shape} cannot be turned in its plane", "Use as many voxels in y as in x")
    if how.precision == "float16" and model.device == "cpu":
        raise ModelError("precision float16 on a CPU", "Use float32, or a GPU")


def _output_sides(model: Model, shape: Sequence[int], how: Application) -> Triple:
    z, y, x = ((n - 2 * m) * f for n, m, f in zip(shape, how.margin, model.upsampling, strict=True))
    return z, y, x


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


def _retried(model: Model, patches: torch.Tensor, how: Application) -> torch.Tensor:
    """`_looked_at`, once more where the GPU's memory was full of what is not needed any more."""
    import torch

    try:
        return _looked_at(model, patches, how)
    except RuntimeError as error:
        if not is_out_of_device_memory(error):
            raise
    # Outside of the handler: the error holds the frames, and those the arrays.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        return _looked_at(model, patches, how)
    except RuntimeError as error:
        if not is_out_of_device_memory(error):
            raise
        raise BlockMemoryError(
            f"a batch of {how.batch} patches {tuple(patches.shape[2:])} does not fit the GPU",
            _fitting(model, (patches.shape[2], patches.shape[3], patches.shape[4]), how),
        ) from error


def _fitting(model: Model, shape: Triple, how: Application) -> str:
    """The batch that would have fitted, as a remedy."""
    import torch

    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
    batch = min(how.batch - 1, free // peak_bytes(model, shape, margin=how.margin, whole=True))
    return f"Use batch: {batch}, or a smaller patch" if batch else "Use a smaller patch, or a GPU with more memory"


def _looked_at(model: Model, patches: torch.Tensor, how: Application) -> torch.Tensor:
    """(N, channels, Z', Y', X') of a batch: the mean over all ways to look at it, in their order."""
    if how.turns == "none":  # others than ours may write into what they are given
        return _activated(_forward(model, patches if is_own(model) else patches.clone(), how), how)
    total: torch.Tensor | None = None
    for there, back in _ways(how.turns):
        found = _activated(_forward(model, there(patches), how), how)
        total = back(found) if total is None else total + back(found)
    assert total is not None
    return total / TURNS[how.turns]


Way = Callable[["torch.Tensor"], "torch.Tensor"]


def _ways(turns: str) -> Iterator[tuple[Way, Way]]:
    """Pairs (turn, turn back) of arrays (N, C, Z, Y, X)."""
    import torch

    def way(quarter: int, flipped: tuple[int, ...]) -> tuple[Way, Way]:
        return (
            lambda x: torch.flip(torch.rot90(x, quarter, (3, 4)), flipped).contiguous(),
            lambda x: torch.rot90(torch.flip(x, flipped), -quarter, (3, 4)).contiguous(),
        )

    z_flips: tuple[tuple[int, ...], ...] = ((), (2,)) if turns in ("flips", "all") else ((),)
    x_flips: tuple[tuple[int, ...], ...] = ((), (4,))
    quarters = (0, 2) if turns == "flips" else (0, 1, 2, 3)
    for z in z_flips:
        for x in x_flips:
            # A half turn and a flip of x are a flip of y.
            yield from (way(quarter, z + x) for quarter in quarters)


@contextmanager
def _precision(device: str, name: str) -> Iterator[None]:
    """Operators that allow it go in that precision."""
    import torch

    if name == "float32":
        yield
        return
    flags: Any = torch.backends.mkldnn  # whose context manager warns of graphics cards
    # Convolutions of single planes by oneDNN in bfloat16 are wrong, and differ from run to run (torch 2.13).
    before = flags.set_flags(_enabled=False if device == "cpu" else None, _fp32_precision=None)
    try:
        with torch.autocast(device, getattr(torch, name)):
            yield
    finally:
        flags.set_flags(_enabled=before[0], _fp32_precision=None)


def _forward(model: Model, patches: torch.Tensor, how: Application) -> torch.Tensor:
    """What the network gives, (N, out_channels, Z', Y', X') float32, finite."""
    import torch

    shape = tuple(patches.shape)
    device = "cuda" if model.device.startswith("cuda") else "cpu"
    try:
        with _precision(device, how.precision):
            output = inner_output(model, patches, how.margin)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        cause = " ".join(str(error).split()[:30]) or type(error).__name__
        raise ModelError(
            f"the network cannot be applied to patches {shape}: {cause}", "Use the patch and batch it was made for"
        ) from error
    wanted = (shape[0], model.out_channels, *_output_sides(model, shape[2:], how))
    got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if got != wanted:
        raise ModelError(
            f"the network gives {got} for patches {shape}, not {wanted}",
            "Use a network that keeps the shape, or that says how many times finer its output is",
        )
    # A sum is quicker, and finite only where every value is; of finite ones it may overflow.
    if not bool(torch.isfinite(output.sum())) and not bool(torch.isfinite(output).all()):
        raise ModelError("the network gives NaN or infinity", "Check its weights and the range of its input")
    values: torch.Tensor = output.float()
    return values


def _activated(outputs: torch.Tensor, how: Application) -> torch.Tensor:
    """(N, channels, Z, Y, X) of outputs (N, out_channels, Z, Y, X).

    Patch by patch and contiguous: torch computes the last few values of an array with other instructions than the rest
    and does not promise the same bits, which would show where in the batch a patch stood.
    """
    import torch

    return torch.stack([_activated_patch(patch, how) for patch in outputs])


def _activated_patch(outputs: torch.Tensor, how: Application) -> torch.Tensor:
    import torch

    if how.activations:
        every = tuple(range(len(outputs)))
        alike = {name: replace(how, channels=every, activation=name, activations=()) for name in how.activations}
        made = {name: _activated_patch(outputs, one) for name, one in alike.items()}
        return torch.stack([made[name][channel] for channel, name in zip(how.channels, how.activations, strict=True)])
    if how.activation == "softmax":
        return torch.softmax(outputs.contiguous(), dim=0)[list(how.channels)].contiguous()
    wanted = outputs[list(how.channels)].contiguous()
    return torch.sigmoid(wanted) if how.activation == "sigmoid" else wanted


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
