"""A first pipeline file, from a preset and what the input's metadata says.

    preset, with its comments  +  voxel size, channels, optics of the image  +  what the user gives  ->  pipeline.yaml

What nothing says is not guessed: it is asked for, or stands in the file as a comment with an example.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from chunkflow.errors import ConfigError, UsageError, nearest
from chunkflow.geometry.box import Triple, triple
from chunkflow.geometry.scale import MicrometerTriple
from chunkflow.plan.descriptions import one_line, set_value, split_setting, without_booleans
from chunkflow.plan.pipeline import Pipeline
from chunkflow.plan.presets import preset_text
from chunkflow.plan.schema import NAME, pipeline_schema
from chunkflow.run.batch_inputs import check_single
from chunkflow.stages.microscope import OF_MICROSCOPE
from chunkflow.storage.files import write_atomic
from chunkflow.storage.importing import channel_names, open_source
from chunkflow.storage.omezarr import image_facts
from chunkflow.storage.optics import Optics

WIDEST = 100
"""Characters of a stage on one line; longer ones take a line for each value."""
FROM_IMAGE = ("na", "emission_nm", "excitation_nm", "immersion_index", "magnification", "pinhole_um")
"""Facts of the optics that a PSF takes by the same name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A value that must be given: KEY.key, an example of it, and what it is."""

    key: str
    example: str
    what: str

    def __str__(self) -> str:
        given = shlex.quote(f"{self.key}={self.example}")
        return f"{self.key} ({self.what}; for example --set {given})"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What an input says of itself. voxel_um : None where it does not say, and why_no_size tells why."""

    name: str
    shape: Triple
    dtype: str
    voxel_um: MicrometerTriple | None
    why_no_size: str
    channels: tuple[str, ...]
    times: int
    optics: tuple[Optics, ...]


def _facts(source: str | Path) -> _Facts:
    if Path(source).is_file():
        return _facts_of_file(source)
    found = image_facts(source)
    first = found.levels[0]
    return _Facts(
        name=Path(found.path).name,
        shape=first.shape,
        dtype=str(first.dtype),
        voxel_um=first.scale.voxel_um,
        why_no_size="",
        channels=found.channels,
        times=found.times,
        optics=found.optics,
    )


