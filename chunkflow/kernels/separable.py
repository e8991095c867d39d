"""The blur of `kernels.blur` where the PSF is a product of three profiles: direct sums along the axes, without FFTs.

    h(z, y, x) = hz(z) hy(y) hx(x)          a Gaussian, for one

Each axis takes as many multiplications per voxel as the profile has values. For PSFs of a few dozen voxels that is two
to three times quicker than transforms, and needs no fast sizes. Sums run over the same torus and mean the same; they
differ from the FFTs in the last bits only. The sweeps over planes are those of `Blur`: planes are loaded along y and x,
and summed along z when they are asked for, so that what a slab makes is used while it is in a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chunkflow.geometry.box import Triple

MOST_VALUES = 120
"""Values of the three profiles together up to which sums are quicker than transforms (CPU, one thread)."""

RANK_ONE = 1e-6
"""Of the peak: how far a PSF may be from the product of its profiles. Its own float32 values are rounded to 6e-8."""


@dataclass(frozen=True, slots=True)
class Profiles:
    """The profiles of a PSF along z, y, x: each sums to 1, centre at length // 2, float32."""

    z: NDArray[np.float32]
    y: NDArray[np.float32]
    x: NDArray[np.float32]

    def flipped(self) -> Profiles:
        """Those of the adjoint, whose centres lie at (length - 1) // 2."""
        return Profiles(*(np.ascontiguousarray(p[::-1]) for p in (self.z, self.y, self.x)))


def profiles_of(psf: NDArray[np.float32]) -> Profiles | None:
    """The profiles of a PSF (Pz, Py, Px) that is their product, None where it is not, or is too large to gain by it."""
    if psf.ndim != 3 or sum(psf.shape) > MOST_VALUES:
        return None
    exact = psf.astype(np.float64)
    total = exact.sum()
    if not total > 0:
        return None
    z, y, x = (exact.sum(axis=others) / total for others in ((1, 2), (0, 2), (0, 1)))
    if np.abs(total * z[:, None, None] * y[:, None] * x - exact).max() > RANK_ONE * exact.max():
        return None
    return Profiles(*(p.astype(np.float32) for p in (total * z, y, x)))


