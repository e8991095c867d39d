"""Values of a pipeline that are changed after it was made: what `--set` does to a file, for one that is at hand.

`KEY.key=value` names a stage, input or output, and a parameter of it, or of a parameter of it: deconvolve.psf.na=1.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from chunkflow.errors import ConfigError, nearest
from chunkflow.plan.descriptions import split_setting, value_of
from chunkflow.plan.pipeline import Pipeline, resolved

EXAMPLE = "For example threshold.method=li"


def changed(pipeline: Pipeline, overrides: Sequence[str]) -> Pipeline:
    """The pipeline with values changed; relative paths are relative to where one is.

    Raises
    ------
    ConfigError : a text is not KEY.key=value, or names what there is not; or the value does not fit.
    """
    for text in overrides:
        section, keys, value = _parsed(text)
        stages = {stage.key: index for index, stage in enumerate(pipeline.stages)}
        if section in ("input", "output"):
            pipeline = replace(pipeline, **{section: _replaced(getattr(pipeline, section), keys, value, text)})
        elif section in stages:
            changed_stages = list(pipeline.stages)
            stage = _replaced(changed_stages[stages[section]], keys, value, text)
            changed_stages[stages[section]] = resolved(stage, Path())
            pipeline = replace(pipeline, stages=changed_stages)
        else:
            raise ConfigError(
                f"{text!r} names {section!r}, which the pipeline does not have",
                nearest(section, [*stages, "input", "output"]),
            )
    return pipeline


def alternatives(overrides: Sequence[str], *, most: int) -> list[tuple[str, ...]]:
    """The settings that texts name: those of one key are alternatives, and every choice meets every other.

    Raises
    ------
    ConfigError : a text is not KEY.key=value, or there are more than `most`.
    """
    by_key: dict[str, list[str]] = {}
    for text in overrides:
        section, keys, _ = _parsed(text)
        by_key.setdefault(".".join((section, *keys)), []).append(text)
    found = list(product(*by_key.values()))
    if len(found) > most:
        counts = " x ".join(f"{len(texts)} of {key}" for key, texts in by_key.items())
        raise ConfigError(f"{counts} are {len(found)} settings", f"Compare {most} at a time")
    return found


def _parsed(text: str) -> tuple[str, list[str], Any]:
    section, key, value = split_setting(text)
    return section, key.split("."), value_of(value, option=text)


def _replaced(holder: Any, keys: Sequence[str], value: Any, text: str) -> Any:
    """A dataclass, or a map, with one value of it changed."""
    first, *rest = keys
    if isinstance(holder, dict):
        return {**holder, first: _replaced(holder.get(first), rest, value, text) if rest else value}
    known = {f.name.removesuffix("_"): f.name for f in fields(holder)} if is_dataclass(holder) else {}
    if first not in known:
        raise ConfigError(f"{text!r}: unknown key {first!r}", nearest(first, known) if known else EXAMPLE)
    old = getattr(holder, known[first])
    return replace(holder, **{known[first]: _replaced(old, rest, value, text) if rest else value})  # type: ignore[type-var]
