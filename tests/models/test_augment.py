"""Images and labels lie alike after any augmentation; looks have the moments asked for; a draw is a number's."""

import numpy as np
import pytest
from scipy import ndimage

from chunkflow.errors import ConfigError
from chunkflow.models.augment import (
    Augment,
    Blur,
    Elastic,
    Flip,
    Geometry,
    Intensity,
    Missing,
    Noise,
    Turn,
    blurred,
    generator,
)

CUBE = (12, 12, 12)
UM = (1.0, 1.0, 1.0)
ONLY = {
    "flip": Augment(turn=None, elastic=None, blur=None, intensity=None, noise=None),
    "turn": Augment(flip=None, elastic=None, blur=None, intensity=None, noise=None),
}


def coordinates(shape):
    return np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)


@pytest.mark.parametrize("augment", [ONLY["flip"], ONLY["turn"], Augment(), Augment(elastic=Elastic(probability=1.0))])
@pytest.mark.parametrize("shape", [CUBE, (1, 12, 12), (6, 12, 12), (5, 8, 12)])
def test_image_and_labels_lie_alike(augment, shape):
    """Of a ramp along an axis, labels are the image rounded to the nearest voxel."""
    for sample in range(8):
        geometry = augment.geometry(3, sample, shape, UM)
        start, stop = geometry.box
        for axis in range(3):
            ramp = np.indices([b - a for a, b in zip(start, stop, strict=True)], np.uint8)[axis]
            image, labels = geometry.image(ramp), geometry.labels(ramp)
            assert image.shape == labels.shape == shape
            assert labels.dtype == np.uint8
            assert np.abs(image - labels).max() <= (0 if geometry.source is None else 0.5 + 1e-5)
            assert geometry.source is None or shape[axis] == 1 or np.abs(image - labels).max() > 0.1


def test_flips_and_turns_are_those_of_numpy_and_lose_nothing():
    voxels = coordinates(CUBE)
    geometry = Geometry(CUBE, flips=(0, 2), turns=((1, 2, 3), (0, 1, 1)))
    expected = np.rot90(np.rot90(voxels[::-1, :, ::-1], 3, (1, 2)), 1, (0, 1))
    np.testing.assert_array_equal(geometry.labels(voxels), expected)
    for sample in range(30):
        turned = Augment(elastic=None).geometry(0, sample, CUBE, UM).labels(voxels)
        np.testing.assert_array_equal(np.sort(turned, axis=None), voxels.ravel())


def test_all_24_turns_and_their_mirror_images_of_a_cube_are_drawn():
    voxels = coordinates((2, 2, 2))
    drawn = {Augment(elastic=None).geometry(0, n, (2, 2, 2), UM).labels(voxels).tobytes() for n in range(2000)}
    assert len(drawn) == 48


def test_turns_never_mix_axes_of_different_length_or_sampling():
    wide = {ONLY["turn"].geometry(0, n, (4, 8, 8), UM).turns for n in range(60)}
    assert {axes[:2] for turns in wide for axes in turns} == {(1, 2)}
    flat = {ONLY["turn"].geometry(0, n, CUBE, (3.0, 1.0, 1.0)).turns for n in range(60)}
    assert {axes[:2] for turns in flat for axes in turns} == {(1, 2)}
    oblong = {ONLY["turn"].geometry(0, n, (4, 6, 8), UM).turns for n in range(60)}
    assert oblong == {(), ((1, 2, 2),)}


def test_flips_are_of_the_axes_asked_for_and_as_often_as_asked():
    augment = Augment(flip=Flip(probability=0.3, axes="yx"), turn=None, elastic=None)
    drawn = [augment.geometry(0, n, CUBE, UM).flips for n in range(1000)]
    assert not any(0 in flips for flips in drawn)
    assert np.mean([1 in flips for flips in drawn]) == pytest.approx(0.3, abs=0.05)


def elastic(**values):
    return Augment(flip=None, turn=None, elastic=Elastic(probability=1.0, **values))


def test_a_scale_alone_enlarges_about_the_centre():
    geometry = elastic(amplitude=0.0, scale=(1.25, 1.25)).geometry(0, 0, (11, 11, 11), UM)
    assert geometry.source is not None
    line = np.arange(11)
    np.testing.assert_allclose(geometry.source[2][3, 4], (line - 5) / 1.25 + 5, rtol=1e-6)
    assert geometry.box == ((1, 1, 1), (10, 10, 10))


def test_displacements_stay_within_the_amplitude_and_are_smooth():
    largest = 0.0
    for sample in range(20):
        source = elastic(amplitude=2.0, spacing=8.0, scale=(1.0, 1.0)).geometry(0, sample, (20, 24, 28), UM).source
        assert source is not None
        moved = source - np.indices((20, 24, 28))
        largest = max(largest, float(np.abs(moved).max()))
        assert np.abs(moved).max() <= 2.0 + 1e-5
        for axis in range(3):  # no fold: neighbours keep their order
            assert (np.diff(source[axis], axis=axis) > 0).all()
    assert largest > 0.8


def test_the_field_counts_in_um_where_voxels_are_flat():
    geometry = elastic(amplitude=2.0, scale=(1.0, 1.0)).geometry(0, 0, (20, 20, 20), (4.0, 1.0, 1.0))
    assert geometry.source is not None
    moved = np.abs(geometry.source - np.indices((20, 20, 20)))
    assert moved[0].max() <= 0.5
    assert moved[1].max() > 0.5


