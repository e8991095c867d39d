"""Surfaces without cracks, close to the volume of their voxels, the same from any blocks."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import ndimage

from chunkflow.kernels import mesh
from chunkflow.kernels.mesh import MARGIN, Triangles, Vertices, block_triangles, merge_triangles, merge_vertices
from chunkflow.kernels.mesh_table import triangle_table

ISOTROPIC = (1.0, 1.0, 1.0)
VOXEL_UM = (0.2, 0.1, 0.09)
LONG = (3.0, 1.0, 1.0)


def whole(labels: np.ndarray) -> tuple[Triangles, Vertices]:
    return block_triangles(np.pad(labels, 1 + MARGIN), (-1, -1, -1), labels.shape)


def surface(labels: np.ndarray, label: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Vertices x, y, z and triangles of one object."""
    triangles, vertices = whole(labels)
    edges = vertices.edge[vertices.label == label]
    numbers = np.searchsorted(edges, triangles.edge[triangles.label == label])
    return vertices.place[vertices.label == label][:, ::-1], numbers


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
def test_balls_and_tori_of_three_voxels_are_within_two_per_cent_of_their_voxels(voxel_um: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    for radius in (3.0, 4.0, 7.3):
        size = radius * max(voxel_um)
        for draw, characteristic in ((ball, 2), (torus, 0)):
            if draw is torus and radius > 5:
                continue
            mask = draw(size, voxel_um, rng)
            xyz, triangles = surface(mask)
            assert_watertight(triangles)
            assert euler(triangles) == characteristic
            enclosed = volume_of(xyz * np.array(voxel_um)[::-1], triangles)
            assert enclosed == pytest.approx(mask.sum() * np.prod(voxel_um), rel=0.02)


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
        assert volume_of(xyz, triangles) > 0
        assert (xyz.max(axis=0) <= np.array(shape[::-1])).all() and (xyz.min(axis=0) >= -1).all()


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
        parts.append(block_triangles(voxels, start, labels.shape))
    return merge_triangles([part[0] for part in parts]), merge_vertices([part[1] for part in parts])


@pytest.mark.parametrize("block", [(1, 1, 30), (3, 4, 5), (11, 2, 7), (64, 64, 64)])
def test_any_blocks_give_the_surface_of_the_whole(block: tuple[int, int, int]) -> None:
    labels = random_labels(3, (9, 11, 13))
    labels[2:7, 3:8, 4:11] = 9
    triangles, vertices = merge_triangles([whole(labels)[0]]), merge_vertices([whole(labels)[1]])
    found = blocked(labels, block)
    for name in ("label", "cell", "edge"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(triangles, name))
    for name in ("label", "edge", "place"):
        np.testing.assert_array_equal(getattr(found[1], name), getattr(vertices, name))


def test_edges_are_numbered_plane_after_plane() -> None:
    labels = random_labels(4, (6, 5, 7), objects=2)
    _, vertices = whole(labels)
    for z in range(6):
        first, next_row = mesh.first_edge_of_plane(z, labels.shape), (2 * 5 + 3) * (2 * 7 + 3)
        in_plane = (vertices.edge >= first) & (vertices.edge < first + next_row)
        np.testing.assert_array_equal(in_plane, vertices.place[:, 0] == z)
