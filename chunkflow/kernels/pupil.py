"""Diffraction integrals of an objective: its pupil, its aberrations, and the light along and around the axis.

    sample | coverslip | immersion | pupil        s = n sin(theta) is one number for a ray in every layer

A ray that leaves the objective's axis at transverse index s (0 on the axis, the numerical aperture at the edge) has the
same s in every layer, and a layer of thickness t and index n adds an optical path t * sqrt(n^2 - s^2). The light at
distance r from the axis, with the stage at z, is an integral over s of one or three Bessel functions times the phase of
these paths:

    U_m(z, r) = int_0^a  A_m(s)  J_m(k r s)  exp(i k (path(s) - z focus(s)))  s ds,      k = 2 pi / wavelength

The upper limit a is the numerical aperture, or the lowest index of the sample where that is less: light beyond it is
evanescent and left out. Gauss-Legendre nodes lie in the angle theta of the medium with the lowest index,
s = n sin(theta), in which every path is smooth up to the limit (in s itself the sample's has an infinite slope there).
Half a node per radian of phase along the pupil, and forty more, keep the error below 1e-6 of the peak. All (z, r) then
are one matrix product per integral.

Stops working where the phase turns by more than 2 * `MOST_NODES` radians along the pupil, millimetres from the focus
or into a mismatched sample; refused with the number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import asin, ceil, pi

import numpy as np
from numpy.typing import NDArray
from scipy.special import j0, j1, roots_legendre

from chunkflow.errors import InputError

Values = NDArray[np.float64]
OfRay = Callable[[Values], Values]
"""(Q,) transverse indices to (Q,) um or amplitudes."""

MOST_NODES = 20_000
RADII_AT_ONCE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """One integral of a pupil: Bessel order, its part in the intensity, and A_m(s)."""

    order: int
    power: float
    amplitude: OfRay


@dataclass(frozen=True, slots=True, kw_only=True)
class Pupil:
    """One objective in one medium at one wavelength.

    limit : the largest transverse index of a ray
    lowest_index : of all media; nodes are spread over its angle
    path_um : optical path difference of a ray with the stage at 0
    focus_um : what 1 um of stage takes off that path
    waves : one for scalar light, three for vectorial light of all polarisations
    """

    wavelength_um: float
    limit: float
    lowest_index: float
    path_um: OfRay
    focus_um: OfRay
    waves: tuple[Wave, ...]

    @property
    def wavenumber(self) -> float:
        """Radians per um in vacuum."""
        return 2 * pi / self.wavelength_um

    @property
    def depth_of_focus_um(self) -> float:
        """Stage travel over which the edge of the pupil turns by one wave against its centre."""
        centre, edge = self.focus_um(np.array([0.0, self.limit]))
        return float(self.wavelength_um / abs(centre - edge))

    def foci_um(self) -> tuple[float, float]:
        """Stage positions between which nine tenths of the pupil's area come to a focus.

        Where path and stage have the same slope against the angle, neighbouring rings are in phase.
        """
        angles = np.linspace(0.0, asin(min(1.0, self.limit / self.lowest_index)), 257)[1:]
        s = self.lowest_index * np.sin(angles)
        focus = np.gradient(self.path_um(s)) / np.gradient(self.focus_um(s))
        inner = focus[s**2 <= 0.9 * self.limit**2]
        return float(inner.min()), float(inner.max())

    def intensity(self, stage_um: Values, radii_um: Values) -> Values:
        """(Z,) stage positions and (R,) distances from the axis to (Z, R) intensities, arbitrary units.

        Raises
        ------
        InputError : the phase turns too often along the pupil.
        """
        s, weights = self._nodes(stage_um, float(radii_um.max()))
        phase = self.wavenumber * (self.path_um(s) - stage_um[:, None] * self.focus_um(s))
        phasor = np.exp(1j * (phase - phase[:, :1])) * weights
        total = np.zeros((len(stage_um), len(radii_um)))
        for wave in self.waves:
            rows = phasor * wave.amplitude(s)
            # real and imaginary parts as rows of one real product: half the work of a complex one
            parts = np.concatenate([rows.real, rows.imag])
            for start in range(0, len(radii_um), RADII_AT_ONCE):
                some = slice(start, start + RADII_AT_ONCE)
                field = parts @ _bessel(wave.order, self.wavenumber * s[:, None] * radii_um[some])
                total[:, some] += wave.power * (field[: len(stage_um)] ** 2 + field[len(stage_um) :] ** 2)
        return total

    def _nodes(self, stage_um: Values, largest_radius_um: float) -> tuple[Values, Values]:
        """Transverse indices of the nodes and their weights, s ds included."""
        top = asin(min(1.0, self.limit / self.lowest_index))
        turns = self._phase_range(top, stage_um) + self.wavenumber * self.limit * largest_radius_um
        count = ceil(turns / 2) + 40
        if count > MOST_NODES:
            raise InputError(
                f"a PSF whose phase turns by {turns:.0f} radians along the pupil needs {count} quadrature nodes, "
                f"more than {MOST_NODES}",
                "Ask for fewer voxels or smaller ones, or check depth, thicknesses and indices",
            )
        x, w = roots_legendre(count)  # numpy's leggauss takes minutes where this takes a tenth of a second
        angles = top * (x + 1) / 2
        sine = np.sin(angles)
        return self.lowest_index * sine, w * top / 2 * self.lowest_index**2 * sine * np.cos(angles)

    def _phase_range(self, top: float, stage_um: Values) -> float:
        """Total variation of the phase along the pupil at the worst stage position; convex, so at one end."""
        s = self.lowest_index * np.sin(np.linspace(0.0, top, 1025))
        ends = np.array([stage_um.min(), stage_um.max()])
        paths = self.path_um(s) - ends[:, None] * self.focus_um(s)
        return self.wavenumber * float(np.abs(np.diff(paths, axis=1)).sum(axis=1).max())


def _bessel(order: int, x: Values) -> Values:
    if order == 2:  # by recurrence: scipy's general order takes eight times as long; 1e-9 stands for 0
        x = np.maximum(x, 1e-9)
        return np.asarray(2 * j1(x) / x - j0(x))
    return np.asarray(j0(x) if order == 0 else j1(x))