def test_the_box_holds_all_that_the_sample_is_made_of():
    """Voxels outside the box that is read change nothing, and without its last plane something would be missing."""
    for sample in range(10):
        geometry = elastic().geometry(0, sample, (9, 10, 11), UM)
        (z, y, x), (z1, y1, x1) = geometry.box
        far = np.random.default_rng(0).random((40, 40, 40)).astype(np.float32)
        read = far[15 + z : 15 + z1, 15 + y : 15 + y1, 15 + x : 15 + x1]
        assert geometry.source is not None
        expected = ndimage.map_coordinates(far, geometry.source + 15, order=1)
        np.testing.assert_allclose(geometry.image(read), expected, atol=1e-5)


def look(seed=0, sample=0, image=None, **values):
    off = {"blur": None, "intensity": None, "noise": None, "missing": None}
    augment = Augment(flip=None, turn=None, elastic=None, **{**off, **values})
    return augment.look(np.full((24, 24, 24), 0.5, np.float32) if image is None else image, seed, sample, dark=-0.2)


def test_photon_noise_has_the_variance_of_its_photons_and_keeps_the_mean():
    noisy = look(noise=Noise(probability=1.0, photons=(100.0, 100.0), sigma=(0.0, 0.0)))
    assert noisy.mean() == pytest.approx(0.5, abs=0.003)
    assert noisy.var() == pytest.approx(0.5 / 100, rel=0.05)


def test_grey_values_as_large_as_nobody_counts_photons_keep_their_value():
    noise = Noise(probability=1.0, photons=(100.0, 100.0), sigma=(0.0, 0.0))
    image = np.full((4, 4, 4), 1e30, np.float32)
    np.testing.assert_allclose(look(image=image, noise=noise), image, rtol=1e-6)


def test_read_noise_has_its_standard_deviation_also_where_it_is_dark():
    image = np.full((24, 24, 24), -0.3, np.float32)
    noisy = look(image=image, noise=Noise(probability=1.0, photons=(100.0, 100.0), sigma=(0.05, 0.05)))
    assert noisy.mean() == pytest.approx(-0.3, abs=0.003)
    assert noisy.std() == pytest.approx(0.05, rel=0.05)


def test_intensity_is_the_formula():
    image = np.linspace(-1, 2, 27, dtype=np.float32).reshape(3, 3, 3)
    found = look(image=image, intensity=Intensity(probability=1.0, gain=(2, 2), offset=(0.1, 0.1), gamma=(0.5, 0.5)))
    np.testing.assert_allclose(found, np.sign(image) * np.abs(image) ** 0.5 * 2 + 0.1, rtol=1e-5, atol=1e-6)


def test_blur_keeps_the_mean_and_has_its_variance():
    image = np.zeros((1, 31, 31), np.float32)
    image[0, 15, 15] = 1
    found = blurred(image, 1.5)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    x = np.arange(31) - 15
    assert (found[0].sum(0) * x**2).sum() == pytest.approx(1.5**2, rel=0.05)
    assert look(image=image, blur=Blur(probability=1.0)).max() < 1


def test_missing_slices_are_dark_and_never_all():
    for sample in range(20):
        found = look(sample=sample, image=np.ones((3, 4, 4), np.float32), missing=Missing(probability=1.0, most=9))
        planes = found[:, 0, 0]
        assert (found == planes[:, None, None]).all()
        assert set(planes.tolist()) == {1.0, float(np.float32(-0.2))}


def test_a_sample_is_that_of_its_number_and_other_augmentations_change_no_draw():
    noise = Noise(probability=1.0)
    np.testing.assert_array_equal(look(sample=5, noise=noise), look(sample=5, noise=noise))
    assert (look(sample=5, noise=noise) != look(sample=6, noise=noise)).any()
    assert (look(seed=1, sample=5, noise=noise) != look(sample=5, noise=noise)).any()
    with_more = Augment(noise=noise).geometry(0, 5, CUBE, UM)
    assert with_more.flips == ONLY["flip"].geometry(0, 5, CUBE, UM).flips
    assert with_more.turns == ONLY["turn"].geometry(0, 5, CUBE, UM).turns


def test_channels_have_noise_of_their_own():
    assert generator(0, 0, "noise", 0).random() != generator(0, 0, "noise", 1).random()


def test_none_leaves_patches_as_they_are():
    geometry = Augment.none().geometry(0, 3, CUBE, UM)
    np.testing.assert_array_equal(geometry.labels(coordinates(CUBE)), coordinates(CUBE))
    image = np.random.default_rng(0).random(CUBE).astype(np.float32)
    np.testing.assert_array_equal(Augment.none().look(image, 0, 3), image)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Flip(probability=1.5), "probability 1.5"),
        (lambda: Flip(axes="t"), "axes 't'"),
        (lambda: Turn(probability=-0.1), "turn: probability"),
        (lambda: Elastic(amplitude=9.0), "would fold the image"),
        (lambda: Elastic(scale=(0.0, 1.0)), "above 0"),
        (lambda: Intensity(gain=(2.0, 1.0)), "gain"),
        (lambda: Noise(sigma=(-1.0, 1.0)), "of at least 0"),
        (lambda: Missing(most=0), "most 0"),
    ],
)
def test_an_augmentation_without_a_sense_is_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
