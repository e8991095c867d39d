"""The thinning of `kernels.thinning` on a GPU: the same history of every voxel, whatever order threads run in.

The result is defined by an order of voxels, not by a schedule. One thread looks at one voxel, in pass t, as soon as
every neighbour of its label is where the definition wants it: those with a smaller key through pass t, those with a
larger key through pass t - 1. Neighbours differ in their keys, so of two one always waits for the other, and the least
(t, key) that is left waits for nobody: something happens in every launch.

    a voxel's byte    1 .. 253  alive, to be looked at in that pass
                      GONE      deleted
                      TAINT     not decided in this crop
                      STAYS     alive for ever: anchored, or alive after the last pass

Threads neither lock nor meet at barriers. A byte only moves on (to the next pass, then to one of the three ends), is
written by its own thread alone, and says all that neighbours ask. A smaller neighbour that is through pass t cannot be
looked at again, nor a larger one in pass t, before this voxel is through pass t itself. So whenever a thread finds its
neighbours ready, what it reads is their state at (t, key); an old value, which other threads' caches may show, says
"not yet" and nothing wrong. Passes overlap: a voxel may be looked at in pass 9 while another waits in pass 3.

Launches end when no voxel is left, or when all are through a pass in which nothing was deleted or tainted: later ones
would change nothing either. Which pass that is may be found out some launches late, and has no influence.

Besides its input a GPU holds 3 B per voxel of the crop, for a moment a padded copy of the labels, up to 18 B per
labelled voxel, and 16 MiB of table.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import array_module, to_host
from chunkflow.errors import UsageError
from chunkflow.kernels.decisions import ANCHOR, DELETE, KEEP, MOST_UNKNOWN, NEIGHBOURS, table
from chunkflow.kernels.distance import UNKNOWN
from chunkflow.kernels.thinning import ALIVE, LAST_PASS, OPEN, Thinned, padding_behind
from chunkflow.kernels.voxel_order import PARITY_RANK

GONE, TAINT, STAYS = 0, 254, 255

THREADS = 128
"""Threads of a block of a launch."""

ROUNDS = 4
"""Looks that a thread tries in one launch."""

LAUNCHES = 8
"""Launches between two looks at how far they are, which make the host wait."""

Launch = Callable[..., None]
"""Runs a kernel: number of threads, then its arguments."""

PREAMBLE = """
#define KERNEL extern "C" __global__ void
#define THREAD ((long long)blockDim.x * blockIdx.x + threadIdx.x)
"""

SOURCE = """
typedef unsigned char byte;

/* Bits of the neighbours of the same label (those behind an open border count), and of those with a smaller key. */
KERNEL list_neighbours(long long count, const int *active, const byte *state, const LABEL *owner, const int *distance2,
                       const long long *shape, const long long *rank, const long long *neighbours,
                       unsigned *same, unsigned *lower)
{
    long long n = THREAD;
    if (n >= count) return;
    long long height = shape[1] + 2, width = shape[2] + 2, voxel = active[n];
    long long z = voxel / (height * width) - 1, y = voxel / width % height - 1, x = voxel % width - 1;
    long long key = 8 * (long long)distance2[(z * shape[1] + y) * shape[2] + x]
                    + rank[(z & 1) * 4 + (y & 1) * 2 + (x & 1)];
    unsigned of_label = 0, before = 0;
    for (int i = 0; i < 26; i++) {
        long long a = z + neighbours[3 * i], b = y + neighbours[3 * i + 1], c = x + neighbours[3 * i + 2];
        long long other = ((a + 1) * height + b + 1) * width + c + 1;
        if (state[other] == GONE) continue;
        if (owner[other] == 0) {
            of_label |= 1u << i;
        } else if (owner[other] == owner[voxel]) {
            of_label |= 1u << i;
            if (state[other] != TAINT) {
                long long its = 8 * (long long)distance2[(a * shape[1] + b) * shape[2] + c]
                                + rank[(a & 1) * 4 + (b & 1) * 2 + (c & 1)];
                if (its < key) before |= 1u << i;
            }
        }
    }
    same[n] = of_label;
    lower[n] = before;
}

