"""What a pixel classifier sees of a voxel: ten filters at each of some scales, as in ilastik and Labkit.

At scale s, with S the image smoothed by a Gaussian of s um (cut off at 3 sigma, weights of sum 1):

    smooth       S
    gradient     s |grad S|
    laplacian    s^2 (S_zz + S_yy + S_xx)
    difference   S minus the image smoothed by 0.66 s
    hessian      eigenvalues, largest first, of s^2 times the second derivatives of S
    structure    eigenvalues, largest first, of s^2 grad S grad S^T, smoothed by s / 2

Scales are in um, so that anisotropic voxels see alike in all directions; derivatives are central differences over the
voxel size, and powers of s give all but the structure tensor the unit of the image (Lindeberg, Int. J. Computer Vision
30, 79, 1998). Factors 0.66 and 1/2 are ilastik's (Berg et al., Nature Methods 16, 1226, 2019). The image goes on beyond
the sides of the volume by reflection, as for networks (`kernels.blend`), once: everything else follows from that image.

A voxel's features have the same bits whatever box they are computed in: sums run in a fixed order over a window that
`halo` states. Cost grows with the scale in voxels, 24 one-dimensional filters of up to 6 s + 1 taps each; above some
tens of voxels resample first. Takes 4 F bytes per voxel of the box and up to 56 per voxel of the box with its halo.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod, sqrt
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

from chunkflow.kernels.blend import cut_patch

Triple = tuple[int, int, int]
Micrometers = tuple[float, float, float]
Float = NDArray[np.float32]

KINDS = (
    *("smooth", "gradient", "laplacian", "difference"),
    *("hessian 1", "hessian 2", "hessian 3"),
    *("structure 1", "structure 2", "structure 3"),
)
TRUNCATE = 3.0  # radii of a Gaussian in sigma
NARROWER = 0.66  # sigma of the other Gaussian of a difference, in sigma
OUTER = 0.5  # sigma that a structure tensor is smoothed by, in sigma
SWEEPS = 20  # of Jacobi rotations; five are enough but for numbers at the end of their range
GROWN_BYTES = 56  # per voxel of a box with its halo; 14 to 41 measured
NEGLIGIBLE = 1e-12  # what is off the diagonal then, in parts of what is on it; eigenvalues are kept as float32


def names(scales_um: Sequence[float]) -> tuple[str, ...]:
    """What the features are called, in the order of the last axis."""
    return tuple(f"{kind} {scale:g} um" for scale in scales_um for kind in KINDS)


def halo(scales_um: Sequence[float], voxel_um: Micrometers) -> Triple:
    """Voxels on each side, z, y, x, that the features of one voxel look at."""
    z, y, x = (max(_reach(scale / side) for scale in scales_um) for side in voxel_um)
    return z, y, x


def working_bytes(size: Triple, scales_um: Sequence[float], voxel_um: Micrometers) -> int:
    """What the features of a box of that size take, themselves included."""
    grown = prod(n + 2 * h for n, h in zip(size, halo(scales_um, voxel_um), strict=True))
    return 4 * len(KINDS) * len(scales_um) * prod(size) + GROWN_BYTES * grown


def features(
    read: NDArray[Any],
    read_start: Triple,
    *,
    start: Triple,
    stop: Triple,
    shape: Triple,
    scales_um: Sequence[float],
    voxel_um: Micrometers,
) -> Float:
    """The features of a box of the volume.

    Parameters
    ----------
    read : (Z, Y, X) real; voxels of the volume from `read_start` on: the box and `halo` around it, as far as there are.
    start, stop : the box; shape : of the volume.

    Returns
    -------
    (z, y, x, F) float32, F = 10 per scale, in the order of `names`. The same bits in every box.
    """
    around = halo(scales_um, voxel_um)
    size = tuple(b - a for a, b in zip(start, stop, strict=True))
    first, whole = _grown(start, size, around)
    image = cut_patch(read, read_start, first, whole, shape).astype(np.float32, copy=False)
    found = np.empty((*size, len(KINDS) * len(scales_um)), np.float32)
    for k, scale in enumerate(scales_um):
        sigma = tuple(scale / side for side in voxel_um)
        own = _cropped(image, tuple(h - _reach(s) for h, s in zip(around, sigma, strict=True)))
        _of_scale(own, scale, voxel_um, found[..., len(KINDS) * k : len(KINDS) * (k + 1)])
    return found


def _reach(sigma: float) -> int:
    """Voxels that the features of one scale look at along an axis."""
    return max(_radius(sigma) + 1 + _radius(OUTER * sigma), _radius(NARROWER * sigma))


def _radius(sigma: float) -> int:
    return ceil(TRUNCATE * sigma)


def _grown(start: Triple, size: tuple[int, ...], around: Triple) -> tuple[Triple, Triple]:
    z, y, x = (a - h for a, h in zip(start, around, strict=True))
    depth, height, width = (n + 2 * h for n, h in zip(size, around, strict=True))
    return (z, y, x), (depth, height, width)


def _cropped(image: Float, margin: tuple[int, ...]) -> Float:
    """The image without a margin on each side."""
    return image[tuple(slice(m, n - m) for m, n in zip(margin, image.shape, strict=True))]


def _of_scale(image: Float, scale: float, voxel_um: Micrometers, out: Float) -> None:
    """The ten features of one scale, of an image with the reach of that scale around the box."""
    sigma = tuple(scale / side for side in voxel_um)
    outer = tuple(OUTER * s for s in sigma)
    smooth = _smoothed(image, sigma)  # with 1 + the radius of the outer Gaussian around the box
    around = tuple(_radius(s) for s in outer)
    narrow = tuple(NARROWER * s for s in sigma)
    reach = tuple(_reach(s) - _radius(n) for s, n in zip(sigma, narrow, strict=True))
    _derivatives(
        _cropped(smooth, around), _smoothed(_cropped(image, reach), narrow), scale, np.array(voxel_um, np.float64), out
    )
    slopes = [_slope(smooth, axis, scale / voxel_um[axis]) for axis in range(3)]
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    zz, yy, xx, zy, zx, yx = (_smoothed(slopes[a] * slopes[b], outer) for a, b in pairs)
    _eigenvalues_of(zz, yy, xx, zy, zx, yx, out[..., 7:])


def _smoothed(image: Float, sigma: Sequence[float]) -> Float:
    """A Gaussian where the image covers all of it: smaller by its radius on each side."""
    for axis, width in enumerate(sigma):
        radius = _radius(width)
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
        image = ndimage.correlate1d(image, weights / weights.sum(), axis=axis, mode="nearest")
        margin = [0, 0, 0]
        margin[axis] = radius
        image = _cropped(image, tuple(margin))
    return np.ascontiguousarray(image)


def _slope(smooth: Float, axis: int, factor: float) -> Float:
    """Central difference along an axis times a factor, without the outermost voxels of all three."""
    middle = [slice(1, -1)] * 3
    before, behind = list(middle), list(middle)
    before[axis], behind[axis] = slice(0, -2), slice(2, None)
    return np.asarray(np.float32(factor / 2) * (smooth[tuple(behind)] - smooth[tuple(before)]))


@njit(cache=True, nogil=True)
def _derivatives(s: Any, narrow: Any, scale: float, voxel: Any, out: Any) -> None:
    """Features 0 to 6, of `s` with one voxel around the box and `narrow` with none."""
    fz, fy, fx = scale / voxel[0], scale / voxel[1], scale / voxel[2]
    values = np.zeros(3, np.float64)
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                i, j, k = z + 1, y + 1, x + 1
                here = np.float64(s[i, j, k])
                gz = fz * (np.float64(s[i + 1, j, k]) - s[i - 1, j, k]) / 2
                gy = fy * (np.float64(s[i, j + 1, k]) - s[i, j - 1, k]) / 2
                gx = fx * (np.float64(s[i, j, k + 1]) - s[i, j, k - 1]) / 2
                zz = fz * fz * (np.float64(s[i + 1, j, k]) + s[i - 1, j, k] - 2 * here)
                yy = fy * fy * (np.float64(s[i, j + 1, k]) + s[i, j - 1, k] - 2 * here)
                xx = fx * fx * (np.float64(s[i, j, k + 1]) + s[i, j, k - 1] - 2 * here)
                zy = np.float64(s[i + 1, j + 1, k]) - s[i + 1, j - 1, k] - s[i - 1, j + 1, k] + s[i - 1, j - 1, k]
                zx = np.float64(s[i + 1, j, k + 1]) - s[i + 1, j, k - 1] - s[i - 1, j, k + 1] + s[i - 1, j, k - 1]
                yx = np.float64(s[i, j + 1, k + 1]) - s[i, j + 1, k - 1] - s[i, j - 1, k + 1] + s[i, j - 1, k - 1]
                out[z, y, x, 0] = s[i, j, k]
                out[z, y, x, 1] = sqrt(gz * gz + gy * gy + gx * gx)
                out[z, y, x, 2] = zz + yy + xx
                out[z, y, x, 3] = s[i, j, k] - narrow[z, y, x]
                eigenvalues(zz, yy, xx, fz * fy * zy / 4, fz * fx * zx / 4, fy * fx * yx / 4, values)
                for n in range(3):
                    out[z, y, x, 4 + n] = values[n]


@njit(cache=True, nogil=True)
def _eigenvalues_of(zz: Any, yy: Any, xx: Any, zy: Any, zx: Any, yx: Any, out: Any) -> None:
    """Eigenvalues of a field of symmetric matrices, along the last axis of `out`."""
    values = np.zeros(3, np.float64)
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                eigenvalues(
                    np.float64(zz[z, y, x]),
                    np.float64(yy[z, y, x]),
                    np.float64(xx[z, y, x]),
                    np.float64(zy[z, y, x]),
                    np.float64(zx[z, y, x]),
                    np.float64(yx[z, y, x]),
                    values,
                )
                for n in range(3):
                    out[z, y, x, n] = values[n]


@njit(cache=True, nogil=True)
def eigenvalues(aa: float, bb: float, cc: float, ab: float, ac: float, bc: float, out: Any) -> None:
    """Eigenvalues of a symmetric 3 x 3 matrix into `out`, the largest first.

    Cyclic Jacobi rotations (Golub & Van Loan, Matrix Computations, 8.5), which take sums, products, quotients and roots
    alone: they round alike on every machine and in every loop, unlike the arc cosine of the closed form.
    """
    for _ in range(SWEEPS):
        if abs(ab) + abs(ac) + abs(bc) <= NEGLIGIBLE * (abs(aa) + abs(bb) + abs(cc)):
            break
        if ab != 0:
            t, c, s = _rotation(aa, bb, ab)
            aa, bb, ab, ac, bc = aa - t * ab, bb + t * ab, 0.0, c * ac - s * bc, s * ac + c * bc
        if ac != 0:
            t, c, s = _rotation(aa, cc, ac)
            aa, cc, ac, ab, bc = aa - t * ac, cc + t * ac, 0.0, c * ab - s * bc, s * ab + c * bc
        if bc != 0:
            t, c, s = _rotation(bb, cc, bc)
            bb, cc, bc, ab, ac = bb - t * bc, cc + t * bc, 0.0, c * ab - s * ac, s * ab + c * ac
    out[0] = max(aa, bb, cc)
    out[2] = min(aa, bb, cc)
    out[1] = max(min(aa, bb), min(max(aa, bb), cc))


@njit(cache=True, nogil=True)
def _rotation(p: float, q: float, off: float) -> tuple[float, float, float]:
    """Tangent, cosine and sine of the rotation that takes what is off the diagonal between p and q to 0."""
    theta = (q - p) / (2 * off)
    t = 1 / (abs(theta) + sqrt(theta * theta + 1))
    if theta < 0:
        t = -t
    c = 1 / sqrt(t * t + 1)
    return t, c, t * c
