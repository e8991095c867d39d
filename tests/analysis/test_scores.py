"""Scores equal scikit-image's, and an example that can be checked by hand."""

import numpy as np
import pytest
from skimage.metrics import adapted_rand_error, peak_signal_noise_ratio, variation_of_information

from chunkflow.analysis.scores import Detections, Errors, Hits, Overlaps, detections, instance_scores
from chunkflow.errors import UsageError


def labels(seed, *, objects=7, empty=0.3, shape=(9, 11, 13)):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < empty, 0, rng.integers(1, objects + 1, shape))


def alike(seed):
    """Truth in blocks, and a prediction with some voxels wrong, an object split and two merged."""
    true = np.kron(np.arange(27).reshape(3, 3, 3), np.ones((4, 4, 4), int))
    found = true.copy()
    found[:4, :2, :4] = 90
    found[true == 5] = 4
    wrong = np.random.default_rng(seed).random(true.shape) < 0.15
    found[wrong] = np.random.default_rng(seed + 1).integers(0, 27, int(wrong.sum()))
    return true, found


@pytest.mark.parametrize("pair", [(labels(0), labels(1)), alike(2), (labels(3), labels(3))])
def test_adapted_rand_error_is_that_of_scikit_image(pair):
    true, found = pair
    error, precision, recall = Overlaps.of(true, found).adapted_rand()
    expected, first, second = adapted_rand_error(true, found, ignore_labels=(0,))
    assert error == pytest.approx(expected, abs=1e-12)
    assert sorted((precision, recall)) == pytest.approx(sorted((first, second)), abs=1e-12)


@pytest.mark.parametrize("pair", [(labels(0), labels(1)), alike(2), (labels(3), labels(3))])
def test_variation_of_information_is_that_of_scikit_image(pair):
    true, found = pair
    expected = variation_of_information(true[true > 0][None], found[true > 0][None])
    assert Overlaps.of(true, found).variation_of_information() == pytest.approx(tuple(expected), abs=1e-12)


def test_splits_and_merges_are_told_apart():
    true = np.repeat([1, 2], 8)
    split, merged = np.repeat([1, 2, 3], [8, 4, 4]), np.ones(16, int)
    assert Overlaps.of(true, split).variation_of_information() == pytest.approx((0.5, 0.0))
    assert Overlaps.of(true, merged).variation_of_information() == pytest.approx((0.0, 1.0))


def test_average_precision_of_an_example_by_hand():
    """Four true objects of 10 voxels: one found whole, one by 6 of its voxels and 2 of the background (IoU 0.5), one by
    5 of 10 (IoU 0.5), one missed; and one found where nothing is."""
    true = np.zeros((6, 10), int)
    found = np.zeros((6, 10), int)
    for k in range(4):
        true[k] = k + 1
    found[0] = 11
    found[1, :6], found[5, :2] = 12, 12
    found[2, :5] = 13
    found[4, 3:7] = 14
    overlaps = Overlaps.of(true, found)
    table = overlaps.matches()
    assert table["iou"].tolist() == pytest.approx([1.0, 0.5, 0.5])
    assert table["found_id"].tolist() == [11, 12, 13]
    assert detections(overlaps, 0.5) == Detections(hits=3, false=1, missed=1)
    assert detections(overlaps, 0.5).average_precision == pytest.approx(3 / 5)
    assert detections(overlaps, 0.55) == Detections(hits=1, false=3, missed=3)
    assert detections(overlaps, 0.55).average_precision == pytest.approx(1 / 7)
    scores = instance_scores([overlaps])
    assert scores["average_precision_50"] == pytest.approx(0.6)
    assert scores["average_precision"] == pytest.approx((0.6 + 9 / 7) / 10)


def test_two_halves_of_one_object_are_one_hit_and_one_false_object():
    true, found = np.ones(10, int), np.repeat([1, 2], 5)
    assert detections(Overlaps.of(true, found), 0.5) == Detections(hits=1, false=1, missed=0)


def test_matching_below_one_half_is_refused():
    with pytest.raises(UsageError, match=r"0\.4"):
        detections(Overlaps.of(labels(0), labels(1)), 0.4)


def test_only_known_voxels_count():
    true, found = alike(2)
    known = np.ones(true.shape, bool)
    known[2:5] = False
    kept = Overlaps.of(true[known], found[known])
    assert Overlaps.of(true, found, known).adapted_rand() == kept.adapted_rand()
    mask = Hits.of(found > 5, true > 5, known)
    assert mask == Hits.of(found[known] > 5, true[known] > 5)


def test_scores_of_parts_add_up_to_those_of_the_whole():
    true, found = labels(0) > 3, labels(1) > 3
    whole = Hits.of(found, true)
    assert Hits.of(found[:4], true[:4]) + Hits.of(found[4:], true[4:]) == whole
    assert whole.dice == pytest.approx(2 * (true & found).sum() / (true.sum() + found.sum()))
    assert whole.iou == pytest.approx((true & found).sum() / (true | found).sum())


def test_errors_are_those_of_numpy_and_scikit_image_and_add_up():
    rng = np.random.default_rng(0)
    true, found = rng.random((5, 6, 7)), rng.random((5, 6, 7))
    whole = Errors.of(found, true)
    parts = Errors.of(found[:2], true[:2]) + Errors.of(found[2:], true[2:])
    for name in ("mse", "psnr", "correlation"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-12)
    assert whole.mse == pytest.approx(((true - found) ** 2).mean())
    assert whole.correlation == pytest.approx(np.corrcoef(true.ravel(), found.ravel())[0, 1])
    assert whole.psnr == pytest.approx(peak_signal_noise_ratio(true, found, data_range=np.ptp(true)))


def test_nothing_found_where_nothing_is_counts_as_right():
    nothing = np.zeros((3, 3), int)
    assert Hits.of(nothing > 0, nothing > 0).dice == 1
    assert detections(Overlaps.of(nothing, nothing), 0.5).average_precision == 1
    assert np.isnan(Overlaps.of(nothing, nothing).adapted_rand()[0])


def test_labels_of_different_shapes_are_refused():
    with pytest.raises(UsageError, match="shapes"):
        Overlaps.of(np.zeros(3, int), np.zeros(4, int))
