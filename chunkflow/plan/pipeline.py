"""A pipeline: the user's list of stages, and how it is read from YAML.

Everything that comes from a file is checked here, before anything is opened or written: unknown keys name the nearest
known one, values are parsed into the stages' own dataclasses, relative paths are taken relative to the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import pydantic

from chunkflow.errors import ConfigError, UsageError, nearest
from chunkflow.geometry.box import Triple
from chunkflow.geometry.scale import MicrometerTriple
from chunkflow.plan.descriptions import read_description, set_value, split_setting, without_booleans
from chunkflow.plan.options import SAVED, InputOptions, OutputOptions
from chunkflow.plan.presets import extended
from chunkflow.plan.threshold_files import shared_threshold
from chunkflow.stages.apply import Apply
from chunkflow.stages.base import Stage
from chunkflow.stages.correct import Correct
from chunkflow.stages.deconvolve import Deconvolve
from chunkflow.stages.instances import Instances
from chunkflow.stages.label import Label
from chunkflow.stages.measure import Measure
from chunkflow.stages.parameters import check_parameters
from chunkflow.stages.pixels import PixelClassifier
from chunkflow.stages.predict import Predict, packaged
from chunkflow.stages.psf import Psf
from chunkflow.stages.resample import Resample
from chunkflow.stages.skeleton import Skeleton
from chunkflow.stages.threshold import BATCH, Threshold
from chunkflow.stages.vesselness import Vesselness
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.tiff import read_tiff

if TYPE_CHECKING:
    from chunkflow.plan.plan import Plan
    from chunkflow.run.preview import Preview
    from chunkflow.storage.volume import Volume

__all__ = [
    "NUMBERING",
    "READ",
    "SAVED",
    "STAGES",
    "InputOptions",
    "OutputOptions",
    "Pipeline",
    "numbering_of",
    "resolved",
]

T = TypeVar("T")

STAGES: dict[str, type[Any]] = {
    stage.key: stage
    for stage in (
        Correct,
        Deconvolve,
        Resample,
        Apply,
        Predict,
        PixelClassifier,
        Vesselness,
        Threshold,
        Label,
        Instances,
        Skeleton,
        Measure,
    )
}
"""Stages by the name users give them, in the only order that makes sense; of `NUMBERING`, one."""

NUMBERING = ("apply", "label", "instances")
"""Stages that say what an object is; `apply` unless it makes an image."""

READ = ("measured", "measured_um", "dark_image", "flat_image")
"""Parameters that are read from the files that others name, and not written out."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages in order, and where they read and write.

    Raises
    ------
    ConfigError : a stage stands twice, or in an order that makes no sense.
    """

    stages: Sequence[Stage]
    input: InputOptions = field(default_factory=InputOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    block: Triple | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        check_parameters(self, "pipeline")
        for stage in self.stages:
            if getattr(stage, "key", None) not in STAGES or not hasattr(stage, "drafts"):
                raise ConfigError(
                    f"{stage!r} is no stage", f"Use some of {', '.join(s.__name__ for s in STAGES.values())}"
                )
        order = list(STAGES)
        keys = [stage.key for stage in self.stages]
        if not keys:
            raise ConfigError("the pipeline has no stages", f"Add some of {', '.join(order)}")
        for before, after in pairwise(keys):
            if before == after:
                raise ConfigError(f"stage {after} stands twice", "Keep one of them")
            if order.index(before) > order.index(after):
                raise ConfigError(f"stage {after} stands behind {before}", f"The order is {', '.join(order)}")
        numbering = numbering_of(self.stages)
        if len(numbering) > 1:
            raise ConfigError(
                f"{' and '.join(numbering)} both number objects",
                "Keep one: instances where objects touch, or apply, which can make an image instead: output: image",
            )
        predictors = [
            stage for stage in self.stages if isinstance(stage, Predict | PixelClassifier) and not _makes_image(stage)
        ]
        if len(predictors) > 1:
            raise ConfigError("predict and pixels both make a probability", "Keep one of them")
        for stage in predictors:
            decides = stage.says_foreground if isinstance(stage, Predict) else stage.threshold is not None
            if decides and "threshold" in keys:
                is_fixed = isinstance(stage.threshold, float | int)
                said = f"threshold {stage.threshold}" if is_fixed else "output: classes"
                raise ConfigError(
                    f"{stage.key} says what foreground is ({said}) and a threshold stage follows",
                    f"Set threshold of {stage.key} to null, or leave the stage out" if is_fixed else "Leave it out",
                )
        object.__setattr__(self, "stages", _of_dtype(self.stages, self.output))
        if self.block != "auto" and min(self.block) < 1:
            raise ConfigError(f"block {list(self.block)} is not positive", "Give voxels for z, y, x, or auto")

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Sequence[str] = ()) -> Self:
        """The pipeline in a file. `overrides` are KEY.key=value, KEY a stage, input or output."""
        file = Path(path)
        content = read_description(file, called="pipeline", remedy="Start with version: 1 and stages:")
        return cls.from_dict(content, folder=file.parent, overrides=overrides)

    @classmethod
    def from_dict(
        cls, content: Mapping[str, Any], *, folder: Path | None = None, overrides: Sequence[str] = ()
    ) -> Self:
        """The pipeline that a YAML file would hold; relative paths are relative to `folder`."""
        content = extended(content, tuple(STAGES))
        known = ("version", "input", "output", "block", "stages")
        for key in content:
            if key not in known:
                raise ConfigError(f"unknown key {key!r} in the pipeline", nearest(str(key), known))
        if content.get("version") != 1:
            raise ConfigError(f"version {content.get('version')!r} of the pipeline is not known", "Write version: 1")
        sections: dict[str, dict[str, Any]] = {}
        for name in ("input", "output"):
            section = content.get(name) or {}
            if not isinstance(section, Mapping):
                raise ConfigError(f"{name} is {section!r}, not keys and values", f"Write {name}: {{path: ...}}")
            sections[name] = dict(section)
        stages = _stage_sections(content.get("stages"))
        for override in overrides:
            _override(override, sections, stages)
        base = folder or Path()
        options = _parse(InputOptions, sections["input"], "input")
        return cls(
            [resolved(_parse(STAGES[key], values, key), base) for key, values in stages.items()],
            input=replace(
                options,
                path=_relative(options.path, base),
                mask=_relative(options.mask, base),
                statistics_from=_relative(options.statistics_from, base),
            ),
            output=resolved(_parse(OutputOptions, sections["output"], "output"), base),
            block=_block(content.get("block", "auto")),
        )

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` reads, every default spelt out."""
        return {
            "version": 1,
            "input": _plain(self.input),
            "output": _plain(self.output),
            "block": self.block if isinstance(self.block, str) else list(self.block),
            "stages": [{stage.key: _plain(stage)} for stage in self.stages],
        }

    def plan(
        self,
        volume: Volume | str | Path | None = None,
        output: str | Path | None = None,
        *,
        block: Triple | Literal["auto"] | None = None,
        memory: int | None = None,
        workers: int | None = None,
        resume: bool = True,
    ) -> Plan:
        """Settle the passes for a volume; reads no voxel (of a mask, a few). See `chunkflow.plan.plan.make_plan`."""
        from chunkflow.plan.plan import make_plan

        return make_plan(self, volume, output, block=block, memory=memory, workers=workers, resume=resume)

    def preview(
        self,
        volume: Volume | str | Path | None = None,
        *,
        region: str | None = None,
        sets: Sequence[str] = (),
        statistics_from: str | Path | None = None,
        device: str = "auto",
    ) -> Preview:
        """Run a region and look at it: a figure in a notebook. See `chunkflow.run.preview.preview`."""
        from chunkflow.run.preview import preview

        return preview(self, volume, region=region, sets=sets, statistics_from=statistics_from, device=device)


