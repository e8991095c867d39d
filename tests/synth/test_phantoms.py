"""The designed truth of a phantom against its voxels and its centrelines, by other people's counting."""

from __future__ import annotations

import tracemalloc
from math import pi
from typing import Any

import networkx as nx
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import euler_number

from chunkflow.errors import UsageError
from chunkflow.synth.phantoms import (
    Phantom,
    ball,
    bernoulli,
    mitochondria,
    noise_blobs,
    plate,
    torus,
)

CONFOCAL_UM = (0.2, 0.08, 0.08)
FULL = np.ones((3, 3, 3), np.bool_)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return mitochondria((53, 131, 127), CONFOCAL_UM, 5)


def betti(mask: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Components (26), independent loops and cavities (6) of a mask."""
    padded = np.pad(mask, 1)
    b0 = ndimage.label(padded, FULL)[1]
    b2 = ndimage.label(~padded)[1] - 1
    return b0, b0 + b2 - int(euler_number(padded, connectivity=3)), b2


def design_graph(phantom: Phantom, index: int) -> nx.Graph[tuple[float, ...]]:
    """The samples of an object's centrelines; a branch starts on a sample of the curve that it leaves."""
    graph: nx.Graph[tuple[float, ...]] = nx.Graph()
    for curve in phantom.centrelines_um[index]:
        nx.add_path(graph, [tuple(point) for point in curve.round(9)])
    return graph


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("shape", "voxel_um"),
    [((53, 131, 127), CONFOCAL_UM), ((67, 71, 73), (0.1, 0.1, 0.1)), ((29, 91, 83), (0.3, 0.1, 0.1))],
)
def test_the_mask_has_as_many_objects_and_loops_as_the_design_and_no_cavity(
    shape: tuple[int, int, int], voxel_um: tuple[float, float, float], seed: int
) -> None:
    phantom = mitochondria(shape, voxel_um, seed, density=0.12)
    assert betti(phantom.labels > 0) == (phantom.objects, phantom.loops, 0)


def test_the_seeds_together_hold_loops_rings_and_junctions() -> None:
    phantoms = [mitochondria((53, 131, 127), CONFOCAL_UM, seed) for seed in range(8)]
    assert sum(p.loops for p in phantoms) >= 4  # which seeds have them depends on the kind of processor
    assert any((p.object_nodes == 1).any() for p in phantoms)
    assert all((p.object_nodes > 4).any() for p in phantoms)


def test_ids_are_those_of_scipy_label(phantom: Phantom) -> None:
    expected, count = ndimage.label(phantom.labels > 0, FULL)
    assert phantom.objects == count
    np.testing.assert_array_equal(phantom.labels, expected)
    assert phantom.labels.dtype == np.uint16


def test_every_object_has_the_loops_and_the_volume_that_its_entry_says(phantom: Phantom) -> None:
    for index, box in enumerate(ndimage.find_objects(phantom.labels)):
        mask = phantom.labels[box] == index + 1
        assert betti(mask) == (1, phantom.object_loops[index], 0)
        assert phantom.object_volume_um3[index] == pytest.approx(mask.sum() * 0.2 * 0.08 * 0.08)


def test_nodes_loops_and_lengths_are_those_of_the_centrelines(phantom: Phantom) -> None:
    for index in range(phantom.objects):
        graph = design_graph(phantom, index)
        nodes = sum(degree != 2 for _, degree in graph.degree)
        length_um = sum(float(np.linalg.norm(np.subtract(a, b))) for a, b in graph.edges)
        assert nx.is_connected(graph)
        assert phantom.object_nodes[index] == max(nodes, 1)
        assert phantom.object_loops[index] == graph.number_of_edges() - graph.number_of_nodes() + 1
        assert phantom.object_length_um[index] == pytest.approx(length_um)
    assert phantom.length_um == pytest.approx(phantom.object_length_um.sum())


def test_centrelines_run_inside_their_objects(phantom: Phantom) -> None:
    for index, curves in enumerate(phantom.centrelines_um):
        nearest = np.rint(np.concatenate(curves) / CONFOCAL_UM).astype(int)
        assert (phantom.labels[tuple(nearest.T)] == index + 1).all()


def test_volume_lies_between_those_of_the_thinnest_and_the_thickest_tube(phantom: Phantom) -> None:
    thin, thick = pi * 0.15**2 * phantom.object_length_um, pi * 0.22**2 * (phantom.object_length_um + 0.44)
    assert (phantom.object_volume_um3 > 0.9 * thin).all()
    assert (phantom.object_volume_um3 < 1.1 * thick).all()


def test_objects_keep_the_gap_from_each_other_and_the_margin_from_the_border(phantom: Phantom) -> None:
    voxels = np.argwhere(phantom.labels > 0) * CONFOCAL_UM
    ids = phantom.labels[phantom.labels > 0]
    nearest = min(cKDTree(voxels[ids != i]).query(voxels[ids == i])[0].min() for i in range(1, phantom.objects + 1))
    assert nearest >= 0.59
    last = (np.array(phantom.labels.shape) - 1) * CONFOCAL_UM
    assert voxels.min() >= 0.3
    assert (last - voxels).min() >= 0.3 - 1e-9