class SeparableBlur:
    """A x, from the estimate's domain to the data; as `kernels.blur.Blur`, whose sweeps it runs.

    Parameters
    ----------
    shape : of the data; domain : of the estimate; padded : the torus (`kernels.blur.sums_on`).
    over : calls a function with slabs of planes, `kernels.blur.Sweeps.over`.
    """

    def __init__(
        self,
        profiles: Profiles,
        shape: Triple,
        domain: Triple,
        padded: Triple,
        over: Callable[[int, int, Callable[[slice], None]], None],
    ) -> None:
        self.shape, self.domain, self.padded = shape, domain, padded
        self._over = over
        self._there, self._back = profiles, profiles.flipped()
        self._loaded = np.zeros((domain[0], *shape[1:]), np.float32)
        self._loaded_data = np.zeros((shape[0], *domain[1:]), np.float32)

    def forward(self, estimate: Any) -> Any:
        """A x: (Dz, Dy, Dx) on the domain -> (Z, Y, X) data."""
        data = np.empty(self.shape, np.float32)

        def unload(planes: slice) -> None:
            data[planes] = self.model(planes)

        self.over_planes(self.domain[0], lambda planes: self.load(planes, estimate[planes]))
        self.over_planes(self.shape[0], unload)
        return data

    def adjoint(self, data: Any) -> Any:
        """A' r: (Z, Y, X) data -> (Dz, Dy, Dx) on the domain."""
        spread = np.empty(self.domain, np.float32)

        def unload(planes: slice) -> None:
            spread[planes] = self.correction(planes)

        self.over_planes(self.shape[0], lambda planes: self.load_data(planes, data[planes]))
        self.over_planes(self.domain[0], unload)
        return spread

    def load(self, planes: slice, values: Any) -> None:
        """Planes (k, Dy, Dx) of the estimate, blurred along y and x to those of the data."""
        there, size = self._there, self.padded
        centres = len(there.y) // 2, len(there.x) // 2
        _blur_planes(_plain(values), there.y, there.x, centres, size[1:], self._loaded[planes])

    def load_data(self, planes: slice, values: Any) -> None:
        """Planes (k, Y, X) of the data, spread along y and x over the domain's."""
        back, size = self._back, self.padded
        centres = (len(back.y) - 1) // 2, (len(back.x) - 1) // 2
        _blur_planes(_plain(values), back.y, back.x, centres, size[1:], self._loaded_data[planes])

    def model(self, planes: slice) -> Any:
        """Planes of the data that the loaded estimate would give."""
        result = np.empty((planes.stop - planes.start, *self.shape[1:]), np.float32)
        _blur_columns(self._loaded, self._there.z, len(self._there.z) // 2, self.padded[0], planes.start, result)
        return result

    def correction(self, planes: slice) -> Any:
        """Planes of the domain, from the loaded data."""
        result = np.empty((planes.stop - planes.start, *self.domain[1:]), np.float32)
        centre = (len(self._back.z) - 1) // 2
        _blur_columns(self._loaded_data, self._back.z, centre, self.padded[0], planes.start, result)
        return result

    def blur_columns(self) -> None:
        """Nothing: columns are summed when planes are asked for."""

    def blur_columns_adjoint(self) -> None:
        """Nothing: columns are summed when planes are asked for."""

    def over_planes(self, count: int, work: Callable[[slice], None]) -> None:
        """Call `work` for slabs of the first `count` planes."""
        self._over(count, 4 * self.padded[1] * self.padded[2], work)


def working_set_bytes(shape: Triple, domain: Triple) -> int:
    """Bytes of a `SeparableBlur`: planes of estimate and data, and a few slabs in flight (one thread)."""
    loaded = domain[0] * shape[1] * shape[2] + shape[0] * domain[1] * domain[2]
    return 4 * loaded + 5 * max(2**19, 4 * domain[1] * domain[2])


def _plain(values: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _blur_planes(planes, along_y, along_x, centres, size, result):  # type: ignore[no-untyped-def]
    """Sums along y and x on a torus of `size` (Fy, Fx), of planes (k, A, B) that are 0 beyond, for the first voxels of
    `result` (k, P, Q)."""
    count, height, width = planes.shape
    rows, columns = result.shape[1:]
    taps = len(along_x)
    blurred = np.empty((height, columns), np.float32)
    line = np.empty(columns + taps - 1, np.float32)
    before = taps - 1 - centres[1]
    flipped = along_x[::-1].copy()
    sources, weights = np.empty(len(along_y), np.int64), np.empty(len(along_y), np.float32)
    for plane in range(count):
        for y in range(height):
            source = -before % size[1]
            for j in range(len(line)):
                line[j] = planes[plane, y, source] if source < width else np.float32(0)
                source = source + 1 if source + 1 < size[1] else 0
            for x in range(columns):
                blurred[y, x] = 0
            for t in range(0, taps - 3, 4):  # four terms at a time: that many fewer stores
                a, b, c, d = flipped[t], flipped[t + 1], flipped[t + 2], flipped[t + 3]
                p, q, r, s = line[t:], line[t + 1 :], line[t + 2 :], line[t + 3 :]  # x + t would hinder vectorising
                for x in range(columns):
                    blurred[y, x] += (a * p[x] + b * q[x]) + (c * r[x] + d * s[x])
            for t in range(taps - taps % 4, taps):
                a, p = flipped[t], line[t:]
                for x in range(columns):
                    blurred[y, x] += a * p[x]
        for y in range(rows):
            used = _terms(along_y, centres[0], size[0], height, y, sources, weights)
            for x in range(columns):
                result[plane, y, x] = 0
            for t in range(0, used - 3, 4):
                a, b, c, d = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
                e, f, g, h = sources[t], sources[t + 1], sources[t + 2], sources[t + 3]
                for x in range(columns):
                    result[plane, y, x] += (a * blurred[e, x] + b * blurred[f, x]) + (
                        c * blurred[g, x] + d * blurred[h, x]
                    )
            for t in range(used - used % 4, used):
                a, e = weights[t], sources[t]
                for x in range(columns):
                    result[plane, y, x] += a * blurred[e, x]


@njit(cache=True, nogil=True, fastmath={"contract"})
def _blur_columns(planes, along_z, centre, size, first, result):  # type: ignore[no-untyped-def]
    """Sums along z on a torus of `size`, of planes (n, P, Q) that are 0 beyond, for planes from `first` on."""
    depth, rows, columns = planes.shape
    sources, weights = np.empty(len(along_z), np.int64), np.empty(len(along_z), np.float32)
    for y in range(rows):
        for k in range(result.shape[0]):
            used = _terms(along_z, centre, size, depth, first + k, sources, weights)
            for x in range(columns):
                result[k, y, x] = 0
            for t in range(0, used - 3, 4):
                a, b, c, d = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
                p, q, r, s = sources[t], sources[t + 1], sources[t + 2], sources[t + 3]
                for x in range(columns):
                    result[k, y, x] += (a * planes[p, y, x] + b * planes[q, y, x]) + (
                        c * planes[r, y, x] + d * planes[s, y, x]
                    )
            for t in range(used - used % 4, used):
                a, p = weights[t], sources[t]
                for x in range(columns):
                    result[k, y, x] += a * planes[p, y, x]


@njit(cache=True, nogil=True)
def _terms(profile, centre, size, count, at, sources, weights):  # type: ignore[no-untyped-def]
    """Which of `count` values take part in the sum at a position on a torus, and with what weight; returns how many."""
    used = 0
    for t in range(len(profile)):
        source = (at - t + centre) % size
        if source < count:
            sources[used], weights[used] = source, profile[t]
            used += 1
    return used
