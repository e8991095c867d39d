"""The merges of instances read what blocks left once, however many slabs there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import chunkflow as cf
from chunkflow.stages import slabs
from chunkflow.stages.base import Merged, Record
from chunkflow.stages.instances_merge import MergeFlood, MergeSeeds
from chunkflow.testing.memory import run_in_memory


class Counted(Sequence[Record]):
    """Records that count how often each is read."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records, self.reads = records, Counter[int]()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, block: Any) -> Any:
        self.reads[block] += 1
        return self._records[block]


@pytest.mark.parametrize("few", [1, 64])
@pytest.mark.parametrize("merge", [MergeSeeds, MergeFlood])
def test_every_record_is_read_once(merge: Any, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs, "SLAB_BLOCKS", few)
    own, given = merge.run, {}

    def run(self: Any, records: Mapping[str, Sequence[Record]], values: Any, *shelf: Any) -> Merged:
        given.update({name: Counted(found) for name, found in records.items() if not name.endswith("-merge")})
        merged = own(self, given, values, *shelf)
        return Merged(merged.values, list(merged.parts))

    monkeypatch.setattr(merge, "run", run)
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((12, 14, 16)), 1)
    left = run_in_memory(
        [cf.Instances(h=0.1)], (noise > 0).astype(np.uint8), kind="mask", block=(4, 7, 8), save=("labels",)
    )
    assert left.arrays["labels"].max() > 5
    assert len(given) == 2
    for name, counted in given.items():
        assert counted.reads == Counter(range(12)), name
