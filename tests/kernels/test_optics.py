"""Computed PSFs: adaptive integration of the formulas in their own variable, closed forms, and symmetry.

The truth of the integrals is QUADPACK over rho on the pupil, phases written out as in the papers; the kernels use
Gauss-Legendre nodes over an angle.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import asin, cos, exp, inf, log, pi, radians, sin, sqrt
from typing import Any

import numpy as np
import pytest
from scipy import integrate
from scipy.interpolate import CubicSpline
from scipy.special import jv

from chunkflow.errors import ConfigError, InputError
from chunkflow.kernels import axial, extent, layers, optics
from chunkflow.kernels.optics import Optics

OIL_INTO_WATER = Optics(na=1.4, emission_um=0.525, immersion_index=1.515, sample_index=1.33, depth_um=10.0)
MATCHED = Optics(na=1.4, emission_um=0.525, immersion_index=1.515, sample_index=1.515)
LOW = Optics(na=0.5, emission_um=0.6, immersion_index=1.0, sample_index=1.33, depth_um=10.0)
THICK_GLASS = Optics(
    na=1.2,
    emission_um=0.525,
    immersion_index=1.34,
    immersion_design_index=1.33,
    sample_index=1.38,
    coverslip_index=1.52,
    coverslip_um=180.0,
    depth_um=10.0,
)
CASES = {"matched": MATCHED, "10 um into water": OIL_INTO_WATER, "low NA": LOW, "wrong coverslip": THICK_GLASS}
POINTS = [(-3, 0, 0), (-1, 2, 1), (0, 0, 0), (0, 3, 0), (1, 1, 4), (2, 0, 3), (3, 5, 6)]
SHAPE, VOXEL_UM = (7, 13, 15), (0.35, 0.08, 0.11)


def opd_um(o: Optics, rho: float, stage_um: float, sample: Callable[[float], float] | None = None) -> float:
    """Gibson & Lanni's optical path difference, written out."""

    def w(n: float) -> float:
        return sqrt(max(n**2 - (o.na * rho) ** 2, 0.0))

    ni, ng, ns = o.immersion_index, o.coverslip_index, o.sample_index
    di = ni if o.immersion_design_index is None else o.immersion_design_index
    dg, t0 = o.coverslip_design_index, o.working_distance_um
    ti = ni * (t0 / di + o.coverslip_design_um / dg - o.coverslip_um / ng) - stage_um
    layer = o.depth_um * w(ns) if sample is None else sample(o.na * rho)
    return layer + o.coverslip_um * w(ng) - o.coverslip_design_um * w(dg) + ti * w(ni) - t0 * w(di)


def integral(function: Callable[[float], complex], limit: float) -> complex:
    """Adaptive, in pieces so that no turn of the phase is missed."""
    edges = np.linspace(0, limit, 9)
    total = 0j
    for a, b in pairwise(edges):
        for part, unit in ((np.real, 1), (np.imag, 1j)):
            total += unit * integrate.quad(lambda rho: part(function(rho)), a, b, limit=500, epsabs=1e-10)[0]  # noqa: B023
    return total


def scalar(
    o: Optics, stage_um: float, r: float, wavelength: float | None = None, sample: Any = None, ns: Any = None
) -> float:
    """|int J0 exp(i k OPD) rho d(rho)|^2."""
    k = 2 * pi / (wavelength or o.emission_um)
    start = opd_um(o, 0.0, stage_um, sample)
    limit = min(1.0, (ns or o.sample_index) / o.na)

    def ray(rho: float) -> complex:
        return jv(0, k * o.na * r * rho) * np.exp(1j * k * (opd_um(o, rho, stage_um, sample) - start)) * rho

    return abs(integral(ray, limit)) ** 2


