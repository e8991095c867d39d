"""Linear inverse filters of one array: one division in Fourier space, the quickest and the noisiest restoration.

    X = G (Y - b)        G = H* / max(|H|^2, eps)              naive
                         G = H* / (|H|^2 + lambda |L|^2)       regularised by the Laplacian L: smooth results
                         G = H* / (|H|^2 + lambda)             Wiener (Tikhonov): small results

H is the transform of the PSF, H* its conjugate: it turns a skewed PSF back, where H itself would skew twice.

The filter is a convolution with g, the transform of G, which has no end but a tail that falls off. That is what lets
an image be restored in tiles: `halo` measures the tail and says how far a tile must read. A small lambda makes sharp
edges in G and so long tails in g; the tail of the naive inverse has no end that a tile could read.

Everything is held at once, three float32 images of the torus: an array of 1024^3 takes 13 GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.fft import ifft, next_fast_len

from chunkflow.backend import array_module, scipy_module
from chunkflow.errors import ConfigError, PlanError
from chunkflow.geometry.box import Triple, triple
from chunkflow.kernels.blur import wrapped

# Bytes of the complex128 columns that are filtered at a time: a cache's worth on a CPU, enough to fill a GPU.
SLAB_BYTES = {"cpu": 2**21, "gpu": 2**27}
# How many times brighter (rms) than the core of a tile its surroundings may be.
CONTRAST = 6.0
# The search for a halo goes to so many times `largest`, to name the one that would do.
SEARCH = 4
# Its first torus along the axis at hand, and the most frequencies it samples along each of the others.
FIRST_TORUS = 64
MOST_ACROSS = 128


class Inverse(Protocol):
    """How the transform of the image becomes that of the estimate."""

    def response(self, otf: Any, laplacian: Any) -> Any:
        """G at some frequencies, complex128.

        Parameters
        ----------
        otf : H there, complex128, numpy or cupy.
        laplacian : L there, float64, broadcasts against `otf`: 0 at frequency 0, at most 1.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NaiveInverse:
    """H* / max(|H|^2, eps): nothing but a floor against dividing by zero. For images without noise.

    eps : floor of |H|^2; noise is amplified by up to 1 / sqrt(eps)
    """

    eps: float = 1e-6

    def __post_init__(self) -> None:
        _check_positive("eps", self.eps)

    def response(self, otf: Any, laplacian: Any) -> Any:
        return otf.conj() / (otf.real**2 + otf.imag**2).clip(min=self.eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularizedInverse:
    """H* / (|H|^2 + lambda |L|^2): the mean is kept, roughness is held back (Tikhonov's second order).

    regularization : lambda, for an L of at most 1. With the bare stencil (-6 and six 1s) it is 144 times smaller.
    """

    regularization: float = 0.01

    def __post_init__(self) -> None:
        _check_positive("regularization", self.regularization)

    def response(self, otf: Any, laplacian: Any) -> Any:
        return otf.conj() / (otf.real**2 + otf.imag**2 + self.regularization * laplacian**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiener:
    """H* / (|H|^2 + lambda): every frequency held back alike, the mean too: it comes out as 1 / (1 + lambda).

    regularization : lambda, the noise's power over the object's
    """

    regularization: float = 0.1

    def __post_init__(self) -> None:
        _check_positive("regularization", self.regularization)

    def response(self, otf: Any, laplacian: Any) -> Any:
        return otf.conj() / (otf.real**2 + otf.imag**2 + self.regularization)


def _check_positive(name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ConfigError(f"an inverse filter with {name} {value}", f"Give {name} a number above 0")


def filtered(
    image: Any,
    psf: Any,
    inverse: Inverse,
    *,
    background: float = 0.0,
    edges: Literal["mirror", "circular"] = "mirror",
    before: Triple = (0, 0, 0),
    after: Triple = (0, 0, 0),
    nonnegative: bool = False,
) -> Any:
    """Apply an inverse filter to an array.

    Parameters
    ----------
    image : (Z, Y, X) real, numpy or cupy.
    psf : (Pz, Py, Px), sums to 1, centre at shape // 2; odd or even, symmetric or not.
    background : what the detector adds (same unit as the image); it is taken off and not put back.
    edges : "circular" takes the array for one period of an endless image, with an FFT of its very shape. "mirror"
        continues it by its mirror image (the border voxel twice) for `before` and `after` voxels, z y x, and on to a
        fast FFT size. A tile gives the halo on the sides where the volume ends and 0 where it read the halo.
    nonnegative : set negative values to 0; a linear filter overshoots below 0 beside bright objects.

    Returns
    -------
    (Z, Y, X) float32, on the image's device, of either sign unless `nonnegative`. The filter is computed in float64,
    its application in float32: 2e-6 (relative L2) where G stays under 10, 1e-3 for a naive inverse that reaches 1000.
    """
    xp = array_module(image)
    fourier = scipy_module(image, "fft")
    shape = triple(image.shape)
    torus = shape if edges == "circular" else fft_shape(shape, before, after)
    start = (0, 0, 0) if edges == "circular" else before
    values = xp.asarray(image, np.float32) - np.float32(background)
    ends = [(s, f - s - n) for s, f, n in zip(start, torus, shape, strict=True)]
    if any(end != (0, 0) for end in ends):
        values = xp.pad(values, ends, mode="symmetric")
    spectrum = fourier.rfftn(values)
    del values
    for rows, response in _responses(psf, inverse, torus, xp):
        spectrum[:, rows] *= response
    restored = fourier.irfftn(spectrum, s=torus, overwrite_x=True)
    del spectrum
    restored = restored[tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))].copy()
    return xp.maximum(restored, 0, out=restored) if nonnegative else restored


def fft_shape(shape: Triple, before: Triple, after: Triple) -> Triple:
    """The torus of mirrored edges: per axis the smallest fast FFT size that holds the array and what is added."""
    sizes = (int(next_fast_len(n + b + a, real=True)) for n, b, a in zip(shape, before, after, strict=True))
    return triple(tuple(sizes))


def working_set_bytes(torus: Triple, psf_shape: Triple, kind: str = "cpu") -> int:
    """Peak memory of `filtered` beside the image and the PSF given to it, its result included.

    The spectrum twice and the image, during the transform back; and what making the filter leaves to the allocator.
    """
    half = torus[2] // 2 + 1
    spectrum = 8 * torus[0] * torus[1] * half
    planes = 16 * psf_shape[0] * torus[1] * half
    slab = max(SLAB_BYTES[kind], 16 * torus[0] * half)
    return 2 * spectrum + 4 * prod(torus) + 2 * planes + 7 * slab


def _responses(psf: Any, inverse: Inverse, torus: Triple, xp: Any) -> Iterator[tuple[slice, Any]]:
    """G on a torus, slab by slab of the y frequencies: (rows, (Fz, rows, Fx // 2 + 1) complex128).

    Float64, because the small values of H, which rounding would drown, are the ones that get divided by.
    """
    fourier = scipy_module(xp.empty(0), "fft")
    planes = fourier.rfft(wrapped(xp.asarray(psf, np.float64), 2, torus[2]), axis=2)
    planes = fourier.fft(wrapped(planes, 1, torus[1]), axis=1, overwrite_x=True)
    rough_z, rough_y, rough_x = (xp.asarray(part) for part in _laplacian_parts(torus))
    step = max(1, SLAB_BYTES["cpu" if xp is np else "gpu"] // (16 * torus[0] * planes.shape[2]))
    for start in range(0, torus[1], step):
        rows = slice(start, min(start + step, torus[1]))
        otf = fourier.fft(wrapped(planes[:, rows], 0, torus[0]), axis=0, overwrite_x=True)
        yield rows, inverse.response(otf, rough_z[:, None, None] + rough_y[rows, None] + rough_x)


def _laplacian_parts(torus: Triple) -> tuple[NDArray[np.float64], ...]:
    """Terms of L per axis: (1 - cos k) / 6. Their sum is minus the transform of the 7-point stencil over 12."""
    frequencies = (np.fft.fftfreq(torus[0]), np.fft.fftfreq(torus[1]), np.fft.rfftfreq(torus[2]))
    return tuple((1 - np.cos(2 * np.pi * k)) / 6 for k in frequencies)


def halo(
    psf: NDArray[Any],
    inverse: Inverse,
    *,
    tolerance: float,
    largest: Triple,
    uncut: tuple[bool, bool, bool] = (False, False, False),
) -> Triple:
    """Voxels a tile must read around its core so that the filtered tile agrees with a filtered whole volume.

    What a tile gets wrong is the filter's tail, g beyond h voxels along some axis, applied to what it did not see. Cut
    along one axis, the tail is a convolution; in Fourier space over the other two axes it is a set of 1-D convolutions
    t(.; k), and Young's inequality bounds each, so that for every image d

        |tail * d|_2  <=  max over k of  sum over |z| > h of |t(z; k)|   times   |d|_2

    Each axis may use a third of the tolerance, over the gain at frequency 0, which stands for what the filter does to
    the image. |d| over the norm of the core is taken to be `CONTRAST` at most. Measured on beads, tubes and blobs at 5
    and 200 photons, Gaussian PSFs of FWHM (4.7, 2.8, 2.8) and (2.5, 2, 2), lambda 1e-3 to 0.1, tolerances 1e-2 to
    1e-4, cores of 28: with a contrast of 1 the worst core reached 0.06 to 5 times the tolerance (the most in nearly
    empty cores beside bright beads), the median core 1/30. A contrast of 6 costs 10 to 30 % of halo; the
    worst core is then at 0.8 for tolerances of 1e-2 and 1e-3, and at 1.7 (nearly empty) for 1e-4.

    Parameters
    ----------
    psf : (Pz, Py, Px), sums to 1, centre at shape // 2.
    tolerance : relative L2 difference allowed in the core of a tile.
    largest : the largest halo allowed per axis, voxels; 0 for an axis of one voxel, which needs none.
    uncut : axes along which one tile holds the volume: they take as much as they are allowed, and miss nothing.

    Returns the halo in voxels, z y x.

    Raises
    ------
    PlanError : an axis that is cut needs more than `largest`; it names the halo that would do, if one within `SEARCH`
        times does.
    """
    found = [_axis_halo(psf, inverse, axis, tolerance / 3 / CONTRAST, largest) for axis in range(3)]
    found = [
        limit if whole and (h is None or h > limit) else h
        for h, limit, whole in zip(found, largest, uncut, strict=True)
    ]
    if any(h is None or h > limit for h, limit in zip(found, largest, strict=True)):
        raise PlanError(_refusal(found, tolerance, largest), "Use a larger regularization, tolerance or tile")
    return triple(tuple(h or 0 for h in found))


def _axis_halo(psf: NDArray[Any], inverse: Inverse, axis: int, allowed: float, largest: Triple) -> int | None:
    """The halo of one axis, or None where none up to `SEARCH` times the largest will do."""
    limit = SEARCH * largest[axis]
    if limit == 0:
        return 0
    others = [a for a in range(3) if a != axis]
    kernel = np.asarray(psf, np.float64).transpose(axis, *others)
    # twice the PSF's size samples |H|^2 without a gap; the steps of a very large PSF are somewhat coarser
    across = [int(next_fast_len(min(max(2 * psf.shape[a], 32), MOST_ACROSS))) if largest[a] else 1 for a in others]
    size = min(FIRST_TORUS, 4 * limit)
    while True:
        tail = _tail(kernel, inverse, triple((size, *across)))
        fits = np.flatnonzero(tail <= allowed)
        # beyond a quarter of the torus the tail may hold what has come around it
        if len(fits) and fits[0] <= size // 4:
            return int(fits[0])
        if size >= 4 * limit:
            return None
        size = min(2 * size, 4 * limit)


def _tail(kernel: NDArray[np.float64], inverse: Inverse, torus: Triple) -> NDArray[np.float64]:
    """For every h up to half the torus: the bound on the part of g beyond h along the first axis, over the DC gain."""
    size = torus[0]
    worst = np.zeros(size // 2 + 1)
    gain = 1.0
    for rows, response in _responses(kernel, inverse, torus, np):
        if rows.start == 0:
            gain = abs(response[0, 0, 0])
        profile = np.abs(ifft(response, axis=0)).reshape(size, -1)
        folded = profile[: size // 2 + 1]
        folded[1 : size - size // 2] += profile[: size // 2 : -1]
        beyond = folded[:0:-1].cumsum(axis=0)[::-1]
        worst[:-1] = np.maximum(worst[:-1], beyond.max(axis=1))
    return worst / gain


def _refusal(found: list[int | None], tolerance: float, largest: Triple) -> str:
    endless = [axis for axis, h in zip("zyx", found, strict=True) if h is None]
    if endless:
        reach = tuple(SEARCH * n for n in largest)
        return (
            f"an inverse filter whose kernel does not fall below the tolerance {tolerance:g} along "
            f"{', '.join(endless)} within {reach} voxels"
        )
    needed = tuple(h or 0 for h in found)
    return (
        f"an inverse filter that needs a halo of {needed} voxels for the tolerance {tolerance:g}, more than {largest}"
    )
