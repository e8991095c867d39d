"""What merges hold is told before they start: near what they take, and refused where it cannot fit."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import chunkflow as cf
from chunkflow.errors import BlockMemoryError, IntegrityError
from chunkflow.run import merge_memory
from chunkflow.run.events import events_of
from chunkflow.run.journal import Journal
from chunkflow.run.merge_memory import HELD, SURELY, Held, estimated_rows
from chunkflow.run.places import Places
from chunkflow.run.status import status
from chunkflow.stages.base import Record, Stage
from chunkflow.stages.label_merge import MergeRegions
from chunkflow.stages.tile_labels import MergeTiles
from chunkflow.testing.suites import write_volume

MIB = 2**20
TOLD = {"objects": Held(source="label-merge", array="count", per_row=1400, rows="objects", is_count=True)}
"""As if the merge of objects held them all at once."""
SIDE, STEP = 96, 3
OBJECTS = (SIDE // STEP) ** 3


class Made(list[Record]):
    """Records that are made when they are read, as those of files are."""

    def __init__(self, count: int, make: Callable[[int], Record]) -> None:
        super().__init__([{}] * count)
        self._make = make

    def __iter__(self) -> Any:
        return map(self._make, range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        return self._make(index)


def peak_of(merge: Any, records: Mapping[str, Any], values: Mapping[str, Record]) -> int:
    gc.collect()
    tracemalloc.start()
    merged = merge.run(records, values)
    for _ in merged.parts:
        pass
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def of_regions(block: int, count: int) -> Record:
    """A block's background and its objects, each of which touches it; as many faces as a sparse volume has."""
    objects = np.arange(2, count + 1)
    return {
        "region_value": np.concatenate([[0], np.arange(1, count)]).astype(np.int64),
        "region_border": np.arange(count) == 0,
        "region_adjacency": np.stack((np.ones(count - 1, np.int64), objects), axis=1),
        "region_links26": np.zeros((0, 2), np.int64),
    }


def test_regions_take_what_is_told_of_them() -> None:
    blocks, count = 40, 5000
    ids = {"ids": np.arange(count, dtype=np.uint64)}
    none = np.zeros((0, 3), np.int64)
    seams = [{"faces": np.array([[1, b + 1, 1]]) if b + 1 < blocks else none, "links26": none} for b in range(blocks)]
    records = {
        "label": Made(blocks, lambda block: of_regions(block, count)),
        "label-merge": Made(blocks, lambda block: ids),
        "seams": seams,
    }
    peak_of(MergeRegions(largest_hole=0), records, {})  # kernels are loaded, which is not the merge's
    peak = peak_of(MergeRegions(largest_hole=0), records, {})
    told = HELD["regions-merge"].per_row * blocks * count
    assert SURELY * told < peak < 1.3 * told


def test_objects_of_tiles_take_what_is_told_of_them() -> None:
    tiles, count = 40, 10_000
    here = np.arange(1, 2001)
    pairs = {"pairs": np.stack((here, np.zeros(2000, np.int64), here), axis=1)}
    records = {
        "apply": Made(tiles, lambda t: {"first": np.arange(count) + t * count, "size": np.full(count, 9)}),
        "apply-overlaps": Made(tiles, lambda t: pairs),
    }
    peak = peak_of(MergeTiles(min_voxels=0), records, {})
    told = HELD["apply-merge"].per_row * tiles * count
    assert SURELY * told < peak < 1.3 * told


