"""numpy or cupy, asked of the array at hand; the only module that imports cupy.

Kernels write `xp = array_module(image)` and run on either. Nothing here chooses a device behind the user's
back: `find_device` says what it found and why, and the caller prints it.
"""

from __future__ import annotations

import errno
import gc
import os
import platform
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, wraps
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from chunkflow.errors import UsageError

try:
    import cupy

    CUPY_FAILED: Exception | None = None
except Exception as error:  # not installed, or its CUDA libraries do not load: both mean "no GPU from here"
    cupy = None
    CUPY_FAILED = error

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
"""There where a driver of NVIDIA is loaded."""
LEAST_DRIVER = 580
"""The oldest driver that CUDA 13 works with (CUDA 13.0 release notes, table 3)."""
INSTALL = "pip install 'chunkflow-engine[gpu]'"
OUT_OF_DEVICE_MEMORY = {
    "CUDARuntimeError": ("status", 2),  # cudaErrorMemoryAllocation
    "CUDADriverError": ("status", 2),  # CUDA_ERROR_OUT_OF_MEMORY
    "CudaAPIError": ("code", 2),  # numba's name of the same
    "CuFFTError": ("result", 2),  # CUFFT_ALLOC_FAILED
    "CUBLASError": ("status", 3),  # CUBLAS_STATUS_ALLOC_FAILED
    "CUSOLVERError": ("status", 2),  # CUSOLVER_STATUS_ALLOC_FAILED
    "CuSparseError": ("status", 2),  # CUSPARSE_STATUS_ALLOC_FAILED
}
"""Errors of cupy and numba by the attribute that holds the library's number, and the number that says so."""
DEVICE_FULL = re.compile(
    r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|CUDA (error: )?out of memory"
    r"|(CUFFT|CUBLAS_STATUS|CUDNN_STATUS|CUSOLVER_STATUS|CUSPARSE_STATUS)_ALLOC_FAILED"
)
"""What they say, and torch in their words."""


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the host or on a GPU. Errors go by their names: libraries may be absent."""
    if isinstance(error, MemoryError) or is_out_of_device_memory(error):  # numpy's and numba's are MemoryErrors
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM  # of a map or a process that could not be made
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)  # torch's of the host has no name


def is_out_of_device_memory(error: BaseException) -> bool:
    """Whether an allocation on a GPU failed: by a pool of cupy or torch, by CUDA, or by a library that needs room.

    cupy's pool and torch raise an OutOfMemoryError. What asks CUDA itself, as the workspace of a Fourier transform
    does, raises an error of its library with a number; torch hands on that error's text.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "OutOfMemoryError" in kinds:
        return True
    for name in kinds & OUT_OF_DEVICE_MEMORY.keys():
        fact, number = OUT_OF_DEVICE_MEMORY[name]
        if getattr(error, fact, None) == number:
            return True
    return isinstance(error, RuntimeError) and DEVICE_FULL.search(str(error)) is not None


def release_memory() -> None:
    """Give back what caches of this process hold and nobody uses."""
    gc.collect()
    if cupy is not None:
        with suppress(Exception):  # without a driver there is no pool
            cupy.get_default_memory_pool().free_all_blocks()
            cupy.get_default_pinned_memory_pool().free_all_blocks()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


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
    reason, remedy = ("asked for", "") if wanted == "cpu" else _why_no_gpu()
    if not reason:
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        return Device("gpu", properties["name"].decode())
    if wanted == "gpu":
        raise UsageError(f"--device gpu: {reason}", f"{remedy}; or use --device auto or cpu")
    hint = f"; {remedy[0].lower()}{remedy[1:]}" if NVIDIA_DRIVER.is_file() else ""  # there is one that could be used
    return Device("cpu", processor_name(), reason + hint)


def gpu_count() -> int:
    """GPUs that this process may use; 0 where none works."""
    return 0 if _why_no_gpu()[0] else int(cupy.cuda.runtime.getDeviceCount())


def gpu_bus_id() -> str:
    """The GPU that this process computes on, as other libraries name it; raises where there is none."""
    return str(cupy.cuda.runtime.deviceGetPCIBusId(cupy.cuda.runtime.getDevice()))


def _why_no_gpu() -> tuple[str, str]:
    """Why no GPU works, and what would change that; empty where one does."""
    if cupy is None and (CUPY_FAILED is None or isinstance(CUPY_FAILED, ModuleNotFoundError)):
        return "no GPU: cupy is not installed", f"Install it with {INSTALL}"
    if cupy is None:
        said = " ".join(str(CUPY_FAILED).split())[:200]
        return f"no GPU: cupy cannot be loaded ({said})", f"Install it again: {INSTALL}, in a fresh environment"
    try:
        if cupy.cuda.runtime.getDeviceCount() > 0:
            return "", ""
        return "no GPU found", "Check that nvidia-smi lists one, and that CUDA_VISIBLE_DEVICES does not hide it"
    except Exception as error:  # cupy raises CUDARuntimeError, which cannot be named without a driver
        said = str(error)
    if "cudaErrorNoDevice" in said:
        return "no GPU found", "Check that nvidia-smi lists one, and that CUDA_VISIBLE_DEVICES does not hide it"
    if "InsufficientDriver" in said and not NVIDIA_DRIVER.is_file():
        return (
            "no GPU: no NVIDIA driver is loaded",
            f"Install driver {LEAST_DRIVER} or newer, and check with nvidia-smi",
        )
    if "InsufficientDriver" in said:
        return "no GPU: the NVIDIA driver is too old for CUDA 13", f"Update it to {LEAST_DRIVER} or newer"
    return f"no GPU: {said}", "Check that nvidia-smi lists one"


def compute_kind(device: Device) -> str:
    """What decides the last bits of a float: device model and the versions of the libraries that compute.

    Recorded per unit; a pass is computed on one kind only.
    """
    packages = ["numpy", "scipy", "numba"] + (["cupy-cuda13x"] if device.kind == "gpu" else []) + ["torch"]
    found = [f"{package} {known}" for package in packages if (known := _installed(package))]
    return f"{device.kind} {device.name}; {platform.machine()}; " + ", ".join(found)


@cache
def _installed(package: str) -> str:
    """Version of a package, empty where there is none; looked up once, since files are read for it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
