"""Components of a block: scipy.ndimage.label is the truth, value by value."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from chunkflow.kernels import runs
from chunkflow.kernels.components import (
    ComponentTable,
    as_unsigned,
    dense_labels,
    label_block,
    replaced,
    volume_index,
)

RANK = {6: 1, 18: 2, 26: 3}


def structure(connectivity: int) -> np.ndarray:
    return ndimage.generate_binary_structure(3, RANK[connectivity])


def regions(values: np.ndarray, connectivity: int = 6) -> tuple[np.ndarray, ComponentTable]:
    """Components of background too."""
    cut = runs.runs_of(as_unsigned(values))
    component, count = runs.connected(cut, connectivity, background=True)
    return runs.painted(cut, component), ComponentTable(*runs.table_of(cut, component, count))


def by_value(values: np.ndarray, connectivity: int, background: bool) -> np.ndarray:
    """Components value by value, ranked by their first voxel: the slow definition."""
    masks = []
    for value in np.unique(values):
        if value != 0 or background:
            labels, count = ndimage.label(values == value, structure(connectivity))
            masks += [labels == k for k in range(1, count + 1)]
    masks.sort(key=lambda mask: int(np.flatnonzero(mask)[0]))
    return sum((k * mask for k, mask in enumerate(masks, 1)), np.zeros(values.shape, int))


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("density", [0.05, 0.3, 0.7])
def test_components_of_a_mask_equal_scipy_label_id_for_id(connectivity: int, density: float) -> None:
    mask = np.random.default_rng(1).random((13, 9, 17)) < density
    labels, table = label_block(mask, connectivity)
    expected, count = ndimage.label(mask, structure(connectivity))
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.uint32
    assert len(table) == count


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_rows_of_any_length_and_corners_are_joined_as_scipy_joins_them(connectivity: int) -> None:
    rng = np.random.default_rng(20)
    for _ in range(60):
        shape, density = rng.integers(1, 9, 3), rng.choice([0.1, 0.4, 0.8])
        mask = rng.random(shape) < density
        np.testing.assert_array_equal(
            label_block(mask, connectivity)[0], ndimage.label(mask, structure(connectivity))[0]
        )


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_touching_voxels_of_different_values_stay_apart(connectivity: int, dtype: type) -> None:
    values = np.random.default_rng(2).choice([0, 1, 2, 250], (7, 8, 9)).astype(dtype)
    np.testing.assert_array_equal(label_block(values, connectivity)[0], by_value(values, connectivity, False))
    np.testing.assert_array_equal(regions(values, connectivity)[0], by_value(values, connectivity, True))


def test_the_table_holds_first_voxel_size_and_value_of_each_component() -> None:
    values = np.random.default_rng(3).choice([0, 0, 5, 9], (6, 7, 11)).astype(np.uint16)
    for labels, table in (label_block(values, 18), regions(values)):
        for k in range(1, len(table) + 1):
            voxels = np.flatnonzero(labels == k)
            assert table.first[k - 1] == voxels[0]
            assert table.size[k - 1] == len(voxels)
            assert table.value[k - 1] == values.ravel()[voxels[0]]
        assert (np.diff(table.first) > 0).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64])
def test_the_largest_value_of_a_type_is_a_value_like_any_other(dtype: type) -> None:
    values = np.random.default_rng(4).choice(np.array([0, 1, np.iinfo(dtype).max], dtype), (5, 6, 7))
    labels, table = regions(values)
    np.testing.assert_array_equal(labels, by_value(values, 6, True))
    assert table.value.max() == np.iinfo(dtype).max


def test_every_voxel_of_a_mask_has_a_region() -> None:
    mask = np.random.default_rng(5).random((5, 4, 6)) < 0.5
    labels, table = regions(mask)
    assert labels.min() == 1
    assert table.size.sum() == mask.size
    np.testing.assert_array_equal(labels, by_value(mask.astype(np.uint8), 6, True))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 7), (5, 1, 1)])
def test_flat_empty_and_full_blocks_are_labelled(shape: tuple[int, int, int]) -> None:
    labels, table = label_block(np.zeros(shape, bool), 26)
    assert labels.shape == shape and not labels.any() and len(table) == 0
    labels, table = label_block(np.ones(shape, bool), 6)
    assert (labels == 1).all() and table.size.tolist() == [np.prod(shape)]


def test_views_and_read_only_arrays_are_labelled_and_left_alone() -> None:
    mask = np.random.default_rng(6).random((9, 8, 7)) < 0.4
    kept = mask.copy()
    view = mask.transpose(2, 0, 1)[::-1]
    view.flags.writeable = False
    np.testing.assert_array_equal(label_block(view, 26)[0], ndimage.label(view, structure(26))[0])
    solid = mask.copy()
    solid.flags.writeable = False
    np.testing.assert_array_equal(label_block(solid, 26)[0], ndimage.label(mask, structure(26))[0])
    np.testing.assert_array_equal(mask, kept)


def test_the_index_in_the_volume_is_that_of_the_same_voxel() -> None:
    volume = np.arange(7 * 8 * 9).reshape(7, 8, 9)
    box = volume[2:6, 1:8, 3:5]
    index = np.arange(box.size)
    np.testing.assert_array_equal(volume_index(index, box.shape, (2, 1, 3), volume.shape), box.ravel())


def test_the_index_in_a_volume_of_petabytes_does_not_overflow() -> None:
    side = 2_000_000
    index = volume_index(np.array([7]), (2, 2, 2), (side - 2,) * 3, (side,) * 3)
    assert int(index[0]) == side**3 - 1


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint64])
def test_dense_labels_are_ranks_of_the_labels_present(dtype: type) -> None:
    labels = np.random.default_rng(7).choice([0, 1, 40, 200], (4, 5, 6)).astype(dtype)
    for values in (labels, np.where(labels == 0, 1, labels).astype(dtype)):
        dense, present = dense_labels(values)
        assert present.tolist() == sorted({int(v) for v in values.ravel()} - {0})
        np.testing.assert_array_equal(np.concatenate(([0], present))[dense], values)


def test_values_from_2_to_the_63_on_are_told_apart_in_any_row() -> None:
    for value in (2**63 - 1, 2**63, 2**63 + 5, 2**64 - 1):
        for shape, stop in (((4, 4, 8), 8), ((4, 4, 9), 7), ((1, 1, 6), 6)):
            values = np.zeros(shape, np.uint64)
            values[shape[0] // 2, shape[1] // 2, 2:stop] = value
            values[0, 0, 0] = 1
            labels, table = label_block(values, 26)
            assert table.value.tolist() == [1, value]
            np.testing.assert_array_equal(labels, (values > 0) + (values > 1).astype(int))


@pytest.mark.parametrize("dtype", [np.uint16, np.uint64])
def test_replaced_labels_are_those_that_indexing_gives_and_a_label_without_an_id_is_refused(dtype: type) -> None:
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 9, (4, 5, 6)).astype(np.uint32)
    ids = np.concatenate(([0], rng.integers(0, 2**16, 8))).astype(dtype)
    for given in (labels, labels[:, ::2]):
        found = replaced(given, ids)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, ids[given])
    with pytest.raises(IndexError):
        replaced(labels, ids[: labels.max()])
