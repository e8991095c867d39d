"""How much the surroundings of a voxel look like a tube: from the second derivatives of the smoothed image.

    image --Gaussian and its derivatives, per axis--> Hessian, um^-2 --eigenvalues--> measure of one scale --max--> all

Along a bright tube the second derivative is small, across it two are negative and large. A tube of radius r answers
most at sigma = r / sqrt(2): on the axis of a solid one that exceeds what is around it by C, sigma^2 times both is then
-C / e.

What is smoothed is the image where it is valid, f = (g * v i) / (g * v), as in `kernels.filters`, and derivatives are
those of that quotient: outside the volume and nodata are the same thing, neither makes an edge, and where every voxel
in reach is valid nothing remains of it. With n = g * v i, d = g * v and indices for derivatives,

    f = n / d,    f_i = (n_i - f d_i) / d,    f_ij = (n_ij - f_i d_j - f_j d_i - f d_ij) / d

Kernels are sampled Gaussian derivatives, corrected so that polynomials up to the second degree have the derivatives
they have: nothing of a constant background is left, and below sigma = 1 voxel they turn into differences of neighbours.
Sums are float64 and run in one order for every voxel, so blocks do not change a bit. A plane (Z = 1) has two
eigenvalues. Cost grows with sigma; above some ten voxels resample first.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.geometry.box import Triple, triple

Filter = Literal["sato", "frangi"]

SIGMA_PER_RADIUS = 1 / sqrt(2)
TRUNCATE = 5.0
"""Radii of the kernels in sigma: responses are within 1e-4 of those of whole Gaussians; 4 leaves 1e-2."""
SLAB_VOXELS = 2**17
"""Voxels of a layer that is worked on at a time, its surroundings included: a few hundred bytes for each."""

ORDERS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 1, 0), (1, 0, 1), (0, 1, 1))
"""Derivatives in z, y, x that are needed: none, first, second, mixed."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What is made of the eigenvalues l1, l2, l3 (|l1| <= |l2| <= |l3|) of sigma^2 times the Hessian.

    filter : "sato": sqrt(l2 l3) where both are negative, else 0; image values. Sato et al., Medical Image Analysis 2,
        143, 1998, without the factor for l1, as in scikit-image; of a plane -l2. "frangi": (1 - exp(-Ra^2 / 2 alpha^2))
        exp(-Rb^2 / 2 beta^2) (1 - exp(-S^2 / 2 c^2)) where both are negative, else 0; 0 to 1. Ra = |l2 / l3|,
        Rb = |l1| / sqrt|l2 l3|, S^2 = l1^2 + l2^2 + l3^2. Frangi et al., MICCAI 1998, 130, eq. 13; of a plane eq. 15
    bright : tubes are brighter than what is around them, else darker
    c : image values
    """

    filter: Filter
    bright: bool = True
    alpha: float = 0.5
    beta: float = 0.5
    c: float = 1.0


def halo(radii_um: tuple[float, ...], voxel_um: tuple[float, float, float]) -> Triple:
    """Voxels on each side that the widest kernels look at, z y x."""
    return triple(tuple(_radius(max(radii_um) * SIGMA_PER_RADIUS / v) for v in voxel_um))


def _radius(sigma_vox: float) -> int:
    return max(1, ceil(TRUNCATE * sigma_vox))


def derivative_kernels(sigma_vox: float) -> Floats:
    """(3, 2 r + 1) weights whose correlation with a line smooths it and gives its first and second derivative.

    Sums over offsets x: of the first kernel 1, of x times the second 1, of x^2 / 2 times the third 1, of the third 0.
    """
    radius = _radius(sigma_vox)
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    gauss = np.exp(-0.5 * (x / sigma_vox) ** 2)
    gauss /= gauss.sum()
    variance = (x**2 * gauss).sum()
    if variance < 1e-12:  # of a Gaussian much narrower than a voxel
        middle = (np.abs(x) < 0.5).astype(np.float64)
        beside = (np.abs(x) == 1).astype(np.float64)
        return np.stack([middle, x * beside / 2, beside - 2 * middle])
    second = (x**2 - variance) * gauss
    return np.stack([gauss, x * gauss / variance, 2 * second / (x**2 * second).sum()])


def vesselness(
    image: Any,
    valid: NDArray[np.bool_] | None,
    *,
    inner: tuple[slice, slice, slice],
    radii_um: tuple[float, ...],
    voxel_um: tuple[float, float, float],
    measure: Measure,
) -> NDArray[np.float32]:
    """The largest measure over all radii.

    Parameters
    ----------
    image : (Z, Y, X) real; read as float32. What invalid voxels hold is not looked at.
    valid : (Z, Y, X) bool, or None where every voxel of the array is valid.
    inner : the part that is wanted; its surroundings up to `halo`, or the end of the volume, are in the image.

    Returns
    -------
    The shape of `inner`, float32, 0 where not valid. The same bits in every block.
    """
    data = np.asarray(image).astype(np.float32, copy=False)
    weights = None if valid is None else valid.astype(np.float32)
    values = np.ascontiguousarray(data if valid is None else np.where(valid, data, np.float32(0)))
    z, y, x = inner
    found = np.zeros((z.stop - z.start, y.stop - y.start, x.stop - x.start), np.float32)
    depth = max(1, SLAB_VOXELS // (image.shape[1] * image.shape[2]))
    for radius_um in radii_um:
        sigmas = radius_um * SIGMA_PER_RADIUS / np.array(voxel_um)
        for first in range(z.start, z.stop, depth):
            part = (slice(first, min(first + depth, z.stop)), y, x)
            _add_slab(values, weights, part, sigmas, measure, found[first - z.start : part[0].stop - z.start])
    if valid is not None:
        found[~valid[inner]] = 0
    return found


def working_bytes(inner: Triple, around: Triple) -> int:
    """Peak bytes of `vesselness` beside its arguments and its result, for those shapes of `inner` and `image`."""
    layer = around[1] * around[2]
    planes = min(inner[0], max(1, SLAB_VOXELS // layer))
    wanted = inner[1] * inner[2]
    derivatives = 8 * planes * (3 * layer + 5 * inner[1] * around[2] + 20 * wanted)
    return derivatives + 12 * layer * around[0] + wanted * inner[0]


def _add_slab(
    values: NDArray[np.float32],
    weights: NDArray[np.float32] | None,
    part: tuple[slice, slice, slice],
    sigmas: Floats,
    measure: Measure,
    found: NDArray[np.float32],
) -> None:
    """found = max(found, the measure of one scale) over a part of the image; sigmas in voxels, z y x."""
    kernels = [derivative_kernels(float(sigma)) for sigma in sigmas]
    n = _derivatives(values, kernels, part)
    d = _derivatives_of_ones(values.shape, kernels, part) if weights is None else _derivatives(weights, kernels, part)
    sign = -1.0 if measure.bright else 1.0
    constants = np.array([measure.alpha, measure.beta, measure.c])
    _add_measure(n, d, sigmas, values.shape[0] == 1, sign, measure.filter == "frangi", constants, found)


def _derivatives(values: NDArray[np.float32], kernels: list[Floats], part: tuple[slice, slice, slice]) -> Floats:
    """(10, ...) the derivatives in `ORDERS` over a part of (Z, Y, X) values, 0 being around them."""
    z, y, x = part
    shape = (z.stop - z.start, y.stop - y.start, x.stop - x.start)
    along_z = np.empty((3, shape[0], *values.shape[1:]))
    _correlate_z(values, kernels[0], z.start, along_z)
    found = np.empty((len(ORDERS), *shape))
    for order_z in range(3):
        along_y = np.empty((3 - order_z, shape[0], shape[1], values.shape[2]))
        _correlate_y(along_z[order_z], kernels[1], y.start, along_y)
        for order_y in range(3 - order_z):
            for order_x in range(3 - order_z - order_y):
                at = ORDERS.index((order_z, order_y, order_x))
                _correlate_x(along_y[order_y], kernels[2][order_x], x.start, found[at])
    return found


def _derivatives_of_ones(shape: Triple, kernels: list[Floats], part: tuple[slice, slice, slice]) -> Floats:
    """`_derivatives` of ones."""
    lines = []
    for length, kernel, wanted in zip(shape, kernels, part, strict=True):
        ones, line = np.ones((length, 1, 1), np.float32), np.empty((3, wanted.stop - wanted.start, 1, 1))
        _correlate_z(ones, kernel, wanted.start, line)
        lines.append(line[:, :, 0, 0])
    z, y, x = lines
    return np.stack([z[a][:, None, None] * y[b][:, None] * x[c] for a, b, c in ORDERS])


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _correlate_z(source: Any, kernels: Any, first: int, found: Any) -> None:
    """found[k, i] = sum over j of kernels[k, j] source[first + i + j - r], all along z."""
    radius = kernels.shape[1] // 2
    found[:] = 0
    for i in range(found.shape[1]):
        for y in range(source.shape[1]):
            for j in range(kernels.shape[1]):
                z = first + i + j - radius
                if 0 <= z < source.shape[0]:
                    for x in range(source.shape[2]):
                        value = np.float64(source[z, y, x])
                        found[0, i, y, x] += kernels[0, j] * value
                        found[1, i, y, x] += kernels[1, j] * value
                        found[2, i, y, x] += kernels[2, j] * value


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _correlate_y(source: Any, kernels: Any, first: int, found: Any) -> None:
    """The same along y, for as many kernels as `found` has room for."""
    radius = kernels.shape[1] // 2
    found[:] = 0
    for z in range(source.shape[0]):
        for i in range(found.shape[2]):
            for k in range(found.shape[0]):
                for j in range(kernels.shape[1]):
                    y = first + i + j - radius
                    if 0 <= y < source.shape[1]:
                        weight = kernels[k, j]
                        for x in range(source.shape[2]):
                            found[k, z, i, x] += weight * source[z, y, x]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _correlate_x(source: Any, kernel: Any, first: int, found: Any) -> None:
    """The same along x, for one kernel."""
    radius = len(kernel) // 2
    found[:] = 0
    for z in range(source.shape[0]):
        for y in range(source.shape[1]):
            for j in range(len(kernel)):
                shift = first + j - radius
                start, stop = max(0, -shift), min(found.shape[2], source.shape[2] - shift)
                # Slices from 0 on, so that the loop can run several voxels at a time.
                line, sums, weight = source[z, y, start + shift :], found[z, y, start:], kernel[j]
                for i in range(stop - start):
                    sums[i] += weight * line[i]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_measure(
    n: Any, d: Any, scales: Any, is_plane: bool, sign: float, is_frangi: bool, constants: Any, found: Any
) -> None:
    """found = max(found, measure); n, d as in the module, scales = sigma in voxels, sign = 1 for dark tubes."""
    hessian = np.empty((3, 3))
    first = np.empty(3)
    for z in range(found.shape[0]):
        for y in range(found.shape[1]):
            for x in range(found.shape[2]):
                weight = d[0, z, y, x]
                if weight <= 0:
                    continue
                value = n[0, z, y, x] / weight
                for a in range(3):
                    first[a] = (n[1 + a, z, y, x] - value * d[1 + a, z, y, x]) / weight
                for a in range(3):
                    for b in range(a, 3):
                        at = 4 + a if a == b else 6 + a + b
                        cross = first[a] * d[1 + b, z, y, x] + first[b] * d[1 + a, z, y, x]
                        second = (n[at, z, y, x] - cross - value * d[at, z, y, x]) / weight
                        hessian[a, b] = sign * second * scales[a] * scales[b]
                low, middle, high = _eigenvalues(hessian, is_plane)
                sato = _sato(middle, high, is_plane)
                answer = _frangi(low, middle, high, is_plane, constants) if is_frangi else sato
                found[z, y, x] = max(found[z, y, x], np.float32(answer))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _eigenvalues(hessian: Any, is_plane: bool) -> Any:
    """Eigenvalues of a symmetric matrix by its upper half, ascending; of a plane those in y and x, after a 0.

    Trigonometric solution of the cubic (Smith, Communications of the ACM 4, 168, 1961). Within 1e-7 of the largest
    where two are nearly equal, 1e-14 elsewhere.
    """
    if is_plane:
        mean = (hessian[1, 1] + hessian[2, 2]) / 2
        half = (hessian[1, 1] - hessian[2, 2]) / 2
        away = np.sqrt(half * half + hessian[1, 2] * hessian[1, 2])
        return 0.0, mean - away, mean + away
    mean = (hessian[0, 0] + hessian[1, 1] + hessian[2, 2]) / 3
    a, b, c = hessian[0, 0] - mean, hessian[1, 1] - mean, hessian[2, 2] - mean
    p, q, r = hessian[0, 1], hessian[0, 2], hessian[1, 2]
    size = np.sqrt((a * a + b * b + c * c + 2 * (p * p + q * q + r * r)) / 6)
    if size == 0:
        return mean, mean, mean
    determinant = a * (b * c - r * r) - p * (p * c - r * q) + q * (p * r - b * q)
    cosine = min(1.0, max(-1.0, determinant / (2 * size * size * size)))
    angle = np.arccos(cosine) / 3
    high = mean + 2 * size * np.cos(angle)
    low = mean + 2 * size * np.cos(angle + 2 * np.pi / 3)
    return low, 3 * mean - high - low, high


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sato(middle: float, high: float, is_plane: bool) -> float:
    """Of eigenvalues whose sign makes those across a tube positive."""
    if is_plane:
        return max(high, 0.0)
    return np.sqrt(middle * high) if middle > 0 else 0.0  # type: ignore[no-any-return]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _frangi(low: float, middle: float, high: float, is_plane: bool, constants: Any) -> float:
    """Of eigenvalues whose sign makes those across a tube positive."""
    alpha, beta, c = constants[0], constants[1], constants[2]
    norm = low * low + middle * middle + high * high
    structure = 1 - np.exp(-norm / (2 * c * c))
    if is_plane:
        if high <= 0 or abs(middle) > high:
            return 0.0
        blob = middle / high
        return np.exp(-blob * blob / (2 * beta * beta)) * structure  # type: ignore[no-any-return]
    # Ascending, and both across a tube positive: the smallest in size is `low`, or one across is negative.
    if middle <= 0 or abs(low) > middle:
        return 0.0
    plate, blob = middle / high, low * low / (middle * high)
    shape = (1 - np.exp(-plate * plate / (2 * alpha * alpha))) * np.exp(-blob / (2 * beta * beta))
    return shape * structure  # type: ignore[no-any-return]