def test_parts_of_one_object_touch_only_at_nodes(phantom: Phantom) -> None:
    """Voxel distance against the path through the object: no short cut through a gap that closed."""
    for index in range(phantom.objects):
        graph = design_graph(phantom, index)
        for a, b in graph.edges:
            graph.edges[a, b]["um"] = float(np.linalg.norm(np.subtract(a, b)))
        names = list(graph)
        near = cKDTree(np.array(names)).query_pairs(0.5, output_type="ndarray")
        paths = dict(nx.all_pairs_dijkstra_path_length(graph, cutoff=1.2, weight="um"))
        assert all(names[j] in paths[names[i]] for i, j in near)


def test_a_seed_gives_the_same_phantom_again_and_another_seed_another_one() -> None:
    first, again, other = (mitochondria((41, 67, 71), CONFOCAL_UM, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.length_um == again.length_um
    assert (first.labels != other.labels).any()


def test_a_small_volume_holds_at_least_one_tube() -> None:
    for seed in range(10):
        assert mitochondria((24, 40, 48), CONFOCAL_UM, seed).objects >= 1


def test_density_sets_the_length_and_objects_the_count() -> None:
    volume_um3 = 53 * 131 * 127 * 0.2 * 0.08 * 0.08
    sparse, dense = (mitochondria((53, 131, 127), CONFOCAL_UM, 0, density=d) for d in (0.05, 0.15))
    assert 0.05 * volume_um3 <= sparse.length_um <= 0.05 * volume_um3 + 60
    assert 0.15 * volume_um3 <= dense.length_um <= 0.15 * volume_um3 + 60
    assert mitochondria((53, 131, 127), CONFOCAL_UM, 0, objects=3).objects == 3


def test_memory_is_the_labels_and_little_more() -> None:
    mitochondria((24, 40, 48), CONFOCAL_UM, 0)
    tracemalloc.start()
    phantom = mitochondria((128, 256, 256), (0.1, 0.1, 0.1), 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * phantom.labels.nbytes


@pytest.mark.parametrize(
    ("shape", "voxel_um"), [((8, 8, 8), CONFOCAL_UM), ((1, 256, 256), CONFOCAL_UM), ((12, 14, 15), CONFOCAL_UM)]
)
def test_a_volume_too_small_is_refused_and_the_shape_named_instead_works(
    shape: tuple[int, int, int], voxel_um: tuple[float, float, float]
) -> None:
    with pytest.raises(UsageError, match=r"no tube network finds room .* A shape of \(20, 50, 50\) takes one"):
        mitochondria(shape, voxel_um, 0)
    for seed in range(10):
        assert mitochondria((20, 50, 50), voxel_um, seed).objects >= 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shape": (64, 0, 64)}, "not three positive"),
        ({"voxel_um": (0.2, 0.08, -0.08)}, "not three positive"),
        ({"voxel_um": (1.0, 1.0, 1.0)}, "diagonal of at most 0.44 um"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"density": 0.0}, "density 0.0"),
        ({"objects": 0}, "at least one"),
        ({"objects": 50}, "of 50 tube networks find room"),
        ({"radius_um": (0.2, 0.1)}, "not a positive range"),
        ({"radius_um": (0.2, 0.9)}, "cannot bend"),
        ({"gap_um": (1.0, 0.6, -1.0)}, "at least 0"),
    ],
)
def test_parameters_without_a_sense_are_refused_with_the_value(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"shape": (32, 64, 64), "voxel_um": CONFOCAL_UM, "seed": 0}
    with pytest.raises(UsageError, match=message):
        mitochondria(**(arguments | changed))


def test_a_ball_has_its_volume_and_no_loop() -> None:
    mask = ball((31, 33, 32), 12.3)
    assert mask.sum() == pytest.approx(4 / 3 * pi * 12.3**3, rel=0.01)
    assert betti(mask) == (1, 0, 0)


def test_a_torus_has_its_volume_and_one_loop() -> None:
    mask = torus((15, 51, 53), 17.0, 5.2)
    assert mask.sum() == pytest.approx(2 * pi**2 * 17.0 * 5.2**2, rel=0.02)
    assert betti(mask) == (1, 1, 0)


def test_a_plate_fills_its_planes_alone() -> None:
    mask = plate((11, 7, 9), 3)
    assert mask[4:7].all()
    assert mask.sum() == 3 * 7 * 9


def test_noise_masks_have_their_fraction_and_are_repeatable() -> None:
    shape = (37, 41, 43)
    assert noise_blobs(shape, 1, 1.5).mean() == pytest.approx(0.5, abs=0.05)
    assert bernoulli(shape, 0.3, 1).mean() == pytest.approx(0.3, abs=0.01)
    np.testing.assert_array_equal(noise_blobs(shape, 1, 1.5), noise_blobs(shape, 1, 1.5))
    assert (bernoulli(shape, 0.3, 1) != bernoulli(shape, 0.3, 2)).any()
    assert betti(noise_blobs(shape, 1, 1.5))[1] > 0
