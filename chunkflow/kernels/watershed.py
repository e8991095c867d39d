"""A seeded watershed whose partition does not depend on how the volume is cut into blocks.

Voxels of the foreground carry one strict order over the whole volume, by (relief, tie, index in C order), and so do the
edges between neighbours, by (order of the higher end, order of the lower end). The minimum spanning forest that joins
every voxel to a seed is then unique (Cousty, Bertrand, Najman & Couprie, IEEE TPAMI 31, 1362, 2009), and the label of
a voxel is that of the seed in its tree; there are no watershed lines. A block can tell most of that forest by itself:

    descend   a voxel that is no seed hangs on its lowest lower neighbour, by its smallest edge: basins, without a sort
    sweep     edges between basins in order. A basin is free, seeded, or stuck: its smallest edge leaves the block.
              An edge with a free side is that side's smallest: contract it (cut property). Between two that are not
              free: keep it if it joins two trees of the block, all seeds counting as one, else drop it: it is the
              largest of a cycle (cycle property)
    merge     kept edges and the cheapest edge of each pair of slots across a seam, in order (`kernels.forest`)

A slot is what a seeded or stuck basin has become. Seeds come from the same reduction: a minimum counts when the relief
must rise by more than h to leave it for a lower one (its dynamics, Grimaud 1992), and at every edge the higher of two
minima dies (the elder rule); a free basin older than a stuck one cannot be decided by the block and gets stuck too.

Slots are about 1 % of the foreground voxels of 64^3 blocks, 0.4 % at 128^3, and an edge takes 64 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from chunkflow.kernels import components, floods
from chunkflow.kernels.floods import ABSENT_KEY, ABSENT_TIE

Triple = tuple[int, int, int]
Planes = Mapping[str, NDArray[Any]]
"""The six face planes of a block by name, z0 (Y, X), z1, y0 (Z, X), y1, x0 (Z, Y), x1 (see `contact.shell`)."""

FRAME = 2  # voxels around a core: its neighbours, and theirs, so that no kernel checks bounds
QUERIED_AT_ONCE = 65536  # voxels whose nearest seeds are looked up together: 100 bytes each

EDGE_COLUMNS = 8
"""An edge is a row of int64: two slots, then key, tie and volume index of its higher end, and of its lower end."""

_REACH = {6: 1, 18: 2, 26: 3}


def order_key(relief: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Unsigned integers in the order of the values; -0.0 and 0.0 get the same one. NaN must not occur."""
    bits = (relief + np.float32(0)).view(np.uint32)
    top = np.uint32(1 << 31)
    return np.where(bits >= top, ~bits, bits | top)


def key_value(key: NDArray[Any]) -> NDArray[np.float64]:
    """The relief that has a key."""
    key = key.astype(np.uint32)
    top = np.uint32(1 << 31)
    return np.where(key >= top, key ^ top, ~key).view(np.float32).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Frame:
    """A core and two voxels around it, in flat arrays. Voxels that are not there have the largest key and tie.

    shape, start : of the frame in the volume; volume : shape of the volume
    key : (n,) uint32; tie : (n,) int64; own : (n,) bool, foreground of the core
    """

    shape: Triple
    start: Triple
    volume: Triple
    key: NDArray[np.uint32]
    tie: NDArray[np.int64]
    own: NDArray[np.bool_]

    def core(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values of the core, (Z, Y, X), of those of the frame."""
        return values.reshape(self.shape)[FRAME:-FRAME, FRAME:-FRAME, FRAME:-FRAME]

    def volume_index(self, at: NDArray[Any]) -> NDArray[np.int64]:
        """Index in the volume of voxels of the frame."""
        return components.volume_index(at.astype(np.int64), self.shape, self.start, self.volume)

    def at(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Voxels of the frame by their index in the volume."""
        position = np.unravel_index(index, self.volume)
        inside = tuple(p - s for p, s in zip(position, self.start, strict=True))
        return np.asarray(np.ravel_multi_index(inside, self.shape), dtype=np.int64)

    def neighbours(self, connectivity: int) -> NDArray[np.int64]:
        """Steps in the flat frame to the 6, 18 or 26 neighbours of a voxel."""
        _, y, x = self.shape
        near = [s for s in product((-1, 0, 1), repeat=3) if 0 < sum(map(abs, s)) <= _REACH[connectivity]]
        return np.array([(s[0] * y + s[1]) * x + s[2] for s in near], np.int64)


def frame_of(
    relief: NDArray[np.float32], mask: NDArray[np.bool_], *, origin: Triple, core: tuple[Triple, Triple], volume: Triple
) -> Frame:
    """The frame of a core, from a crop that holds the core and, where the volume goes on, two voxels around it.

    Parameters
    ----------
    relief, mask : (Z, Y, X) of the crop; the relief is looked at where the mask is true.
    origin : first voxel of the crop in the volume.
    core : start and stop in the volume.
    """
    start = tuple(a - FRAME for a in core[0])
    shape = tuple(b - a + 2 * FRAME for a, b in zip(*core, strict=True))
    low = [max(a, o) for a, o in zip(start, origin, strict=True)]
    high = [min(a + n, o + m) for a, n, o, m in zip(start, shape, origin, mask.shape, strict=True)]
    source = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, origin, strict=True))
    target = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True))
    present = np.zeros(shape, np.bool_)
    present[target] = mask[source]
    key = np.full(shape, ABSENT_KEY)
    key[target] = np.where(mask[source], order_key(relief[source]), ABSENT_KEY)
    own = np.zeros(shape, np.bool_)
    middle = (slice(FRAME, -FRAME),) * 3
    own[middle] = present[middle]
    tie = np.where(present, np.int64(0), ABSENT_TIE)
    z, y, x = shape
    return Frame((z, y, x), (start[0], start[1], start[2]), volume, key.ravel(), tie.ravel(), own.ravel())


