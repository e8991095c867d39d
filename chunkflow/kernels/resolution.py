r"""How fine an image still is, and how well a model fits it: numbers to judge a restoration by.

**Fourier shell correlation** compares two images of one object whose noise is independent, frequency by frequency:

    FSC(k) = Re sum A B* / sqrt(sum |A|^2 sum |B|^2)        over the frequencies of a shell around |k|

It is S / (S + N), with S and N the power of signal and noise: 1 where all is signal, 0 where all is noise. Resolution
is 1 / k where it falls below a threshold (van Heel & Schatz, J. Struct. Biol. 151, 250, 2005).
A microscope resolves less along z, so shells are cut into sections (Koho et al., Nat. Commun. 10, 3103, 2019):

             kz   axial: within 30 degrees of z
        \    |    /
          \  |  /                   The lateral section is narrow, because at the lateral limit a frequency
    ________\|/_______ k_y, k_x     that leans more than that has left the support along z.
    ________/ \_______
           lateral: within 15 degrees of the plane

A widefield image of a dense object has nothing in the axial section (the missing cone), and that is then the answer.
"""

from __future__ import annotations

from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from chunkflow.backend import array_module, to_host
from chunkflow.errors import InputError

Direction = Literal["all", "lateral", "axial"]

AXIAL_HALF_ANGLE = np.deg2rad(30)
LATERAL_HALF_ANGLE = np.deg2rad(15)


class Curve(NamedTuple):
    """A correlation by frequency.

    frequencies : (K,) float64, 1 / um, ascending, without 0
    correlation : (K,) float64, -1 to 1
    counts : (K,) float64, independent frequencies in each shell, both halves of the spectrum
    """

    frequencies: NDArray[np.float64]
    correlation: NDArray[np.float64]
    counts: NDArray[np.float64]


class Resolution(NamedTuple):
    """Where a curve falls below its threshold.

    um : 1 / frequency; infinite where nothing correlates
    is_bound : the curve stays above: what is resolved is this or finer, and the sampling hides it
    """

    um: float
    is_bound: bool


def fourier_shell_correlation(
    a: Any,
    b: Any,
    voxel_um: tuple[float, float, float],
    *,
    direction: Direction = "all",
    window: bool = True,
) -> Curve:
    """Correlation of two images of one object by spatial frequency, up to the coarsest axis' Nyquist frequency.

    Parameters
    ----------
    a, b : (Z, Y, X) real, the same shape, noise independent of each other; computed on the host.
    voxel_um : voxel size in z, y, x, um.
    direction : the section of each shell: "lateral" (along y and x), "axial" (along z) or "all" of it.
    window : fade both out towards their sides (Hann), or the jump from side to side correlates at all frequencies.
        Off only for periodic images. A window mixes neighbouring frequencies; about a quarter stay independent.

    Shells are as wide as the coarsest frequency step of the axes they look along.

    Raises
    ------
    InputError : the axes of that direction have one voxel each.
    """
    curve = _curve(_spectrum(a, window), _spectrum(b, window), a.shape, voxel_um, direction)
    return curve._replace(counts=curve.counts * _independent_share(a.shape)) if window else curve


def resolution(curve: Curve, threshold: Literal["1/7", "half-bit"] = "1/7") -> Resolution:
    """Where the correlation, averaged over neighbouring shells (1, 2, 1), first falls below a threshold.

    1/7 is a fixed one (Rosenthal & Henderson, J. Mol. Biol. 333, 721, 2003). "half-bit" asks for half a bit of
    information per frequency and allows for the scatter of shells of few (van Heel & Schatz 2005). Linear in between.
    """
    limit = _half_bit(curve.counts) if threshold == "half-bit" else np.full(len(curve.counts), 1 / 7)
    padded = np.pad(curve.correlation - limit, 1, mode="edge")
    above = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    below = above < 0
    if not below.any():
        return Resolution(float(1 / curve.frequencies[-1]), True)
    first = int(np.argmax(below))
    if first == 0:
        return Resolution(float("inf"), False)
    share = above[first - 1] / (above[first - 1] - above[first])
    low, high = curve.frequencies[first - 1 : first + 1]
    return Resolution(float(1 / (low + share * (high - low))), False)


