"""How one array is restored: algorithms by the names users give them, and what tiles and samples of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, isfinite, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import array_module
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.kernels import blur, deconvolve, inverse, psf
from chunkflow.kernels.algorithms import (
    Algorithm,
    Descend,
    MaskedWiener,
    Roughness,
    Shrinkage,
    TotalVariation,
    WienerButterworth,
)
from chunkflow.kernels.blur import DepthPsfs, Edges
from chunkflow.kernels.inverse import NaiveInverse, RegularizedInverse, Wiener
from chunkflow.stages.base import Record, Region, View

Linear = NaiveInverse | RegularizedInverse | Wiener
Method = Algorithm | Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a user chose about an algorithm, defaults filled in.

    fwhm_vox : full widths at half maximum of the PSF, for cut-off frequencies
    """

    regularization: float
    step: float
    momentum: bool
    bounds: tuple[float, float] | None
    fwhm_vox: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of an algorithm before any image is seen.

    make : its strategy object
    iterations : where none are given; 0 for the linear ones
    regularization : where none is given; None where the algorithm has none
    gradient : whether it takes a step length; iterative algorithms but those with a back projector may have momentum
    reach : of its halo in units of plain Richardson-Lucy's (see `halo`), as measured on rods and beads, 10 iterations
    """

    make: Callable[[Choice], Method]
    iterations: int
    regularization: float | None = None
    gradient: bool = False
    has_momentum: bool = False
    reach: float = 1.0


def _descend(low: float | None = None) -> Callable[[Choice], Method]:
    return lambda c: Algorithm(update=Descend(step=c.step, low=low), momentum=c.momentum)


def _bounded(choice: Choice) -> Method:
    low, high = choice.bounds or (0.0, None)
    return Algorithm(update=Descend(step=choice.step, low=low, high=high), momentum=choice.momentum)


def _tikhonov(low: float | None) -> Callable[[Choice], Method]:
    return lambda c: Algorithm(
        update=Descend(step=c.step, low=low), penalty=Roughness(c.regularization), momentum=c.momentum
    )


def _shrinking(momentum: bool) -> Callable[[Choice], Method]:
    return lambda c: Algorithm(
        update=Descend(step=c.step), shrinkage=Shrinkage(regularization=c.regularization), momentum=momentum
    )


def _butterworth(choice: Choice) -> Method:
    # an axis of one voxel, or along which the light does not fall to half, is not cut off
    z, y, x = (1 / max(width, 2.0) if isfinite(width) else 0.5 for width in choice.fwhm_vox)
    return Algorithm(back=WienerButterworth(cutoff=(z, y, x), alpha=choice.regularization))


ALGORITHMS: Mapping[str, Known] = {
    "richardson-lucy": Known(make=lambda c: Algorithm(momentum=c.momentum), iterations=10, has_momentum=True),
    "richardson-lucy-tv": Known(
        make=lambda c: Algorithm(penalty=TotalVariation(c.regularization), momentum=c.momentum),
        iterations=10,
        regularization=2e-3,
        has_momentum=True,
    ),
    "wiener-butterworth": Known(make=_butterworth, iterations=2, regularization=1e-3, reach=6.0),
    "masked-wiener": Known(
        make=lambda c: Algorithm(back=MaskedWiener(alpha=c.regularization)),
        iterations=2,
        regularization=2e-3,
        reach=6.0,
    ),
    "naive-inverse": Known(make=lambda c: NaiveInverse(eps=c.regularization), iterations=0, regularization=1e-6),
    "regularized-inverse": Known(
        make=lambda c: RegularizedInverse(regularization=c.regularization), iterations=0, regularization=0.01
    ),
    "wiener": Known(make=lambda c: Wiener(regularization=c.regularization), iterations=0, regularization=0.1),
    "landweber": Known(make=_descend(), iterations=10, gradient=True, has_momentum=True, reach=1.7),
    "nonnegative-landweber": Known(make=_descend(0.0), iterations=10, gradient=True, has_momentum=True, reach=1.7),
    "bounded-landweber": Known(make=_bounded, iterations=10, gradient=True, has_momentum=True, reach=1.7),
    "tikhonov-miller": Known(
        make=_tikhonov(None), iterations=10, regularization=0.1, gradient=True, has_momentum=True, reach=1.7
    ),
    "ictm": Known(make=_tikhonov(0.0), iterations=10, regularization=0.1, gradient=True, has_momentum=True, reach=1.7),
    "ista": Known(make=_shrinking(False), iterations=10, regularization=0.01, gradient=True, reach=3.2),
    "fista": Known(make=_shrinking(True), iterations=10, regularization=0.01, gradient=True, reach=3.2),
}
"""Algorithms by the names users give them. Regularisations: see each strategy's docstring for the unit."""

