"""Pipelines that come with the package, and files that build on one.

    extends: mitochondria-confocal          # all that the preset says
    remove: [measure]                       # but for these stages
    stages:
      - threshold: {method: otsu}           # and with these values: the rest of the stage stays
      - deconvolve: {psf: {emission_nm: 525}}

A stage that the preset lacks takes its place in the order of stages. Maps are merged key by key, all else is replaced;
a PSF of another kind (its own microscope, model, path or fwhm_um) replaces the preset's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml

from chunkflow.errors import ConfigError, nearest

FOLDER = files("chunkflow.plan") / "presets"
KINDS_OF_PSF = ("microscope", "model", "path", "fwhm_um")
"""Keys of a PSF that say what kind it is."""


def preset_names() -> list[str]:
    """The presets, by the names that users give them."""
    return sorted(file.name.removesuffix(".yaml") for file in FOLDER.iterdir() if file.name.endswith(".yaml"))


def preset_text(name: str) -> str:
    """The file of a preset, with its comments.

    Raises
    ------
    ConfigError : there is none of that name.
    """
    if not isinstance(name, str) or name not in preset_names():
        raise ConfigError(f"unknown preset {name!r}", nearest(str(name), preset_names()))
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def extended(content: Mapping[str, Any], order: Sequence[str]) -> Mapping[str, Any]:
    """A pipeline file with the preset that it extends filled in; itself where it extends none. `order` is of stages.

    Raises
    ------
    ConfigError : the preset is not known, or a stage that is to be removed is not in it.
    """
    if "extends" not in content:
        if "remove" in content:
            raise ConfigError("remove is given, and no preset is extended", "Add extends: PRESET, or leave it out")
        return content
    preset: dict[str, Any] = yaml.safe_load(preset_text(content["extends"]))
    merged = {key: value for key, value in content.items() if key not in ("extends", "remove")}
    for name in ("input", "output"):
        own = merged.get(name) or {}
        merged[name] = {**preset.get(name, {}), **own} if isinstance(own, Mapping) else own
    merged.setdefault("version", preset["version"])
    merged["stages"] = _stages(preset["stages"], merged.get("stages"), content.get("remove"), order)
    return merged


def _stages(preset: list[Any], own: Any, remove: Any, order: Sequence[str]) -> Any:
    """The stages of both, in their order; what is no stage comes last, and is refused where stages are read."""
    if own is not None and not isinstance(own, list):
        return own  # refused, with its remedy, where stages are read
    entries: list[dict[str, Any]] = [{each: {}} if isinstance(each, str) else each for each in preset]
    found = {key: dict(values or {}) for stage in entries for key, values in stage.items()}
    for key in _removed(remove, found):
        del found[key]
    more: list[Any] = []
    for listed in own or []:
        entry: Any = {listed: {}} if isinstance(listed, str) else listed
        name = next(iter(entry)) if isinstance(entry, dict) and len(entry) == 1 else None
        changes: Any = entry[name] if name in found else None
        if name in found and (changes is None or isinstance(changes, Mapping)):
            found[name] = _merged(found[name], changes or {})
        else:
            more.append(entry)
    stages = [{key: values} for key, values in found.items()] + more
    return sorted(stages, key=lambda entry: _place(entry, order))


def _place(entry: Any, order: Sequence[str]) -> int:
    key = next(iter(entry)) if isinstance(entry, dict) and len(entry) == 1 else entry
    return order.index(key) if key in order else len(order)


def _removed(remove: Any, known: Mapping[str, Any]) -> list[str]:
    listed = remove or []
    if not isinstance(listed, list):
        raise ConfigError(f"remove is {remove!r}, not a list of stages", "Write remove: [measure]")
    for key in listed:
        if key not in known:
            raise ConfigError(f"remove names {key!r}, which the preset does not have", nearest(str(key), known))
    return listed


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Maps of maps, `above` winning."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        replaces = key == "psf" and isinstance(value, Mapping) and any(kind in value for kind in KINDS_OF_PSF)
        merges = isinstance(old, Mapping) and isinstance(value, Mapping) and not replaces
        found[key] = _merged(old or {}, value) if merges else value
    return found
