"""Against closed forms, scipy and simulated studies whose truth is known."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from chunkflow.analysis import comparison as c
from chunkflow.errors import UsageError


@pytest.fixture
def quick(monkeypatch):
    """Fewer resamples, for studies by the hundred."""
    monkeypatch.setattr(c, "RESAMPLES", 799)


def studies(count, n, *, shift=0.0, seed=0):
    random = np.random.default_rng(seed)
    return [(random.normal(10, 2, n), random.normal(10 + shift, 2, n)) for _ in range(count)]


@pytest.mark.parametrize("n", [3, 4, 8])
def test_intervals_hold_the_true_difference_as_often_as_they_say(n, quick):
    held = [c.effect(a, b).difference for a, b in studies(250, n, shift=1.5, seed=n)]
    share = np.mean([found.low <= 1.5 <= found.high for found in held])
    assert share >= 0.915  # 0.95 less two and a half standard errors of 250


@pytest.mark.parametrize("n", [3, 5])
def test_no_effect_is_found_where_there_is_none(n, quick):
    found = [c.effect(a, b).difference.excludes(0.0) for a, b in studies(250, n, seed=10 + n)]
    assert np.mean(found) <= 0.085


def test_a_large_effect_is_found():
    assert all(c.effect(a, b).difference.excludes(0.0) for a, b in studies(20, 4, shift=14, seed=3))


def test_ratios_hold_the_true_ratio(quick):
    random = np.random.default_rng(4)
    held = 0
    for _ in range(300):
        a, b = random.normal(10, 1, 4), random.normal(15, 1.5, 4)
        ratio = c.effect(a, b).ratio
        held += ratio.low <= 1.5 <= ratio.high
    assert held >= 0.92 * 300


def test_the_interval_is_near_that_of_welch_for_ordinary_values():
    a, b = np.array([9.0, 10.5, 11.0, 12.0, 8.5, 10.0]), np.array([12.0, 14.5, 13.0, 15.0, 11.5, 13.5])
    found = c.effect(a, b).difference
    welch = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert found.value == pytest.approx(b.mean() - a.mean())
    assert (found.low, found.high) == pytest.approx((welch.low, welch.high), abs=0.12 * (welch.high - welch.low))


def test_one_replicate_that_stands_apart_leaves_the_interval_finite():
    found = c.effect(np.array([1.0, 1.0, 1.0, 90.0]), np.array([1.0, 1.0, 1.0, 1.0])).difference
    assert np.isfinite([found.low, found.high]).all()
    assert found.low < 0 < found.high


def test_a_single_replicate_has_no_interval_and_equal_ones_an_empty_one():
    alone = c.effect(np.array([3.0]), np.array([4.0, 5.0]))
    assert alone.interval == "none"
    assert np.isnan(alone.difference.low)
    assert not alone.difference.excludes(0.0)
    same = c.effect(np.array([2.0, 2.0]), np.array([2.0, 2.0]))
    assert same.difference == c.Interval(0.0, 0.0, 0.0)


def test_the_same_seed_gives_the_same_interval():
    (a, b), *_ = studies(1, 4)
    assert c.effect(a, b, seed=7) == c.effect(a, b, seed=7)
    assert c.effect(a, b, seed=7).difference != c.effect(a, b, seed=8).difference


def test_files_are_averaged_within_replicates_and_never_counted_as_n():
    values = np.array([1.0, 3.0, 10.0, np.nan])
    means, names = c.replicate_means(values, ["r1", "r1", "r2", "r2"])
    assert means.tolist() == [2.0, 10.0]
    assert names == ["r1", "r2"]


def test_hedges_g_is_unbiased_and_its_interval_holds_the_truth():
    truth, found, held = 1.0, [], 0
    for a, b in studies(600, 5, shift=2.0, seed=5):
        g = c.hedges_g(a, b)
        found.append(g.value)
        held += g.low <= truth * 0.9027 <= g.high or g.low <= truth <= g.high
    assert np.mean(found) == pytest.approx(truth, abs=0.09)
    assert held >= 0.93 * 600


def test_the_interval_of_g_leaves_out_no_effect_exactly_where_students_test_finds_one():
    for a, b in studies(60, 4, shift=2.5, seed=6):
        p = stats.ttest_ind(a, b).pvalue
        g = c.hedges_g(a, b)
        assert (g.low > 0 or g.high < 0) == (p < 0.05)


def test_all_arrangements_of_three_against_three_give_a_tenth_at_least():
    a, b = np.array([1.0, 2.0, 3.0]), np.array([10.0, 11.0, 12.0])
    found = c.permutation_test(a, b)
    assert found.p == pytest.approx(0.1)
    assert found.least == pytest.approx(0.1)


def test_the_permutation_test_is_that_of_scipy():
    random = np.random.default_rng(8)
    a, b = random.normal(0, 1, 4), random.normal(1, 1, 5)
    peer = stats.permutation_test(
        (a, b), lambda x, y: abs(x.mean() - y.mean()), alternative="greater", n_resamples=np.inf
    )
    assert c.permutation_test(a, b).p == pytest.approx(peer.pvalue)


def test_the_permutation_test_finds_nothing_too_often_where_there_is_nothing():
    found = [c.permutation_test(a, b).p <= 0.05 for a, b in studies(400, 4, seed=11)]
    assert np.mean(found) <= 0.075


def test_random_arrangements_stand_in_for_too_many_and_agree():
    random = np.random.default_rng(9)
    a, b = random.normal(0, 1, 12), random.normal(0.9, 1, 12)
    found = c.permutation_test(a, b)
    assert "4999 arrangements" in found.method
    assert found.p == pytest.approx(stats.ttest_ind(a, b).pvalue, abs=0.02)


def test_pairs_are_tested_within_pairs():
    day = np.array([0.0, 50.0, 100.0, 150.0, 200.0])
    a = day + np.array([1.0, 1.2, 0.9, 1.1, 1.0])
    b = day + np.array([3.0, 3.3, 2.8, 3.2, 3.1])
    assert c.paired_effect(a, b).difference.excludes(0.0)
    assert not c.effect(a, b).difference.excludes(0.0)
    assert c.paired_permutation_test(a, b).p == pytest.approx(2 / 2**5)
    with pytest.raises(UsageError, match="no pairs"):
        c.paired_effect(a, b[:3])


def test_corrections_are_those_of_the_papers():
    p = [0.01, 0.04, 0.03, 0.005, np.nan]
    bh = c.corrected(p, "bh")
    assert bh[:4] == pytest.approx(stats.false_discovery_control(p[:4]))
    assert np.isnan(bh[4])
    # Holm by hand: sorted 0.005 0.01 0.03 0.04 times 4 3 2 1, never falling.
    assert c.corrected(p, "holm")[:4] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert c.corrected(p, "none")[:4] == p[:4]


def test_corrections_do_not_depend_on_the_order_of_questions():
    p = [0.02, 0.5, 0.001, 0.04]
    for method in ("bh", "holm"):
        by_value = dict(zip(p, c.corrected(p, method), strict=True))
        for order in permutations(p):
            assert c.corrected(order, method) == [by_value[value] for value in order]


def test_a_mixed_model_of_a_balanced_design_is_students_test_of_replicates():
    """Balanced, with more scatter between replicates than files explain: REML is the analysis of variance."""
    pytest.importorskip("statsmodels")
    random = np.random.default_rng(12)
    means = np.concatenate([random.normal(0, 2, 4), random.normal(5, 2, 4)])
    values = (means[:, None] + random.normal(0, 0.5, (8, 6))).ravel()
    groups = np.repeat([f"r{k}" for k in range(8)], 6)
    difference, test = c.mixed_model(values, np.repeat(np.arange(8) >= 4, 6), groups.tolist())
    of_replicates = values.reshape(8, 6).mean(1)
    peer = stats.ttest_ind(of_replicates[4:], of_replicates[:4])
    low, high = peer.confidence_interval(0.95)
    assert difference.value == pytest.approx(of_replicates[4:].mean() - of_replicates[:4].mean(), rel=1e-6)
    assert (difference.low, difference.high) == pytest.approx((low, high), rel=1e-3)
    assert test.p == pytest.approx(peer.pvalue, rel=1e-2)


def test_outliers_are_far_from_the_median_and_nearly_equal_values_have_none():
    z = c.outlying(np.log1p(np.array([40, 42, 38, 41, 44, 39, 3, np.nan])))
    assert (np.abs(z) > 3.5).tolist() == [False] * 6 + [True, False]
    assert np.abs(c.outlying(np.log1p(np.array([100.0, 100.0, 100.0, 100.0, 103.0])))).max() < 3.5
    assert not c.outlying(np.array([1.0, 1.0, 100.0])).any()  # too few to tell


@pytest.mark.parametrize("seed", range(6))
def test_a_mixed_model_without_scatter_of_replicates_is_a_regression_of_files(seed):
    """At that edge the variance of replicates is 0, and what is left is least squares over files."""
    pytest.importorskip("statsmodels")
    random = np.random.default_rng(seed)
    values = random.normal(50, 7, (10, 3))
    values -= values.mean(1, keepdims=True) - 50  # all replicates alike
    values[5:] += 6
    is_condition = np.repeat(np.arange(10) >= 5, 3)
    groups = np.repeat([f"r{k}" for k in range(10)], 3).tolist()
    difference, test = c.mixed_model(values.ravel(), is_condition, groups)
    spread = np.sqrt((values - values.mean(1, keepdims=True)).var() * 30 / 28 * 2 / 15)
    assert difference.value == pytest.approx(6)
    assert difference.high - difference.value == pytest.approx(stats.t.ppf(0.975, 8) * spread, rel=1e-3)
    assert test.p == pytest.approx(2 * stats.t.sf(6 / spread, 8), rel=1e-2)


def test_a_mixed_model_of_files_that_are_all_alike_has_no_interval():
    pytest.importorskip("statsmodels")
    values = np.repeat([1.0, 3.0, 2.0, 7.0, 5.0, 6.0], 4)
    groups = np.repeat([f"r{k}" for k in range(6)], 4).tolist()
    difference, test = c.mixed_model(values, np.repeat(np.arange(6) >= 3, 4), groups)
    assert difference.value == 4.0
    assert np.isnan([difference.low, difference.high, test.p]).all()
