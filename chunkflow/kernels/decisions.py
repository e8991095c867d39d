"""What thinning decides about a voxel from its 26 neighbours: a table, and what can be said when some are unknown.

With m the live neighbours of the same label:

    T26(m) >= 2                     anchor: a one-dimensional isthmus
    T26(m) == 1 and T6(m) == 1      delete: the voxel is simple
    else                            keep for now

T26 counts the 26-components of m, T6 the 6-components of the rest of the 18-neighbourhood that touch a face of the
voxel (Bertrand & Malandain 1994). The table takes 16 MiB and some seconds to build, once per user.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import get_ident
from zlib import crc32

import numpy as np
from numba import njit
from numpy.typing import NDArray
from platformdirs import user_cache_dir

# What the table says about a neighbourhood, and what a look at a voxel with unknown neighbours can add to it.
KEEP, DELETE, ANCHOR = 0, 1, 2
ANCHOR_OR_KEEP, UNDECIDED = 3, 4

MOST_UNKNOWN = 8
"""Unknown neighbours up to which all completions are tried: 256 of them."""

TABLE_BYTES = 1 << 24
TABLE_CRC32 = 1007076601
TABLE_NAME = "thinning-decisions-1.bin"

NEIGHBOURS = np.array([(z, y, x) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1) if z or y or x], np.int64)
"""(26, 3) offsets in raster order; bit i of a neighbourhood is NEIGHBOURS[i]."""


@njit(cache=True, nogil=True)
def common_decision(possible: int, may_anchor: bool, is_unsure: bool) -> int:
    """What a set of possible decisions (bit d for decision d) comes to; `is_unsure`: perhaps anchored before."""
    if not may_anchor and possible & (1 << ANCHOR):
        possible = possible & ~(1 << ANCHOR) | (1 << KEEP)
    if possible == 1 << DELETE:
        # it is deleted unless it was anchored in an earlier pass
        return UNDECIDED if is_unsure else DELETE
    if possible & (1 << DELETE):
        return UNDECIDED
    if possible == 1 << ANCHOR:
        return ANCHOR
    return KEEP if possible == 1 << KEEP else ANCHOR_OR_KEEP


@njit(cache=True, nogil=True)
def possible_decisions(neighbourhood: np.uint32, unknown: NDArray[np.int64], decisions: NDArray[np.uint8]) -> int:
    """The set of decisions over all completions of the unknown neighbours, bit d for decision d.

    Completions come in Gray code from "all present" on: the likeliest mixtures first, and the search ends at one that
    holds DELETE and something else.
    """
    for i in unknown:
        neighbourhood |= np.uint32(1) << np.uint32(i)
    possible = 0
    for completion in range(1, (1 << unknown.size) + 1):
        possible |= 1 << look_up(decisions, neighbourhood)
        if possible & (1 << DELETE) and possible != 1 << DELETE:
            break
        flip = 0
        while flip < unknown.size - 1 and (completion >> flip) & 1 == 0:
            flip += 1
        if unknown.size > 0:
            neighbourhood ^= np.uint32(1) << np.uint32(unknown[flip])
    return possible


@njit(cache=True, nogil=True)
def look_up(decisions: NDArray[np.uint8], neighbourhood: np.uint32) -> int:
    """KEEP, DELETE or ANCHOR from the table: 2 bits a neighbourhood, four to a byte, the lowest bits first."""
    four = int(decisions[neighbourhood >> np.uint32(2)])
    return (four >> (2 * int(neighbourhood & np.uint32(3)))) & 3


# The table is computed on words of 27 bits, a cube of 3 x 3 x 3 voxels in raster order with bit 13 in the middle,
# where moving by one voxel is a shift and one step of a flood fill is a few of them.


def _bits(inside: NDArray[np.bool_]) -> int:
    return sum(1 << int(i) for i in np.flatnonzero(inside))


_Z, _Y, _X = np.indices((3, 3, 3)) - 1
_STEPS = abs(_Z) + abs(_Y) + abs(_X)
_FACES, _WITHIN_18 = _bits(_STEPS == 1), _bits((_STEPS == 1) | (_STEPS == 2))
_NOT_LAST_X, _NOT_FIRST_X = _bits(_X < 1), _bits(_X > -1)
_NOT_LAST_Y, _NOT_FIRST_Y = _bits(_Y < 1), _bits(_Y > -1)
_NOT_LAST_Z, _NOT_FIRST_Z = _bits(_Z < 1), _bits(_Z > -1)


@njit(cache=True, nogil=True)
def _fill_26(within: int) -> int:
    """The 26-component of the lowest bit."""
    filled = within & -within
    while True:
        grown = filled | (filled & _NOT_LAST_X) << 1 | (filled & _NOT_FIRST_X) >> 1
        grown |= (grown & _NOT_LAST_Y) << 3 | (grown & _NOT_FIRST_Y) >> 3
        grown |= (grown & _NOT_LAST_Z) << 9 | (grown & _NOT_FIRST_Z) >> 9
        grown &= within
        if grown == filled:
            return filled
        filled = grown


@njit(cache=True, nogil=True)
def _fill_6(seed: int, within: int) -> int:
    """The 6-component of the seed."""
    filled = seed
    while True:
        grown = filled | (filled & _NOT_LAST_X) << 1 | (filled & _NOT_FIRST_X) >> 1
        grown |= (filled & _NOT_LAST_Y) << 3 | (filled & _NOT_FIRST_Y) >> 3
        grown |= (filled & _NOT_LAST_Z) << 9 | (filled & _NOT_FIRST_Z) >> 9
        grown &= within
        if grown == filled:
            return filled
        filled = grown


@njit(cache=True, nogil=True)
def _decide(neighbourhood: int) -> int:
    """Decision about one neighbourhood of 26 bits, from its definition."""
    if neighbourhood == 0:
        return KEEP
    present = (neighbourhood & 0x1FFF) | (neighbourhood >> 13) << 14
    if _fill_26(present) != present:
        return ANCHOR
    absent = ~present & _WITHIN_18
    faces = absent & _FACES
    if faces == 0 or faces & ~_fill_6(faces & -faces, absent):
        return KEEP
    return DELETE


@njit(cache=True, nogil=True)
def _build_table() -> NDArray[np.uint8]:
    decisions = np.empty(TABLE_BYTES, np.uint8)
    for byte in range(TABLE_BYTES):
        first = byte * 4
        decisions[byte] = _decide(first) | _decide(first + 1) << 2 | _decide(first + 2) << 4 | _decide(first + 3) << 6
    return decisions


@cache
def table(folder: Path | None = None) -> NDArray[np.uint8]:
    """The decision about every neighbourhood m, 2 bits each: (table[m // 4] >> 2 * (m % 4)) & 3.

    Parameters
    ----------
    folder : where the table is kept between processes; the user's cache folder for chunkflow if None. It is built
        where it is missing or damaged, and only kept in memory where the folder cannot be written.

    Returns (2^24,) uint8, read-only.
    """
    path = (folder or Path(user_cache_dir("chunkflow"))) / TABLE_NAME
    content = b""
    with suppress(OSError):
        content = path.read_bytes()
    if len(content) == TABLE_BYTES and crc32(content) == TABLE_CRC32:
        return np.frombuffer(content, np.uint8)
    decisions: NDArray[np.uint8] = _build_table()
    decisions.setflags(write=False)
    with suppress(OSError):
        _write_atomically(path, decisions.tobytes())
    return decisions


def _write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that no reader ever sees a part of it, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{get_ident()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
