"""Thinning of labelled objects in one global order: the skeleton of a block is the whole volume's, or says it is not.

Voxels of a label are 26-adjacent, everything else is 6-adjacent. D2 is the exact squared distance to what is not the
label, G the rank of the parities of (z, y, x), counted from index 0 of the whole volume, in Gray code. Voxels are
visited in the order of key(v) = (D2(v), G(v)); 26-adjacent voxels differ in a parity, so they never share a key.

    for pass t = 1 .. T, until nothing changes
      for every live voxel v that is not anchored, in increasing key
        m = its 26 neighbours of the same label that are alive: those with a smaller key after pass t,
            those with a larger key after pass t - 1
        T26(m) >= 2 and t > t0         anchor v: it stays for ever (a one-dimensional isthmus)
        T26(m) == 1 and T6(m) == 1     delete v: it is simple
        else                           look again in pass t + 1

T26 counts the 26-components of m, T6 the 6-components of the rest of the 18-neighbourhood that touch a face of v
(Bertrand & Malandain 1994). Every deletion is simple when it happens, so each object keeps its components, loops and
cavities. The state of (v, t) depends on states of smaller (t, key) and on nothing else: no block occurs in it.

In a crop some neighbours are unknown: those behind an open border, and those that could not be decided. A voxel is
decided if all completions of its unknown neighbours (up to 8) agree; else it is tainted, OPEN in this crop, and
unknown to its neighbours from then on.

       behind an open border      tainted         decided as in the whole volume
    |  ?  ?  ?  ?  ?  ?  ?  |  o  o  .  .  o  |  x  x  x  x  x  x  ...

In this order of execution, "its state was unknown at (t, key)" is "its TAINT bit is set now". Within one pass taint
travels any distance along increasing keys, so what tells that a plain look at the table is enough is a neighbourhood
without taint (no SLOW bit), never the depth in the crop.

Tube networks are decided beyond a halo of a few voxels. Sheets need half their width and dense noise needs everything:
no halo is enough there, and `kernels.residual` solves what stays OPEN. Crops hold fewer than 2^31 voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.errors import UsageError
from chunkflow.kernels.decisions import (
    ANCHOR,
    ANCHOR_OR_KEEP,
    DELETE,
    KEEP,
    MOST_UNKNOWN,
    NEIGHBOURS,
    UNDECIDED,
    common_decision,
    look_up,
    possible_decisions,
    table,
)
from chunkflow.kernels.distance import TILE, UNKNOWN, Labels, as_labels, occupied_tiles
from chunkflow.kernels.neighbourhoods import SPARE_BYTES, lowest_bits, row_offsets
from chunkflow.kernels.voxel_order import PARITY_RANK, Indices, in_order

OPEN = 254
"""History of a voxel that this crop cannot decide."""

ALIVE = 255
"""History of a voxel of the skeleton."""

LAST_PASS = 253
"""The largest number of passes that a history can tell apart."""

# Bits of a voxel's state. BEHIND: behind an open border. UNSURE: alive, but perhaps anchored already.
LIVE, TAINT, SLOW, BEHIND, UNSURE = 1, 2, 4, 8, 16


@dataclass(frozen=True, slots=True)
class Thinned:
    """What became of every voxel of a crop.

    history : (Z, Y, X) uint8. 0 background; 1 .. 253 deleted in that pass; OPEN not decided in this crop; ALIVE
        part of the skeleton. All but OPEN are what the whole volume would give.
    start : (Z, Y, X) uint8, None where nothing can stay open. For OPEN voxels the pass to go on from: they live until
        then and are not anchored before.
    """

    history: NDArray[np.uint8]
    start: NDArray[np.uint8] | None = None

    @property
    def skeleton(self) -> NDArray[np.bool_]:
        """(Z, Y, X) bool, the voxels known to be of the skeleton."""
        return np.equal(self.history, ALIVE)

    @property
    def is_open(self) -> NDArray[np.bool_]:
        """(Z, Y, X) bool, the voxels that this crop cannot decide."""
        return np.equal(self.history, OPEN)


def thin(
    labels: Labels | NDArray[np.bool_],
    distance2: NDArray[np.int32],
    *,
    origin: tuple[int, int, int],
    open_borders: NDArray[np.bool_],
    weights: tuple[int, int, int],
    t0: int = 1,
    passes: int = LAST_PASS,
) -> Thinned:
    """Thin all labels of a crop, or of a whole volume, at once.

    Parameters
    ----------
    labels : (Z, Y, X) bool or any unsigned integer, 0 is background
    distance2 : (Z, Y, X) int32, exact squared distances of the whole volume, or UNKNOWN (`distance.squared_distance`)
    origin : index of the crop's first voxel in the whole volume; only its parity matters
    open_borders : (3, 2) bool, low and high border of each axis; True where the volume goes on behind it unseen
    weights : squared integer spacings that `distance2` was made with
    t0 : passes that may erode the ends of branches before isthmuses are anchored; 0 keeps spurs of rough surfaces
    passes : at most 253; what is alive after the last one is ALIVE

    Returns every decided voxel exactly as in the whole volume. Without open borders and UNKNOWN distances every voxel
    is decided. Besides its arguments it holds 3 B per voxel of the crop (4 B where voxels can stay open), 4 B per
    labelled voxel, a padded copy of the labels where there are several, 16 MiB of table and up to 16 MiB of counters.
    Where distances are too large to count (D2 above 524,287), sorting takes another 20 B per labelled voxel for a
    moment.

    Raises
    ------
    UsageError : if `passes` is not in 1 .. 253.
    """
    if not 1 <= passes <= LAST_PASS:
        raise UsageError(f"{passes} passes cannot be recorded", f"Give 1 to {LAST_PASS}")
    labels = as_labels(labels)
    padded = tuple(length + 2 for length in labels.shape)
    strides = np.array([padded[1] * padded[2], padded[2], 1], np.int64)
    offsets = NEIGHBOURS @ strides
    rank = np.ascontiguousarray(np.roll(PARITY_RANK, [-(start & 1) for start in origin], axis=(0, 1, 2)))

    state = np.zeros(prod(padded) + SPARE_BYTES, np.uint8)[: prod(padded)].reshape(padded)
    history = np.zeros(padded, np.uint8)
    occupied = occupied_tiles(labels)
    known, unknown, largest, several = _survey(labels, distance2, occupied, state, history)
    order = in_order(labels, distance2, rank, strides, occupied, known, largest)
    owner = np.pad(labels, 1).ravel() if several else np.zeros(1, labels.dtype)  # read only where labels may touch
    if several:
        _mark_contacts(distance2, occupied, sum(weights), owner, strides, offsets, state.ravel())
    may_stay_open = bool(unknown or open_borders.any())
    start = np.zeros(padded if may_stay_open else (1, 1, 1), np.uint8)
    if unknown:
        _mark_unknown(labels, distance2, strides, offsets, state.ravel(), history.ravel(), start.ravel())
    _mark_open_borders(state, open_borders)
    given = (offsets, row_offsets(strides), table(), t0, passes)
    _run_passes(state.ravel(), owner, order, *given, history.ravel(), start.ravel())
    del state, owner, order
    found = np.zeros(labels.shape, np.uint8)
    _unpad(history, occupied, found)
    return Thinned(found, start[1:-1, 1:-1, 1:-1] if may_stay_open else None)


def padding_behind(open_borders: NDArray[np.bool_]) -> list[tuple[slice, ...]]:
    """The parts of a padding of one voxel that lie behind open borders, (3, 2) bool.

    A corner of the padding is in them only if all borders that it lies behind are open: behind a closed one all is
    background.
    """
    reach = [slice(0 if low else 1, None if high else -1) for low, high in open_borders]
    planes = (slice(0, 1), slice(-1, None))
    sides = [(axis, side) for axis in range(3) for side in range(2) if open_borders[axis, side]]
    return [(*reach[:axis], planes[side], *reach[axis + 1 :]) for axis, side in sides]


def _mark_open_borders(state: NDArray[np.uint8], open_borders: NDArray[np.bool_]) -> None:
    """Fill the padding behind open borders with unknown voxels and mark the voxels that see it."""
    for behind in padding_behind(open_borders):
        state[behind] = LIVE | TAINT | BEHIND
    inside = slice(1, -1)
    for axis, sides in enumerate(open_borders):
        for is_open, inner in zip(sides, (1, -2), strict=True):
            if is_open:
                at_border = state[tuple(inner if a == axis else inside for a in range(3))]
                at_border[at_border != 0] |= SLOW


@njit(cache=True, nogil=True)
def _survey(
    labels: Labels,
    distance2: NDArray[np.int32],
    occupied: NDArray[np.bool_],
    state: NDArray[np.uint8],
    history: NDArray[np.uint8],
) -> tuple[int, int, int, bool]:
    """Voxels with a known distance, those without one, largest distance, are there several labels.

    Marks labelled voxels in the padded arrays, which are zeros: alive.
    """
    depth, height, width = labels.shape
    known = unknown = 0
    largest = 0
    first = labels.dtype.type(0)
    several = False
    for z in range(depth):
        for y in range(height):
            for tile in range(occupied.shape[2]):
                if not occupied[z, y, tile]:
                    continue
                for x in range(tile * TILE, min(width, (tile + 1) * TILE)):
                    label = labels[z, y, x]
                    if label == 0:
                        continue
                    state[z + 1, y + 1, x + 1] = LIVE
                    history[z + 1, y + 1, x + 1] = ALIVE
                    if first == 0:
                        first = label
                    elif label != first:
                        several = True
                    value = distance2[z, y, x]
                    if value == UNKNOWN:
                        unknown += 1
                    else:
                        known += 1
                        largest = max(largest, int(value))
    return known, unknown, largest, several


@njit(cache=True, nogil=True)
def _unpad(history: NDArray[np.uint8], occupied: NDArray[np.bool_], found: NDArray[np.uint8]) -> None:
    """Copy what is inside the padding to an array of zeros."""
    depth, height, width = found.shape
    for z in range(depth):
        for y in range(height):
            for tile in range(occupied.shape[2]):
                if occupied[z, y, tile]:
                    for x in range(tile * TILE, min(width, (tile + 1) * TILE)):
                        found[z, y, x] = history[z + 1, y + 1, x + 1]


@njit(cache=True, nogil=True)
def _mark_contacts(
    distance2: NDArray[np.int32],
    occupied: NDArray[np.bool_],
    nearest: int,
    owner: Labels,
    strides: NDArray[np.int64],
    offsets: NDArray[np.int64],
    state: NDArray[np.uint8],
) -> None:
    """SLOW for voxels that touch another label: only those within `nearest`, the squared diagonal of a voxel, can."""
    depth, height, width = distance2.shape
    for z in range(depth):
        for y in range(height):
            row = (z + 1) * strides[0] + (y + 1) * strides[1] + 1
            for tile in range(occupied.shape[2]):
                if not occupied[z, y, tile]:
                    continue
                for x in range(tile * TILE, min(width, (tile + 1) * TILE)):
                    if not 0 < distance2[z, y, x] <= nearest:
                        continue
                    voxel = row + x
                    for i in range(26):
                        other = owner[voxel + offsets[i]]
                        if other != 0 and other != owner[voxel]:
                            state[voxel] |= SLOW
                            break


@njit(cache=True, nogil=True)
def _mark_unknown(
    labels: Labels,
    distance2: NDArray[np.int32],
    strides: NDArray[np.int64],
    offsets: NDArray[np.int64],
    state: NDArray[np.uint8],
    history: NDArray[np.uint8],
    start: NDArray[np.uint8],
) -> None:
    """Voxels without a known distance are open from the first pass on."""
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            row = (z + 1) * strides[0] + (y + 1) * strides[1] + 1
            for x in range(width):
                if labels[z, y, x] != 0 and distance2[z, y, x] == UNKNOWN:
                    _taint(row + x, 1, offsets, state, history, start)


@njit(cache=True, nogil=True)
def _taint(
    voxel: int,
    t: int,
    offsets: NDArray[np.int64],
    state: NDArray[np.uint8],
    history: NDArray[np.uint8],
    start: NDArray[np.uint8],
) -> None:
    """Leave a voxel open in pass t; one that is UNSURE goes on from where that began."""
    if state[voxel] & UNSURE == 0:
        start[voxel] = t
    state[voxel] |= TAINT
    history[voxel] = OPEN
    for i in range(26):
        if state[voxel + offsets[i]] != 0:
            state[voxel + offsets[i]] |= SLOW


@njit(cache=True, nogil=True)
def _run_passes(
    state: NDArray[np.uint8],
    owner: Labels,
    order: Indices,
    offsets: NDArray[np.int64],
    rows: NDArray[np.int64],
    decisions: NDArray[np.uint8],
    t0: int,
    passes: int,
    history: NDArray[np.uint8],
    start: NDArray[np.uint8],
) -> None:
    """The passes, on padded flat arrays; `order` is used up. A voxel leaves it when it is deleted, anchored or tainted.

    A pass that neither deletes nor taints is the last: the next ones would see the same neighbourhoods, and anchors,
    which may be new after t0, delete nothing.
    """
    unknown = np.empty(26, np.int64)
    live = order.size
    for t in range(1, passes + 1):
        looked_at = live
        live = 0
        changed = False
        for j in range(looked_at):
            voxel = order[j]
            if state[voxel] & SLOW:
                if state[voxel] & TAINT:
                    continue
                decision = _look_uncertain(voxel, state, owner, offsets, decisions, unknown, t > t0)
            else:
                decision = look_up(decisions, lowest_bits(state, voxel, rows))  # LIVE is the lowest bit
                if decision == ANCHOR and t <= t0:
                    decision = KEEP
            if decision == DELETE:
                state[voxel] = 0
                history[voxel] = t
                changed = True
            elif decision == UNDECIDED:
                _taint(voxel, t, offsets, state, history, start)
                changed = True
            elif decision != ANCHOR:
                if decision == ANCHOR_OR_KEEP and state[voxel] & UNSURE == 0:
                    state[voxel] |= UNSURE
                    start[voxel] = t
                order[live] = voxel
                live += 1
        if not changed:
            break


@njit(cache=True, nogil=True)
def _look_uncertain(
    voxel: int,
    state: NDArray[np.uint8],
    owner: Labels,
    offsets: NDArray[np.int64],
    decisions: NDArray[np.uint8],
    unknown: NDArray[np.int64],
    may_anchor: bool,
) -> int:
    """Decision about a voxel with neighbours of other labels, unknown ones or both. `unknown` is scratch, (26,)."""
    several = owner.size > 1
    neighbourhood = np.uint32(0)
    n_unknown = 0
    for i in range(26):
        neighbour = voxel + offsets[i]
        seen = state[neighbour]
        if seen & LIVE == 0:
            continue
        if seen & BEHIND == 0 and several and owner[neighbour] != owner[voxel]:
            continue
        if seen & TAINT:
            unknown[n_unknown] = i
            n_unknown += 1
        else:
            neighbourhood |= np.uint32(1) << np.uint32(i)
    if n_unknown > MOST_UNKNOWN:
        return UNDECIDED
    possible = possible_decisions(neighbourhood, unknown[:n_unknown], decisions)
    return common_decision(possible, may_anchor, state[voxel] & UNSURE != 0)
