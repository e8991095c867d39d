"""The PSF a user names: a width, a file, a model with its optics, or a microscope and its objective.

what the user and the image say  ->  numbers of the optics (`stages.microscope`)  ->  voxels  ->  cut to the light
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from math import ceil, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ConfigError
from chunkflow.geometry.box import Triple, triple
from chunkflow.kernels import extent, optics, psf
from chunkflow.kernels.layers import DESIGN_COVERSLIP_INDEX, Optics
from chunkflow.kernels.layers import Model as Light
from chunkflow.stages.microscope import OF_MICROSCOPE, Microscope, Model, read_objective, settled
from chunkflow.stages.parameters import check_parameters

NYQUIST = 0.5
"""Voxels over the full width at half maximum above which a PSF is under-sampled."""
CONFINED = ("confocal", "spinning-disk", "light-sheet")
WIDEFIELD_FLOOR = 5e-4
ONLY_OF: Mapping[str, tuple[str, ...]] = {
    "index_profile": ("variable-index",),
    "slab_um": ("gibson-lanni", "richards-wolf", "variable-index", "confocal", "spinning-disk"),
    "pinhole_au": ("confocal",),
    "pinhole_um": ("confocal", "spinning-disk"),
    "excitation_nm": ("confocal", "spinning-disk"),
    "sheet_um": ("light-sheet",),
    "tilt_degrees": ("light-sheet",),
    "vectorial": ("confocal", "spinning-disk", "light-sheet"),
}
"""Keys that some models alone look at."""
SAME_VOXEL = 0.02
"""By which voxel sizes of a PSF and its image may differ."""
LARGEST_SIDE = 129
"""Voxels of a computed PSF along an axis at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Psf:
    """A point-spread function.

    Give one of
        fwhm_um : full widths at half maximum in z, y, x of a Gaussian
        path : TIFF or OME-Zarr of a measured PSF, at the image's voxel size
        microscope : widefield, confocal, spinning-disk or light-sheet; chooses the model
        model : the model itself (`chunkflow.kernels.optics`)
    Optics, in the units of data sheets
        objective : what is written on it, "63x/1.4 oil"; na, magnification, immersion_index : or one by one
        emission_nm, excitation_nm : wavelengths in vacuum; excitation only where light is confined
        sample_index : of what the specimen is mounted in; depth_um : of the specimen below the coverslip
        index_profile : ((depth um, index), ...) of a specimen whose index varies
        coverslip_um, coverslip_index : of the glass used
        pinhole_au : diameter in Airy units; pinhole_um : of a spinning disk's
        sheet_um : full width at half maximum of a light sheet; tilt_degrees : against the focal plane
        vectorial : polarised light (richards-wolf) instead of scalar in confocal and light-sheet models
    Depth
        slab_um : a PSF of its own every so many um of depth, interpolated between; the first plane of the image is at
            `depth_um`. The objects are where they are then, not where the mismatch shows them
    Extent
        energy, floor : a computed PSF is cut where the rest holds less than 1 - energy of the light nearby (129 voxels,
            or the image), or is darker than `floor` times the peak: by default 0.0005 for widefield light, which never
            ends along z, and 0 where the light is confined
        size : voxels in z, y, x instead
    measured : (Z, Y, X) voxels; filled in from `path` when a pipeline is read, and measured_um, the voxel size there
    """

    model: Model | None = None
    microscope: Microscope | None = None
    fwhm_um: tuple[float, float, float] | None = None
    path: str | None = None
    objective: str | None = None
    na: float | None = None
    magnification: float | None = None
    immersion_index: float | None = None
    emission_nm: float | None = None
    excitation_nm: float | None = None
    sample_index: float | None = None
    depth_um: float = 0.0
    index_profile: tuple[tuple[float, float], ...] | None = None
    coverslip_um: float = 170.0
    coverslip_index: float = DESIGN_COVERSLIP_INDEX
    pinhole_au: float | None = None
    pinhole_um: float | None = None
    sheet_um: float | None = None
    tilt_degrees: float = 0.0
    vectorial: bool = False
    slab_um: float | None = None
    energy: float = 0.98
    floor: float | None = None
    size: Triple | None = None
    measured: Any = None
    measured_um: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.index_profile is not None:
            object.__setattr__(self, "index_profile", tuple(tuple(pair) for pair in self.index_profile))
        check_parameters(self, "deconvolve: psf")
        self._check_keys()
        if self.measured is not None:
            voxels = np.asarray(self.measured)
            object.__setattr__(self, "measured", voxels[None] if voxels.ndim == 2 else voxels)
        if self.measured is not None or self.path is not None:
            object.__setattr__(self, "model", "measured")
            return
        if self.fwhm_um is not None:
            object.__setattr__(self, "model", "gaussian")
            if min(self.fwhm_um) <= 0:
                raise ConfigError(f"deconvolve: psf fwhm_um {list(self.fwhm_um)} is not positive", "Give widths in um")
            return
        if self.model in ("gaussian", "measured"):
            raise ConfigError(
                f"deconvolve: psf is {self.model} and does not say which",
                "For example fwhm_um: [0.6, 0.25, 0.25], path: psf.tif, or microscope: confocal, "
                "objective: 63x/1.4 oil, emission_nm: 525",
            )
        if self.objective is not None:
            read_objective(self.objective)
        if self.slab_um is not None and self.slab_um <= 0:
            raise ConfigError(f"deconvolve: psf slab_um {self.slab_um} is not positive", "Give a depth in um, say 2")
        if not 0 < self.energy < 1:
            raise ConfigError(f"deconvolve: psf energy {self.energy} is not between 0 and 1", "Use 0.98")
        if self.size is not None and min(self.size) < 1:
            raise ConfigError(f"deconvolve: psf size {list(self.size)} is not positive", "Give voxels for z, y, x")

    def _check_keys(self) -> None:
        """Keys that would not be looked at are refused: whoever wrote them means something by them."""
        known: tuple[str, ...] = ()
        if self.measured is not None or self.path is not None:
            kind, known = "a measured PSF", ("path", "measured", "measured_um")
        elif self.fwhm_um is not None:
            kind, known = "a Gaussian of fwhm_um", ("fwhm_um",)
        else:
            model = self.model or OF_MICROSCOPE.get(str(self.microscope))
            if self.microscope and model != OF_MICROSCOPE[self.microscope]:
                raise ConfigError(
                    f"deconvolve: psf names microscope {self.microscope} and model {self.model}", "Keep one of them"
                )
            kind = f"{model} optics"
            unknown = [name for name, models in ONLY_OF.items() if model and model not in models]
        if known:
            unknown = [f.name for f in fields(self) if f.name not in (*known, "model")]
        for f in fields(self):
            if f.name in unknown and getattr(self, f.name) != f.default:
                raise ConfigError(f"deconvolve: psf is {kind}, which has no {f.name}", f"Leave {f.name} out")

    @property
    def is_computed(self) -> bool:
        """Whether it follows from optics, not from a width or a file."""
        return self.model not in ("gaussian", "measured")

    def on_grid(
        self, voxel_um: tuple[float, float, float], shape: Triple, metadata: Mapping[str, Any] | None = None
    ) -> PsfOnGrid:
        """The PSF at a voxel size, for an image of some shape.

        Parameters
        ----------
        voxel_um : voxel size as the microscope saw it, um
        shape : of the image; a computed or Gaussian PSF is cut to it. Along an axis of one voxel, a measured or
            Gaussian PSF is summed up, and a computed one is its focal plane
        metadata : what the image says of its optics (`storage.volume.Volume.optics`)

        Raises
        ------
        ConfigError : something is missing that cannot be assumed, or makes no sense.
        """
        if not self.is_computed:
            return _given(self, voxel_um, shape)
        return _computed(self, voxel_um, shape, tuple(sorted((metadata or {}).items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class PsfOnGrid:
    """A PSF as voxels, and where it came from.

    kernels : (K, Pz, Py, Px) float32, each sums to 1, centre at shape // 2; planes : (K,) where in the image each holds
    fwhm_um : full widths at half maximum, z y x, of the middle one
    facts : numbers by name, each with its source: "given", "image" or "assumed"
    """

    kernels: NDArray[np.float32]
    planes: NDArray[np.float64]
    voxel_um: tuple[float, float, float]
    fwhm_um: tuple[float, float, float]
    facts: Mapping[str, Any]
    warnings: tuple[str, ...] = field(default=())

    @property
    def fwhm_vox(self) -> tuple[float, float, float]:
        z, y, x = (width / voxel for width, voxel in zip(self.fwhm_um, self.voxel_um, strict=True))
        return z, y, x


def _given(chosen: Psf, voxel_um: tuple[float, float, float], shape: Triple) -> PsfOnGrid:
    """A Gaussian or a measured PSF."""
    facts: dict[str, Any] = {}
    _check_voxel_size(chosen, voxel_um)
    if chosen.measured is not None:
        kernel = psf.normalise(chosen.measured)
        facts["model"] = ("measured", "given")
        if chosen.path is not None:
            facts["path"] = (chosen.path, "given")
    elif chosen.fwhm_um is not None:
        kernel = psf.gaussian(chosen.fwhm_um, voxel_um)
        longest = triple(tuple(n - (n + 1) % 2 if n > 1 else k for k, n in zip(kernel.shape, shape, strict=True)))
        kernel = psf.cropped(kernel, triple(tuple(map(min, kernel.shape, longest))))
        facts["model"] = ("gaussian", "given")
        facts["fwhm_um"] = (list(chosen.fwhm_um), "given")
    else:
        raise ConfigError(
            f"deconvolve: psf {chosen.path} was not read",
            "Use Pipeline.from_yaml, or give its voxels: Psf(measured=ARRAY)",
        )
    widths = None if chosen.fwhm_um is None or chosen.measured is not None else np.asarray(chosen.fwhm_um)
    return _on_grid(kernel[None], [0.0], voxel_um, shape, facts, widths)


def _check_voxel_size(chosen: Psf, voxel_um: tuple[float, float, float]) -> None:
    """A measured PSF must have the voxels of the image, where its file tells."""
    stated = chosen.measured_um
    if stated is not None and any(abs(a - b) > SAME_VOXEL * b for a, b in zip(stated, voxel_um, strict=True)):
        raise ConfigError(
            f"deconvolve: the PSF {chosen.path} has voxels of {list(stated)} um, the image of {list(voxel_um)}",
            "Resample the PSF to the image's voxels, or correct the voxel size that its file states",
        )


@lru_cache(maxsize=8)
def _computed(
    chosen: Psf, voxel_um: tuple[float, float, float], shape: Triple, metadata: tuple[tuple[str, Any], ...]
) -> PsfOnGrid:
    """A PSF from optics."""
    given = {f.name: (getattr(chosen, f.name), getattr(chosen, f.name) == f.default) for f in fields(chosen)}
    facts = settled(given, dict(metadata))
    largest = triple(tuple(min(LARGEST_SIDE, n - (n + 1) % 2) for n in shape))
    depths = _depths(chosen, voxel_um[0], shape[0])

    centre: optics.Centre = "peak" if chosen.slab_um is None else "nominal"
    kernels = [_model(facts, chosen, chosen.size or largest, voxel_um, depth, centre) for depth in depths]
    widths = extent.fwhm(kernels[len(kernels) // 2], voxel_um)
    if chosen.size is None:
        floor = chosen.floor if chosen.floor is not None else 0.0 if facts["model"][0] in CONFINED else WIDEFIELD_FLOOR
        kept = [extent.support(kernel, chosen.energy, floor=floor) for kernel in kernels]
        size = triple(tuple(max(each.shape[axis] for each in kept) for axis in range(3)))
        kernels = [psf.cropped(kernel, size) for kernel in kernels]
        facts["energy"] = (round(min(each.energy for each in kept), 4), "computed")
    if chosen.slab_um is not None:
        _check_focus(kernels, depths)
    planes = [(depth - chosen.depth_um) / voxel_um[0] for depth in depths]
    return _on_grid(np.stack(kernels), planes, voxel_um, shape, facts, widths)


def _check_focus(kernels: Sequence[NDArray[np.float32]], depths: Sequence[float]) -> None:
    """Refuse PSFs whose focus a mismatch of indices has moved to the end of their voxels, or beyond."""
    for kernel, depth in zip(kernels, depths, strict=True):
        plane, planes = int(kernel.max(axis=(1, 2)).argmax()), len(kernel)
        if planes > 1 and not planes // 8 <= plane < planes - planes // 8:
            raise ConfigError(
                f"deconvolve: psf at a depth of {depth:g} um has its focus in plane {plane} of {planes}, at its end",
                "Leave slab_um out, or give depth_um for the middle of the image: then the PSF is centred on its focus",
            )


def _depths(chosen: Psf, voxel_um: float, planes: int) -> list[float]:
    """The depths that have a PSF of their own: one, or from the first plane of the image to beyond its last."""
    if chosen.slab_um is None:
        return [chosen.depth_um]
    slabs = max(1, ceil((planes - 1) * voxel_um / chosen.slab_um))
    return [chosen.depth_um + k * chosen.slab_um for k in range(slabs + 1)]


def _on_grid(
    kernels: NDArray[np.float32],
    planes: list[float],
    voxel_um: tuple[float, float, float],
    shape: Triple,
    facts: Mapping[str, Any],
    widths_um: NDArray[np.float64] | None = None,
) -> PsfOnGrid:
    """Checked voxels; `widths_um` as given, or as measured before the PSF was cut."""
    flat = tuple(axis + 1 for axis, n in enumerate(shape) if n == 1)
    if flat:  # an image of one plane holds no blur across it
        kernels = kernels.sum(axis=flat, keepdims=True)
    z, y, x = extent.fwhm(kernels[len(kernels) // 2], voxel_um) if widths_um is None else widths_um
    widths = (float(z), float(y), float(x))
    warnings = [
        f"the PSF is {width:.3g} um wide along {axis} and voxels are {voxel:.3g} um: under-sampled, of detail finer "
        f"than {2 * voxel:.3g} um nothing can be restored. Acquire with voxels of {width * NYQUIST:.2g} um or less"
        for axis, width, voxel, n in zip("zyx", widths, voxel_um, shape, strict=True)
        if n > 1 and voxel > NYQUIST * width * 1.001
    ]
    warnings += [
        f"the PSF does not fall to half of its peak along {axis} within {k} voxels: its width there is not known"
        for axis, width, k in zip("zyx", widths, kernels.shape[1:], strict=True)
        if k > 3 and not isfinite(width)
    ]
    shown = {
        **facts,
        "fwhm_um": ([round(w, 4) if isfinite(w) else None for w in widths], facts.get("fwhm_um", ("", "computed"))[1]),
        "shape": (list(kernels.shape[1:]), "computed"),
    }
    return PsfOnGrid(
        kernels=np.ascontiguousarray(kernels, np.float32),
        planes=np.asarray(planes, np.float64),
        voxel_um=voxel_um,
        fwhm_um=widths,
        facts=shown,
        warnings=tuple(warnings),
    )


def _model(
    facts: Mapping[str, Any],
    chosen: Psf,
    size: Triple,
    voxel_um: tuple[float, float, float],
    depth_um: float,
    centre: optics.Centre,
) -> NDArray[np.float32]:
    """Voxels of a model with numbers that are settled."""
    number = {name: value for name, (value, _) in facts.items()}
    model = number["model"]
    profile = chosen.index_profile
    if model == "variable-index" and not profile:
        raise ConfigError(
            "deconvolve: psf model variable-index needs index_profile",
            "Pairs of depth in um and index: index_profile: [[0, 1.33], [50, 1.36]]",
        )
    layers = Optics(
        na=number["na"],
        emission_um=number["emission_nm"] / 1000,
        immersion_index=number["immersion_index"],
        sample_index=number.get("sample_index", profile[0][1] if profile else number["immersion_index"]),
        coverslip_index=chosen.coverslip_index,
        coverslip_um=chosen.coverslip_um,
        depth_um=depth_um,
    )
    light: Light = "vectorial" if chosen.vectorial else "scalar"
    if model == "born-wolf":
        return optics.born_wolf(size, voxel_um, layers)
    if model == "gibson-lanni":
        return optics.gibson_lanni(size, voxel_um, layers, centre=centre)
    if model == "richards-wolf":
        return optics.richards_wolf(size, voxel_um, layers, centre=centre)
    if model == "variable-index":
        depths, indices = zip(*profile, strict=True)  # type: ignore[misc]
        return optics.variable_index_gibson_lanni(
            size, voxel_um, layers, depths_um=depths, indices=indices, centre=centre
        )
    if model == "light-sheet":
        return optics.light_sheet(
            size, voxel_um, layers, thickness_um=number["sheet_um"], tilt_degrees=chosen.tilt_degrees, model=light
        )
    excitation_um = number["excitation_nm"] / 1000
    if model == "spinning-disk":
        return optics.spinning_disk(
            size,
            voxel_um,
            layers,
            excitation_um=excitation_um,
            pinhole_um=number["pinhole_um"],
            magnification=number["magnification"],
            model=light,
            centre=centre,
        )
    return optics.confocal(
        size, voxel_um, layers, excitation_um=excitation_um, pinhole_au=number["pinhole_au"], model=light, centre=centre
    )
