"""Surfaces without cracks, close to the volume of their voxels, the same from any blocks."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from scipy import ndimage

from chunkflow.kernels import mesh
from chunkflow.kernels.mesh import MARGIN, Triangles, Vertices, block_surfaces, merge_triangles, merge_vertices
from chunkflow.kernels.mesh_table import triangle_table
from chunkflow.kernels.mesh_volume import amount_of, place_vertices

ISOTROPIC = (1.0, 1.0, 1.0)
VOXEL_UM = (0.2, 0.1, 0.09)
LONG = (3.0, 1.0, 1.0)


def whole(labels: np.ndarray) -> tuple[Triangles, Vertices]:
    found = block_surfaces(np.pad(labels, 1 + MARGIN), (-1, -1, -1), labels.shape)
    assert found.voxels == {label: (labels == label).sum() for label in np.unique(labels).tolist() if label}
    return found.triangles, found.vertices


def surface(labels: np.ndarray, label: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Vertices x, y, z and triangles of one object."""
    triangles, vertices = whole(labels)
    edges, reach = vertices.edge[vertices.label == label], vertices.reach[vertices.label == label]
    numbers = np.searchsorted(edges, triangles.edge[triangles.label == label])
    amount = amount_of(edges, reach, numbers, labels.shape, int((labels == label).sum()))
    return place_vertices(edges, reach, labels.shape, amount)[:, ::-1], numbers


def volume_of(xyz: np.ndarray, triangles: np.ndarray) -> float:
    a, b, c = (xyz[triangles[:, k]] for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def edges_of(triangles: np.ndarray) -> np.ndarray:
    """(3 N, 2) directed edges."""
    return np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])


def assert_watertight(triangles: np.ndarray) -> None:
    """Every edge lies in exactly two triangles, once in each direction."""
    edges = edges_of(triangles)
    _, counts = np.unique(np.sort(edges, axis=1), axis=0, return_counts=True)
    assert (counts == 2).all()
    assert len(np.unique(edges, axis=0)) == len(edges)


def euler(triangles: np.ndarray) -> int:
    edges = np.unique(np.sort(edges_of(triangles), axis=1), axis=0)
    return len(np.unique(triangles)) - len(edges) + len(triangles)


