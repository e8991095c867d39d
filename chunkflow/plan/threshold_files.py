"""A threshold that several volumes share: read from the result of a run, or from a file with a number."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

from chunkflow.errors import ConfigError, InputNotFoundError, IntegrityError
from chunkflow.storage.records import merged_path, read_record

NAMES = ("threshold", "value")
"""Keys of a JSON file, the first that is there."""


def read_threshold(path: str | Path) -> float:
    """The threshold in a result's folder, or in a file: a number, or JSON with `threshold` or `value`. Grey values.

    Raises
    ------
    InputNotFoundError : there is nothing at `path`.
    ConfigError : there is no threshold in it.
    """
    place = Path(path)
    if not place.exists():
        raise InputNotFoundError(f"threshold: from {path} does not exist", "Give a result's folder, a file or a value")
    return _of_result(place) if place.is_dir() else _of_file(place)


def _of_file(path: Path) -> float:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise _without(path, f"it cannot be read as a number or JSON ({error})") from error
    if isinstance(content, dict):
        content = next((content[name] for name in NAMES if name in content), None)
    if not isinstance(content, int | float) or isinstance(content, bool) or not isfinite(content):
        raise _without(path, "it holds no number")
    return float(content)


def _of_result(folder: Path) -> float:
    """What the run's threshold stage used: the value it was given, or the one it found."""
    try:
        stored = json.loads((folder / "run" / "plan.json").read_text(encoding="utf-8"))
        stages = {key: values for stage in stored["pipeline"]["stages"] for key, values in stage.items()}
        fingerprint = stored["fingerprints"].get("threshold")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _without(folder, "it holds no run") from error
    if fingerprint is None:
        value = stages.get("threshold", {}).get("value")
        if value is None:
            raise _without(folder, "no stage of its run took one threshold for the volume")
        return float(value)
    try:
        record = read_record(merged_path(folder / "run" / "records" / f"threshold-{fingerprint[:16]}"))
    except IntegrityError as error:
        raise _without(folder, "its run has not come that far") from error
    return float(record["threshold"][0])


def _without(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"threshold: from {path} has no threshold: {why}",
        "Give the folder of a complete result, a file with a number, or a value",
    )


def shared_threshold(path: str, given: Any) -> float:
    """The threshold that a pipeline's `from` names; a value beside it must be the same.

    Raises
    ------
    ConfigError : it is another, or there is none.
    """
    found = read_threshold(path)
    if given is not None and given != found:
        raise ConfigError(
            f"threshold: value {given} is not {found}, which from {path} holds", "Keep one of them: from reads it"
        )
    return found
