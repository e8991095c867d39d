"""What is said where no GPU works: the first line of a run, and the remedy."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from chunkflow import backend
from chunkflow.backend import is_out_of_device_memory, is_out_of_memory
from chunkflow.errors import UsageError


def fake_cupy(count: int = 0, error: str = "") -> SimpleNamespace:
    def devices() -> int:
        if error:
            raise RuntimeError(error)
        return count

    runtime = SimpleNamespace(getDeviceCount=devices, getDeviceProperties=lambda number: {"name": b"H100"})
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime, Device=lambda: SimpleNamespace(id=0)))


TOO_OLD = "cudaErrorInsufficientDriver: CUDA driver version is insufficient for CUDA runtime version"
CASES = [
    (None, None, False, "cupy is not installed", "pip install 'chunkflow-engine[gpu]'"),
    (None, ModuleNotFoundError("No module named 'cupy'"), True, "not installed", "pip install 'chunkflow-engine[gpu]'"),
    (None, ImportError("libnvrtc.so.13: not found"), True, "cannot be loaded (libnvrtc.so.13", "Install it again"),
    (fake_cupy(error=TOO_OLD), None, False, "no NVIDIA driver is loaded", "driver 580 or newer"),
    (fake_cupy(error=TOO_OLD), None, True, "the NVIDIA driver is too old for CUDA 13", "Update it to 580"),
    (fake_cupy(error="cudaErrorNoDevice: no CUDA-capable device"), None, True, "no GPU found", "CUDA_VISIBLE_DEVICES"),
    (fake_cupy(count=0), None, True, "no GPU found", "nvidia-smi"),
    (fake_cupy(error="cudaErrorUnknown"), None, True, "cudaErrorUnknown", "nvidia-smi"),
]


@pytest.mark.parametrize(("cupy", "failed", "has_driver", "why", "remedy"), CASES)
def test_gpu_that_does_not_work_is_refused_with_its_cause_and_remedy(
    cupy: object,
    failed: Exception | None,
    has_driver: bool,
    why: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    driver = tmp_path / "version"
    if has_driver:
        driver.write_text("NVRM version: 570")
    monkeypatch.setattr(backend, "cupy", cupy)
    monkeypatch.setattr(backend, "CUPY_FAILED", failed)
    monkeypatch.setattr(backend, "NVIDIA_DRIVER", driver)
    with pytest.raises(UsageError) as refused:
        backend.find_device("gpu")
    assert why in refused.value.what
    assert remedy in refused.value.remedy
    assert "\n" not in str(refused.value)
    found = backend.find_device("auto")
    assert found.kind == "cpu"
    assert why in str(found)
    assert (remedy.lower() in str(found).lower()) is has_driver  # without a driver there is nothing to install it for


def test_a_gpu_that_works_is_taken_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "cupy", fake_cupy(count=1))
    assert str(backend.find_device("auto")) == "GPU H100"
    assert backend.find_device("gpu").kind == "gpu"
    assert str(backend.find_device("cpu")).endswith("(asked for)")


def named(name: str, base: type[Exception], words: str, **facts: int) -> Exception:
    """An error of a library that is not there, by its name."""
    error = type(name, (base,), {})(words)
    error.__dict__.update(facts)
    return error


@pytest.mark.parametrize(
    "error",
    [
        named("OutOfMemoryError", MemoryError, "Out of memory allocating 5 bytes"),  # cupy.cuda.memory
        named("OutOfMemoryError", RuntimeError, "CUDA out of memory. Tried to allocate 2.00 GiB"),  # torch
        type("Kind", (type(named("OutOfMemoryError", MemoryError, "")),), {})("of a pool"),
        named("CuFFTError", RuntimeError, "", result=2),
        named("CuFFTError", RuntimeError, "CUFFT_ALLOC_FAILED"),
        named("CUDARuntimeError", RuntimeError, "", status=2),
        named("CUDARuntimeError", RuntimeError, "cudaErrorMemoryAllocation: out of memory"),
        named("CUDADriverError", RuntimeError, "CUDA_ERROR_OUT_OF_MEMORY: out of memory", status=2),
        named("CUBLASError", RuntimeError, "", status=3),
        named("CUSOLVERError", RuntimeError, "CUSOLVER_STATUS_ALLOC_FAILED", status=2),
        named("CudaAPIError", Exception, "[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY", code=2),  # numba
        named("AcceleratorError", RuntimeError, "CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:40],
)
def test_a_gpu_that_is_full_is_known_by_the_name_whoever_says_it(error: Exception) -> None:
    assert is_out_of_device_memory(error) and is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        named("CuFFTError", RuntimeError, "CUFFT_INVALID_SIZE", result=8),
        named("CUDARuntimeError", RuntimeError, "cudaErrorIllegalAddress", status=700),
        named("CUBLASError", RuntimeError, "CUBLAS_STATUS_NOT_INITIALIZED", status=1),
        named("HTTPError", OSError, "", status=2, code=2, result=2),
        ValueError("CUDA out of memory"),  # what somebody says of it
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        OSError(28, "No space left on device"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:40],
)
def test_other_faults_are_not_taken_for_a_full_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_memory_of_the_host_is_not_taken_for_that_of_the_gpu() -> None:
    of_torch = RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: not enough memory")
    for error in (MemoryError(), of_torch, OSError(12, "Cannot allocate memory")):
        assert is_out_of_memory(error) and not is_out_of_device_memory(error)
