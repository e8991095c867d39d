"""The patch lattice: it covers every voxel, and a voxel gets the same bits from every box."""

import numpy as np
import pytest

from chunkflow.errors import PlanError
from chunkflow.kernels.blend import (
    SMALLEST_WEIGHT,
    blend,
    cut_patch,
    gaussian_weights,
    patch_starts,
    patches_touching,
    read_box,
)

# volume, patch, overlap: longer and shorter than the patch, exact and overhanging, one voxel thick
LATTICES = [
    ((19, 23, 31), (8, 8, 8), (4, 2, 3)),
    ((8, 16, 5), (8, 8, 16), (0, 4, 6)),
    ((1, 40, 27), (4, 12, 8), (2, 6, 0)),
    ((3, 2, 33), (12, 9, 7), (11, 3, 1)),
]


def lattice(shape, patch, overlap):
    return tuple(patch_starts(n, p, o, 1) for n, p, o in zip(shape, patch, overlap, strict=True))


def random_core(rng, shape):
    start = [int(rng.integers(0, n)) for n in shape]
    stop = [int(rng.integers(a + 1, n + 1)) for a, n in zip(start, shape, strict=True)]
    return tuple(start), tuple(stop)


def computed(volume, core_start, core_stop, patch, overlap):
    """The blended result of a nonlinear stand-in for a network, from nothing but the read box of a core."""
    shape = volume.shape
    starts = lattice(shape, patch, overlap)
    begin, end = read_box(core_start, core_stop, starts, patch, shape)
    read = volume[tuple(slice(a, b) for a, b in zip(begin, end, strict=True))].copy()

    def predictions():
        for index in patches_touching(core_start, core_stop, starts, patch):
            first = tuple(line[i] for line, i in zip(starts, index, strict=True))
            cut = cut_patch(read, begin, first, patch, shape)
            yield first, np.cos(cut * cut.mean() + np.cumsum(cut, axis=2)).astype(np.float32)

    return blend(predictions(), gaussian_weights(patch), core_start=core_start, core_stop=core_stop)


@pytest.mark.parametrize("length", [1, 7, 16, 17, 100])
@pytest.mark.parametrize(("patch", "overlap", "stride"), [(16, 8, 4), (16, 4, 4), (16, 0, 8), (6, 5, 1)])
def test_patches_start_at_zero_step_evenly_and_reach_the_end_with_none_to_spare(length, patch, overlap, stride):
    starts = patch_starts(length, patch, overlap, stride)
    assert starts == tuple((patch - overlap) * i for i in range(len(starts)))
    assert starts[-1] + patch >= length
    assert len(starts) == 1 or starts[-2] + patch < length


@pytest.mark.parametrize(
    ("patch", "overlap", "remedy"),
    [(64, 15, "overlap 16"), (64, 64, "overlap 60"), (64, -1, "overlap 0"), (64, 1, "overlap 0"), (66, 16, "Use 64")],
)
def test_a_step_or_patch_that_is_no_multiple_of_the_stride_is_refused_with_the_nearest(patch, overlap, remedy):
    with pytest.raises(PlanError, match=remedy):
        patch_starts(100, patch, overlap, 4)


def test_weights_are_a_positive_symmetric_gaussian_of_an_eighth_of_the_patch():
    weights = gaussian_weights((9, 12, 15))
    assert weights.dtype == np.float32
    assert weights.min() == np.float32(SMALLEST_WEIGHT)
    np.testing.assert_array_equal(weights, weights[::-1, ::-1, ::-1])
    line = weights[4, :, 7] / weights[4, 5, 7]
    sigma = 12 / 8
    np.testing.assert_allclose(line[3], np.exp(-(2.5**2 - 0.5**2) / (2 * sigma**2)), rtol=1e-6)


