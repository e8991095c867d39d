"""The layers in front of an objective, as pupils: sample, coverslip, immersion, as used and as designed.

    sample        ns, particle at depth          z grows this way
    coverslip     ng, tg                              ^
    immersion     ni, t0 - z                          |  stage
    front lens    made for ng*, tg*, ni*, ti*

The optical path difference of a ray of transverse index s, with w(n) = sqrt(n^2 - s^2), is

    depth w(ns) + tg w(ng) - tg* w(ng*) + (t0 - z) w(ni) - ti* w(ni*),    t0 = ni (ti* / ni* + tg* / ng* - tg / ng)

so that z = 0 is where the coverslip's surface is in paraxial focus (Gibson & Lanni, J. Opt. Soc. Am. A 9 (1992) 154).
Plane layers at right angles to the axis, no tilt; rays that the sample does not carry (s > ns) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import numpy as np

from chunkflow.errors import ConfigError, nearest
from chunkflow.kernels.pupil import OfRay, Pupil, Values, Wave

Model = Literal["scalar", "vectorial"]

DESIGN_COVERSLIP_INDEX = 1.515
SCALAR = (Wave(order=0, power=1.0, amplitude=np.ones_like),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optics:
    """An objective and what is in front of it.

    na : numerical aperture
    emission_um : wavelength of the light detected, in vacuum
    immersion_index, sample_index : refractive indices
    immersion_design_index : the one the objective was made for; None is the one used
    coverslip_index, coverslip_um : glass used
    coverslip_design_index, coverslip_design_um : glass the objective was made for
    working_distance_um : of immersion between front lens and coverslip in the design; matters where its index differs
    depth_um : of the particle below the coverslip
    """

    na: float
    emission_um: float
    immersion_index: float
    sample_index: float
    immersion_design_index: float | None = None
    coverslip_index: float = DESIGN_COVERSLIP_INDEX
    coverslip_design_index: float = DESIGN_COVERSLIP_INDEX
    coverslip_um: float = 170.0
    coverslip_design_um: float = 170.0
    working_distance_um: float = 150.0
    depth_um: float = 0.0

    def __post_init__(self) -> None:
        if not (isfinite(self.na) and self.na > 0):
            raise ConfigError(f"optics: numerical aperture {self.na}", "It is on the objective, for example 1.4")
        check_wavelength("emission_um", self.emission_um)
        for name in ("immersion_index", "immersion_design_index", "coverslip_index", "coverslip_design_index"):
            self._check_index(name, above_na=True)
        self._check_index("sample_index", above_na=False)
        for name in ("coverslip_um", "coverslip_design_um", "working_distance_um", "depth_um"):
            length = getattr(self, name)
            if not (isfinite(length) and length >= 0):
                raise ConfigError(f"optics: {name} is {length}", "Give a length in um, 0 or more")

    def _check_index(self, name: str, *, above_na: bool) -> None:
        index = getattr(self, name)
        if index is None:
            return
        if not 1 <= index < 4:
            raise ConfigError(f"optics: {name} {index} is no refractive index", "Air 1, water 1.33, oil 1.515")
        if above_na and index <= self.na:
            raise ConfigError(
                f"optics: a numerical aperture of {self.na} does not pass {name} {index}",
                "The NA is less than the index of immersion and coverslip; check both (air 1, water 1.33, oil 1.515)",
            )

    @property
    def design_index(self) -> float:
        """Of the immersion that the objective was made for."""
        return self.immersion_index if self.immersion_design_index is None else self.immersion_design_index


def pupil_of(model: Model, optics: Optics, wavelength_um: float) -> Pupil:
    """The pupil of either model.

    Raises
    ------
    ConfigError : the model has another name.
    """
    if model not in ("scalar", "vectorial"):
        raise ConfigError(f"optics: unknown model {model!r}", nearest(str(model), ("scalar", "vectorial")))
    return (scalar_pupil if model == "scalar" else vectorial_pupil)(optics, wavelength_um)


def scalar_pupil(optics: Optics, wavelength_um: float) -> Pupil:
    """One wave of even amplitude."""
    return _uniform_pupil(optics, wavelength_um, SCALAR)


def vectorial_pupil(optics: Optics, wavelength_um: float) -> Pupil:
    """The integrals I0, I1, I2 of an aplanatic lens, with Fresnel transmission into the sample.

    Of light polarised along x the field is I0 + I2 cos(2 phi), I2 sin(2 phi), 2 i I1 cos(phi); its square, averaged
    over the polarisation, is |I0|^2 + 2 |I1|^2 + |I2|^2.
    """

    def transmitted(s: Values) -> tuple[Values, Values]:
        """Amplitudes per ray of s and p light in the sample, the measure of the aperture included."""
        i, g, n = optics.immersion_index, optics.coverslip_index, optics.sample_index
        aplanatic = np.sqrt(i / _axial_index(i, s))  # sqrt(cos) of the lens, 1 / cos of s ds
        across = _fresnel_s(i, g, s) * _fresnel_s(g, n, s)
        inside = _fresnel_p(i, g, s) * _fresnel_p(g, n, s)
        return aplanatic * across, aplanatic * inside

    def cosine(s: Values) -> Values:
        return _axial_index(optics.sample_index, s) / optics.sample_index

    def plus(s: Values) -> Values:
        across, inside = transmitted(s)
        return across + inside * cosine(s)

    def along(s: Values) -> Values:
        return transmitted(s)[1] * s / optics.sample_index

    def minus(s: Values) -> Values:
        across, inside = transmitted(s)
        return across - inside * cosine(s)

    waves = (
        Wave(order=0, power=1.0, amplitude=plus),
        Wave(order=1, power=2.0, amplitude=along),
        Wave(order=2, power=1.0, amplitude=minus),
    )
    return _uniform_pupil(optics, wavelength_um, waves)


def _uniform_pupil(optics: Optics, wavelength_um: float, waves: tuple[Wave, ...]) -> Pupil:
    n = optics.sample_index
    return _pupil(optics, wavelength_um, sample=lambda s: optics.depth_um * _axial_index(n, s), lowest=n, waves=waves)


def stratified_pupil(
    optics: Optics, wavelength_um: float, depths_um: Sequence[float], indices: Sequence[float]
) -> Pupil:
    """Scalar light, the sample's index piecewise linear in depth instead of `sample_index`."""
    at, values = _profile(depths_um, indices, optics.depth_um)
    lowest = float(values.min())
    return _pupil(optics, wavelength_um, sample=lambda s: _stratified_path(at, values, s), lowest=lowest, waves=SCALAR)


