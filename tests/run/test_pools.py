"""Two pools of workers: each pass on the one it needs, and only one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import chunkflow as cf
from chunkflow.backend import compute_kind, find_device
from chunkflow.errors import UsageError
from chunkflow.run.engine import ClusterOptions, SerialEngine, chosen_device, chosen_engine
from chunkflow.run.pools import PooledEngine, needs_gpu
from chunkflow.run.profiles import Pool, Profile


@dataclass(frozen=True)
class Step:
    on_device: bool


@dataclass(frozen=True)
class Job:
    steps: tuple[Step, ...]
    device: str = "gpu"


@dataclass(frozen=True)
class Result:
    unit: int
    device: str
    kind: str


def compute(job: Job, unit: int) -> Result:
    return Result(unit, job.device, f"kind of {job.device}")


class Recorded:
    """An engine that writes down when it starts and ends."""

    lanes = None
    workers = 1

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name
        log.append(f"start {name}")

    def map(self, function: Callable[[int], Any], units: Sequence[int]) -> Iterator[Any]:
        return SerialEngine().map(function, units)

    def kind(self) -> str:
        return f"kind of {self.name}"

    def close(self) -> None:
        self.log.append(f"end {self.name}")


ON_GPU, ON_HOST = Job((Step(True), Step(False))), Job((Step(False),))


def test_a_pass_goes_to_the_pool_it_needs_and_the_other_is_released_first() -> None:
    log: list[str] = []
    engine = PooledEngine(lambda name: Recorded(log, name))
    devices = []
    for job in (ON_GPU, ON_GPU, ON_HOST, ON_GPU):
        devices += [outcome.device for _, outcome in engine.map(partial(compute, job), [0, 1])]
    engine.close()
    assert devices == ["gpu"] * 4 + ["cpu"] * 2 + ["gpu"] * 2
    assert log == ["start gpu", "end gpu", "start cpu", "end cpu", "start gpu", "end gpu"]


def test_units_are_of_the_kind_of_the_run_only_on_their_own_pool_s_kind() -> None:
    engine = PooledEngine(lambda name: Recorded([], name))
    both = engine.kind()
    assert both == "kind of gpu | kind of cpu"
    for job in (ON_GPU, ON_HOST):
        assert [o.kind for _, o in engine.map(partial(compute, job), [3])] == [both]
    strange = engine.map(partial(_strange, ON_HOST), [3])
    assert [o.kind for _, o in strange] == ["another processor"]


def _strange(job: Job, unit: int) -> Result:
    return Result(unit, job.device, "another processor")


def test_a_run_without_a_gpu_and_what_is_no_job_need_none() -> None:
    assert not needs_gpu(partial(compute, Job((Step(True),), device="cpu")))
    assert not needs_gpu(len)


BOTH = Profile(name="both", cpu=Pool(), gpu=Pool(gpus=2))


@pytest.mark.parametrize(
    ("wanted", "profile", "kind"),
    [("auto", BOTH, "gpu"), ("cpu", BOTH, "cpu"), ("gpu", BOTH, "gpu"), ("auto", Profile(cpu=Pool()), "cpu")],
)
def test_the_device_of_a_cluster_is_that_of_its_pools(wanted: str, profile: Profile, kind: str) -> None:
    assert chosen_device(wanted, options=ClusterOptions(profile=profile)).kind == kind


@pytest.mark.parametrize(("wanted", "profile"), [("gpu", Profile(cpu=Pool())), ("cpu", Profile(gpu=Pool(gpus=1)))])
def test_a_device_that_no_pool_has_is_refused(wanted: str, profile: Profile) -> None:
    with pytest.raises(UsageError, match=f"has no {wanted} pool"):
        chosen_device(wanted, on="slurm", options=ClusterOptions(profile=profile))


def test_a_cluster_without_a_profile_or_with_another_s_is_refused() -> None:
    device = find_device("cpu")
    given: dict[str, Any] = {"client": None, "workers": None, "units": 8, "memory": 2**30, "device": device}
    with pytest.raises(UsageError, match="needs to know the site"):
        chosen_engine(on="slurm", **given)
    with pytest.raises(UsageError, match="profile both is of slurm"):
        chosen_engine(on="kubernetes", options=ClusterOptions(profile=BOTH), **given)
    with pytest.raises(UsageError, match="is not known"):
        chosen_engine(on="pbs", **given)


class OnHost(SerialEngine):
    """A pool that computes here, whatever it is called."""

    def kind(self) -> str:
        return compute_kind(find_device("cpu"))


def test_a_run_over_pools_gives_the_bits_of_a_serial_one(
    tiny_volume: Path, tmp_path: Path, tree_hash: Any, monkeypatch: Any
) -> None:
    from chunkflow.run import driver

    pipeline = cf.Pipeline([cf.Threshold(smooth_um=0.1), cf.Label()])
    pipeline.plan(tiny_volume, tmp_path / "serial", block=(16, 24, 24)).run(on="serial", device="cpu")
    monkeypatch.setattr(driver, "engine_for", lambda *_, **__: PooledEngine(lambda name: OnHost()))
    pipeline.plan(tiny_volume, tmp_path / "pools", block=(16, 24, 24)).run(device="cpu")
    assert tree_hash(tmp_path / "pools") == tree_hash(tmp_path / "serial")
