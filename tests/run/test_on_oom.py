"""What becomes of a block that does not fit the GPU: in runs whose GPU is the processor, with memory that is full."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import BlockMemoryError, IncompleteError
from chunkflow.run.status import Status, status
from chunkflow.stages.label import Components
from chunkflow.stages.threshold import Above, Smooth

BLOCK = (16, 50, 60)
FULL = 1
"""The block that does not fit."""


class OutOfMemoryError(MemoryError):
    """As cupy's is called, with the figures that it has."""

    _total, _size = 3 * 2**20, 5 * 2**20


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """(error, devices) -> devices of the attempts of block `FULL` of `label`, which fails on those named."""

    def failing(error: Callable[[], BaseException], *on: str) -> list[str]:
        seen: list[str] = []
        run = Components.run

        def scarce(self: Any, view: Any, out: Any) -> Any:
            if view.block == FULL:
                seen.append(view.device)
                if view.device in on:
                    raise error()
            return run(self, view, out)

        monkeypatch.setattr(Components, "run", scarce)
        return seen

    return failing


class CuFFTError(RuntimeError):
    """As cupy's is called."""

    def __init__(self, result: int = 2) -> None:
        super().__init__(f"CUFFT number {result}")
        self.result = result


@pytest.mark.usefixtures("pretended_gpu")
@pytest.mark.parametrize(
    "error", [CuFFTError, lambda: BlockMemoryError("a batch does not fit the GPU", "Use batch: 1")]
)
def test_a_library_or_a_step_may_say_it_in_words_of_its_own(
    demo_volume: Path, tmp_path: Path, attempts: Any, error: Callable[[], BaseException]
) -> None:
    seen = attempts(error, "gpu")
    said = refusal(demo_volume, tmp_path / "out")
    assert seen == ["gpu", "gpu"]
    assert "does not fit the GPU" in said
    plan_of(demo_volume, tmp_path / "out").run(on="serial", on_oom="host")
    assert seen == ["gpu", "gpu"] * 2 + ["cpu"]
    assert status(tmp_path / "out").is_mixed


@pytest.mark.usefixtures("pretended_gpu")
def test_another_fault_of_the_gpu_is_not_taken_for_a_full_one(demo_volume: Path, tmp_path: Path, attempts: Any) -> None:
    attempts(lambda: CuFFTError(8), "gpu", "cpu")
    with pytest.raises(IncompleteError, match="CuFFTError: CUFFT number 8"):
        plan_of(demo_volume, tmp_path / "out").run(on="serial", on_oom="host")
    (aside,) = next(p for p in status(tmp_path / "out").passes if p.name == "label").quarantined
    assert (aside.kind, aside.attempts) == ("CuFFTError", 2)


def plan_of(volume: Path, output: Path) -> cf.Plan:
    return cf.Pipeline([cf.Threshold(), cf.Label()]).plan(volume, output, block=BLOCK)


def refusal(volume: Path, output: Path, **options: Any) -> str:
    with pytest.raises(IncompleteError) as caught:
        plan_of(volume, output).run(on="serial", **options)
    (aside,) = next(p for p in status(output).passes if p.name == "label").quarantined
    assert (aside.unit, aside.kind) == (FULL, "BlockMemoryError")
    return str(caught.value)


@pytest.mark.usefixtures("pretended_gpu")
def test_a_block_that_does_not_fit_the_gpu_is_set_aside_with_what_it_asked_for(
    demo_volume: Path, tmp_path: Path, attempts: Any
) -> None:
    seen = attempts(OutOfMemoryError, "gpu")
    said = refusal(demo_volume, tmp_path / "out")
    assert seen == ["gpu", "gpu"]
    assert "does not fit the GPU, alone in its process (3 MiB of the GPU were taken and 5 more asked for)" in said


@pytest.mark.usefixtures("pretended_gpu")
def test_only_with_on_oom_host_it_goes_to_the_host_and_the_run_is_mixed(
    demo_volume: Path, tmp_path: Path, attempts: Any, tree_hash: Any
) -> None:
    seen = attempts(OutOfMemoryError, "gpu")
    result = plan_of(demo_volume, tmp_path / "out").run(on="serial", on_oom="host")
    assert seen == ["gpu", "gpu", "cpu"]
    found: Status = status(tmp_path / "out")
    assert found.state == "complete" and found.is_mixed
    assert sorted(kind[:3] for kind in found.kinds) == ["cpu", "gpu"]
    assert "mixed: computed on 2 kinds of compute" in (result.path / "report.html").read_text()
    plan_of(demo_volume, tmp_path / "cpu").run(on="serial", device="cpu")
    assert tree_hash(tmp_path / "out") == tree_hash(tmp_path / "cpu")


@pytest.mark.usefixtures("pretended_gpu")
def test_a_run_whose_blocks_all_fit_is_not_mixed_for_the_option(demo_volume: Path, tmp_path: Path) -> None:
    result = plan_of(demo_volume, tmp_path / "out").run(on="serial", on_oom="host")
    assert not status(tmp_path / "out").is_mixed
    assert "mixed: computed" not in (result.path / "report.html").read_text()


@pytest.mark.usefixtures("pretended_gpu")
def test_a_block_too_large_for_the_host_too_is_set_aside_with_the_memory_that_would_do(
    demo_volume: Path, tmp_path: Path, attempts: Any
) -> None:
    seen = attempts(OutOfMemoryError, "gpu", "cpu")
    said = refusal(demo_volume, tmp_path / "out", on_oom="host")
    assert seen[-1] == "cpu"
    assert "does not fit the memory" in said and "MiB would do" in said


@pytest.mark.usefixtures("pretended_gpu")
@pytest.mark.parametrize("on_device", [True, False], ids=["a step of the GPU", "a step of the host"])
def test_memory_of_the_host_is_not_taken_for_that_of_the_gpu(
    demo_volume: Path, tmp_path: Path, attempts: Any, monkeypatch: pytest.MonkeyPatch, on_device: bool
) -> None:
    for step in (Smooth, Above, Components):
        monkeypatch.setattr(step, "on_device", on_device)
    seen = attempts(_no_host_memory, "gpu", "cpu")
    said = refusal(demo_volume, tmp_path / "out", on_oom="host" if on_device else "fail")
    assert "does not fit the memory" in said and "A worker of" in said
    assert "GPU" not in said
    assert set(seen) == {"gpu" if on_device else "cpu"}


def _no_host_memory() -> BaseException:
    try:
        np.empty(2**60, np.uint8)
    except MemoryError as error:
        return error
    raise AssertionError("this machine has more memory than there is")
