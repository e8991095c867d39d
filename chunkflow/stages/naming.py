"""From numbers that blocks or tiles gave their pieces to ids of the whole volume, and on to the passes of `label`.

A merge says which piece is which object (`ranked`, `largest_of`) and gives every block its table "ids", 0 first; a step
reads voxels through that table; what it makes goes through the passes of `stages.label` as an input of labels does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.box import Box, Triple
from chunkflow.stages.base import BlockStep, Draft, Flow, Output, Record, View
from chunkflow.stages.label import Label, label_dtype

_AS_THEY_ARE = Label()


def ranked(first: NDArray[np.int64], size: NDArray[np.int64], min_voxels: int) -> NDArray[np.uint64]:
    """Ids 1..N in the order of the first voxels, of those of 0..K with enough voxels; 0 for the others and for 0.

    Parameters
    ----------
    first, size : (K + 1,) index in the volume of the first voxel, and voxels.
    """
    kept = 1 + np.flatnonzero(size[1:] >= max(1, min_voxels))
    ids = np.zeros(len(size), np.uint64)
    ids[kept[np.argsort(first[kept], kind="stable")]] = np.arange(1, len(kept) + 1, dtype=np.uint64)
    return ids


def largest_of(ids: NDArray[np.uint64]) -> dict[str, NDArray[np.int64] | NDArray[np.uint64]]:
    """What a merge says of all its ids, which have no gaps: how many, and the largest."""
    largest = ids.max(initial=np.uint64(0))
    return {"count": np.array([largest], np.int64), "largest": np.array([largest], np.uint64)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """Objects of a core: an array of numbers that each block counts from 1, through the table of a merge."""

    array: str
    merge: str

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("labelled",)
    on_device: ClassVar[bool] = False

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {self.array: out}

    def run(self, view: View, out: Box) -> Output:
        merged: Record = view.values[self.merge]
        ids = merged["ids"].astype(label_dtype(merged))
        return Output(arrays={"labelled": ids[view.regions[self.array].cut(out)]})

    def working_bytes(self, out: Triple) -> int:
        return 8 * prod(out)


def named_objects(
    flow: Flow, name: BlockStep, merge: str, label: Label = _AS_THEY_ARE
) -> tuple[tuple[Draft, ...], Flow]:
    """The passes of `label` on an input of labels, which a step makes with the help of a merge instead: "labelled"."""
    (first, *others), after = label.drafts(replace(flow, kind="labels"))
    first = replace(first, steps=(name, *first.steps[1:]), needs=(merge,))
    return (first, *others), replace(after, kind=flow.kind)
