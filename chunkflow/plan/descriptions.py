"""YAML files that users write, of pipelines and of trainings, and values that the command line changes in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from chunkflow.errors import ConfigError, InputNotFoundError


def read_description(path: Path, *, called: str, remedy: str) -> dict[str, Any]:
    """The keys and values of a file; `called` is what errors call it.

    Raises
    ------
    InputNotFoundError : the file cannot be read.
    ConfigError : it is not YAML, or holds no keys; `remedy` says how one begins.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputNotFoundError(f"the {called} {path} cannot be read ({error})", "Check the path") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}", "Mind the indentation") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no {called}", remedy)
    return content


def set_value(values: dict[str, Any], key: str, text: str, *, option: str) -> None:
    """Change the value under `outer.inner`, in place; maps on the way are made where there are none.

    text : the value as YAML; option : what the user typed, for the error

    Raises
    ------
    ConfigError : the text is not YAML.
    """
    *path, last = key.split(".")
    for part in path:
        inner = values.get(part)
        values[part] = dict(inner) if isinstance(inner, Mapping) else {}
        values = values[part]
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {option!r} has a value that is not YAML", "Put it in quotes") from error
