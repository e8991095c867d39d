"""Generalised cross-validation: its trace against dense Jacobians, its choice against the truth of a phantom."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import kl_div

from chunkflow.kernels import psf, stopping
from chunkflow.kernels.stopping import Terms

SHAPE = (18, 36, 30)
Volume = NDArray[np.float64]


class TorusBlur:
    """A symmetric blur on a torus and thus its own adjoint."""

    def __init__(self) -> None:
        kernel = psf.gaussian((4, 3, 3), (1, 1, 1))
        placed = np.zeros(SHAPE)
        placed[tuple(slice(n) for n in kernel.shape)] = kernel
        self._otf = np.fft.rfftn(np.roll(placed, [-(n // 2) for n in kernel.shape], (0, 1, 2)))

    def __call__(self, image: Volume) -> Volume:
        return np.maximum(np.fft.irfftn(np.fft.rfftn(image) * self._otf, s=SHAPE, axes=(0, 1, 2)), 0)


BLUR = TorusBlur()


def models(y: Volume, background: float, iterations: int, start: float) -> list[Volume]:
    """Blurred estimates of plain Richardson-Lucy after each iteration; y may be negative."""
    estimate = np.full(SHAPE, start)
    blurred = []
    for _ in range(iterations):
        ratio = y / np.maximum(BLUR(estimate) + background, 1e-6 * start)
        estimate = estimate * np.maximum(np.fft.irfftn(np.fft.rfftn(ratio) * BLUR._otf, s=SHAPE, axes=(0, 1, 2)), 0)
        blurred.append(BLUR(estimate))
    return blurred


def blobs(photons: float, seed: int) -> Volume:
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    truth = np.full(SHAPE, 0.02)
    for _ in range(6):
        centre, radius = rng.random(3) * SHAPE, rng.uniform(2, 5)
        truth[sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) < radius**2] += 1
    return truth * photons / truth.mean()


def curve(y: Volume, background: float, iterations: int, seed: int = 7) -> list[Terms]:
    signs = stopping.probe(SHAPE, seed)
    epsilon = stopping.PERTURBATION * float(y.mean())
    start = float(y.mean()) - background
    plain, moved = (models(v, background, iterations, start) for v in (y, y + epsilon * signs))
    return [stopping.gcv(y, m, p, signs, epsilon, background) for m, p in zip(plain, moved, strict=True)]


@pytest.mark.parametrize(
    ("photons", "background", "iterations"), [(2, 0, 40), (2, 1, 40), (10, 3, 80), (20, 0, 110), (30, 10, 130)]
)
def test_the_choice_is_near_the_iteration_that_predicts_the_noise_free_image_best(
    photons: float, background: float, iterations: int
) -> None:
    clean = BLUR(blobs(photons, 3)) + background
    y = np.random.default_rng(4).poisson(clean).astype(float)
    blurred = models(y, background, iterations, float(y.mean()) - background)
    best = 1 + int(np.argmin([kl_div(clean, m + background).sum() for m in blurred]))
    choice = stopping.choose([curve(y, background, iterations)])
    assert 3 < best < iterations
    assert best / 1.35 <= choice.iteration <= best * 1.35
    assert not choice.is_at_end
    assert len(choice.scores) == iterations


def test_the_choice_does_not_depend_on_the_gain_of_the_camera() -> None:
    y = np.random.default_rng(5).poisson(BLUR(blobs(4, 5)) + 2).astype(float)
    once = stopping.choose([curve(y, 2, 40)])
    for gain in (0.125, 7.3, 400.0):
        amplified = stopping.choose([curve(gain * y, gain * 2, 40)])
        assert amplified.iteration == once.iteration < 40
        assert np.allclose(amplified.scores, gain * np.array(once.scores), rtol=1e-6)


def test_the_trace_is_that_of_the_jacobian() -> None:
    """A linear smoother, whose Jacobian is its matrix: its trace is N times the kernel's central voxel."""
    y = np.random.default_rng(6).poisson(30, SHAPE).astype(float)
    centre = BLUR(np.eye(1, y.size, 0).reshape(SHAPE))[0, 0, 0]
    epsilon = 0.3
    traces = []
    for seed in range(20):
        signs = stopping.probe(SHAPE, seed)
        terms = stopping.gcv(y, BLUR(y), BLUR(y + epsilon * signs), signs, epsilon, background=1.0)
        traces.append(terms.trace)
        assert terms.voxels == y.size
        assert terms.deviance == pytest.approx(2 * kl_div(y, BLUR(y) + 1.0).sum())
    error = np.std(traces) / np.sqrt(len(traces))
    assert np.mean(traces) == pytest.approx(y.size * centre, abs=4 * error)
    assert error < 0.02 * y.size * centre


def test_richardson_lucy_spends_more_degrees_of_freedom_with_every_iteration() -> None:
    y = np.random.default_rng(8).poisson(BLUR(blobs(10, 8)) + 2).astype(float)
    terms = curve(y, 2, 15)
    assert terms[0].trace > 0
    assert (np.diff([t.trace for t in terms]) > 0).all()
    assert (np.diff([t.deviance for t in terms]) < 0).all()
    assert terms[-1].trace < 0.2 * y.size


def test_the_probe_is_the_same_everywhere() -> None:
    signs = stopping.probe((3, 5, 4), 1)
    assert signs.dtype == np.float32
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert np.array_equal(signs, stopping.probe((3, 5, 4), 1))
    assert not np.array_equal(signs, stopping.probe((3, 5, 4), 2))
    assert abs(stopping.probe((40, 50, 60), 1).mean()) < 0.02
    assert "".join("+" if s > 0 else "-" for s in stopping.probe((1, 2, 8), 0).ravel()) == "-+++++-+-+++++--"


def test_tiles_are_summed_before_the_minimum_is_taken() -> None:
    large = [Terms(900.0, 10.0, 1000), Terms(700.0, 50.0, 1000), Terms(690.0, 200.0, 1000)]
    small = [Terms(50.0, 1.0, 100), Terms(60.0, 2.0, 100), Terms(10.0, 3.0, 100)]
    choice = stopping.choose([large, small])
    by_hand = [(d / 1100) / (1 - t / 1100) ** 2 for d, t in ((950.0, 11.0), (760.0, 52.0), (700.0, 203.0))]
    assert choice.scores == pytest.approx(by_hand)
    assert choice.iteration == 2
    assert not choice.is_at_end
    assert stopping.choose([small]).iteration == 3
    assert stopping.choose([small]).is_at_end


def test_of_equal_iterations_the_earlier_is_chosen_and_a_spent_model_never() -> None:
    flat = Terms(100.0, 5.0, 1000)
    assert stopping.choose([[flat, flat, flat]]).iteration == 1
    spent = Terms(1.0, 1000.0, 1000)
    assert spent.score == np.inf
    assert stopping.choose([[spent, flat, Terms(0.5, 1500.0, 1000)]]).iteration == 2