@pytest.fixture(scope="module")
def grains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume of 32,768 objects of eight voxels."""
    path = tmp_path_factory.mktemp("grains") / "in.ome.zarr"
    image = np.zeros((SIDE,) * 3, np.uint16)
    for offset in np.ndindex(2, 2, 2):
        image[tuple(slice(o, None, STEP) for o in offset)] = 900
    write_volume(path, image, (0.2, 0.1, 0.1))
    return path


def planned(grains: Path, output: Path, **more: Any) -> cf.Plan:
    stages: list[Stage] = [cf.Threshold(method="fixed", value=500), cf.Label(), cf.Measure()]
    return cf.Pipeline(stages, output=cf.OutputOptions(save=("labels",))).plan(
        grains, output, block=(48, 48, 48), **more
    )


@pytest.fixture(scope="module")
def whole(grains: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run that nothing stood in the way of: its output, and what was told before its merges."""
    found: dict[str, Any] = {"output": tmp_path_factory.mktemp("whole") / "out", "told": {}}

    def told(message: str, *facts: Any) -> None:
        found["told"][facts[0]] = facts[1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(merge_memory.log, "info", told)
        patched.setattr(merge_memory, "HELD", {**HELD, **TOLD})
        planned(grains, found["output"]).run(on="serial")
    return found


def test_rows_are_known_before(whole: dict[str, Any]) -> None:
    assert whole["told"]["objects"] == OBJECTS
    assert whole["told"]["regions-merge"] == pytest.approx(OBJECTS + 8, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_rows_are_estimated_from_a_sample_where_blocks_differ(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.random(10_000) ** 4 * 5000).astype(int)
    sizes = 300 + rows * 11 + rng.integers(0, 200, len(rows))
    sample = [(int(rows[i]), int(sizes[i])) for i in np.linspace(0, len(rows) - 1, 64).astype(int)]
    assert estimated_rows(sample, sizes.tolist()) == pytest.approx(rows.sum(), rel=0.1)
    assert estimated_rows([], []) == 0


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """(bytes) -> that much memory is free."""
    whole = psutil.virtual_memory()

    def leave(count: int) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: whole._replace(available=count))
        monkeypatch.setattr(merge_memory, "resident_bytes", lambda: 0)

    return leave


def test_a_merge_that_cannot_fit_is_refused_before_it_starts_and_the_same_command_goes_on_with_more(
    grains: Path,
    whole: dict[str, Any],
    tmp_path: Path,
    free: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    tree_hash: Any,
) -> None:
    plan = planned(grains, tmp_path / "out")
    monkeypatch.setattr(merge_memory, "HELD", {"objects": replace(TOLD["objects"], per_row=10**5)})
    free(2 * 2**30)
    began: list[str] = []

    def listen(event: Any) -> None:
        began.append(event.get("pass", "") if event["event"] == "unit" else "")

    with pytest.raises(BlockMemoryError) as refused:
        plan.run(on="serial", on_event=listen)
    assert "objects" not in began and "measure" in began
    assert f"objects holds {OBJECTS:,} objects at once, about 3.4 GiB in one process" in refused.value.what
    assert "may take 2.0 GiB" in refused.value.what
    assert "--block 48 48 48" in refused.value.remedy and "--on serial" in refused.value.remedy
    found = status(tmp_path / "out")
    assert (found.state, found.code) == ("failed", 3)
    free(64 * 2**30)
    began.clear()
    plan.run(on="serial", on_event=listen)
    assert set(began) - {""} <= {p.name for p in plan.passes[-3:]}  # nothing that was done is computed again
    assert tree_hash(tmp_path / "out") == tree_hash(whole["output"])


def test_a_merge_that_may_not_fit_is_warned_of_and_goes_on(
    grains: Path, tmp_path: Path, free: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_memory, "HELD", TOLD)
    plan = planned(grains, tmp_path / "out")
    free(plan.process_bytes + int(0.9 * TOLD["objects"].per_row * OBJECTS))
    heard: list[Any] = []
    plan.run(on="serial", on_event=heard.append)
    warned = [event["text"] for event in heard if event["event"] == "warning" and "at once" in event["text"]]
    assert [text.split(" holds ")[0] for text in warned] == ["objects"]
    assert warned[0] in [event.get("text") for event in events_of(tmp_path / "out" / "run")]  # for the report


def test_what_workers_may_take_counts_where_they_merge(
    grains: Path, whole: dict[str, Any], free: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_memory, "HELD", TOLD)
    plan = planned(grains, whole["output"])
    free(64 * 2**30)
    limit = plan.process_bytes + TOLD["objects"].per_row * OBJECTS // 2
    run = _Run(replace(plan, memory=limit), cf.open_result(whole["output"]).journal)
    with pytest.raises(BlockMemoryError, match="a worker may take"):
        merge_memory.check_merge(run, plan.pass_named("objects"))  # type: ignore[arg-type]
    run.engine.runs_single_units_here = True  # where it has not started yet, this process has all that is free
    merge_memory.check_merge(run, plan.pass_named("objects"))  # type: ignore[arg-type]


def test_a_damaged_record_is_left_to_the_merge_that_reads_it(
    grains: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(path: Path) -> Record:
        raise IntegrityError(f"{path} cannot be read")

    monkeypatch.setattr(merge_memory, "read_record", damaged)
    monkeypatch.setattr(merge_memory, "HELD", {**HELD, **TOLD})
    plan = replace(planned(grains, whole["output"]), memory=1)
    run = _Run(plan, cf.open_result(whole["output"]).journal)
    for name in ("objects", "regions-merge"):
        merge_memory.check_merge(run, plan.pass_named(name))  # type: ignore[arg-type]


class _Started:
    """As `LocalEngine`, once its cluster is there."""

    name = "local"
    runs_single_units_here = False


class _Run:
    """What of a run is looked at."""

    def __init__(self, plan: cf.Plan, journal: Journal) -> None:
        self.plan, self.journal = plan, journal
        self.places = Places(plan, journal.published_passes)
        self.engine = _Started()

    def fingerprint(self, name: str) -> str:
        return self.places.fingerprints[name]
