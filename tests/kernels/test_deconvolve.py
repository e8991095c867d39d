"""Richardson-Lucy against a float64 definition, the adjoint, published data, memory, and tiles against the whole."""

from __future__ import annotations

import tracemalloc
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from chunkflow.kernels import deconvolve, psf

DATA = Path(__file__).parents[2].parent / "shared" / "data"
Triple = tuple[int, int, int]

# skewed, off-centre, odd and even: a wrong flip, shift or parity changes the result by per cents
PSF_SHAPES = [(5, 7, 3), (4, 6, 8), (5, 4, 1), (1, 2, 3)]


def skewed_psf(shape: Triple) -> NDArray[np.float32]:
    values = np.random.default_rng(sum(shape)).random(shape) ** 3
    return (values / values.sum()).astype(np.float32)


def blur_matrix(kernel: NDArray[np.float32], shape: Triple) -> NDArray[np.float64]:
    """A as a dense matrix, from the definition: data voxel i sees object voxel i - (k - centre) with weight psf[k].

    Object voxels are counted from -(P - 1 - P // 2) on each axis, so there are N + P - 1 of them.
    """
    extended = tuple(n + p - 1 for n, p in zip(shape, kernel.shape, strict=True))
    matrix = np.zeros((*shape, *extended))
    for i in np.ndindex(*shape):
        for k in np.ndindex(*kernel.shape):
            matrix[(*i, *(a + p - 1 - b for a, p, b in zip(i, kernel.shape, k, strict=True)))] += kernel[k]
    return matrix.reshape(int(np.prod(shape)), -1)


def data_part(extended: NDArray[np.float64], kernel: NDArray[np.float32], shape: Triple) -> NDArray[np.float64]:
    before = [p - 1 - p // 2 for p in kernel.shape]
    full = extended.reshape([n + p - 1 for n, p in zip(shape, kernel.shape, strict=True)])
    return full[tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))]


@pytest.mark.parametrize("psf_shape", PSF_SHAPES)
def test_it_equals_the_definition_by_dense_matrices(psf_shape: Triple) -> None:
    shape, background, start = (7, 9, 8), 3.0, 40.0
    kernel = skewed_psf(psf_shape)
    image = np.random.default_rng(5).poisson(50, shape).astype(np.float32)
    a = blur_matrix(kernel, shape)
    seen = np.maximum(a.sum(axis=0), deconvolve.SEEN_FLOOR)
    x = np.full(a.shape[1], start)
    for _ in range(8):
        x *= a.T @ (image.ravel() / (a @ x + background)) / seen
    expected = data_part(x, kernel, shape)
    got = deconvolve.richardson_lucy(image, kernel, iterations=8, background=background, start=start)
    assert got.dtype == np.float32
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("psf_shape", PSF_SHAPES)
def test_the_adjoint_is_the_adjoint(psf_shape: Triple) -> None:
    shape = (6, 11, 9)
    rng = np.random.default_rng(3)
    blur = deconvolve.ExtendedBlur(skewed_psf(psf_shape), shape, np)
    x, y = rng.random(blur.padded, np.float32), rng.random(shape, np.float32)
    left = np.vdot(blur.forward(x).astype(np.float64), y)
    right = np.vdot(x.astype(np.float64), blur.adjoint(y))
    assert left == pytest.approx(right, rel=1e-6)


def test_slabs_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = skewed_psf((5, 6, 7))
    image = np.random.default_rng(8).poisson(20, (13, 30, 25))
    whole = deconvolve.richardson_lucy(image, kernel, iterations=4, start=20.0)
    monkeypatch.setitem(deconvolve.SLAB_BYTES, "cpu", 1)
    assert np.array_equal(whole, deconvolve.richardson_lucy(image, kernel, iterations=4, start=20.0))


def test_a_flat_image_stays_flat_up_to_its_border(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((10, 21, 17), 12.0, np.float32)
    got = deconvolve.richardson_lucy(image, skewed_psf((5, 6, 7)), iterations=10, start=12.0)
    assert np.allclose(got, 12.0, rtol=1e-2)
    monkeypatch.setattr(deconvolve, "SEEN_FLOOR", 1e-6)  # the floor is all that keeps it from being exact
    got = deconvolve.richardson_lucy(image, skewed_psf((5, 6, 7)), iterations=10, start=12.0)
    assert np.allclose(got, 12.0, rtol=1e-4)


def test_dark_and_negative_voxels_give_zeros_not_nan() -> None:
    image = np.zeros((9, 20, 20), np.float32)
    image[4, 5, 5], image[2, 15, 15] = 1e5, -3.0
    kernel = psf.gaussian((3, 2, 2), (1, 1, 1))
    got = deconvolve.richardson_lucy(image, kernel, iterations=30, start=float(image.mean()))
    assert np.isfinite(got).all()
    assert got.min() >= 0
    assert got[:, 12:, 12:].max() < 1e-3
    assert not deconvolve.richardson_lucy(np.zeros_like(image), kernel, iterations=3, start=0.0).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64])
