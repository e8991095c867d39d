"""Graph files, read back by networkx, a reader of SWC and a decoder written from the description of the shards."""

from __future__ import annotations

import json
import struct
import tracemalloc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from numpy.typing import NDArray

from chunkflow.kernels.branches import branch_columns, node_columns, polylines
from chunkflow.kernels.graph import assemble, loops_per_object
from chunkflow.kernels.pruning import prune
from chunkflow.storage import graphs
from chunkflow.storage.graphs import write_graphml, write_precomputed
from chunkflow.storage.swc import write_swc

Columns = dict[str, NDArray[Any]]
Curves = dict[str, NDArray[Any]]

# Object 3 is a line with a loop at its end; object 8 two nodes joined three times; object 2^40 one voxel.
NODES: Columns = {
    "node_id": np.arange(6),
    "object_id": np.array([3, 3, 3, 8, 8, 2**40], np.uint64),
    "z_um": np.array([0.0, 1.0, 1.0, 5.0, 5.0, 9.0]),
    "y_um": np.array([0.1, 0.2, 1.0 / 3.0, 1.0, 3.0, 9.0]),
    "x_um": np.array([0.0, 2.0, 4.0, 1.0, 1.0, 9.0]),
    "degree": np.array([1, 4, 1, 3, 3, 0]),
    "radius_um": np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
    "kind": np.array(["end", "junction", "end", "junction", "junction", "isolated"]),
}
BRANCHES: Columns = {
    "branch_id": np.arange(6),
    "object_id": np.array([3, 3, 3, 8, 8, 8], np.uint64),
    "node_a": np.array([0, 1, 1, 3, 3, 3]),
    "node_b": np.array([1, 1, 2, 4, 4, 4]),
    "length_um": np.array([2.0, 3.0, 2.0, 2.0, 2.5, 2.5]),
    "tortuosity": np.array([1.0, np.nan, 1.0, 1.0, 1.25, 1.25]),
    "kind": np.array(["end-junction", "junction-junction", "end-junction", *["junction-junction"] * 3]),
}
INNER: list[list[tuple[float, float, float]]] = [
    [(0.5, 0.15, 1.0)],
    [(2.0, 0.2, 2.0), (2.0, 0.2, 3.0), (1.0, 0.2, 3.0)],
    [(1.0, 0.3, 3.0)],
    [],
    [(5.0, 2.0, 2.0), (5.0, 2.5, 2.0)],
    [(5.0, 2.0, 0.0)],
]


def position(node: int) -> tuple[float, float, float]:
    return NODES["z_um"][node], NODES["y_um"][node], NODES["x_um"][node]


def curves() -> Curves:
    lines = [
        [position(a), *inner, position(b)]
        for a, inner, b in zip(BRANCHES["node_a"], INNER, BRANCHES["node_b"], strict=True)
    ]
    points = np.array([point for line in lines for point in line])
    return {
        "points_um": points,
        "radius_um": np.arange(1, len(points) + 1) / 10,
        "offsets": np.cumsum([0, *map(len, lines)]),
    }


@dataclass(frozen=True)
class Part:
    """Some objects, as the writers want them."""

    nodes: Columns
    branches: Columns
    curves: Curves


def parts(*cuts: int) -> list[Part]:
    """The graph in parts that begin at these nodes, which are the first of their objects."""
    found = []
    for low, high in pairwise((0, *cuts, 6)):
        rows = (BRANCHES["node_a"] >= low) & (BRANCHES["node_a"] < high)
        given = curves()
        lengths = np.diff(given["offsets"])
        points = np.repeat(rows, lengths)
        drawn = {name: given[name][points] for name in ("points_um", "radius_um")}
        drawn["offsets"] = np.cumsum([0, *lengths[rows]])
        nodes = {name: column[low:high] for name, column in NODES.items()}
        found.append(Part(nodes, {name: column[rows] for name, column in BRANCHES.items()}, drawn))
    return found


LABELS = np.array([3, 8, 2**40], np.uint64)