/* Up to `rounds` looks at a voxel. `changed` and `waiting` are marked by pass. */
KERNEL look(long long count, const int *active, const unsigned *same, const unsigned *lower, const byte *decisions,
            const long long *offsets, int rounds, int t0, int passes,
            volatile byte *state, byte *history, byte *start, byte *changed, byte *waiting)
{
    long long n = THREAD;
    if (n >= count) return;
    long long voxel = active[n];
    unsigned of_label = same[n], before = lower[n];
    for (int round = 0; round < rounds; round++) {
        int t = state[voxel];
        if (t == GONE || t >= TAINT) return;
        unsigned present = 0, unknown = 0;
        int ready = 1, number = 0;
        for (int i = 0; i < 26 && ready; i++) {
            unsigned bit = 1u << i;
            if (!(of_label & bit)) continue;
            int its = state[voxel + offsets[i]];
            if (its == GONE) continue;
            if (its == TAINT) {
                unknown |= bit;
                number++;
                continue;
            }
            present |= bit;
            if (its != STAYS) ready = before & bit ? its > t : its >= t;
        }
        if (!ready) continue;
        int possible = 0;
        if (number > MOST_UNKNOWN) {
            possible = 1 << DELETE | 1 << KEEP;
        } else {
            unsigned completion = 0;
            do {
                unsigned seen = present | completion;
                possible |= 1 << (decisions[seen >> 2] >> 2 * (seen & 3) & 3);
                completion = (completion - unknown) & unknown;
            } while (completion);
        }
        if (t <= t0 && possible & 1 << ANCHOR) possible = (possible & ~(1 << ANCHOR)) | 1 << KEEP;
        int is_unsure = start[voxel] != 0;
        if (possible == 1 << DELETE && !is_unsure) {
            history[voxel] = t;
            changed[t] = 1;
            state[voxel] = GONE;
        } else if (possible & 1 << DELETE) {
            history[voxel] = OPEN;
            if (!is_unsure) start[voxel] = t;
            changed[t] = 1;
            state[voxel] = TAINT;
        } else if (possible == 1 << ANCHOR) {
            state[voxel] = STAYS;
        } else {
            if (possible != 1 << KEEP && !is_unsure) start[voxel] = t;
            state[voxel] = t < passes ? t + 1 : STAYS;
        }
    }
    int t = state[voxel];
    if (t != GONE && t < TAINT) waiting[t] = 1;
}
"""


def constants(label: np.dtype[Any]) -> str:
    """Definitions in front of SOURCE for labels of a type."""
    words = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "unsigned long long"}
    numbers = {"GONE": GONE, "TAINT": TAINT, "STAYS": STAYS, "OPEN": OPEN}
    numbers |= {"KEEP": KEEP, "DELETE": DELETE, "ANCHOR": ANCHOR, "MOST_UNKNOWN": MOST_UNKNOWN}
    return "\n".join(f"#define {name} {text}" for name, text in {"LABEL": words[label.itemsize], **numbers}.items())


def thin(
    labels: Any,
    distance2: Any,
    *,
    origin: tuple[int, int, int],
    open_borders: NDArray[np.bool_],
    t0: int = 1,
    passes: int = LAST_PASS,
    kernels: tuple[Launch, Launch] | None = None,
) -> Thinned:
    """`thinning.thin` where the arrays are.

    Parameters
    ----------
    labels : (Z, Y, X) bool or any unsigned integer, 0 is background, cupy
    distance2 : (Z, Y, X) int32, cupy, as `thinning.thin` takes it
    origin, open_borders, t0, passes : as `thinning.thin` takes them
    kernels : what launches `list_neighbours` and `look` of SOURCE; for arrays of cupy if None

    Returns what `thinning.thin` does, in host memory, bit for bit (`start` where `history` is OPEN).

    Raises
    ------
    UsageError : if `passes` is not in 1 .. 253.
    """
    if not 1 <= passes <= LAST_PASS:
        raise UsageError(f"{passes} passes cannot be recorded", f"Give 1 to {LAST_PASS}")
    xp = array_module(labels)
    labels = xp.ascontiguousarray(labels)
    labels = labels.view(np.uint8) if labels.dtype == np.bool_ else labels
    list_neighbours, look = kernels or _compiled(xp, labels.dtype.str)
    padded = tuple(length + 2 for length in labels.shape)
    inside = (slice(1, -1),) * 3
    state, history, start = (xp.zeros(padded, np.uint8) for _ in range(3))
    state[inside] = labels != 0
    history[inside] = state[inside] * np.uint8(ALIVE)
    unknown = (labels != 0) & (distance2 == UNKNOWN)
    may_stay_open = bool(open_borders.any()) or bool(unknown.any())
    for array, value in ((state, TAINT), (history, OPEN), (start, 1)):
        array[inside][unknown] = value
    del unknown
    active = xp.flatnonzero(state == 1).astype(np.int32)  # the padding is none of them
    for behind in padding_behind(open_borders):
        state[behind] = TAINT

    same, lower = xp.empty(len(active), np.uint32), xp.empty(len(active), np.uint32)
    rank = np.roll(PARITY_RANK, [-(first & 1) for first in origin], axis=(0, 1, 2))
    where = [xp.asarray(np.ascontiguousarray(array, np.int64)) for array in (labels.shape, rank, NEIGHBOURS)]
    owner = xp.pad(labels, 1)
    lists = [active, same, lower]
    list_neighbours(len(active), active, state, owner, xp.ascontiguousarray(distance2), *where, same, lower)
    del owner, active, same, lower
    offsets = xp.asarray(NEIGHBOURS @ np.array([padded[1] * padded[2], padded[2], 1]))
    fixed = (_table(xp), offsets, np.int32(ROUNDS), np.int32(t0), np.int32(passes), state, history, start)
    _look_until_quiet(xp, look, lists, fixed)
    found = np.ascontiguousarray(to_host(history[inside]))
    return Thinned(found, np.ascontiguousarray(to_host(start[inside])) if may_stay_open else None)


def _look_until_quiet(xp: ModuleType, look: Launch, lists: list[Any], fixed: tuple[Any, ...]) -> None:
    """Launch until every voxel is through a pass that changed nothing. `lists` is active, same, lower."""
    state = fixed[5].ravel()
    changed = xp.zeros(256, np.uint8)
    while len(lists[0]):
        for _ in range(LAUNCHES):
            waiting = xp.zeros(256, np.uint8)
            look(len(lists[0]), *lists, *fixed, changed, waiting)
        passes = np.flatnonzero(to_host(waiting))
        if len(passes) == 0 or not to_host(changed)[1 : passes[0]].all():
            return
        its = state[lists[0]]
        alive = (its != GONE) & (its < TAINT)
        for i in range(3):  # one after the other: the others are not held twice
            lists[i] = lists[i][alive]


@cache
def _compiled(xp: ModuleType, label: str) -> tuple[Launch, Launch]:
    """The kernels for labels of a type, compiled by cupy."""
    module = xp.RawModule(code=constants(np.dtype(label)) + PREAMBLE + SOURCE)

    def launcher(name: str) -> Launch:
        kernel = module.get_function(name)

        def launch(count: int, *arguments: Any) -> None:
            if count:
                kernel((-(-count // THREADS),), (THREADS,), (np.int64(count), *arguments))

        return launch

    return launcher("list_neighbours"), launcher("look")


@cache
def _table(xp: ModuleType) -> Any:
    return xp.asarray(table())
