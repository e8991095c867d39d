"""Lists of the voxels that thinning left open in a block, with all that another look at them needs.

A voxel is listed with its key, the pass to go on from, and for each of its 26 neighbours when that was deleted, that it
stays for ever, or that it is open too. `kernels.residual` joins and solves such lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.decisions import NEIGHBOURS
from chunkflow.kernels.distance import UNKNOWN, Labels, as_labels
from chunkflow.kernels.thinning import OPEN
from chunkflow.kernels.voxel_order import PARITY_RANK

Triple = tuple[int, int, int]

NO_KEY = -1
"""Key of a voxel whose distance is UNKNOWN: it has no place in the order and stays open."""


@dataclass(frozen=True, slots=True)
class OpenVoxels:
    """A list of N open voxels.

    index : (N,) int64, flat index in the volume
    label : (N,) uint64
    key : (N,) int64, 8 D2 + rank of the parities; NO_KEY where D2 is UNKNOWN
    start : (N,) uint8, the pass to go on from
    history : (N, 26) uint8, of each neighbour of the same label, as in `thinning.Thinned`: OPEN if it is in a list too;
        0 if there is none, or if it is gone before `start` looks at it
    lower : (N,) uint32, bit i: neighbour i has the smaller key
    """

    index: NDArray[np.int64]
    label: NDArray[np.uint64]
    key: NDArray[np.int64]
    start: NDArray[np.uint8]
    history: NDArray[np.uint8]
    lower: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def empty(cls, count: int = 0) -> OpenVoxels:
        """A list of zeros."""
        return cls(
            np.zeros(count, np.int64),
            np.zeros(count, np.uint64),
            np.zeros(count, np.int64),
            np.zeros(count, np.uint8),
            np.zeros((count, 26), np.uint8),
            np.zeros(count, np.uint32),
        )

    @classmethod
    def joined(cls, lists: Sequence[OpenVoxels]) -> OpenVoxels:
        """One list of all, ordered by index."""
        return cls.gathered({column.name: [getattr(part, column.name) for part in lists] for column in fields(cls)})

    @classmethod
    def gathered(cls, parts: dict[str, list[Any]]) -> OpenVoxels:
        """One list from the columns of several, ordered by index. `parts` is used up, so that memory is held once."""
        empty = cls.empty()
        order = np.argsort(np.concatenate([empty.index, *parts["index"]]), kind="stable")
        columns = []
        for column in fields(cls):
            together = np.concatenate([getattr(empty, column.name), *parts.pop(column.name)])
            columns.append(together[order])
        return cls(*columns)

    def of(self, rows: NDArray[np.bool_]) -> OpenVoxels:
        """The list of some of the voxels."""
        return OpenVoxels(*(getattr(self, column.name)[rows] for column in fields(self)))


def collect(
    labels: Labels | NDArray[np.bool_],
    distance2: NDArray[np.int32],
    history: NDArray[np.uint8],
    start: NDArray[np.uint8],
    *,
    low: Triple,
    high: Triple,
    origin: Triple,
    shape: Triple,
) -> OpenVoxels:
    """The open voxels of a core, from a crop that was thinned.

    Parameters
    ----------
    labels, distance2, history, start : (Z, Y, X) of the crop, see `thinning.thin`; it goes one voxel beyond the core
        except where the volume ends
    low, high : the core in the crop, half-open
    origin : index of the crop's first voxel in the volume
    shape : of the volume

    Returns them in raster order. Neighbours outside the core are OPEN, whatever the crop says of them: two neighbours
    must agree on whether they wait for each other, so the core that owns a voxel has the word.
    """
    core = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    found = OpenVoxels.empty(int(np.count_nonzero(history[core] == OPEN)))
    if len(found):
        box = np.array((low, high, origin, shape), np.int64)
        columns = (getattr(found, column.name) for column in fields(found))
        _collect(as_labels(labels), distance2, history, start, box, PARITY_RANK, NEIGHBOURS, *columns)
    return found


@njit(cache=True, nogil=True)
def _collect(
    labels: Labels,
    distance2: NDArray[np.int32],
    history: NDArray[np.uint8],
    start: NDArray[np.uint8],
    box: NDArray[np.int64],
    rank: NDArray[np.int64],
    neighbours: NDArray[np.int64],
    index: NDArray[np.int64],
    label: NDArray[np.uint64],
    key: NDArray[np.int64],
    first: NDArray[np.uint8],
    neighbour_history: NDArray[np.uint8],
    lower: NDArray[np.uint32],
) -> None:
    """Fill the columns of a list. `box` holds low, high, origin and the shape of the volume."""
    low, high, origin, shape = box
    n = 0
    for z in range(low[0], high[0]):
        for y in range(low[1], high[1]):
            for x in range(low[2], high[2]):
                if history[z, y, x] != OPEN:
                    continue
                index[n] = ((z + origin[0]) * shape[1] + y + origin[1]) * shape[2] + x + origin[2]
                label[n] = labels[z, y, x]
                key[n] = _key(distance2, rank, origin, z, y, x)
                first[n] = start[z, y, x]
                for i in range(26):
                    a, b, c = z + neighbours[i, 0], y + neighbours[i, 1], x + neighbours[i, 2]
                    if a < 0 or b < 0 or c < 0 or a >= labels.shape[0] or b >= labels.shape[1] or c >= labels.shape[2]:
                        continue  # the crop ends beside the core only where the volume ends
                    if labels[a, b, c] != labels[z, y, x]:
                        continue
                    if _key(distance2, rank, origin, a, b, c) < key[n]:
                        lower[n] |= np.uint32(1) << np.uint32(i)
                    inside = low[0] <= a and a < high[0] and low[1] <= b and b < high[1] and low[2] <= c and c < high[2]
                    became = int(history[a, b, c]) if inside else OPEN
                    if not is_gone(became, first[n], lower[n], i):
                        neighbour_history[n, i] = became
                n += 1


@njit(cache=True, nogil=True)
def _key(
    distance2: NDArray[np.int32], rank: NDArray[np.int64], origin: NDArray[np.int64], z: int, y: int, x: int
) -> int:
    if distance2[z, y, x] == UNKNOWN:
        return NO_KEY
    parity = rank[(z + origin[0]) & 1, (y + origin[1]) & 1, (x + origin[2]) & 1]
    return int(distance2[z, y, x]) * 8 + int(parity)


@njit(cache=True, nogil=True)
def seen_gone(became: int, lower: np.uint32, i: int) -> int:
    """The first pass in which a voxel sees neighbour i gone, which was deleted in pass `became`."""
    return became if (lower >> np.uint32(i)) & np.uint32(1) else became + 1


@njit(cache=True, nogil=True)
def is_gone(became: int, start: int, lower: np.uint32, i: int) -> bool:
    """Whether neighbour i is gone when a voxel is looked at in pass `start`."""
    return became < OPEN and seen_gone(became, lower, i) <= start
