"""Voxels that thinning left open in the blocks, decided from lists: no voxel grid, any object, any blocks.

Open voxels are listed with all that a look at them needs (`kernels.open_voxels`). Lists of neighbouring blocks are
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

Memory follows the longest joined list: VOXEL_BYTES for each of its voxels. Tubes leave next to nothing. Of thick
objects much climbs where blocks are small beside them: in 256 x 512 x 512 voxels of which one object fills a half,
blocks of 64 left 4 million voxels, a quarter of them, to a joint of 256^3.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from chunkflow.kernels.open_voxels import NO_KEY, OpenVoxels, is_gone, seen_gone
from chunkflow.kernels.thinning import ALIVE, LAST_PASS, OPEN

Triple = tuple[int, int, int]


VOXEL_BYTES = 128
"""What a voxel of a list takes at most while lists are joined and solved."""

NEVER = 1000
"""A pass that does not come."""


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
    rows = np.empty((len(index), 9), np.int32)
    _link(index, offsets, rows)
    if len(told_index):
        order = np.argsort(told_index, kind="stable")
        _hear(index, open_voxels.start, history, lower, rows, offsets, told_index[order], told_history[order])
    became = np.where(key == NO_KEY, np.uint8(OPEN), np.uint8(ALIVE))
    active = np.argsort(key, kind="stable").astype(np.int32)[np.count_nonzero(key == NO_KEY) :]
    start = open_voxels.start.copy()
    linked = (history, lower, rows, offsets)
    _replay(index, key, open_voxels.start, *linked, table(), t0, passes, active, became, start)
    is_awaited = _write_down(index, *linked, became, start)
    del rows, linked, active
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


_ROW = np.repeat(np.arange(9), [3, 3, 3, 3, 2, 3, 3, 3, 3])  # of each neighbour, among the rows around a voxel
_ROW_BEGINS = np.array([0, 3, 6, 9, 12, 14, 17, 20, 23])  # the first neighbour of each row


@njit(cache=True, nogil=True)
def _link(index: NDArray[np.int64], offsets: NDArray[np.int64], rows: NDArray[np.int32]) -> None:
    """(N, 9): where in the list, whose indices ascend, the neighbours in each of the rows around a voxel begin.

    One sweep per row. All 26 links would take three times the memory, which is what limits the length of lists.
    """
    for row in range(9):
        begins = offsets[_ROW_BEGINS[row]]
        place = 0
        for n in range(index.size):
            while place < index.size and index[place] < index[n] + begins:
                place += 1
            rows[n, row] = place


@njit(cache=True, nogil=True)
def _linked(voxel: int, i: int, index: NDArray[np.int64], rows: NDArray[np.int32], offsets: NDArray[np.int64]) -> int:
    """Where neighbour i of a voxel is in the list; -1 if it is in another."""
    wanted = index[voxel] + offsets[i]
    place = int(rows[voxel, _ROW[i]])
    while place < index.size and index[place] < wanted:  # at most twice
        place += 1
    return place if place < index.size and index[place] == wanted else -1


@njit(cache=True, nogil=True)
def _hear(
    index: NDArray[np.int64],
    start: NDArray[np.uint8],
    history: NDArray[np.uint8],
    lower: NDArray[np.uint32],
    rows: NDArray[np.int32],
    offsets: NDArray[np.int64],
    told_index: NDArray[np.int64],
    told_history: NDArray[np.uint8],
) -> None:
    """Write what was told into the histories; `told_index` ascends."""
    for n in range(index.size):
        for i in range(26):
            if history[n, i] == OPEN and _linked(n, i, index, rows, offsets) < 0:
                wanted = index[n] + offsets[i]
                at = np.searchsorted(told_index, wanted)
                if at < told_index.size and told_index[at] == wanted:
                    became = told_history[at]
                    history[n, i] = 0 if is_gone(became, start[n], lower[n], i) else became


@njit(cache=True, nogil=True)
def _replay(
    index: NDArray[np.int64],
    key: NDArray[np.int64],
    first: NDArray[np.uint8],
    history: NDArray[np.uint8],
    lower: NDArray[np.uint32],
    rows: NDArray[np.int32],
    offsets: NDArray[np.int64],
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
            possible, again = _look(voxel, t, index, history, lower, rows, offsets, became, decisions, unknown)
            decision = common_decision(possible, t > t0, is_unsure[voxel])
            if decision in (DELETE, UNDECIDED):
                became[voxel] = t if decision == DELETE else OPEN
                if decision == UNDECIDED and not is_unsure[voxel]:
                    start[voxel] = t
                _wake(voxel, t, index, key, first, history, rows, offsets, due)
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
    index: NDArray[np.int64],
    history: NDArray[np.uint8],
    lower: NDArray[np.uint32],
    rows: NDArray[np.int32],
    offsets: NDArray[np.int64],
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
            other = _linked(voxel, i, index, rows, offsets)
            if other < 0 or became[other] == OPEN:
                unknown[n_unknown] = i
                n_unknown += 1
                continue
            if became[other] != ALIVE:
                continue
        elif known != ALIVE:
            gone = seen_gone(int(known), lower[voxel], i)
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
    index: NDArray[np.int64],
    key: NDArray[np.int64],
    first: NDArray[np.uint8],
    history: NDArray[np.uint8],
    rows: NDArray[np.int32],
    offsets: NDArray[np.int64],
    due: NDArray[np.int16],
) -> None:
    """Have the neighbours looked at in the first pass that sees what became of a voxel in pass t."""
    for i in range(26):
        if history[voxel, i] != OPEN:
            continue
        other = _linked(voxel, i, index, rows, offsets)
        if other >= 0:
            sees = t if key[other] > key[voxel] else t + 1
            due[other] = min(due[other], max(sees, first[other]))


@njit(cache=True, nogil=True)
def _write_down(
    index: NDArray[np.int64],
    history: NDArray[np.uint8],
    lower: NDArray[np.uint32],
    rows: NDArray[np.int32],
    offsets: NDArray[np.int64],
    became: NDArray[np.uint8],
    start: NDArray[np.uint8],
) -> NDArray[np.bool_]:
    """Write decided neighbours into the histories of what stays open; which decided voxels others wait for."""
    is_awaited = np.zeros(became.size, np.bool_)
    for n in range(became.size):
        for i in range(26):
            if history[n, i] != OPEN:
                continue
            other = _linked(n, i, index, rows, offsets)
            if other < 0:
                is_awaited[n] = became[n] != OPEN
            elif became[n] == OPEN and became[other] != OPEN:
                gone = is_gone(became[other], start[n], lower[n], i)
                history[n, i] = 0 if gone else became[other]
    return is_awaited
