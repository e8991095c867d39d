"""Inverse filters against dense linear algebra; the halo against the whole kernel and whole volumes."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from chunkflow.errors import ConfigError, PlanError
from chunkflow.kernels import inverse, psf
from chunkflow.kernels.inverse import Inverse, NaiveInverse, RegularizedInverse, Wiener

Triple = tuple[int, int, int]

# skewed, off-centre, odd and even, one larger than the array: a wrong flip, shift or parity changes the result
PSF_SHAPES = [(5, 7, 3), (4, 6, 8), (5, 4, 1), (1, 2, 3), (9, 3, 11)]
SHAPES = [(5, 7, 6), (6, 4, 7)]


def skewed_psf(shape: Triple) -> NDArray[np.float32]:
    values = np.random.default_rng(sum(shape)).random(shape) ** 3
    return (values / values.sum()).astype(np.float32)


def circulant(kernel: NDArray[np.float32], shape: Triple) -> NDArray[np.float64]:
    """A from the definition: voxel i of the image sees voxel i - (k - centre) of the torus with weight psf[k]."""
    matrix = np.zeros((*shape, *shape))
    for i in np.ndindex(*shape):
        for k in np.ndindex(*kernel.shape):
            seen = tuple((a - b + p // 2) % n for a, b, p, n in zip(i, k, kernel.shape, shape, strict=True))
            matrix[i + seen] += kernel[k]
    return matrix.reshape(int(np.prod(shape)), -1)


def stencil() -> NDArray[np.float32]:
    """The 7-point Laplacian over 12."""
    values = np.zeros((3, 3, 3), np.float32)
    for axis in range(3):
        values[tuple(np.where(np.arange(3) == axis, [[0], [2]], 1).T)] = 1
    values[1, 1, 1] = -6
    return values / np.float32(12)


def photons(shape: Triple) -> NDArray[np.float32]:
    return np.random.default_rng(5).poisson(50, shape).astype(np.float32)


def relative(got: NDArray[np.float32], wanted: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("psf_shape", PSF_SHAPES)
def test_wiener_solves_the_normal_equations(psf_shape: Triple, shape: Triple) -> None:
    kernel, image = skewed_psf(psf_shape), photons(shape)
    a = circulant(kernel, shape)
    wanted = np.linalg.solve(a.T @ a + 0.03 * np.eye(len(a)), a.T @ (image.ravel() - 7)).reshape(shape)
    got = inverse.filtered(image, kernel, Wiener(regularization=0.03), edges="circular", background=7)
    assert got.dtype == np.float32
    assert relative(got, wanted) < 2e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("psf_shape", PSF_SHAPES)
def test_the_regularized_inverse_solves_the_normal_equations(psf_shape: Triple, shape: Triple) -> None:
    kernel, image = skewed_psf(psf_shape), photons(shape)
    a, rough = circulant(kernel, shape), circulant(stencil(), shape)
    wanted = np.linalg.solve(a.T @ a + 0.03 * rough.T @ rough, a.T @ image.ravel()).reshape(shape)
    got = inverse.filtered(image, kernel, RegularizedInverse(regularization=0.03), edges="circular")
    assert relative(got, wanted) < 2e-6
    assert got.mean() == pytest.approx(image.mean(), rel=1e-6)


@pytest.mark.parametrize("eps", [1e-6, 3e-2])
@pytest.mark.parametrize("psf_shape", PSF_SHAPES)
def test_the_naive_inverse_floors_the_eigenvalues(psf_shape: Triple, eps: float) -> None:
    shape = SHAPES[0]
    kernel, image = skewed_psf(psf_shape), photons(shape)
    a = circulant(kernel, shape)
    power, vectors = np.linalg.eigh(a.T @ a)
    wanted = vectors @ ((vectors.T @ (a.T @ image.ravel())) / np.maximum(power, eps))
    got = inverse.filtered(image, kernel, NaiveInverse(eps=eps), edges="circular")
    assert relative(got, wanted.reshape(shape)) < (1e-3 if eps < 1e-3 else 2e-6)


def test_the_naive_inverse_undoes_a_skewed_blur() -> None:
    kernel = np.zeros((3, 4, 3), np.float32)
    kernel[1, 2, 1], kernel[2, 3, 0], kernel[0, 0, 1] = 0.6, 0.3, 0.1
    truth = photons((6, 9, 8))
    blurred = (circulant(kernel, truth.shape) @ truth.ravel()).reshape(truth.shape)
    assert relative(inverse.filtered(blurred, kernel, NaiveInverse(), edges="circular"), truth) < 1e-6


@pytest.mark.parametrize(
    ("before", "after"), [((4, 3, 5), (4, 3, 5)), ((0, 6, 1), (2, 0, 9)), ((17, 0, 40), (3, 30, 0))]
)
def test_mirrored_edges_are_a_torus_of_the_mirrored_array(before: Triple, after: Triple) -> None:
    image, kernel = photons((7, 11, 10)), skewed_psf((4, 5, 3))
    torus = inverse.fft_shape(image.shape, before, after)
    ends = [(b, f - b - n) for b, f, n in zip(before, torus, image.shape, strict=True)]
    assert all(end[1] >= a for end, a in zip(ends, after, strict=True))
    mirrored = np.pad(image.astype(np.float64), ends, mode="symmetric")
    otf = np.fft.fftn(on_torus(kernel, torus))
    wanted = np.fft.ifftn(np.fft.fftn(mirrored) * otf.conj() / (abs(otf) ** 2 + 0.02)).real
    cut = tuple(slice(b, b + n) for b, n in zip(before, image.shape, strict=True))
    got = inverse.filtered(image, kernel, Wiener(regularization=0.02), before=before, after=after)
    assert relative(got, wanted[cut]) < 2e-6


def on_torus(kernel: NDArray[np.float32], torus: Triple) -> NDArray[np.float64]:
    placed = np.zeros(torus)
    for k in np.ndindex(*kernel.shape):
        placed[tuple((a - p // 2) % n for a, p, n in zip(k, kernel.shape, torus, strict=True))] += kernel[k]
    return placed


def test_a_flat_image_stays_flat_up_to_its_border() -> None:
    kernel, flat = skewed_psf((5, 4, 7)), np.full((9, 8, 13), 30.0, np.float32)
    kept = inverse.filtered(flat, kernel, RegularizedInverse(), background=10, before=(5, 5, 5), after=(0, 9, 2))
    assert np.allclose(kept, 20, rtol=1e-5)
    assert np.allclose(inverse.filtered(flat, kernel, Wiener(regularization=0.25)), 30 / 1.25, rtol=1e-5)


def test_negative_values_are_kept_unless_told_otherwise() -> None:
    image, kernel = np.zeros((9, 20, 20), np.float32), psf.gaussian((3, 2, 2), (1, 1, 1))
    image[4, 10, 10] = 1000
    signed = inverse.filtered(image, kernel, Wiener(regularization=0.01))
    assert signed.min() < -10
    clipped = inverse.filtered(image, kernel, Wiener(regularization=0.01), nonnegative=True)
    assert np.array_equal(clipped, np.maximum(signed, 0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_every_numeric_type_gives_the_bits_of_float32(dtype: type) -> None:
    image, kernel = photons((6, 12, 10)), skewed_psf((3, 3, 4))
    wanted = inverse.filtered(image, kernel, Wiener(), background=3)
    assert np.array_equal(inverse.filtered(image.astype(dtype), kernel, Wiener(), background=3), wanted)


def test_slabs_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    image, kernel = photons((13, 30, 25)), skewed_psf((5, 6, 7))
    whole = inverse.filtered(image, kernel, Wiener(), before=(3, 3, 3))
    monkeypatch.setitem(inverse.SLAB_BYTES, "cpu", 1)
    assert np.array_equal(whole, inverse.filtered(image, kernel, Wiener(), before=(3, 3, 3)))


def scene(shape: Triple, kernel: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Beads and smooth blobs, blurred, with the noise of 20 photons on the mean."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(shape)
    places = rng.integers(0, shape, (int(truth.size / 4000), 3))
    np.add.at(truth, tuple(places.T), rng.uniform(30, 300, len(places)))
    haze = fftconvolve(rng.random(shape) ** 8, np.ones((9, 9, 9)) / 729, mode="same")
    blurred = fftconvolve(truth + 3 * haze, kernel, mode="same").clip(0)
    return rng.poisson(20 * blurred / blurred.mean()).astype(np.float32)


def worst_core(
    image: NDArray[np.float32], kernel: NDArray[np.float32], method: Inverse, core: Triple, halo: Triple
) -> float:
    """The largest relative L2 difference of a tile's core from the whole volume."""
    far = (40, 40, 40)
    whole = inverse.filtered(image, kernel, method, before=far, after=far)
    worst = 0.0
    for start in product(*(range(0, n, c) for n, c in zip(image.shape, core, strict=True))):
        stop = [min(a + c, n) for a, c, n in zip(start, core, image.shape, strict=True)]
        low = [max(a - h, 0) for a, h in zip(start, halo, strict=True)]
        high = [min(b + h, n) for b, h, n in zip(stop, halo, image.shape, strict=True)]
        tile = inverse.filtered(
            image[tuple(map(slice, low, high))],
            kernel,
            method,
            before=tuple(h - (a - c) for h, a, c in zip(halo, start, low, strict=True)),
            after=tuple(h - (b - a) for h, a, b in zip(halo, stop, high, strict=True)),
        )
        part = whole[tuple(map(slice, start, stop))]
        got = tile[tuple(slice(a - b, c - b) for a, b, c in zip(start, low, stop, strict=True))]
        worst = max(worst, relative(got, part))
    return worst


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
@pytest.mark.parametrize("method", [Wiener(), Wiener(regularization=1e-3), RegularizedInverse()])
def test_tiles_equal_the_whole_within_the_tolerance_in_every_core(method: Inverse, tolerance: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fwhm = tuple(rng.uniform(1.5, 3.0, 3))
    kernel = psf.gaussian(fwhm, (1, 1, 1))
    shape = tuple(int(n) for n in rng.integers(45, 75, 3))
    core = tuple(int(n) for n in rng.integers(17, 40, 3))
    halo = inverse.halo(kernel, method, tolerance=tolerance, largest=(64, 64, 64))
    image = scene(shape, kernel, seed)
    assert worst_core(image, kernel, method, core, halo) <= tolerance
    shorter = tuple(h // 3 for h in halo)
    assert worst_core(image, kernel, method, core, shorter) > tolerance


@pytest.mark.parametrize("method", [Wiener(regularization=0.02), RegularizedInverse(regularization=0.1)])
def test_the_halo_bounds_what_lies_beyond_it(method: Inverse) -> None:
    """Against the whole kernel g, and the largest gain of its tail at any frequency, in float64."""
    profiles = [0.1, 0.3, 0.6, 0.3, 0.0], [0.2, 0.5, 0.3, 0.1], [0.0, 0.7, 0.3]
    kernel = np.asarray(np.einsum("i,j,k", *profiles) / 1.43, np.float32)
    tolerance, torus = 1e-2, (96, 80, 72)
    halo = inverse.halo(kernel, method, tolerance=tolerance, largest=(48, 48, 48))
    otf = np.fft.fftn(on_torus(kernel, torus))
    z, y, x = np.ix_(*(2 * np.pi * np.fft.fftfreq(n) for n in torus))
    response = method.response(otf, (3 - np.cos(z) - np.cos(y) - np.cos(x)) / 6)
    g = np.fft.ifftn(response)
    distance = [np.minimum(np.arange(n), n - np.arange(n)) for n in torus]

    def tail_gain(halo: Triple) -> float:
        inside = np.ix_(*(d <= h for d, h in zip(distance, halo, strict=True)))
        tail = g.copy()
        tail[inside] = 0
        return float(abs(np.fft.fftn(tail)).max() / abs(response[0, 0, 0]))

    allowed = tolerance / inverse.CONTRAST
    assert tail_gain(halo) <= allowed
    for axis in range(3):
        assert tail_gain(tuple(h // 2 if a == axis else h for a, h in enumerate(halo))) > allowed


@pytest.mark.parametrize("tolerance", [1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("profile", [(0.05, 0.2, 0.4, 0.25, 0.1), (0.1, 0.25, 0.4, 0.2, 0.05)])
def test_along_one_axis_the_halo_is_the_smallest_whose_tail_is_allowed(
    profile: tuple[float, ...], tolerance: float
) -> None:
    """Skewed profiles: what undoes them reaches further to one side."""
    kernel = np.array(profile, np.float32).reshape(1, -1, 1)
    otf = np.fft.fft(on_torus(kernel, (1, 512, 1)).ravel())
    g = abs(np.fft.ifft(otf.conj() / (abs(otf) ** 2 + 0.1)))
    gain = 1 / 1.1
    distance = np.minimum(np.arange(512), 512 - np.arange(512))
    allowed = tolerance / 3 / inverse.CONTRAST
    wanted = next(h for h in range(256) if g[distance > h].sum() / gain <= allowed)
    halo = inverse.halo(kernel, Wiener(regularization=0.1), tolerance=tolerance, largest=(0, 50, 0))
    assert halo == (0, wanted, 0)


def test_a_kernel_without_an_end_is_refused() -> None:
    kernel = psf.gaussian((4, 3, 3), (1, 1, 1))
    with pytest.raises(PlanError, match=r"does not fall below the tolerance 0\.001 along z, y, x within"):
        inverse.halo(kernel, NaiveInverse(), tolerance=1e-3, largest=(32, 32, 32))


def test_a_halo_that_is_too_large_is_named_and_would_do() -> None:
    kernel, method = psf.gaussian((6, 2, 2), (1, 1, 1)), Wiener(regularization=0.01)
    needed = inverse.halo(kernel, method, tolerance=1e-3, largest=(64, 64, 64))
    assert needed[0] > 24 > needed[1]
    with pytest.raises(PlanError) as raised:
        inverse.halo(kernel, method, tolerance=1e-3, largest=(24, 24, 24))
    assert f"a halo of {needed} voxels" in str(raised.value)
    assert "larger regularization" in str(raised.value)


def test_an_axis_of_one_voxel_needs_no_halo() -> None:
    kernel = psf.gaussian((4, 2, 2), (1, 1, 1)).sum(axis=0, keepdims=True)
    halo = inverse.halo(kernel, RegularizedInverse(), tolerance=1e-3, largest=(0, 64, 64))
    assert halo[0] == 0 < halo[1] == halo[2]
    plane = inverse.filtered(photons((1, 30, 40)), kernel, RegularizedInverse(), before=halo, after=halo)
    assert plane.shape == (1, 30, 40)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_filters_that_divide_by_nothing_are_refused(value: float) -> None:
    for make in (lambda: NaiveInverse(eps=value), lambda: Wiener(regularization=value)):
        with pytest.raises(ConfigError, match="above 0"):
            make()
    with pytest.raises(ConfigError, match="regularization"):
        RegularizedInverse(regularization=value)


def test_memory_is_what_it_says() -> None:
    image, kernel = photons((64, 90, 100)), psf.gaussian((5, 3, 3), (1, 1, 1))
    inverse.filtered(image[:8], kernel, Wiener())
    pad = (16, 10, 10)
    stated = inverse.working_set_bytes(inverse.fft_shape(image.shape, pad, pad), kernel.shape)
    tracemalloc.start()
    inverse.filtered(image, kernel, Wiener(), before=pad, after=pad)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the copy that the transform back makes of the spectrum is not seen by tracemalloc
    assert 0.4 * stated < peak < stated
