"""What blocks left of objects, put in the order of the objects: a range of labels at a time, the rest on a shelf.

    records -> rows of some blocks, merged -> cut where ranges begin -> shelf        16 MiB wait in memory
    shelf   -> the pieces of one range, merged -> its rows, labels increasing         `ROWS` of them, about

So a table of any number of objects is made with the memory of one range. Ranges begin at quantiles of the labels of a
sample of the blocks, since labels may have gaps; which rows a table has, and what is in them, does not depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from chunkflow.kernels.union import Shelf
from chunkflow.stages.base import Record, iterate

T = TypeVar("T")

ROWS = 2**15
"""Rows of a range: 40 MiB of a table of objects while it is made."""
SAMPLED = 512
"""Blocks whose labels say where ranges begin."""
MERGE_BYTES = 192 * 2**20
"""What the projection gives a merge of ranges, at most."""
_EVERY = 64
"""Of the labels of a sampled block one in so many is looked at."""
WAITING_BYTES = 2**24
"""Of rows in memory before they are put down."""
_OVERHEAD = 2**10
"""Of the rows of a block, beside their arrays."""


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """A kind of rows: a dataclass of arrays of one length, of which the first holds labels.

    read : from what a block left to its rows
    merge : rows of several blocks, at least one, to those of all of them, their labels increasing; in any grouping
    """

    read: Callable[[Record], T]
    merge: Callable[[Sequence[T]], T]


@dataclass(frozen=True, slots=True)
class Values:
    """A number per label."""

    label: NDArray[np.uint64]
    value: NDArray[np.int64]


def summed(parts: Sequence[Values]) -> Values:
    """The sums of all parts, by label."""
    label, where = np.unique(np.concatenate([part.label for part in parts]), return_inverse=True)
    total = np.zeros(len(label), np.int64)
    np.add.at(total, where, np.concatenate([part.value for part in parts]))
    return Values(label, total)


def range_starts(records: Sequence[Record], labels: Callable[[Record], NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """(R,) the first label of each range, 0 the first of all: about `ROWS` rows of the blocks to a range."""
    chosen = np.unique(np.linspace(0, len(records) - 1, min(SAMPLED, len(records))).astype(np.int64))
    step = len(records) / len(chosen)
    kept: list[NDArray[np.uint64]] = []
    rows = 0
    for block in chosen.tolist():
        found = labels(records[block])
        rows += len(found)
        kept.append(np.array(found[::_EVERY], np.uint64))  # a view would keep all that the block left
    known = np.sort(np.concatenate(kept))
    ranges = min(-(-int(rows * step) // ROWS), len(known))
    inner = known[np.arange(1, ranges) * len(known) // max(1, ranges)]
    return np.unique(np.append(inner, np.uint64(0)))


class Ranges:
    """Rows of several kinds, by range; `len` of them, each taken by its number."""

    def __init__(self, starts: NDArray[np.uint64], shelf: Shelf) -> None:
        self._starts, self._shelf = starts, shelf
        self._kinds: dict[str, Rows[Any]] = {}
        self._empty: dict[str, Any] = {}
        self._names: dict[tuple[str, int], list[str]] = {}

    def __len__(self) -> int:
        return len(self._starts)

    def numbers(self, label: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The range of each label."""
        return np.searchsorted(self._starts, label, side="right") - 1

    def sort(self, records: Sequence[Record], kinds: Mapping[str, Rows[Any]]) -> None:
        """Put down what all records hold of some kinds; each record is read once."""
        waiting: dict[str, list[Any]] = {name: [] for name in kinds}
        size = flushed = 0
        for record in iterate(records):
            for name, kind in kinds.items():
                rows = _copied(kind.read(record))
                waiting[name].append(rows)
                size += _OVERHEAD + sum(column.nbytes for column in _columns(rows).values())
            if size >= WAITING_BYTES:
                self._put_down(kinds, waiting, flushed)
                flushed, size, waiting = flushed + 1, 0, {name: [] for name in kinds}
        if any(waiting.values()):
            self._put_down(kinds, waiting, flushed)

    def _put_down(self, kinds: Mapping[str, Rows[Any]], waiting: dict[str, list[Any]], number: int) -> None:
        for name, kind in kinds.items():
            merged = kind.merge(waiting.pop(name))
            columns = _columns(merged)
            self._kinds[name] = kind
            self._empty[name] = _slice(merged, 0, 0)
            label = next(iter(columns.values()))
            label = label if label.ndim == 1 else label[:, 0]
            bounds = [*np.searchsorted(label, self._starts).tolist(), len(label)]
            for k, (start, stop) in enumerate(pairwise(bounds)):
                if start < stop:
                    put = f"{name}-{k}-{number}"
                    self._shelf.put(put, {key: column[start:stop] for key, column in columns.items()})
                    self._names.setdefault((name, k), []).append(put)

    def take(self, name: str, number: int) -> Any:
        """All rows of a kind in one range, merged."""
        empty = self._empty[name]
        pieces = [type(empty)(**self._shelf.take(put)) for put in self._names.get((name, number), [])]
        return self._kinds[name].merge(pieces) if pieces else empty


def _columns(rows: Any) -> dict[str, NDArray[Any]]:
    return {f.name: getattr(rows, f.name) for f in fields(rows)}


def _slice(rows: T, start: int, stop: int) -> T:
    return type(rows)(**{name: column[start:stop].copy() for name, column in _columns(rows).items()})


def _copied(rows: T) -> T:
    """Rows that do not keep all of what a block left in memory: its arrays are views of one."""
    return type(rows)(**{name: np.array(column) for name, column in _columns(rows).items()})
