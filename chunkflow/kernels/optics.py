"""Point-spread functions of microscopes, computed from their optics.

    Optics -> Pupil (one wavelength, one model) -> Beam (light around the axis) -> voxels, sum 1

| function | light | for |
|---|---|---|
| `born_wolf` | scalar, paraxial, no aberration | a reference with closed forms; NA below 0.7 |
| `gibson_lanni` | scalar, coverslip, immersion, sample, depth | widefield |
| `variable_index_gibson_lanni` | the same, sample index varies with depth | cleared or thick tissue |
| `richards_wolf` | vectorial, the same layers | NA above 1 |
| `confocal`, `spinning_disk` | excitation times detection through a pinhole | |
| `light_sheet` | detection times a Gaussian sheet, tilted or not | |

Every function returns (Pz, Py, Px) float32, not negative, that sums to 1, for any shape asked for (even and odd), the
axis and the focus at `shape // 2`, sampled at voxel centres. All lengths are in um and z grows into the sample, away
from the objective. `centre="peak"` puts the greatest intensity on the axis into the centre plane, so that an image
keeps its objects where they appear; `centre="nominal"` puts there the plane that the stage would reach at `depth_um`
if the sample were immersion medium, so that the shift of the focus with depth is part of the PSF, and an image
restored with it has its objects where they are. `focal_shift_um` is the difference.

Widefield light never ends: each plane holds the same energy. `extent.support` chooses a shape. Limits: pupils are
filled evenly, one wavelength stands for a band, evanescent light (a sample index below the NA) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, inf, isfinite, log, radians, sin
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ConfigError, InputError, nearest
from chunkflow.geometry.box import Triple
from chunkflow.kernels.axial import Beam, TripleUm, beam, peak_um, product, through_disc, voxels
from chunkflow.kernels.layers import (
    SCALAR,
    Model,
    Optics,
    check_wavelength,
    pupil_of,
    scalar_pupil,
    stratified_pupil,
    vectorial_pupil,
)
from chunkflow.kernels.pupil import Pupil

__all__ = [
    "Centre",
    "Model",
    "Optics",
    "born_wolf",
    "confocal",
    "focal_shift_um",
    "gibson_lanni",
    "light_sheet",
    "richards_wolf",
    "spinning_disk",
    "variable_index_gibson_lanni",
]

Psf = NDArray[np.float32]
Centre = Literal["peak", "nominal"]

AIRY_DIAMETER = 1.22
"""Diameter of the first dark ring in wavelengths / NA: one Airy unit."""


def born_wolf(shape: Triple, voxel_um: TripleUm, optics: Optics, *, oversample: int = 1) -> Psf:
    """Scalar, paraxial, free of aberrations: |int_0^1 J0(k NA r rho) exp(-i k z NA^2 rho^2 / 2 n) rho d(rho)|^2.

    Born & Wolf, Principles of Optics, section 8.8. n is `immersion_index`; depth and mismatch do not count, and above
    an NA of about 0.7 the axial width is too large (by 39 % at 1.4 in oil): `gibson_lanni` at depth 0 is exact there.

    Parameters
    ----------
    shape : voxels in z, y, x, 1 or more each
    voxel_um : voxel size in z, y, x
    oversample : above 1, the mean over as many points along y and x of the pixel; 1 samples voxel centres

    Returns
    -------
    (Pz, Py, Px) float32, sums to 1, centre at shape // 2.

    Raises
    ------
    InputError : shape, voxel size or oversample makes no sense.
    ConfigError : a word or a number of the optics does.
    """
    n = optics.immersion_index
    pupil = Pupil(
        wavelength_um=optics.emission_um,
        limit=optics.na,
        lowest_index=n,
        path_um=np.zeros_like,
        focus_um=lambda s: -(s**2) / (2 * n),
        waves=SCALAR,
    )
    return _sampled(beam(pupil), shape, voxel_um, 0.0, oversample)


def gibson_lanni(
    shape: Triple, voxel_um: TripleUm, optics: Optics, *, centre: Centre = "peak", oversample: int = 1
) -> Psf:
    """Scalar, through coverslip, immersion and sample with the indices and thicknesses used and those of the design.

    Gibson & Lanni, J. Opt. Soc. Am. A 9 (1992) 154; the paths are those of `layers`. With matched indices this is the
    exact (not paraxial) defocus.

    Parameters
    ----------
    shape, voxel_um, oversample : as for `born_wolf`
    centre : "peak" or "nominal", see the module

    Returns and raises as `born_wolf`.
    """
    return _layered(scalar_pupil(optics, optics.emission_um), shape, voxel_um, optics, centre, oversample)


def variable_index_gibson_lanni(
    shape: Triple,
    voxel_um: TripleUm,
    optics: Optics,
    *,
    depths_um: Sequence[float],
    indices: Sequence[float],
    centre: Centre = "peak",
    oversample: int = 1,
) -> Psf:
    """Gibson & Lanni with a sample whose index varies with depth: its path is int_0^depth sqrt(n(z)^2 - s^2) dz.

    A ray keeps s across plane layers, so the path is exact for a stratified sample; `layers` has the integral in closed
    form. `sample_index` of the optics is not used. From the depth of the particle on, the profile does not matter.

    Parameters
    ----------
    shape, voxel_um, centre, oversample : as for `gibson_lanni`
    depths_um, indices : (N,) a piecewise linear profile; depths grow, the ends go on as they are

    Returns and raises as `born_wolf`.
    """
    pupil = stratified_pupil(optics, optics.emission_um, depths_um, indices)
    return _layered(pupil, shape, voxel_um, optics, centre, oversample)


def richards_wolf(
    shape: Triple, voxel_um: TripleUm, optics: Optics, *, centre: Centre = "peak", oversample: int = 1
) -> Psf:
    """Vectorial, through the layers of `gibson_lanni`: |I0|^2 + 2 |I1|^2 + |I2|^2, no polarisation preferred.

    Richards & Wolf, Proc. R. Soc. A 253 (1959) 358, with the paths of Gibson & Lanni and Fresnel transmission from the
    immersion over the coverslip into the sample (Torok & Varga 1997, Haeberle 2003), for an aplanatic lens. The same
    integrals serve light focused into the sample and light detected from dipoles that turn freely.

    Parameters, returns and raises as `gibson_lanni`.
    """
    return _layered(vectorial_pupil(optics, optics.emission_um), shape, voxel_um, optics, centre, oversample)


def confocal(
    shape: Triple,
    voxel_um: TripleUm,
    optics: Optics,
    *,
    excitation_um: float,
    pinhole_au: float = 1.0,
    model: Model = "scalar",
    centre: Centre = "peak",
    oversample: int = 1,
) -> Psf:
    """Excitation times detection, the latter averaged over the pinhole's disc in every plane.

    Parameters
    ----------
    shape, voxel_um, centre, oversample : as for `gibson_lanni`
    excitation_um : wavelength of the laser, in vacuum; the pupil is filled evenly
    pinhole_au : diameter in Airy units of the emission, 1.22 emission / NA in the sample; 0 is a point
    model : "scalar" as `gibson_lanni` or "vectorial" as `richards_wolf`, for both

    Returns and raises as `born_wolf`.
    """
    if not (isfinite(pinhole_au) and pinhole_au >= 0):
        raise ConfigError(f"optics: a pinhole of {pinhole_au} Airy units", "Give its diameter, say 1; 0 is a point")
    check_wavelength("excitation_um", excitation_um)
    radius = pinhole_au * AIRY_DIAMETER * optics.emission_um / optics.na / 2
    detected = through_disc(beam(pupil_of(model, optics, optics.emission_um)), radius)
    both = product(beam(pupil_of(model, optics, excitation_um)), detected)
    return _sampled(both, shape, voxel_um, _centre_um(both, optics, centre), oversample)


def spinning_disk(
    shape: Triple,
    voxel_um: TripleUm,
    optics: Optics,
    *,
    excitation_um: float,
    pinhole_um: float,
    magnification: float,
    model: Model = "scalar",
    centre: Centre = "peak",
    oversample: int = 1,
) -> Psf:
    """`confocal` with a pinhole in um on the disk, behind an objective of some magnification.

    One pinhole alone: light of its neighbours (haze of thick samples) belongs to the background.

    Parameters
    ----------
    pinhole_um : diameter on the disk, 50 for most
    magnification : from the sample to the disk
    the others : as for `confocal`

    Returns and raises as `born_wolf`.
    """
    for name, value in (("pinhole_um", pinhole_um), ("magnification", magnification)):
        if not (isfinite(value) and value > 0):
            raise ConfigError(f"optics: {name} is {value}", "Give a number above 0, say 50 um and 60x")
    airy_um = AIRY_DIAMETER * optics.emission_um / optics.na
    return confocal(
        shape,
        voxel_um,
        optics,
        excitation_um=excitation_um,
        pinhole_au=pinhole_um / magnification / airy_um,
        model=model,
        centre=centre,
        oversample=oversample,
    )


def light_sheet(
    shape: Triple,
    voxel_um: TripleUm,
    optics: Optics,
    *,
    thickness_um: float,
    tilt_degrees: float = 0.0,
    rayleigh_um: float = inf,
    waist_um: float = 0.0,
    model: Model = "scalar",
    oversample: int = 1,
) -> Psf:
    """Detection times a Gaussian sheet that runs along y through the detection's focus.

    At distance d from its plane and p along it, the sheet has width f(p) = thickness sqrt(1 + ((p - waist) /
    rayleigh)^2) and intensity exp(-4 ln 2 (d / f)^2) / f, where d = z cos(tilt) - y sin(tilt) and
    p = y cos(tilt) + z sin(tilt).
    This is what a pixel in the middle of the sheet sees. It holds for all pixels where the sheet moves with the row
    that is read, or the field is small beside thickness / sin(tilt) and `rayleigh_um`.

    Parameters
    ----------
    shape, voxel_um, oversample : as for `gibson_lanni`; the detection's greatest intensity is in the centre plane
    thickness_um : full width at half maximum at the waist
    tilt_degrees : of the sheet against the focal plane, about the x axis; positive raises it along +y to +z
    rayleigh_um, waist_um : where the intensity halves, and how far along the sheet its waist is from the centre
    model : of the detection, "scalar" or "vectorial"

    Returns and raises as `born_wolf`.
    """
    if not (isfinite(thickness_um) and thickness_um > 0):
        raise ConfigError(f"optics: a light sheet of {thickness_um} um", "Give its full width at half maximum in um")
    if not -90 < tilt_degrees < 90:
        raise ConfigError(f"optics: a light sheet tilted by {tilt_degrees} degrees", "Give an angle within -90 to 90")
    if not rayleigh_um > 0 or not isfinite(waist_um):
        raise ConfigError(
            f"optics: a waist at {waist_um} um, halved at {rayleigh_um} um", "Lengths in um, the latter > 0"
        )
    detection = beam(pupil_of(model, optics, optics.emission_um))
    _check_grid(shape, voxel_um, oversample)
    focus = _centre_um(detection, optics, "peak")
    psf = voxels(detection, shape, voxel_um, centre_um=focus, oversample=oversample)
    z, y = ((np.arange(n) - n // 2) * um for n, um in zip(shape[:2], voxel_um[:2], strict=True))
    tilt = radians(tilt_degrees)
    across = z[:, None] * cos(tilt) - y * sin(tilt)
    along = y * cos(tilt) + z[:, None] * sin(tilt)
    width = np.sqrt(1 + ((along - waist_um) / rayleigh_um) ** 2)
    sheet = np.exp(-4 * log(2) * (across / (thickness_um * width)) ** 2) / width
    return _sum_to_one(psf * sheet[:, :, None])


def focal_shift_um(optics: Optics, *, model: Model = "scalar") -> float:
    """How far from `depth_um` the stage is, um, where a particle at that depth is brightest.

    Positive where it appears deeper than it is (a sample of lower index than the immersion), 0 when matched. An image
    restored with `centre="peak"` has its objects displaced by this.
    """
    light = beam(pupil_of(model, optics, optics.emission_um))
    return _centre_um(light, optics, "peak") - optics.depth_um


def _layered(pupil: Pupil, shape: Triple, voxel_um: TripleUm, optics: Optics, centre: Centre, oversample: int) -> Psf:
    light = beam(pupil)
    return _sampled(light, shape, voxel_um, _centre_um(light, optics, centre), oversample)


def _centre_um(light: Beam, optics: Optics, centre: Centre) -> float:
    """Stage position of the centre plane."""
    if centre not in ("peak", "nominal"):
        raise ConfigError(f"optics: unknown centre {centre!r}", nearest(str(centre), ("peak", "nominal")))
    if centre == "nominal":
        return optics.depth_um
    peak = peak_um(light)
    both = light.intensity(np.array([peak, optics.depth_um]), np.zeros(1))[:, 0]
    # without aberration the peak is at the nominal focus; the search must not leave it by its own step
    return optics.depth_um if both[1] >= both[0] * (1 - 1e-7) else peak


def _sampled(light: Beam, shape: Triple, voxel_um: TripleUm, centre_um: float, oversample: int) -> Psf:
    _check_grid(shape, voxel_um, oversample)
    return _sum_to_one(voxels(light, shape, voxel_um, centre_um=centre_um, oversample=oversample))


def _check_grid(shape: Triple, voxel_um: TripleUm, oversample: int) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"a PSF of shape {tuple(shape)}", "Give voxels along z, y and x, 1 or more each")
    if len(voxel_um) != 3 or not all(isfinite(um) and um > 0 for um in voxel_um):
        raise InputError(f"a voxel size of {tuple(voxel_um)} um", "Give three sizes in um (z, y, x), above 0")
    if oversample < 1:
        raise InputError(f"{oversample} points per pixel", "Give 1 (the voxel's centre) or more")


def _sum_to_one(values: NDArray[np.float64]) -> Psf:
    return np.asarray(values / values.sum(), np.float32)
