"""How much memory a unit of work takes at its peak, from what its steps say about themselves.

    peak = process + the largest of: arrays read + products so far + the working set of a step
                                     all products stored + one of them being compressed

The boxes are those of the block that reads most. Merges are told before anything is known of the data and
are the one thing that noise (10^5 objects, all skeleton) can take beyond its projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.stages.base import BlockStep, OtherOnDevice, boxes_of_chain

PROCESS_BYTES = 340 * 2**20
"""A worker that holds no voxel, and what the allocator keeps of freed memory: workers that start from nothing (SLURM, a
scheduler by address) peaked up to 340 MiB above what their passes hold, those of a local cluster, which are forked, 50
MiB less (blocks of 64^3 to 160^3 of 384^3, every stage; Linux, Python 3.11). One that compiles kernels, once per
installation, takes up to 100 MiB more."""

TORCH_BYTES = 170 * 2**20
"""What torch adds before a network runs: 168 MiB measured on a CPU."""

PRODUCT_TYPES = {"mask": "uint8", "valid": "uint8", "classes": "uint8"}
"""Types of products that are not float32 and may not be stored."""


def widest_block(grid: Grid) -> int:
    """A block in the middle of the grid whose core is whole and whose halo is clipped least."""
    return grid.index(triple(tuple((n - 1) // 2 for n in grid.counts)))


def next_widest_block(grid: Grid) -> int:
    """The largest block but for that one: of a grid of a few, it may be clipped. One block is its own."""
    position = grid.position(widest_block(grid))
    beside = (
        triple(tuple(p + step * (axis == along) for axis, p in enumerate(position)))
        for along in range(3)
        for step in (-1, 1)
        if 0 <= position[along] + step < grid.counts[along]
    )
    return max(map(grid.index, beside), key=lambda block: grid.core_of(block).size, default=0)


def unit_bytes(
    steps: Sequence[BlockStep],
    grid: Grid,
    writes: Mapping[str, str],
    arrays: Mapping[str, tuple[Triple, str]],
) -> int:
    """Peak bytes of one unit, the process aside.

    Parameters
    ----------
    writes : dtype by product that is stored.
    arrays : shape and dtype of every array that can be read.
    """
    core = grid.core_of(widest_block(grid))
    stored = [core.size * np.dtype(dtype).itemsize for dtype in writes.values()]
    peak = sum(stored) + max(stored, default=0)
    return max(peak, _chain_bytes(steps, core, Box.of_shape(grid.shape), writes, arrays))


def ahead_bytes(
    steps: Sequence[BlockStep],
    grid: Grid,
    writes: Mapping[str, str],
    arrays: Mapping[str, tuple[Triple, str]],
) -> int:
    """Bytes of a unit that has been read, or of one that is written, beside the largest.

    Parameters as for `unit_bytes`.
    """
    core = grid.core_of(next_widest_block(grid))
    stored = [name for step in steps for name in step.produces if name in writes]
    outs, wanted = boxes_of_chain(steps, core, Box.of_shape(grid.shape), stored)
    read = sum(box.clip(Box.of_shape(arrays[n][0])).size * np.dtype(arrays[n][1]).itemsize for n, box in wanted.items())
    made = [
        out.size * np.dtype(writes[n]).itemsize
        for s, out in zip(steps, outs, strict=True)
        for n in s.produces
        if n in writes
    ]
    return max(read, sum(made) + max(made, default=0))


def device_bytes(
    steps: Sequence[BlockStep],
    grid: Grid,
    writes: Mapping[str, str],
    arrays: Mapping[str, tuple[Triple, str]],
) -> int:
    """Peak bytes of one unit on a GPU, the libraries' own aside: all that is read and made stays there until the end.

    Parameters as for `unit_bytes`.
    """
    core = grid.core_of(widest_block(grid))
    return _chain_bytes(steps, core, Box.of_shape(grid.shape), writes, arrays, on_device=True)


def _chain_bytes(
    steps: Sequence[BlockStep],
    core: Box,
    volume: Box,
    writes: Mapping[str, str],
    arrays: Mapping[str, tuple[Triple, str]],
    *,
    on_device: bool = False,
) -> int:
    stored = [name for step in steps for name in step.produces if name in writes]
    outs, wanted = boxes_of_chain(steps, core, volume, stored)
    held = 0
    for name, box in wanted.items():
        shape, dtype = arrays[name]
        held += box.clip(Box.of_shape(shape)).size * np.dtype(dtype).itemsize
    peak = held
    for step, out in zip(steps, outs, strict=True):
        types = [writes.get(name, PRODUCT_TYPES.get(name, "float32")) for name in step.produces]
        produced = sum(out.size * np.dtype(dtype).itemsize for dtype in types)
        if on_device and isinstance(step, OtherOnDevice):
            working = step.device_working_bytes(out.shape)
        else:
            working = step.working_bytes(out.shape)
        peak = max(peak, held + produced + working)
        held += produced
    return peak
