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


STRIP_VALUES = 2048
"""Values that are summed at a time: with those they are sums of, what the nearest cache of a core holds."""


SLABS = 2
"""Times the slabs of an FFT, that planes are fetched so many times less often to be summed along z."""


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
        self._over(count, 4 * self.padded[1] * self.padded[2] // SLABS, work)


def working_set_bytes(shape: Triple, domain: Triple) -> int:
    """Bytes of a `SeparableBlur`: planes of estimate and data, and a few slabs in flight (one thread)."""
    loaded = domain[0] * shape[1] * shape[2] + shape[0] * domain[1] * domain[2]
    return 4 * loaded + 5 * max(SLABS * 2**19, 4 * domain[1] * domain[2])


def _plain(values: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)


@njit(cache=True, nogil=True, fastmath={"contract"})
def _blur_planes(planes, along_y, along_x, centres, size, result):  # type: ignore[no-untyped-def]
    """Sums along y and x on a torus of `size` (Fy, Fx), of planes (k, A, B) that are 0 beyond, for the first voxels of
    `result` (k, P, Q).

    A strip of rows at a time: its lines, as long as the sums along x reach, stand one after the other, so that both
    sums are those of one long line; what lies between rows is computed too, and left.
    """
    rows, columns = result.shape[1:]
    taps_y, taps_x = len(along_y), len(along_x)
    wide, more = columns + taps_x - 1, taps_y - 1
    strip = max(1, STRIP_VALUES // wide)
    lines = np.zeros((strip + more) * wide + taps_x - 1, np.float32)
    blurred = np.zeros((strip + more) * wide + taps_x - 1, np.float32)
    total = np.empty(strip * wide, np.float32)
    weights_y, weights_x = along_y[::-1].copy(), along_x[::-1].copy()
    shifts_y, shifts_x = np.arange(taps_y) * wide, np.arange(taps_x)
    first_y, first_x = (centres[0] - more) % size[0], (centres[1] - taps_x + 1) % size[1]
    for plane in range(len(planes)):
        held = 0
        for y in range(0, rows, strip):
            here = min(strip, rows - y)
            for row in range(held, here + more):
                line = lines[row * wide : (row + 1) * wide]
                _unroll(planes[plane], (first_y + y + row) % size[0], first_x, size[1], line)
            _add_shifted(lines[held * wide :], shifts_x, weights_x, taps_x, blurred[held * wide : (here + more) * wide])
            _add_shifted(blurred, shifts_y, weights_y, taps_y, total[: here * wide])
            for row in range(here):
                there, line = result[plane, y + row], total[row * wide :]
                for x in range(columns):
                    there[x] = line[x]
            last = blurred[here * wide :]
            for i in range(more * wide):
                blurred[i] = last[i]
            held = more


@njit(cache=True, nogil=True)
def _unroll(plane, row, first, size, line):  # type: ignore[no-untyped-def]
    """`line` from a row of a plane that is 0 beyond, on a torus of `size` columns, from column `first` on."""
    height, width = plane.shape
    if row >= height:
        line[:] = 0
        return
    done, source = 0, first
    while done < len(line):
        if source < width:
            run = min(len(line) - done, width - source)
            there, here = line[done:], plane[row, source:]
            for i in range(run):
                there[i] = here[i]
        else:
            run = min(len(line) - done, size - source)
            line[done : done + run] = 0
        done += run
        source = source + run if source + run < size else 0


@njit(cache=True, nogil=True, fastmath={"contract"})
def _blur_columns(planes, along_z, centre, size, first, result):  # type: ignore[no-untyped-def]
    """Sums along z on a torus of `size`, of planes (n, P, Q) that are 0 beyond, for planes from `first` on."""
    depth, plane = len(planes), planes[0].size
    values, sums = planes.reshape(-1), result.reshape(-1)
    shifts, weights = np.empty(len(along_z), np.int64), np.empty(len(along_z), np.float32)
    for start in range(0, plane, STRIP_VALUES):
        stop = min(plane, start + STRIP_VALUES)
        for k in range(len(result)):
            used = _terms(along_z, centre, size, depth, first + k, shifts, weights)
            for t in range(used):
                shifts[t] *= plane
            _add_shifted(values[start:], shifts, weights, used, sums[k * plane + start : k * plane + stop])


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add_shifted(values, shifts, weights, used, result):  # type: ignore[no-untyped-def]
    """result[i] = sum over t of weights[t] * values[i + shifts[t]], eight terms at a time, so that few are stored."""
    count = len(result)
    result[:] = 0
    t = 0
    while t + 8 <= used:
        a, b, c, d = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        e, f, g, h = weights[t + 4], weights[t + 5], weights[t + 6], weights[t + 7]
        p, q, r, s = values[shifts[t] :], values[shifts[t + 1] :], values[shifts[t + 2] :], values[shifts[t + 3] :]
        u, v = values[shifts[t + 4] :], values[shifts[t + 5] :]  # i + shift would hinder vectorising
        w, z = values[shifts[t + 6] :], values[shifts[t + 7] :]
        for i in range(count):
            total = result[i] + a * p[i]
            total += b * q[i]
            total += c * r[i]
            total += d * s[i]
            total += e * u[i]
            total += f * v[i]
            total += g * w[i]
            total += h * z[i]
            result[i] = total
        t += 8
    while t + 2 <= used:
        a, b = weights[t], weights[t + 1]
        p, q = values[shifts[t] :], values[shifts[t + 1] :]
        for i in range(count):
            total = result[i] + a * p[i]
            result[i] = total + b * q[i]
        t += 2
    if t < used:
        a, p = weights[t], values[shifts[t] :]
        for i in range(count):
            result[i] += a * p[i]


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