def part_plateaus(frame: Frame, seeds: NDArray[np.int64], sides: Triple) -> None:
    """Set the tie of voxels on plateaus to their squared distance to the nearest seed of the volume, in place.

    A voxel is on a plateau when one of its 26 neighbours has its relief; without the tie, the order by index would
    give a whole plateau to one seed. Do it before `flood_block`, which drops the outermost voxels of the frame.

    Parameters
    ----------
    seeds : (K,) indices in the volume of all seeds.
    sides : sides of a voxel as integers.
    """
    flat = floods.on_plateau(frame.key, frame.tie, frame.shape, frame.neighbours(26))
    if not len(seeds) or not len(flat):
        return
    tree = cKDTree(np.stack(np.unravel_index(seeds, frame.volume), axis=1) * np.array(sides))
    first = np.array(frame.start)
    for part in np.array_split(flat, -(-len(flat) // QUERIED_AT_ONCE)):
        position = (np.stack(np.unravel_index(part, frame.shape), axis=1) + first) * np.array(sides)
        nearest = tree.data[tree.query(position)[1]]
        # Whole numbers far below 2^53: the sum of squares is exact.
        frame.tie[part] = ((nearest - position) ** 2).sum(axis=1).astype(np.int64)


def _drop_outermost(frame: Frame) -> None:
    """Make the outermost voxels absent: the compiled parts look at the neighbours of all others, unchecked."""
    key, tie = frame.key.reshape(frame.shape), frame.tie.reshape(frame.shape)
    for axis in range(3):
        for end in (0, -1):
            outermost = (slice(None),) * axis + (end,)
            key[outermost] = ABSENT_KEY
            tie[outermost] = ABSENT_TIE


@dataclass(frozen=True, slots=True)
class Flooded:
    """A block reduced: what the merge has to know of it.

    slot : (Z, Y, X) uint32 of the core, slots from 1; 0 where there is no foreground or nothing that floods it
    label : (S,) int64 label of each slot, 0 where it is stuck
    first, size : (S,) int64, index in the volume of the first voxel of each slot, and its voxels
    edges : (M, 8) int64 between slots 0..S-1 (see `EDGE_COLUMNS`)
    """

    slot: NDArray[np.uint32]
    label: NDArray[np.int64]
    first: NDArray[np.int64]
    size: NDArray[np.int64]
    edges: NDArray[np.int64]


def flood_block(frame: Frame, seeds: NDArray[np.int64], labels: NDArray[np.int64], connectivity: int) -> Flooded:
    """Flood one block from its own seeds, as far as the block alone can tell.

    Parameters
    ----------
    frame : with its ties (`part_plateaus`); its outermost voxels are absent afterwards.
    seeds, labels : (K,) indices in the volume of the seeds in the core's foreground, and their labels, > 0. Seeds of
        one label count as one.
    connectivity : 6, 18 or 26.
    """
    _drop_outermost(frame)
    offsets = frame.neighbours(connectivity)
    present, slot_of = np.unique(labels, return_inverse=True)
    seed_slot = np.full(frame.key.size, -1, np.int32)
    seed_slot[frame.at(seeds)] = slot_of
    basin, root, leaves, active = floods.descend(frame.key, frame.tie, frame.own, seed_slot, offsets)
    active = _in_order(frame, active)
    slot, count, edges = floods.flood(
        active, basin, seed_slot[root], leaves, frame.key, frame.tie, frame.own, len(present), offsets
    )
    label = np.zeros(count, np.int64)
    label[: len(present)] = present
    found = frame.core(floods.slot_of_voxels(basin, slot))
    first, size = np.zeros(count, np.int64), np.zeros(count, np.int64)
    floods.count_slots(found.ravel(), first, size)
    start = tuple(a + FRAME for a in frame.start)
    first = components.volume_index(first, found.shape, (start[0], start[1], start[2]), frame.volume)
    return Flooded(np.ascontiguousarray(found), label, first, size, _rows(frame, *edges))


@dataclass(frozen=True, slots=True)
class Minima:
    """Minima of a block as far as the block alone can tell.

    slot : (Z, Y, X) uint32 of the core, stuck slots from 1; 0 where all is decided
    minimum, key : (S,) int64, index in the volume of the lowest voxel of each slot, and its key
    edges : (M, 8) int64 between slots 0..S-1
    deep, deep_key : (K,) int64 minima whose dynamics exceed h
    lowest, lowest_key : (L,) int64 lowest voxels of connected foreground that does not leave the block
    """

    slot: NDArray[np.uint32]
    minimum: NDArray[np.int64]
    key: NDArray[np.int64]
    edges: NDArray[np.int64]
    deep: NDArray[np.int64]
    deep_key: NDArray[np.int64]
    lowest: NDArray[np.int64]
    lowest_key: NDArray[np.int64]


def minima_block(frame: Frame, h: float, connectivity: int) -> Minima:
    """Minima of one block with dynamics above `h`, one voxel for each: of a flat one, the first.

    Parameters
    ----------
    frame : as `frame_of` makes it, without ties; its outermost voxels are absent afterwards.
    h : >= 0, in units of the relief.
    """
    _drop_outermost(frame)
    offsets = frame.neighbours(connectivity)
    no_seed = np.full(frame.key.size, -1, np.int32)
    basin, root, leaves, active = floods.descend(frame.key, frame.tie, frame.own, no_seed, offsets)
    active = _in_order(frame, active)
    slot, stuck, edges, deep, lowest = floods.sink(
        active,
        basin,
        root,
        leaves,
        frame.key,
        frame.tie,
        frame.own,
        key_value(frame.key[root]),
        key_value(frame.key[active]),
        h,
        offsets,
    )
    voxels = np.ascontiguousarray(frame.core(floods.slot_of_voxels(basin, slot)))
    at = root[stuck]
    return Minima(
        voxels,
        frame.volume_index(at),
        frame.key[at].astype(np.int64),
        _rows(frame, *edges),
        frame.volume_index(root[deep]),
        frame.key[root[deep]].astype(np.int64),
        frame.volume_index(root[lowest]),
        frame.key[root[lowest]].astype(np.int64),
    )


def _in_order(frame: Frame, voxels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Voxels, given by index, by (key, tie, index)."""
    tie = frame.tie[voxels]
    if tie.any():
        voxels = voxels[floods.radix_order(tie.astype(np.uint64), 6)]
    return np.asarray(voxels[floods.radix_order(frame.key[voxels].astype(np.uint64), 3)])


def _rows(frame: Frame, a: Any, b: Any, high: Any, low: Any) -> NDArray[np.int64]:
    """Edges between slots as rows; `high` and `low` are voxels of the frame."""
    ends = [column for at in (high, low) for column in (frame.key[at], frame.tie[at], frame.volume_index(at))]
    return np.stack([np.asarray(column, np.int64) for column in (a, b, *ends)], axis=1)


# Seams.


@dataclass(frozen=True, slots=True)
class Shore:
    """What the blocks beside a block must know of it: planes of its slots (from 1), keys and ties, and where it lies.

    start, shape : of the core; seeded : (S,) bool, which slots have a label
    """

    start: Triple
    shape: Triple
    slot: Planes
    key: Planes
    tie: Planes
    seeded: NDArray[np.bool_]

    def side(self, direction: Triple, volume: Triple) -> list[NDArray[np.int64]]:
        """Slot, key, tie and index in the volume of the voxels nearest to the neighbour in a direction."""
        return [
            *(_side(planes, direction).astype(np.int64) for planes in (self.slot, self.key, self.tie)),
            self._side_index(direction, volume),
        ]

    def _side_index(self, direction: Triple, volume: Triple) -> NDArray[np.int64]:
        z, y, x = (
            np.arange(s, s + n) if d == 0 else np.array([s + n - 1 if d > 0 else s])
            for s, n, d in zip(self.start, self.shape, direction, strict=True)
        )
        index = (z[:, None, None] * volume[1] + y[:, None]) * volume[2] + x
        return np.atleast_1d(index.squeeze(tuple(axis for axis in range(3) if direction[axis])))


def seam_edges(a: Shore, b: Shore, direction: Triple, *, volume: Triple, connectivity: int) -> NDArray[np.int64]:
    """Edges from block a to the block in a direction: the cheapest of each pair of slots, none between two seeded.

    The tree root ties all seeds together below every relief, so an edge between two seeded slots closes a cycle in
    which it is the largest.

    Returns
    -------
    (M, 8) int64, slots 0.. of a and of b.
    """
    reach = _REACH[connectivity] - sum(map(abs, direction))
    if reach < 0:
        return np.zeros((0, EDGE_COLUMNS), np.int64)
    here, there = a.side(direction, volume), b.side((-direction[0], -direction[1], -direction[2]), volume)
    shifts = product(*(range(-1, 2) if n > 1 else range(1) for n in here[0].shape))
    rows = [np.zeros((0, EDGE_COLUMNS), np.int64)]
    for shift in shifts:
        if sum(map(abs, shift)) <= reach:
            ours = [_shifted(values, shift, 1) for values in here]
            theirs = [_shifted(values, shift, -1) for values in there]
            rows.append(_across(ours, theirs, a.seeded, b.seeded))
    return cheapest(np.concatenate(rows))


def _across(
    ours: list[NDArray[np.int64]],
    theirs: list[NDArray[np.int64]],
    seeded_a: NDArray[np.bool_],
    seeded_b: NDArray[np.bool_],
) -> NDArray[np.int64]:
    both = (ours[0] != 0) & (theirs[0] != 0)
    ours, theirs = [values[both] for values in ours], [values[both] for values in theirs]
    slot_a, slot_b = ours[0] - 1, theirs[0] - 1
    useful = ~(seeded_a[slot_a] & seeded_b[slot_b])
    (slot_a, *a), (slot_b, *b) = ([v[useful] for v in (s, *e[1:])] for s, e in ((slot_a, ours), (slot_b, theirs)))
    a_high = (a[0] > b[0]) | ((a[0] == b[0]) & ((a[1] > b[1]) | ((a[1] == b[1]) & (a[2] > b[2]))))
    high = [np.where(a_high, p, q) for p, q in zip(a, b, strict=True)]
    low = [np.where(a_high, q, p) for p, q in zip(a, b, strict=True)]
    return np.stack([slot_a, slot_b, *high, *low], axis=1)


def _side(planes: Planes, direction: Triple) -> NDArray[Any]:
    """The voxels of a block nearest to its neighbour in that direction: a plane, a line or one voxel."""
    first, *others = (axis for axis in range(3) if direction[axis])
    side = planes["zyx"[first] + ("1" if direction[first] > 0 else "0")]
    for axis in reversed(others):  # later axes first, so that the others stay where they are
        side = side.take(-1 if direction[axis] > 0 else 0, axis=axis - 1)
    return np.atleast_1d(side)


def _shifted(side: NDArray[Any], shift: tuple[int, ...], sign: int) -> NDArray[Any]:
    """The part of a side that has a partner at `shift` on the other; sign +1 for the first, -1 for the second."""
    return side[tuple(slice(max(0, -sign * s), n - max(0, sign * s)) for s, n in zip(shift, side.shape, strict=True))]


# The merge.


def cheapest(edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest edge of each pair of slots (columns 0 and 1), by pair. Larger ones close a cycle with it."""
    if not len(edges):
        return edges
    by_pair = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    return np.asarray(by_pair[floods.smallest_of_runs(by_pair)])


def in_order(edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Edges by their order in the volume."""
    return edges[np.lexsort(edges[:, :1:-1].T)]


def spread_out(
    seeds: NDArray[np.int64],
    value: NDArray[np.float64],
    keep: NDArray[np.bool_],
    *,
    distance_um: float,
    voxel_um: tuple[float, float, float],
    volume: Triple,
) -> NDArray[np.bool_]:
    """Which seeds stay when lower ones silence those within a distance of them.

    Seeds are visited from the lowest value up, equal ones by index; a seed stays unless one that stays is no farther
    than `distance_um`. Those in `keep` stay in any case.

    Parameters
    ----------
    seeds : (K,) indices in the volume; value : (K,) relief there; keep : (K,) bool.
    """
    position = np.stack(np.unravel_index(seeds, volume), axis=1) * np.array(voxel_um)
    tree = cKDTree(position)
    silenced = np.zeros(len(seeds), np.bool_)
    stays = np.zeros(len(seeds), np.bool_)
    for i in np.lexsort((seeds, value)):
        if keep[i] or not silenced[i]:
            stays[i] = True
            silenced[tree.query_ball_point(position[i], distance_um)] = True
    return stays
