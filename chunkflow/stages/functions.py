"""Functions that users name: found by "package.module:name", known by the version of what they belong to, called."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import is_out_of_memory
from chunkflow.errors import BlockError, ConfigError, ModelError, nearest
from chunkflow.geometry.box import Box


@dataclass(frozen=True, slots=True)
class Function:
    """A function by name.

    name : "package.module:name"
    identity : distribution and version it belongs to, or the digest of its file where it belongs to none
    """

    name: str
    identity: str

    def load(self) -> Callable[..., Any]:
        """The function itself.

        Raises
        ------
        ModelError : it cannot be imported here, or is another one than the plan saw.
        """
        return _loaded(self.name, self.identity)


def find_function(name: str, where: str) -> Function:
    """The function of a name.

    Parameters
    ----------
    where : what names it, for messages.

    Raises
    ------
    ConfigError : the name is none.
    ModelError : nothing is found under it.
    """
    module, colon, inner = name.partition(":")
    if not (module and colon and inner):
        raise ConfigError(f"{where}: {name!r} names no function", 'Write "package.module:name"')
    try:
        _imported(name)
    except ModelError as error:
        raise ModelError(f"{where}: {error.what}", error.remedy) from error
    return Function(name, _identity(module))


def check_call(function: Function, options: Mapping[str, Any], where: str) -> None:
    """Refuse options that the function does not take, as far as its signature says.

    Raises
    ------
    ConfigError : names the option.
    """
    signature = _signature(function)
    if signature is None:
        return
    try:
        signature.bind(None, **options)
    except TypeError as error:
        raise ConfigError(
            f"{where}: {function.name} cannot be called with an image and options {dict(options)}: {error}",
            f"Its parameters are {signature}",
        ) from error


def takes(function: Function, parameter: str) -> bool:
    """Whether the function has a parameter of that name."""
    signature = _signature(function)
    return signature is not None and parameter in signature.parameters


def applied(function: Function, image: NDArray[Any], options: Mapping[str, Any], box: Box, where: str) -> NDArray[Any]:
    """What the function makes of an image: an array of its shape, of whatever type the function gives.

    Parameters
    ----------
    image : (Z, Y, X), the function's own: it may write on it.
    box, where : the voxels it is, and what names the function, for messages.

    Raises
    ------
    BlockError : the function raises.
    ModelError : it gives something else than an array of that shape.
    """
    name, shape = function.name, image.shape
    try:
        found = function.load()(image, **options)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # a function that means to end the program ends its tile
        if is_out_of_memory(error):  # the tile is tried again, alone
            raise
        raise BlockError(
            f"{where}: {name} failed on {box}: {f'{type(error).__name__}: {error}'.rstrip(': ')}{_line_of(error)}",
            "Correct the function or its options",
        ) from error
    try:
        values = np.asarray(found)
    except ValueError as error:
        raise ModelError(
            f"{where}: {name} gave no array at {box} ({error})", "Return one array of the image's shape"
        ) from error
    if values.shape != shape:
        raise ModelError(
            f"{where}: {name} gave {values.shape} values for {shape} voxels at {box}",
            "Return one value per voxel, as an array of the image's shape",
        )
    return values


def _line_of(error: BaseException) -> str:
    """The line of the function, not of what it called, that raised; empty for one written in C."""
    frame = error.__traceback__.tb_next if error.__traceback__ is not None else None
    return f", in line {frame.tb_lineno} of {Path(frame.tb_frame.f_code.co_filename).name}" if frame else ""


def _signature(function: Function) -> inspect.Signature | None:
    try:
        return inspect.signature(function.load())
    except (TypeError, ValueError):  # of functions written in C
        return None


@lru_cache(maxsize=4)
def _loaded(name: str, identity: str) -> Callable[..., Any]:
    found = _imported(name)
    here = _identity(name.partition(":")[0])
    if here != identity:
        raise ModelError(
            f"{name} belongs to {here} here, and to {identity} in the plan",
            "Plan and run again in a new Python process, which reads the file as it is now",
        )
    return found


def _imported(name: str) -> Callable[..., Any]:
    module, _, inner = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        raise ModelError(
            f"{module} cannot be imported for {name} ({type(error).__name__}: {error})",
            "Install it here and where the workers run, or put its folder on PYTHONPATH",
        ) from error
    for part in inner.split("."):
        if not hasattr(found, part):
            known = [word for word in vars(found) if not word.startswith("_")] if hasattr(found, "__dict__") else []
            raise ModelError(f"{module} has no {inner}", nearest(part, known))
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{name} is {type(found).__name__}, not a function", "Name something that can be called")
    called: Callable[..., Any] = found
    return called


@lru_cache(maxsize=4)
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


@lru_cache(maxsize=64)
def _identity(module: str) -> str:
    """Read once per process, as modules are: a file that is edited meanwhile is not what runs."""
    names = sorted(set(_distributions().get(module.partition(".")[0], ())))
    if names:
        return ", ".join(f"{name} {metadata.version(name)}" for name in names)
    file = getattr(importlib.import_module(module), "__file__", None)
    if file is None:
        return f"python {platform.python_version()}"
    return f"sha256 {hashlib.sha256(Path(file).read_bytes()).hexdigest()}"
