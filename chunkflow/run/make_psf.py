"""A PSF on its own: computed from optics, as a pipeline would use it, or averaged from beads; and written as TIFF.

    optics, voxel size --.
    optics, image ------- +--> Psf --on_grid--> MadePsf --> OUT.tif, which `deconvolve: psf: {path: OUT.tif}` reads
    pipeline, image -----'                        ^
    volume of beads -----> found, averaged -------'

The file has a frame of zeros one voxel wide. Reading a measured PSF takes the median of the outermost voxels for the
camera's offset, which of light cut at a threshold would be light; of the frame it is nothing, and the frame is dropped.
So what is read is what was written. One file holds one PSF: those of several depths are made one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import ceil, isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import UsageError
from chunkflow.geometry.box import Triple, triple
from chunkflow.geometry.scale import MicrometerTriple, Scale
from chunkflow.kernels.beads import BeadReport, psf_from_beads
from chunkflow.kernels.psf import normalise
from chunkflow.plan.pipeline import Pipeline
from chunkflow.stages.deconvolve import Deconvolve
from chunkflow.stages.microscope import OF_MICROSCOPE
from chunkflow.stages.psf import LARGEST_SIDE, Psf
from chunkflow.storage.files import atomic_path
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.tiff_image import write_tiff

KINDS = ("model", "microscope", "fwhm_um", "path")
"""Keys of `Psf` of which one says what it is."""
SHOWN_ELSEWHERE = ("microscope", "size", "energy", "measured")
"""Fields of `Psf` that facts state in another way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadePsf:
    """A PSF, and where it came from.

    voxels : (Pz, Py, Px) float32, sums to 1, centre at shape // 2
    fwhm_um : full widths at half maximum, z y x
    facts : name -> (value, source), the source one of given, image, assumed, computed, measured
    beads : quality of those it was averaged from, None where it was computed
    """

    voxels: NDArray[np.float32]
    voxel_um: MicrometerTriple
    fwhm_um: MicrometerTriple
    facts: Mapping[str, tuple[Any, str]]
    warnings: tuple[str, ...]
    beads: BeadReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON values, voxels aside; a width that cannot be measured is null."""
        facts = {name: {"value": _finite(value), "source": source} for name, (value, source) in self.facts.items()}
        return {
            "shape": list(self.voxels.shape),
            "voxel_um": list(self.voxel_um),
            "fwhm_um": _finite(self.fwhm_um),
            "facts": facts,
            "warnings": list(self.warnings),
            "beads": None if self.beads is None else _quality(self.beads),
        }


def make_psf(
    values: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    voxel_um: MicrometerTriple | None = None,
    like: str | None = None,
    pipeline: str | None = None,
    source: str | None = None,
    beads: str | None = None,
    channel: str | None = None,
) -> MadePsf:
    """The PSF that a command asks for: of `pipeline`, of `beads`, else of the values. None is not given.

    Raises
    ------
    UsageError : what was given does not belong together, or as the function for it.
    """
    given = {name: value for name, value in values.items() if value is not None}
    of_image = {"voxel_um": voxel_um, "like": like}
    asked = {**given, **{name: value for name, value in of_image.items() if value is not None}}
    if pipeline is not None:
        _refuse("--pipeline", {**asked, **({"beads": beads} if beads else {})}, "The pipeline says what the PSF is")
        return psf_of_pipeline(pipeline, overrides, source=source, channel=channel)
    if source is not None:
        raise UsageError("--input is the image of a pipeline", "Add --pipeline, or use --like")
    if beads is None:
        return psf_of_optics(given, overrides, voxel_um=voxel_um, like=like, channel=channel)
    foreign = _without(asked, ("fwhm_um", "size", "voxel_um"))
    _refuse("--beads", {**foreign, **({"set": overrides} if overrides else {})}, "Beads are measured")
    widths, shape = given.get("fwhm_um"), given.get("size")
    return psf_of_beads(beads, fwhm_um=widths, shape=shape, voxel_um=voxel_um, channel=channel)


def _refuse(option: str, others: Mapping[str, Any], why: str) -> None:
    if others:
        names = ", ".join("--" + {"size": "shape"}.get(name, name).replace("_", "-") for name in others)
        raise UsageError(f"{names} cannot be used with {option}", f"{why}: leave out the one or the other")


def psf_of_optics(
    values: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    voxel_um: MicrometerTriple | None = None,
    like: str | None = None,
    channel: str | None = None,
) -> MadePsf:
    """The PSF that values of `Psf` describe.

    Parameters
    ----------
    overrides : key=value, as YAML, for more of them.
    voxel_um : the voxel size, instead of that of `like`.
    like : OME-Zarr image whose voxel size, shape and stated optics count, at `channel`.

    Raises
    ------
    UsageError : no voxel size, more than one PSF, or as `Psf`.
    """
    shape, stated = triple(LARGEST_SIDE), {}
    if like is not None:
        volume = open_volume(like, channel=channel)
        shape, stated = volume.shape, dict(volume.optics)
        voxel_um = voxel_um or volume.scale.voxel_um
    if voxel_um is None:
        raise UsageError("the voxel size is not known", "Give --voxel-um Z Y X, or --like IMAGE")
    voxel_um = Scale(voxel_um).voxel_um
    values = dict(values)
    for text in overrides:
        if not all(text.partition("=")):
            raise UsageError(f"--set {text!r} is not key=value", "For example --set depth_um=10")
    is_named = any(name in values or any(text.startswith(f"{name}=") for text in overrides) for name in KINDS)
    has_mode = not is_named and "mode" in stated
    if has_mode:
        values["microscope"] = stated["mode"]
    content = {"version": 1, "stages": [{"deconvolve": {"psf": values}}]}
    stage = _deconvolve(Pipeline.from_dict(content, overrides=[f"deconvolve.psf.{text}" for text in overrides]))
    chosen = stage.psf_for("")
    made = _made(chosen, voxel_um, shape, stated)
    if not has_mode:
        return made
    return replace(made, facts={**made.facts, "model": (OF_MICROSCOPE[str(stated["mode"])], "image")})


def psf_of_pipeline(
    path: str, overrides: Sequence[str] = (), *, source: str | None = None, channel: str | None = None
) -> MadePsf:
    """The PSF that a pipeline's deconvolve stage uses for an image, by default the one the pipeline reads.

    Raises
    ------
    UsageError : no deconvolve stage, no image, more than one PSF, or as the pipeline.
    """
    pipeline = Pipeline.from_yaml(path, overrides)
    stage = _deconvolve(pipeline)
    options = pipeline.input
    image = source if source is not None else options.path
    if image is None:
        raise UsageError("no input is named", "Give --input IN, or input: {path: IN} in the pipeline")
    volume = open_volume(
        image,
        channel=options.channel if channel is None else channel,
        time=options.time_point,
        level=options.level,
    )
    chosen = stage.psf_for(volume.channel)
    return _made(chosen, volume.scale.voxel_um, volume.shape, volume.optics)


def psf_of_beads(
    image: str,
    *,
    fwhm_um: MicrometerTriple | None,
    shape: Triple | None = None,
    voxel_um: MicrometerTriple | None = None,
    channel: str | None = None,
) -> MadePsf:
    """The average of the beads in an OME-Zarr image, which is read whole.

    Parameters
    ----------
    fwhm_um : widths expected, within a factor of 2.
    shape : voxels of the PSF; by default it reaches two expected widths to each side.
    voxel_um : the voxel size, instead of the image's.

    Raises
    ------
    UsageError : no expected width, an empty shape, or as `kernels.beads.find_beads`.
    """
    if fwhm_um is None:
        raise UsageError("how wide a bead looks is not known", "Give --fwhm-um Z Y X, within a factor of 2")
    if shape is not None and min(shape) < 1:
        raise UsageError(f"a PSF of {list(shape)} voxels", "Give 1 or more along z, y and x")
    volume = open_volume(image, channel=channel)
    voxel_um = Scale(voxel_um or volume.scale.voxel_um).voxel_um
    if shape is None:
        shape = triple(tuple(2 * ceil(2 * width / v) + 1 for width, v in zip(fwhm_um, voxel_um, strict=True)))
    average, report = psf_from_beads(volume.read(volume.box), voxel_um, shape, expected_fwhm_um=fwhm_um)
    chosen = Psf(measured=_framed(average), path=image)
    made = _made(chosen, voxel_um, volume.shape)
    facts = {**made.facts, "fwhm_um": (made.facts["fwhm_um"][0], "measured")}
    return replace(made, facts=facts, beads=report)


def check_free(destination: str, *, overwrite: bool) -> tuple[Path, Path]:
    """Where the TIFF and its picture go.

    Raises
    ------
    UsageError : the name is not that of a TIFF, or something is there.
    """
    tiff = Path(destination)
    if tiff.suffix.lower() not in (".tif", ".tiff"):
        raise UsageError(f"{destination} does not end in .tif", "Name the TIFF to write, for example psf.tif")
    paths = tiff, tiff.with_suffix(".png")
    for path in paths:
        if path.is_dir() or (path.exists() and not overwrite):
            remedy = "Choose another name" + ("" if path.is_dir() else ", or add --overwrite")
            raise UsageError(f"{path} exists", remedy)
    return paths


def write_psf(path: Path, made: MadePsf) -> None:
    """Write the voxels and their frame of zeros as an ImageJ stack of float32, with the voxel size in um."""
    with atomic_path(path) as partial:
        write_tiff(partial, _framed(made.voxels), made.voxel_um)


def _framed(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.pad(voxels, 1)


def _deconvolve(pipeline: Pipeline) -> Deconvolve:
    for stage in pipeline.stages:
        if isinstance(stage, Deconvolve):
            return stage
    raise UsageError("the pipeline has no deconvolve stage, so it uses no PSF", "Add - deconvolve: {psf: {...}}")


def _made(chosen: Psf, voxel_um: MicrometerTriple, shape: Triple, stated: Mapping[str, Any] | None = None) -> MadePsf:
    if chosen.slab_um is not None:
        raise UsageError(
            f"slab_um asks for a PSF every {chosen.slab_um:g} um of depth, and a file holds one",
            "Make them one by one: set slab_um to null and depth_um to a depth",
        )
    on_grid = chosen.on_grid(voxel_um, shape, stated)
    voxels = on_grid.kernels[0]
    warnings = list(on_grid.warnings)
    moved = _moved(voxels)
    if any(moved):
        warnings.append(
            f"the brightest voxel is {moved} voxels (z y x) off the centre; a PSF read from a file is centred there, "
            "so what is deconvolved with the file lies as much elsewhere"
        )
    return MadePsf(
        voxels=voxels,
        voxel_um=on_grid.voxel_um,
        fwhm_um=on_grid.fwhm_um,
        facts={"model": on_grid.facts["model"], **_also_given(chosen, on_grid.facts), **on_grid.facts},
        warnings=tuple(warnings),
    )


def _moved(voxels: NDArray[np.float32]) -> Triple:
    """How far reading the file would move the PSF: its centre of mass is where it was but for a shift of all voxels."""
    read = normalise(_framed(voxels))
    return triple(tuple(round(_centroid(voxels, axis) - _centroid(read, axis)) for axis in range(3)))


def _centroid(voxels: NDArray[np.float32], axis: int) -> float:
    """In voxels from shape // 2."""
    profile = voxels.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
    return float((profile * (np.arange(len(profile)) - len(profile) // 2)).sum() / profile.sum())


def _also_given(chosen: Psf, facts: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """What the user set beside the numbers in `facts`: the objective as written, a depth."""
    names = [f.name for f in fields(Psf) if f.name not in (*facts, *SHOWN_ELSEWHERE)]
    defaults = {f.name: f.default for f in fields(Psf)}
    values = {name: getattr(chosen, name) for name in names}
    return {name: (_plain(value), "given") for name, value in values.items() if value != defaults[name]}


def _without(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, tuple | list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def quality_rows(report: BeadReport) -> list[tuple[str, str]]:
    """The quality of measured beads as names and texts for people."""
    quality = _quality(report)
    rejected = ", ".join(f"{count} {reason}" for reason, count in report.rejected.items() if count)
    rows = [("found", str(report.found)), ("used", str(report.used)), ("rejected", rejected or "none")]
    for axis, mean, deviation in zip("zyx", quality["fwhm_mean_um"], quality["fwhm_sd_um"], strict=True):
        width = "does not fall to half" if mean is None else f"{mean:.4g} um, sd {deviation:.2g}"
        rows.append((f"FWHM {axis}", width))
    shown = [("median", quality["snr_median"]), ("least", quality["snr_min"])]
    text = ", ".join(f"{name} {'without noise' if ratio is None else f'{ratio:.3g}'}" for name, ratio in shown)
    return [*rows, ("signal to noise", text)]


def _quality(report: BeadReport) -> dict[str, Any]:
    with np.errstate(invalid="ignore"):  # the deviation of an infinite width
        mean, deviation = report.fwhm_mean_um.tolist(), report.fwhm_sd_um.tolist()
    return {
        "found": report.found,
        "used": report.used,
        "rejected": dict(report.rejected),
        "fwhm_mean_um": _finite(mean),
        "fwhm_sd_um": _finite(deviation),
        "snr_median": _finite(float(np.median(report.snr))),
        "snr_min": _finite(float(report.snr.min())),
    }
