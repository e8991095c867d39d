"""Samples of a deconvolution before it starts: does the halo keep the tolerance, and how many iterations are best?

The count of iterations is taken from generalised cross-validation (`kernels.stopping`), summed over the samples. For
the report, each iteration is also judged by its resolution: two images that differ by noise of the image's own size and
opposite sign have independent noise (Oliveira, Lei & Tibshirani, 2022), are restored alike, and correlated in Fourier
shells.

A sample is a box in the middle of a tile of the lattice, restored once from the image grown by the halo, as its tile
will be, and once from one grown by more than twice as much, which stands for the whole volume. The sample is smaller
than the tile, so it lies nearer to what the halo cuts off, and its difference is no smaller than that of the tile's
core but where the tile is bright beside the sample. Of other tiles it says as much as a sample can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from chunkflow.backend import array_module, to_host
from chunkflow.errors import InputError, PlanError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import blur, resolution, stopping
from chunkflow.stages.base import Merged, Output, Record, View, iterate
from chunkflow.stages.restoration import Restoration, wider

SIDE = 48
"""Voxels along a sample; less where the tile has less."""
COLUMNS = ("residual", "i_divergence", "gcv", "resolution_um")
"""Known after each iteration: |y - m| / |y|, I-divergence and GCV per voxel, lateral resolution (FSC of 1/7)."""
LEAST_SIDE = 12
"""Voxels in y and x from which a sample tells its resolution."""
SAMPLES, STOP_SAMPLES = 8, 4
TILES_PER_SAMPLE = 8
"""A sample costs a tenth of a tile or so; few tiles get fewer samples, unless iterations are to be found."""
WIDEST = 2.25
"""The halo that stands for the whole volume, in units of the halo."""
TRIED = (1.0, 1.25, 1.5, 1.75)
"""Halos that a remedy may name, in units of the halo."""
SEED = 20


def probe_boxes(grid: Grid, *, finds_stop: bool = False) -> tuple[tuple[Triple, Box], ...]:
    """(start of the tile's core, sample): the middle tile of the lattice, and some that a fixed seed picks."""
    middle = grid.index(triple(tuple((n - 1) // 2 for n in grid.counts)))
    # Not a permutation: lattices of 10^8 tiles are drawn from in no time.
    others = np.random.default_rng(SEED).choice(len(grid), min(SAMPLES, len(grid)), replace=False)
    count = max(STOP_SAMPLES if finds_stop else 1, len(grid) // TILES_PER_SAMPLE)
    chosen = list(dict.fromkeys([middle, *others.tolist()]))[: min(SAMPLES, count)]
    found = []
    for index in chosen:
        core = grid.core_of(index)
        side = triple(tuple(min(SIDE, n) for n in core.shape))
        start = triple(tuple(a + (n - s) // 2 for a, n, s in zip(core.start, core.shape, side, strict=True)))
        stop = triple(tuple(a + s for a, s in zip(start, side, strict=True)))
        found.append((core.start, Box(start, stop)))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Restores the samples; tiles without one read nothing and record nothing.

    Records `power` and `error` (C,): the sum of squares of the sample, and of its difference at each halo of `TRIED`
    (NaN where a smaller one kept the tolerance). Where the number of iterations is to be found, also sums over the
    sample after each: `deviance`, `trace`, `squares` of y - m, and `resolution` (N,); `voxels` and `signal`, of y^2.

    voxel_um : for the resolution
    """

    restoration: Restoration
    halo: Triple
    tolerance: float
    samples: tuple[tuple[Triple, Box], ...]
    finds_stop: bool
    voxel_um: tuple[float, float, float]

    version: ClassVar[int] = 2
    produces: ClassVar[tuple[str, ...]] = ()
    on_device: ClassVar[bool] = True

    def _sample(self, out: Box) -> Box | None:
        return dict(self.samples).get(out.start)

    def reads(self, out: Box) -> Mapping[str, Box]:
        sample = self._sample(out)
        return {} if sample is None else self.restoration.read_box(sample, self._widened(WIDEST))

    def comes_first(self, core: Box) -> bool:
        return self._sample(core) is not None

    def count_first(self) -> int:
        return len(self.samples)

    def _widened(self, factor: float) -> Triple:
        return wider(self.halo, factor, self.restoration.psf_shape)

    def run(self, view: View, out: Box) -> Output:
        sample = self._sample(out)
        if sample is None:
            return Output()
        start = self.restoration.start(view.values[self.restoration.limits])
        volume = Box.of_shape(view.shape)

        def restored(factor: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
            halo = self._widened(factor)
            image, seen = self.restoration.regions(view, sample.grow(halo).clip(volume))
            values = self.restoration.restored(image, sample, halo, view.values[""], start, seen)
            return np.asarray(to_host(values), np.float64)

        expected = restored(WIDEST)
        power = float((expected**2).sum())
        error = np.full(len(TRIED), np.nan)
        for index, factor in enumerate(TRIED):
            error[index] = ((restored(factor) - expected) ** 2).sum()
            if error[index] <= self.tolerance**2 * power:
                break
        record = {"power": np.array([power]), "error": error}
        return Output(record={**record, **(self._curves(view, sample, start) if self.finds_stop else {})})

    def _curves(self, view: View, sample: Box, start: float) -> Record:
        """How the model follows the image, and how fine the restored sample is, after each iteration."""
        restoration = self.restoration
        box = sample.grow(self.halo).clip(Box.of_shape(view.shape))
        image, seen = restoration.regions(view, box)
        xp = array_module(image.data)
        data = xp.asarray(image.data, np.float32)
        inside = sample.relative_to(box.start).slices
        y = data[inside]
        signs = xp.asarray(stopping.probe(box.shape, SEED))
        epsilon = stopping.PERTURBATION * max(float(y.mean()), 1e-30)
        noise = xp.asarray(stopping.noise_like(to_host(data), restoration.background, SEED))
        kernel = restoration.kernel(data, box.start, view.values[""])
        operator = blur.blur_with(kernel, box.shape, xp, edges=restoration.edges)
        rows = []
        versions = (data, data + epsilon * signs, data + noise, data - noise)
        runs = [restoration.iterates(each, box.start, view.values[""], start, seen) for each in versions]
        for plain, perturbed, more, less in zip(*runs, strict=True):
            model = operator.forward(plain)[inside]
            terms = stopping.gcv(
                y, model, operator.forward(perturbed)[inside], signs[inside], epsilon, restoration.background
            )
            finest = _lateral_resolution(more[inside], less[inside], self.voxel_um)
            squares = float(((xp.asarray(y, np.float64) - model - restoration.background) ** 2).sum())
            rows.append((terms.deviance, terms.trace, squares, finest))
        deviance, trace, squared, fineness = np.array(rows).T
        return {
            "deviance": deviance,
            "trace": trace,
            "squares": squared,
            "resolution": fineness,
            "voxels": np.array([y.size], np.int64),
            "signal": np.array([float((xp.asarray(y, np.float64) ** 2).sum())]),
        }

    def working_bytes(self, out: Triple) -> int:
        side = triple(tuple(min(SIDE, n) for n in out))
        restoring = self.restoration.working_bytes(side, self._widened(WIDEST)) + 3 * 8 * prod(side)
        if not self.finds_stop:
            return restoring
        volume = self.restoration.volume
        grown = triple(tuple(min(n + 2 * h, v) for n, h, v in zip(side, self.halo, volume, strict=True)))
        return max(restoring, 5 * self.restoration.working_bytes(side, self.halo) + 6 * 4 * prod(grown))


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeProbes:
    """What the tiles go by: `iterations`, and `difference`, the largest relative one of a sample (NaN where one tile
    holds the volume, or no sample any light).

    Where the number of iterations was to be found, `curve` (N, 4) has `COLUMNS` after each, over all samples, and
    `at_end` says whether the last one tried was the best.

    iterations : to do, or the most to try
    negative : "fail" refuses an image with negative voxels, "clip" counts them as 0
    """

    source: str | None
    limits: str
    halo: Triple
    psf_shape: Triple
    tolerance: float
    iterations: int
    finds_stop: bool
    negative: str
    background: float
    is_tiled: bool

    version: ClassVar[int] = 1

    def run(self, records: Mapping[str, Sequence[Record]], values: Mapping[str, Record]) -> Merged:
        negative = int(values[self.limits]["negative"][0])
        if negative and self.negative == "fail":
            raise InputError(
                f"deconvolve: {negative} voxels of the image are negative",
                "Correct the background, or let them count as 0 with negative: clip",
            )
        high = float(values[self.limits]["high"][0])
        if high > 0 and self.background >= high:
            raise InputError(
                f"deconvolve: the background {self.background:g} is not below the image's largest value, {high:g}",
                "Give the camera's offset, or 0",
            )
        found: dict[str, np.ndarray[Any, np.dtype[Any]]] = {"difference": np.array([self._checked(records)])}
        if not self.finds_stop:
            return Merged({**found, "iterations": np.array([self.iterations], np.int64)})
        assert self.source is not None
        samples = [record for record in iterate(records[self.source]) if "deviance" in record]
        choice = stopping.choose([_terms(record) for record in samples])
        found["iterations"] = np.array([choice.iteration], np.int64)
        found["at_end"] = np.array([choice.is_at_end])
        found["curve"] = _curve(samples, choice.scores)
        return Merged(found)

    def _checked(self, records: Mapping[str, Sequence[Record]]) -> float:
        """The difference at the halo.

        Raises
        ------
        PlanError : it is beyond the tolerance; the halo that would do is named.
        """
        if self.source is None or not self.is_tiled:
            return float("nan")
        worst, has_light = np.zeros(len(TRIED)), False
        for record in iterate(records[self.source]):
            if "error" in record and record["power"][0] > 0:
                has_light = True
                relative = np.sqrt(record["error"] / record["power"][0])
                worst = np.maximum(worst, np.where(np.isnan(relative), 0.0, relative))
        if worst[0] <= self.tolerance:
            return float(worst[0]) if has_light else float("nan")
        enough = [factor for factor, each in zip(TRIED, worst, strict=True) if each <= self.tolerance]
        remedy = (
            f"Set deconvolve: {{halo: {list(wider(self.halo, enough[0], self.psf_shape))}}}"
            if enough
            else f"Set a halo of more than {list(wider(self.halo, TRIED[-1], self.psf_shape))}"
        )
        raise PlanError(
            f"deconvolve: with a halo of {list(self.halo)} voxels tiles differ from the whole volume by "
            f"{worst[0]:.1e}, more than the tolerance of {self.tolerance:.1e}",
            f"{remedy}, fewer iterations, or a tolerance of {_rounded_up(worst[0]):.0e}",
        )

    def working_bytes(self, blocks: int) -> int:
        return 200 * blocks


def _lateral_resolution(a: Any, b: Any, voxel_um: tuple[float, float, float]) -> float:
    """In um; NaN where a sample is too small to tell, infinite where nothing correlates."""
    if min(a.shape[1:]) < LEAST_SIDE:
        return float("nan")
    return resolution.resolution(resolution.fourier_shell_correlation(a, b, voxel_um, direction="lateral")).um


def _terms(record: Record) -> list[stopping.Terms]:
    """Cross-validation of one sample, after each iteration."""
    voxels = int(record["voxels"][0])
    pairs = zip(record["deviance"].tolist(), record["trace"].tolist(), strict=True)
    return [stopping.Terms(deviance, trace, voxels) for deviance, trace in pairs]


def _curve(samples: Sequence[Record], scores: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """`COLUMNS` over all samples; of resolutions the median."""
    voxels = sum(int(record["voxels"][0]) for record in samples)
    signal = sum(float(record["signal"][0]) for record in samples)
    residual = np.sqrt(sum(record["squares"] for record in samples) / max(signal, 1e-300))
    divergence = sum(record["deviance"] for record in samples) / (2 * voxels)
    fineness = np.median([record["resolution"] for record in samples], axis=0)
    return np.stack([residual, divergence, np.array(scores), fineness], axis=1)


def _rounded_up(value: float) -> float:
    """A number of one digit that is not smaller."""
    digit = 10.0 ** np.floor(np.log10(value))
    return float(np.ceil(value / digit) * digit)