@pytest.mark.parametrize(("shape", "patch", "overlap"), LATTICES)
def test_patches_touching_a_box_are_all_those_that_share_a_voxel_with_it_in_raster_order(shape, patch, overlap):
    rng = np.random.default_rng(1)
    starts = lattice(shape, patch, overlap)
    for _ in range(20):
        core_start, core_stop = random_core(rng, shape)
        expected = [
            index
            for index in np.ndindex(*map(len, starts))
            if all(
                starts[axis][index[axis]] < core_stop[axis]
                and starts[axis][index[axis]] + patch[axis] > core_start[axis]
                for axis in range(3)
            )
        ]
        assert patches_touching(core_start, core_stop, starts, patch) == expected


@pytest.mark.parametrize(("shape", "patch", "overlap"), LATTICES)
def test_a_patch_equals_the_same_cut_of_the_volume_padded_by_numpy(shape, patch, overlap):
    volume = np.random.default_rng(2).random(shape, dtype=np.float32)
    padded = np.pad(volume, [(0, 2 * p) for p in patch], mode="reflect")
    starts = lattice(shape, patch, overlap)
    for index in np.ndindex(*map(len, starts)):
        first = tuple(line[i] for line, i in zip(starts, index, strict=True))
        expected = padded[tuple(slice(a, a + p) for a, p in zip(first, patch, strict=True))]
        got = cut_patch(volume, (0, 0, 0), first, patch, shape)
        np.testing.assert_array_equal(got, expected)
        assert got.flags.c_contiguous


@pytest.mark.parametrize(("shape", "patch", "overlap"), LATTICES)
def test_every_box_gets_the_same_bits_as_the_whole_volume_from_its_read_box_alone(shape, patch, overlap):
    rng = np.random.default_rng(3)
    volume = rng.random(shape, dtype=np.float32)
    whole = computed(volume, (0, 0, 0), shape, patch, overlap)
    assert whole.dtype == np.float32
    assert np.isfinite(whole).all()
    for _ in range(12):
        core_start, core_stop = random_core(rng, shape)
        part = computed(volume, core_start, core_stop, patch, overlap)
        expected = whole[tuple(slice(a, b) for a, b in zip(core_start, core_stop, strict=True))]
        assert part.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("shape", "patch", "overlap"), LATTICES)
def test_the_read_box_is_inside_the_volume_and_at_most_patch_minus_one_beyond_the_core(shape, patch, overlap):
    rng = np.random.default_rng(4)
    starts = lattice(shape, patch, overlap)
    for _ in range(40):
        core_start, core_stop = random_core(rng, shape)
        begin, end = read_box(core_start, core_stop, starts, patch, shape)
        for axis in range(3):
            assert max(0, core_start[axis] - patch[axis] + 1) <= begin[axis] <= core_start[axis]
            assert core_stop[axis] <= end[axis] <= min(shape[axis], core_stop[axis] + patch[axis] - 1)


def test_blending_predictions_that_equal_the_volume_gives_the_volume():
    shape, patch, overlap = (19, 23, 31), (8, 8, 8), (4, 2, 3)
    volume = np.random.default_rng(5).random(shape, dtype=np.float32)
    starts = lattice(shape, patch, overlap)
    predictions = (
        (first, cut_patch(volume, (0, 0, 0), first, patch, shape))
        for index in patches_touching((0, 0, 0), shape, starts, patch)
        for first in [tuple(line[i] for line, i in zip(starts, index, strict=True))]
    )
    got = blend(predictions, gaussian_weights(patch), core_start=(0, 0, 0), core_stop=shape)
    np.testing.assert_allclose(got, volume, rtol=1e-6)


def test_overlapping_predictions_are_averaged_by_their_weights():
    weights = np.array([[[1, 3, 2]]], np.float32)
    predictions = [((0, 0, 0), np.full((1, 1, 3), 10, np.float32)), ((0, 0, 2), np.full((1, 1, 3), 40, np.float32))]
    got = blend(predictions, weights, core_start=(0, 0, 1), core_stop=(1, 1, 4))
    np.testing.assert_array_equal(got, [[[10, (2 * 10 + 1 * 40) / 3, 40]]])
