"""Light that is the same all around the optical axis, from a function of (z, r) to voxels.

    intensity(z, r)  --radial nodes, cubic spline-->  distinct distances of voxel centres  --mirrored-->  (z, y, x)

A `Beam` is that function with what is needed to sample it: how fine its rings are, and where along the stage its light
comes to a focus. Beams multiply (confocal), and one averages over a pinhole's disc. Voxels at one distance from the
axis are one value, so a plane of square pixels costs an eighth of its voxels.

The spline is off by less than 1e-6 of the peak. Stops where (planes, distinct distances) float64 do not fit in memory:
16 bytes per voxel of an octant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, pi
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import roots_legendre

from chunkflow.geometry.box import Triple
from chunkflow.kernels.pupil import Pupil, Values

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline

TripleUm = tuple[float, float, float]

STEPS_PER_WAVE = 64
"""Radial nodes per wavelength / NA."""
STEPS_PER_DEPTH = 8
"""Stage positions per depth of focus when the axial maximum is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beam:
    """Light around an axis.

    intensity : (Z,) stage positions and (R,) distances from the axis, um, to (Z, R) intensities
    foci_um : the stage positions between which most of it comes to a focus
    depth_um : depth of focus
    step_um : spacing of radial nodes that a cubic spline bridges
    """

    intensity: Callable[[Values, Values], Values]
    foci_um: tuple[float, float]
    depth_um: float
    step_um: float


def beam(pupil: Pupil) -> Beam:
    """What a pupil makes of a point."""
    return Beam(
        intensity=pupil.intensity,
        foci_um=pupil.foci_um(),
        depth_um=pupil.depth_of_focus_um,
        step_um=pupil.wavelength_um / (pupil.limit * STEPS_PER_WAVE),
    )


def product(first: Beam, second: Beam) -> Beam:
    """Two beams on one axis, multiplied point by point."""
    return Beam(
        intensity=lambda stage, radii: first.intensity(stage, radii) * second.intensity(stage, radii),
        foci_um=(min(first.foci_um[0], second.foci_um[0]), max(first.foci_um[1], second.foci_um[1])),
        depth_um=min(first.depth_um, second.depth_um),
        step_um=min(first.step_um, second.step_um),
    )


def through_disc(light: Beam, radius_um: float) -> Beam:
    """Every plane averaged over a disc: what a pinhole of that radius, in um of the sample, lets through."""
    if radius_um == 0:
        return light

    def averaged(stage: Values, radii: Values) -> Values:
        profile = _spline(light, stage, float(radii.max()) + radius_um)
        total = np.zeros((len(radii), len(stage)))
        for rho, cosine, weight in _disc_nodes(radius_um, light.step_um):
            total += weight * profile(np.sqrt(np.maximum(radii**2 + rho**2 - 2 * radii * rho * cosine, 0.0)))
        return np.asarray(total.T)

    return Beam(intensity=averaged, foci_um=light.foci_um, depth_um=light.depth_um, step_um=light.step_um)


def _disc_nodes(radius_um: float, step_um: float) -> list[tuple[float, float, float]]:
    """Distance from the disc's centre, cosine of the angle, and weight of points that average over a disc.

    Gauss-Legendre along the radius, equal angles over a half circle: exact to 1e-6 from 2 points per radian of the
    finest ring of light that a pupil can make (twice its numerical aperture in frequency).
    """
    phase = 2 * 2 * pi * radius_um / (step_um * STEPS_PER_WAVE)
    count = ceil(phase / 2) + 8
    x, w = roots_legendre(count)
    rho = radius_um * (x + 1) / 2
    share = w * (x + 1) / 2 / count  # of rho d(rho), sums to 1 over the disc
    cosines = np.cos((np.arange(count) + 0.5) * pi / count)
    return [(float(r), float(c), float(part)) for r, part in zip(rho, share, strict=True) for c in cosines]


def peak_um(light: Beam) -> float:
    """Stage position of the greatest intensity on the axis, to 1e-4 of the depth of focus."""
    reach = 2 * light.depth_um
    low, high = light.foci_um[0] - reach, light.foci_um[1] + reach
    count = ceil((high - low) / light.depth_um * STEPS_PER_DEPTH) + 1
    for _ in range(4):
        stage = np.linspace(low, high, count)
        on_axis = light.intensity(stage, np.zeros(1))[:, 0]
        best = float(stage[on_axis.argmax()])
        step = float(stage[1] - stage[0])
        low, high, count = best - step, best + step, 21
    return best


def voxels(light: Beam, shape: Triple, voxel_um: TripleUm, *, centre_um: float, oversample: int) -> NDArray[np.float64]:
    """Intensities at voxel centres, the voxel at shape // 2 on the axis and at stage `centre_um`.

    With `oversample` above 1, each is the mean of that many points along y times as many along x, over the area of
    the pixel; planes stay sections.

    Returns (Pz, Py, Px) float64, not normalised.
    """
    stage: Values = centre_um + (np.arange(shape[0], dtype=np.float64) - shape[0] // 2) * voxel_um[0]
    y, x = (_points(n, um, oversample) for n, um in zip(shape[1:], voxel_um[1:], strict=True))
    squares, where = np.unique(y[:, None] ** 2 + x**2, return_inverse=True)
    radii = np.sqrt(squares)
    values = _spline(light, stage, float(radii[-1]))(radii).T
    ny, nx = len(y) // oversample, len(x) // oversample
    if oversample > 1:
        points = values[:, where.reshape(ny, oversample, nx, oversample)]
        quadrant = points.mean(axis=(2, 4))
        values, where = quadrant.reshape(len(stage), -1), np.arange(ny * nx)
    rows, columns = (np.abs(np.arange(n) - n // 2) for n in shape[1:])
    # one take per plane from a short row of distinct values: mirrors and fills at once
    index = where.reshape(ny, nx)[rows[:, None], columns]
    psf = np.empty(shape)
    for plane, row in zip(psf, values, strict=True):
        np.take(np.maximum(row, 0.0), index, out=plane)  # a spline may dip below a dark ring
    return psf


def _points(n: int, voxel_um: float, oversample: int) -> Values:
    """Coordinates of the points in pixels 0, 1, ... n // 2 from the axis, um."""
    offsets = (np.arange(oversample) + 0.5) / oversample - 0.5
    return np.asarray(((np.arange(n // 2 + 1)[:, None] + offsets) * voxel_um).ravel())


def _spline(light: Beam, stage: Values, largest_um: float) -> CubicSpline:
    """Radius to (..., Z) intensities. Even in the radius, hence flat at 0."""
    from scipy.interpolate import CubicSpline  # 20 MiB, which workers do without

    # three nodes at least, and one beyond: a coarse grid of one column still has a spline
    radii = np.arange(max(ceil(largest_um / light.step_um) + 2, 4), dtype=np.float64) * light.step_um
    values = light.intensity(stage, radii).T
    return CubicSpline(radii, values, axis=0, bc_type=((1, np.zeros(len(stage))), "not-a-knot"))