ZERO_REACH = 1.4
"""How much further tiles must read that take what they do not see as dark."""
MOMENTUM_REACH = 1.3
"""How much further momentum looks than the same number of plain iterations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """How an array is restored, whatever its size: what tiles and samples of them share.

    source : name of the array; limits : name of the merge that knows its range
    psf_shape : shape of one PSF; psfs : their number, more than one where they change with depth
    is_separable : whether the PSF is one, and the product of its profiles (`kernels.separable`)
    volume : shape of the whole image
    nodata : value of the raw input's voxels that hold no data, None if all do: no light is looked for there
    """

    method: Method
    iterations: int
    background: float
    edges: Edges
    source: str
    limits: str
    psf_shape: Triple
    psfs: int
    is_separable: bool
    volume: Triple
    nodata: float | None = None

    def read_box(self, out: Box, halo: Triple) -> Mapping[str, Box]:
        """The voxels to read for an output."""
        box = out.grow(halo)
        return {self.source: box} if self.nodata is None else {self.source: box, "input": box}

    def regions(self, view: View, box: Box) -> tuple[Region, Any]:
        """The image in a box, and where it holds data: bool, or None for everywhere."""
        image = view.regions[self.source]
        data = image.cut(box)
        if self.nodata is None:
            return Region(box, data), None
        raw = view.regions["input"].cut(box)
        return Region(box, data), raw != raw.dtype.type(self.nodata)

    def start(self, limits: Record) -> float:
        """The flat first estimate: one value for the whole volume, or the tiles would differ.

        Half-way between minimum and maximum. With no background its size cancels from Richardson-Lucy.
        """
        low, high = float(limits["low"][0]), float(limits["high"][0])
        return max((low + high) / 2 - self.background, 1e-3 * max(abs(low), abs(high)))

    def restored(self, image: Region, out: Box, halo: Triple, constants: Record, start: float, seen: Any = None) -> Any:
        """The restored voxels of `out` (float32), from its image grown by the halo as far as the volume goes.

        seen : where the image holds data, None for everywhere
        """
        if isinstance(self.method, Algorithm):
            return self._restored_by_iteration(image, out, halo, constants, start, seen)
        before, after = self._mirrored(image.box, out.grow(halo))
        mirror = self.edges != "circular"
        data = image.data if seen is None else array_module(image.data).where(seen, image.data, self.background)
        whole = inverse.filtered(
            data,
            constants["psf"][0],
            self.method,
            background=self.background,
            edges="mirror" if mirror else "circular",
            before=before if mirror else (0, 0, 0),
            after=after if mirror else (0, 0, 0),
        )
        return whole[out.relative_to(image.box.start).slices]

    def _restored_by_iteration(
        self, image: Region, out: Box, halo: Triple, constants: Record, start: float, seen: Any
    ) -> Any:
        data, origin = image.data, image.box.start
        if self.edges == "reflect":
            before, after = self._mirrored(image.box, out.grow(halo))
            width = list(zip(before, after, strict=True))
            data = array_module(data).pad(data, width, mode="symmetric")
            seen = None if seen is None else array_module(data).pad(seen, width, mode="symmetric")
            origin = triple(tuple(o - b for o, b in zip(origin, before, strict=True)))
        estimate = None
        for estimate in self.iterates(data, origin, constants, start, seen):  # noqa: B007
            pass
        assert estimate is not None
        return estimate[out.relative_to(origin).slices]

    def _mirrored(self, box: Box, wanted: Box) -> tuple[Triple, Triple]:
        """Voxels by which the image in a box is mirrored at the volume's sides, before and after, z y x: what it lacks
        of the box wanted, a PSF's reach at least. Along an axis of one voxel there is nothing to look at."""
        least = [0 if n == 1 else p // 2 for p, n in zip(self.psf_shape, self.volume, strict=True)]
        low = zip(box.start, wanted.start, least, strict=True)
        high = zip(box.stop, wanted.stop, least, self.volume, strict=True)
        before = triple(tuple(max(a - w, r) if a == 0 and r else 0 for a, w, r in low))
        after = triple(tuple(max(w - b, r) if b == n and r else 0 for b, w, r, n in high))
        return before, after

    def iterates(self, data: Any, origin: Triple, constants: Record, start: float, seen: Any) -> Iterator[Any]:
        """The estimate after each iteration, on the blur's domain; `data` begins at voxel `origin`."""
        assert isinstance(self.method, Algorithm)
        return deconvolve.iterates(
            data,
            self.kernel(data, origin, constants),
            self.method,
            iterations=self.iterations,
            background=self.background,
            start=start,
            edges=self.edges,
            seen=seen,
        )

    def kernel(self, data: Any, origin: Triple, constants: Record) -> Any:
        """The PSF for an array that begins at voxel `origin`, where the array is."""
        kernels = array_module(data).asarray(constants["psf"])
        if self.psfs == 1:
            return kernels[0]
        return DepthPsfs([float(p) - origin[0] for p in constants["psf_planes"]], kernels)

    def working_bytes(self, out: Triple, halo: Triple) -> int:
        """Peak bytes beside the image read and the result."""
        grown = triple(tuple(n + 2 * h for n, h in zip(out, halo, strict=True)))
        read = triple(tuple(min(g, n) for g, n in zip(grown, self.volume, strict=True)))
        if not isinstance(self.method, Algorithm) or self.edges == "reflect":  # the volume is mirrored beyond its sides
            read = triple(tuple(max(g, r + p // 2 * 2) for g, r, p in zip(grown, read, self.psf_shape, strict=True)))
        if not isinstance(self.method, Algorithm):
            return inverse.working_set_bytes(inverse.fft_shape(read, (0, 0, 0), (0, 0, 0)), self.psf_shape)
        mirrored = 8 * prod(read) if self.edges == "reflect" else 0
        one = deconvolve.working_set_bytes(
            read, self.psf_shape, self.method, self.edges, is_separable=self.is_separable
        )
        return one + (self.psfs - 1) * blur.working_set_bytes(read, self.psf_shape, self.edges) + mirrored


def halo(
    kernels: NDArray[np.float32],
    method: Method,
    *,
    name: str,
    iterations: int,
    tolerance: float,
    shape: Triple,
    tile: Triple,
    edges: Edges,
) -> Triple:
    """Voxels a tile reads beyond its core: the rule of `kernels.psf.halo`, or the tail of an inverse filter.

    kernels : (K, Pz, Py, Px); the widest decides
    shape, tile : of the volume and of the largest tile; an inverse filter may take as much as a tile

    Raises
    ------
    PlanError : an inverse filter needs more.
    """
    if not isinstance(method, Algorithm):
        z, y, x = (t >= n for t, n in zip(tile, shape, strict=True))
        largest = triple(tuple(min(t, n - 1) for t, n in zip(tile, shape, strict=True)))
        return inverse.halo(kernels[0], method, tolerance=tolerance, largest=largest, uncut=(z, y, x))
    reach = ALGORITHMS[name].reach * (MOMENTUM_REACH if method.momentum else 1.0)
    reach *= ZERO_REACH if edges == "zero" else 1.0
    each = [
        psf.halo(kernel, iterations=iterations, tolerance=tolerance, reach=reach, beside=method.beside)
        for kernel in kernels
    ]
    return triple(tuple(max(h[axis] for h in each) for axis in range(3)))


def wider(halo: Triple, factor: float, psf_shape: Triple) -> Triple:
    """A halo and (factor - 1) times itself, or the PSF's reach where that is more: none is made wider too."""
    return triple(tuple(h + ceil((factor - 1) * max(h, p // 2)) for h, p in zip(halo, psf_shape, strict=True)))
