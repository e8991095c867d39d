"""The microscope's blur as a linear operator on an array, and its adjoint, by FFTs that stay in a cache.

What lies beyond the sides of an image throws light into it, and nobody saw it. Four ways to treat that:

    extended   the object goes on beyond the image by the PSF's support and is estimated there too, while only the
               part of its blurred image that was observed is compared (Bertero & Boccacci, A&A 437, 369, 2005)
    zero       nothing shines out there
    circular   the image repeats itself
    reflect    is mirrored by the caller, and then extended

        |<- pad ->|<------ data: N voxels ------>|<- pad ->|
        |<------------ extended domain: N + P - 1 -------->|<- up to a fast FFT size F ->|

The transform along z needs whole columns, those along y and x only whole planes. So there are two kinds of sweeps, over
slabs of planes and over slabs of columns, each of which transforms a cache's worth, does all pointwise work there and
writes it back. Slabs are independent: they may be spread over threads without moving a bit.

Data voxel 0 is torus voxel 0; the padding before the data is at the end of the torus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, Literal

import numpy as np
from scipy.fft import next_fast_len

from chunkflow.backend import array_module, scipy_module
from chunkflow.geometry.box import Triple, triple
from chunkflow.kernels.separable import SeparableBlur, profiles_of

Edges = Literal["extended", "zero", "circular", "reflect"]

# Bytes of the float32 planes that one sweep step transforms: a cache's worth on a CPU, enough to fill a GPU.
SLAB_BYTES = {"cpu": 2**19, "gpu": 2**27}
# Several threads take longer steps: what Python does for each holds the others up (4 threads: 5 to 15 % quicker).
THREADED_STEP = 2


def slab_bytes(array: Any) -> int:
    """Bytes of the slabs that an array is best worked on in."""
    return SLAB_BYTES["cpu" if array_module(array) is np else "gpu"]


class Sweeps:
    """Runs a function over slabs, on one thread or several; the bits do not depend on how many."""

    def __init__(self, threads: int, xp: Any) -> None:
        self._pool = ThreadPoolExecutor(threads) if threads > 1 and xp is np else None
        self._slab_bytes = slab_bytes(xp.empty(0)) * (1 if self._pool is None else THREADED_STEP)

    def over(self, count: int, plane_bytes: int, work: Callable[[slice], None]) -> None:
        """Call `work` with slices that cover `count` planes, each about a slab's bytes."""
        slabs = _slices(count, self._slab_bytes // plane_bytes)
        for _ in map(work, slabs) if self._pool is None else self._pool.map(work, slabs):
            pass


class Blur:
    """A x: the blur from the estimate's domain to the data. One spectrum, loaded and unloaded plane by plane.

    Parameters
    ----------
    psf : (Pz, Py, Px) float32, sums to 1, centre at shape // 2.
    shape : of the data.
    back : makes the kernel of the back projector from the PSF, of the PSF's shape made odd, centre at shape // 2; by
        default it is the flipped PSF, which is the adjoint.

    Attributes
    ----------
    shape : of the data; domain : of the estimate; padded : of the FFT.
    """

    def __init__(
        self,
        psf: Any,
        shape: Triple,
        xp: Any,
        *,
        edges: Edges = "extended",
        back: Callable[[Any], Any] | None = None,
        threads: int = 1,
    ) -> None:
        self.shape = shape
        self.padded = fft_shape(shape, triple(psf.shape), edges, has_back=back is not None)
        self.domain = self.padded if edges in ("extended", "reflect") else shape
        self.sweeps = Sweeps(threads, xp)
        self._xp = xp
        self._fft = scipy_module(xp.empty(0), "fft")
        self._spectrum = xp.zeros(_spectrum_shape(self.padded), np.complex64)
        self._otf = self._transform(on_torus(psf, self.padded, xp))
        self._back = None if back is None else self._transform(on_torus(back(psf), self.padded, xp))

    def _transform(self, kernel: Any) -> Any:
        def load(planes: slice) -> None:
            if kernel[planes].any():
                self.load(planes, kernel[planes])
            else:
                self._spectrum[planes] = 0

        self.over_planes(self.padded[0], load)
        otf = self._xp.empty_like(self._spectrum)

        def transform(rows: slice) -> None:
            otf[:, rows] = self._fft.fft(self._spectrum[:, rows], axis=0)

        self._over_rows(transform)
        return otf

    def forward(self, estimate: Any) -> Any:
        """A x: (Dz, Dy, Dx) on the domain -> (Z, Y, X) data."""
        data = self._xp.empty(self.shape, np.float32)

        def unload(planes: slice) -> None:
            data[planes] = self.model(planes)

        self.over_planes(self.domain[0], lambda planes: self.load(planes, estimate[planes]))
        self.blur_columns()
        self.over_planes(self.shape[0], unload)
        return data

    def adjoint(self, data: Any) -> Any:
        """A' r: (Z, Y, X) data -> (Dz, Dy, Dx) on the domain; with a back projector of its own, that instead."""
        spread = self._xp.empty(self.domain, np.float32)

        def unload(planes: slice) -> None:
            spread[planes] = self.correction(planes)

        self.over_planes(self.shape[0], lambda planes: self.load_data(planes, data[planes]))
        self.blur_columns_adjoint()
        self.over_planes(self.domain[0], unload)
        return spread

    def load(self, planes: slice, values: Any) -> None:
        """Put planes (k, <= Fy, <= Fx) of the estimate, zeros beyond them, into the spectrum, along x and y."""
        rows = self._fft.rfft(values, n=self.padded[2], axis=2)
        self._spectrum[planes] = self._fft.fft(rows, n=self.padded[1], axis=1, overwrite_x=True)

    def load_data(self, planes: slice, values: Any) -> None:
        """The same for planes of the data."""
        self.load(planes, values)

    def model(self, planes: slice) -> Any:
        """Planes of the data that the loaded estimate would give, after `blur_columns`."""
        return self._unload(planes, self.shape)

    def correction(self, planes: slice) -> Any:
        """Planes of the domain, after `blur_columns_adjoint`."""
        return self._unload(planes, self.domain)

    def _unload(self, planes: slice, shape: Triple) -> Any:
        rows = self._fft.ifft(self._spectrum[planes], axis=1)[:, : shape[1]]
        return self._fft.irfft(rows, n=self.padded[2], axis=2, overwrite_x=True)[:, :, : shape[2]]

    def blur_columns(self) -> None:
        """Planes of the domain -> planes of the data, times the OTF."""
        self._filter_columns(self.domain[0], self.shape[0], lambda rows: self._otf[:, rows])

    def blur_columns_adjoint(self) -> None:
        """Planes of the data -> planes of the domain, times the transfer function of the back projector."""
        back = self._back
        transfer = (lambda rows: self._otf[:, rows].conj()) if back is None else (lambda rows: back[:, rows])
        self._filter_columns(self.shape[0], self.domain[0], transfer)

    def _filter_columns(self, depth_in: int, depth_out: int, transfer: Callable[[slice], Any]) -> None:
        def work(rows: slice) -> None:
            columns = self._fft.fft(self._spectrum[:depth_in, rows], n=self.padded[0], axis=0)
            columns *= transfer(rows)
            self._spectrum[:depth_out, rows] = self._fft.ifft(columns, axis=0, overwrite_x=True)[:depth_out]

        self._over_rows(work)

    def over_planes(self, count: int, work: Callable[[slice], None]) -> None:
        """Call `work` for slabs of the first `count` planes."""
        self.sweeps.over(count, 4 * self.padded[1] * self.padded[2], work)

    def _over_rows(self, work: Callable[[slice], None]) -> None:
        self.sweeps.over(self.padded[1], 4 * self.padded[0] * self.padded[2], work)


@dataclass(frozen=True, slots=True)
class DepthPsfs:
    """PSFs at some planes of an array; in between, the object's light is shared out linearly.

    A x = sum_i h_i * (w_i x), where w_i is 1 at plane i of the list, 0 at its neighbours and linear between, and the
    first and the last hold beyond their ends.

    planes : where the PSFs hold, ascending, in planes of the data; they may lie outside it
    psfs : (K, Pz, Py, Px) float32, each sums to 1
    """

    planes: Sequence[float]
    psfs: Any

    @property
    def shape(self) -> Triple:
        return triple(self.psfs.shape[1:])

    def weights(self, positions: Any) -> Any:
        """(K, n) float32: the share of each PSF at plane positions; they sum to 1."""
        knots = np.asarray(self.planes, np.float64)
        identity = np.eye(len(knots))
        return np.stack([np.interp(positions, knots, row) for row in identity]).astype(np.float32)

    def moved(self, planes: float) -> DepthPsfs:
        """The same for an array that starts so many planes later."""
        return DepthPsfs([p - planes for p in self.planes], self.psfs)


class DepthBlur:
    """`Blur` with a PSF that changes with depth: one spectrum per PSF that has a share in the array."""

    def __init__(
        self,
        psfs: DepthPsfs,
        shape: Triple,
        xp: Any,
        *,
        edges: Edges = "extended",
        back: Callable[[Any], Any] | None = None,
        threads: int = 1,
    ) -> None:
        self.shape = shape
        self.padded = fft_shape(shape, psfs.shape, edges, has_back=back is not None)
        self.domain = self.padded if edges in ("extended", "reflect") else shape
        weights = psfs.weights(_plane_positions(self.domain[0], shape[0], psfs.shape[0]))
        shares = [k for k in range(len(weights)) if weights[k].any()]
        self._weights = [xp.asarray(weights[k])[:, None, None] for k in shares]
        self._blurs = [Blur(psfs.psfs[k], shape, xp, edges=edges, back=back, threads=threads) for k in shares]
        self.over_planes = self._blurs[0].over_planes

    def forward(self, estimate: Any) -> Any:
        """A x: (Dz, Dy, Dx) on the domain -> (Z, Y, X) data."""
        return _summed(blur.forward(estimate * w) for blur, w in self._shares())

    def adjoint(self, data: Any) -> Any:
        """A' r: (Z, Y, X) data -> (Dz, Dy, Dx) on the domain."""
        return _summed(w * blur.adjoint(data) for blur, w in self._shares())

    def load(self, planes: slice, values: Any) -> None:
        """Share planes of the estimate out to the spectra."""
        for blur, w in self._shares():
            blur.load(planes, values * w[planes])

    def load_data(self, planes: slice, values: Any) -> None:
        """Planes of the data, into every spectrum."""
        for blur, _ in self._shares():
            blur.load_data(planes, values)

    def model(self, planes: slice) -> Any:
        """Planes of the data that the loaded estimate would give."""
        return _summed(blur.model(planes) for blur, _ in self._shares())

    def correction(self, planes: slice) -> Any:
        """Planes of the domain."""
        return _summed(w[planes] * blur.correction(planes) for blur, w in self._shares())

    def blur_columns(self) -> None:
        """Planes of the domain -> planes of the data."""
        for blur, _ in self._shares():
            blur.blur_columns()

    def blur_columns_adjoint(self) -> None:
        """Planes of the data -> planes of the domain."""
        for blur, _ in self._shares():
            blur.blur_columns_adjoint()

    def _shares(self) -> Iterator[tuple[Blur, Any]]:
        return zip(self._blurs, self._weights, strict=True)


def _summed(terms: Iterator[Any]) -> Any:
    total = next(terms)
    for term in terms:
        total += term
    return total


def _plane_positions(domain: int, depth: int, psf_depth: int) -> Any:
    """Plane of the data that each plane of the domain is: the torus ends with the planes before the data."""
    positions = np.arange(domain)
    before = psf_depth - 1 - psf_depth // 2 if domain > depth else 0
    return np.where(positions >= domain - before, positions - domain, positions)


def blur_with(
    psf: Any | DepthPsfs,
    shape: Triple,
    xp: Any,
    *,
    edges: Edges,
    back: Callable[[Any], Any] | None = None,
    threads: int = 1,
) -> Blur | DepthBlur | SeparableBlur:
    """The blur by one PSF, or by one that changes with depth; on a CPU by direct sums where those are quicker."""
    if isinstance(psf, DepthPsfs):
        return DepthBlur(psf, shape, xp, edges=edges, back=back, threads=threads)
    profiles = profiles_of(psf) if xp is np and back is None else None
    if profiles is None:
        return Blur(psf, shape, xp, edges=edges, back=back, threads=threads)
    torus, domain = sums_on(shape, triple(psf.shape), edges)
    return SeparableBlur(profiles, shape, domain, torus, Sweeps(threads, xp).over)


def sums_on(shape: Triple, psf_shape: Triple, edges: Edges) -> tuple[Triple, Triple]:
    """The torus that direct sums run over, which needs no fast sizes, and the domain of the estimate."""
    torus = shape if edges == "circular" else triple(tuple(n + p - 1 for n, p in zip(shape, psf_shape, strict=True)))
    return torus, torus if edges in ("extended", "reflect") else shape


def fft_shape(shape: Triple, psf_shape: Triple, edges: Edges = "extended", *, has_back: bool = False) -> Triple:
    """The torus: the smallest sizes 2^a 3^b 5^c that hold N + P - 1 voxels per axis; with circular edges, the data.

    P is the PSF's, or where there is a back projector of its own, that made odd.
    """
    if edges == "circular":
        return shape
    supports = [p // 2 * 2 + 1 if has_back else p for p in psf_shape]
    return triple(tuple(int(next_fast_len(n + p - 1, real=True)) for n, p in zip(shape, supports, strict=True)))


def working_set_bytes(
    shape: Triple, psf_shape: Triple, edges: Edges = "extended", kind: str = "cpu", *, has_back: bool = False
) -> int:
    """Bytes of a `Blur`: its spectrum, its transfer functions and a few slabs in flight (one thread)."""
    padded = fft_shape(shape, psf_shape, edges, has_back=has_back)
    slab = min(4 * prod(padded), max(SLAB_BYTES[kind], 4 * padded[1] * padded[2], 4 * padded[0] * padded[2]))
    return (3 if has_back else 2) * 8 * prod(_spectrum_shape(padded)) + 5 * slab


def on_torus(psf: Any, padded: Triple, xp: Any) -> Any:
    """The PSF with its centre at voxel 0, float32; where it is larger than the torus, it wraps around."""
    kernel = xp.asarray(psf, np.float32)
    for axis, size in enumerate(padded):
        kernel = wrapped(kernel, axis, size)
    return kernel


def wrapped(kernel: Any, axis: int, size: int) -> Any:
    """A kernel on a periodic axis: its centre (shape // 2) at 0, what reaches beyond the period folded back."""
    xp = array_module(kernel)
    length = kernel.shape[axis]
    periods = ceil(length / size)
    width = [(0, 0)] * kernel.ndim
    width[axis] = (0, periods * size - length)
    placed = xp.roll(xp.pad(kernel, width), -(length // 2), axis=axis)
    if periods == 1:
        return placed
    return placed.reshape(*kernel.shape[:axis], periods, size, *kernel.shape[axis + 1 :]).sum(axis=axis)


def _spectrum_shape(padded: Triple) -> Triple:
    return padded[0], padded[1], padded[2] // 2 + 1


def _slices(count: int, step: int) -> Iterator[slice]:
    step = max(step, 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
