"""Rules for thresholds: against scikit-image where it has them, else against their formulas written out."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from math import log

import numpy as np
import pytest
from skimage import filters

from chunkflow.errors import InputError
from chunkflow.kernels import threshold_rules as rules
from chunkflow.kernels.threshold import Bins, histogram

EVERY = [*rules.RULES.values(), lambda c, b: rules.multi_otsu(c, b, 3), lambda c, b: rules.kmeans(c, b, 3)]


def two_classes(dtype: type, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = np.concatenate([rng.normal(60, 12, 9001), rng.normal(160, 25, 2003), rng.exponential(40, 500)])
    return np.clip(image, 0, 255).astype(dtype).reshape(16, 719, 1)


def bins_of(image: np.ndarray) -> Bins:
    return Bins.of_range(float(image.min()), float(image.max()), image.dtype, False)


def heights(seed: int, count: int = 200, most: int = 2000) -> tuple[np.ndarray, Bins]:
    """A random histogram of several humps, some bins empty, on bins that begin at 1000."""
    rng = np.random.default_rng(seed)
    at = np.arange(count)
    humps = sum(
        rng.uniform(0.1, 1) * np.exp(-(((at - rng.uniform(0, count)) / rng.uniform(3, count / 5)) ** 2)) for _ in "abc"
    )
    counts = rng.poisson(most * humps / humps.max()) * (rng.random(count) > 0.1)
    counts[[0, -1]] = 1  # scikit-image's histograms have no empty ends
    return counts.astype(np.int64), Bins.of_range(1000, 1000 + count - 1, np.uint16, False)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("seed", range(4))
def test_otsu_is_that_of_scikit_image_within_a_bin(dtype: type, seed: int) -> None:
    image = two_classes(dtype, seed) + np.asarray(1000 if dtype is np.uint16 else 0, dtype)
    bins = bins_of(image)
    expected = filters.threshold_otsu(image, nbins=65_536)
    assert rules.otsu(histogram(image, bins), bins) == pytest.approx(expected, abs=1.01 * bins.width)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("seed", range(4))
def test_li_is_that_of_scikit_image_within_a_bin(dtype: type, seed: int) -> None:
    image = two_classes(dtype, seed) + np.asarray(1000 if dtype is np.uint16 else 0, dtype)
    bins = bins_of(image)
    expected = filters.threshold_li(image, tolerance=1e-9)
    assert rules.li(histogram(image, bins), bins) == pytest.approx(expected, abs=1.01 * bins.width)


def test_otsu_maximises_the_variance_between_the_classes_of_few_voxels() -> None:
    rng = np.random.default_rng(9)
    for _ in range(50):
        values = sorted(int(v) for v in rng.integers(0, 30, 9))
        bins = Bins.of_range(values[0], values[-1], np.uint8, False)

        def between(last: int, values: list[int] = values) -> Fraction:
            low, high = [v for v in values if v <= last], [v for v in values if v > last]
            return len(low) * len(high) * (Fraction(sum(low), len(low)) - Fraction(sum(high), len(high))) ** 2

        got = rules.otsu(histogram(np.array(values, np.uint8), bins), bins)
        assert between(int(got)) == max(between(last) for last in range(values[0], values[-1]))


def test_otsu_is_exact_for_more_voxels_than_float64_can_sum() -> None:
    bins = Bins.of_range(0, 65_535, np.uint16, False)
    counts = np.zeros(bins.count, np.int64)
    counts[[10, 11, 60_000]] = [10**13, 1, 10**13]
    assert rules.otsu(counts, bins) == 11


def test_a_dark_image_on_a_background_of_exact_zeros_ends() -> None:
    image = np.zeros(1000, np.float32)
    image[:100] = np.linspace(500, 600, 100)
    bins = bins_of(image)
    assert 0 < rules.li(histogram(image, bins), bins) < 500


@pytest.mark.parametrize("seed", range(30))
def test_isodata_yen_and_triangle_are_those_of_scikit_image_within_half_a_bin(seed: int) -> None:
    counts, bins = heights(seed)
    given = (counts, bins.centres)
    assert rules.isodata(counts, bins) == pytest.approx(filters.threshold_isodata(hist=given), abs=0.5)
    assert rules.yen(counts, bins) == pytest.approx(filters.threshold_yen(hist=given), abs=0.5)
    voxels = np.repeat(np.arange(1000, 1000 + len(counts)), counts).astype(np.uint16)
    assert rules.triangle(counts, bins) == pytest.approx(filters.threshold_triangle(voxels), abs=0.5)
    assert rules.otsu(counts, bins) == pytest.approx(filters.threshold_otsu(hist=given), abs=0.5)


def test_isodata_is_half_way_between_the_means_of_its_classes() -> None:
    for seed in range(20):
        counts, bins = heights(seed, 5000)
        value = rules.isodata(counts, bins)
        is_below = bins.centres <= value
        means = [np.average(bins.centres[part], weights=counts[part]) for part in (is_below, ~is_below)]
        assert 0 <= sum(means) / 2 - value < 1


def test_isodata_takes_the_lowest_of_several_answers() -> None:
    bins = Bins.of_range(0, 100, np.uint8, False)
    counts = np.zeros(101, np.int64)
    counts[[0, 40, 100]] = [100, 100, 100]
    found = filters.threshold_isodata(hist=(counts, bins.centres), return_all=True)
    assert len(found) > 1
    assert rules.isodata(counts, bins) == found[0]


@pytest.mark.parametrize("seed", range(20))
def test_kapur_maximises_the_sum_of_entropies(seed: int) -> None:
    counts, bins = heights(seed, 60)

    def entropy(part: np.ndarray) -> float:
        p = part[part > 0] / part.sum()
        return float(-(p * np.log(p)).sum())

    sums = [entropy(counts[: t + 1]) + entropy(counts[t + 1 :]) for t in range(59)]
    at = int(rules.kapur(counts, bins)) - 1000
    assert sums[at] == pytest.approx(max(sums), rel=1e-12)


def fuzziness(counts: np.ndarray, last: int) -> float:
    """The sum that Huang & Wang minimise, voxel by voxel, with means at whole bins as in ImageJ."""
    used = np.flatnonzero(counts)
    span, total = used[-1] - used[0], 0.0
    for part in (used[used <= last], used[used > last]):
        mean = int(np.sum(part * counts[part])) / int(counts[part].sum())
        mean = int(mean + 0.5)
        for g in part:
            u = 1 / (1 + abs(int(g) - mean) / span)
            total += counts[g] * (-u * log(u) - (1 - u) * log(1 - u) if u < 1 else 0.0)
    return total


@pytest.mark.parametrize(("seed", "count"), [*((seed, 40) for seed in range(12)), (3, 700), (4, 1100)])
def test_huang_minimises_the_fuzziness_of_all_voxels(seed: int, count: int) -> None:
    counts, bins = heights(seed, count)
    used = np.flatnonzero(counts)
    at = int(rules.huang(counts, bins)) - 1000
    tried = range(used[0], used[-1]) if count < 100 else range(max(used[0], at - 30), at + 31)
    assert fuzziness(counts, at) == pytest.approx(min(fuzziness(counts, t) for t in tried), rel=1e-11)


def test_huang_by_transforms_is_huang_by_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(8):
        counts, bins = heights(seed, 1500)
        monkeypatch.setattr(rules, "DIRECT", 4096)
        expected = rules.huang(counts, bins)
        monkeypatch.setattr(rules, "DIRECT", 8)
        assert rules.huang(counts, bins) == expected


def variance_between(counts: np.ndarray, ends: tuple[int, ...]) -> Fraction:
    """Of classes that end before these bins, times the number of voxels; exact."""
    at = np.arange(len(counts))
    mean = Fraction(int((at * counts).sum()), int(counts.sum()))
    total = Fraction(0)
    for low, high in zip((0, *ends), (*ends, len(counts)), strict=True):
        n = int(counts[low:high].sum())
        if n == 0:
            return Fraction(-1)
        total += n * (Fraction(int((at * counts)[low:high].sum()), n) - mean) ** 2
    return total


@pytest.mark.parametrize(("classes", "count"), [(2, 60), (3, 40), (4, 22), (5, 15)])
@pytest.mark.parametrize("seed", range(4))
def test_multi_otsu_and_kmeans_reach_the_largest_variance_between_classes(classes: int, count: int, seed: int) -> None:
    counts, bins = heights(seed, count)
    tried = [variance_between(counts, ends) for ends in combinations(range(1, count), classes - 1)]
    for rule in (rules.multi_otsu, rules.kmeans):
        found = rule(counts, bins, classes)
        ends = tuple(int(np.searchsorted(bins.centres, v, side="right")) for v in found)
        assert float(variance_between(counts, ends)) == pytest.approx(float(max(tried)), rel=1e-12)


@pytest.mark.parametrize("classes", [3, 4])
@pytest.mark.parametrize("seed", range(8))
def test_multi_otsu_is_that_of_scikit_image_or_has_more_variance(classes: int, seed: int) -> None:
    counts, bins = heights(seed, 90)
    expected = filters.threshold_multiotsu(hist=(counts, bins.centres), classes=classes)
    found = rules.multi_otsu(counts, bins, classes)
    ends, theirs = (tuple((int(v) - 999) for v in values) for values in (found, expected))
    assert variance_between(counts, ends) >= variance_between(counts, theirs)
    assert found == pytest.approx(expected, abs=3)


@pytest.mark.parametrize("seed", range(3))
def test_multi_otsu_of_many_bins_finds_what_a_full_search_finds(seed: int) -> None:
    counts, bins = heights(seed, 700)
    below = np.concatenate([[0], np.cumsum(counts)])
    moment = np.concatenate([[0], np.cumsum(counts * np.arange(700))])
    moment = moment - moment[-1] / below[-1] * below
    with np.errstate(all="ignore"):
        runs = (moment[None] - moment[:, None]) ** 2 / (below[None] - below[:, None])
    runs = np.where(below[None] > below[:, None], runs, -np.inf)  # from, to
    best = runs[0]
    for _ in range(4):
        best = (best[:, None] + runs).max(axis=0)
    ends = tuple(np.searchsorted(bins.centres, rules.multi_otsu(counts, bins, 5), side="right").tolist())
    assert float(variance_between(counts, ends)) == pytest.approx(best[-1], rel=1e-12)


def test_kmeans_is_half_way_between_the_means_and_two_clusters_are_those_of_otsu() -> None:
    counts, bins = heights(2)
    (value,) = rules.kmeans(counts, bins, 2)
    is_below = bins.centres <= value
    means = [np.average(bins.centres[part], weights=counts[part]) for part in (is_below, ~is_below)]
    assert value == pytest.approx(sum(means) / 2)
    assert np.array_equal(is_below[counts > 0], (bins.centres <= rules.otsu(counts, bins))[counts > 0])


@pytest.mark.parametrize("rule", EVERY)
def test_rules_take_65536_bins_of_which_most_are_empty(rule) -> None:  # type: ignore[no-untyped-def]
    bins = Bins.of_range(0, 65_535, np.uint16, False)
    counts = np.zeros(bins.count, np.int64)
    counts[[10, 11, 30_000, 60_000]] = [10**13, 1, 10**12, 10**13]
    values = np.atleast_1d(rule(counts, bins))
    assert np.all((values >= 10) & (values < 60_000))


@pytest.mark.parametrize("rule", list(rules.RULES.values()))
def test_rules_of_two_values_separate_them(rule) -> None:  # type: ignore[no-untyped-def]
    image = np.array([5, 5, 5, 90], np.uint8)
    bins = bins_of(image)
    assert 5 <= rule(histogram(image, bins), bins) < 90
    image = np.array([5, 6, 6, 6], np.uint8)
    bins = bins_of(image)
    assert 5 <= rule(histogram(image, bins), bins) < 6


@pytest.mark.parametrize("rule", [rules.multi_otsu, rules.kmeans])
def test_more_classes_than_values_are_refused(rule) -> None:  # type: ignore[no-untyped-def]
    image = np.array([5, 5, 90], np.uint8)
    bins = bins_of(image)
    with pytest.raises(InputError, match="2 different values, which are no 3 classes"):
        rule(histogram(image, bins), bins, 3)


@pytest.mark.parametrize("rule", EVERY)
@pytest.mark.parametrize(("value", "dtype"), [(7, np.uint8), (0.25, np.float32), (-3, np.int32)])
def test_an_image_of_one_value_is_refused_with_a_way_out(rule, value: float, dtype: type) -> None:  # type: ignore[no-untyped-def]
    image = np.full((3, 4, 5), value, dtype)
    bins = bins_of(image)
    counts = histogram(image, bins)
    assert counts.sum() == 60
    with pytest.raises(InputError, match=rf"one value, {value:g}.*fixed"):
        rule(counts, bins)


@pytest.mark.parametrize("rule", EVERY)
def test_no_voxels_are_refused(rule) -> None:  # type: ignore[no-untyped-def]
    bins = Bins.of_range(0, 9, np.uint8, False)
    with pytest.raises(InputError, match="no voxel"):
        rule(histogram(np.array([], np.uint8), bins), bins)