def numbering_of(stages: Sequence[Stage]) -> list[str]:
    """Keys of the stages that say what an object is."""
    return [stage.key for stage in stages if stage.key in NUMBERING and not _makes_image(stage)]


def _of_dtype(stages: Sequence[Stage], output: OutputOptions) -> tuple[Stage, ...]:
    """The stages, of which the one that makes the image stores it as `output: {dtype}` says."""
    makers = [stage for stage in stages if _makes_image(stage)]
    if output.dtype is None or not makers:  # a copy of the input: the plan compares the types
        return tuple(stages)
    last = makers[-1]
    if not isinstance(last, Deconvolve):
        if output.dtype == "float32":
            return tuple(stages)
        raise ConfigError(
            f"output: dtype {output.dtype}, and {last.key} makes the image, which has fractions",
            "Leave dtype out: only deconvolve scales its image to integers, where no stage behind it changes the image",
        )
    if last.dtype not in ("float32", output.dtype):
        raise ConfigError(f"output: dtype {output.dtype}, and deconvolve: dtype {last.dtype}", "Keep one of them")
    return tuple(replace(stage, dtype=output.dtype) if stage is last else stage for stage in stages)


def _makes_image(stage: Stage) -> bool:
    return bool(getattr(stage, "makes_image", False))


