"""Which block to take where the user says `auto`: the one that moves least for the workers there are.

    fits the memory  ->  least decoded (whole chunks), computed on, written  x  what workers idle at the end of passes

Results do not depend on blocks, so the choice is one of cost alone. A larger block reads less beyond its core and
leaves workers idle sooner; chunks of the input that a block cuts through are read twice. 256 is taken unless another
side moves clearly less: larger blocks are a larger loss when one fails.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from chunkflow.geometry.box import Triple, triple
from chunkflow.plan.reading import traffic_of

if TYPE_CHECKING:
    from chunkflow.plan.passes import Pass
    from chunkflow.plan.plan import Plan

SIDES = (256, 192, 128, 384, 512, 96, 64, 32)
"""Sides that are tried, in the order of preference."""
MOST_VOXELS = 512**3
LEAST_SHARED = 192**3
"""Voxels up to which a volume stays one block: workers that start, and units, cost more than sharing gives."""
CLEARLY = 0.97
COMPUTING = 8
"""Bytes that are decoded in the time that steps take for one that they compute on: 30 to 50 MB/s beside 370 MB/s, over
the stages from `threshold` to `measure`. Deconvolution and networks go by tiles, whatever the blocks."""


def candidates(shape: Triple, write_unit: Triple | None, chunk: Triple) -> list[Triple]:
    """Blocks to try, the preferred first.

    Parameters
    ----------
    shape : of the input.
    write_unit : what blocks must be multiples of, where the user fixed files or chunks of the output.
    chunk : of the input: sides that are multiples of it are tried beside those of `SIDES`.
    """
    found: list[Triple] = []
    for side in SIDES:
        for unit in (write_unit or (1, 1, 1), write_unit or chunk):
            block = triple(tuple(max(u, side // u * u) if u <= side or write_unit else side for u in unit))
            clipped = prod(min(b, n) for b, n in zip(block, shape, strict=True))
            if block not in found and (clipped <= MOST_VOXELS or side <= SIDES[0]):
                found.append(block)
    return found


def cost_of(plan: Plan, workers: int) -> float:
    """Bytes that a run moves, more where workers wait for the last blocks of a pass."""
    layouts = plan.layouts
    total = 0.0
    for p in plan.passes:
        traffic = traffic_of(p, layouts)
        moved = traffic.moved_bytes + COMPUTING * traffic.asked_bytes
        total += moved if p.draft.tiled else moved * _idle(p, workers)
    return total


def _idle(p: Pass, workers: int) -> float:
    """How much longer a pass takes than if its voxels were shared evenly: the last round, or one large block."""
    grid = p.draft.grid
    block = prod(min(c, n) for c, n in zip(grid.core, grid.shape, strict=True))
    if prod(grid.shape) <= LEAST_SHARED:
        return 1.0
    return max(-(-p.units // workers) * workers / p.units, workers * block / prod(grid.shape))
