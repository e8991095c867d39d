"""Objects looked at again: their partition in a window that crosses blocks, and whole ones from a crop of the labels.

Ids are global and are taken as they are; what is checked is which voxels have the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.kernels.components import dense_labels, label_block
from chunkflow.plan.plan import Plan
from chunkflow.run.result import Result
from chunkflow.stages.base import Stage
from chunkflow.stages.measure import Measure
from chunkflow.stages.skeleton import Skeleton
from chunkflow.storage.volume import Volume
from chunkflow.testing.memory import run_in_memory

MOST_OBJECTS = 20
"""Whole objects of a block that are looked at."""
LEAST_BUDGET, BUDGET_BLOCKS = 2**21, 4
"""Voxels of their crops, together: at least so many, or so many blocks."""
COUNTED = ("volume_vox", "b0", "b1", "b2", "b1_filled", "b1_graph")
"""Columns of the table of objects that a crop must give again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that is not as it should be. at : z, y, x of its first voxel; count : of voxels (or 1)"""

    what: str
    at: Triple
    count: int
    text: str


@dataclass(slots=True)
class ObjectChecks:
    """What was found of whole objects."""

    objects: int = 0
    skeletons: int = 0
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def first_of(flags: NDArray[np.bool_], box: Box) -> Triple:
    """z, y, x of the first voxel that is set, in a box's coordinates of the volume."""
    local = np.unravel_index(int(np.argmax(flags)), flags.shape)
    return triple(tuple(int(a) + b for a, b in zip(local, box.start, strict=True)))


def check_partition(
    foreground: NDArray[Any],
    labels: NDArray[Any],
    window: Box,
    shape: Triple,
    *,
    connectivity: int,
    least: int,
    clear_border: bool,
    keeps_ids: bool,
    fills: bool = False,
) -> list[Difference]:
    """Whether labels are the components of a foreground, as far as a window shows.

    Parameters
    ----------
    foreground, labels : (Z, Y, X) over `window`; labels that came in are their own foreground.
    shape : of the volume.
    least, clear_border : the filters: only what they take may be missing.
    keeps_ids : ids must be the foreground's values.
    fills : what the filters take may lie in a hole, and have the id of the object around it (`check_background`).
    """
    found: list[Difference] = []
    pieces, table = label_block(foreground.astype(bool) if not keeps_ids else foreground, connectivity)
    if not len(table):
        return found
    # The commonest id of a piece, so that a few voxels of another are what is named. Index 0 is background.
    expected = _commonest(pieces, labels, len(table))
    unlike = (pieces != 0) & (labels != expected[pieces])
    if unlike.any():
        found.append(_said("labels", unlike, window, "voxels with another id than their object"))
    if keeps_ids:
        renamed = (expected[1:] != 0) & (expected[1:] != table.value) & (not fills)
        wrong = np.concatenate(([False], renamed))[pieces]
        if wrong.any():
            found.append(_said("labels", wrong, window, "voxels with another id than in the input"))
        return found  # filters look at ids, whose pieces may lie anywhere
    cut, border = _ends(pieces, len(table), window, shape)
    filtered = (table.size < least) | (border if clear_border else False)
    for flags, text in (
        ((expected[1:] == 0) & ~cut & ~filtered, "voxels of objects without an id"),
        ((expected[1:] != 0) & ~cut & filtered & (not fills), "voxels of objects that the filters take, with an id"),
    ):
        wrong = np.concatenate(([False], flags))[pieces]
        if wrong.any():
            found.append(_said("labels", wrong, window, text))
    if least <= 1 and not clear_border:
        wrong = np.concatenate(([False], (expected[1:] == 0) & cut))[pieces]
        if wrong.any():
            found.append(_said("labels", wrong, window, "voxels of objects without an id"))
    return found


def check_background(
    foreground: NDArray[Any], labels: NDArray[Any], window: Box, shape: Triple, *, largest_hole: int | None
) -> list[Difference]:
    """Whether what is no foreground has no id but in the holes that are filled, and each of those has the right one.

    foreground, labels : (Z, Y, X) over `window`.
    largest_hole : voxels of the largest hole that is filled; 0 where none is, None for any.
    """
    outside = (foreground == 0) & (labels != 0)
    if largest_hole == 0:
        text = "voxels outside the foreground that have an id"
        return [_said("labels", outside, window, text)] if outside.any() else []
    before = np.where(foreground != 0, labels, labels.dtype.type(0))  # what the filters took is background
    pieces, table = label_block(before == 0, 6)
    if not len(table):
        return []
    expected = _commonest(pieces, labels, len(table))
    cut, border = _ends(pieces, len(table), window, shape)
    stays = border | (False if largest_hole is None else table.size > largest_hole)
    right = np.where(stays, labels.dtype.type(0), _enclosing(pieces, before, len(table)))
    known = ~cut | stays
    expected[1:][known] = right[known]
    unlike = (pieces != 0) & (labels != expected[pieces])
    text = "voxels of background with another id than the object around them gives them"
    return [_said("labels", unlike, window, text)] if unlike.any() else []