def _stage_sections(value: Any) -> dict[str, dict[str, Any]]:
    """Values by stage name, in order; a bare name takes all defaults."""
    if not isinstance(value, list):
        raise ConfigError(f"stages is {value!r}, not a list", "Write - STAGE: {...} lines under stages:")
    found: dict[str, dict[str, Any]] = {}
    for entry in value:
        if isinstance(entry, str):
            entry = {entry: {}}
        if not isinstance(entry, dict) or len(entry) != 1:
            raise ConfigError(f"{entry!r} under stages is not one stage", "Write - STAGE: {...}")
        ((key, values),) = entry.items()
        if key not in STAGES:
            raise ConfigError(f"unknown stage {key!r}", nearest(str(key), STAGES))
        if key in found:
            raise ConfigError(f"stage {key} stands twice", "Keep one of them")
        if values is not None and not isinstance(values, dict):
            raise ConfigError(f"stage {key} has {values!r}, not parameters", f"Write - {key}: {{...}}")
        found[key] = without_booleans(values)
    return found


def _override(text: str, sections: dict[str, dict[str, Any]], stages: dict[str, dict[str, Any]]) -> None:
    section, key, value = split_setting(text)
    targets = sections | stages
    if section not in targets:
        raise ConfigError(f"--set names {section!r}, which the pipeline does not have", nearest(section, targets))
    set_value(targets[section], key, value, option=text)


def _parse(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """The dataclass with these values; errors name the key."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}, not keys and values", "Write key: value lines")
    known = {_key(f.name): f.name for f in fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key {key!r} in {where}", nearest(str(key), known))
    values = {known[key]: value for key, value in values.items()}
    if kind is Deconvolve and isinstance(values.get("psf"), Mapping):
        values = {**values, "psf": _parse_psf(values["psf"])}
    if kind is OutputOptions and isinstance(values.get("format"), float):
        values = {**values, "format": str(values["format"])}  # YAML reads an unquoted 0.4 as a number
    try:
        return pydantic.TypeAdapter(kind).validate_python(dict(values))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            raise cause from error
        if isinstance(cause, UsageError):
            raise ConfigError(f"{where}: {cause.what}", cause.remedy) from error
        key = ".".join(_key(str(part)) for part in first["loc"][:1])
        said = f"{where}: {key} is {first['input']!r}"
        if first["type"] == "literal_error" and isinstance(first["input"], str):
            words = re.findall("'([^']*)'", first["ctx"]["expected"])
            raise ConfigError(said, nearest(first["input"], words)) from error
        raise ConfigError(f"{said}: {first['msg']}", "Correct the value") from error


def _key(name: str) -> str:
    """A parameter as files call it: `from_`, since `from` is a word of Python's, is `from`."""
    return name.removesuffix("_")


def _parse_psf(values: Mapping[str, Any]) -> Psf | dict[str, Psf]:
    """One PSF, or one per channel where every value is a PSF of its own."""
    if values and all(isinstance(value, Mapping) for value in values.values()):
        return {str(name): _parse(Psf, value, f"deconvolve: psf: {name}") for name, value in values.items()}
    return _parse(Psf, values, "deconvolve: psf")


def _block(value: Any) -> Triple | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, list) and len(value) == 3 and all(isinstance(v, int) for v in value):
        return value[0], value[1], value[2]
    raise ConfigError(f"block is {value!r}", "Write auto, or three voxel counts as [z, y, x]")


