"""Targets equal a closed form or what scikit-image says, and are exact inside the margin that they ask for."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import find_boundaries

from chunkflow.errors import ConfigError
from chunkflow.models.targets import Target, affinity, boundaries, object_distance, soft_foreground

UM = (1.0, 1.0, 1.0)


def blobs(seed=0, shape=(21, 26, 31), cell=6):
    """Labels that fill about two thirds of a volume and touch each other."""
    rng = np.random.default_rng(seed)
    seeds = rng.uniform(0, shape, (cell**2, 3))
    place = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    nearest = np.argmin(((place[..., None, :] - seeds) ** 2).sum(-1), -1) + 1
    return np.where(ndimage.gaussian_filter(rng.standard_normal(shape), 3) > -0.03, nearest, 0)


def made(target, labels, voxel_um=UM):
    return target.make(labels, np.ones(labels.shape, bool), voxel_um)


def test_foreground_is_what_has_a_label():
    labels = blobs()
    target, weight = made(Target(), labels)
    np.testing.assert_array_equal(target[0], labels > 0)
    assert (target.dtype, weight.dtype, weight.min()) == (np.float32, np.float32, 1)


def test_soft_foreground_of_a_single_voxel_is_its_closed_form():
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = True
    grown = soft_foreground(mask, UM, grow=1.0)
    expected = {0: 1.0, 1: 1.0, 2: 2 - np.sqrt(2), 3: 2 - np.sqrt(3), 4: 0.0}
    for squared, value in expected.items():
        place = {0: (2, 2, 2), 1: (2, 2, 3), 2: (2, 3, 3), 3: (3, 3, 3), 4: (2, 2, 4)}[squared]
        assert grown[place] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("voxel_um", [UM, (0.3, 0.1, 0.1), (0.05, 0.1, 0.2)])
@pytest.mark.parametrize("grow", [-2.2, -1.0, 0.4, 1.0, 2.3])
def test_soft_foreground_is_the_formula_of_the_signed_distance(voxel_um, grow):
    mask = blobs() > 0
    sides = [v / min(voxel_um) for v in voxel_um]
    outside, inside = (ndimage.distance_transform_edt(m, sides) for m in (~mask, mask))
    signed = np.where(mask, 0.5 - inside, outside - 0.5)
    np.testing.assert_allclose(soft_foreground(mask, voxel_um, grow), np.clip(0.5 - (signed - grow), 0, 1), atol=1e-6)


def test_soft_foreground_that_does_not_grow_is_the_mask():
    mask = blobs() > 0
    np.testing.assert_array_equal(soft_foreground(mask, (0.3, 0.1, 0.1)), mask)
    np.testing.assert_array_equal(made(Target(soft=True), blobs())[0][0], mask)


def test_growing_by_one_is_a_dilation_and_counts_in_the_smallest_side_of_a_voxel():
    mask = np.zeros((9, 9, 9), bool)
    mask[4, 4, 4] = True
    grown = made(Target(grow=1.0), mask.astype(int))[0][0] > 0
    np.testing.assert_array_equal(grown, ndimage.binary_dilation(mask, ndimage.generate_binary_structure(3, 2)))
    flat = made(Target(grow=1.0), mask.astype(int), (3.0, 1.0, 1.0))[0][0] > 0
    assert flat[4, 4, 3] and not flat[3, 4, 4]


def test_ignored_voxels_have_no_weight_and_are_no_object():
    labels = blobs()
    labels[3:5] = 255
    target, weight = made(Target(ignore=255), labels)
    np.testing.assert_array_equal(weight[0] == 0, labels == 255)
    assert not target[0][labels == 255].any()


def test_classes_are_whole_numbers_and_one_too_many_is_refused():
    labels = blobs() % 4
    target, _ = made(Target(kind="classes", classes=4), labels)
    assert (target.dtype, target.shape[0]) == (np.int64, 1)
    np.testing.assert_array_equal(target[0], labels)
    with pytest.raises(ConfigError, match="a label 3 of 3 classes"):
        made(Target(kind="classes", classes=3), labels)


def test_boundaries_are_those_of_scikit_image():
    labels = blobs()
    np.testing.assert_array_equal(boundaries(labels), find_boundaries(labels, connectivity=1, mode="thick"))
    target, _ = made(Target(kind="foreground+boundary"), labels)
    np.testing.assert_array_equal(target, np.stack([labels > 0, boundaries(labels)]))


@pytest.mark.parametrize("voxel_um", [UM, (0.3, 0.1, 0.1)])
def test_distance_is_that_to_the_nearest_voxel_of_anything_else(voxel_um):
    labels = blobs()
    found = object_distance(labels, voxel_um, clip_um=0.45)
    places = np.argwhere(np.ones(labels.shape, bool)) * voxel_um
    flat = labels.ravel()
    rng = np.random.default_rng(1)
    for voxel in rng.choice(flat.size, 60, replace=False):
        if flat[voxel] == 0:
            assert found.ravel()[voxel] == 0
            continue
        nearest = np.sqrt(((places[flat != flat[voxel]] - places[voxel]) ** 2).sum(1).min())
        assert found.ravel()[voxel] == pytest.approx(min(nearest, 0.45), rel=1e-6)


def test_signed_distance_is_negative_in_the_background():
    labels = blobs()
    found = object_distance(labels, UM, clip_um=2.0, signed=True)
    expected = -np.minimum(ndimage.distance_transform_edt(labels == 0), 2.0)
    np.testing.assert_allclose(found[labels == 0], expected[labels == 0], rtol=1e-6)
    assert (found[labels > 0] > 0).all()


def test_beyond_the_array_is_no_background():
    labels = np.full((3, 3, 3), 7)
    np.testing.assert_array_equal(object_distance(labels, UM, clip_um=5.0), np.full(labels.shape, 5.0))


@pytest.mark.parametrize("offset", [(-1, 0, 0), (0, 3, 0), (2, -1, 4)])
def test_affinities_are_a_comparison_of_two_voxels(offset):
    labels = blobs()
    value, weight = affinity(labels, np.ones(labels.shape, bool), offset)
    for place in np.argwhere(np.ones(labels.shape, bool))[::97]:
        partner = place + offset
        if (partner < 0).any() or (partner >= labels.shape).any():
            assert weight[tuple(place)] == 0
            continue
        assert weight[tuple(place)] == 1
        same = labels[tuple(place)] == labels[tuple(partner)] and labels[tuple(place)] > 0
        assert value[tuple(place)] == same


def test_affinities_to_voxels_that_nobody_labelled_do_not_count():
    labels = np.ones((1, 1, 4), int)
    labels[0, 0, 2] = 9
    target = Target(kind="affinities", offsets=((0, 0, -1),), ignore=9)
    np.testing.assert_array_equal(made(target, labels)[1][0, 0, 0], [0, 1, 0, 0])


@pytest.mark.parametrize(
    "target",
    [
        Target(soft=True, grow=1.7),
        Target(kind="foreground+boundary"),
        Target(kind="distance", clip_um=0.25),
        Target(kind="distance", clip_um=0.25, signed=True),
        Target(kind="affinities", offsets=((-1, 0, 0), (0, 3, -2))),
    ],
)
def test_targets_of_a_patch_with_its_margin_are_those_of_the_volume(target):
    voxel_um = (0.15, 0.1, 0.1)
    labels = blobs()
    whole, _ = made(target, labels, voxel_um)
    margin = target.margin_vox(voxel_um)
    start, size = (6, 7, 8), (8, 9, 10)
    wide = tuple(slice(s - m, s + n + m) for s, n, m in zip(start, size, margin, strict=True))
    core = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
    inner = tuple(slice(m, m + n) for m, n in zip(margin, size, strict=True))
    found, _ = made(target, labels[wide], voxel_um)
    np.testing.assert_array_equal(found[(slice(None), *inner)], whole[(slice(None), *core)])


def test_a_target_names_its_outputs_and_their_activation():
    assert Target(kind="classes", classes=3).outputs == ("background", "class 1", "class 2")
    assert Target(kind="foreground+boundary").outputs == ("foreground", "boundary")
    assert Target(kind="affinities").outputs[0] == "affinity -1 0 0"
    assert [Target(kind=kind).activation for kind in ("foreground", "classes", "image")] == [
        "sigmoid",
        "softmax",
        "none",
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "foregrund"}, "Did you mean 'foreground'"),
        ({"kind": "classes", "classes": 1}, "Count background"),
        ({"kind": "distance", "clip_um": 0.0}, "not a positive length"),
        ({"kind": "distance", "soft": True}, "soft belongs to foreground"),
        ({"kind": "affinities", "offsets": ((0, 0, 0),)}, "not all 0"),
    ],
)
def test_a_target_without_a_sense_is_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        Target(**values)


@pytest.mark.parametrize("kind", ["foreground", "foreground+boundary", "distance", "affinities"])
def test_negative_labels_are_background(kind):
    labels = blobs()
    marked = np.where(labels == 0, -np.arange(labels.size).reshape(labels.shape) % 5 - 4, labels)
    assert marked.min() < 0
    target = Target(kind=kind, clip_um=4.0)
    np.testing.assert_array_equal(made(target, marked)[0], made(target, labels)[0])


def test_a_label_that_is_refused_is_named():
    labels = np.array([0, -1, 2]).reshape(1, 1, 3)
    with pytest.raises(ConfigError, match="label -1 of 3"):
        made(Target(kind="classes", classes=3), labels)