def vectorial(o: Optics, stage_um: float, r: float) -> float:
    """|I0|^2 + 2 |I1|^2 + |I2|^2 over the angle in the immersion, Fresnel's formulas by angles."""
    k = 2 * pi / o.emission_um
    n1, n2, n3 = o.immersion_index, o.coverslip_index, o.sample_index
    start = opd_um(o, 0.0, stage_um)

    def waves(rho: float, order: int) -> complex:
        s = o.na * rho
        c1, c2, c3 = (sqrt(max(1 - (s / n) ** 2, 0.0)) for n in (n1, n2, n3))
        ts = 2 * n1 * c1 / (n1 * c1 + n2 * c2) * 2 * n2 * c2 / (n2 * c2 + n3 * c3)
        tp = 2 * n1 * c1 / (n2 * c1 + n1 * c2) * 2 * n2 * c2 / (n3 * c2 + n2 * c3)
        amplitude = {0: ts + tp * c3, 1: tp * s / n3, 2: ts - tp * c3}[order]
        # sin theta d(theta) = (NA / n1)^2 rho d(rho) / cos theta
        phase = np.exp(1j * k * (opd_um(o, rho, stage_um) - start))
        return sqrt(c1) / c1 * amplitude * jv(order, k * s * r) * phase * rho

    limit = min(1.0, n3 / o.na)
    parts = [abs(integral(lambda rho, m=m: waves(rho, m), limit)) ** 2 for m in (0, 1, 2)]
    return parts[0] + 2 * parts[1] + parts[2]