def _relative(path: str | None, folder: Path) -> str | None:
    return path if path is None or "://" in path else str(folder / path)


def resolved(stage: T, folder: Path) -> T:
    """The stage with its paths taken relative to the file, and the images among its parameters read."""
    if isinstance(stage, Correct):
        return replace(stage, **_corrections(stage, folder))
    if isinstance(stage, Deconvolve):
        one = stage.psf
        psf = _read_psf(one, folder) if isinstance(one, Psf) else {k: _read_psf(p, folder) for k, p in one.items()}
        return replace(stage, psf=psf)
    if isinstance(stage, Measure):
        return replace(stage, image=_relative(stage.image, folder), regions=_relative(stage.regions, folder))
    if isinstance(stage, Threshold) and isinstance(stage.from_, str) and stage.from_ != BATCH:
        path = str(folder / stage.from_)
        return replace(stage, from_=path, value=shared_threshold(path, stage.value))
    if isinstance(stage, Predict):
        return replace(stage, path=packaged(stage.path, folder))
    if isinstance(stage, PixelClassifier | OutputOptions) and stage.path is not None:
        return replace(stage, path=_relative(stage.path, folder) or "")
    return stage


def _corrections(stage: Correct, folder: Path) -> dict[str, Any]:
    """Paths and voxels of the dark and flat images that the stage names."""
    found: dict[str, Any] = {}
    for name, path in (("dark", stage.dark), ("flat", stage.flat)):
        if isinstance(path, str):
            where = str(folder / path)
            found |= {name: where, f"{name}_image": _read_stack(where, f"correct: the {name} image")[0]}
    return found


def _read_psf(psf: Psf, folder: Path) -> Psf:
    """The PSF with the voxels of the file it names."""
    if psf.path is None:
        return psf
    path = str(folder / psf.path)
    voxels, voxel_um = _read_stack(path, "deconvolve: the PSF")
    return replace(psf, path=path, model="measured", measured=voxels, measured_um=voxel_um)


def _read_stack(path: str, called: str) -> tuple[Any, MicrometerTriple | None]:
    """(Z, Y, X) voxels of a TIFF or of an OME-Zarr image, and their size; one plane is Z = 1."""
    if Path(path).is_dir():
        volume = open_volume(path)
        return volume.read(volume.box), volume.scale.voxel_um
    image = read_tiff(path)
    voxels = image.array
    if voxels.ndim != 3:
        raise ConfigError(f"{called} {path} has {voxels.ndim} axes", "Give one stack of planes (z, y, x)")
    return voxels, image.voxel_um


def _plain(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists, arrays left out: what YAML and JSON hold."""
    if is_dataclass(value) and not isinstance(value, type):
        named = {_key(f.name): getattr(value, f.name) for f in fields(value)}
        return {name: _plain(v) for name, v in named.items() if name not in READ}
    if isinstance(value, Mapping):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value
