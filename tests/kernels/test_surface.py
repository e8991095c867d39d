"""Surfaces within two per cent of balls and tori, contacts face by face, both the same from any blocks."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import tifffile
from skimage.measure import marching_cubes, mesh_surface_area

from chunkflow.kernels.surface import (
    CLASSES,
    Contacts,
    Crossings,
    block_contacts,
    block_crossings,
    contact_columns,
    direction_weights,
    merge_contacts,
    merge_crossings,
    sphericity,
    surface_areas,
)

ISOTROPIC = (1.0, 1.0, 1.0)
VOXEL_UM = (0.2, 0.1, 0.09)
NEIGHBOURS = [d for d in product((-1, 0, 1), repeat=3) if d != (0, 0, 0)]


def places(size_um: float, voxel_um: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """(Z, Y, X, 3) positions around a centre at a random place within a voxel."""
    axes = [(np.arange(-int(size_um / v) - 2, int(size_um / v) + 3) + rng.random()) * v for v in voxel_um]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def ball(radius: float, voxel_um: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    return (places(radius, voxel_um, rng) ** 2).sum(axis=-1) < radius**2


def torus(
    large: float, small: float, voxel_um: tuple[float, ...], normal: tuple, rng: np.random.Generator
) -> np.ndarray:
    at = places(large + small, voxel_um, rng)
    height = at @ (np.asarray(normal) / np.linalg.norm(normal))
    around = np.sqrt((at**2).sum(axis=-1) - height**2)
    return (around - large) ** 2 + height**2 < small**2


def area(mask: np.ndarray, voxel_um: tuple[float, ...]) -> float:
    return float(surface_areas(block_crossings(np.pad(mask, 1).astype(np.uint8)).crossings, voxel_um)[0])


def random_boxes(rng: np.random.Generator, shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    cuts = [[0, *sorted(rng.choice(np.arange(1, n), min(3, n - 1), replace=False).tolist()), n] for n in shape]
    return list(product(*([slice(a, b) for a, b in pairwise(axis)] for axis in cuts)))


def touching_labels(rng: np.random.Generator, shape: tuple[int, int, int] = (9, 11, 8)) -> np.ndarray:
    coarse = rng.choice([0, 1, 7, 300, 2**33], [-(-n // 2) for n in shape]).astype(np.uint64)
    return coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)[tuple(slice(n) for n in shape)]


def with_border(labels: np.ndarray, box: tuple[slice, ...]) -> np.ndarray:
    return np.pad(labels, 1)[tuple(slice(s.start, s.stop + 2) for s in box)]


@pytest.mark.parametrize("radius", [5, 8, 12, 20])
def test_the_surface_of_a_ball_is_within_two_per_cent(radius: int) -> None:
    rng = np.random.default_rng(radius)
    for _ in range(4):
        mask = ball(radius, ISOTROPIC, rng)
        found = area(mask, ISOTROPIC)
        assert abs(found / (4 * np.pi * radius**2) - 1) < 0.02
        assert abs(sphericity(np.array([float(mask.sum())]), np.array([found]))[0] - 1) < 0.03


@pytest.mark.parametrize("normal", [(1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 2, 3)])
@pytest.mark.parametrize("small", [5, 9])
def test_the_surface_of_a_torus_is_within_two_per_cent(small: int, normal: tuple[int, int, int]) -> None:
    mask = torus(2.5 * small, small, ISOTROPIC, normal, np.random.default_rng(small))
    assert abs(area(mask, ISOTROPIC) / (4 * np.pi**2 * 2.5 * small**2) - 1) < 0.02


@pytest.mark.parametrize("voxel_um", [(2.0, 1.0, 1.0), (0.4, 0.2, 0.18), (3.0, 1.0, 1.2)])
def test_surfaces_are_within_two_per_cent_where_voxels_are_long(voxel_um: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    radius = 6 * max(voxel_um)
    assert abs(area(ball(radius, voxel_um, rng), voxel_um) / (4 * np.pi * radius**2) - 1) < 0.02
    for normal in ((1, 0, 0), (0, 0, 1), (1, 1, 2)):
        mask = torus(2.5 * radius, radius, voxel_um, normal, rng)
        assert abs(area(mask, voxel_um) / (4 * np.pi**2 * 2.5 * radius**2) - 1) < 0.022


@pytest.mark.parametrize("voxel_um", [ISOTROPIC, VOXEL_UM, (1.0, 2.0, 3.0), (7.5, 1.0, 1.0)])
def test_weights_average_to_one_over_planes_of_all_orientations(voxel_um: tuple[float, float, float]) -> None:
    weights = direction_weights(voxel_um)
    steps = np.array([d for d in NEIGHBOURS if d > (0, 0, 0)])
    of = [CLASSES.index(tuple(abs(int(c)) for c in d)) for d in steps]
    assert (weights >= 0).all() and abs(weights[of].sum() - 1) < 1e-12
    normal = np.random.default_rng(0).standard_normal((200000, 3))
    normal /= np.linalg.norm(normal, axis=1)[:, None]
    unit = steps * voxel_um / np.linalg.norm(steps * voxel_um, axis=1)[:, None]
    found = 2 * np.abs(normal @ unit.T) @ weights[of]
    assert abs(found.mean() - 1) < 2e-3
    if voxel_um == ISOTROPIC:
        assert found.min() > 0.92 and found.max() < 1.03


def test_a_smooth_surface_agrees_with_that_of_marching_cubes() -> None:
    at = places(1.0, (0.06, 0.05, 0.04), np.random.default_rng(3))
    field = (at[..., 0] / 0.9) ** 2 + (at[..., 1] / 0.5) ** 2 + (at[..., 2] / 0.7) ** 2
    vertices, faces, _, _ = marching_cubes(field, 1.0, spacing=(0.06, 0.05, 0.04))
    assert abs(area(field < 1, (0.06, 0.05, 0.04)) / mesh_surface_area(vertices, faces) - 1) < 0.02


def test_crossings_are_the_pairs_of_neighbours_counted_one_by_one() -> None:
    labels = touching_labels(np.random.default_rng(4))
    found = block_crossings(np.pad(labels, 1))
    padded = np.pad(labels, 1)
    for label, row in zip(found.label, found.crossings, strict=True):
        expected = np.zeros(7, np.int64)
        for z, y, x in np.argwhere(padded == label):
            for d in NEIGHBOURS:
                expected[CLASSES.index(tuple(map(abs, d)))] += padded[z + d[0], y + d[1], x + d[2]] != label
        assert row.tolist() == expected.tolist()
    assert found.label.tolist() == np.unique(labels[labels > 0]).tolist()


def test_contacts_are_the_faces_counted_one_by_one() -> None:
    labels = touching_labels(np.random.default_rng(5))
    expected: dict[tuple[int, int], list[int]] = {}
    for axis in range(3):
        a, b = np.moveaxis(labels, axis, 0)[:-1].ravel(), np.moveaxis(labels, axis, 0)[1:].ravel()
        for low, high in zip(np.minimum(a, b).tolist(), np.maximum(a, b).tolist(), strict=True):
            if low and low != high:
                expected.setdefault((low, high), [0, 0, 0])[axis] += 1
    found = block_contacts(np.pad(labels, 1))
    assert [tuple(pair) for pair in found.pair.tolist()] == sorted(expected)
    assert found.faces.tolist() == [expected[pair] for pair in sorted(expected)]
    columns = contact_columns(found, VOXEL_UM)
    z, y, x = VOXEL_UM
    np.testing.assert_allclose(columns["area_um2"], found.faces @ np.array([y * x, z * x, z * y]), rtol=1e-14)
    assert columns["faces"].tolist() == found.faces.sum(axis=1).tolist()


def test_any_blocks_in_any_order_give_the_same_counts_as_the_whole() -> None:
    rng = np.random.default_rng(6)
    for shape in ((9, 11, 8), (1, 13, 7), (6, 1, 1)):
        labels = touching_labels(rng, shape)
        surface, contacts = block_crossings(np.pad(labels, 1)), block_contacts(np.pad(labels, 1))
        for _ in range(4):
            boxes = random_boxes(rng, shape)
            rng.shuffle(boxes)
            of_blocks = merge_crossings([block_crossings(with_border(labels, box)) for box in boxes])
            touched = merge_contacts([block_contacts(with_border(labels, box)) for box in boxes])
            assert np.array_equal(of_blocks.label, surface.label)
            assert np.array_equal(of_blocks.crossings, surface.crossings)
            assert np.array_equal(touched.pair, contacts.pair) and np.array_equal(touched.faces, contacts.faces)
            assert touched.pair.dtype == np.uint64 and touched.faces.dtype == np.int64


def test_contacts_of_a_dense_segmentation_are_its_faces() -> None:
    path = Path(__file__).parents[2].parent / "shared" / "data" / "em_segmentation_256x512x512.tif"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    labels = np.stack([tifffile.imread(path, key=z)[340:420, 270:360] for z in range(60, 100)])
    keys, faces = [], []
    for axis in range(3):
        a, b = np.moveaxis(labels, axis, 0)[:-1].ravel(), np.moveaxis(labels, axis, 0)[1:].ravel()
        touch = (a != b) & (a > 0) & (b > 0)
        low, high = np.minimum(a, b)[touch], np.maximum(a, b)[touch]
        keys.append(low.astype(np.uint64) << np.uint64(32) | high)
        faces.append(np.full(touch.sum(), axis))
    key, where = np.unique(np.concatenate(keys), return_inverse=True)
    expected = np.zeros((len(key), 3), np.int64)
    np.add.at(expected, (where, np.concatenate(faces)), 1)
    found = merge_contacts(
        [block_contacts(with_border(labels, box)) for box in random_boxes(np.random.default_rng(7), labels.shape)]
    )
    assert len(key) > 20
    assert np.array_equal(found.pair[:, 0] << np.uint64(32) | found.pair[:, 1], key)
    assert np.array_equal(found.faces, expected)


def test_blocks_without_objects_or_contacts_have_no_rows() -> None:
    empty = np.zeros((4, 5, 6), np.uint16)
    assert len(merge_crossings([block_crossings(empty)] * 2).label) == 0
    assert merge_contacts([block_contacts(empty)] * 2).pair.shape == (0, 2)
    beside = empty.copy()
    beside[0, 2, 2] = 3  # in the layer around the core
    assert len(block_crossings(beside).label) == 0
    none = Contacts(np.zeros((0, 2), np.uint64), np.zeros((0, 3), np.int64))
    assert {len(column) for column in contact_columns(none, VOXEL_UM).values()} == {0}
    assert len(surface_areas(Crossings(np.zeros(0, np.uint64), np.zeros((0, 7), np.int64)).crossings, VOXEL_UM)) == 0
