"""The microscope against the light it must conserve, the noise it must add, and a plain segmentation of its image."""

from __future__ import annotations

import tracemalloc
from math import log, sqrt
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import euler_number

from chunkflow.errors import UsageError
from chunkflow.synth.optics import acquire, psf_taps
from chunkflow.synth.phantoms import mitochondria

CONFOCAL_UM = (0.2, 0.08, 0.08)
FULL = np.ones((3, 3, 3), np.bool_)


@pytest.mark.parametrize("seed", range(3))
def test_a_plain_threshold_of_the_image_finds_the_objects_and_the_loops(seed: int) -> None:
    phantom = mitochondria((53, 131, 127), CONFOCAL_UM, seed)
    image = acquire(phantom.labels, voxel_um=CONFOCAL_UM, seed=seed).astype(np.float32)
    smooth = ndimage.gaussian_filter(image, [0.06 / v for v in CONFOCAL_UM])
    labels, _ = ndimage.label(np.pad(smooth > threshold_otsu(smooth, nbins=4096), 1), FULL)
    kept = np.flatnonzero(np.bincount(labels.ravel())[1:] > 100) + 1
    mask = np.isin(labels, kept)
    loops = len(kept) + ndimage.label(~mask)[1] - 1 - euler_number(mask, connectivity=3)
    assert (len(kept), loops) == (phantom.objects, phantom.loops)


def test_light_is_conserved() -> None:
    labels = np.zeros((41, 43, 37), np.uint16)
    labels[15:24, 17:25, 13:21] = 1
    image = acquire(labels, voxel_um=CONFOCAL_UM, seed=0, background=0, read_noise=0, brightness_range=0)
    assert image.sum(dtype=np.int64) == pytest.approx(400 * 9 * 8 * 8, rel=0.01)


def test_a_point_becomes_the_psf_around_its_voxel() -> None:
    labels = np.zeros((25, 27, 29), np.uint8)
    labels[11, 13, 15] = 1
    image = acquire(labels, voxel_um=CONFOCAL_UM, seed=0, photons=1e6, background=0, read_noise=0, brightness_range=0)
    mean = [float(image.sum(axis=axes) @ np.arange(n)) / image.sum() for axes, n in (((1, 2), 25), ((0, 2), 27))]
    assert mean == pytest.approx([11, 13], abs=0.01)
    for axis, fwhm_vox in enumerate((0.6 / 0.2, 0.25 / 0.08, 0.25 / 0.08)):
        profile = image.sum(axis=tuple(a for a in range(3) if a != axis)) / image.sum()
        at = np.arange(len(profile)) - (profile @ np.arange(len(profile)))
        sigma = fwhm_vox / sqrt(8 * log(2))
        assert sqrt(float(profile @ at**2)) == pytest.approx(sqrt(sigma**2 + 1 / 12), rel=0.01)


@pytest.mark.parametrize("fwhm_vox", [0.3, 1.0, 3.125, 7.5])
def test_taps_are_the_psf_integrated_over_voxels(fwhm_vox: float) -> None:
    taps = psf_taps(fwhm_vox)
    fine = (np.arange(len(taps) * 1001) + 0.5) / 1001 - len(taps) / 2
    gaussian = np.exp(-4 * log(2) * (fine / fwhm_vox) ** 2).reshape(len(taps), 1001).sum(axis=1)
    np.testing.assert_allclose(taps, gaussian / gaussian.sum(), atol=1e-6)


def test_noise_has_the_variance_of_photons_and_readout() -> None:
    empty = np.zeros((20, 64, 64), np.uint16)
    image = acquire(empty, voxel_um=CONFOCAL_UM, seed=0, background=30.0, read_noise=3.0)
    assert image.mean() == pytest.approx(30, abs=0.1)
    assert image.var() == pytest.approx(30 + 9 + 1 / 12, rel=0.03)


def test_noise_depends_on_the_seed_and_the_plane_but_not_on_the_number_of_planes() -> None:
    empty = np.zeros((9, 21, 23), np.uint16)
    image = acquire(empty, voxel_um=CONFOCAL_UM, seed=7)
    np.testing.assert_array_equal(acquire(empty[:4], voxel_um=CONFOCAL_UM, seed=7), image[:4])
    assert (image[0] != image[1]).any()
    assert (acquire(empty, voxel_um=CONFOCAL_UM, seed=8) != image).any()


def test_objects_differ_in_brightness_within_the_range() -> None:
    labels = np.zeros((5, 40, 40), np.uint16)
    labels.reshape(5, 4, 10, 4, 10)[:] = np.arange(1, 17).reshape(1, 4, 1, 4, 1)
    image = acquire(labels, voxel_um=CONFOCAL_UM, seed=1, fwhm_um=(0, 0, 0), background=0, brightness_range=0.3)
    means = ndimage.mean(image, labels, np.arange(1, 17))
    assert means.min() > 0.69 * 400
    assert means.max() < 1.31 * 400
    assert np.ptp(means) > 0.2 * 400


def test_a_mask_is_imaged_as_one_object() -> None:
    mask = np.zeros((9, 21, 23), np.bool_)
    mask[3:6, 8:14, 9:15] = True
    expected = acquire(mask.astype(np.uint16), voxel_um=CONFOCAL_UM, seed=2)
    np.testing.assert_array_equal(acquire(mask, voxel_um=CONFOCAL_UM, seed=2), expected)


def test_counts_beyond_sixteen_bits_are_clipped() -> None:
    image = acquire(np.ones((3, 9, 9), np.bool_), voxel_um=CONFOCAL_UM, seed=0, fwhm_um=(0, 0, 0), photons=1e6)
    assert (image == 65535).all()


def test_memory_is_one_float_copy_and_the_image() -> None:
    labels = np.zeros((64, 128, 128), np.uint16)
    tracemalloc.start()
    acquire(labels, voxel_um=CONFOCAL_UM, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * labels.size * (4 + 2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"voxel_um": (0.2, 0.0, 0.08)}, "voxel size"),
        ({"fwhm_um": (0.6, -0.2, 0.2)}, "PSF width"),
        ({"photons": -1.0}, "photons is -1.0"),
        ({"read_noise": float("nan")}, "read_noise is nan"),
        ({"brightness_range": 1.0}, "brightness_range is 1.0"),
        ({"seed": -3}, "seed -3 is negative"),
    ],
)
def test_parameters_without_a_sense_are_refused_with_the_value(changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"voxel_um": CONFOCAL_UM, "seed": 0}
    with pytest.raises(UsageError, match=message):
        acquire(np.zeros((3, 3, 3), np.uint16), **(arguments | changed))