def places(size_um: float, voxel_um: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    axes = [(np.arange(-int(size_um / v) - 2, int(size_um / v) + 3) + rng.random()) * v for v in voxel_um]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def ball(radius: float, voxel_um: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    return ((places(radius, voxel_um, rng) ** 2).sum(axis=-1) < radius**2).astype(np.uint8)


def torus(tube: float, voxel_um: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    z, y, x = np.moveaxis(places(4 * tube, voxel_um, rng), -1, 0)
    return ((np.hypot(y, x) - 3 * tube) ** 2 + z**2 < tube**2).astype(np.uint8)


def random_labels(seed: int, shape: tuple[int, int, int], objects: int = 4) -> np.ndarray:
    """Noise at the scale of voxels and objects that touch: every case of a cell occurs."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, objects, shape).astype(np.uint32)


def test_the_table_has_a_loop_around_each_part_of_a_cell_that_faces_join() -> None:
    counts, _ = triangle_table()
    assert counts[0] == counts[255] == 0
    assert counts[1] == 1  # one corner
    assert counts[0b0011] == 2  # an edge
    assert counts[0b1111] == 2  # a face
    assert counts[0b0110] == 4  # two corners across a face: joined
    assert counts[0b10000001] == 2  # two corners across the cell: apart
    assert counts.max() == 5


def test_every_case_of_a_cell_closes_with_its_neighbours() -> None:
    labels = random_labels(1, (24, 25, 26), objects=2)
    seen = np.zeros(labels[1:, 1:, 1:].shape, np.int64)
    for corner, (dz, dy, dx) in enumerate(product((0, 1), repeat=3)):
        z, y, x = (slice(d, n - 1 + d) for d, n in zip((dz, dy, dx), labels.shape, strict=True))
        seen |= labels[z, y, x].astype(np.int64) << corner
    assert len(np.unique(seen)) == 256
    _, triangles = surface(labels)
    assert_watertight(triangles)


@pytest.mark.parametrize("seed", range(3))
def test_objects_that_touch_are_each_closed(seed: int) -> None:
    labels = ndimage.zoom(random_labels(seed, (5, 6, 7)), 3, order=0)
    for label in (1, 2, 3):
        assert_watertight(surface(labels, label)[1])


@pytest.mark.parametrize("voxel_um", [ISOTROPIC, VOXEL_UM, LONG])
def test_balls_and_tori_hold_the_volume_of_their_voxels(voxel_um: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    for radius in (1.0, 1.5, 2.0, 3.0, 7.3):
        size = radius * max(voxel_um)
        for draw, characteristic in ((ball, 2), (torus, 0)):
            if draw is torus and not 2 < radius < 5:
                continue
            mask = draw(size, voxel_um, rng)
            xyz, triangles = surface(mask)
            assert_watertight(triangles)
            assert euler(triangles) == characteristic
            enclosed = volume_of(xyz * np.array(voxel_um)[::-1], triangles)
            assert enclosed == pytest.approx(mask.sum() * np.prod(voxel_um), rel=1e-4)


def test_the_surface_of_a_ball_is_smooth() -> None:
    xyz, triangles = surface(ball(12.0, ISOTROPIC, np.random.default_rng(1)))
    a, b, c = (xyz[triangles[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2
    assert area == pytest.approx(4 * np.pi * 12**2, rel=0.04)  # 8 % too much with vertices half-way
    centre = xyz.mean(axis=0)
    assert np.abs(np.linalg.norm(xyz - centre, axis=1) - 12).max() < 0.6


def test_a_single_voxel_and_an_object_at_the_border_are_closed() -> None:
    for shape in ((1, 1, 1), (4, 5, 6)):
        xyz, triangles = surface(np.ones(shape, np.uint8))
        assert_watertight(triangles)
        assert euler(triangles) == 2
        assert volume_of(xyz, triangles) == pytest.approx(np.prod(shape), rel=1e-6)
        assert (xyz.max(axis=0) <= np.array(shape[::-1])).all() and (xyz.min(axis=0) >= -1).all()


def network(seed: int, shape: tuple[int, int, int] = (24, 25, 26)) -> np.ndarray:
    """Lines of voxels, one wide, from a walk along the axes and diagonals."""
    rng = np.random.default_rng(seed)
    drawn, at = np.zeros(shape, np.uint8), np.array(shape) // 2
    for _ in range(60):
        step = rng.integers(-1, 2, 3)
        for _ in range(rng.integers(2, 9)):
            drawn[tuple(at)] = 1
            at = np.clip(at + step, 0, np.array(shape) - 1)
    return drawn


THIN = {
    "a tube of one voxel": np.ones((1, 1, 31), np.uint8),
    "a tube of two voxels": np.ones((2, 30, 2), np.uint8),
    "a plate of one voxel": np.ones((1, 17, 19), np.uint8),
    "a plate across": np.ones((17, 19, 1), np.uint8),
    "a diagonal": np.eye(15, dtype=np.uint8)[None],
    "two voxels that meet at a corner": np.eye(2, dtype=np.uint8)[:, :, None] * np.eye(2, dtype=np.uint8)[:, None, :],
    "a hole": 1 - np.pad(np.ones((1, 1, 1), np.uint8), 2),
    "tubes": network(0),
    "more tubes": network(1),
    "noise": random_labels(7, (11, 12, 13), objects=2),
    "dense noise": 1 - (random_labels(8, (11, 12, 13), objects=5) == 1).astype(np.uint8),
}


@pytest.mark.parametrize("name", THIN)
def test_what_is_thin_is_closed_and_holds_the_volume_of_its_voxels(name: str) -> None:
    xyz, triangles = surface(THIN[name])
    assert_watertight(triangles)
    assert volume_of(xyz, triangles) == pytest.approx(THIN[name].sum(), rel=1e-6)
    a, b, c = (xyz[triangles[:, k]] for k in range(3))
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).min() > 1e-3


def test_each_of_the_objects_that_touch_holds_its_volume() -> None:
    labels = random_labels(9, (8, 9, 10))
    for label in (1, 2, 3):
        xyz, triangles = surface(labels, label)
        assert volume_of(xyz, triangles) == pytest.approx((labels == label).sum(), rel=1e-6)


def test_every_case_holds_more_than_its_voxels_with_all_vertices_out_and_less_with_all_in() -> None:
    # a lattice of one case, whose copies are far apart, is that case and others: so all sets of 2 x 2 x 2 voxels
    for case in range(1, 256):
        mask = np.array([case >> corner & 1 for corner in range(8)], np.uint8).reshape(2, 2, 2)
        triangles, vertices = whole(mask)
        numbers = np.searchsorted(vertices.edge, triangles.edge)
        inner, outer = (
            volume_of(place_vertices(vertices.edge, vertices.reach, mask.shape, amount)[:, ::-1], numbers)
            for amount in (-1.0, 1.0)
        )
        assert inner < mask.sum() < outer


def crosses(p: np.ndarray, q: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """(N,) whether the lines p q pass through the insides of the triangles a b c."""
    normal = np.cross(b - a, c - a)
    before, behind = ((normal * (end - a)).sum(axis=1) for end in (p, q))
    part = np.divide(before, before - behind, out=np.zeros_like(before), where=before != behind)
    at = p + part[:, None] * (q - p)
    sides = [(np.cross(v - u, at - u) * normal).sum(axis=1) for u, v in ((a, b), (b, c), (c, a))]
    return (before * behind < -1e-12) & (np.min(sides, axis=0) > 1e-9)


def test_triangles_of_a_cell_do_not_pass_through_each_other_wherever_their_vertices_lie() -> None:
    counts, table = triangle_table()
    rng = np.random.default_rng(0)
    parts = np.concatenate([rng.choice([1 / 16, 15 / 16], (60, 24)), rng.uniform(1 / 16, 15 / 16, (20, 24))])
    for case in range(1, 255):
        places = {}
        for edge in {int(edge) for edge in table[case, : counts[case]].ravel()}:
            corner, axis = divmod(edge, 3)
            places[edge] = np.tile([corner >> 2, corner >> 1 & 1, corner & 1], (80, 1)).astype(float)
            places[edge][:, axis] = parts[:, edge]
        for k, m in product(range(counts[case]), repeat=2):
            for first, second in ((0, 1), (1, 2), (2, 0)):
                line = [places[int(table[case, k, end])] for end in (first, second)]
                assert k == m or not crosses(*line, *(places[int(edge)] for edge in table[case, m])).any()


def test_no_triangle_vanishes() -> None:
    xyz, triangles = surface(random_labels(2, (12, 13, 14), objects=2))
    a, b, c = (xyz[triangles[:, k]] for k in range(3))
    assert np.linalg.norm(np.cross(b - a, c - a), axis=1).min() > 1e-3


def blocked(labels: np.ndarray, block: tuple[int, int, int]) -> tuple[Triangles, Vertices]:
    padded = np.pad(labels, 1 + MARGIN)
    parts = []
    for start in product(*(range(-1, n, step) for n, step in zip(labels.shape, block, strict=True))):
        stop = [min(a + step, n) for a, step, n in zip(start, block, labels.shape, strict=True)]
        # index 0 of the padded array is voxel -1 - MARGIN; the last corner of a block is voxel stop
        voxels = padded[tuple(slice(a + 1, b + 2 + 2 * MARGIN) for a, b in zip(start, stop, strict=True))]
        parts.append(block_surfaces(voxels, start, labels.shape))
    counts = sum((Counter(part.voxels) for part in parts), Counter())
    assert counts == {label: (labels == label).sum() for label in np.unique(labels).tolist() if label}
    return merge_triangles([part.triangles for part in parts]), merge_vertices([part.vertices for part in parts])


@pytest.mark.parametrize("block", [(1, 1, 30), (3, 4, 5), (11, 2, 7), (64, 64, 64)])
def test_any_blocks_give_the_surface_of_the_whole(block: tuple[int, int, int]) -> None:
    labels = random_labels(3, (9, 11, 13))
    labels[2:7, 3:8, 4:11] = 9
    triangles, vertices = merge_triangles([whole(labels)[0]]), merge_vertices([whole(labels)[1]])
    found = blocked(labels, block)
    for name in ("label", "cell", "edge"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(triangles, name))
    for name in ("label", "edge", "reach"):
        np.testing.assert_array_equal(getattr(found[1], name), getattr(vertices, name))


def test_edges_are_numbered_plane_after_plane() -> None:
    labels = random_labels(4, (6, 5, 7), objects=2)
    _, vertices = whole(labels)
    for z in range(6):
        first, next_row = mesh.first_edge_of_plane(z, labels.shape), (2 * 5 + 3) * (2 * 7 + 3)
        in_plane = (vertices.edge >= first) & (vertices.edge < first + next_row)
        place = place_vertices(vertices.edge, vertices.reach, labels.shape)
        np.testing.assert_array_equal(in_plane, place[:, 0] == z)