def _facts_of_file(source: str | Path) -> _Facts:
    """As an import would find them."""
    image, _ = open_source(source)
    return _Facts(
        name=Path(source).name,
        shape=triple(image.shape[-3:]),
        dtype=image.dtype.name,
        voxel_um=image.voxel_um,
        why_no_size=image.voxel_source,
        channels=tuple(channel_names(image)),
        times=dict(zip(image.axes, image.shape, strict=True)).get("t", 1),
        optics=image.optics,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The text of a pipeline file, and what is missing in it."""

    text: str
    missing: tuple[Missing, ...]


def started(
    preset: str,
    source: str | Path,
    target: str | Path,
    *,
    sets: Sequence[str] = (),
    ask: Callable[[Missing], str] | None = None,
) -> Started:
    """What `init` writes.

    Parameters
    ----------
    source : OME-Zarr image, or a file that a run imports; only its metadata are read.
    target : of the file, which names the input relative to itself.
    sets : KEY.key=value.
    ask : what is asked for a value that is missing, YAML; without it, it stays missing.

    Raises
    ------
    ConfigError : the preset is not known, or a value does not fit.
    InputError, UsageError : the input is no image, or several.
    """
    text = preset_text(preset)
    if "://" not in str(source):
        check_single(source, "init")
    facts = _facts(source)
    content: dict[str, Any] = yaml.safe_load(text)
    sections = _sections(content)
    stated = _settled(sections, facts, sets)
    missing = _missing(sections, facts)
    answers: dict[str, str] = {}
    while ask is not None and (value := next((v for v in missing if v.key not in answers), None)):
        answers[value.key] = f"{value.key}={ask(value)}"  # one by one: an answer may bring what the image says
        stated = _settled(sections, facts, [*sets, *answers.values()])
        missing = _missing(sections, facts)
    sections["input"]["path"] = _relative(source, Path(target).parent)
    lines = [*_head(preset, text, facts, Path(target).name), *_body(text, sections, stated, missing)]
    written = "\n".join(lines) + "\n"
    Pipeline.from_dict(yaml.safe_load(written), folder=Path(target).parent)  # refused here rather than at the first run
    return Started(text=written, missing=tuple(missing))


def write_started(found: Started, target: str | Path, *, overwrite: bool) -> Path:
    """Write the file, and the schema that it names beside it.

    Raises
    ------
    UsageError : the file is there.
    """
    path = Path(target)
    if path.exists() and not overwrite:
        raise UsageError(f"{target} is there already", "Add --overwrite, or give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path.parent / NAME, json.dumps(pipeline_schema(), indent=1).encode())
    write_atomic(path, found.text.encode())
    return path


def _sections(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Input, output and stages by their names, in order."""
    found: dict[str, dict[str, Any]] = {
        "input": dict(content.get("input") or {}),
        "output": dict(content.get("output") or {}),
    }
    for entry in content["stages"]:
        ((key, values),) = ({entry: {}} if isinstance(entry, str) else entry).items()
        found[key] = without_booleans(values)
    return found


def _set(sections: dict[str, dict[str, Any]], text: str) -> None:
    section, key, value = split_setting(text)
    if section not in sections:
        raise ConfigError(
            f"--set {text!r} names no value of this pipeline", f"KEY.key=value, KEY being one of {', '.join(sections)}"
        )
    set_value(sections[section], key, value, option=text)


def _settled(sections: dict[str, dict[str, Any]], facts: _Facts, sets: Sequence[str]) -> dict[str, Any]:
    """What the image says, which depends on the channel that is set, put among the values; what is set goes before."""
    for override in sets:
        _set(sections, override)
    stated = _stated(sections, facts)
    for override in sets:
        _set(sections, override)
    return stated


def _stated(sections: dict[str, dict[str, Any]], facts: _Facts) -> dict[str, Any]:
    """What the image says of the PSF; put among its values."""
    if "deconvolve" not in sections:
        return {}
    optics = _optics(facts, sections["input"].get("channel"))
    found: dict[str, Any] = {name: optics[name] for name in FROM_IMAGE if name in optics}
    if optics.get("mode") in OF_MICROSCOPE:
        found["microscope"] = optics["mode"]
    psf = sections["deconvolve"].setdefault("psf", {})
    sections["deconvolve"]["psf"] = {**psf, **found}
    return found


def _optics(facts: _Facts, channel: Any) -> Optics:
    """Of the channel that is chosen; where none is yet, what all channels have in common."""
    if channel in facts.channels:
        return facts.optics[facts.channels.index(channel)]
    first, *others = facts.optics
    return {name: value for name, value in first.items() if all(each.get(name) == value for each in others)}


def _missing(sections: Mapping[str, Mapping[str, Any]], facts: _Facts) -> list[Missing]:
    """Values without which no run can start, and that nothing says."""
    found = []
    options = sections["input"]
    channel = options.get("channel")
    if isinstance(channel, str) and channel not in facts.channels:
        raise ConfigError(f"{facts.name} has no channel {channel!r}", nearest(channel, filter(None, facts.channels)))
    if facts.voxel_um is None and options.get("voxel_um") is None:
        found.append(Missing(key="input.voxel_um", example="[0.2, 0.08, 0.08]", what=f"z y x, {facts.why_no_size}"))
    if len(facts.channels) > 1 and options.get("channel") is None:
        named = ", ".join(name or str(number) for number, name in enumerate(facts.channels))
        found.append(Missing(key="input.channel", example=facts.channels[0] or "0", what=f"one of {named}"))
    if facts.times > 1 and options.get("time") is None:
        found.append(Missing(key="input.time", example="0", what=f"one of the {facts.times} time points, from 0"))
    psf = sections.get("deconvolve", {}).get("psf")
    return found + (_missing_of_psf(psf) if isinstance(psf, Mapping) else [])


def _missing_of_psf(psf: Mapping[str, Any]) -> list[Missing]:
    if psf.get("path") or psf.get("fwhm_um"):
        return []
    found, objective = [], str(psf.get("objective") or "")
    at = "deconvolve.psf"
    if psf.get("na") is None and not objective:
        found.append(Missing(key=f"{at}.objective", example="63x/1.4 oil", what="what is written on it"))
    elif psf.get("microscope") == "spinning-disk" and psf.get("magnification") is None and "x" not in objective:
        found.append(Missing(key=f"{at}.magnification", example="100", what="of the objective"))
    if psf.get("emission_nm") is None:
        found.append(Missing(key=f"{at}.emission_nm", example="525", what="the wavelength detected, in nm"))
    return found


def _relative(source: str | Path, folder: Path) -> str:
    return str(source) if "://" in str(source) else os.path.relpath(source, folder)


def _head(preset: str, text: str, facts: _Facts, name: str) -> list[str]:
    """What the file is, from what, and what comes next."""
    shape = " x ".join(map(str, facts.shape))
    voxel = "unknown size" if facts.voxel_um is None else " x ".join(f"{n:.6g}" for n in facts.voxel_um) + " um"
    about = [line for line in text.partition("\nversion:")[0].splitlines() if line.startswith("#")]
    return [
        f"# yaml-language-server: $schema={NAME}",
        *about,
        "#",
        f"# From the preset {preset}, for {facts.name}:",
        f"# {shape} voxels of {voxel} (z y x), {facts.dtype}.",
        "#",
        f"# Look first:   chunkflow preview {name} -o preview.png",
        f"# Then:         chunkflow run {name} -o out",
        "version: 1",
    ]


def _body(
    text: str, sections: Mapping[str, dict[str, Any]], stated: Mapping[str, Any], missing: Sequence[Missing]
) -> Iterator[str]:
    """Sections and stages, each stage below the comment that it has in the preset."""
    yield "input:"
    for key, value in sections["input"].items():
        yield f"  {key}: {one_line(value)}"
    yield from _asked_for("input", missing, "  ")
    yield f"output: {one_line(sections['output'])}"
    yield "stages:"
    comments = _comments(text)
    for key, values in sections.items():
        if key in ("input", "output"):
            continue
        yield from comments.get(key, ())
        line = f"  - {key}: {one_line(values)}" if values else f"  - {key}"
        if "psf" not in values and len(line) <= WIDEST:
            yield line
            continue
        yield f"  - {key}:"
        for name, value in values.items():
            if name == "psf" and isinstance(value, Mapping):
                yield "      psf:"
                for part, of_part in value.items():
                    said = "  # from the image" if part in stated and stated[part] == of_part else ""
                    yield f"        {part}: {one_line(of_part)}{said}"
                yield from _asked_for("deconvolve.psf", missing, "        ")
            else:
                yield f"      {name}: {one_line(value)}"


def _asked_for(place: str, missing: Sequence[Missing], indent: str) -> Iterator[str]:
    """Lines to fill in."""
    for value in missing:
        section, _, key = value.key.rpartition(".")
        if section == place:
            yield f"{indent}# {key}: {value.example}  # MISSING: {value.what}"


def _comments(text: str) -> dict[str, list[str]]:
    """The comment lines above each stage of a preset."""
    found: dict[str, list[str]] = {}
    above: list[str] = []
    for line in text.partition("\nstages:")[2].splitlines():
        if line.lstrip().startswith("#"):
            above.append(line)
        elif stage := re.match(r"  - (\w+)", line):
            found[stage[1]] = above
            above = []
    return found
