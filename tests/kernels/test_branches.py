"""Columns of branches and nodes against closed forms and slow formulas."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.draw import circle_perimeter

from chunkflow.kernels.branches import branch_columns, node_columns, polylines, tubes
from chunkflow.kernels.graph import SkeletonGraph, assemble
from chunkflow.kernels.pruning import prune

Triple = tuple[float, float, float]
UNIT = (1.0, 1.0, 1.0)


def pruned(
    mask: NDArray[np.bool_], d2: NDArray[np.int64] | int = 4, order: NDArray[np.int64] | None = None
) -> SkeletonGraph:
    index = np.flatnonzero(mask).astype(np.int64)
    distance = np.broadcast_to(d2, mask.shape).ravel()[index].astype(np.int64)
    if order is not None:
        index, distance = index[order], distance[order]
    graph = assemble(index, np.full(len(index), 5, np.uint64), distance, shape=mask.shape)
    return prune(graph, prune_radii=0.0, spacing_um=UNIT, unit_um=1.0)


def line(count: int, step: tuple[int, int, int]) -> NDArray[np.bool_]:
    mask = np.zeros((count + 1, count + 2, count + 3), np.bool_)
    for k in range(count):
        mask[k * step[0], k * step[1], k * step[2]] = True
    return mask


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 23])
@pytest.mark.parametrize("step", [(0, 0, 1), (1, 0, 0), (0, 1, 1), (1, 1, 1)])
def test_a_straight_line_has_its_length_whatever_its_direction_and_the_spacing(
    count: int, step: tuple[int, int, int]
) -> None:
    spacing = (0.3, 0.2, 0.1)
    branch = branch_columns(pruned(line(count, step)), spacing_um=spacing, unit_um=0.1)
    if count == 2:
        assert len(branch["length_um"]) == 0  # two voxels are one cluster, an isolated node
        return
    length = (count - 1) * np.sqrt(sum((s * d) ** 2 for s, d in zip(spacing, step, strict=True)))
    for name in ("length_um", "length_voxels_um", "chord_um"):
        assert branch[name] == pytest.approx([length], rel=1e-12)
    assert branch["tortuosity"] == pytest.approx([1.0], rel=1e-12)
    assert branch["radius_mean_um"] == pytest.approx([0.2])
    assert branch["radius_sd_um"] == pytest.approx([0.0], abs=1e-12)
    assert branch["length_to_tips_um"] == pytest.approx([length + 2 * 0.2], rel=1e-12)
    assert branch["kind"].tolist() == ["end-end"]


def test_a_circle_has_its_circumference_within_two_per_cent_after_smoothing_and_not_before() -> None:
    mask = np.zeros((1, 101, 101), np.bool_)
    mask[0][circle_perimeter(50, 50, 40)] = True
    branch = branch_columns(pruned(mask), spacing_um=UNIT, unit_um=1.0)
    circumference = 2 * np.pi * 40
    assert branch["length_um"] == pytest.approx([circumference], rel=0.02)
    assert branch["length_voxels_um"][0] > 1.04 * circumference
    assert branch["length_to_tips_um"] == branch["length_um"]
    assert branch["kind"].tolist() == ["cycle"]
    assert np.isnan(branch["tortuosity"]).all()


def test_smoothing_takes_the_mean_of_as_many_points_as_fit_up_to_five() -> None:
    rng = np.random.default_rng(3)
    graph = pruned(rng.random((9, 13, 11)) < 0.1)
    raw = polylines(graph, spacing_um=(0.5, 0.3, 0.2), unit_um=1.0)
    smooth = polylines(graph, spacing_um=(0.5, 0.3, 0.2), unit_um=1.0, smooth=True)
    columns = branch_columns(graph, spacing_um=(0.5, 0.3, 0.2), unit_um=1.0)
    assert len(graph.node_a) > 20
    for e in range(len(graph.node_a)):
        chain = raw.points_um[raw.offsets[e] : raw.offsets[e + 1]]
        expected = [
            chain[p - reach : p + reach + 1].mean(axis=0)
            for p in range(len(chain))
            for reach in [min(2, p, len(chain) - 1 - p)]
        ]
        found = smooth.points_um[smooth.offsets[e] : smooth.offsets[e + 1]]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        length = np.linalg.norm(np.diff(expected, axis=0), axis=1).sum()
        assert columns["length_um"][e] == pytest.approx(length, rel=1e-12)


def test_curves_run_from_node_to_node_through_the_chain() -> None:
    rng = np.random.default_rng(8)
    graph = pruned(rng.random((9, 13, 11)) < 0.12)
    spacing, translation = np.array([0.5, 0.3, 0.2]), np.array([10.0, 20.0, 30.0])
    curves = polylines(graph, spacing_um=tuple(spacing), unit_um=2.0, translation_um=tuple(translation))
    nodes = node_columns(graph, spacing_um=tuple(spacing), unit_um=2.0, translation_um=tuple(translation))
    position = np.stack([nodes["z_um"], nodes["y_um"], nodes["x_um"]], axis=1)
    np.testing.assert_array_equal(curves.points_um[curves.offsets[:-1]], position[graph.node_a])
    np.testing.assert_array_equal(curves.points_um[curves.offsets[1:] - 1], position[graph.node_b])
    np.testing.assert_array_equal(curves.radius_um, 4.0)
    assert (graph.nodes.voxels > 1).any()
    for e in range(len(graph.node_a)):
        curve = curves.points_um[curves.offsets[e] : curves.offsets[e + 1]]
        chain = graph.points[graph.offsets[e] : graph.offsets[e + 1]] * spacing + translation
        assert np.abs(np.diff(curve, axis=0)).max(axis=1).min() > 0
        assert any(np.array_equal(curve[k : len(curve) - m], chain) for k in (0, 1) for m in (0, 1))


def test_radius_columns_are_the_statistics_of_the_chain() -> None:
    rng = np.random.default_rng(4)
    mask = line(17, (0, 1, 1))
    d2 = rng.integers(1, 50, mask.shape)
    branch = branch_columns(pruned(mask, d2), spacing_um=UNIT, unit_um=0.5)
    radius = 0.5 * np.sqrt(d2[mask])
    for name, value in (("mean", radius.mean()), ("min", radius.min()), ("max", radius.max()), ("sd", radius.std())):
        assert branch[f"radius_{name}_um"] == pytest.approx([value])


def straight(count: int, radius: NDArray[np.float64], step: float) -> tuple[NDArray[np.float64], ...]:
    """One branch along a slanted line, `count` points `step` apart."""
    direction = np.array([2.0, -1.0, 2.0]) / 3
    points = np.arange(count)[:, None] * step * direction
    return points, radius, np.array([0, count])


def test_a_cylinder_has_the_surface_and_the_volume_of_a_cylinder() -> None:
    found = tubes(*straight(41, np.full(41, 0.7), 0.25))
    np.testing.assert_allclose(found, [[2 * np.pi * 0.7 * 10, np.pi * 0.49 * 10]], rtol=1e-12)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_a_cone_has_the_surface_and_the_volume_of_a_cone_from_any_number_of_points(count: int) -> None:
    height, base = 6.0, 2.5
    found = tubes(*straight(count, np.linspace(base, 0, count), height / (count - 1)))
    slant = np.hypot(height, base)
    np.testing.assert_allclose(found, [[np.pi * base * slant, np.pi * base**2 * height / 3]], rtol=1e-12)


def test_each_branch_has_its_own_truncated_cones() -> None:
    one, other = straight(3, np.array([3.0, 1.0, 2.0]), 1.0), straight(2, np.array([1.0, 4.0]), 4.0)
    found = tubes(np.concatenate((one[0], other[0])), np.concatenate((one[1], other[1])), np.array([0, 3, 5]))
    volumes = [np.pi / 3 * (9 + 3 + 1 + 1 + 2 + 4), np.pi / 3 * 4 * (1 + 4 + 16)]
    surfaces = [np.pi * (4 * np.sqrt(5) + 3 * np.sqrt(2)), np.pi * 5 * 5]
    np.testing.assert_allclose(found, np.stack((surfaces, volumes), axis=1), rtol=1e-12)


def test_tubes_run_along_the_smoothed_curve_with_the_radius_of_the_distance_map() -> None:
    rng = np.random.default_rng(11)
    mask = rng.random((9, 13, 11)) < 0.1
    graph = pruned(mask, rng.integers(1, 50, mask.shape))
    spacing = (0.5, 0.3, 0.2)
    curves = polylines(graph, spacing_um=spacing, unit_um=0.1, smooth=True)
    columns = branch_columns(graph, spacing_um=spacing, unit_um=0.1)
    assert len(graph.node_a) > 20
    for e in range(len(graph.node_a)):
        of_branch = slice(curves.offsets[e], curves.offsets[e + 1])
        r, points = curves.radius_um[of_branch], curves.points_um[of_branch]
        h = np.linalg.norm(np.diff(points, axis=0), axis=1)
        surface = np.sum(np.pi * (r[1:] + r[:-1]) * np.hypot(h, np.diff(r)))
        assert columns["tube_surface_um2"][e] == pytest.approx(surface, rel=1e-12)
        volume = np.sum(np.pi * h * (r[1:] ** 2 + r[1:] * r[:-1] + r[:-1] ** 2) / 3)
        assert columns["tube_volume_um3"][e] == pytest.approx(volume, rel=1e-12)


def test_kinds_tell_ends_junctions_cycles_and_isolated_nodes() -> None:
    mask = np.zeros((1, 24, 24), np.bool_)
    mask[0, 20, 20] = True  # isolated
    mask[0, [12, 13, 14, 13], [20, 19, 20, 21]] = True  # a ring
    mask[0, [1, 2, 2, 3, 3, 4, 4, 5], [4, 3, 5, 2, 6, 3, 5, 4]] = True  # a lollipop ...
    mask[0, 6:12, 4] = True  # ... its stick, which forks
    mask[0, [12, 13, 14], [3, 2, 1]] = True
    mask[0, [12, 13, 14], [5, 6, 7]] = True
    graph = pruned(mask)
    nodes = node_columns(graph, spacing_um=UNIT, unit_um=1.0)
    branches = branch_columns(graph, spacing_um=UNIT, unit_um=1.0)
    assert sorted(nodes["kind"].tolist()) == ["cycle", "end", "end", "isolated", "junction", "junction"]
    assert dict(zip(nodes["kind"].tolist(), nodes["degree"].tolist(), strict=True)) == {
        "cycle": 2,
        "end": 1,
        "isolated": 0,
        "junction": 3,
    }
    assert sorted(branches["kind"].tolist()) == [
        "cycle",
        "end-junction",
        "end-junction",
        "junction-junction",
        "junction-junction",
    ]


def test_columns_are_those_of_the_tables_and_ids_count_from_0() -> None:
    graph = pruned(np.random.default_rng(1).random((9, 13, 11)) < 0.1)
    nodes = node_columns(graph, spacing_um=UNIT, unit_um=1.0)
    branches = branch_columns(graph, spacing_um=UNIT, unit_um=1.0)
    assert list(nodes) == ["node_id", "object_id", "z_um", "y_um", "x_um", "degree", "radius_um", "kind"]
    assert list(branches) == [
        "branch_id",
        "object_id",
        "node_a",
        "node_b",
        "length_um",
        "length_to_tips_um",
        "length_voxels_um",
        "chord_um",
        "tortuosity",
        "radius_mean_um",
        "radius_min_um",
        "radius_max_um",
        "radius_sd_um",
        "tube_surface_um2",
        "tube_volume_um3",
        "kind",
    ]
    assert {len(column) for column in branches.values()} == {len(graph.node_a)}
    np.testing.assert_array_equal(nodes["node_id"], np.arange(len(graph.nodes.label)))
    order = np.lexsort((nodes["x_um"], nodes["y_um"], nodes["z_um"]))
    np.testing.assert_array_equal(order, np.arange(len(order)))
    keys = list(zip(branches["node_a"].tolist(), branches["node_b"].tolist(), strict=True))
    assert keys == sorted(keys)
    assert set(nodes["object_id"]) == set(branches["object_id"]) == {5}


def test_the_order_of_the_voxels_changes_no_bit_of_a_column() -> None:
    rng = np.random.default_rng(6)
    mask = rng.random((15, 17, 13)) < 0.12
    d2 = rng.integers(1, 99, mask.shape)
    order = rng.permutation(np.count_nonzero(mask))
    one, other = pruned(mask, d2), pruned(mask, d2, order)
    for columns in (branch_columns, node_columns):
        a = columns(one, spacing_um=(0.31, 0.13, 0.17), unit_um=0.1)
        b = columns(other, spacing_um=(0.31, 0.13, 0.17), unit_um=0.1)
        for name in a:
            assert a[name].tobytes() == b[name].tobytes(), name


def test_an_empty_graph_has_empty_columns() -> None:
    graph = pruned(np.zeros((2, 3, 4), np.bool_))
    assert all(len(column) == 0 for column in branch_columns(graph, spacing_um=UNIT, unit_um=1.0).values())
    assert all(len(column) == 0 for column in node_columns(graph, spacing_um=UNIT, unit_um=1.0).values())
