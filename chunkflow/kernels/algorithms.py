"""The parts that iterative deconvolution algorithms are put together from, a small strategy object each.

    comparison  r = y / m  (Richardson-Lucy) or  y - m           y: the image, m: the blurred estimate
    correction  c = B r                                          B: A', or a back projector that is not its adjoint
    update      x <- x c / B1 ...  or  x + g c ...               with a penalty in it, and shrinkage after it

`kernels.deconvolve` has the loop that runs them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar, Protocol

import numpy as np

from chunkflow.backend import array_module, pointwise
from chunkflow.geometry.box import Triple, triple
from chunkflow.kernels import blur as blurs
from chunkflow.kernels import starlet

# Voxels of the torus, at least, on which a back projector is made.
LEAST_TORUS = 32
# Gradients under this part of the start value count as flat for total variation.
FLAT_GRADIENT = 1e-3
# lambda of total variation from which the divisor could reach 0: |div(grad x / |grad x|)| is at most 2 sqrt(3).
LARGEST_TOTAL_VARIATION = 1 / (2 * sqrt(3))


class Update(Protocol):
    """How an estimate is compared with the image and corrected. Pointwise, so that it is done plane by plane."""

    multiplies: ClassVar[bool]

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """Least and largest value of x."""

    def compare(self, observed: Any, model: Any, background: float, floor: float) -> Any:
        """What is projected back, from the image and the blurred estimate without background."""

    def correct(self, estimate: Any, correction: Any, penalty: Any) -> Any:
        """The next estimate; `penalty` is an array like it, or None."""


@dataclass(frozen=True, slots=True)
class Multiply:
    """x <- x c / p: Richardson-Lucy and its kin; x stays >= 0."""

    multiplies: ClassVar[bool] = True
    bounds: ClassVar[tuple[float | None, float | None]] = (0.0, None)

    def compare(self, observed: Any, model: Any, background: float, floor: float) -> Any:
        return _ratio(observed, model, background, floor)

    def correct(self, estimate: Any, correction: Any, penalty: Any) -> Any:
        return _scaled(estimate, correction) if penalty is None else _scaled(estimate, correction / penalty)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descend:
    """x <- P(x + g (c - p)): gradient descent on |y - b - A x|^2.

    step : g; it converges below 2 / (1 + lambda), as no gain of A exceeds 1
    low, high : bounds that P clips to, grey values of the restored image
    """

    step: float = 1.0
    low: float | None = None
    high: float | None = None

    multiplies: ClassVar[bool] = False

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        return self.low, self.high

    def compare(self, observed: Any, model: Any, background: float, floor: float) -> Any:
        return observed - (model + np.float32(background))

    def correct(self, estimate: Any, correction: Any, penalty: Any) -> Any:
        moved = estimate + np.float32(self.step) * (correction if penalty is None else correction - penalty)
        return bounded(moved, self.bounds)


class Penalty(Protocol):
    """A regulariser that is felt in every update."""

    def field(self, estimate: Any, on_torus: bool, unit: float) -> Any:
        """The `penalty` of the update, from the whole estimate; `unit` is the start value."""


@dataclass(frozen=True, slots=True)
class TotalVariation:
    """p = 1 - lambda div(grad x / |grad x|), to divide by (RL-TV: Dey et al., Microsc. Res. Tech. 69, 260, 2006)."""

    regularization: float

    def field(self, estimate: Any, on_torus: bool, unit: float) -> Any:
        damping = curvature(estimate, FLAT_GRADIENT * unit, on_torus=on_torus)
        damping *= np.float32(-self.regularization)
        damping += np.float32(1)
        return damping


@dataclass(frozen=True, slots=True)
class Roughness:
    """p = lambda L'L x, to subtract: the gradient of lambda |L x|^2 (Tikhonov-Miller), L as in `laplacian`."""

    regularization: float

    def field(self, estimate: Any, on_torus: bool, unit: float) -> Any:
        rough = laplacian(laplacian(estimate, on_torus=on_torus), on_torus=on_torus)
        rough *= np.float32(self.regularization)
        return rough


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrinkage:
    """x <- max(soft thresholds on the wavelet coefficients of x, 0), after each update: ISTA, and FISTA with momentum
    (Beck & Teboulle, SIAM J. Imaging Sci. 2, 183, 2009).

    The wavelet is the undecimated B3-spline starlet: a decimated one, such as Haar's, depends on where a tile begins.

    regularization : the standard deviation of white noise to be held back, in units of the start value
    """

    regularization: float
    scales: int = 3

    def apply(self, estimate: Any, on_torus: bool, unit: float, step: float) -> Any:
        """The estimate after the thresholds, which are in proportion to the gradient's step."""
        shrunk = starlet.shrink(estimate, self.thresholds(unit * step), wrap=on_torus)
        return array_module(estimate).maximum(shrunk, 0, out=shrunk)

    def thresholds(self, unit: float) -> list[float]:
        """One per scale, finest first: in proportion to what white noise leaves there."""
        return [self.regularization * unit * gain for gain in starlet.noise_gains(self.scales)]