def _pupil(optics: Optics, wavelength_um: float, *, sample: OfRay, lowest: float, waves: tuple[Wave, ...]) -> Pupil:
    """Coverslip and immersion as used less those of the design, and a sample of any path; `lowest` is its index."""
    i, g = optics.immersion_index, optics.coverslip_index
    design_i, design_g = optics.design_index, optics.coverslip_design_index
    focused = i * (
        optics.working_distance_um / design_i + optics.coverslip_design_um / design_g - optics.coverslip_um / g
    )

    def path(s: Values) -> Values:
        used = sample(s) + optics.coverslip_um * _axial_index(g, s) + focused * _axial_index(i, s)
        design = optics.coverslip_design_um * _axial_index(design_g, s)
        return used - design - optics.working_distance_um * _axial_index(design_i, s)

    return Pupil(
        wavelength_um=wavelength_um,
        limit=min(optics.na, lowest),
        lowest_index=min(lowest, i, g, design_i, design_g),
        path_um=path,
        focus_um=lambda s: _axial_index(i, s),
        waves=waves,
    )


def _axial_index(index: float, s: Values) -> Values:
    """n cos(theta) of a ray; 0 at the limit, where rounding may pass it."""
    return np.sqrt(np.maximum(index**2 - s**2, 0.0))


def _fresnel_s(a: float, b: float, s: Values) -> Values:
    into, out = _axial_index(a, s), _axial_index(b, s)
    return 2 * into / (into + out)


def _fresnel_p(a: float, b: float, s: Values) -> Values:
    into, out = _axial_index(a, s), _axial_index(b, s)
    return 2 * a * b * into / (b**2 * into + a**2 * out)


def _profile(depths_um: Sequence[float], indices: Sequence[float], depth_um: float) -> tuple[Values, Values]:
    """The knots of an index profile from the coverslip to the particle."""
    depths, values = np.asarray(depths_um, float), np.asarray(indices, float)
    if depths.ndim != 1 or depths.shape != values.shape or not len(depths):
        raise ConfigError(f"optics: {depths.size} depths and {values.size} indices", "Give one index for each depth")
    if not (np.isfinite(depths).all() and (np.diff(depths) > 0).all()):
        raise ConfigError(f"optics: depths of the index profile {depths.tolist()} do not grow", "Sort them, in um")
    if not ((values >= 1) & (values < 4)).all():
        raise ConfigError(f"optics: {values.tolist()} are no refractive indices", "Air 1, water 1.33, oil 1.515")
    between = depths[(depths > 0) & (depths < depth_um)]
    knots = np.concatenate([[0.0], between, [depth_um]])
    return knots, np.interp(knots, depths, values)


def _stratified_path(depths_um: Values, indices: Values, s: Values) -> Values:
    """int sqrt(n(z)^2 - s^2) dz along a piecewise linear n: (Q,) um.

    Over a piece where n goes from a to b the integral is its length times (F(b) - F(a)) / (b - a) with
    F(n) = (n w - s^2 ln(n + w)) / 2 and w = sqrt(n^2 - s^2).
    """
    total = np.zeros_like(s)
    for length, a, b in zip(np.diff(depths_um), indices[:-1], indices[1:], strict=True):
        if abs(b - a) < 1e-6:  # the difference quotient would lose its digits; n is constant to far below a wave
            total += length * _axial_index((a + b) / 2, s)
        else:
            total += length * (_antiderivative(b, s) - _antiderivative(a, s)) / (b - a)
    return total


def _antiderivative(n: float, s: Values) -> Values:
    w = _axial_index(n, s)
    return np.asarray((n * w - s**2 * np.log(n + w)) / 2)


def check_wavelength(name: str, value: float) -> None:
    """A wavelength of light in um.

    Raises
    ------
    ConfigError : it is none; a value in nm is recognised.
    """
    if not (isfinite(value) and 0.1 <= value <= 5):
        remedy = f"It is in um: {value / 1000:g}?" if value > 5 else "Give the wavelength in um, for example 0.525"
        raise ConfigError(f"optics: {name} is {value}", remedy)