def test_every_numeric_type_gives_the_bits_of_float32(dtype: type) -> None:
    image = np.random.default_rng(4).poisson(30, (6, 12, 10))
    kernel = skewed_psf((3, 3, 4))
    wanted = deconvolve.richardson_lucy(image.astype(np.float32), kernel, iterations=3, start=30.0)
    got = deconvolve.richardson_lucy(image.astype(dtype), kernel, iterations=3, start=30.0)
    assert got.dtype == np.float32
    assert np.array_equal(got, wanted)


def test_hollow_bars_come_out_as_published() -> None:
    tifffile = pytest.importorskip("tifffile")
    if not (DATA / "hollow_bars_data.tif").exists():
        pytest.skip(f"hollow_bars_*.tif are not in {DATA}")
    truth, data, kernel = (tifffile.imread(DATA / f"hollow_bars_{name}.tif") for name in ("actual", "data", "kernel"))
    got = deconvolve.richardson_lucy(data, psf.normalise(kernel), iterations=50, start=float(data.mean()))

    def pearson(image: NDArray[np.float32]) -> float:
        return float(np.corrcoef(image.ravel(), truth.ravel())[0, 1])

    assert pearson(data) == pytest.approx(0.40, abs=0.01)
    assert pearson(got) >= 0.575
    assert pearson(np.roll(got, 1, axis=2)) < 0.575


@pytest.mark.parametrize(("iterations", "fwhm"), [(10, (4.7, 2.8, 2.8)), (30, (4.0, 2.4, 2.4))])
def test_tiles_agree_with_the_whole_volume_within_the_tolerance(iterations: int, fwhm: tuple[float, ...]) -> None:
    tolerance, core = 1e-3, 32
    kernel = psf.gaussian((fwhm[0], fwhm[1], fwhm[2]), (1.0, 1.0, 1.0))
    halo = psf.halo(kernel, iterations=iterations, tolerance=tolerance)
    image = phantom((64, 96, 96), kernel)
    start = float(image.mean())
    whole = deconvolve.richardson_lucy(image, kernel, iterations=iterations, start=start)
    worst = 0.0
    for corner in product(*(range(0, n, core) for n in image.shape)):
        low = [max(c - h, 0) for c, h in zip(corner, halo, strict=True)]
        high = [min(c + core + h, n) for c, h, n in zip(corner, halo, image.shape, strict=True)]
        tile = image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        got = deconvolve.richardson_lucy(tile, kernel, iterations=iterations, start=start)
        inner = got[tuple(slice(c - a, c - a + core) for c, a in zip(corner, low, strict=True))]
        wanted = whole[tuple(slice(c, c + core) for c in corner)]
        worst = max(worst, float(np.linalg.norm(inner - wanted) / np.linalg.norm(wanted)))
    assert worst <= tolerance, f"halo {halo}: {worst:.2e}"


def phantom(shape: Triple, kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Random bright rods on a dim ground, blurred, with Poisson noise."""
    rng = np.random.default_rng(11)
    scene = np.full(shape, 10.0, np.float32)
    for _ in range(120):
        z, y, x = (int(rng.integers(0, n - 2)) for n in shape)
        length = [2, 2, 2]
        length[int(rng.integers(3))] = int(rng.integers(6, 30))
        scene[z : z + length[0], y : y + length[1], x : x + length[2]] = 300.0
    blur = deconvolve.ExtendedBlur(kernel, shape, np)
    seen = np.full(blur.padded, 10.0, np.float32)
    seen[: shape[0], : shape[1], : shape[2]] = scene
    return rng.poisson(np.maximum(blur.forward(seen), 0)).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "psf_shape"), [((40, 50, 60), (9, 9, 9)), ((64, 128, 128), (11, 9, 9)), ((1, 300, 280), (1, 9, 9))]
)
def test_the_projected_memory_is_the_memory(shape: Triple, psf_shape: Triple) -> None:
    image, kernel = np.ones(shape, np.uint16), skewed_psf(psf_shape)
    deconvolve.richardson_lucy(image[:1, :8, :8], kernel, iterations=1, start=1.0)  # lazy imports are not ours
    tracemalloc.start()
    try:
        deconvolve.richardson_lucy(image, kernel, iterations=2, start=1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 1.0 <= deconvolve.working_set_bytes(shape, psf_shape) / peak <= 1.4