class BackProjector(Protocol):
    """What projects the comparison back, in place of the adjoint: nearly the inverse of the blur.

    Its kernel has the support of the PSF, as published ones have it, and tapers off there. Without an end it would ring
    over the whole volume: no tile could agree with it, and on hollow bars it is the worse one (after 8 iterations a
    correlation of 0.22 instead of 0.67).
    """

    def transfer(self, otf: Any, torus: Triple) -> Any:
        """Its transfer function (Fz, Fy, Fx // 2 + 1) for the OTF on a torus, before it is cut to its support."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WienerButterworth:
    """conj(H) / (|H|^2 + alpha) times a Butterworth low-pass (Guo et al., Nat. Biotechnol. 38, 1337, 2020).

    With it Richardson-Lucy reaches in 1 to 5 iterations what takes tens without, and then diverges: stop early.

    cutoff : k_c, cycles per voxel in z, y, x: 1 / (FWHM in voxels)
    alpha : of the Wiener filter, in units of max |H|^2
    beta : gain of the low-pass at the cut-off: 1 / sqrt(1 + (1 / beta^2 - 1) (k / k_c)^(2 order))
    """

    cutoff: tuple[float, float, float]
    alpha: float = 1e-3
    beta: float = 0.1
    order: int = 10

    def transfer(self, otf: Any, torus: Triple) -> Any:
        xp = array_module(otf)
        radius2 = sum((f / c) ** 2 for f, c in zip(_frequencies(torus, xp), self.cutoff, strict=True))
        low_pass = 1 / xp.sqrt(1 + (1 / self.beta**2 - 1) * xp.minimum(radius2, 1e3) ** self.order)
        return _wiener(otf, self.alpha) * low_pass


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedWiener:
    """conj(H) / (|H|^2 + alpha) where the OTF transmits, apodised towards the border of that region (as PetaKit5D's,
    Ruan et al., Nat. Methods 21, 2342, 2024).

    alpha : in units of max |H|^2
    transmits : |H| / max |H| at which the mask begins; it rises as a cosine of log |H| to 1 at ten times that
    """

    alpha: float = 2e-3
    transmits: float = 1e-3

    def transfer(self, otf: Any, torus: Triple) -> Any:
        xp = array_module(otf)
        gain = xp.abs(otf)
        ramp = xp.log10(xp.maximum(gain / (self.transmits * gain.max()), 1)).clip(0, 1)
        return _wiener(otf, self.alpha) * (0.5 - 0.5 * xp.cos(np.pi * ramp))


def back_kernel(psf: Any, projector: BackProjector) -> Any:
    """The kernel of a back projector: odd shape of the PSF's support, float32, sums to 1, centre at shape // 2.

    The transfer function is evaluated on a torus of four times the PSF's reach; what comes of it is multiplied along
    each axis by 1 up to half the support, and by a squared cosine from there to 0 beyond its end.
    """
    xp = array_module(psf)
    reach = [n // 2 for n in psf.shape]
    torus = triple(tuple(max(4 * r + 2, LEAST_TORUS) for r in reach))
    otf = xp.fft.rfftn(blurs.on_torus(psf, torus, xp).astype(np.float64))
    kernel = xp.fft.irfftn(projector.transfer(otf, torus), s=torus, axes=(0, 1, 2))
    for axis, r in enumerate(reach):
        offsets = np.arange(-r, r + 1)
        share = np.abs(offsets) / (r + 1)
        window = xp.asarray(np.where(share < 0.5, 1.0, np.cos(np.pi * (share - 0.5)) ** 2))
        kernel = kernel.take(xp.asarray(offsets % torus[axis]), axis=axis)
        kernel *= window.reshape([-1 if a == axis else 1 for a in range(3)])
    return (kernel / kernel.sum()).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """One algorithm of the loop, put together from its parts. By default plain Richardson-Lucy.

    momentum : whether to extrapolate after each update, by the fixed schedule
    """

    update: Update = Multiply()
    penalty: Penalty | None = None
    shrinkage: Shrinkage | None = None
    back: BackProjector | None = None
    momentum: bool = False

    @property
    def beside(self) -> int:
        """Voxels that a regulariser looks to either side in each iteration."""
        return (2 if self.penalty is not None else 0) + (starlet.reach(self.shrinkage.scales) if self.shrinkage else 0)

    @property
    def images(self) -> int:
        """Images of the domain's size that the loop holds at its peak, beside the blur's spectra."""
        penalty = 0 if self.penalty is None else (2 if isinstance(self.penalty, Roughness) else 1)
        return 1 + self.update.multiplies + self.momentum + penalty + (starlet.IMAGES if self.shrinkage else 0)


RICHARDSON_LUCY = Algorithm()


@pointwise
def _ratio(xp: Any, observed: Any, model: Any, background: float, floor: float) -> Any:
    return xp.maximum(observed, 0) / xp.maximum(model + np.float32(background), np.float32(floor))


@pointwise
def _scaled(xp: Any, estimate: Any, correction: Any) -> Any:
    return estimate * correction


def bounded(values: Any, bounds: tuple[float | None, float | None]) -> Any:
    """Values clipped to a lower and an upper bound, where there are such."""
    return values if bounds == (None, None) else values.clip(*bounds)


def laplacian(image: Any, *, on_torus: bool) -> Any:
    """The seven-point Laplacian over 12, so that its largest gain is 1: (Z, Y, X) float32 like `image`.

    Beyond a side stands the opposite side (on a torus), else the same voxel again.
    """

    def of_slab(slab: Any) -> Any:
        result = slab[1:-1] * np.float32(-0.5)
        result += np.float32(1 / 12) * (slab[:-2] + slab[2:])
        for axis in (1, 2):
            for step in (1, -1):
                result += np.float32(1 / 12) * _neighbour(slab[1:-1], axis, step, on_torus)
        return result

    return _by_slabs(image, of_slab, on_torus)


def curvature(image: Any, flat: float, *, on_torus: bool) -> Any:
    """div(grad x / |grad x|): (Z, Y, X) float32, within +-2 sqrt(3).

    Forward differences for the gradient, backward ones for the divergence, which is minus its adjoint (forward ones
    twice would shift it by a voxel). |grad x| is sqrt(dz^2 + dy^2 + dx^2 + flat^2), so that flat parts have none.
    Beyond a side stands the opposite side (on a torus), else the same voxel again.
    """

    def of_slab(slab: Any) -> Any:
        here = slab[:-1]
        steps = [slab[1:] - here, *(_neighbour(here, axis, 1, on_torus) - here for axis in (1, 2))]
        length = array_module(slab).sqrt(steps[0] ** 2 + steps[1] ** 2 + steps[2] ** 2 + np.float32(flat) ** 2)
        for step in steps:
            step /= length
        result = steps[0][1:] - steps[0][:-1]
        for axis in (1, 2):
            result += steps[axis][1:] - _neighbour(steps[axis][1:], axis, -1, on_torus, beyond=0.0)
        return result

    return _by_slabs(image, of_slab, on_torus)


def _by_slabs(image: Any, of_slab: Callable[[Any], Any], on_torus: bool) -> Any:
    """A result of planes and the planes beside them, computed in slabs so that intermediate values stay in a cache."""
    result = array_module(image).empty_like(image)
    depth = len(image)
    step = max(1, blurs.slab_bytes(image) // (4 * max(image[0].nbytes, 1)))  # several arrays at once
    for first in range(0, depth, step):
        last = min(first + step, depth)
        planes = np.arange(first - 1, last + 1)
        result[first:last] = of_slab(image[planes % depth if on_torus else planes.clip(0, depth - 1)])
    return result


def _neighbour(image: Any, axis: int, step: int, on_torus: bool, beyond: float | None = None) -> Any:
    """The value one voxel further (step 1) or before (-1) along an axis; `beyond` a side, or the last voxel again."""
    moved = array_module(image).roll(image, -step, axis)
    if not on_torus:
        last = (slice(None),) * axis + (-1 if step == 1 else 0,)
        moved[last] = image[last] if beyond is None else beyond
    return moved


def _wiener(otf: Any, alpha: float) -> Any:
    power = (otf * otf.conj()).real
    return otf.conj() / (power + alpha * power.max())


def _frequencies(padded: Triple, xp: Any) -> list[Any]:
    """Cycles per voxel along z, y, x, to be broadcast over the half spectrum."""
    z, y, x = (xp.fft.fftfreq(padded[0]), xp.fft.fftfreq(padded[1]), xp.fft.rfftfreq(padded[2]))
    return [z[:, None, None], y[:, None], x]