def test_graphml_comes_back_from_networkx_with_every_column(tmp_path: Path) -> None:
    write_graphml(tmp_path / "skeleton.graphml", parts(3, 5))
    network = nx.read_graphml(tmp_path / "skeleton.graphml", node_type=int, force_multigraph=True)
    assert isinstance(network, nx.MultiGraph)
    assert not network.is_directed()
    assert sorted(network) == list(range(6))
    for name, column in NODES.items():
        assert [network.nodes[node][name] for node in range(6)] == column.tolist()
    edges = sorted(network.edges(keys=True, data=True), key=lambda edge: edge[2])
    assert [key for _, _, key, _ in edges] == list(range(6))
    assert [{a, b} for a, b, _, _ in edges] == [{0, 1}, {1}, {1, 2}, {3, 4}, {3, 4}, {3, 4}]
    for name, column in BRANCHES.items():
        np.testing.assert_array_equal([data[name] for _, _, _, data in edges], column)


def test_graphml_of_a_simple_graph_is_a_multigraph_too_where_it_is_asked_for(tmp_path: Path) -> None:
    one = {name: column[:1] for name, column in BRANCHES.items()}
    write_graphml(tmp_path / "a.graphml", [Part(NODES, one, {})])
    network = nx.read_graphml(tmp_path / "a.graphml", node_type=int, force_multigraph=True)
    assert list(network.edges(keys=True)) == [(0, 1, 0)]


def test_graphml_declares_ids_by_the_largest_also_where_the_last_part_is_empty(tmp_path: Path) -> None:
    nothing = Part(*({k: v[:0] for k, v in table.items()} for table in (NODES, BRANCHES)), {})
    nodes = NODES | {"object_id": np.array([5] * 5 + [2**63 + 5], np.uint64)}
    whole = Part(nodes, BRANCHES, {})
    write_graphml(tmp_path / "whole.graphml", [whole])
    write_graphml(tmp_path / "parts.graphml", [whole, nothing, nothing])
    assert 'for="node" attr.name="object_id" attr.type="string"' in (tmp_path / "whole.graphml").read_text()
    assert (tmp_path / "parts.graphml").read_bytes() == (tmp_path / "whole.graphml").read_bytes()


def test_graphml_of_nothing_loads(tmp_path: Path) -> None:
    nothing = ({k: v[:0] for k, v in table.items()} for table in (NODES, BRANCHES))
    write_graphml(tmp_path / "a.graphml", [Part(*nothing, {})])
    assert len(nx.read_graphml(tmp_path / "a.graphml")) == 0


def test_graphml_of_many_rows_has_each_once(tmp_path: Path) -> None:
    count = 2 * graphs._ROWS + 7
    nodes = {"node_id": np.arange(count), "z_um": np.arange(count) / 7}
    branches = {"branch_id": np.arange(count - 1), "node_a": np.arange(count - 1), "node_b": np.arange(1, count)}
    write_graphml(tmp_path / "a.graphml", [Part(nodes, branches, {})])
    network = nx.read_graphml(tmp_path / "a.graphml", node_type=int, force_multigraph=True)
    assert [network.nodes[k]["z_um"] for k in range(count)] == nodes["z_um"].tolist()
    assert sorted(key for _, _, key in network.edges(keys=True)) == list(range(count - 1))