def i_divergence(y: Any, model: Any) -> float:
    """Csiszar's I-divergence, sum of y ln(y / m) - y + m: what Richardson-Lucy minimises; >= 0, 0 where y = m.

    y : (Z, Y, X) real, numpy or cupy; negative values count as 0. model : the same, > 0 where y is, background
    included. In the unit of y (photons for it to be a log-likelihood); summed in float64.
    """
    xp = array_module(y)
    y = xp.maximum(xp.asarray(y, np.float64), 0)
    model = xp.asarray(model, np.float64)
    seen = y > 0
    return float((xp.where(seen, y * xp.log(xp.where(seen, y, 1) / xp.where(seen, model, 1)), 0) + (model - y)).sum())


def residual(y: Any, model: Any) -> float:
    """|y - m| / |y| (L2), in float64; the model includes the background."""
    xp = array_module(y)
    y = xp.asarray(y, np.float64)
    return float(xp.linalg.norm((y - model).ravel()) / xp.linalg.norm(y.ravel()))


def _spectrum(image: Any, window: bool) -> NDArray[np.complex64]:
    values = np.asarray(to_host(image), np.float32)
    values = values - values.mean(dtype=np.float64).astype(np.float32)
    if window:
        for axis, n in enumerate(values.shape):
            values *= _hann(n).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    return np.asarray(fft.rfftn(values, overwrite_x=True))


def _hann(length: int) -> NDArray[np.float64]:
    """A Hann window without its two zeros; 1 for an axis of one voxel."""
    return np.asarray(np.hanning(length + 2)[1:-1])


def _independent_share(shape: tuple[int, ...]) -> float:
    """How many frequencies of windowed white noise are independent, of all in a shell.

    Per axis (sum w^2)^2 / (n sum w^4). A shell is one step thin, so neighbours across it do not count: of d axes,
    d - 1 do.
    """
    powers = [_hann(n) ** 2 for n in shape if n > 1]
    share = prod(float(power.sum() ** 2 / (len(power) * (power**2).sum())) for power in powers)
    return float(share ** ((len(powers) - 1) / max(len(powers), 1)))


def _curve(
    a: NDArray[np.complex64],
    b: NDArray[np.complex64],
    shape: tuple[int, ...],
    voxel_um: tuple[float, float, float],
    direction: Direction,
) -> Curve:
    step, shells = _shells(shape, voxel_um, direction)
    shell, weight = _members(shape, voxel_um, direction, step, shells)

    def summed(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(shell, weight * values.ravel(), shells + 2)[1 : shells + 1], np.float64)

    cross = summed((a * b.conj()).real)
    power_a, power_b = summed(a.real**2 + a.imag**2), summed(b.real**2 + b.imag**2)
    norm = np.sqrt(power_a * power_b)
    correlation = np.divide(cross, norm, out=np.zeros(shells), where=norm > 0)
    counts = summed(np.ones(shell.shape))
    used = counts > 0
    frequencies = step * np.arange(1, shells + 1, dtype=np.float64)
    return Curve(frequencies[used], correlation[used], counts[used])


def _shells(shape: tuple[int, ...], voxel_um: tuple[float, float, float], direction: Direction) -> tuple[float, int]:
    """Width of the shells, 1 / um, and how many there are."""
    axes = {"all": (0, 1, 2), "lateral": (1, 2), "axial": (0,)}[direction]
    looked_along = [axis for axis in axes if shape[axis] > 1]
    if not looked_along:
        raise InputError(f"an image of shape {shape} has no {direction} resolution", "Measure it along another axis")
    step = max(1 / (shape[axis] * voxel_um[axis]) for axis in looked_along)
    return step, int(min(1 / (2 * voxel_um[axis]) for axis in looked_along) / step + 1e-6)


def _members(
    shape: tuple[int, ...], voxel_um: tuple[float, float, float], direction: Direction, step: float, shells: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For every frequency of a half spectrum, flat: its shell (shells + 1: none), and how many it stands for."""
    z, y, x = np.ix_(
        np.fft.fftfreq(shape[0], voxel_um[0]),
        np.fft.fftfreq(shape[1], voxel_um[1]),
        np.fft.rfftfreq(shape[2], voxel_um[2]),
    )
    radius = np.sqrt(z**2 + y**2 + x**2)
    shell = np.minimum(np.rint(radius / step).astype(np.int64), shells + 1)
    if direction == "axial":
        shell[abs(z) < np.cos(AXIAL_HALF_ANGLE) * radius] = shells + 1
    elif direction == "lateral":
        shell[abs(z) > np.sin(LATERAL_HALF_ANGLE) * radius] = shells + 1
    weight = np.full(shell.shape, 2.0)
    weight[..., 0] = 1
    if shape[2] % 2 == 0:
        weight[..., -1] = 1
    return shell.ravel(), weight.ravel()


def _half_bit(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    root = np.sqrt(counts)
    return np.asarray((0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root))
