"""Sums per object: the same bits from any blocks, and equal to numpy on the whole volume."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest

from chunkflow.kernels.limbs import intensity_power
from chunkflow.kernels.measure import (
    PRODUCTS,
    ObjectSums,
    axis_columns,
    largest_values,
    merge_largest,
    merge_sums,
    object_columns,
    object_sums,
)

VOXEL_UM = (0.2, 0.056, 0.07)


def random_boxes(rng: np.random.Generator, shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    cuts = [[0, *sorted(rng.choice(np.arange(1, n), min(3, n - 1), replace=False).tolist()), n] for n in shape]
    return list(product(*([slice(a, b) for a, b in pairwise(axis)] for axis in cuts)))


def by_blocks(
    labels: np.ndarray, image: np.ndarray | None, boxes: list[tuple[slice, ...]], power: int
) -> list[ObjectSums]:
    return [
        object_sums(
            labels[box],
            (box[0].start, box[1].start, box[2].start),
            None if image is None else image[box],
            scale_power=power,
        )
        for box in boxes
    ]


def assert_equal_bits(a: ObjectSums, b: ObjectSums) -> None:
    for field in fields(ObjectSums):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert x.dtype == y.dtype and x.shape == y.shape, field.name
        assert x.tobytes() == y.tobytes(), field.name


def sample(rng: np.random.Generator, dtype: type, shape: tuple[int, int, int] = (9, 11, 8)) -> np.ndarray:
    if dtype is bool:
        return rng.random(shape) < 0.5
    if np.issubdtype(dtype, np.integer):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 4, shape)).astype(dtype)


DTYPES = [bool, np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64, np.float16, np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_blocks_in_any_order_give_the_same_bits_as_the_whole(dtype: type) -> None:
    rng = np.random.default_rng(1)
    labels = rng.choice([0, 1, 7, 2**33], (9, 11, 8)).astype(np.uint64)
    image = sample(rng, dtype)
    power = intensity_power(float(np.abs(image.astype(np.float64)).max()), dtype)
    whole = object_sums(labels, (0, 0, 0), image, scale_power=power)
    for _ in range(6):
        parts = by_blocks(labels, image, random_boxes(rng, labels.shape), power)
        rng.shuffle(parts)
        middle = int(rng.integers(1, len(parts)))
        assert_equal_bits(merge_sums(parts), whole)
        assert_equal_bits(merge_sums([merge_sums(parts[middle:]), merge_sums(parts[:middle])]), whole)


@pytest.mark.parametrize("dtype", DTYPES)
def test_limbs_hold_the_exact_integer_sums(dtype: type) -> None:
    image = sample(np.random.default_rng(6), dtype)
    power = intensity_power(float(np.abs(image.astype(np.float64)).max()), dtype)
    sums = object_sums(np.ones(image.shape, np.uint8), (3, 4, 5), image, scale_power=power)
    fixed = [round(Fraction(v.item()) * Fraction(2) ** power) for v in image.ravel()]
    for limbs, exact in (
        (sums.intensity_sum[0], sum(fixed)),
        (sums.intensity_squares[0], sum(q * q for q in fixed)),
        (sums.moment[0, 2], sum(range(5, 5 + image.shape[2])) * image.shape[0] * image.shape[1]),
    ):
        assert sum(int(limb) << 32 * k for k, limb in enumerate(limbs)) == exact
        assert ((limbs[:-1] >= 0) & (limbs[:-1] < 2**32)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_equal_exact_fractions_rounded_once(dtype: type) -> None:
    rng = np.random.default_rng(2)
    labels = rng.choice([0, 2, 5], (9, 11, 8)).astype(np.uint8)
    image = sample(rng, dtype)
    power = intensity_power(float(np.abs(image.astype(np.float64)).max()), dtype)
    sums = object_sums(labels, (0, 0, 0), image, scale_power=power)
    columns = object_columns(sums, labels.shape, VOXEL_UM, scale_power=power)
    for k, label in enumerate((2, 5)):
        values = [Fraction(v.item()) for v in image[labels == label]]
        if np.issubdtype(dtype, np.floating):
            values = [Fraction(round(v * Fraction(2) ** power)) / Fraction(2) ** power for v in values]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        assert columns["intensity_mean"][k] == float(mean)
        assert columns["intensity_sd"][k] == pytest.approx(np.sqrt(float(variance)), rel=1e-15)
        chosen = image[labels == label].astype(np.float64)
        assert columns["intensity_min"][k] == chosen.min() and columns["intensity_max"][k] == chosen.max()


def test_columns_agree_with_numpy_on_the_whole_volume() -> None:
    rng = np.random.default_rng(3)
    labels = rng.choice([0, 0, 3, 4], (10, 7, 12)).astype(np.uint32)
    labels[0] = labels[:, -1] = labels[:, :, 0] = 0
    labels[2, 3, 0] = 4
    image = rng.random(labels.shape, np.float32)
    power = intensity_power(float(image.max()), image.dtype)
    merged = merge_sums(by_blocks(labels, image, random_boxes(rng, labels.shape), power))
    columns = object_columns(merged, labels.shape, VOXEL_UM, translation_um=(1.0, -2.0, 0.5), scale_power=power)
    assert columns["object_id"].tolist() == [3, 4] and columns["object_id"].dtype == np.uint64
    for k, label in enumerate((3, 4)):
        voxels = np.argwhere(labels == label)
        values = image[labels == label].astype(np.float64)
        assert columns["volume_vox"][k] == len(voxels)
        np.testing.assert_allclose(columns["volume_um3"][k], len(voxels) * np.prod(VOXEL_UM), rtol=1e-14)
        for axis, name in enumerate("zyx"):
            assert columns[f"bbox_{name}_min"][k] == voxels[:, axis].min()
            assert columns[f"bbox_{name}_max"][k] == voxels[:, axis].max() + 1
            faces = (voxels[:, axis] * VOXEL_UM[axis] + (1.0, -2.0, 0.5)[axis])[:, None] + [[-0.5, 0.5]] * np.array(
                VOXEL_UM[axis]
            )
            assert columns[f"bbox_{name}_min_um"][k] == pytest.approx(faces.min(), abs=1e-12)
            assert columns[f"bbox_{name}_max_um"][k] == pytest.approx(faces.max(), abs=1e-12)
            expected = voxels[:, axis].mean() * VOXEL_UM[axis] + (1.0, -2.0, 0.5)[axis]
            np.testing.assert_allclose(columns[f"centroid_{name}_um"][k], expected, rtol=1e-14)
        np.testing.assert_allclose(columns["intensity_mean"][k], values.mean(), rtol=1e-13)
        np.testing.assert_allclose(columns["intensity_sd"][k], values.std(), rtol=1e-13)
    # label 3 was kept off z = 0, y = 6 and x = 0 but not off the other sides
    sides = [(np.argwhere(labels == v) == 0) | (np.argwhere(labels == v) == np.array(labels.shape) - 1) for v in (3, 4)]
    assert columns["touches_border"].tolist() == [bool(side.any()) for side in sides]


def test_an_object_touches_the_border_where_its_box_does_and_flat_axes_have_none() -> None:
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[1:4, 1:5, 1:6] = 1
    labels[4, 2, 2] = 2
    columns = object_columns(object_sums(labels, (0, 0, 0), None), labels.shape, VOXEL_UM)
    assert columns["touches_border"].tolist() == [False, True]
    flat = labels[2:3]
    columns = object_columns(object_sums(flat, (0, 0, 0), None), flat.shape, VOXEL_UM)
    assert columns["touches_border"].tolist() == [False]


def test_float32_values_are_represented_exactly_down_to_a_2_38th_of_the_largest() -> None:
    image = np.array([[[1.0 + 2**-23, 3 * 2.0**-39, 0.1]]], np.float32)
    power = intensity_power(float(image.max()), image.dtype)
    sums = object_sums(np.ones(image.shape, np.uint8), (0, 0, 0), image, scale_power=power)
    columns = object_columns(sums, image.shape, VOXEL_UM, scale_power=power)
    assert columns["intensity_mean"][0] == float(sum(Fraction(float(v)) for v in image.ravel()) / 3)


@pytest.mark.parametrize("largest", [0.0, 1e-300, 5e-324, 1.0, 2.0**62, 1.7e308])
def test_any_finite_range_of_floats_fits(largest: float) -> None:
    image = np.array([[[largest, -largest, largest / 2]]])
    power = intensity_power(largest, np.float64)
    sums = object_sums(np.ones(image.shape, np.uint8), (0, 0, 0), image, scale_power=power)
    columns = object_columns(sums, image.shape, VOXEL_UM, scale_power=power)
    np.testing.assert_allclose(columns["intensity_mean"][0], largest / 6, rtol=1e-15, atol=5e-308)
    assert columns["intensity_max"][0] == largest


def test_the_power_keeps_every_value_below_two_to_the_62() -> None:
    for largest in (1.0, np.nextafter(1.0, 0), 0.3, 65535.0, 3.4e38):
        power = intensity_power(largest, np.float32)
        assert 2**61 <= Fraction(largest) * Fraction(2) ** power < 2**62
    assert intensity_power(65535, np.uint16) == 0


def test_sums_stay_exact_far_beyond_64_bits() -> None:
    image = np.full((4, 4, 4), -(2**63), np.int64)
    sums = object_sums(np.ones(image.shape, np.uint8), (0, 0, 0), image)
    for _ in range(30):  # 2^36 voxels of -2^63
        sums = merge_sums([sums, sums])
    columns = object_columns(sums, (2**13, 2**13, 2**13), VOXEL_UM)
    assert columns["volume_vox"][0] == 2**36
    assert columns["intensity_mean"][0] == -(2.0**63)
    assert columns["intensity_sd"][0] == 0


def test_centroids_stay_exact_far_from_the_origin() -> None:
    start = (2**31 - 5, 2**30 + 1, 7)
    sums = object_sums(np.ones((3, 5, 2), np.uint8), start, None)
    for _ in range(35):
        sums = merge_sums([sums, sums])
    columns = object_columns(sums, (2**31, 2**31, 2**31), (1.0, 1.0, 1.0))
    found = [columns[f"centroid_{name}_um"][0] for name in "zyx"]
    assert found == [start[0] + 1, start[1] + 2, start[2] + 0.5]


def test_without_an_image_the_intensity_columns_are_null() -> None:
    labels = np.random.default_rng(4).choice([0, 1, 2], (4, 5, 6)).astype(np.uint8)
    parts = by_blocks(labels, None, random_boxes(np.random.default_rng(5), labels.shape), 0)
    assert_equal_bits(merge_sums(parts), object_sums(labels, (0, 0, 0), None))
    columns = object_columns(merge_sums(parts), labels.shape, VOXEL_UM)
    for name in ("mean", "sd", "min", "max"):
        assert np.isnan(columns[f"intensity_{name}"]).all() and len(columns[f"intensity_{name}"]) == 2


def test_blocks_without_objects_add_nothing() -> None:
    empty = object_sums(np.zeros((3, 3, 3), np.uint8), (0, 0, 0), None)
    assert len(empty) == 0 and len(merge_sums([empty, empty])) == 0
    one = object_sums(np.ones((1, 2, 2), np.uint8), (0, 0, 0), None)
    assert_equal_bits(merge_sums([empty, one, empty]), one)
    assert {len(column) for column in object_columns(empty, (3, 3, 3), VOXEL_UM).values()} == {0}


def test_second_moments_are_exact_wherever_the_block_begins() -> None:
    start = (2**31 - 9, 2**30 + 1, 7)
    labels = np.random.default_rng(7).choice([0, 1], (5, 6, 4)).astype(np.uint8)
    sums = object_sums(labels, start, None)
    for _ in range(20):
        sums = merge_sums([sums, sums])
    at = [[a + b for a, b in zip(voxel, start, strict=True)] for voxel in np.argwhere(labels).tolist()]
    for limbs, (a, b) in zip(sums.second[0], PRODUCTS, strict=True):
        exact = 2**20 * sum(voxel[a] * voxel[b] for voxel in at)
        assert sum(int(limb) << 32 * k for k, limb in enumerate(limbs)) == exact
        assert ((limbs[:-1] >= 0) & (limbs[:-1] < 2**32)).all()


def test_axes_are_those_of_the_covariance_of_boxes() -> None:
    rng = np.random.default_rng(8)
    labels = rng.choice([0, 2, 5], (9, 11, 8)).astype(np.uint8)
    labels[2:, 3:5, 1:3] = 2
    columns = axis_columns(merge_sums(by_blocks(labels, None, random_boxes(rng, labels.shape), 0)), VOXEL_UM)
    for k, label in enumerate((2, 5)):
        at = np.argwhere(labels == label) * VOXEL_UM
        values, vectors = np.linalg.eigh(np.cov(at.T, bias=True) + np.diag(np.square(VOXEL_UM)) / 12)
        found = [columns[f"axis_{name}_um"][k] for name in ("minor", "middle", "major")]
        np.testing.assert_allclose(found, 2 * np.sqrt(5 * values), rtol=1e-10)
        for number, axis in enumerate(("minor", "middle", "major")):
            direction = [columns[f"axis_{axis}_{name}"][k] for name in "zyx"]
            assert abs(abs(np.dot(direction, vectors[:, number])) - 1) < 1e-9 and max(direction, key=abs) > 0
        assert columns["elongation"][k] == pytest.approx(found[2] / found[1])
        assert columns["flatness"][k] == pytest.approx(found[1] / found[0])


def test_axes_of_boxes_and_ellipsoids_have_their_closed_forms() -> None:
    box = np.ones((3, 10, 7), np.uint8)  # a box of sides a has the covariance a^2 / 12
    columns = axis_columns(object_sums(box, (0, 0, 0), None), VOXEL_UM)
    sides = sorted(n * v for n, v in zip(box.shape, VOXEL_UM, strict=True))
    found = [columns[f"axis_{name}_um"][0] for name in ("minor", "middle", "major")]
    np.testing.assert_allclose(found, [2 * np.sqrt(5 / 12) * side for side in sides], rtol=1e-12)
    z, y, x = np.ogrid[-30:31, -20:21, -10:11]
    ellipsoid = ((z / 28) ** 2 + (y / 18) ** 2 + (x / 9) ** 2 < 1).astype(np.uint8)
    columns = axis_columns(object_sums(ellipsoid, (5, 6, 7), None), (1.0, 1.0, 1.0))
    found = [columns[f"axis_{name}_um"][0] for name in ("major", "middle", "minor")]
    np.testing.assert_allclose(found, [56, 36, 18], rtol=0.02)
    assert columns["axis_major_z"][0] > 0.999 and columns["axis_middle_y"][0] > 0.999
    assert columns["axis_minor_x"][0] > 0.999


def directions(columns: dict[str, np.ndarray]) -> np.ndarray:
    """(3, 3) major, middle and minor axis of the first object, each z, y, x."""
    return np.array([[columns[f"axis_{axis}_{n}"][0] for n in "zyx"] for axis in ("major", "middle", "minor")])


def test_axes_of_a_turned_ellipsoid_are_those_it_was_turned_to_and_have_its_extents_along_them() -> None:
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    half, voxel_um = np.array([11.0, 6.5, 4.0]), (0.5, 0.4, 0.6)
    at = np.moveaxis(np.indices((56, 70, 50)), 0, -1) * voxel_um - (14.1, 13.8, 15.2)
    labels = (((at @ turn.T / half) ** 2).sum(axis=-1) < 1).astype(np.uint8)
    columns = axis_columns(object_sums(labels, (0, 0, 0), None), voxel_um)
    found = directions(columns)
    np.testing.assert_allclose(np.abs((found * turn).sum(axis=1)), 1, atol=2e-3)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-12)
    extents = np.ptp(np.argwhere(labels) * voxel_um @ found.T, axis=0)
    lengths = [columns[f"axis_{name}_um"][0] for name in ("major", "middle", "minor")]
    np.testing.assert_allclose(lengths, 2 * half, rtol=0.01)
    np.testing.assert_allclose(lengths, extents, atol=0.6)


@pytest.mark.parametrize(
    ("shape", "voxel_um", "known"),
    [
        ((3, 3, 3), (1.0, 1.0, 1.0), ()),  # a cube
        ((1, 1, 1), (0.2, 0.2, 0.2), ()),
        ((1, 1, 1), (0.3, 0.1, 0.1), ("major",)),
        ((9, 3, 3), (0.3, 0.1, 0.1), ("major",)),  # a square rod
        ((1, 6, 2), (0.3, 0.1, 0.3), ("minor",)),  # 0.3 0.6 0.6 um
        ((2, 3, 4), (0.3, 0.1, 0.7), ("major", "middle", "minor")),
    ],
)
def test_axes_of_equal_length_have_no_direction(
    shape: tuple[int, int, int], voxel_um: tuple[float, float, float], known: tuple[str, ...]
) -> None:
    columns = axis_columns(object_sums(np.ones(shape, np.uint8), (5, 7, 9), None), voxel_um)
    for axis, vector in zip(("major", "middle", "minor"), directions(columns), strict=True):
        assert np.isfinite(vector).all() == (axis in known) and np.isnan(vector).all() == (axis not in known)
    assert all(np.isfinite(columns[f"axis_{axis}_um"]).all() for axis in ("major", "middle", "minor"))


def test_of_equally_large_components_the_first_is_positive() -> None:
    for step in (1, -1):
        labels = np.zeros((20, 20, 3), np.uint8)
        labels[np.arange(20), np.arange(20)[::step], 1] = 1
        found = directions(axis_columns(object_sums(labels, (0, 0, 0), None), (1.0, 1.0, 1.0)))
        np.testing.assert_allclose(found[0], [np.sqrt(0.5), step * np.sqrt(0.5), 0], atol=1e-9)


def test_axes_lie_along_a_slanted_rod_far_from_the_origin() -> None:
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[np.arange(30), np.arange(30), 3] = 1
    columns = axis_columns(object_sums(labels, (2**30, 2**29, 0), None), (1.0, 1.0, 1.0))
    direction = [columns[f"axis_major_{name}"][0] for name in "zyx"]
    np.testing.assert_allclose(np.abs(direction), [np.sqrt(0.5), np.sqrt(0.5), 0], atol=1e-9)


def test_the_largest_value_of_an_object_is_unknown_where_one_of_its_voxels_is() -> None:
    rng = np.random.default_rng(9)
    labels = rng.choice([0, 3, 4, 9], (6, 7, 8)).astype(np.uint32)
    values = rng.integers(0, 100, labels.shape).astype(np.int32)
    values[tuple(np.argwhere(labels == 4)[5])] = -1
    whole = largest_values(labels, values)
    assert whole.label.tolist() == [3, 4, 9]
    assert whole.value.tolist() == [values[labels == 3].max(), -1, values[labels == 9].max()]
    boxes = random_boxes(rng, labels.shape)
    merged = merge_largest([largest_values(labels[box], values[box]) for box in boxes])
    assert np.array_equal(merged.label, whole.label) and np.array_equal(merged.value, whole.value)