def at_points(psf: np.ndarray) -> np.ndarray:
    return np.array([psf[tuple(n // 2 + p for n, p in zip(psf.shape, point, strict=True))] for point in POINTS])


def places(centre_um: float) -> list[tuple[float, float]]:
    """(stage, r) of the points."""
    return [(centre_um + z * VOXEL_UM[0], sqrt((y * VOXEL_UM[1]) ** 2 + (x * VOXEL_UM[2]) ** 2)) for z, y, x in POINTS]


def assert_proportional(ours: np.ndarray, truth: np.ndarray, peak: int = 2) -> None:
    """To 1e-4 of the peak; the scale is free because a PSF sums to 1."""
    assert np.abs(ours / ours[peak] - truth / truth[peak]).max() < 1e-4 * max(truth.max() / truth[peak], 1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("model", ["scalar", "vectorial"])
def test_a_psf_equals_adaptive_integration_at_its_peak_and_off_it(name: str, model: str) -> None:
    o = CASES[name]
    function, truth = (optics.gibson_lanni, scalar) if model == "scalar" else (optics.richards_wolf, vectorial)
    centre = o.depth_um + optics.focal_shift_um(o, model=model)
    expected = np.array([truth(o, *place) for place in places(centre)])
    assert_proportional(at_points(function(SHAPE, VOXEL_UM, o)), expected)


def test_the_nominal_centre_is_the_stage_at_the_depth_of_the_particle() -> None:
    o = OIL_INTO_WATER
    deep = Optics(na=1.4, emission_um=0.525, immersion_index=1.515, sample_index=1.5, depth_um=3.0)
    expected = np.array([scalar(deep, *place) for place in places(3.0)])
    assert_proportional(at_points(optics.gibson_lanni(SHAPE, VOXEL_UM, deep, centre="nominal")), expected)
    # oil into water: the stage travels farther than the focus, at least by the paraxial ratio of the indices
    assert optics.focal_shift_um(o) > o.depth_um * (1.515 / 1.33 - 1)
    assert optics.focal_shift_um(MATCHED) == 0


def test_born_and_wolf_has_its_closed_forms() -> None:
    """On the axis sinc^2, in focus the Airy disc."""
    o = Optics(na=0.5, emission_um=0.6, immersion_index=1.0, sample_index=1.0)
    axis = optics.born_wolf((81, 1, 1), (0.2, 1.0, 1.0), o)[:, 0, 0]
    z = (np.arange(81) - 40) * 0.2
    closed = np.sinc(o.na**2 * z / (2 * o.emission_um)) ** 2
    assert np.abs(axis / axis[40] - closed).max() < 1e-5
    line = optics.born_wolf((1, 1, 801), (1.0, 1.0, 0.005), o)[0, 0]
    v = 2 * pi * o.na / o.emission_um * np.abs((np.arange(801) - 400) * 0.005)
    airy = np.divide(2 * jv(1, v), v, out=np.ones_like(v), where=v > 0) ** 2
    assert np.abs(line / line[400] - airy).max() < 1e-5
    dark = 100 + line[500:620].argmin()
    assert dark * 0.005 == pytest.approx(0.61 * o.emission_um / o.na, abs=0.004)


def test_widths_are_those_of_the_textbooks() -> None:
    voxel = (0.05, 0.02, 0.02)
    low = Optics(na=0.3, emission_um=0.5, immersion_index=1.0, sample_index=1.0)
    width = extent.fwhm(optics.gibson_lanni((301, 61, 61), (0.05, 0.05, 0.05), low), (0.05, 0.05, 0.05))
    assert width[1] == pytest.approx(0.514 * 0.5 / 0.3, rel=0.01)
    assert width[2] == pytest.approx(width[1], rel=1e-6)
    assert width[0] == pytest.approx(0.886 * 0.5 / (1 - sqrt(1 - 0.09)), rel=0.01)
    high = extent.fwhm(optics.gibson_lanni((61, 41, 41), voxel, MATCHED), voxel)
    assert high[0] == pytest.approx(0.88 * 0.525 / (1.515 - sqrt(1.515**2 - 1.4**2)), rel=0.07)
    assert high[1] == pytest.approx(0.51 * 0.525 / 1.4, rel=0.03)


def test_vectorial_light_is_scalar_light_at_low_aperture_and_wider_at_high() -> None:
    low = Optics(na=0.05, emission_um=0.5, immersion_index=1.0, sample_index=1.0)
    grid = ((21, 31, 31), (40.0, 1.0, 1.0))
    fields, paraxial = optics.richards_wolf(*grid, low), optics.born_wolf(*grid, low)
    assert np.abs(fields - paraxial).max() < 1e-3 * paraxial.max()  # they part as NA^2
    voxel = (0.05, 0.02, 0.02)
    wide, narrow = (
        extent.fwhm(f((61, 41, 41), voxel, MATCHED), voxel) for f in (optics.richards_wolf, optics.gibson_lanni)
    )
    assert wide[1] > 1.08 * narrow[1]


def test_a_sample_of_varying_index_equals_adaptive_integration_through_the_depth() -> None:
    o, depths, indices = OIL_INTO_WATER, [2.0, 5.0, 8.0], [1.34, 1.42, 1.38]

    def layer(s: float) -> float:
        def path(z: float) -> float:
            return sqrt(max(np.interp(z, depths, indices) ** 2 - s**2, 0.0))

        return integrate.quad(path, 0, 10, points=depths, epsabs=1e-9)[0]

    angles = np.linspace(0, pi / 2, 400)  # of rays in the index of 1.34 at the coverslip, the lowest
    paths = CubicSpline(angles, [layer(1.34 * sin(angle)) for angle in angles])

    def sample(s: float) -> float:
        return float(paths(asin(min(s / 1.34, 1.0))))

    psf = optics.variable_index_gibson_lanni(SHAPE, VOXEL_UM, o, depths_um=depths, indices=indices, centre="nominal")
    expected = np.array([scalar(o, *place, sample=sample, ns=1.34) for place in places(10.0)])
    ours, brightest = at_points(psf), int(expected.argmax())
    assert_proportional(ours, expected, brightest)


def test_a_constant_profile_is_a_sample_of_that_index() -> None:
    flat = optics.variable_index_gibson_lanni(SHAPE, VOXEL_UM, OIL_INTO_WATER, depths_um=[0, 4], indices=[1.33, 1.33])
    assert np.abs(flat - optics.gibson_lanni(SHAPE, VOXEL_UM, OIL_INTO_WATER)).max() < 1e-6 * flat.max()
    nearly = optics.variable_index_gibson_lanni(
        SHAPE, VOXEL_UM, OIL_INTO_WATER, depths_um=[0, 4], indices=[1.33, 1.330003]
    )
    assert np.abs(flat - nearly).max() < 1e-3 * flat.max()


@pytest.mark.parametrize("o", [MATCHED, OIL_INTO_WATER], ids=["matched", "into water"])
@pytest.mark.parametrize("pinhole_au", [0.0, 1.0])
def test_a_confocal_psf_is_excitation_times_detection_through_the_disc(o: Optics, pinhole_au: float) -> None:
    psf = optics.confocal((3, 5, 7), VOXEL_UM, o, excitation_um=0.488, pinhole_au=pinhole_au, centre="nominal")
    radius = pinhole_au * 0.61 * o.emission_um / o.na
    values, expected = [], []
    for z, y, x in [(0, 0, 0), (0, 1, 2), (1, 2, 1), (-1, 0, 3)]:
        stage, r = o.depth_um + z * VOXEL_UM[0], sqrt((y * VOXEL_UM[1]) ** 2 + (x * VOXEL_UM[2]) ** 2)
        values.append(psf[1 + z, 2 + y, 3 + x])
        expected.append(scalar(o, stage, r, 0.488) * disc_mean(o, stage, r, radius))
    assert_proportional(np.array(values), np.array(expected), int(np.argmax(expected)))


def disc_mean(o: Optics, stage_um: float, r: float, radius: float) -> float:
    """Mean of the emission over a disc around r: every circle about the axis by its angle inside the disc."""
    if radius == 0:
        return scalar(o, stage_um, r)
    reach = r + radius
    nodes = np.linspace(0, reach, 60)
    profile = CubicSpline(nodes, [scalar(o, stage_um, float(n)) for n in nodes])
    rho = np.linspace(0, reach, 400_001)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (rho**2 + r**2 - radius**2) / (2 * rho * r)
    inside = np.where(rho + r <= radius, pi, np.arccos(np.clip(np.nan_to_num(cosine, nan=1.0), -1, 1)))
    if r == 0:
        inside = np.where(rho <= radius, pi, 0.0)
    return float(np.trapezoid(profile(rho) * rho * 2 * inside, rho) / (pi * radius**2))


def test_a_closed_pinhole_multiplies_and_an_open_one_leaves_the_excitation() -> None:
    grid = ((5, 21, 21), (0.1, 0.05, 0.05))
    excitation = optics.gibson_lanni(
        *grid, Optics(na=1.4, emission_um=0.488, immersion_index=1.515, sample_index=1.515)
    )
    both = excitation.astype(float) * optics.gibson_lanni(*grid, MATCHED)
    closed = optics.confocal(*grid, MATCHED, excitation_um=0.488, pinhole_au=0)
    assert np.abs(closed - both / both.sum()).max() < 1e-5 * closed.max()
    opened = optics.confocal(*grid, MATCHED, excitation_um=0.488, pinhole_au=12)
    assert np.abs(opened - excitation).max() < 0.02 * excitation.max()
    widths = [
        extent.fwhm(optics.confocal(*grid, MATCHED, excitation_um=0.488, pinhole_au=au), grid[1])[1] for au in (0, 1, 3)
    ]
    assert widths[0] < widths[1] < widths[2]


def test_a_spinning_disk_is_a_confocal_with_the_pinhole_of_the_sample() -> None:
    grid = ((5, 9, 9), (0.2, 0.08, 0.08))
    airy = 1.22 * 0.525 / 1.4
    disk = optics.spinning_disk(*grid, MATCHED, excitation_um=0.488, pinhole_um=50, magnification=60)
    assert np.array_equal(disk, optics.confocal(*grid, MATCHED, excitation_um=0.488, pinhole_au=50 / 60 / airy))


@pytest.mark.parametrize(("tilt", "rayleigh", "waist"), [(0.0, inf, 0.0), (30.0, 4.0, 1.5)])
def test_a_light_sheet_is_detection_times_a_tilted_gaussian(tilt: float, rayleigh: float, waist: float) -> None:
    shape, voxel = (9, 10, 7), (0.3, 0.2, 0.15)
    o = Optics(na=0.8, emission_um=0.525, immersion_index=1.33, sample_index=1.33)
    ours = optics.light_sheet(
        shape, voxel, o, thickness_um=1.4, tilt_degrees=tilt, rayleigh_um=rayleigh, waist_um=waist
    )
    expected = optics.gibson_lanni(shape, voxel, o).astype(float)
    for index in np.ndindex(*shape):
        z, y = ((i - n // 2) * um for i, n, um in zip(index[:2], shape[:2], voxel[:2], strict=True))
        d = z * cos(radians(tilt)) - y * sin(radians(tilt))
        p = y * cos(radians(tilt)) + z * sin(radians(tilt))
        wide = sqrt(1 + ((p - waist) / rayleigh) ** 2)
        expected[index] *= exp(-4 * log(2) * (d / (1.4 * wide)) ** 2) / wide
    assert np.abs(ours - expected / expected.sum()).max() < 1e-6 * ours.max()


ALL: dict[str, Callable[..., np.ndarray]] = {
    "born_wolf": optics.born_wolf,
    "gibson_lanni": optics.gibson_lanni,
    "richards_wolf": optics.richards_wolf,
    "variable": lambda *a: optics.variable_index_gibson_lanni(*a, depths_um=[0, 9], indices=[1.33, 1.4]),
    "confocal": lambda *a: optics.confocal(*a, excitation_um=0.488),
    "light_sheet": lambda *a: optics.light_sheet(*a, thickness_um=1.0),
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [(7, 13, 11), (8, 12, 10), (1, 1, 1), (6, 1, 9), (1, 2, 2)])
def test_every_psf_has_its_centre_at_half_of_any_shape(name: str, shape: tuple[int, int, int]) -> None:
    psf = ALL[name](shape, (0.25, 0.09, 0.13), OIL_INTO_WATER)
    assert psf.shape == shape and psf.dtype == np.float32
    assert psf.min() >= 0 and psf.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    assert np.unravel_index(psf.argmax(), shape) == tuple(n // 2 for n in shape)
    for axis in (1, 2):  # along z a mismatch is not symmetric
        c = shape[axis] // 2
        inner = np.take(psf, range(c - (shape[axis] - 1) // 2, c + (shape[axis] - 1) // 2 + 1), axis)
        assert np.array_equal(inner, np.flip(inner, axis))


def test_a_matched_psf_is_symmetric_along_z_and_a_larger_shape_adds_voxels_alone() -> None:
    psf = optics.gibson_lanni((9, 5, 5), (0.2, 0.1, 0.1), MATCHED)
    assert np.abs(psf - psf[::-1]).max() < 1e-6 * psf.max()
    larger = optics.gibson_lanni((14, 11, 8), (0.2, 0.1, 0.1), MATCHED)[3:12, 3:8, 2:7]
    assert np.abs(larger / larger.max() - psf / psf.max()).max() < 1e-6


def test_planes_of_widefield_light_hold_equal_energy() -> None:
    planes = optics.gibson_lanni((5, 161, 161), (0.2, 0.1, 0.1), MATCHED).sum(axis=(1, 2))
    assert np.ptp(planes) < 0.02 * planes.max()


def test_oversampling_is_the_mean_over_the_pixel() -> None:
    voxel, fine = (0.3, 0.21, 0.15), (0.3, 0.07, 0.05)
    ours = optics.gibson_lanni((3, 5, 7), voxel, OIL_INTO_WATER, oversample=3)
    points = optics.gibson_lanni((3, 15, 21), fine, OIL_INTO_WATER)
    assert np.abs(ours - points.reshape(3, 5, 3, 7, 3).sum(axis=(2, 4))).max() < 1e-6 * ours.max()


@pytest.mark.parametrize("o", [MATCHED, OIL_INTO_WATER, LOW], ids=["matched", "into water", "low"])
def test_nodes_and_rings_suffice_far_from_the_axis_and_the_focus(o: Optics, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, voxel = (5, 201, 201), (8.0, 0.15, 0.15)
    ours = optics.gibson_lanni(shape, voxel, o)
    pupil = layers.scalar_pupil(o, o.emission_um)
    stage = o.depth_um + np.array([-15.0, 0.0, 15.0])
    radii = np.array([0.0, 0.1, 2.0, 20.0])
    few = pupil.intensity(stage, radii)
    many = pupil.intensity(np.append(stage, 250.0), np.append(radii, 300.0))[:3, :4]
    assert np.abs(few - many).max() < 1e-6 * axial.beam(pupil).intensity(
        np.array([axial.peak_um(axial.beam(pupil))]), np.zeros(1)
    )
    monkeypatch.setattr(axial, "STEPS_PER_WAVE", 4 * axial.STEPS_PER_WAVE)
    assert np.abs(ours - optics.gibson_lanni(shape, voxel, o)).max() < 1e-6 * ours.max()


def test_a_psf_that_needs_too_many_nodes_is_refused_with_their_number() -> None:
    with pytest.raises(InputError, match=r"quadrature nodes, more than 20000"):
        optics.gibson_lanni((3, 3, 3), (20_000.0, 0.1, 0.1), MATCHED)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"na": 1.6}, "does not pass immersion_index 1.515"),
        ({"na": -1}, "numerical aperture"),
        ({"emission_um": 525}, "0.525"),
        ({"emission_um": float("nan")}, "emission_um"),
        ({"sample_index": 0.9}, "sample_index 0.9"),
        ({"coverslip_index": 1.39}, "coverslip_index 1.39"),
        ({"immersion_design_index": 1.2}, "immersion_design_index 1.2"),
        ({"depth_um": -1}, "depth_um is -1"),
        ({"coverslip_um": inf}, "coverslip_um"),
    ],
)
def test_optics_that_cannot_be_are_refused_by_name_and_value(change: dict[str, Any], said: str) -> None:
    given = {"na": 1.4, "emission_um": 0.525, "immersion_index": 1.515, "sample_index": 1.33} | change
    with pytest.raises(ConfigError, match=said):
        Optics(**given)


def varying(depths: list[float], indices: list[float]) -> np.ndarray:
    return optics.variable_index_gibson_lanni((3, 3, 3), VOXEL_UM, LOW, depths_um=depths, indices=indices)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: optics.gibson_lanni((3, 0, 3), VOXEL_UM, LOW), "shape"),
        (lambda: optics.gibson_lanni((3, 3, 3), (0.1, 0.0, 0.1), LOW), "voxel size"),
        (lambda: optics.gibson_lanni((3, 3, 3), VOXEL_UM, LOW, centre="peek"), "peak"),  # type: ignore[arg-type]
        (lambda: optics.gibson_lanni((3, 3, 3), VOXEL_UM, LOW, oversample=0), "points per pixel"),
        (lambda: optics.confocal((3, 3, 3), VOXEL_UM, LOW, excitation_um=488.0), "0.488"),
        (lambda: optics.confocal((3, 3, 3), VOXEL_UM, LOW, excitation_um=0.488, pinhole_au=-1), "pinhole"),
        (lambda: optics.confocal((3, 3, 3), VOXEL_UM, LOW, excitation_um=0.488, model="x"), "model"),  # type: ignore[arg-type]
        (lambda: optics.light_sheet((3, 3, 3), VOXEL_UM, LOW, thickness_um=0), "light sheet"),
        (lambda: optics.light_sheet((3, 3, 3), VOXEL_UM, LOW, thickness_um=1, tilt_degrees=90), "tilted"),
        (lambda: varying([3, 2], [1.33, 1.4]), "do not grow"),
        (lambda: varying([3], [1.33, 1.4]), "1 depths and 2 indices"),
        (lambda: varying([3], [0.5]), "refractive"),
    ],
)
def test_parameters_without_a_sense_are_refused(call: Callable[[], Any], said: str) -> None:
    with pytest.raises((ConfigError, InputError), match=said):
        call()
