"""What is said where no GPU works: the first line of a run, and the remedy."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from chunkflow import backend
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
