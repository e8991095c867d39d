"""Iterative algorithms against float64 definitions by dense matrices, published data, memory, and tiles."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chunkflow.geometry.box import Triple, triple
from chunkflow.kernels import algorithms, blur, deconvolve, psf
from chunkflow.kernels.algorithms import (
    RICHARDSON_LUCY,
    Algorithm,
    Descend,
    MaskedWiener,
    Roughness,
    Shrinkage,
    TotalVariation,
    WienerButterworth,
)
from chunkflow.kernels.blur import DepthPsfs, Edges

DATA = Path(__file__).parents[2].parent / "shared" / "data"
Values = NDArray[np.float64]

# skewed, off-centre, odd and even: a wrong flip, shift or parity changes the result by per cents
PSF_SHAPES: list[Triple] = [(5, 7, 3), (4, 6, 8), (5, 4, 1), (1, 2, 3)]
SHAPE: Triple = (7, 9, 8)
START, BACKGROUND = 40.0, 3.0


def skewed_psf(shape: Triple) -> NDArray[np.float32]:
    values = np.random.default_rng(sum(shape)).random(shape) ** 3
    return (values / values.sum()).astype(np.float32)


def noisy_image(shape: Triple = SHAPE) -> NDArray[np.float32]:
    return np.random.default_rng(5).poisson(50, shape).astype(np.float32)


def torus_matrix(kernel: NDArray[np.float32], shape: Triple, torus: Triple, domain: Triple) -> Values:
    """A as a dense matrix from the definition: data voxel i sees object voxel i - (k - P // 2) with weight psf[k].

    Object voxels are those of the domain, which lies on a torus: data voxel 0 is torus voxel 0.
    """
    matrix = np.zeros((*shape, *torus))
    for i in np.ndindex(*shape):
        for k in np.ndindex(*kernel.shape):
            at = tuple((a - (b - p // 2)) % f for a, b, p, f in zip(i, k, kernel.shape, torus, strict=True))
            matrix[(*i, *at)] += kernel[k]
    inside = (slice(None),) * 3 + tuple(slice(n) for n in domain)
    return matrix[inside].reshape(int(np.prod(shape)), -1)


class Reference:
    """The loop of the module docstring, in float64, with matrices."""

    def __init__(
        self, kernel: NDArray[np.float32], edges: Edges, *, has_back: bool = False, shape: Triple = SHAPE
    ) -> None:
        self.psf, self.shape = kernel, shape
        self.torus = blur.fft_shape(shape, kernel.shape, edges, has_back=has_back)
        self.domain = shape if edges in ("zero", "circular") else self.torus
        self.on_torus = edges != "zero"
        self.a = torus_matrix(kernel, shape, self.torus, self.domain)

    def run(self, image: NDArray[np.float32], algorithm: Algorithm, iterations: int, a: Values | None = None) -> Values:
        forward = self.a if a is None else a
        y = image.astype(np.float64).ravel()
        back = forward.T if algorithm.back is None else self.back_matrix(algorithm.back)
        seen = np.maximum(back.sum(axis=1), deconvolve.SEEN_FLOOR)
        x = before = np.full(forward.shape[1], START)
        for k in range(1, iterations + 1):
            model = forward @ x + BACKGROUND
            penalty = self.penalty(algorithm, x)
            if isinstance(algorithm.update, Descend):
                new = x + algorithm.update.step * (back @ (y - model) - penalty)
                low, high = algorithm.update.low, algorithm.update.high
                new = new if low is None and high is None else new.clip(low, high)
            elif algorithm.back is None:
                new = x * (back @ (y / model) / seen) / penalty
            else:
                new = x * np.maximum(1 + back @ (y / model - 1), 0)
            if algorithm.shrinkage is not None:
                new = self.shrunk(algorithm.shrinkage, new, algorithm.update.step)
            x = new
            if algorithm.momentum:
                bounds = {"richardson": (0, None), "fista": (0, None)}.get(self.kind(algorithm))
                x = new + (k - 1) / (k + 2) * (new - before)
                low, high = bounds or (algorithm.update.low, algorithm.update.high)
                x = x if low is None and high is None else x.clip(low, high)
            before = new
        return before.reshape(self.domain)[tuple(slice(n) for n in self.shape)]

    def penalty(self, algorithm: Algorithm, x: Values) -> Values | float:
        if algorithm.penalty is None:
            return 0.0 if isinstance(algorithm.update, Descend) else 1.0
        gradient = [self.difference(axis) for axis in range(3)]
        if isinstance(algorithm.penalty, TotalVariation):
            steps = [g @ x for g in gradient]
            length = np.sqrt(sum(s**2 for s in steps) + (algorithms.FLAT_GRADIENT * START) ** 2)
            divergence = -sum(g.T @ (s / length) for g, s in zip(gradient, steps, strict=True))
            return np.asarray(1 - algorithm.penalty.regularization * divergence)
        laplacian = -sum(g.T @ g for g in gradient) / 12
        return np.asarray(algorithm.penalty.regularization * laplacian.T @ (laplacian @ x))

    def difference(self, axis: int) -> Values:
        """Forward difference as a matrix; beyond the last voxel stands the first (torus) or the last again."""
        n = self.domain[axis]
        one = np.roll(np.eye(n), 1, axis=1) - np.eye(n)
        if not self.on_torus:
            one[-1] = 0
        parts = [one if a == axis else np.eye(m) for a, m in enumerate(self.domain)]
        return np.asarray(np.kron(np.kron(parts[0], parts[1]), parts[2]))

    @staticmethod
    def kind(algorithm: Algorithm) -> str:
        return "fista" if algorithm.shrinkage else "gradient" if isinstance(algorithm.update, Descend) else "richardson"

    def shrunk(self, shrinkage: Shrinkage, x: Values, step: float) -> Values:
        smooth = x.reshape(self.domain)
        total = np.zeros(self.domain)
        for scale, threshold in enumerate(shrinkage.thresholds(START * step)):
            coarser = smooth
            for axis, n in enumerate(self.domain):
                taps = np.array([1, 4, 6, 4, 1]) / 16
                place = np.arange(n)[:, None] + np.arange(-2, 3) * 2**scale
                folded = place % (2 * n)
                source = place % n if self.on_torus else np.minimum(folded, 2 * n - 1 - folded)
                matrix = np.zeros((n, n))
                np.add.at(matrix, (np.repeat(np.arange(n), 5), source.ravel()), np.tile(taps, n))
                coarser = np.moveaxis(np.tensordot(matrix, coarser, (1, axis)), 0, axis)
            detail = smooth - coarser
            total += np.sign(detail) * np.maximum(np.abs(detail) - threshold, 0)
            smooth = coarser
        return np.maximum(total + smooth, 0).ravel()

    def back_matrix(self, back: WienerButterworth | MaskedWiener) -> Values:
        """B as a dense matrix: its kernel by the formulas of the docstrings, placed at every voxel of the data."""
        reach = [n // 2 for n in self.psf.shape]
        torus = triple(tuple(max(4 * r + 2, 32) for r in reach))
        response = np.fft.ifftn(transfer_of(back, np.fft.fftn(centred_on_torus(self.psf, torus)), torus)).real
        kernel = np.zeros([2 * r + 1 for r in reach])
        for k in np.ndindex(*kernel.shape):
            offset = [a - r for a, r in zip(k, reach, strict=True)]
            share = [abs(o) / (r + 1) for o, r in zip(offset, reach, strict=True)]
            taper = np.prod([1 if u < 0.5 else np.cos(np.pi * (u - 0.5)) ** 2 for u in share])
            kernel[k] = taper * response[tuple(offset)]
        placed = centred_on_torus(kernel / kernel.sum(), self.torus)
        inside = tuple(slice(n) for n in self.domain)
        return np.array([np.roll(placed, i, axis=(0, 1, 2))[inside].ravel() for i in np.ndindex(*self.shape)]).T


def centred_on_torus(kernel: NDArray[Any], torus: Triple) -> Values:
    """A kernel with its voxel shape // 2 at torus voxel 0."""
    placed = np.zeros(torus)
    for k in np.ndindex(*kernel.shape):
        placed[tuple((b - p // 2) % f for b, p, f in zip(k, kernel.shape, torus, strict=True))] += kernel[k]
    return placed


def transfer_of(
    back: WienerButterworth | MaskedWiener, otf: NDArray[np.complex128], torus: Triple
) -> NDArray[np.complex128]:
    """The formulas of the docstrings, written again, on the whole spectrum."""
    power = np.abs(otf) ** 2
    wiener = np.conj(otf) / (power + back.alpha * power.max())
    if isinstance(back, MaskedWiener):
        share = np.abs(otf) / np.abs(otf).max()
        t = np.clip(np.log10(np.maximum(share, 1e-30) / back.transmits), 0, 1)
        return np.asarray(wiener * (1 - np.cos(np.pi * t)) / 2)
    z, y, x = np.meshgrid(np.fft.fftfreq(torus[0]), np.fft.fftfreq(torus[1]), np.fft.fftfreq(torus[2]), indexing="ij")
    radius = np.sqrt(sum((f / c) ** 2 for f, c in zip((z, y, x), back.cutoff, strict=True)))
    return np.asarray(wiener / np.sqrt(1 + (1 / back.beta**2 - 1) * radius ** (2 * back.order)))


ALGORITHMS: dict[str, Algorithm] = {
    "richardson-lucy": RICHARDSON_LUCY,
    "with momentum": Algorithm(momentum=True),
    "total variation": Algorithm(penalty=TotalVariation(0.05)),
    "landweber": Algorithm(update=Descend(step=1.3)),
    "landweber, momentum": Algorithm(update=Descend(step=1.3), momentum=True),
    "non-negative": Algorithm(update=Descend(low=0.0), momentum=True),
    "bounded": Algorithm(update=Descend(low=10.0, high=80.0)),
    "tikhonov-miller": Algorithm(update=Descend(step=0.8), penalty=Roughness(0.2)),
    "ictm": Algorithm(update=Descend(low=0.0), penalty=Roughness(0.1)),
    "ista": Algorithm(update=Descend(step=0.7), shrinkage=Shrinkage(regularization=0.02)),
    "fista": Algorithm(update=Descend(), shrinkage=Shrinkage(regularization=0.02), momentum=True),
    "wiener-butterworth": Algorithm(back=WienerButterworth(cutoff=(0.3, 0.4, 0.5), alpha=0.05)),
    "masked-wiener": Algorithm(back=MaskedWiener(alpha=0.05, transmits=0.01)),
}


@pytest.mark.parametrize("edges", ["extended", "zero", "circular"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_equals_the_definition_by_dense_matrices(name: str, edges: Edges) -> None:
    kernel = skewed_psf((4, 5, 3))
    algorithm = ALGORITHMS[name]
    expected = Reference(kernel, edges, has_back=algorithm.back is not None).run(noisy_image(), algorithm, 6)
    got = deconvolve.deconvolve(
        noisy_image(), kernel, ALGORITHMS[name], iterations=6, background=BACKGROUND, start=START, edges=edges
    )
    assert got.dtype == np.float32
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("psf_shape", PSF_SHAPES)
def test_skewed_psfs_of_any_parity_equal_the_definition(psf_shape: Triple) -> None:
    kernel = skewed_psf(psf_shape)
    expected = Reference(kernel, "extended").run(noisy_image(), RICHARDSON_LUCY, 8)
    got = deconvolve.deconvolve(
        noisy_image(), kernel, RICHARDSON_LUCY, iterations=8, background=BACKGROUND, start=START
    )
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("edges", ["extended", "zero", "circular"])
@pytest.mark.parametrize("psf_shape", PSF_SHAPES)
def test_the_adjoint_is_the_adjoint(psf_shape: Triple, edges: Edges) -> None:
    shape = (6, 11, 9)
    rng = np.random.default_rng(3)
    operator = blur.Blur(skewed_psf(psf_shape), shape, np, edges=edges)
    x, y = rng.random(operator.domain, np.float32), rng.random(shape, np.float32)
    left = np.vdot(operator.forward(x).astype(np.float64), y)
    right = np.vdot(x.astype(np.float64), operator.adjoint(y))
    assert left == pytest.approx(right, rel=1e-6)


def test_a_psf_that_changes_with_depth_equals_the_definition() -> None:
    kernels = np.stack(
        [skewed_psf((3, 5, 3)), psf.gaussian((2.0, 3.0, 1.5), (1, 1, 1))[2:5, 1:6, 1:4], skewed_psf((3, 5, 3))[::-1]]
    )
    kernels /= kernels.sum(axis=(1, 2, 3), keepdims=True)
    planes = [-1.0, 2.5, 6.0]
    whole = Reference(kernels[0], "extended")
    depth = np.arange(whole.domain[0])
    depth = np.where(depth >= whole.domain[0] - 1, depth - whole.domain[0], depth)  # one plane before the data
    weights = np.stack([np.interp(depth, planes, row) for row in np.eye(3)])
    plane = np.repeat(np.arange(whole.domain[0]), whole.domain[1] * whole.domain[2])
    a = sum(torus_matrix(k, SHAPE, whole.torus, whole.domain) * w[plane] for k, w in zip(kernels, weights, strict=True))
    expected = whole.run(noisy_image(), RICHARDSON_LUCY, 6, a=np.asarray(a))
    got = deconvolve.deconvolve(
        noisy_image(), DepthPsfs(planes, kernels), RICHARDSON_LUCY, iterations=6, background=BACKGROUND, start=START
    )
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)
    same = DepthPsfs([0.0, 3.0], np.stack([kernels[0], kernels[0]]))
    alike = deconvolve.deconvolve(noisy_image(), same, RICHARDSON_LUCY, iterations=4, start=START)
    one = deconvolve.deconvolve(noisy_image(), kernels[0], RICHARDSON_LUCY, iterations=4, start=START)
    assert np.allclose(alike, one, rtol=1e-4)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_neither_slabs_nor_threads_change_a_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = skewed_psf((5, 6, 7))
    image = np.random.default_rng(8).poisson(20, (13, 30, 25))

    def run(threads: int) -> NDArray[np.float32]:
        return np.asarray(
            deconvolve.deconvolve(image, kernel, ALGORITHMS[name], iterations=4, start=20.0, threads=threads)
        )

    whole = run(1)
    monkeypatch.setitem(blur.SLAB_BYTES, "cpu", 1)
    assert np.array_equal(whole, run(1))
    assert np.array_equal(whole, run(3))


def test_a_flat_image_stays_flat_up_to_its_border(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((10, 21, 17), 12.0, np.float32)
    kernel = skewed_psf((5, 6, 7))
    got = deconvolve.deconvolve(image, kernel, RICHARDSON_LUCY, iterations=10, start=12.0)
    assert np.allclose(got, 12.0, rtol=1e-2)
    monkeypatch.setattr(deconvolve, "SEEN_FLOOR", 1e-6)  # the floor is all that keeps it from being exact
    got = deconvolve.deconvolve(image, kernel, RICHARDSON_LUCY, iterations=10, start=12.0)
    assert np.allclose(got, 12.0, rtol=1e-4)


def test_dark_and_negative_voxels_give_zeros_not_nan() -> None:
    image = np.zeros((9, 20, 20), np.float32)
    image[4, 5, 5], image[2, 15, 15] = 1e5, -3.0
    kernel = psf.gaussian((3, 2, 2), (1, 1, 1))
    got = deconvolve.deconvolve(image, kernel, RICHARDSON_LUCY, iterations=30, start=float(image.mean()))
    assert np.isfinite(got).all()
    assert got.min() >= 0
    assert got[:, 12:, 12:].max() < 1e-3
    assert not deconvolve.deconvolve(np.zeros_like(image), kernel, RICHARDSON_LUCY, iterations=3, start=0.0).any()


def test_a_dim_part_beside_a_bright_one_is_kept() -> None:
    image = np.full((12, 24, 60), 1.0, np.float32)  # peers set the quotient to 0 below a fixed model of theirs
    image[:, :, :20] = 1e4
    kernel = psf.gaussian((2, 2, 2), (1, 1, 1))
    got = deconvolve.deconvolve(image, kernel, RICHARDSON_LUCY, iterations=20, start=5e3)
    assert np.allclose(got[:, :, 40:], 1.0, rtol=0.05)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float64])
def test_every_numeric_type_gives_the_bits_of_float32(dtype: type) -> None:
    image = np.random.default_rng(4).poisson(30, (6, 12, 10))
    kernel = skewed_psf((3, 3, 4))
    wanted = deconvolve.deconvolve(image.astype(np.float32), kernel, RICHARDSON_LUCY, iterations=3, start=30.0)
    got = deconvolve.deconvolve(image.astype(dtype), kernel, RICHARDSON_LUCY, iterations=3, start=30.0)
    assert got.dtype == np.float32
    assert np.array_equal(got, wanted)


def test_hollow_bars_come_out_as_published() -> None:
    tifffile = pytest.importorskip("tifffile")
    if not (DATA / "hollow_bars_data.tif").exists():
        pytest.skip(f"hollow_bars_*.tif are not in {DATA}")
    truth, data, kernel = (tifffile.imread(DATA / f"hollow_bars_{name}.tif") for name in ("actual", "data", "kernel"))
    kernel = psf.normalise(kernel)

    def pearson(image: NDArray[np.float32]) -> float:
        return float(np.corrcoef(image.ravel(), truth.ravel())[0, 1])

    def best(algorithm: Algorithm, iterations: int) -> float:
        start, inside = float(data.mean()), tuple(slice(n) for n in data.shape)
        each = deconvolve.iterates(data, kernel, algorithm, iterations=iterations, start=start)
        return max(pearson(x[inside]) for x in each)

    plain = deconvolve.deconvolve(data, kernel, RICHARDSON_LUCY, iterations=50, start=float(data.mean()))
    assert pearson(data) == pytest.approx(0.40, abs=0.01)
    assert pearson(plain) >= 0.58
    assert pearson(np.roll(plain, 1, axis=2)) < 0.575
    assert best(Algorithm(momentum=True), 25) >= pearson(plain)
    assert best(Algorithm(back=MaskedWiener(alpha=2e-3)), 5) >= pearson(plain)
    assert best(Algorithm(momentum=True), 75) >= 0.72


@pytest.mark.parametrize(
    ("name", "shape", "psf_shape"),
    [
        ("richardson-lucy", (40, 50, 60), (9, 9, 9)),
        ("richardson-lucy", (64, 128, 128), (11, 9, 9)),
        ("richardson-lucy", (1, 300, 280), (1, 9, 9)),
        *((name, (64, 100, 90), (11, 9, 9)) for name in ALGORITHMS),
    ],
)
def test_the_projected_memory_is_the_memory(name: str, shape: Triple, psf_shape: Triple) -> None:
    image, kernel, algorithm = np.ones(shape, np.uint16), skewed_psf(psf_shape), ALGORITHMS[name]
    deconvolve.deconvolve(image[:1, :8, :8], kernel, algorithm, iterations=1, start=1.0)  # lazy imports are not ours
    tracemalloc.start()
    try:
        deconvolve.deconvolve(image, kernel, algorithm, iterations=2, start=1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    padded = 4 * np.prod(blur.fft_shape(shape, psf_shape))
    assert 1.0 <= deconvolve.working_set_bytes(shape, psf_shape, algorithm) / peak <= 1.5
    assert peak <= 8 * padded + 5 * blur.SLAB_BYTES["cpu"]
