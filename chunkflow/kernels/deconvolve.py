"""Richardson-Lucy deconvolution of one array whose object goes on beyond its sides.

The microscope blurs an object x that is larger than the picture y: what lies up to one PSF outside still throws light
into it. So x is estimated on the extended domain, and only the part of its blurred image that was observed is compared
(Bertero & Boccacci, A&A 437, 369, 2005):

        |<- pad ->|<------ y: N voxels ------>|<- pad ->|
        |<------------- x: N + P - 1 voxels ----------->|<- up to a fast FFT size F ->|

    x <- x / (A'1) * A'( y / (A x + b) )        A: blur, then cut out the N voxels      A': its adjoint

`A'1` says how much of the light of a voxel of x was seen at all; it is 1 inside and falls to 0 outside.

One iteration is four sweeps over memory. The transform along z needs whole columns, the ones along y and x only whole
planes, so each sweep takes a slab that fits a cache, transforms it there, does all pointwise work and writes it back:

    planes:  x  -> spectrum                         columns:  spectrum * OTF,  back along z
    planes:  model -> y / (model + b) -> spectrum   columns:  spectrum * conj(OTF), back along z
    planes:  correction -> x  (-> spectrum of the next iteration)

The working set is four float32 arrays of F voxels. It stops where these do not fit: 512^3 with a 64^3 PSF takes 3 GB.
Results do not depend on the number of threads of the FFT, and do depend on the shape: use one tile shape for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from scipy.fft import next_fast_len

from chunkflow.backend import array_module, scipy_module
from chunkflow.geometry.box import Triple, triple

# Bytes of the float32 planes that one sweep step transforms: a cache's worth on a CPU, enough to fill a GPU.
SLAB_BYTES = {"cpu": 2**20, "gpu": 2**27}
# Voxels of which less than this part of the light was seen cannot be known, and are not amplified further.
SEEN_FLOOR = 1e-2
# The model's floor in units of the start value: below it, float32 FFT noise decides the sign.
MODEL_FLOOR = 1e-6


def richardson_lucy(image: Any, psf: Any, *, iterations: int, background: float = 0.0, start: float) -> Any:
    """Deconvolve by Richardson-Lucy with extended-domain edges on every side of the array.

    Parameters
    ----------
    image : (Z, Y, X) real, photons or proportional to them, numpy or cupy; negative values count as 0.
    psf : (Pz, Py, Px) float32, sums to 1, centre at shape // 2; odd or even, symmetric or not.
    background : what the detector adds to the blurred object (same unit as the image).
    start : the flat first estimate, > 0, one value for a whole volume (its mean less the background): a start of its
        own would make each tile differ from its neighbours.

    Returns
    -------
    (Z, Y, X) float32, >= 0, on the image's device. Within 1.5e-6 (relative L2) of float64 after 20 iterations.
    """
    xp = array_module(image)
    shape = triple(image.shape)
    blur = ExtendedBlur(psf, shape, xp)
    weight = blur.adjoint(xp.broadcast_to(xp.ones(1, np.float32), shape))
    xp.maximum(weight, SEEN_FLOOR, out=weight)
    xp.divide(1.0, weight, out=weight)
    model_floor = max(MODEL_FLOOR * start, float(np.finfo(np.float32).tiny))
    estimate = xp.full(blur.padded, start, np.float32)
    for planes in blur.slabs(blur.padded):
        blur.load(planes, estimate[planes])
    for iteration in range(iterations):
        blur.blur_columns()
        for planes in blur.slabs(shape):
            model = blur.unload(planes, shape[1], shape[2])
            model = xp.maximum(model + background, model_floor)
            observed = xp.maximum(xp.asarray(image[planes], np.float32), 0)
            blur.load(planes, observed / model)
        blur.blur_columns_adjoint()
        for planes in blur.slabs(blur.padded):
            correction = blur.unload(planes, *blur.padded[1:])
            correction *= weight[planes]
            xp.maximum(correction, 0, out=correction)  # FFT noise would turn a dark voxel negative for good
            estimate[planes] *= correction
            if iteration + 1 < iterations:
                blur.load(planes, estimate[planes])
    return estimate[: shape[0], : shape[1], : shape[2]].copy()


class ExtendedBlur:
    """The blur A from the extended domain (stored on the FFT torus of `padded` voxels) to the data, and its adjoint.

    Data voxel 0 is torus voxel 0; the padding before the data is at the end of the torus. There is one spectrum: it
    is loaded plane by plane, filtered column by column, unloaded plane by plane.
    """

    def __init__(self, psf: Any, shape: Triple, xp: Any) -> None:
        self.shape = shape
        self.padded = fft_shape(shape, triple(psf.shape))
        self._fft = scipy_module(xp.empty(0), "fft")
        self._slab_bytes = SLAB_BYTES["cpu" if xp is np else "gpu"]
        kernel = xp.zeros(self.padded, np.float32)
        wrapped = [(xp.arange(p) - p // 2) % f for p, f in zip(psf.shape, self.padded, strict=True)]
        kernel[xp.ix_(*wrapped)] = xp.asarray(psf, np.float32)
        self._spectrum = xp.empty(_spectrum_shape(self.padded), np.complex64)
        for planes in self.slabs(self.padded):
            self.load(planes, kernel[planes])
        del kernel
        self._otf = xp.empty_like(self._spectrum)
        for rows in self._row_slabs():
            self._otf[:, rows] = self._fft.fft(self._spectrum[:, rows], axis=0)

    def forward(self, estimate: Any) -> Any:
        """A x: (Fz, Fy, Fx) on the torus -> (Z, Y, X) data."""
        for planes in self.slabs(self.padded):
            self.load(planes, estimate[planes])
        self.blur_columns()
        data = array_module(estimate).empty(self.shape, np.float32)
        for planes in self.slabs(self.shape):
            data[planes] = self.unload(planes, *self.shape[1:])
        return data

    def adjoint(self, data: Any) -> Any:
        """A' r: (Z, Y, X) data -> (Fz, Fy, Fx) on the torus."""
        for planes in self.slabs(self.shape):
            self.load(planes, data[planes])
        self.blur_columns_adjoint()
        spread = array_module(data).empty(self.padded, np.float32)
        for planes in self.slabs(self.padded):
            spread[planes] = self.unload(planes, *self.padded[1:])
        return spread

    def load(self, planes: slice, values: Any) -> None:
        """Put real planes (k, <= Fy, <= Fx), zeros beyond them, into the spectrum, transformed along x and y."""
        rows = self._fft.rfft(values, n=self.padded[2], axis=2)
        self._spectrum[planes] = self._fft.fft(rows, n=self.padded[1], axis=1, overwrite_x=True)

    def unload(self, planes: slice, height: int, width: int) -> Any:
        """Planes of the spectrum that is back along z, as real ones: the first (k, height, width) of (k, Fy, Fx)."""
        rows = self._fft.ifft(self._spectrum[planes], axis=1)[:, :height]
        return self._fft.irfft(rows, n=self.padded[2], axis=2, overwrite_x=True)[:, :, :width]

    def blur_columns(self) -> None:
        """Planes of the torus -> planes of the data, times the OTF."""
        depth = self.shape[0]
        for rows in self._row_slabs():
            columns = self._fft.fft(self._spectrum[:, rows], axis=0)
            columns *= self._otf[:, rows]
            self._spectrum[:depth, rows] = self._fft.ifft(columns, axis=0, overwrite_x=True)[:depth]

    def blur_columns_adjoint(self) -> None:
        """Planes of the data (zeros beyond them) -> planes of the torus, times the conjugate OTF."""
        depth = self.shape[0]
        for rows in self._row_slabs():
            columns = self._fft.fft(self._spectrum[:depth, rows], n=self.padded[0], axis=0)
            columns *= self._otf[:, rows].conj()
            self._spectrum[:, rows] = self._fft.ifft(columns, axis=0, overwrite_x=True)

    def slabs(self, shape: Triple) -> Iterator[slice]:
        """Slices of planes that cover `shape[0]`, each about a slab's bytes."""
        return _slices(shape[0], self._slab_bytes // (4 * self.padded[1] * self.padded[2]))

    def _row_slabs(self) -> Iterator[slice]:
        return _slices(self.padded[1], self._slab_bytes // (4 * self.padded[0] * self.padded[2]))


def fft_shape(shape: Triple, psf_shape: Triple) -> Triple:
    """The torus: the smallest sizes 2^a 3^b 5^c that hold the extended domain, N + P - 1 voxels per axis."""
    return triple(tuple(int(next_fast_len(n + p - 1, real=True)) for n, p in zip(shape, psf_shape, strict=True)))


def working_set_bytes(shape: Triple, psf_shape: Triple, kind: str = "cpu") -> int:
    """Peak memory of `richardson_lucy` beside the image and the PSF given to it, its result included.

    Estimate, weight, spectrum and OTF on the torus, the result, and a few slabs in flight.
    """
    padded = fft_shape(shape, psf_shape)
    slab = min(4 * prod(padded), max(SLAB_BYTES[kind], 4 * padded[1] * padded[2], 4 * padded[0] * padded[2]))
    return 2 * 4 * prod(padded) + 2 * 8 * prod(_spectrum_shape(padded)) + 4 * prod(shape) + 5 * slab


def _spectrum_shape(padded: Triple) -> Triple:
    return padded[0], padded[1], padded[2] // 2 + 1


def _slices(count: int, step: int) -> Iterator[slice]:
    step = max(step, 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
