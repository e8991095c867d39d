"""What test files of runs share: a device that calls itself a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chunkflow.backend import Device
from chunkflow.run import engine, worker
from chunkflow.stages.label import Components


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A device that calls itself a GPU and computes with numpy, on which `label` runs."""

    def found(wanted: str) -> Device:
        return Device("cpu", "this processor", "asked for") if wanted == "cpu" else Device("gpu", "a pretended one")

    for module in (engine, worker):
        monkeypatch.setattr(module, "find_device", found)
    monkeypatch.setattr(worker, "to_device", lambda array, kind: array)
    monkeypatch.setattr(Components, "on_device", True)
    worker.kind_of.cache_clear()
    yield
    worker.kind_of.cache_clear()
