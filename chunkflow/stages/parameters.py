"""Checks of what users hand to stages, alike for Python and for YAML.

Type hints of a parameter dataclass say what fits: a number where a float is named, one of the words of a Literal, a
list where a tuple is named. NaN and infinity fit nowhere.
"""

from __future__ import annotations

from dataclasses import fields
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from chunkflow.errors import ConfigError, nearest


def check_parameters(values: Any, where: str) -> None:
    """Check every field of a frozen dataclass against its type hint; lists become the tuples that hints name.

    Whole numbers become floats where floats are named: 45 of Python and of YAML are then one value and one fingerprint.

    Raises
    ------
    ConfigError : a value does not fit; the message names the field, the value and what would fit.
    """
    hints = get_type_hints(type(values))
    for f in fields(values):
        value = getattr(values, f.name)
        hint = hints[f.name]
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(values, f.name, value)
        if not _fits(value, hint):
            words = [word for word in _words(hint) if isinstance(word, str)]
            remedy = nearest(value, words) if words and isinstance(value, str) else f"Give {_described(hint)}"
            raise ConfigError(f"{where}: {f.name} is {value!r}", remedy)
        object.__setattr__(values, f.name, _with_floats(value, hint))


def _with_floats(value: Any, hint: Any) -> Any:
    """A value that fits, its whole numbers as floats where the hint names floats alone."""
    options = get_args(hint)
    if isinstance(value, tuple) and get_origin(hint) is tuple:
        kinds = options[:1] * len(value) if options[1:] == (Ellipsis,) else options
        return tuple(map(_with_floats, value, kinds))
    if get_origin(hint) in (Union, UnionType):
        return _with_floats(value, next(option for option in options if _fits(value, option)))
    return float(value) if hint is float else value


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return any(value == word and type(value) is type(word) for word in get_args(hint))
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and _fits_tuple(value, get_args(hint))
    if origin is not None:
        return isinstance(value, origin)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _fits_tuple(value: tuple[Any, ...], options: tuple[Any, ...]) -> bool:
    if len(options) == 2 and options[1] is Ellipsis:
        return all(_fits(item, options[0]) for item in value)
    return len(value) == len(options) and all(map(_fits, value, options))


def _words(hint: Any) -> list[Any]:
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for option in get_args(hint) for word in _words(option)] if get_origin(hint) is not tuple else []


def _described(hint: Any) -> str:
    """A type hint in the words of a user."""
    origin = get_origin(hint)
    if origin is Literal:
        return " or ".join(map(str, get_args(hint)))
    if origin in (Union, UnionType):
        return " or ".join(_described(option) for option in get_args(hint))
    if origin is tuple:
        options = get_args(hint)
        if len(options) == 2 and options[1] is Ellipsis:
            return f"a list, each {_described(options[0])}"
        return f"{len(options)} values, each {_described(options[0])}"
    plain = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false", NoneType: "null"}
    return plain.get(hint, getattr(hint, "__name__", str(hint)))
