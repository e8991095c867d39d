"""Blocks and the tree above them against one shot over the whole volume, and against the prototypes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import fields
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.kernels import decisions, residual
from chunkflow.kernels.distance import UNKNOWN, squared_distance
from chunkflow.kernels.open_voxels import OpenVoxels, collect
from chunkflow.kernels.thinning import ALIVE, LAST_PASS, OPEN, thin
from chunkflow.kernels.voxel_order import PARITY_RANK

PROTOTYPES = Path(__file__).parents[2].parent / "shared" / "prototypes" / "skeleton" / "certified"
CLOSED = np.zeros((3, 2), np.bool_)

Triple = tuple[int, int, int]
Labels = NDArray[np.unsignedinteger]
History = NDArray[np.uint8]


# Volumes


def tubes(shape: Triple, n: int, radius: float, seed: int) -> NDArray[np.bool_]:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0.1, 0.9, (n, 3)) * shape
    axis = np.zeros(shape, np.bool_)
    s = np.linspace(0, 1, 300)[:, None]
    for i, j in product(range(n), (1, 2)):
        curve = np.rint((1 - s) * points[i] + s * points[(i + j) % n]).astype(int)
        axis[tuple(np.minimum(curve, np.array(shape) - 1).T)] = True
    return np.asarray(ndimage.distance_transform_edt(~axis) <= radius)


def rough(mask: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """A quarter of the voxels on either side of the surface changed."""
    chosen = np.random.default_rng(seed).random(mask.shape) < 0.25
    return (mask & ~(chosen & ~ndimage.binary_erosion(mask))) | (chosen & ndimage.binary_dilation(mask) & ~mask)


def plate(shape: Triple) -> NDArray[np.bool_]:
    z, y, x = (grid - n / 2 for grid, n in zip(np.indices(shape), shape, strict=True))
    return np.asarray((abs(z * 0.96 - y * 0.28) <= 2.6) & (abs(y) < 0.4 * shape[1]) & (abs(x) < 0.4 * shape[2]))


def torus(shape: Triple) -> NDArray[np.bool_]:
    z, y, x = (grid - n / 2 + 0.37 for grid, n in zip(np.indices(shape), shape, strict=True))
    return np.asarray((np.hypot(x, y) - 0.3 * min(shape[1:])) ** 2 + z**2 <= (0.15 * min(shape)) ** 2)


def ball(shape: Triple) -> NDArray[np.bool_]:
    middle = np.array(shape) / 2 + 0.2
    apart = sum((grid - c) ** 2 for grid, c in zip(np.indices(shape), middle, strict=True))
    return np.asarray(apart <= (0.45 * min(shape)) ** 2)


def blobs(shape: Triple, seed: int) -> NDArray[np.bool_]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.5)
    return np.asarray(noise > 0.5 * noise.std())


def noise(shape: Triple, density: float, seed: int) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(shape) < density


def cut_into_labels(mask: NDArray[np.bool_], seed: int, n: int = 6) -> NDArray[np.uint64]:
    seeds = np.random.default_rng(seed).uniform(0, 1, (n, 3)) * mask.shape
    apart = [sum((g - c) ** 2 for g, c in zip(np.indices(mask.shape), point, strict=True)) for point in seeds]
    return np.where(mask, np.argmin(apart, axis=0) + 2**60, 0).astype(np.uint64)


SHAPE = (37, 51, 45)


def volumes() -> dict[str, Labels]:
    masks = {
        "tubes": tubes(SHAPE, 5, 3.3, 1),
        "rough tubes": rough(tubes(SHAPE, 5, 4.2, 2), 2),
        "plate": plate(SHAPE),
        "torus": torus(SHAPE),
        "ball": ball(SHAPE),
        "blobs": blobs(SHAPE, 3),
        "a thin slab": np.ones((1, 60, 50), np.bool_),
        "a box full": np.ones((31, 28, 33), np.bool_),
    }
    masks |= {f"noise {density}": noise((27, 29, 25), density, 4) for density in (0.3, 0.5, 0.6, 0.7, 0.85, 0.9)}
    labels: dict[str, Labels] = {name: mask.astype(np.uint8) for name, mask in masks.items()}
    labels["touching tubes"] = cut_into_labels(masks["tubes"], 6)
    labels["touching cells"] = cut_into_labels(np.ones(SHAPE, np.bool_), 7)
    return labels


VOLUMES = volumes()


# A volume in blocks, each of which sees its own crop alone, and the tree above them


def boxes(shape: Triple, core: Triple) -> dict[Triple, tuple[Triple, Triple]]:
    counts = [-(-n // c) for n, c in zip(shape, core, strict=True)]
    found = {}
    for p in product(*map(range, counts)):
        low = tuple(i * c for i, c in zip(p, core, strict=True))
        found[p] = low, tuple(min(a + c, n) for a, c, n in zip(low, core, shape, strict=True))
    return found


class Blocks:
    """The local runs: a history of the whole volume with OPEN voxels, and every block's list."""

    def __init__(self, labels: Labels, core: Triple, halo: int, weights: Triple, t0: int, passes: int) -> None:
        self.labels, self.core, self.t0, self.passes = labels, core, t0, passes
        self.shape: Triple = labels.shape
        self.distance2 = squared_distance(labels, weights=weights)
        self.weights, self.halo = weights, halo
        self.history = np.zeros(labels.shape, np.uint8)
        self.boxes = boxes(self.shape, core)
        self.lists = {p: self._thin(low, high) for p, (low, high) in self.boxes.items()}

    def _thin(self, low: Triple, high: Triple) -> OpenVoxels:
        a = tuple(max(0, i - self.halo) for i in low)
        b = tuple(min(n, i + self.halo) for i, n in zip(high, self.shape, strict=True))
        open_borders = np.array([[i > 0, j < n] for i, j, n in zip(a, b, self.shape, strict=True)])
        crop = cut(a, b)
        labels, distance2 = self.labels[crop], np.ascontiguousarray(self.distance2[crop])
        found = thin(
            labels,
            distance2,
            origin=a,
            open_borders=open_borders,
            weights=self.weights,
            t0=self.t0,
            passes=self.passes,
        )
        inner = tuple(i - j for i, j in zip(low, a, strict=True)), tuple(i - j for i, j in zip(high, a, strict=True))
        self.history[cut(low, high)] = found.history[cut(*inner)]
        if found.start is None:
            return OpenVoxels.empty()
        return collect(
            labels, distance2, found.history, found.start, low=inner[0], high=inner[1], origin=a, shape=self.shape
        )

    def told(self, position: Triple) -> tuple[NDArray[np.int64], History]:
        """What became of the decided voxels in the outermost layer of a core."""
        low, high = self.boxes[position]
        outer = np.zeros(self.shape, np.bool_)
        outer[cut(low, high)] = True
        outer[cut(tuple(a + 1 for a in low), tuple(b - 1 for b in high))] = False
        index = np.flatnonzero(outer & (self.history != OPEN) & (self.history != 0))
        return index, self.history.ravel()[index]


