"""Voxels that thinning left open in the blocks, decided from lists: no voxel grid, any object, any blocks.

An open voxel is listed with all that a look at it needs: its key, the pass to go on from, and for each of its 26
neighbours when that was deleted, that it stays for ever, or that it is open too. Lists of neighbouring blocks are
joined in a tree, 2 x 2 x 2 at a time, and each joined list is solved as far as it goes:

    blocks     [a][b][c][d]     [e][f][g][h]        lists of open voxels
                 \\  |  |  /        \\  |  |  /
    residual-1    solve            solve            decided voxels leave, the rest climbs
                      \\            /
    residual-2           solve                      the root knows every neighbour: nothing stays open

Rules and certificate are those of `kernels.thinning`: a neighbour that is neither known nor in the list is unknown, and
a voxel is decided if all completions agree. So everything decided is as in the whole volume. What became of a voxel
that others may wait for is told upwards: a core tells of its outermost decided voxels, a joint of those it decided
(`Solved.is_awaited`). It reaches a waiting neighbour at the latest where the two branches of the tree meet. At the root
every neighbour is therefore known or in the list, and all is decided.

A list is solved by events: a voxel is looked at in the pass it goes on from, and again only in the first pass that sees
a neighbour gone or become unknown, or that may anchor. Looks between would see what the last one saw. On average there
are one to two looks per voxel. Independent of the order in which lists arrive, because the order of the voxels is
their key.

Memory follows the longest joined list: 55 B a voxel in the lists and about 180 B while they are solved. Tubes leave
next to nothing. Of thick objects much climbs where blocks are small beside them: in 256 x 512 x 512 voxels of which one
object fills a half, blocks of 64 left 4 million voxels to a joint of 256^3, and a worker took 1.5 GB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.kernels.decisions import (
    ANCHOR,
    ANCHOR_OR_KEEP,
    DELETE,
    MOST_UNKNOWN,
    NEIGHBOURS,
    UNDECIDED,
    common_decision,
    possible_decisions,
    table,
)
from chunkflow.kernels.distance import UNKNOWN, Labels, as_labels
from chunkflow.kernels.thinning import ALIVE, LAST_PASS, OPEN, PARITY_RANK

Triple = tuple[int, int, int]

NO_KEY = -1
"""Key of a voxel whose distance is UNKNOWN: it has no place in the order and stays open."""

NEVER = 1000
"""A pass that does not come."""


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
        order = np.argsort(np.concatenate([np.zeros(0, np.int64), *(part.index for part in lists)]), kind="stable")
        columns = (
            np.concatenate([getattr(part, column.name) for part in (cls.empty(), *lists)])[order]
            for column in fields(cls)
        )
        return cls(*columns)

    def of(self, rows: NDArray[np.bool_]) -> OpenVoxels:
        """The list of some of the voxels."""
        return OpenVoxels(*(getattr(self, column.name)[rows] for column in fields(self)))


@dataclass(frozen=True, slots=True)
class Solved:
    """What became of a list.

    index, label, key : (M,) of the voxels decided
    history : (M,) uint8, the pass they were deleted in, or ALIVE
    is_awaited : (M,) bool, an open neighbour in a list that was not here waits to be told
    still_open : the others, with what is known now
    """

    index: NDArray[np.int64]
    label: NDArray[np.uint64]
    key: NDArray[np.int64]
    history: NDArray[np.uint8]
    is_awaited: NDArray[np.bool_]
    still_open: OpenVoxels


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


def solve(
    open_voxels: OpenVoxels,
    told_index: NDArray[np.int64],
    told_history: NDArray[np.uint8],
    *,
    shape: Triple,
    t0: int = 1,
    passes: int = LAST_PASS,
) -> Solved:
    """Decide the voxels of a list as far as the list goes.

    Parameters
    ----------
    open_voxels : ordered by index (`OpenVoxels.joined`); its histories are used up
    told_index, told_history : (K,) voxels that were decided elsewhere since the lists were made, and what they became
    shape : of the volume
    t0, passes : as in `thinning.thin`

    What is decided is exactly what the whole volume would give. Nothing stays open if every OPEN neighbour is in the
    list or told, and every voxel has a key.
    """
    offsets = NEIGHBOURS @ np.array([shape[1] * shape[2], shape[2], 1], np.int64)
    index, key, lower = open_voxels.index, open_voxels.key, open_voxels.lower
    history = open_voxels.history
    neighbour = _link(index, history, offsets)
    if len(told_index):
        order = np.argsort(told_index, kind="stable")
        _hear(index, open_voxels.start, history, lower, neighbour, offsets, told_index[order], told_history[order])
    became = np.where(key == NO_KEY, np.uint8(OPEN), np.uint8(ALIVE))
    active = np.argsort(key, kind="stable").astype(np.int32)[np.count_nonzero(key == NO_KEY) :]
    start = open_voxels.start.copy()
    _replay(key, open_voxels.start, history, lower, neighbour, table(), t0, passes, active, became, start)
    is_awaited = _write_down(history, lower, neighbour, became, start)
    del neighbour, active
    still = became == OPEN
    decided = ~still
    return Solved(
        index[decided],
        open_voxels.label[decided],
        key[decided],
        became[decided],
        is_awaited[decided],
        OpenVoxels(index, open_voxels.label, key, start, history, lower).of(still),
    )


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
                    if not _is_gone(became, first[n], lower[n], i):
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
def _seen_gone(became: int, lower: np.uint32, i: int) -> int:
    """The first pass in which a voxel sees neighbour i gone, which was deleted in pass `became`."""
    return became if (lower >> np.uint32(i)) & np.uint32(1) else became + 1


@njit(cache=True, nogil=True)
def _is_gone(became: int, start: int, lower: np.uint32, i: int) -> bool:
    """Whether neighbour i is gone when a voxel is looked at in pass `start`."""
    return became < OPEN and _seen_gone(became, lower, i) <= start


@njit(cache=True, nogil=True)
def _link(index: NDArray[np.int64], history: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    """(N, 26) rows of the open neighbours in the same list, -1 where they are in another. One sweep per offset."""
    neighbour = np.full(history.shape, -1, np.int32)
    for i in range(26):
        row = 0
        for n in range(index.size):
            if history[n, i] != OPEN:
                continue
            wanted = index[n] + offsets[i]
            while row < index.size and index[row] < wanted:
                row += 1
            if row < index.size and index[row] == wanted:
                neighbour[n, i] = row
    return neighbour


@njit(cache=True, nogil=True)
def _hear(
    index: NDArray[np.int64],
    start: NDArray[np.uint8],
    history: NDArray[np.uint8],
    lower: NDArray[np.uint32],
    neighbour: NDArray[np.int32],
    offsets: NDArray[np.int64],
    told_index: NDArray[np.int64],
    told_history: NDArray[np.uint8],
) -> None:
    """Write what was told into the histories; `told_index` ascends."""
    for n in range(index.size):
        for i in range(26):
            if history[n, i] == OPEN and neighbour[n, i] < 0:
                wanted = index[n] + offsets[i]
                at = np.searchsorted(told_index, wanted)
                if at < told_index.size and told_index[at] == wanted:
                    became = told_history[at]
                    history[n, i] = 0 if _is_gone(became, start[n], lower[n], i) else became


@njit(cache=True, nogil=True)
def _replay(
    key: NDArray[np.int64],
    first: NDArray[np.uint8],
    history: NDArray[np.uint8],
    lower: NDArray[np.uint32],
    neighbour: NDArray[np.int32],
    decisions: NDArray[np.uint8],
    t0: int,
    passes: int,
    active: NDArray[np.int32],
    became: NDArray[np.uint8],
    start: NDArray[np.uint8],
) -> None:
    """Go on from pass `first` of every voxel.

    active : rows in increasing key, used up; a row leaves it when it is deleted, anchored or undecided
    became : ALIVE, or OPEN for voxels without a key; gets the pass of deletion, and OPEN for the undecided
    start : a copy of `first`; gets the pass from which the undecided must go on
    """
    due = first.astype(np.int16)
    is_unsure = np.zeros(key.size, np.bool_)
    unknown = np.empty(26, np.int64)
    live = active.size
    while live > 0:
        t = NEVER
        for j in range(live):
            t = min(t, due[active[j]])
        if t > passes:
            break
        looked_at = live
        live = 0
        for j in range(looked_at):
            voxel = active[j]
            if due[voxel] > t:
                active[live] = voxel
                live += 1
                continue
            possible, again = _look(voxel, t, history, lower, neighbour, became, decisions, unknown)
            decision = common_decision(possible, t > t0, is_unsure[voxel])
            if decision in (DELETE, UNDECIDED):
                became[voxel] = t if decision == DELETE else OPEN
                if decision == UNDECIDED and not is_unsure[voxel]:
                    start[voxel] = t
                _wake(voxel, t, key, first, neighbour, due)
            elif decision != ANCHOR:
                if decision == ANCHOR_OR_KEEP and not is_unsure[voxel]:
                    is_unsure[voxel] = True
                    start[voxel] = t
                if t <= t0 and possible & (1 << ANCHOR):
                    again = min(again, t0 + 1)
                due[voxel] = again
                active[live] = voxel
                live += 1


@njit(cache=True, nogil=True)
def _look(
    voxel: int,
    t: int,
    history: NDArray[np.uint8],
    lower: NDArray[np.uint32],
    neighbour: NDArray[np.int32],
    became: NDArray[np.uint8],
    decisions: NDArray[np.uint8],
    unknown: NDArray[np.int64],
) -> tuple[int, int]:
    """The set of possible decisions in pass t, and the next pass that sees a neighbour gone whose pass is known.

    A neighbour in the list is what it is now: those with a smaller key were looked at in this pass, the others not yet.
    """
    present = np.uint32(0)
    n_unknown = 0
    again = NEVER
    for i in range(26):
        known = history[voxel, i]
        if known == 0:
            continue
        if known == OPEN:
            other = neighbour[voxel, i]
            if other < 0 or became[other] == OPEN:
                unknown[n_unknown] = i
                n_unknown += 1
                continue
            if became[other] != ALIVE:
                continue
        elif known != ALIVE:
            gone = _seen_gone(int(known), lower[voxel], i)
            if gone <= t:
                continue
            again = min(again, gone)
        present |= np.uint32(1) << np.uint32(i)
    if n_unknown > MOST_UNKNOWN:
        return 1 << UNDECIDED | 1 << DELETE, again
    return possible_decisions(present, unknown[:n_unknown], decisions), again


@njit(cache=True, nogil=True)
def _wake(
    voxel: int,
    t: int,
    key: NDArray[np.int64],
    first: NDArray[np.uint8],
    neighbour: NDArray[np.int32],
    due: NDArray[np.int16],
) -> None:
    """Have the neighbours looked at in the first pass that sees what became of a voxel in pass t."""
    for i in range(26):
        other = neighbour[voxel, i]
        if other >= 0:
            sees = t if key[other] > key[voxel] else t + 1
            due[other] = min(due[other], max(sees, first[other]))


@njit(cache=True, nogil=True)
def _write_down(
    history: NDArray[np.uint8],
    lower: NDArray[np.uint32],
    neighbour: NDArray[np.int32],
    became: NDArray[np.uint8],
    start: NDArray[np.uint8],
) -> NDArray[np.bool_]:
    """Write decided neighbours into the histories of what stays open; which decided voxels others wait for."""
    is_awaited = np.zeros(became.size, np.bool_)
    for n in range(became.size):
        for i in range(26):
            if history[n, i] != OPEN:
                continue
            other = neighbour[n, i]
            if other < 0:
                is_awaited[n] = became[n] != OPEN
            elif became[n] == OPEN and became[other] != OPEN:
                gone = _is_gone(became[other], start[n], lower[n], i)
                history[n, i] = 0 if gone else became[other]
    return is_awaited