def _enclosing(pieces: NDArray[np.uint32], labels: NDArray[Any], count: int) -> NDArray[Any]:
    """(count,) the one id that shares faces with a piece, 0 where there are several or none."""
    lowest, highest = np.full(count + 1, np.iinfo(labels.dtype).max, labels.dtype), np.zeros(count + 1, labels.dtype)
    for axis in range(3):
        low, high = (tuple(cut if a == axis else slice(None) for a in range(3)) for cut in (slice(-1), slice(1, None)))
        for here, there in ((low, high), (high, low)):
            meets = (pieces[here] != 0) & (labels[there] != 0)
            np.minimum.at(lowest, pieces[here][meets], labels[there][meets])
            np.maximum.at(highest, pieces[here][meets], labels[there][meets])
    return np.where(lowest == highest, highest, labels.dtype.type(0))[1:]


def _commonest(pieces: NDArray[np.uint32], labels: NDArray[Any], count: int) -> NDArray[Any]:
    """(count + 1,) the id that most voxels of each piece have, 0 for 0."""
    inside = pieces != 0
    ids, position = np.unique(labels[inside], return_inverse=True)
    pairs, times = np.unique(pieces[inside].astype(np.int64) * len(ids) + position, return_counts=True)
    order = np.lexsort((times, pairs // len(ids)))
    piece = pairs[order] // len(ids)
    found = np.zeros(count + 1, labels.dtype)
    found[piece] = ids[pairs[order] % len(ids)]  # the last of each piece, which is its commonest, stays
    return found


def _ends(
    pieces: NDArray[np.uint32], count: int, window: Box, shape: Triple
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(count,) which pieces may go on outside the window, and which touch a side of the volume."""
    cut, border = np.zeros(count + 1, bool), np.zeros(count + 1, bool)
    for axis in range(3):
        for end, is_side in ((0, window.start[axis] == 0), (-1, window.stop[axis] == shape[axis])):
            here = border if is_side else cut
            if not is_side or shape[axis] > 1:
                here[pieces.take(end, axis=axis)] = True
    return cut[1:], border[1:]


def _said(what: str, flags: NDArray[np.bool_], window: Box, text: str) -> Difference:
    at, count = first_of(flags, window), int(flags.sum())
    return Difference(what=what, at=at, count=count, text=f"{text}: {count}, the first at z, y, x = {at}")


def check_objects(
    result: Result,
    plan: Plan,
    kept: Mapping[str, Volume],
    window: Box,
    rng: np.random.Generator,
    *,
    components: bool,
    looked_at: set[int],
) -> ObjectChecks:
    """Whole objects of a window, as many as fit, from a crop of the stored labels.

    components : whether an object is one component.
    looked_at : ids that are left out; those looked at are added.
    """
    found = ObjectChecks()
    if "objects" not in {p.name for p in plan.passes}:
        found.notes.append("without measure there is no table of objects: none is looked at as a whole")
        return found
    labels = kept["labels"].read(window)
    rows = _of_window(result.objects, window)
    found.differences += check_places(labels, window, rows)
    inside = np.unique(labels)
    rows = rows[np.isin(rows["object_id"].to_numpy(np.uint64), inside) & ~rows["object_id"].isin(looked_at).to_numpy()]
    budget = max(LEAST_BUDGET, BUDGET_BLOCKS * window.size)
    for _, row in rows.iloc[rng.permutation(len(rows))].iterrows():
        crop = _crop_of(row, plan.shape)
        if found.objects == MOST_OBJECTS or crop.size > budget:
            continue
        budget -= crop.size
        looked_at.add(int(row["object_id"]))
        _check_object(row, crop, plan, kept, found, components=components)
    if found.objects < len(rows):
        found.notes.append("of some blocks, only as many whole objects were looked at as fit a few blocks")
    return found


def check_places(labels: NDArray[Any], window: Box, rows: pd.DataFrame) -> list[Difference]:
    """Whether every id of a window lies where the table of objects says, and those it says are there.

    rows : of the table, whose bounding boxes meet the window.
    """
    found = []
    dense, ids = dense_labels(labels)
    known = {int(row["object_id"]): _bounds(row) for _, row in rows.iterrows()}
    for number, slices in zip(ids.tolist(), find_objects(dense.astype(np.int32)), strict=True):
        start = triple(tuple(a.start + b for a, b in zip(slices, window.start, strict=True)))
        box = Box(start, triple(tuple(a.stop + b for a, b in zip(slices, window.start, strict=True))))
        if number not in known or not known[number].contains(box):
            there = "is not there" if number not in known else f"has it in {known[number]}"
            text = f"id {number} lies in {box}, and the table of objects {there}"
            found.append(Difference(what="objects", at=start, count=1, text=text))
    present = set(ids.tolist())
    for number, box in known.items():
        if number not in present and window.contains(box):
            text = f"object {number} of the table has no voxel in {box}"
            found.append(Difference(what="objects", at=box.start, count=1, text=text))
    return found


def _bounds(row: pd.Series) -> Box:
    """The bounding box of an object."""
    start, stop = (triple([int(row[f"bbox_{axis}_{end}"]) for axis in "zyx"]) for end in ("min", "max"))
    return Box(start, stop)


def _of_window(objects: pd.DataFrame, window: Box) -> pd.DataFrame:
    """The rows whose bounding boxes meet a window."""
    meets = np.ones(len(objects), bool)
    for axis, start, stop in zip("zyx", window.start, window.stop, strict=True):
        meets &= (objects[f"bbox_{axis}_min"] < stop).to_numpy() & (objects[f"bbox_{axis}_max"] > start).to_numpy()
    return objects[meets]


def _crop_of(row: pd.Series, shape: Triple) -> Box:
    """The box of an object and at least one voxel around it; begins at even coordinates, as thinning goes by them."""
    start = [max(0, int(row[f"bbox_{axis}_min"]) - 1) // 2 * 2 for axis in "zyx"]
    stop = [min(n, int(row[f"bbox_{axis}_max"]) + 1) for axis, n in zip("zyx", shape, strict=True)]
    return Box(triple(start), triple(stop))


def _check_object(
    row: pd.Series, crop: Box, plan: Plan, kept: Mapping[str, Volume], found: ObjectChecks, *, components: bool
) -> None:
    number = int(row["object_id"])
    labels = kept["labels"].read(crop)
    own = labels == number
    found.objects += 1

    def differs(text: str, flags: NDArray[np.bool_]) -> None:
        at = first_of(flags, crop) if flags.any() else crop.start
        text = f"object {number}: {text}, at z, y, x = {at}"
        found.differences.append(Difference(what="objects", at=at, count=max(1, int(flags.sum())), text=text))

    label = next((s for s in plan.pipeline.stages if s.key == "label"), None)
    if components and plan.pipeline.input.kind != "labels":
        pieces, table = label_block(own, getattr(label, "connectivity", 26))
        if len(table) != 1:
            differs(f"it falls into {len(table)} pieces that do not touch", pieces > 1)
            return
    if int(own.sum()) != int(row["volume_vox"]):
        differs(f"it has {int(own.sum())} voxels, the table says {int(row['volume_vox'])}", own)
        return
    skeleton = next((s for s in plan.pipeline.stages if isinstance(s, Skeleton)), None)
    stages: list[Stage] = [] if skeleton is None else [skeleton]
    block = triple(tuple(n * 4 // 7 + 3 for n in crop.shape))
    again = run_in_memory(
        [*stages, Measure(intensity="none")], labels, block=block, kind="labels", voxel_um=plan.scale.voxel_um
    )
    columns = again.tables["objects"]
    (here,) = np.flatnonzero(columns["object_id"] == number)
    for name in (n for n in COUNTED if n in columns and n in row.index and not pd.isna(row[n])):
        if int(columns[name][here]) != int(row[name]):
            differs(f"{name} is {int(columns[name][here])}, the table says {int(row[name])}", own)
    if skeleton is not None and "skeleton" in kept:
        found.skeletons += 1
        unlike = (again.arrays["skeleton"] == number) != (kept["skeleton"].read(crop) == number)
        if unlike.any():
            differs(f"voxels of its skeleton that differ: {int(unlike.sum())}", unlike)
