"""Deconvolution on tiles: a lattice that the pipeline fixes, so that no block, memory or machine can move a bit.

Richardson-Lucy has no bounded support that is worth reading; what lies a halo away changes a voxel by less than a
tolerance, and that is not nothing to a threshold. So the image is cut into tiles that follow from the parameters and
the PSF alone; a voxel is always computed from the same tile, with the same FFT, whatever the blocks of other passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import array_module
from chunkflow.errors import ConfigError, PlanError, nearest
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.kernels import deconvolve, psf
from chunkflow.stages.base import ArraySpec, BlockStep, Draft, Flow, Output, View
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.scan import Range, range_draft

ALGORITHMS = ("richardson-lucy",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Psf:
    """A point-spread function: a Gaussian by its full widths, or one measured at the image's voxel size.

    fwhm_um : full width at half maximum in z, y, x
    path : TIFF of a measured PSF
    measured : (Z, Y, X) its voxels; filled in from `path` when a pipeline is read
    """

    model: Literal["gaussian", "measured"] = "gaussian"
    fwhm_um: tuple[float, float, float] | None = None
    path: str | None = None
    measured: Any = None

    def __post_init__(self) -> None:
        check_parameters(self, "deconvolve: psf")
        if self.path is None and self.measured is None:
            if self.fwhm_um is None:
                raise ConfigError("deconvolve: psf needs fwhm_um or path", "For example fwhm_um: [0.6, 0.25, 0.25]")
            if min(self.fwhm_um) <= 0:
                raise ConfigError(f"deconvolve: psf fwhm_um {list(self.fwhm_um)} is not positive", "Give widths in um")

    def on_grid(self, voxel_um: tuple[float, float, float]) -> NDArray[np.float32]:
        """The PSF at a voxel size, float32, sums to 1, centred at shape // 2."""
        if self.measured is not None:
            return psf.normalise(self.measured)
        if self.fwhm_um is None:
            raise ConfigError(f"deconvolve: psf {self.path} was not read", "Load the pipeline with Pipeline.from_yaml")
        return psf.gaussian(self.fwhm_um, voxel_um)


@dataclass(frozen=True, slots=True, kw_only=True)
class RichardsonLucy:
    """One tile: reads core and halo, returns the core. The PSF is a constant of the plan."""

    iterations: int
    background: float
    halo: Triple
    psf_shape: Triple

    version: ClassVar[int] = 1
    produces: ClassVar[tuple[str, ...]] = ("deconvolved",)
    on_device: ClassVar[bool] = True

    def reads(self, out: Box) -> Mapping[str, Box]:
        return {"input": out.grow(self.halo)}

    def run(self, view: View, out: Box) -> Output:
        image = view.regions["input"]
        xp = array_module(image.data)
        # One flat start for the whole volume, or the tiles would differ. With no background its size cancels.
        limits = view.values["range"]
        start = float(limits["low"][0] + limits["high"][0]) / 2
        restored = deconvolve.richardson_lucy(
            image.data.astype(xp.float32),
            xp.asarray(view.values[""]["psf"]),
            iterations=self.iterations,
            background=self.background,
            start=max(start - self.background, 1e-3 * max(start, 1.0)),
        )
        return Output(arrays={"deconvolved": restored[out.relative_to(image.box.start).slices]})

    def working_bytes(self, out: Triple) -> int:
        read = triple(tuple(n + 2 * h for n, h in zip(out, self.halo, strict=True)))
        return deconvolve.working_set_bytes(read, self.psf_shape) + 4 * prod(read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deconvolve:
    """Restore the image with its PSF, tile by tile.

    psf : see `Psf`
    iterations : once for the whole volume; stopping per tile would make seams
    background : grey values of the camera's offset and of haze, part of the model h * x + b
    edges : "extended": the estimate reaches beyond the image by the PSF's support
    tolerance : how far from a whole-volume run a voxel may be (relative L2 over the image); decides the halo
    tile, halo : voxels per axis, or "auto"
    """

    psf: Psf
    algorithm: str = "richardson-lucy"
    iterations: int = 10
    background: float = 0.0
    edges: Literal["extended"] = "extended"
    tolerance: float = 1e-3
    tile: Triple | Literal["auto"] = "auto"
    halo: Triple | Literal["auto"] = "auto"

    key: ClassVar[str] = "deconvolve"

    def __post_init__(self) -> None:
        check_parameters(self, self.key)
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(f"deconvolve: unknown algorithm {self.algorithm!r}", nearest(self.algorithm, ALGORITHMS))
        if self.iterations < 1:
            raise ConfigError(f"deconvolve: {self.iterations} iterations restore nothing", "Use 1 or more, say 10")
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"deconvolve: tolerance {self.tolerance} is not between 0 and 1", "Use 1e-3")
        if self.background < 0:
            raise ConfigError(f"deconvolve: background {self.background} is negative", "Use 0 or the camera's offset")

    def halo_for(self, kernel: NDArray[np.float32]) -> Triple:
        """Voxels a tile reads beyond its core: given, or the rule of `kernels.psf.halo`."""
        if self.halo != "auto":
            return self.halo
        return psf.halo(kernel, iterations=self.iterations, tolerance=self.tolerance)

    def tile_for(self, halo: Triple, shape: Triple) -> Triple:
        """The core of a tile: given, or 128 per axis, 256 where the halo exceeds 32, never longer than the volume."""
        tile = triple(tuple(256 if h > 32 else 128 for h in halo)) if self.tile == "auto" else self.tile
        return triple(tuple(min(t, n) for t, n in zip(tile, shape, strict=True)))

    def drafts(self, flow: Flow) -> tuple[tuple[Draft, ...], Flow]:
        kernel = self.psf.on_grid(flow.scale.voxel_um)
        flat = tuple(axis for axis, n in enumerate(flow.shape) if n == 1)
        kernel = kernel.sum(axis=flat, keepdims=True)  # an image of one plane holds no blur across it
        if any(k > n for k, n in zip(kernel.shape, flow.shape, strict=True)):
            raise PlanError(
                f"deconvolve: the PSF has {kernel.shape} voxels, more than the volume's {flow.shape}",
                "Crop the PSF, check fwhm_um against the voxel size, or leave deconvolve out",
            )
        halo = self.halo_for(kernel)
        grid = Grid(flow.shape, self.tile_for(halo, flow.shape))
        name = "deconvolved" if "resample" in flow.wants else "image"
        restore = RichardsonLucy(
            iterations=self.iterations,
            background=self.background,
            halo=halo,
            psf_shape=triple(kernel.shape),
        )
        steps: tuple[BlockStep, ...] = (restore, Range(array="deconvolved", valid=flow.valid))
        written = ArraySpec(name=name, dtype="float32", product="deconvolved")
        tiles = Draft(
            name="deconvolve",
            grid=grid,
            steps=steps,
            writes=(written,),
            needs=("range",),
            constants={"psf": kernel},
            tiled=True,
        )
        merge = range_draft(scan="deconvolve", merge="deconvolve-range", grid=grid)
        after = replace(
            flow,
            image=name,
            image_dtype="float32",
            image_range="deconvolve-range",
            signal=name,
            signal_dtype="float32",
            signal_range="deconvolve-range",
        )
        return (tiles, merge), after
