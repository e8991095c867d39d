"""The starlet against its definition in float64, on tori and mirrored; shifts, exactness, noise and memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from chunkflow.kernels import starlet

SHAPE = (13, 22, 17)


def noise(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(10, 4, shape).astype(np.float32)


def defined(image: NDArray[np.float32], thresholds: list[float], mode: str) -> NDArray[np.float64]:
    """c_J plus the soft-thresholded differences of successive smoothings."""
    smooth = image.astype(np.float64)
    total = np.zeros(image.shape)
    for scale, threshold in enumerate(thresholds):
        taps = np.zeros(4 * 2**scale + 1)
        taps[:: 2**scale] = np.array([1, 4, 6, 4, 1]) / 16
        coarser = smooth
        for axis in range(3):
            coarser = correlate1d(coarser, taps, axis=axis, mode=mode)
        detail = smooth - coarser
        total += np.sign(detail) * np.maximum(np.abs(detail) - threshold, 0)
        smooth = coarser
    return total + smooth


@pytest.mark.parametrize(("wrap", "mode"), [(True, "wrap"), (False, "reflect")])
@pytest.mark.parametrize("shape", [SHAPE, (1, 30, 21), (3, 5, 40)])
def test_it_equals_the_definition(shape: tuple[int, int, int], wrap: bool, mode: str) -> None:
    image, thresholds = noise(shape), [3.0, 0.5, 0.2]
    got = starlet.shrink(image, thresholds, wrap=wrap)
    assert got.dtype == np.float32
    assert np.allclose(got, defined(image, thresholds, mode), rtol=0, atol=1e-5)
    assert not np.allclose(got, image, atol=1)


def test_zero_thresholds_give_the_image_bit_for_bit() -> None:
    image = noise(SHAPE)
    kept = image.copy()
    assert np.array_equal(starlet.shrink(image, [0.0, 0.0, 0.0]), image)
    starlet.shrink(image, [1.0, 1.0, 1.0])
    assert np.array_equal(image, kept)


def test_endless_thresholds_leave_the_smooth_rest() -> None:
    flat = np.full(SHAPE, 7.0, np.float32)
    assert np.allclose(starlet.shrink(flat, [9.0, 9.0, 9.0]), flat, rtol=1e-6)
    rest = starlet.shrink(noise(SHAPE), [1e9, 1e9, 1e9])
    assert np.allclose(rest, defined(noise(SHAPE), [1e9, 1e9, 1e9], "wrap"), atol=1e-4)


@pytest.mark.parametrize("shift", [(1, 0, 0), (5, 3, 16), (-4, 11, 2)])
def test_a_shift_of_the_torus_shifts_the_result_bit_for_bit(shift: tuple[int, int, int]) -> None:
    image, thresholds = noise(SHAPE), [3.0, 0.5, 0.2]
    moved = starlet.shrink(np.roll(image, shift, (0, 1, 2)), thresholds)
    assert np.array_equal(moved, np.roll(starlet.shrink(image, thresholds), shift, (0, 1, 2)))


def test_slabs_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise((19, 40, 40))
    whole = starlet.shrink(image, [2.0, 0.4, 0.1], wrap=False)
    monkeypatch.setitem(starlet.SLAB_BYTES, "cpu", 1)
    assert np.array_equal(whole, starlet.shrink(image, [2.0, 0.4, 0.1], wrap=False))


@pytest.mark.parametrize("scales", [1, 2, 3])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nothing_beyond_its_reach_moves_a_voxel(scales: int, axis: int) -> None:
    image = noise((33, 33, 33))
    changed = image.copy()
    changed[16, 16, 16] += 500
    moved = starlet.shrink(image, [1.0] * scales) != starlet.shrink(changed, [1.0] * scales)
    places = np.flatnonzero(moved.any(axis=tuple(a for a in range(3) if a != axis)))
    assert abs(places - 16).max() == starlet.reach(scales)


def test_noise_gains_are_those_of_white_noise() -> None:
    image = np.random.default_rng(3).normal(0, 1, (64, 64, 64)).astype(np.float32)
    gains = starlet.noise_gains(3)
    assert gains == pytest.approx((0.956, 0.120, 0.0350), abs=6e-4)
    for scales, gain in enumerate(gains, start=1):
        # what an endless threshold takes from the last scale is its coefficient
        detail = image - starlet.shrink(image, [0.0] * (scales - 1) + [1e9])
        assert detail.std() == pytest.approx(gain, rel=0.05)


def test_it_holds_three_images() -> None:
    image = noise((64, 96, 96))
    starlet.shrink(image[:8], [1.0])
    tracemalloc.start()
    starlet.shrink(image, [1.0, 0.5, 0.2])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < starlet.IMAGES * image.nbytes + 10 * starlet.SLAB_BYTES["cpu"]
