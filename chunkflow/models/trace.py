"""What a network does, found by watching it: how far it looks, and what memory it takes.

**How far it looks.** Voxels of NaN go into one cell of the lattice of the network's stride, along one axis at a time,
and whatever depends on them comes out as NaN: additions and products keep it, zero weights too. Layers that let it
vanish (a maximum in some libraries) are caught by large finite values, which are tried as well. A network whose whole
output is NaN however long the line is takes statistics over its patch, or looks farther than anybody wants to read. A
line without its first cell must give the same one cell earlier: a network that is told a wrong stride, or that spreads
its voxels over the length of its patch (`align_corners`), looks near by and still depends on the patch.

**What memory it takes.** The network runs once on tensors without voxels, which know their shapes only, while the bytes
of those alive are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from chunkflow.models.model import Model

Triple = tuple[int, int, int]

LONGEST = 4096
"""Voxels of a line, beyond which a network is taken to look everywhere."""
CELLS = (17, 65, 257)
LARGE = 1e3
SAME = 1e-3
"""Of the range of an output: what rounding may differ by; other positions within a stride differ by hundredths."""
BYTES_PER_VOXEL = 4 * 160
"""Of a patch, for networks that run only on real tensors: 40 arrays of 4 bytes were measured for widths of 16 to 64,
the fourfold is room for wider ones."""


@lru_cache(maxsize=8)
def reach(model: Model) -> Triple | None:
    """How far beyond a box of whole strides an output of the box depends on the input, in z, y and x.

    Returns voxels of the input, multiples of the stride; None where the network takes statistics of its whole patch
    (instance and group norm, attention), does not move with its input by whole strides, looks farther than `LONGEST`,
    or insists on one shape.
    """
    found: list[int] = []
    for axis in range(3):
        far = _reach_along(model, axis)
        if far is None:
            return None
        found.append(far)
    return found[0], found[1], found[2]


@lru_cache(maxsize=8)
def repeats(model: Model) -> bool:
    """Whether the same patch gives the same bits again. A network that drops out at random, adds noise or counts
    its calls gives others, and its result would depend on blocks and workers."""
    import torch

    sides = zip(model.patch, model.stride, model.patch_min, strict=True)
    image = _line(
        model, [max(2 * step, least, 8 // step * step) if side is None else side for side, step, least in sides]
    )
    try:
        with torch.inference_mode():
            first, second = (model.module(image.clone()) for _ in range(2))
    except Exception:  # a network that insists on another shape: it is refused with its reason where it is applied
        return True
    return bool(((first == second) | (first.isnan() & second.isnan())).all())


@lru_cache(maxsize=64)
def peak_bytes(model: Model, shape: Triple, *, batch: int = 1, margin: Triple = (0, 0, 0), whole: bool = False) -> int:
    """Bytes of the tensors that are alive at a time while a batch of patches goes through the network, weights aside.

    shape : of a patch; margin : of its output that is not wanted; whole : on a GPU or compiled, where layers of our own
    networks go over whole patches
    """
    import torch
    from torch.func import functional_call

    from chunkflow.models.alive import Alive
    from chunkflow.models.unet import UNet

    module = model.module
    if not isinstance(module, torch.nn.Module):
        return batch * prod(shape) * BYTES_PER_VOXEL
    named = chain(module.named_parameters(), module.named_buffers())
    weights = {name: value.to("meta") for name, value in named}

    ways = {"whole": whole} if isinstance(module, UNet) else {}

    def applied(image: torch.Tensor, *more: Any) -> Any:
        return functional_call(module, weights, (image, *more), ways)

    try:
        image = torch.empty((batch, model.in_channels, *shape), device="meta")
        with torch.inference_mode(), Alive() as alive:
            _inner(applied, image, margin, skips=skips_margins(model), finer=model.upsampling)
        return int(alive.peak + image.nbytes)
    except Exception:  # a module that looks at values, or that is no graph of tensors to torch
        return batch * prod(shape) * BYTES_PER_VOXEL


def inner_output(model: Model, image: torch.Tensor, margin: Triple) -> Any:
    """The network's output, `margin` voxels of the image inside it on every side."""
    return _inner(model.module, image, margin, skips=skips_margins(model), finer=model.upsampling)


