"""Deconvolution on tiles: a lattice that the pipeline fixes, so that no block, memory or machine can move a bit.

A restored voxel depends on voxels far away, by ever less. What lies a halo away changes it by less than a tolerance,
and that is not nothing to a threshold. So the image is cut into tiles that follow from the parameters and the PSF
alone; a voxel is always computed from the same tile, with the same FFT, whatever the blocks of other passes.

    deconvolve-probe    samples of a few tiles, with the halo and with a wider one
    deconvolve-check    does the halo keep the tolerance? how many iterations?     stops before any tile is written
    deconvolve          tiles + halo -> image                                      -> its range
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np

from chunkflow.backend import array_module
from chunkflow.errors import ConfigError, PlanError, nearest
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels.algorithms import LARGEST_TOTAL_VARIATION, Algorithm
from chunkflow.kernels.blur import Edges
from chunkflow.kernels.separable import profiles_of
from chunkflow.stages.base import ArraySpec, BlockStep, Draft, Flow, Output, Record, View
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.probe import MergeProbes, Probe, probe_boxes
from chunkflow.stages.psf import Psf, PsfOnGrid
from chunkflow.stages.restoration import ALGORITHMS, Choice, Method, Restoration, halo
from chunkflow.stages.scan import Range, range_draft

MOST_ITERATIONS = 50
"""Tried where the number of iterations is to be found and no other limit is given."""
HEADROOM = 4.0
"""A restored peak over the brightest raw voxel, for which the automatic scale of a uint16 image leaves room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreTile:
    """One tile: reads core and halo, returns the core. The PSF is a constant of the plan.

    check : the merge that found the number of iterations, None where it is the restoration's
    scale : grey values of a uint16 image per unit, None for the automatic one
    """

    restoration: Restoration
    halo: Triple
    check: str | None
    dtype: str
    scale: float | None

    version: ClassVar[int] = 4
    produces: ClassVar[tuple[str, ...]] = ("deconvolved",)
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        return self.restoration.read_box(out, self.halo)

    def run(self, view: View, out: Box) -> Output:
        restoration = self.restoration
        image, seen = restoration.regions(view, out.grow(self.halo).clip(Box.of_shape(view.shape)))
        limits = view.values[restoration.limits]
        if self.check is not None:
            restoration = replace(restoration, iterations=int(view.values[self.check]["iterations"][0]))
        restored = restoration.restored(image, out, self.halo, view.values[""], restoration.start(limits), seen)
        if not array_module(restored).isfinite(restored).all():
            raise PlanError(
                f"deconvolve: {restoration.iterations} iterations diverge at {out}",
                "Use fewer iterations, a larger regularization, or richardson-lucy",
            )
        if self.dtype == "float32":
            return Output(arrays={"deconvolved": restored.copy()})
        top = np.iinfo(self.dtype).max
        scale = self.scale if self.scale is not None else top / (HEADROOM * max(float(limits["high"][0]), 1e-30))
        xp = array_module(restored)
        scaled = xp.rint(restored * np.float32(scale))
        beyond = (scaled < 0) | (scaled > top)
        if seen is not None:
            beyond &= seen[out.relative_to(image.box.start).slices]
        return Output(
            arrays={"deconvolved": scaled.clip(0, top).astype(self.dtype)},
            record={"clipped": np.array([int(beyond.sum())], np.int64)},
        )

    def working_bytes(self, out: Triple) -> int:
        return self.restoration.working_bytes(out, self.halo) + (0 if self.dtype == "float32" else 12 * prod(out))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deconvolve:
    """Restore the image with its PSF, tile by tile.

    psf : see `Psf`; or one per channel by name, of which the chosen channel's is used
    algorithm : one of `chunkflow.stages.restoration.ALGORITHMS`
    iterations : once for the whole volume; stopping per tile would make seams. By default 10, and 2 for the algorithms
        with a back projector of their own, which diverge
    stop : "auto" tries up to `iterations` (50 by default) on samples, and takes for the whole volume the count that
        predicts the image best, by generalised cross-validation (`kernels.stopping`)
    regularization : the algorithm's lambda, alpha or eps, see its docstring in `kernels.algorithms`, `kernels.inverse`
    step : of the gradient algorithms, in units of the longest that is sure to converge for |H| <= 1, below 2
    momentum : extrapolate between iterations, by a schedule fixed beforehand
    bounds : least and largest grey value of bounded-landweber
    background : grey values of the camera's offset and of haze, part of the model h * x + b
    edges : "extended": the estimate reaches beyond the image by the PSF's support; "reflect": the image is mirrored
        first; "zero": nothing shines out there; "circular": the image repeats itself, which takes it whole in one tile
    tolerance : how far from a whole-volume run a tile may be (relative L2); decides the halo, and is checked on samples
    tile, halo : voxels per axis, or "auto"
    dtype : of the restored image
    scale : grey values per unit of a uint16 image; "auto" gives four times the brightest raw voxel the highest value.
        What is beyond is clipped and counted. What follows, thresholds too, sees the scaled values
    negative : "fail" stops the run where voxels are negative; "clip" counts them, and they are 0 for Richardson-Lucy
        and its kin, while the linear and gradient algorithms take them as they are
    """

    psf: Psf | dict[str, Psf]
    algorithm: str = "richardson-lucy"
    iterations: int | None = None
    stop: Literal["auto"] | None = None
    regularization: float | None = None
    step: float | None = None
    momentum: bool = False
    bounds: tuple[float, float] | None = None
    background: float = 0.0
    edges: Edges = "extended"
    tolerance: float = 1e-3
    tile: Triple | Literal["auto"] = "auto"
    halo: Triple | Literal["auto"] = "auto"
    dtype: Literal["float32", "uint16"] = "float32"
    scale: float | Literal["auto"] = "auto"
    negative: Literal["clip", "fail"] = "clip"

    key: ClassVar[str] = "deconvolve"
    makes_image: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if isinstance(self.psf, dict) and not (self.psf and all(isinstance(one, Psf) for one in self.psf.values())):
            raise ConfigError(f"deconvolve: psf is {self.psf!r}", "Give a Psf, or a Psf for each channel by name")
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(f"deconvolve: unknown algorithm {self.algorithm!r}", nearest(self.algorithm, ALGORITHMS))
        if self.iterations is not None and self.iterations < 1:
            raise ConfigError(f"deconvolve: {self.iterations} iterations restore nothing", "Use 1 or more, say 10")
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"deconvolve: tolerance {self.tolerance} is not between 0 and 1", "Use 1e-3")
        if self.background < 0:
            raise ConfigError(f"deconvolve: background {self.background} is negative", "Use 0 or the camera's offset")
        if self.scale != "auto" and self.scale <= 0:
            raise ConfigError(f"deconvolve: scale {self.scale} is not positive", "Use auto, or grey values per unit")
        if self.scale != "auto" and self.dtype == "float32":
            raise ConfigError("deconvolve: scale is given for a float32 image", "Leave it out, or set dtype: uint16")
        if self.halo != "auto" and min(self.halo) < 0:
            raise ConfigError(f"deconvolve: halo {list(self.halo)} is negative", "Use auto, or voxels for z, y, x")
        if self.tile != "auto" and min(self.tile) < 1:
            raise ConfigError(f"deconvolve: tile {list(self.tile)} is not positive", "Use auto, or voxels for z, y, x")
        self._check_algorithm()

    def _check_algorithm(self) -> None:
        """Parameters that the algorithm does not have, or that would make it diverge."""
        known = ALGORITHMS[self.algorithm]
        given = {
            "iterations": self.iterations is not None and not known.iterations,
            "iterations to stop": self.stop is not None and not known.iterations,
            "regularization": self.regularization is not None and known.regularization is None,
            "step": self.step is not None and not known.gradient,
            "momentum": self.momentum and not known.has_momentum,
            "bounds": self.bounds is not None and self.algorithm != "bounded-landweber",
        }
        for name, foreign in given.items():
            if foreign:
                raise ConfigError(f"deconvolve: {self.algorithm} has no {name}", "Leave it out")
        if self.regularization is not None and self.regularization <= 0:
            raise ConfigError(f"deconvolve: regularization {self.regularization} is not positive", "Leave it out")
        if self.algorithm == "richardson-lucy-tv" and (self.regularization or 0) >= LARGEST_TOTAL_VARIATION:
            raise ConfigError(
                f"deconvolve: total variation with regularization {self.regularization} diverges",
                f"Use less than {LARGEST_TOTAL_VARIATION:.2f}; 0.002 to 0.1 are usual",
            )
        if self.algorithm == "bounded-landweber" and self.bounds is None:
            raise ConfigError("deconvolve: bounded-landweber needs bounds", "For example bounds: [0, 65535]")
        if not known.iterations and self.edges == "zero":
            raise ConfigError(
                f"deconvolve: {self.algorithm} has no zero edges", "Leave edges out: it sees the image mirrored"
            )
        if self.stop and self.edges == "circular":
            raise ConfigError(
                "deconvolve: stop: auto looks at samples, which do not repeat themselves as circular edges would",
                "Use extended edges, or give iterations",
            )
        if self.bounds is not None and self.bounds[0] >= self.bounds[1]:
            raise ConfigError(f"deconvolve: bounds {list(self.bounds)} are empty", "Give the least, then the largest")
        if known.gradient and not 0 < (1.0 if self.step is None else self.step) * (1 + self._strength(known)) < 2:
            raise ConfigError(
                f"deconvolve: {self.algorithm} diverges with step {self.step}",
                f"Use a step under {2 / (1 + self._strength(known)):.2f}",
            )

    def _strength(self, known: Any) -> float:
        """What the penalty adds to the largest gain of a gradient step."""
        if self.algorithm not in ("tikhonov-miller", "ictm"):
            return 0.0
        return float(self.regularization if self.regularization is not None else known.regularization)

    def method(self, on_grid: PsfOnGrid) -> Method:
        """The algorithm's strategy object, defaults filled in."""
        known = ALGORITHMS[self.algorithm]
        return known.make(
            Choice(
                regularization=self.regularization or known.regularization or 0.0,
                step=1.0 if self.step is None else self.step,
                momentum=self.momentum,
                bounds=self.bounds,
                fwhm_vox=on_grid.fwhm_vox,
            )
        )

    @property
    def count(self) -> int:
        """Iterations, at most where their number is to be found, the default filled in; 0 for the linear algorithms."""
        return self.iterations or (MOST_ITERATIONS if self.stop else ALGORITHMS[self.algorithm].iterations)

    def psf_for(self, channel: str, number: int = 0) -> Psf:
        """The PSF of a channel, by its name or its number.

        Raises
        ------
        PlanError : PSFs are named by channel, and this one has none.
        """
        if isinstance(self.psf, Psf):
            return self.psf
        found = self.psf.get(channel, self.psf.get(str(number)))
        if found is None:
            raise PlanError(
                f"deconvolve: channel {channel or number!r} has no PSF",
                f"Name it under psf: beside {', '.join(self.psf)}",
            )
        return found

    def tile_for(self, halo: Triple, shape: Triple) -> Triple:
        """The core of a tile: given, or 128 per axis, 256 where the halo exceeds 32, never longer than the volume."""
        if self.edges == "circular":
            return shape
        tile = triple(tuple(256 if h > 32 else 128 for h in halo)) if self.tile == "auto" else self.tile
        return triple(tuple(min(t, n) for t, n in zip(tile, shape, strict=True)))

    def halo_for(self, on_grid: PsfOnGrid, method: Method, shape: Triple) -> Triple:
        """Voxels a tile reads beyond its core: given, or the rule for the algorithm."""
        if self.edges == "circular":
            return 0, 0, 0
        if self.halo != "auto":
            return self.halo
        return halo(
            on_grid.kernels,
            method,
            name=self.algorithm,
            iterations=self.count,
            tolerance=self.tolerance,
            edges=self.edges,
            shape=shape,
            tile=self.tile_for((33, 33, 33), shape),
        )

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        psf, size = self.psf_for(flow.channel, flow.channel_number), flow.lattice_shape
        if psf.slab_um is not None and flow.whole is not None:  # depths are those of the whole volume
            size = flow.whole[0], *size[1:]
        on_grid = psf.on_grid(flow.optical_um, size, flow.optics)
        method = self.method(on_grid)
        self._check_fits(on_grid, method, flow)
        reach = self.halo_for(on_grid, method, flow.lattice_shape)
        tile = self.tile_for(reach, flow.lattice_shape)
        grid = Grid(flow.shape, triple(tuple(map(min, tile, flow.shape))))
        assert flow.image is not None
        restoration = Restoration(
            method=method,
            iterations=self.count,
            background=self.background,
            edges=self.edges,
            source=flow.image,
            limits=flow.image_range,
            psf_shape=triple(on_grid.kernels.shape[1:]),
            psfs=len(on_grid.kernels),
            is_separable=len(on_grid.kernels) == 1 and profiles_of(on_grid.kernels[0]) is not None,
            volume=flow.shape,
            nodata=flow.nodata,
        )
        constants: Record = {"psf": on_grid.kernels, "psf_planes": on_grid.planes - flow.origin[0]}
        before = self._probes(restoration, reach, grid, constants, flow.optical_um)
        name = "image" if flow.image_by == self.key else "deconvolved"
        steps: tuple[BlockStep, ...] = (
            RestoreTile(
                restoration=restoration,
                halo=reach,
                check="deconvolve-check" if self.stop else None,
                dtype=self.dtype,
                scale=None if self.scale == "auto" else self.scale,
            ),
            Range(array="deconvolved", valid=flow.valid),
        )
        tiles = Draft(
            name="deconvolve",
            grid=grid,
            steps=steps,
            writes=(ArraySpec(name=name, dtype=self.dtype, product="deconvolved"),),
            needs=(flow.image_range, *(("deconvolve-check",) if self.stop else ())),
            constants=constants,
            tiled=True,
        )
        merge = range_draft(scan="deconvolve", merge="deconvolve-range", grid=grid)
        after = replace(
            flow,
            image=name,
            image_dtype=self.dtype,
            image_range="deconvolve-range",
            signal=name,
            signal_dtype=self.dtype,
            signal_range="deconvolve-range",
            facts={**flow.facts, "psf": on_grid.facts},
            warnings=(*flow.warnings, *on_grid.warnings),
        )
        return (*before, tiles, merge), after

    def _check_fits(self, on_grid: PsfOnGrid, method: Method, flow: Flow) -> None:
        shape = on_grid.kernels.shape[1:]
        if any(k > n for k, n in zip(shape, flow.lattice_shape, strict=True)):
            raise PlanError(
                f"deconvolve: the PSF has {shape} voxels, more than the volume's {flow.shape}",
                "Crop the PSF, check fwhm_um against the voxel size, or leave deconvolve out",
            )
        if len(on_grid.kernels) > 1 and not isinstance(method, Algorithm):
            raise PlanError(
                f"deconvolve: {self.algorithm} takes one PSF, and the depth asks for {len(on_grid.kernels)}",
                "Use an iterative algorithm, or leave slab_um out",
            )
        if (
            self.edges == "circular"
            and self.tile != "auto"
            and any(t < n for t, n in zip(self.tile, flow.shape, strict=True))
        ):
            raise PlanError(
                f"deconvolve: circular edges with tiles of {list(self.tile)}: only the whole volume repeats itself",
                "Leave tile out, or use extended edges",
            )

    def _probes(
        self,
        restoration: Restoration,
        reach: Triple,
        grid: Grid,
        constants: Record,
        voxel_um: tuple[float, float, float],
    ) -> tuple[Draft, ...]:
        """The samples, where tiles are cut at all, and what is decided from them."""
        probe = Draft(
            name="deconvolve-probe",
            grid=grid,
            steps=(
                Probe(
                    restoration=restoration,
                    halo=reach,
                    tolerance=self.tolerance,
                    samples=probe_boxes(grid, finds_stop=self.stop is not None),
                    finds_stop=self.stop is not None,
                    voxel_um=voxel_um,
                ),
            ),
            needs=(restoration.limits,),
            constants=constants,
            tiled=True,
        )
        probes = (probe,) if len(grid) > 1 or self.stop else ()
        check = Draft(
            name="deconvolve-check",
            grid=grid,
            merge=MergeProbes(
                source=probe.name if probes else None,
                limits=restoration.limits,
                halo=reach,
                psf_shape=restoration.psf_shape,
                tolerance=self.tolerance,
                iterations=self.count,
                finds_stop=self.stop is not None,
                negative=self.negative,
                background=self.background,
                is_tiled=len(grid) > 1,
            ),
            needs=(restoration.limits, *(p.name for p in probes)),
            tiled=True,
        )
        return (*probes, check)