def cut(low: Triple, high: Triple) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def finish(blocks: Blocks) -> tuple[History, list[int]]:
    """The history after the tree, and how many voxels each level was given."""
    history = blocks.history.copy()
    level: dict[Triple, tuple[list[OpenVoxels], list[NDArray[np.int64]], list[History]]] = {}
    for p in blocks.boxes:
        parts = level.setdefault(tuple(i // 2 for i in p), ([], [], []))
        for part, found in zip(parts, (blocks.lists[p], *blocks.told(p)), strict=True):
            part.append(found)
    given = []
    while True:
        above: dict[Triple, tuple[list[OpenVoxels], list[NDArray[np.int64]], list[History]]] = {}
        given.append(sum(len(part) for lists, _, _ in level.values() for part in lists))
        for p, (lists, told_index, told_history) in level.items():
            none = np.zeros(0, np.int64)
            index, became = np.concatenate([none, *told_index]), np.concatenate([none[:0], *told_history])
            solved = residual.solve(
                OpenVoxels.joined(lists),
                index,
                became.astype(np.uint8),
                shape=blocks.shape,
                t0=blocks.t0,
                passes=blocks.passes,
            )
            assert (history.ravel()[solved.index] == OPEN).all()
            history.ravel()[solved.index] = solved.history
            parts = above.setdefault(tuple(i // 2 for i in p), ([], [], []))
            parts[0].append(solved.still_open)
            parts[1].extend([index, solved.index[solved.is_awaited]])
            parts[2].extend([became, solved.history[solved.is_awaited]])
        if list(level) == [(0, 0, 0)]:
            return history, given
        level = above


def one_shot(labels: Labels, weights: Triple, t0: int, passes: int = LAST_PASS) -> History:
    distance2 = squared_distance(labels, weights=weights)
    return thin(labels, distance2, origin=(0, 0, 0), open_borders=CLOSED, weights=weights, t0=t0, passes=passes).history


# Tests


@pytest.mark.parametrize("name", VOLUMES)
def test_blocks_and_the_tree_above_them_leave_the_history_of_the_whole_volume(name: str) -> None:
    labels = VOLUMES[name]
    rng = np.random.default_rng(sum(map(ord, name)))
    for trial in range(4):
        core = tuple(int(c) for c in rng.integers(6 if trial % 2 else 12, 20, 3))
        halo, t0 = (1, 0, 4, 8)[trial % 4] or 1, (1, 0, 2)[trial % 3]
        weights = (1, 1, 1) if trial % 2 else (4, 1, 1)
        passes = 3 if trial == 3 else LAST_PASS
        truth = one_shot(labels, weights, t0, passes)
        blocks = Blocks(labels, core, halo, weights, t0, passes)
        known = blocks.history != OPEN
        np.testing.assert_array_equal(blocks.history[known], truth[known])
        found, _ = finish(blocks)
        np.testing.assert_array_equal(found, truth, err_msg=f"core {core}, halo {halo}, t0 {t0}, weights {weights}")


def test_a_thick_ball_climbs_to_the_root_and_is_whole_there() -> None:
    blocks = Blocks(VOLUMES["ball"], (7, 9, 8), 1, (1, 1, 1), 1, LAST_PASS)
    found, given = finish(blocks)
    assert len(given) == 3
    assert given[0] > given[1] > given[2] > 0
    np.testing.assert_array_equal(found, one_shot(VOLUMES["ball"], (1, 1, 1), 1))


@pytest.mark.parametrize("thin_axis", range(3))
def test_blocks_of_one_voxel_thickness_are_solved_too(thin_axis: int) -> None:
    labels = VOLUMES["blobs"][:14, :17, :16]
    core = tuple(1 if axis == thin_axis else 6 for axis in range(3))
    found, _ = finish(Blocks(labels, core, 1, (1, 1, 1), 1, LAST_PASS))
    np.testing.assert_array_equal(found, one_shot(labels, (1, 1, 1), 1))


def test_a_list_alone_decides_nothing_wrongly() -> None:
    """Without the neighbours' lists and without being told, what is decided must hold all the same."""
    for name in ("tubes", "plate", "noise 0.6", "touching cells"):
        blocks = Blocks(VOLUMES[name], (13, 15, 11), 1, (1, 1, 1), 1, LAST_PASS)
        truth = one_shot(VOLUMES[name], (1, 1, 1), 1).ravel()
        decided = 0
        for part in blocks.lists.values():
            solved = residual.solve(
                OpenVoxels.joined([part]), np.zeros(0, np.int64), np.zeros(0, np.uint8), shape=blocks.shape
            )
            np.testing.assert_array_equal(solved.history, truth[solved.index])
            decided += len(solved.index)
            assert len(solved.index) + len(solved.still_open) == len(part)
        assert decided < sum(map(len, blocks.lists.values()))


def test_the_order_of_the_lists_changes_nothing() -> None:
    blocks = Blocks(VOLUMES["plate"], (13, 15, 11), 2, (1, 1, 1), 1, LAST_PASS)
    lists = list(blocks.lists.values())
    index, history = (np.concatenate(part) for part in zip(*map(blocks.told, blocks.boxes), strict=True))
    first = residual.solve(OpenVoxels.joined(lists), index, history, shape=blocks.shape)
    second = residual.solve(OpenVoxels.joined(lists[::-1]), index[::-1], history[::-1], shape=blocks.shape)
    assert len(first.still_open) == 0
    np.testing.assert_array_equal(first.index, second.index)
    np.testing.assert_array_equal(first.history, second.history)


def test_voxels_without_a_distance_stay_open_and_the_rest_is_right() -> None:
    labels = VOLUMES["tubes"]
    distance2 = squared_distance(labels, weights=(1, 1, 1))
    hidden = (labels > 0) & (np.random.default_rng(9).random(labels.shape) < 0.005)
    partly = np.where(hidden, np.int32(UNKNOWN), distance2)
    found = thin(labels, partly, origin=(0, 0, 0), open_borders=CLOSED, weights=(1, 1, 1))
    assert found.start is not None
    listed = collect(
        labels, partly, found.history, found.start, low=(0, 0, 0), high=SHAPE, origin=(0, 0, 0), shape=SHAPE
    )
    solved = residual.solve(listed, np.zeros(0, np.int64), np.zeros(0, np.uint8), shape=SHAPE)
    assert set(np.flatnonzero(hidden)) <= set(solved.still_open.index)
    np.testing.assert_array_equal(solved.history, one_shot(labels, (1, 1, 1), 1).ravel()[solved.index])


def test_a_list_holds_what_the_whole_volume_says_of_its_voxels() -> None:
    blocks = Blocks(VOLUMES["touching cells"], (13, 15, 11), 3, (4, 1, 1), 1, LAST_PASS)
    listed = OpenVoxels.joined(list(blocks.lists.values()))
    np.testing.assert_array_equal(listed.index, np.flatnonzero(blocks.history == OPEN))
    np.testing.assert_array_equal(listed.label, blocks.labels.ravel()[listed.index])
    parity = np.stack(np.unravel_index(listed.index, SHAPE)) & 1
    rank = PARITY_RANK[tuple(parity)]
    np.testing.assert_array_equal(listed.key, 8 * blocks.distance2.ravel()[listed.index].astype(np.int64) + rank)
    truth = np.pad(one_shot(blocks.labels, (4, 1, 1), 1), 1)
    own = truth[1:-1, 1:-1, 1:-1].ravel()[listed.index]
    assert (listed.start <= own).all() and (listed.start >= 1).all()
    labels = np.pad(blocks.labels, 1)
    for i, offset in enumerate(decisions.NEIGHBOURS):
        there = tuple(np.stack(np.unravel_index(listed.index, SHAPE)) + 1 + offset[:, None])
        same = labels[there] == listed.label
        became = np.where(same, truth[there], 0).astype(int)
        said = listed.history[:, i]
        gone = said == 0
        assert (became[gone] <= listed.start[gone]).all()
        plain = ~gone & (said != OPEN)
        np.testing.assert_array_equal(said[plain], became[plain])


@pytest.fixture
def prototype(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The executable definition with our table, so that it writes nothing."""
    if not (PROTOTYPES / "tree.py").exists():
        pytest.skip(f"no prototypes at {PROTOTYPES}")
    monkeypatch.syspath_prepend(str(PROTOTYPES))
    names = ("table", "kernel", "residual", "tree")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.import_module("table").table = decisions.table
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.slow
def test_lists_and_histories_equal_the_prototype(prototype: dict[str, ModuleType]) -> None:
    for name, core, halo in (
        ("plate", (13, 15, 11), 2),
        ("touching cells", (13, 15, 16), 1),
        ("noise 0.6", (9, 9, 9), 3),
        ("blobs", (12, 11, 20), 4),
    ):
        labels = VOLUMES[name]
        blocks = Blocks(labels, core, halo, (1, 1, 1), 1, LAST_PASS)
        local, start, _ = prototype["residual"].local_runs(labels, core, halo, blocks.distance2)
        np.testing.assert_array_equal(blocks.history, local)
        records = prototype["residual"].collect(labels, blocks.distance2, local, start, core)
        joined = [np.concatenate(column) for column in zip(*records, strict=True)]
        order = np.argsort(joined[0])
        ours = OpenVoxels.joined(list(blocks.lists.values()))
        named = dict(zip(("index", "key", "start", "history", "lower"), joined, strict=True))
        for column in fields(ours):
            if column.name in ("key", "index", "start"):
                np.testing.assert_array_equal(getattr(ours, column.name), named[column.name][order])
        recorded = {
            p: prototype["residual"].collect_block(
                labels, blocks.distance2, local, start, *box, decisions.NEIGHBOURS, prototype["kernel"].GRAY, count
            )
            for p, box in blocks.boxes.items()
            if (count := int((local[cut(*box)] == OPEN).sum()))
        }
        index, history, _ = prototype["tree"].solve_tree(recorded, labels.shape)
        found, _ = finish(blocks)
        np.testing.assert_array_equal(found.ravel()[index], history)
        assert (found != OPEN).all() and (found == ALIVE).any()