def skips_margins(model: Model) -> bool:
    """Whether the network can leave out a margin by itself, and gives the same without it.

    One that takes statistics of what it computes cannot: those of a part are others.
    """
    return is_own(model) and original(model).config.norm in ("batch", "none")


def is_own(model: Model) -> bool:
    """Whether the network is one of our U-Nets."""
    from chunkflow.models.unet import UNet

    return isinstance(original(model), UNet)


def original(model: Model) -> Any:
    """The module that was compiled, where it was, else the module."""
    return getattr(model.module, "_orig_mod", model.module)


def _inner(network: Callable[..., Any], image: torch.Tensor, margin: Triple, *, skips: bool, finer: Triple) -> Any:
    if max(margin) == 0:
        return network(image)
    if skips:
        return network(image, margin)
    output = network(image)
    cut = [slice(m * f, n - m * f) for m, f, n in zip(margin, finer, output.shape[2:], strict=True)]
    return output[:, :, cut[0], cut[1], cut[2]]


def _reach_along(model: Model, axis: int) -> int | None:
    step, least = model.stride[axis], model.patch_min
    for cells in CELLS:
        if cells * step > LONGEST:
            break
        if (cells - 1) * step < least[axis]:
            continue
        shape = [max(pair) for pair in zip(model.stride, least, strict=True)]
        shape[axis] = cells * step
        try:
            touched = _touched(model, axis, shape, cells // 2)
            far = max(cells // 2 - touched[0], touched[1] - cells // 2)
            if touched[0] > 0 and touched[1] < cells - 1:
                return step * far if _moves(model, axis, shape, far) else None
        except Exception:  # a network that insists on one shape; runtimes raise kinds of their own
            return None
    return None


def _moves(model: Model, axis: int, shape: list[int], far: int) -> bool:
    """Whether a line without its first cell gives the same, beyond `far` cells from its ends."""
    import torch

    step, factor = model.stride[axis], model.upsampling[axis]
    image = _line(model, shape)
    with torch.inference_mode():
        whole = model.module(image).narrow(2 + axis, step * factor, (shape[axis] - step) * factor)
        moved = model.module(image.narrow(2 + axis, step, shape[axis] - step).contiguous())
        inner = [
            values.narrow(2 + axis, far * step * factor, values.shape[2 + axis] - 2 * far * step * factor)
            for values in (whole, moved)
        ]
        room = SAME * (whole.max() - whole.min()) + 1e-5 * whole.abs().max()
        return bool(((inner[0] - inner[1]).abs() <= room).all())


def _line(model: Model, shape: list[int]) -> torch.Tensor:
    """Noise, the same every time."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.rand((1, model.in_channels, *shape), generator=generator).to(model.device)


def _touched(model: Model, axis: int, shape: list[int], cell: int) -> tuple[int, int]:
    """First and last cell of a line whose output depends on one cell of it."""
    import torch

    step, factor = model.stride[axis], model.upsampling[axis]
    image = _line(model, shape)
    there = [slice(None)] * 5
    there[2 + axis] = slice(cell * step, (cell + 1) * step)
    with torch.inference_mode():
        before = model.module(image)
        changed = torch.zeros(before.shape[2 + axis], dtype=torch.bool, device=before.device)
        for value in (float("nan"), LARGE, -LARGE):
            image[tuple(there)] = value
            differs = (model.module(image) != before).transpose(2 + axis, 0)  # NaN differs from everything
            changed |= differs.flatten(1).any(1)
            if changed.all():
                break
    positions = torch.nonzero(changed).ravel() // (step * factor)
    return (int(positions.min()), int(positions.max())) if len(positions) else (cell, cell)
