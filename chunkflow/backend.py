"""numpy or cupy, asked of the array at hand; the only module that imports cupy.

Kernels write `xp = array_module(image)` and run on either. Nothing here chooses a device behind the user's
back: `find_device` says what it found and why, and the caller prints it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import numpy as np

from chunkflow.errors import UsageError

try:
    import cupy
except Exception:  # not installed, or its CUDA libraries do not load: both mean "no GPU from here"
    cupy = None


@dataclass(frozen=True, slots=True)
class Device:
    """Where arrays are computed.

    kind : "cpu" or "gpu"
    name : the model, for people and for the fingerprint
    reason : why there is no GPU; empty on one
    """

    kind: str
    name: str
    reason: str = ""

    def __str__(self) -> str:
        return f"GPU {self.name}" if self.kind == "gpu" else f"CPU {self.name} ({self.reason})"


def array_module(array: Any) -> ModuleType:
    """numpy or cupy, whichever `array` belongs to."""
    if cupy is not None and isinstance(array, cupy.ndarray):
        return cupy  # type: ignore[no-any-return]
    return np


def to_host(array: Any) -> Any:
    """`array` as a numpy array (no copy if it is one)."""
    return array.get() if cupy is not None and isinstance(array, cupy.ndarray) else array


def to_device(array: Any, kind: str) -> Any:
    """`array` on the device kind ("cpu" or "gpu")."""
    return cupy.asarray(array) if kind == "gpu" else to_host(array)


def scipy_module(array: Any, name: str) -> ModuleType:
    """`scipy.NAME` or `cupyx.scipy.NAME` for the array at hand (imported lazily: some need a GPU to import)."""
    from importlib import import_module

    prefix = "scipy" if array_module(array) is np else "cupyx.scipy"
    return import_module(f"{prefix}.{name}")


def pointwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make `function(xp, *arrays)`, ufuncs of arrays and numbers, callable as `function(*arrays)` for numpy or cupy.

    On a GPU its operations are fused to one kernel, so that memory is read and written once.
    """

    @cache
    def compiled(xp: ModuleType) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            return function(xp, *arguments)

        return call if xp is np else xp.fuse(kernel_name=function.__name__.strip("_"))(call)

    @wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return compiled(array_module(arguments[0]))(*arguments)

    return wrapper


def available_cores() -> int:
    """Cores this process may use: what a batch system or a container allows it, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The CPU model as the operating system names it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def find_device(wanted: str = "auto") -> Device:
    """The device to compute on: "auto" takes a GPU when one works, "gpu" insists on it, "cpu" never looks.

    Raises
    ------
    UsageError : `wanted` is "gpu" and none works; the message says why.
    """
    if wanted not in ("auto", "gpu", "cpu"):
        raise UsageError(f"unknown device {wanted!r}", "Use auto, gpu or cpu")
    reason = "asked for" if wanted == "cpu" else _why_no_gpu()
    if not reason:
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        return Device("gpu", properties["name"].decode())
    if wanted == "gpu":
        raise UsageError(f"--device gpu: {reason}", "Fix that, or use --device auto or cpu")
    return Device("cpu", processor_name(), reason)


def _why_no_gpu() -> str:
    if cupy is None:
        return "no GPU: cupy is not installed"
    try:
        return "" if cupy.cuda.runtime.getDeviceCount() > 0 else "no GPU found"
    except Exception as error:  # cupy raises CUDARuntimeError, which cannot be named without a driver
        return f"no GPU: {error}"


def compute_kind(device: Device) -> str:
    """What decides the last bits of a float: device model and the versions of the libraries that compute.

    Recorded per unit; a pass is computed on one kind only.
    """
    packages = ["numpy", "scipy", "numba"] + (["cupy-cuda13x"] if device.kind == "gpu" else []) + ["torch"]
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"{device.kind} {device.name}; {platform.machine()}; " + ", ".join(found)
