"""The blur by direct sums along the axes, beside the one by transforms and beside dense sums."""

import numpy as np
import pytest
from scipy import ndimage

from chunkflow.geometry.box import Triple
from chunkflow.kernels import algorithms, blur, deconvolve, psf
from chunkflow.kernels.separable import Profiles, SeparableBlur, profiles_of

SHAPE = (9, 17, 12)


def product(lengths: Triple, seed: int = 0) -> np.ndarray:
    """A PSF of random profiles, not symmetric."""
    z, y, x = (np.random.default_rng(seed + n).random(n) + 0.1 for n in lengths)
    kernel = z[:, None, None] * y[:, None] * x
    return (kernel / kernel.sum()).astype(np.float32)


def both(kernel: np.ndarray, shape: Triple, edges: blur.Edges) -> tuple[SeparableBlur, blur.Blur]:
    sums = blur.blur_with(kernel, shape, np, edges=edges)
    assert isinstance(sums, SeparableBlur)
    return sums, blur.Blur(kernel, shape, np, edges=edges)


def moved(array: np.ndarray, lengths: Triple, domain: Triple) -> np.ndarray:
    """An array on one torus on a larger one: what stands before the data goes to its end."""
    result = np.zeros(domain, array.dtype)
    places = []
    for n, p, size in zip(array.shape, lengths, domain, strict=True):
        at = np.arange(n)
        places.append(np.where(at >= n - (p - 1 - p // 2), at - n + size, at) if size > n else at)
    result[np.ix_(*places)] = array
    return result


@pytest.mark.parametrize("edges", ["extended", "zero", "circular"])
@pytest.mark.parametrize("lengths", [(3, 5, 7), (4, 2, 6), (1, 1, 1), (1, 9, 2), (9, 8, 11)])
def test_sums_and_transforms_are_one_operator(lengths: Triple, edges: blur.Edges) -> None:
    kernel = product(lengths)
    sums, transforms = both(kernel, SHAPE, edges)
    rng = np.random.default_rng(1)
    estimate, data = rng.random(sums.domain, np.float32), rng.random(SHAPE, np.float32)
    there = transforms.forward(moved(estimate, lengths, transforms.domain))
    np.testing.assert_allclose(sums.forward(estimate), there, rtol=0, atol=2e-6)
    back = moved(sums.adjoint(data), lengths, transforms.domain)
    np.testing.assert_allclose(back, transforms.adjoint(data), rtol=0, atol=2e-6)


def test_a_kernel_longer_than_its_torus_goes_around() -> None:
    kernel = product((11, 21, 15))
    sums, transforms = both(kernel, (5, 6, 7), "circular")
    image = np.random.default_rng(2).random((5, 6, 7), np.float32)
    np.testing.assert_allclose(sums.forward(image), transforms.forward(image), rtol=0, atol=2e-6)


@pytest.mark.parametrize("lengths", [(3, 5, 7), (4, 2, 6)])
def test_the_adjoint_is_one(lengths: Triple) -> None:
    sums, _ = both(product(lengths), SHAPE, "extended")
    rng = np.random.default_rng(3)
    estimate, data = rng.random(sums.domain, np.float32), rng.random(SHAPE, np.float32)
    ahead = np.vdot(sums.forward(estimate).astype(np.float64), data)
    assert abs(ahead - np.vdot(estimate.astype(np.float64), sums.adjoint(data))) < 1e-6 * ahead


def test_the_data_is_the_convolution_where_the_estimate_is_dark_beyond() -> None:
    kernel = product((5, 3, 7))
    sums, _ = both(kernel, SHAPE, "zero")
    image = np.random.default_rng(4).random(SHAPE, np.float32)
    truth = ndimage.convolve(image.astype(np.float64), kernel.astype(np.float64), mode="constant")
    np.testing.assert_allclose(sums.forward(image), truth, rtol=0, atol=1e-6)


def test_a_gaussian_has_profiles_and_a_tilted_one_has_none() -> None:
    gaussian = psf.gaussian((0.5, 0.3, 0.3), (0.1, 0.1, 0.1))
    found = profiles_of(gaussian)
    assert isinstance(found, Profiles)
    rebuilt = found.z[:, None, None] * found.y[:, None] * found.x
    np.testing.assert_allclose(rebuilt, gaussian, rtol=0, atol=1e-6 * gaussian.max())
    tilted = ndimage.rotate(gaussian, 20, axes=(0, 2), order=1, reshape=False)
    assert profiles_of(tilted.astype(np.float32)) is None
    ring = gaussian.copy()
    ring[0, 0, 0] += 3e-6 * gaussian.max()
    assert profiles_of(ring) is None


def test_profiles_of_many_values_are_left_to_transforms() -> None:
    assert profiles_of(psf.gaussian((6.0, 3.0, 3.0), (0.1, 0.1, 0.1))) is None


@pytest.mark.parametrize(
    ("algorithm", "within"),
    [
        (algorithms.RICHARDSON_LUCY, 1e-5),
        (algorithms.Algorithm(momentum=True), 3e-5),
        (algorithms.Algorithm(update=algorithms.Descend(low=0.0)), 1e-5),
        # its gradients run on around the torus, which transforms take larger
        (algorithms.Algorithm(penalty=algorithms.TotalVariation(2e-3)), 1e-4),
    ],
)
def test_deconvolution_by_sums_is_that_by_transforms(
    algorithm: algorithms.Algorithm, within: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = psf.gaussian((0.4, 0.25, 0.25), (0.1, 0.1, 0.1))
    image = np.random.default_rng(5).poisson(30, (20, 31, 28)).astype(np.float32)
    sums = deconvolve.deconvolve(image, kernel, algorithm, iterations=8, start=30.0)
    several = deconvolve.deconvolve(image, kernel, algorithm, iterations=8, start=30.0, threads=3)
    np.testing.assert_array_equal(sums, several)
    monkeypatch.setattr(blur, "profiles_of", lambda kernel: None)
    transforms = deconvolve.deconvolve(image, kernel, algorithm, iterations=8, start=30.0)
    assert np.abs(sums - transforms).max() < within * transforms.max()


def test_a_psf_without_light_has_no_profiles() -> None:
    assert profiles_of(np.zeros((3, 3, 3), np.float32)) is None
