"""Vesselness: closed forms of tubes and polynomials, scikit-image inside, and the same bits in every block."""

from __future__ import annotations

import tracemalloc
from math import e, sqrt
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from skimage import filters

from chunkflow.kernels import vesselness as v

SATO = v.Measure(filter="sato")
FRANGI = v.Measure(filter="frangi", c=20.0)
ISOTROPIC = (1.0, 1.0, 1.0)


def noise(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Float32 around 1000, correlated over a few voxels."""
    grain = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.2)
    return (1000 + 100 * grain / grain.std()).astype(np.float32)


def filtered(image: np.ndarray, radii: Any, measure: v.Measure = SATO, valid: Any = None, **options: Any) -> np.ndarray:
    """Of a whole volume."""
    whole = tuple(slice(0, n) for n in image.shape)
    voxel_um = options.get("voxel_um", ISOTROPIC)
    return v.vesselness(image, valid, inner=whole, radii_um=tuple(radii), voxel_um=voxel_um, measure=measure)  # type: ignore[arg-type]


def positions(shape: tuple[int, int, int], voxel_um: tuple[float, float, float]) -> list[np.ndarray]:
    """um from the middle voxel, z y x."""
    axes = np.meshgrid(*((np.arange(n) - n // 2) * u for n, u in zip(shape, voxel_um, strict=True)), indexing="ij")
    return list(axes)


@pytest.mark.parametrize("sigma", [0.05, 0.3, 0.7, 1.0, 2.5, 8.0])
def test_kernels_have_the_derivatives_of_polynomials(sigma: float) -> None:
    kernels = v.derivative_kernels(sigma)
    x = np.arange(kernels.shape[1]) - kernels.shape[1] // 2
    moments = [[float((kernel * x**p).sum()) for p in (0, 1, 2)] for kernel in kernels]
    assert moments[0][:2] == pytest.approx([1, 0], abs=1e-12)
    assert moments[1] == pytest.approx([0, 1, 0], abs=1e-12)
    assert moments[2] == pytest.approx([0, 0, 2], abs=1e-12)


def test_a_narrow_kernel_is_a_difference_of_neighbours() -> None:
    assert np.allclose(v.derivative_kernels(0.2)[1:], [[-0.5, 0, 0.5], [1, -2, 1]])


@pytest.mark.parametrize("measure", [SATO, FRANGI])
@pytest.mark.parametrize("valid", [False, True])
def test_a_flat_image_and_a_ramp_have_no_tubes_inside(measure: v.Measure, valid: bool) -> None:
    z, y, x = positions((21, 23, 25), ISOTROPIC)
    flat = np.full(z.shape, 1e4, np.float32)
    usable = np.ones(z.shape, bool) if valid else None
    assert filtered(flat, [1.5], measure, usable).max() < 1e-6
    ramp = 1e4 + 3 * z - 2 * y + x
    assert filtered(ramp, [1.5], measure, usable)[8:-8, 8:-8, 8:-8].max() < 1e-6


def test_a_quadratic_has_its_own_curvature_with_voxels_of_any_shape() -> None:
    voxel_um = (0.3, 0.1, 0.15)
    z, y, x = positions((25, 41, 35), voxel_um)
    image = 500 - 40 * y**2 - 90 * x**2 + 5 * z
    inside = (slice(9, -9), slice(14, -14), slice(12, -12))
    found = filtered(image, [0.3], voxel_um=voxel_um)[inside]
    assert np.allclose(found, 0.3**2 / 2 * sqrt(80 * 180), rtol=1e-4)
    turned = 500 - 40 * (y * 0.8 + z * 0.6) ** 2 - 90 * x**2
    assert np.allclose(filtered(turned, [0.3], voxel_um=voxel_um)[inside], found, rtol=1e-4)


@pytest.mark.parametrize("voxel_um", [ISOTROPIC, (2.0, 1.0, 0.5)])
def test_a_gaussian_tube_answers_on_its_axis_as_the_closed_form_says(voxel_um: tuple[float, float, float]) -> None:
    shape = (31, 61, 33)
    z, y, _ = positions(shape, voxel_um)
    width = 3.0
    image = 50 + 200 * np.exp(-(z**2 + y**2) / (2 * width**2))
    for sigma in (1.5, 3.0, 4.0):
        found = filtered(image, [sigma * sqrt(2)], voxel_um=voxel_um)[15, 30, 16]
        expected = 200 * width**2 * sigma**2 / (width**2 + sigma**2) ** 2
        assert found == pytest.approx(expected, rel=0.01)


def test_a_solid_tube_answers_most_at_its_radius_and_with_its_height_over_e() -> None:
    z, y, _ = positions((61, 61, 21), (0.1, 0.1, 0.1))
    radius = 0.93
    fine = [(z + a / 30) ** 2 + (y + b / 30) ** 2 <= radius**2 for a in (-1, 0, 1) for b in (-1, 0, 1)]
    image = 30 + 100 * np.mean(fine, axis=0)
    radii = [0.5, 0.7, 0.93, 1.2, 1.5]
    found = [filtered(image, [r], voxel_um=(0.1, 0.1, 0.1))[30, 30, 10] for r in radii]
    assert np.argmax(found) == 2
    assert found[2] == pytest.approx(100 / e, rel=0.01)


@pytest.mark.parametrize("sigma", [1.5, 2.0])
def test_sato_is_that_of_scikit_image_inside(sigma: float) -> None:
    image = noise((40, 43, 46))
    inside = (slice(17, -17),) * 3
    expected = filters.sato(image.astype(np.float64), sigmas=[sigma], black_ridges=False)[inside]
    found = filtered(image, [sigma * sqrt(2)])[inside]
    assert expected.max() > 5
    assert np.abs(found - expected).max() < 1e-3 * expected.max()


@pytest.mark.parametrize("bright", [True, False])
def test_frangi_is_that_of_scikit_image_inside(bright: bool) -> None:
    image = noise((40, 43, 46))
    inside = (slice(17, -17),) * 3
    # scikit-image leaves sigma^2 out, so its c, which it calls gamma, is ours over sigma^2.
    expected = filters.frangi(image.astype(np.float64), sigmas=[2], black_ridges=not bright, gamma=5)[inside]
    found = filtered(image, [2 * sqrt(2)], v.Measure(filter="frangi", c=20, bright=bright))[inside]
    assert expected.max() > 0.05
    assert np.abs(found - expected).max() < 1e-3 * expected.max()


@pytest.mark.parametrize("measure", [SATO, FRANGI])
def test_a_plane_has_the_filters_of_a_plane(measure: v.Measure) -> None:
    image = noise((1, 60, 64))
    inside = (slice(17, -17),) * 2
    options = {"sigmas": [2], "black_ridges": False}
    if measure is SATO:
        expected = filters.sato(image[0].astype(np.float64), **options)
    else:
        expected = filters.frangi(image[0].astype(np.float64), gamma=5, **options)
    found = filtered(image, [2 * sqrt(2)], measure, voxel_um=(7.0, 1.0, 1.0))[0]
    assert expected[inside].max() > 0.05
    assert np.abs(found - expected)[inside].max() < 1e-3 * expected[inside].max()


def test_dark_tubes_are_the_bright_ones_of_the_negative() -> None:
    image = noise((15, 16, 17))
    for name in ("sato", "frangi"):
        dark = filtered(image, [1.5], v.Measure(filter=name, bright=False, c=20))  # type: ignore[arg-type]
        assert np.allclose(dark, filtered(-image, [1.5], v.Measure(filter=name, c=20)), atol=1e-5)  # type: ignore[arg-type]
        assert dark.max() > 0.01


def test_the_answer_is_the_largest_of_all_radii() -> None:
    image = noise((15, 16, 17))
    each = [filtered(image, [r]) for r in (1.0, 2.0, 3.0)]
    assert np.array_equal(filtered(image, [1.0, 2.0, 3.0]), np.max(each, axis=0))


def test_a_tube_that_leaves_the_data_answers_to_the_end_as_inside() -> None:
    z, y, x = positions((31, 31, 40), ISOTROPIC)
    image = 50 + 200 * np.exp(-(z**2 + y**2) / 18)
    usable = x < 5
    for measure in (SATO, v.Measure(filter="frangi", c=30)):
        found = filtered(np.where(usable, image, np.nan), [3.0], measure, usable)
        axis = found[15, 15][usable[15, 15]]
        assert np.allclose(axis, axis[0], rtol=1e-4)
        assert axis[0] > 0.3
        assert not found[~usable].any()


def test_a_volume_that_ends_is_one_that_goes_on_without_data() -> None:
    image = noise((12, 20, 22))
    usable = np.ones(image.shape, bool)
    usable[:, :, 15:] = False
    found = filtered(image, [2.0], SATO, usable)[:, :, :15]
    ended = np.ascontiguousarray(image[:, :, :15])
    assert np.array_equal(found, filtered(ended, [2.0], SATO, np.ones(ended.shape, bool)))
    assert np.allclose(found, filtered(ended, [2.0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("valid", [False, True])
@pytest.mark.parametrize("slab", [1, 2**17])
def test_parts_are_those_of_the_whole_bit_for_bit(valid: bool, slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise((24, 33, 37))
    usable = noise(image.shape, 1) > 950 if valid else None
    radii, voxel_um = (1.0, 1.9), (1.5, 1.0, 1.1)
    whole = filtered(image, radii, FRANGI, usable, voxel_um=voxel_um)
    monkeypatch.setattr(v, "SLAB_VOXELS", slab)
    halo = v.halo(radii, voxel_um)
    for low, high in (((0, 0, 0), (9, 11, 13)), ((7, 12, 16), (13, 20, 37)), ((20, 5, 30), (24, 33, 31))):
        begin = [max(0, a - h) for a, h in zip(low, halo, strict=True)]
        end = [min(n, b + h) for n, b, h in zip(image.shape, high, halo, strict=True)]
        around = tuple(slice(a, b) for a, b in zip(begin, end, strict=True))
        z, y, x = (slice(a - o, b - o) for a, b, o in zip(low, high, begin, strict=True))
        part = v.vesselness(
            image[around],
            None if usable is None else usable[around],
            inner=(z, y, x),
            radii_um=radii,
            voxel_um=voxel_um,
            measure=FRANGI,
        )
        core = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        assert np.array_equal(part, whole[core])


def test_eigenvalues_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((300, 3, 3))
    matrices[100:200] = np.eye(3) * rng.standard_normal((100, 1, 1)) + 1e-9 * matrices[100:200]
    vectors = rng.standard_normal((100, 3))
    matrices[200:] = -vectors[:, :, None] * vectors[:, None]  # two are 0
    matrices = matrices + matrices.transpose(0, 2, 1)
    matrices[0] = 0
    for matrix in matrices:
        expected = np.linalg.eigvalsh(matrix)
        assert v._eigenvalues(matrix, False) == pytest.approx(expected, abs=1e-7 * np.abs(expected).max() + 1e-300)
        plane = np.linalg.eigvalsh(matrix[1:, 1:])
        assert v._eigenvalues(matrix, True)[1:] == pytest.approx(plane, abs=1e-12)


@pytest.mark.parametrize("valid", [False, True])
@pytest.mark.parametrize("shape", [(40, 50, 60), (60, 150, 160)])
def test_memory_stays_below_what_is_said(valid: bool, shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 1000, shape).astype(np.uint16)
    usable = image > 100 if valid else None
    halo = v.halo((1.2,), ISOTROPIC)
    inner = tuple(slice(h, n - h) for n, h in zip(shape, halo, strict=True))
    wanted = tuple(s.stop - s.start for s in inner)

    def run() -> None:
        v.vesselness(image, usable, inner=inner, radii_um=(1.2,), voxel_um=ISOTROPIC, measure=SATO)  # type: ignore[arg-type]

    run()
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1] - 4 * int(np.prod(wanted))
    tracemalloc.stop()
    said = v.working_bytes(wanted, shape)  # type: ignore[arg-type]
    assert peak <= said
    assert not valid or peak > 0.8 * said
