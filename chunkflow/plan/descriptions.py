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


def without_booleans(values: Mapping[Any, Any] | None) -> dict[str, Any]:
    """Parameters by their names: YAML reads a bare `on` as true."""
    return {"on" if name is True else name: value for name, value in (values or {}).items()}


def one_line(value: Any) -> str:
    """A value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def split_setting(text: str) -> tuple[str, str, str]:
    """Section, key and value of KEY.key=value, as the command line takes them; the value is YAML.

    Raises
    ------
    ConfigError : it is none.
    """
    name, equals, value = text.partition("=")
    section, dot, key = name.partition(".")
    if not (equals and dot and key):
        raise ConfigError(f"--set {text!r} is not KEY.key=value", "For example --set threshold.method=li")
    return section, key, value


def value_of(text: str, *, option: str) -> Any:
    """A value that was typed; option : what it is part of, for the error.

    Raises
    ------
    ConfigError : it is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {option!r} has a value that is not YAML", "Put it in quotes") from error


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
    values[last] = value_of(text, option=option)