def read_swc(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    lines = path.read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    return comments, np.array([[float(v) for v in line.split()] for line in lines[len(comments) :]])


def test_swc_has_one_tree_per_object_with_parents_before_children(tmp_path: Path) -> None:
    write_swc(tmp_path, parts(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1099511627776.swc", "3.swc", "8.swc"]
    for name, samples in (("3", 8), ("8", 5), ("1099511627776", 1)):
        _, rows = read_swc(tmp_path / f"{name}.swc")
        assert rows[:, 0].tolist() == list(range(1, samples + 1))
        assert (rows[:, 1] == 0).all()
        assert rows[0, 6] == -1
        assert ((rows[1:, 6] < rows[1:, 0]) & (rows[1:, 6] >= 1)).all()


def test_swc_samples_are_x_y_z_and_the_radius_in_um(tmp_path: Path) -> None:
    given = curves()
    write_swc(tmp_path, [Part(NODES, BRANCHES, given)])
    _, rows = read_swc(tmp_path / "3.swc")
    expected = [(*position(node)[::-1], NODES["radius_um"][node]) for node in range(3)]
    for branch in range(3):
        inner = slice(given["offsets"][branch] + 1, given["offsets"][branch + 1] - 1)
        expected += [(*p[::-1], r) for p, r in zip(given["points_um"][inner], given["radius_um"][inner], strict=True)]
    np.testing.assert_allclose(sorted(rows[:, 2:6].tolist()), sorted(expected), atol=1e-6)


def one_large_object(branches: int, points: int) -> Part:
    """A comb: node k and node k + 1 are joined by branch k."""
    along = np.linspace(0, 1, branches * points)
    steps = np.arange(branches)
    nodes = {name: np.linspace(0, 1, branches + 1) for name in ("z_um", "y_um", "x_um", "radius_um")}
    nodes |= {"node_id": np.arange(branches + 1), "object_id": np.ones(branches + 1, np.uint64)}
    rows = {"branch_id": steps, "object_id": np.ones(branches, np.uint64), "node_a": steps, "node_b": steps + 1}
    offsets = np.arange(branches + 1) * points
    curves = {"points_um": np.stack([along] * 3, axis=1), "radius_um": along, "offsets": offsets}
    return Part(nodes, rows, curves)


def test_writers_hold_a_tenth_of_a_kilobyte_per_point_beside_the_part(tmp_path: Path) -> None:
    branches, points = 1000, 50
    part = one_large_object(branches, points)
    writers: dict[str, Callable[[], None]] = {
        "graphml": lambda: write_graphml(tmp_path / "g.graphml", [part]),
        "swc": lambda: write_swc(tmp_path / "swc", [part]),
        "precomputed": lambda: write_precomputed(tmp_path / "precomputed", [part], objects=1, largest=1),
    }
    for name, write in writers.items():
        tracemalloc.start()
        write()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100 * branches * points, name


class Loaded(Sequence[Part]):
    """Parts that are made when asked for, and how many of them are held."""

    def __init__(self, count: int) -> None:
        self.count, self.most = count, 0
        self._made: list[weakref.ref[Part]] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        if index >= self.count:
            raise IndexError(index)
        part = one_large_object(2, 3)
        self._made.append(weakref.ref(part))
        self.most = max(self.most, sum(made() is not None for made in self._made))
        return part


def test_graphml_holds_the_part_it_writes_and_the_one_before_at_most(tmp_path: Path) -> None:
    loaded = Loaded(5)
    write_graphml(tmp_path / "g.graphml", loaded)
    assert loaded.most <= 2  # a loop lets go of a part when it has the next


def test_swc_names_the_branches_it_cuts_and_keeps_their_points(tmp_path: Path) -> None:
    write_swc(tmp_path, parts(3))
    for name, cuts in (("3", ["branch 1 before node 1"]), ("8", ["branch 4 before node 4", "branch 5 before node 4"])):
        comments, rows = read_swc(tmp_path / f"{name}.swc")
        assert [line for line in comments if "# cut:" in line] == [f"# cut: {cut}" for cut in cuts]
        assert f"# loops cut: {len(cuts)} (SWC holds trees)" in comments
        joins = np.linalg.norm(rows[1:, 2:5] - rows[rows[1:, 6].astype(int) - 1, 2:5], axis=1)
        assert joins.max() < 2.3
    comments, _ = read_swc(tmp_path / "1099511627776.swc")
    assert "# loops cut: 0 (SWC holds trees)" in comments


def test_swc_of_an_object_in_pieces_has_a_root_for_each(tmp_path: Path) -> None:
    nodes = NODES | {"object_id": np.full(6, 5, np.uint64)}
    write_swc(tmp_path, [Part(nodes, BRANCHES | {"object_id": np.full(6, 5, np.uint64)}, curves())])
    _, rows = read_swc(tmp_path / "5.swc")
    assert np.count_nonzero(rows[:, 6] == -1) == 3
    assert len(rows) == 14


def read_precomputed(folder: Path, segment: int) -> tuple[NDArray[np.float32], NDArray[np.uint32], NDArray[np.float32]]:
    """Vertices, edges and radii of a segment, found as a viewer does: shard, minishard, index, record."""
    sharding = json.loads((folder / "info").read_text())["sharding"]
    assert (sharding["hash"], sharding["minishard_index_encoding"], sharding["data_encoding"]) == (
        "identity",
        "raw",
        "raw",
    )
    hashed = segment >> sharding["preshift_bits"]
    minishards = 1 << sharding["minishard_bits"]
    shard = (hashed // minishards) % (1 << sharding["shard_bits"])
    digits = -(-sharding["shard_bits"] // 4)
    content = (folder / f"{shard:0{max(1, digits)}x}.shard").read_bytes()
    base = 16 * minishards
    start, stop = struct.unpack_from("<QQ", content, 16 * (hashed % minishards))
    index = np.frombuffer(content[base + start : base + stop], "<u8").reshape(3, -1)
    at, identifier = base, 0
    for step, gap, size in index.T.tolist():
        identifier += step
        at += gap
        if identifier == segment:
            record = content[at : at + size]
            break
        at += size
    else:
        raise KeyError(segment)
    vertices, edges = struct.unpack_from("<II", record)
    assert len(record) == 8 + 12 * vertices + 8 * edges + 4 * vertices
    return (
        np.frombuffer(record, "<f4", 3 * vertices, 8).reshape(-1, 3),
        np.frombuffer(record, "<u4", 2 * edges, 8 + 12 * vertices).reshape(-1, 2),
        np.frombuffer(record, "<f4", vertices, 8 + 12 * vertices + 8 * edges),
    )


def segments(points: NDArray[Any], pairs: NDArray[Any]) -> set[frozenset[tuple[float, ...]]]:
    return {frozenset((tuple(points[a].tolist()), tuple(points[b].tolist()))) for a, b in pairs}


def test_precomputed_skeletons_have_every_vertex_in_nm_and_every_segment(tmp_path: Path) -> None:
    given = curves()
    write_precomputed(tmp_path, parts(3, 5), objects=3, largest=2**40)
    info = json.loads((tmp_path / "info").read_text())
    assert info["@type"] == "neuroglancer_skeletons"
    assert info["transform"] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
    assert info["vertex_attributes"] == [{"id": "radius", "data_type": "float32", "num_components": 1}]
    xyz_nm = (given["points_um"][:, ::-1] * 1000).astype(np.float32)
    for segment, branches, vertices in ((3, range(3), 8), (8, range(3, 6), 5)):
        found, pairs, radius = read_precomputed(tmp_path, segment)
        assert len(found) == len(radius) == vertices
        steps = np.concatenate([np.arange(given["offsets"][b], given["offsets"][b + 1] - 1) for b in branches])
        assert segments(found, pairs) == segments(xyz_nm, np.stack([steps, steps + 1], axis=1))
        radius_of = {tuple(p): r for p, r in zip(xyz_nm.tolist(), given["radius_um"], strict=True)}
        radius_of |= {
            tuple((np.array(position(n)[::-1]) * 1000).astype("f4").tolist()): NODES["radius_um"][n] for n in range(6)
        }
        np.testing.assert_allclose(radius, [1000 * radius_of[tuple(p)] for p in found.tolist()], rtol=1e-6)
    found, pairs, radius = read_precomputed(tmp_path, 2**40)
    assert (found.tolist(), pairs.tolist(), radius.tolist()) == ([[9000, 9000, 9000]], [], [1000])


def test_twenty_thousand_skeletons_are_each_found_in_their_shard_and_no_other_id_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    ids = np.sort(rng.choice(np.arange(1, 60_000), 20_000, replace=False)).astype(np.uint64)
    count = len(ids)
    nodes = {
        "node_id": np.arange(count),
        "object_id": ids,
        "z_um": np.full(count, 0.5),
        "y_um": np.full(count, 0.25),
        "x_um": ids / 1000.0,
        "radius_um": np.ones(count),
    }
    branches = {name: np.zeros(0, int) for name in ("branch_id", "node_a", "node_b")}
    branches["object_id"] = np.zeros(0, np.uint64)
    empty = {"points_um": np.zeros((0, 3)), "radius_um": np.zeros(0), "offsets": np.zeros(1, int)}
    halves = ({name: column[half] for name, column in nodes.items()} for half in (slice(7001), slice(7001, None)))
    write_precomputed(
        tmp_path, [Part(half, branches, empty) for half in halves], objects=len(ids), largest=int(ids[-1])
    )
    sharding = json.loads((tmp_path / "info").read_text())["sharding"]
    assert (sharding["minishard_bits"], sharding["shard_bits"]) == (3, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.shard", "1.shard", "2.shard", "3.shard", "info"]
    for segment in rng.choice(ids, 60).tolist():
        assert read_precomputed(tmp_path, segment)[0].tolist() == [[segment, 250, 500]]
    absent = np.setdiff1d(np.arange(1, 60_000), ids)
    for segment in rng.choice(absent, 20).tolist():
        with pytest.raises(KeyError):
            read_precomputed(tmp_path, segment)


def test_files_of_a_noisy_graph_keep_or_name_every_loop(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((14, 15, 16)) < 0.3) * rng.integers(1, 4, (14, 15, 16)).astype(np.uint64)
    index = np.flatnonzero(labels)
    raw = assemble(index, labels.ravel()[index], np.ones(len(index), np.int64), shape=labels.shape)
    graph = prune(raw, prune_radii=0.0, spacing_um=(1.0, 1.0, 1.0), unit_um=1.0)
    nodes = node_columns(graph, spacing_um=(1.0, 1.0, 1.0), unit_um=1.0)
    branches = branch_columns(graph, spacing_um=(1.0, 1.0, 1.0), unit_um=1.0)
    lines = polylines(graph, spacing_um=(1.0, 1.0, 1.0), unit_um=1.0)
    drawn = {"points_um": lines.points_um, "radius_um": lines.radius_um, "offsets": lines.offsets}
    write_swc(tmp_path / "swc", [Part(nodes, branches, drawn)])
    known = np.unique(nodes["object_id"])
    part = Part(nodes, branches, drawn)
    write_precomputed(tmp_path / "precomputed", [part], objects=len(known), largest=int(known[-1]))
    for label, b0, b1 in zip(*loops_per_object(graph), strict=True):
        comments, rows = read_swc(tmp_path / "swc" / f"{label}.swc")
        assert f"# loops cut: {b1} (SWC holds trees)" in comments
        assert np.count_nonzero(rows[:, 6] == -1) == b0
        vertices, pairs, _ = read_precomputed(tmp_path / "precomputed", int(label))
        assert len(pairs) - len(vertices) + b0 == b1 > 0
        assert len(vertices) == len(rows)
        joined = rows[rows[:, 6] > 0][:, [0, 6]].astype(int) - 1
        of_swc = segments((1000 * rows[:, 2:5]).round(), joined)
        assert of_swc < segments(vertices.round(), pairs)


def test_parts_change_no_byte_and_no_partial_file_is_left(tmp_path: Path) -> None:
    for folder, given in (("a", parts()), ("b", parts(3, 5))):
        write_graphml(tmp_path / folder / "skeleton.graphml", given)
        write_swc(tmp_path / folder / "swc", given)
        write_precomputed(tmp_path / folder / "precomputed", given, objects=3, largest=2**40)
    files = {
        path.relative_to(tmp_path / "a"): path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()
    }
    others = {
        path.relative_to(tmp_path / "b"): path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()
    }
    assert files == others
    assert len(files) == 1 + 3 + 2


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "skeleton.graphml"
    path.write_text("old")
    with pytest.raises(KeyError):
        write_graphml(path, [Part({"id": np.arange(3)}, BRANCHES, {})])
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
