"""How far a point-spread function reaches: widths, and the box that is worth computing with.

Two rules decide per axis, within a reference box, and the smaller half extent wins:

    energy   the slabs cut off hold at most (1 - energy) / 3 of the reference; three axes then at most 1 - energy
    floor    every voxel cut off along this axis is below `floor` times the peak

Energy alone (a floor of 0) is right for confocal light and light sheets, which end. Widefield light does not: every
plane holds the same energy, so half the planes of any reference box hold half, and energy keeps nearly all of them.
There a floor ends the box. Of 129 x 255 x 255 voxels of 0.2 x 0.1 x 0.1 um, in oil at NA 1.4, a floor of 1e-3 keeps
49 x 45 x 45 voxels and 27 % of the light, 3e-4 keeps 99 x 81 x 81 and 50 %; what is missing is faint haze far from the
focus. What was kept is part of the answer.

The rules see nothing beyond the reference box: take it larger than what is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import InputError
from chunkflow.geometry.box import Triple, triple

TripleUm = tuple[float, float, float]
Profile = NDArray[np.float64]

ROUNDING = 1e-12
"""Of a sum of parts that should be 1."""


@dataclass(frozen=True, slots=True)
class Support:
    """shape : voxels, each odd; energy : the part of the reference box's sum that lies inside."""

    shape: Triple
    energy: float


def support(psf: NDArray[Any], energy: float = 0.99, *, floor: float = 0.0, largest: Triple | None = None) -> Support:
    """The box around `shape // 2` that is worth keeping of a PSF computed or measured on a larger one.

    Parameters
    ----------
    psf : (Pz, Py, Px) not negative, centre at shape // 2
    energy : part of the reference box's sum to keep, 0 to 1
    floor : part of the peak below which voxels may go, whatever energy they hold; for widefield light, say 1e-3
    largest : voxels that the box may not exceed, and then the energy may be less

    Raises
    ------
    InputError : energy or floor is not a part, or the largest box holds nothing.
    """
    if not (0 < energy <= 1 and 0 <= floor < 1):
        raise InputError(f"a PSF trimmed to energy {energy} and floor {floor}", "Give parts of 1, say 0.99 and 0")
    if largest is not None and min(largest) < 1:
        raise InputError(f"a PSF of at most {largest} voxels", "Give 1 or more along z, y and x")
    extents = []
    for axis, n in enumerate(psf.shape):
        outside = 1 - _enclosed(psf, axis)
        below = _brightest_beyond(psf, axis) < floor * float(psf.max())
        enough = (outside <= (1 - energy) / 3 + ROUNDING) | below
        limit = n if largest is None else min(n, largest[axis])
        extents.append(min(int(enough.argmax()), (limit - 1) // 2))
    shape = triple(tuple(2 * extent + 1 for extent in extents))
    kept = psf[_window(psf.shape, shape)].sum(dtype=np.float64) / psf.sum(dtype=np.float64)
    return Support(shape, float(kept))


def trimmed(
    psf: NDArray[Any], energy: float = 0.99, *, floor: float = 0.0, largest: Triple | None = None
) -> NDArray[np.float32]:
    """The PSF cut to its `support`, parameters as there: float32, odd shape, sums to 1, centre at shape // 2."""
    kept = psf[_window(psf.shape, support(psf, energy, floor=floor, largest=largest).shape)]
    return np.asarray(kept / kept.sum(dtype=np.float64), np.float32)


def fwhm(psf: NDArray[Any], voxel_um: TripleUm) -> NDArray[np.float64]:
    """Full widths at half maximum along z, y and x through the brightest voxel: (3,) float64, um.

    Each line is read through a quintic spline: its maximum near the brightest voxel and the two crossings of half of it
    nearest to that. Of a Gaussian right to 1 % from 2.5 voxels per width, wherever its centre lies between voxels; 2
    voxels are read as up to 5 % more. Infinite along an axis on which the light does not fall to half inside the array.
    The background must be off.
    """
    peak = np.unravel_index(int(psf.argmax()), psf.shape)
    widths = np.full(3, np.inf)
    for axis in range(3):
        line = psf[tuple(slice(None) if a == axis else p for a, p in enumerate(peak))].astype(np.float64)
        if len(line) > 3:
            widths[axis] = _line_fwhm(line, int(peak[axis])) * voxel_um[axis]
    return widths


def _line_fwhm(line: Profile, peak: int) -> float:
    from scipy.interpolate import PPoly, make_interp_spline  # 20 MiB, which workers do without

    curve = PPoly.from_spline(make_interp_spline(np.arange(len(line)), line, k=5 if len(line) > 5 else 3))
    near = np.linspace(max(peak - 1, 0), min(peak + 1, len(line) - 1), 2001)
    values = curve(near)
    summit, height = float(near[values.argmax()]), float(values.max())
    crossings = curve.solve(height / 2, extrapolate=False)
    left, right = crossings[crossings < summit], crossings[crossings > summit]
    return float(right.min() - left.max()) if len(left) and len(right) else np.inf


def _enclosed(psf: NDArray[Any], axis: int) -> Profile:
    profile = psf.sum(axis=_others(axis), dtype=np.float64)
    after, before = _sides(profile)
    rings = after + before
    rings[0] = after[0]
    return np.asarray(rings.cumsum() / profile.sum())


def _brightest_beyond(psf: NDArray[Any], axis: int) -> Profile:
    """The largest value more than 0, 1, 2, ... voxels from the centre."""
    after, before = _sides(psf.max(axis=_others(axis)).astype(np.float64))
    rings = np.append(np.maximum(after, before), 0.0)
    return np.asarray(np.maximum.accumulate(rings[::-1])[::-1][1:])


def _sides(profile: Profile) -> tuple[Profile, Profile]:
    """From the centre up and down, both as long as the longer one: an even axis has no voxel at +n / 2."""
    centre = len(profile) // 2
    return np.append(profile[centre:], 0.0)[: centre + 1], profile[centre::-1]


def _others(axis: int) -> tuple[int, ...]:
    return tuple(a for a in range(3) if a != axis)


def _window(shape: tuple[int, ...], inner: Triple) -> tuple[slice, ...]:
    """Slices of a box around shape // 2."""
    return tuple(slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(shape, inner, strict=True))
