"""Merging what all blocks left, a few of them held at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from chunkflow.stages.base import Record, iterate

T = TypeVar("T")

MERGED_AT_ONCE = 64  # blocks whose sums are held before they are merged


def folded(records: Sequence[Record], read: Callable[[Record], T], merge: Callable[[Sequence[T]], T]) -> T:
    """The parts of all records merged; `merge` takes one or more and gives the same in any grouping."""
    waiting: list[T] = []
    for record in iterate(records):
        waiting.append(read(record))
        if len(waiting) == MERGED_AT_ONCE:
            waiting = [merge(waiting)]
    return merge(waiting)
