"""Whether blocks have left traces: are points near the faces of blocks as dense as elsewhere?

    |        block        |        block        |
    |     .       .     . | .      .      .     |        near: within d voxels of a face between two blocks
    |  .      .        . :|:.  .      .         |        a cut leaves an end on both sides of the face

Where blocks play no part, a point lies near a face with the probability that a voxel does. So of n points the number
near follows a binomial law, and how unlikely the number found is under it is the p-value (exact, two-sided by doubling
the smaller tail, as Clopper and Pearson do). Points that keep together (ends of one object) spread more than that law,
so a finding also asks for a clear difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

NEAR_VOXELS = 2
"""Voxels on either side of a face."""
UNLIKELY = 1e-3
"""A p-value below which a difference is no chance, if it is also clear."""
CLEAR = 0.2
"""A difference of densities, relative to the interior's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamCount:
    """Points of one kind near the faces between blocks, and elsewhere.

    near, total : points; share : of the volume that is near
    """

    what: str
    near: int
    total: int
    share: float

    @property
    def expected(self) -> float:
        """Points that would lie near if faces played no part."""
        return self.total * self.share

    @property
    def ratio(self) -> float:
        """Density near faces over that in the interior; 1 where nothing can be said."""
        inside = self.total - self.near
        if not 0 < self.share < 1 or self.total == 0:
            return 1.0
        if inside == 0:
            return float("inf")
        return (self.near / self.share) / (inside / (1 - self.share))

    @property
    def p_value(self) -> float:
        """Of so many near points or more extreme, if faces played no part."""
        if not 0 < self.share < 1 or self.total == 0:
            return 1.0
        from scipy.special import bdtr, bdtrc  # scipy.stats takes a second to import, which a report would wait for

        at_most = bdtr(self.near, self.total, self.share)
        at_least = bdtrc(self.near - 1, self.total, self.share) if self.near else 1.0
        return float(min(1.0, 2 * min(at_most, at_least)))

    @property
    def is_suspicious(self) -> bool:
        """Whether the faces of blocks can be told from the points."""
        return self.p_value < UNLIKELY and abs(self.ratio - 1) > CLEAR


def count_near_seams(
    what: str,
    points: NDArray[np.float64],
    shape: tuple[int, int, int],
    core: tuple[int, int, int],
    *,
    near: int = NEAR_VOXELS,
) -> SeamCount:
    """Count points near the faces between blocks. Those near a side of the volume, where objects end, are left out.

    Parameters
    ----------
    points : (N, 3) positions in voxels, z, y, x; voxel i is centred at i.
    shape : of the volume; core : of its blocks.
    near : voxels on either side of a face, >= 1.
    """
    inner = [(near, n - near) if n > 2 * near else (0, n) for n in shape]
    flags = [_near_faces(n, c, near) for n, c in zip(shape, core, strict=True)]
    inside = np.ones(len(points), bool)
    is_near = np.zeros(len(points), bool)
    for axis, ((low, high), flag) in enumerate(zip(inner, flags, strict=True)):
        voxel = np.clip(np.floor(points[:, axis] + 0.5).astype(np.int64), 0, shape[axis] - 1)
        inside &= (voxel >= low) & (voxel < high)
        is_near |= flag[voxel]
    far = prod(1 - float(flag[low:high].mean()) for flag, (low, high) in zip(flags, inner, strict=True))
    return SeamCount(what=what, near=int((is_near & inside).sum()), total=int(inside.sum()), share=1 - far)


def count_sides_near_seams(
    what: str,
    sides: Sequence[NDArray[np.int64]],
    shape: tuple[int, int, int],
    core: tuple[int, int, int],
    *,
    near: int = NEAR_VOXELS,
) -> SeamCount:
    """The same for positions along one axis each: where objects begin and end.

    Parameters
    ----------
    sides : for z, y and x, (N,) positions between voxels: i lies between voxels i - 1 and i.
    """
    found = total = 0
    expected = 0.0
    for positions, n, c in zip(sides, shape, core, strict=True):
        if n <= 2 * near + 1:
            continue
        places = np.arange(near + 1, n - near)  # positions that are not near a side of the volume
        is_near = (places + near) % c <= 2 * near
        is_near &= (places + near) // c * c < n
        is_near &= (places + near) // c > 0
        own = positions[(positions > near) & (positions < n - near)]
        found += int(is_near[own - near - 1].sum())
        total += len(own)
        expected += len(own) * float(is_near.mean())
    return SeamCount(what=what, near=found, total=total, share=expected / total if total else 0.0)


def added(counts: Sequence[SeamCount]) -> SeamCount:
    """What several counts of different points of one kind say together; at least one."""
    if len(counts) == 1:
        return counts[0]
    total = sum(count.total for count in counts)
    share = sum(count.expected for count in counts) / total if total else counts[0].share
    return SeamCount(what=counts[0].what, near=sum(count.near for count in counts), total=total, share=share)


def _near_faces(length: int, core: int, near: int) -> NDArray[np.bool_]:
    """(length,) which voxels along an axis lie within `near` of a face between two blocks."""
    flags = np.zeros(length, bool)
    for face in range(core, length, core):
        flags[max(0, face - near) : face + near] = True
    return flags
