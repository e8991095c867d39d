"""Patches: cut with reflection, weighted and added up."""

import numpy as np
import pytest

from chunkflow.kernels.blend import SMALLEST_WEIGHT, accumulate, cut_patch, gaussian_weights, reflected_span


def test_weights_are_a_positive_symmetric_gaussian_of_an_eighth_of_the_patch():
    weights = gaussian_weights((9, 12, 15))
    assert weights.dtype == np.float32
    assert weights.min() == np.float32(SMALLEST_WEIGHT)
    np.testing.assert_array_equal(weights, weights[::-1, ::-1, ::-1])
    line = weights[4, :, 7] / weights[4, 5, 7]
    sigma = 12 / 8
    np.testing.assert_allclose(line[3], np.exp(-(2.5**2 - 0.5**2) / (2 * sigma**2)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(19, 23, 31), (8, 16, 5), (1, 40, 27), (3, 2, 33)])
def test_a_patch_equals_the_same_cut_of_the_volume_padded_by_numpy(shape):
    rng = np.random.default_rng(2)
    volume = rng.random(shape, dtype=np.float32)
    pad = (9, 11, 13)
    padded = np.pad(volume, [(p, p) for p in pad], mode="reflect")
    for _ in range(30):
        first = tuple(int(rng.integers(-p, n)) for p, n in zip(pad, shape, strict=True))
        patch = tuple(int(rng.integers(1, n + p - a + 1)) for a, p, n in zip(first, pad, shape, strict=True))
        spans = [reflected_span(a, a + p, n) for a, p, n in zip(first, patch, shape, strict=True)]
        read = volume[tuple(slice(*span) for span in spans)]
        got = cut_patch(read, tuple(span[0] for span in spans), first, patch, shape)
        expected = padded[tuple(slice(a + q, a + q + p) for a, p, q in zip(first, patch, pad, strict=True))]
        np.testing.assert_array_equal(got, expected)
        assert got.flags.c_contiguous


def test_the_span_of_a_patch_is_the_smallest_that_holds_it():
    assert reflected_span(3, 8, 20) == (3, 8)
    assert reflected_span(-4, 3, 20) == (0, 5)  # -4 is 4 when reflected
    assert reflected_span(17, 25, 20) == (14, 20)
    assert reflected_span(-2, 9, 1) == (0, 1)


def test_overlapping_predictions_are_averaged_by_their_weights():
    weights = np.array([[[1, 3, 2]]], np.float32)
    total, norm = np.zeros((1, 1, 3), np.float32), np.zeros((1, 1, 3), np.float32)
    for start, value in ((0, 10), (2, 40)):
        prediction = np.full((1, 1, 3), value, np.float32)
        accumulate(total, norm, prediction, weights, core_start=(0, 0, 1), patch_start=(0, 0, start))
    np.testing.assert_array_equal(total / norm, [[[10, (2 * 10 + 1 * 40) / 3, 40]]])
