"""What a run holds of tables and graphs: a range of objects, some rows, a piece of one object, whatever there is."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import chunkflow as cf
from chunkflow.run import stored_tables
from chunkflow.run.result import Result
from chunkflow.run.stored_tables import StoredParts
from chunkflow.stages import ranges
from chunkflow.stages.base import Record, Stage
from chunkflow.stages.objects_merge import MergeContacts
from chunkflow.stages.ranges import Ranges, Rows, Values, range_starts, summed
from chunkflow.storage import graph_pieces, graphs, record_columns, swc, tables
from chunkflow.storage.records import RecordFolder, read_record, record_path, shelf_in, write_record
from chunkflow.testing.memory import run_in_memory
from chunkflow.testing.suites import differences, write_volume

MIB = 2**20


def peak_of(work: Callable[[], object]) -> int:
    """Bytes of numpy, Python and Arrow at the most."""
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    gc.collect()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        work()
        return int(tracemalloc.get_traced_memory()[1] + (pool.max_memory() or 0))
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def rows(first: int, count: int) -> dict[str, Any]:
    rng = np.random.default_rng(first)
    numbers = {f"n{k}_um": rng.integers(0, 9, count) / 4 for k in range(6)}
    return {"object_id": np.arange(first, first + count, dtype=np.uint64), **numbers, "form": np.full(count, "tube")}


def parts(count: int, of: int = 8192) -> Iterator[dict[str, Any]]:
    return (rows(first, min(of, count - first)) for first in range(0, count, of))


def test_writing_and_reading_a_table_takes_the_same_of_any_number_of_rows(tmp_path: Path) -> None:
    def through(count: int, parts_of: Callable[[int], Any]) -> int:
        folder = tmp_path / str(count)

        def work() -> None:
            tables.write_table_parts(folder, "t", parts_of(count))
            for batch in tables.StoredTable(folder, "t").batches("n0_um", "form"):
                assert len(batch) <= tables.BATCH_ROWS

        return peak_of(work)

    through(10, parts)  # what is loaded once
    few, many = through(70_000, parts), through(200_000, parts)
    assert many < 1.15 * few < 64 * MIB
    held = through(200_000, lambda count: [rows(0, count)])  # the whole table at once
    assert held > 1.5 * many


BLOCKS, IN_BLOCK = 40, 5000


class Touching(list[Record]):
    """Blocks of objects in a row, each of which touches the next, made when they are read."""

    def __init__(self, blocks: int) -> None:
        super().__init__([{}] * blocks)

    def __iter__(self) -> Iterator[Record]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, block: Any) -> Any:
        label = np.arange(block * IN_BLOCK, (block + 1) * IN_BLOCK, dtype=np.uint64) + np.uint64(1)
        pair = np.stack((label, label + np.uint64(1)), axis=1)
        return {"contact_pair": pair, "contact_faces": np.ones((len(pair), 3), np.int64)}


def test_a_merge_of_a_table_takes_the_same_of_any_number_of_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "ROWS", 2**13)
    monkeypatch.setattr(ranges, "WAITING_BYTES", 2**20)

    def merged(blocks: int) -> int:
        found: list[int] = []

        def work() -> None:
            with shelf_in(tmp_path) as shelf:
                merge = MergeContacts(sums="measure", voxel_um=(1.0, 1.0, 1.0))
                result = merge.run({"measure": Touching(blocks)}, {}, shelf)
                found.extend(len(part["object_a"]) for _, part in result.parts)

        peak = peak_of(work)
        assert sum(found) == blocks * IN_BLOCK and max(found) < 4 * ranges.ROWS
        return peak

    firsts = peak_of(lambda: range_starts(Touching(BLOCKS), lambda record: record["contact_pair"][:, 0]))
    assert firsts < MIB  # a block at a time, 0.4 MiB, and one label in 64 of all
    few, many = merged(BLOCKS // 4), merged(BLOCKS)
    assert many < 1.25 * few < 16 * MIB
    monkeypatch.setattr(ranges, "ROWS", 2**30)  # one range holds all
    monkeypatch.setattr(ranges, "WAITING_BYTES", 2**30)
    assert merged(BLOCKS) > 2 * many


@pytest.mark.parametrize("labels", ["dense", "gaps"])
def test_ranges_hold_every_row_once_in_order_whatever_the_labels(
    labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "ROWS", 50)
    monkeypatch.setattr(ranges, "WAITING_BYTES", 10_000)
    rng = np.random.default_rng(0)
    known = np.arange(1, 2001, dtype=np.uint64)
    if labels == "gaps":
        known = np.unique(rng.integers(1, 2**64 - 1, 2000, np.uint64, endpoint=True))
    blocks = [np.unique(rng.choice(known, n)) for n in rng.integers(0, 300, 30)]
    records = [{"label": label, "value": rng.integers(1, 9, len(label))} for label in blocks]
    with shelf_in(tmp_path) as shelf:
        sorted_rows = Ranges(range_starts(records, lambda record: record["label"]), shelf)
        sorted_rows.sort(records, {"n": Rows(lambda record: Values(record["label"], record["value"]), summed)})
        assert len(sorted_rows) > 20
        found = [sorted_rows.take("n", number) for number in range(len(sorted_rows))]
        of_label = sorted_rows.numbers(np.concatenate([part.label for part in found]))
    expected = summed([Values(record["label"], record["value"]) for record in records])
    assert np.array_equal(np.concatenate([part.label for part in found]), expected.label)
    assert np.array_equal(np.concatenate([part.value for part in found]), expected.value)
    assert np.array_equal(of_label, np.repeat(np.arange(len(found)), [len(part.label) for part in found]))


def blobs(shape: tuple[int, int, int], seed: int = 5) -> np.ndarray:
    """Rough rods that do not touch, some with loops."""
    noise = np.random.default_rng(seed).random(shape) < 0.9
    _, y, x = np.indices(shape)
    return np.asarray(noise & (y % 6 < 3) & (x % 7 < 4), np.uint8)


def test_tables_are_the_same_however_objects_are_cut_into_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[Stage] = [cf.Label(), cf.Skeleton(), cf.Measure(oriented_extents=True)]
    mask = blobs((18, 31, 29)) > 0
    expected = run_in_memory(stages, mask, kind="mask", block=(9, 8, 10), voxel_um=(0.3, 0.1, 0.1))
    monkeypatch.setattr(ranges, "ROWS", 3)
    monkeypatch.setattr(ranges, "WAITING_BYTES", 2000)
    monkeypatch.setattr(ranges, "_EVERY", 1)
    found = run_in_memory(stages, mask, kind="mask", block=(9, 8, 10), voxel_um=(0.3, 0.1, 0.1))
    assert len(expected.tables["objects"]["object_id"]) > 20
    assert not found.differences(expected)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blobs")
    write_volume(folder / "cells.ome.zarr", (np.indices((18, 31, 29)).sum(axis=0) // 20).astype(np.uint8), (1, 1, 1))
    write_volume(folder / "in.ome.zarr", blobs((18, 31, 29)), (1, 1, 1))
    return folder


def ran(source: Path, output: Path) -> Result:
    stages: list[Stage] = [cf.Label(), cf.Skeleton(prune_radii=0.0), cf.Measure(regions=str(source / "cells.ome.zarr"))]
    pipeline = cf.Pipeline(stages, input=cf.InputOptions(kind="mask"))
    return pipeline.plan(source / "in.ome.zarr", output, block=(18, 16, 16)).run(on="serial")


def in_small_pieces(patch: pytest.MonkeyPatch) -> None:
    """Pieces, slices and batches of a few rows, where they are of many."""
    patch.setattr(graph_pieces, "HELD_ROWS", 40)
    patch.setattr(graph_pieces, "_AT_ONCE", 11)
    patch.setattr(record_columns, "HELD_BYTES", 100)
    patch.setattr(record_columns, "_AT_ONCE", 64)
    patch.setattr(tables, "BATCH_ROWS", 7)


def test_files_and_numbers_are_the_same_in_pieces_of_any_size(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ran(source, tmp_path / "whole")
    in_small_pieces(monkeypatch)
    found = ran(source, tmp_path / "pieces")
    assert differences(found, expected) == []
    pieces, whole = [*found.graph_pieces()], [*expected.graph_parts]
    assert len(pieces) > 5 * len(whole)
    points, expected_points = (np.concatenate([p.curves["points_um"] for p in parts]) for parts in (pieces, whole))
    assert np.array_equal(points, expected_points)
    assert (expected.path / "graph/precomputed/info").is_file() and (expected.path / "graph/swc").is_dir()


def test_a_part_of_the_graph_reads_its_own_parts_alone(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = ran(source, tmp_path / "out")
    assert len(result.graph_parts) > 0
    read: list[str] = []

    class Spied(RecordFolder):
        def __getitem__(self, index: Any) -> Any:
            read.append(str(record_path(self.folder, index)))
            return super().__getitem__(index)

    monkeypatch.setattr(stored_tables, "RecordFolder", Spied)
    whole = Result(result.path)
    label = int(whole.nodes.object_id.iloc[-1])
    part = whole.graph_of(objects=label)
    assert len(set(read)) == len(read) == 1
    assert set(part.nodes) == set(whole.nodes[whole.nodes.object_id == label].node_id)
    assert "graph" not in whole.__dict__ and "branches" not in whole.__dict__


POINTS = 8_000


def ladder(points: int) -> dict[str, Any]:
    """One object of branches of 100 points from node to node, and a small one, as a unit leaves a part."""
    branches = points // 100
    node = np.arange(branches + 2)
    places = {f"{axis}_um": node * 1.5 + k for k, axis in enumerate("zyx")}
    label = np.full(branches + 2, 7, np.uint64)
    label[-1] = 9
    position = np.linspace(0, branches, 100 * branches)
    return {
        "nodes.node_id": node,
        "nodes.object_id": label,
        **{f"nodes.{name}": column for name, column in places.items()},
        "nodes.radius_um": np.full(len(node), 0.5),
        "branches.branch_id": node[:branches],
        "branches.object_id": label[:branches],
        "branches.node_a": node[:branches],
        "branches.node_b": node[1:-1],
        "curves.points_um": np.stack((position, position * 2, position * 3), axis=1),
        "curves.radius_um": position / 10,
        "curves.offsets": np.arange(branches + 1) * 100,
    }


@pytest.mark.thorough
def test_files_of_one_object_take_the_same_of_any_number_of_its_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_pieces, "HELD_ROWS", 2**10)
    monkeypatch.setattr(graph_pieces, "_AT_ONCE", 2**10)
    monkeypatch.setattr(record_columns, "HELD_BYTES", 2**10)
    monkeypatch.setattr(record_columns, "_AT_ONCE", 2**16)
    merged = {name: np.array([0, 0]) for name in ("node_start", "branch_start")}

    def written(points: int) -> int:
        folder = tmp_path / str(points)
        write_record(record_path(folder / "graph-parts", 0), ladder(points))
        parts = StoredParts(folder / "graph-parts", merged)

        def work() -> None:
            sliced = parts.sliced
            swc.write_swc(folder / "swc", sliced)
            graphs.write_graphml(folder / "skeleton.graphml", sliced)
            graphs.write_precomputed(folder / "precomputed", sliced, objects=2, largest=9)

        return peak_of(work)

    monkeypatch.setattr(swc, "_SWC_BYTES", 2**16)
    written(1000)
    few, many = written(POINTS), written(5 * POINTS)
    assert many < 1.25 * few
    monkeypatch.setattr(graph_pieces, "HELD_ROWS", 2**30)  # the part is held
    assert written(5 * POINTS) > 4 * many


def test_columns_of_a_record_are_its_arrays_and_damage_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_columns, "HELD_BYTES", 0)
    path = Path(str(record_path(tmp_path / "pass", 3)))
    arrays = {"a": np.arange(5000.0).reshape(-1, 2), "kind": np.array(["x", "long"]), "none": np.zeros((0, 3))}
    write_record(path, arrays)
    found = record_columns.record_columns(path)
    for name, array in read_record(path).items():
        assert found[name].dtype == array.dtype and len(found[name]) == len(array)
        for chosen in (slice(None), slice(1, 2), slice(2400, 9999), slice(3, 1)):
            assert np.array_equal(found[name][chosen], array[chosen])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(cf.errors.IntegrityError, match="cannot be read"):
        record_columns.record_columns(path)
    other = Path(str(record_path(tmp_path / "pass", 4)))
    write_record(path, arrays)
    path.rename(other)
    with pytest.raises(cf.errors.IntegrityError, match="it was written as"):
        record_columns.record_columns(other)


def test_totals_of_batches_are_those_of_whole_tables(source: Path, tmp_path: Path) -> None:
    from chunkflow.report.facts import RunFacts

    result = ran(source, tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        in_small_pieces(patch)
        found = RunFacts(result).numbers
    objects, branches, nodes = result.objects, result.branches, result.nodes
    assert found["objects"] == len(objects) > 7 and found["loops"] == objects.b1_filled.sum()
    assert found["free_ends"] == (nodes.kind == "end").sum()
    assert found["length_um"] == pytest.approx(branches.length_um.sum(), rel=1e-12)
    assert found["volume_um3"] == pytest.approx(objects.volume_um3.sum(), rel=1e-12)
