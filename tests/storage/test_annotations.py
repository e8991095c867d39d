"""Nodes as precomputed annotations: every point once in its cell, by its id, and among those of its object."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chunkflow.storage import annotations
from chunkflow.storage.annotations import KINDS, write_nodes

COUNT = 3000


def table(start: int, stop: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    everything = {
        "node_id": np.arange(COUNT),
        "object_id": np.sort(rng.choice(np.arange(1, 900, 3), COUNT)).astype(np.uint64),
        **{f"{axis}_um": rng.uniform(0, side, COUNT) for axis, side in zip("zyx", (8, 40, 60), strict=True)},
        "degree": rng.integers(0, 5, COUNT),
        "radius_um": rng.uniform(0.1, 0.9, COUNT),
        "kind": rng.choice(np.array(KINDS, object), COUNT),
    }
    return {name: values[start:stop] for name, values in everything.items()}


def record(folder: Path, sharding: dict, key: int) -> bytes:
    """One record of a sharded index, by the specification: shard index, minishard index, content."""
    assert (sharding["hash"], sharding["minishard_index_encoding"], sharding["data_encoding"]) == (
        "identity",
        "raw",
        "raw",
    )
    shifted = key >> sharding["preshift_bits"]
    minishard = shifted & ((1 << sharding["minishard_bits"]) - 1)
    shard = (shifted >> sharding["minishard_bits"]) & ((1 << sharding["shard_bits"]) - 1)
    content = (folder / f"{shard:x}.shard").read_bytes()
    data = content[16 << sharding["minishard_bits"] :]
    start, stop = struct.unpack_from("<2Q", content, 16 * minishard)
    index = np.frombuffer(data[start:stop], "<u8").reshape(3, -1)
    ids = np.cumsum(index[0])
    (at,) = np.flatnonzero(ids == key)
    begin = int(index[1][: at + 1].sum() + index[2][:at].sum())
    return data[begin : begin + int(index[2][at])]


def points(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Encoded points, 20 bytes each, and their ids."""
    (count,) = struct.unpack_from("<Q", content)
    rows = np.frombuffer(content[8 : 8 + 20 * count], annotations._POINT)
    return rows, np.frombuffer(content[8 + 20 * count :], "<u8")


@pytest.fixture(scope="module", autouse=True)
def small_cells() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotations, "PER_CELL", 100)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    write_nodes(folder, [table(0, 1201), table(1201, COUNT)])
    return folder


def test_every_node_lies_in_one_cell_that_it_belongs_to(folder: Path) -> None:
    info = json.loads((folder / "info").read_text())
    (spatial,) = info["spatial"]
    truth = table(0, COUNT)
    seen = []
    for file in (folder / "cells").iterdir():
        rows, ids = points(file.read_bytes())
        cell = np.array(file.name.split("_"), int)
        assert (cell < spatial["grid_shape"]).all()
        low = np.array(info["lower_bound"]) + cell * spatial["chunk_size"]
        assert (rows["xyz"] >= low - 0.01).all()
        assert (rows["xyz"] <= low + spatial["chunk_size"] + 0.01).all()
        assert len(ids) <= spatial["limit"]
        assert (np.diff(ids.astype(int)) < 0).any()  # in random order: a part of them stands for all
        expected = np.stack([truth[f"{axis}_um"][ids] for axis in "xyz"], axis=1) * 1000
        np.testing.assert_allclose(rows["xyz"], expected, rtol=1e-6)
        assert [KINDS[kind] for kind in rows["kind"]] == truth["kind"][ids].tolist()
        np.testing.assert_array_equal(rows["degree"], truth["degree"][ids])
        seen += ids.tolist()
    assert sorted(seen) == list(range(COUNT))


def test_a_node_is_found_by_its_id_with_its_object(folder: Path) -> None:
    info = json.loads((folder / "info").read_text())
    truth = table(0, COUNT)
    for node in (0, 1, 1200, 1201, COUNT - 1):
        content = record(folder / "by_id", info["by_id"]["sharding"], node)
        assert len(content) == 20 + 4 + 8
        assert struct.unpack("<f", content[12:16])[0] == pytest.approx(truth["radius_um"][node] * 1000, rel=1e-6)
        assert struct.unpack("<IQ", content[20:]) == (1, truth["object_id"][node])


def test_the_nodes_of_an_object_are_found_by_it(folder: Path) -> None:
    (relation,) = json.loads((folder / "info").read_text())["relationships"]
    truth = table(0, COUNT)
    for label in np.unique(truth["object_id"])[::37].tolist():
        _, ids = points(record(folder / relation["key"], relation["sharding"], label))
        assert ids.tolist() == np.flatnonzero(truth["object_id"] == label).tolist()


def test_parts_change_no_byte(folder: Path, tmp_path: Path) -> None:
    write_nodes(tmp_path, [table(0, COUNT)])
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert all((folder / name).read_bytes() == (tmp_path / name).read_bytes() for name in files)


def test_a_graph_without_nodes_has_empty_annotations(tmp_path: Path) -> None:
    write_nodes(tmp_path, [table(0, 0)])
    info = json.loads((tmp_path / "info").read_text())
    assert info["spatial"][0]["grid_shape"] == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["info"]
