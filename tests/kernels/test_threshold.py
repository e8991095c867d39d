"""Histograms: bins as promised, and counts that add up across blocks."""

from __future__ import annotations

import numpy as np
import pytest

from chunkflow.errors import InputError
from chunkflow.kernels import threshold
from chunkflow.kernels.threshold import Bins, histogram


def two_classes(dtype: type, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = np.concatenate([rng.normal(60, 12, 9001), rng.normal(160, 25, 2003), rng.exponential(40, 500)])
    return np.clip(image, 0, 255).astype(dtype).reshape(16, 719, 1)


def bins_of(image: np.ndarray, *, smoothed: bool = False) -> Bins:
    return Bins.of_range(float(image.min()), float(image.max()), image.dtype, smoothed)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, bool])
def test_small_integers_have_one_bin_per_value(dtype: type) -> None:
    info = (0, 1) if dtype is bool else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    bins = Bins.of_range(*info, dtype, False)
    assert bins.count == info[1] - info[0] + 1
    assert np.array_equal(bins.centres, np.arange(info[0], info[1] + 1))
    assert np.array_equal(bins.edges, np.arange(info[0], info[1] + 2) - 0.5)
    values = np.array([info[0], info[1], info[1]], dtype)
    counts = histogram(values, bins)
    assert (counts[0], counts[-1], counts.sum()) == (1, 2, 3)


@pytest.mark.parametrize(("dtype", "smoothed"), [(np.float32, False), (np.uint16, True), (np.int32, False)])
def test_everything_else_has_65536_equal_bins_between_the_extremes(dtype: type, smoothed: bool) -> None:
    bins = Bins.of_range(-3, 1000, dtype, smoothed)
    assert bins.count == 65_536
    assert (bins.edges[0], bins.edges[-1]) == (-3, 1000)
    assert bins.centres[0] == pytest.approx(-3 + 1003 / 65_536 / 2)


def test_counts_equal_numpy_and_the_ends_take_what_rounding_put_beyond() -> None:
    values = np.random.default_rng(1).random((7, 9, 11)).astype(np.float32)
    bins = bins_of(values)
    counts = histogram(values, bins)
    assert counts.dtype == np.int64
    assert np.abs(np.cumsum(counts - np.histogram(values, bins.edges)[0])).max() <= 1  # one voxel on an edge
    lo, hi = float(values.min()), float(values.max())
    beyond = histogram(np.array([lo - 1e-7, hi + 1e-7, hi]), bins)
    assert (beyond[0], beyond[-1]) == (1, 2)


def test_counts_of_blocks_add_up_to_the_counts_of_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    image = two_classes(np.float32)
    bins = bins_of(image)
    whole = histogram(image, bins)
    monkeypatch.setattr(threshold, "CHUNK", 97)
    assert np.array_equal(whole, sum(histogram(part, bins) for part in np.array_split(image, 5, axis=1)))


@pytest.mark.parametrize("q", [0, 1, 25, 50, 99.5, 100])
def test_percentile_is_that_of_the_sorted_voxels(q: float) -> None:
    image = two_classes(np.uint8)
    bins = bins_of(image)
    expected = np.percentile(image, q, method="inverted_cdf")
    assert threshold.percentile(histogram(image, bins), bins, q) == expected


def test_no_voxels_have_no_percentile() -> None:
    bins = Bins.of_range(0, 9, np.uint8, False)
    with pytest.raises(InputError, match="no voxel"):
        threshold.percentile(histogram(np.array([], np.uint8), bins), bins, 50)
