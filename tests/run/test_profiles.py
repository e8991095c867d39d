"""Profiles of sites: what is read, what is refused, and what it means for a pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkflow.errors import ConfigError, InputNotFoundError
from chunkflow.run.profiles import Pool, Profile, load_profile

SITE = """
scheduler: slurm
account: lab
prologue: [module load cuda]
cpu: {cores: 16, memory: 64GB, walltime: "04:00:00", jobs: 10}
gpu: {partition: gpu, gres: "gpu:4", gpus: 4, cores: 32, memory: 200GiB, jobs: 2, account: other}
"""


def test_what_stands_outside_of_the_pools_holds_for_both_unless_a_pool_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE)
    profile = load_profile("site", [tmp_path])
    assert profile.name == "site"
    assert profile.cpu is not None and profile.gpu is not None
    assert (profile.cpu.account, profile.gpu.account) == ("lab", "other")
    assert profile.cpu.prologue == profile.gpu.prologue == ("module load cuda",)
    assert (profile.cpu.processes, profile.gpu.processes) == (16, 4)
    assert (profile.cpu.memory_bytes, profile.gpu.memory_bytes) == (64 * 10**9, 200 * 2**30)


def test_the_user_s_profile_hides_the_site_s_of_the_same_name(tmp_path: Path) -> None:
    for folder, jobs in (("user", 3), ("site", 5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "here.yaml").write_text(f"cpu: {{jobs: {jobs}}}")
    found = load_profile("here", [tmp_path / "user", tmp_path / "site"])
    assert found.cpu == Pool(jobs=3)
    assert load_profile(str(tmp_path / "site" / "here.yaml")).cpu == Pool(jobs=5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scheduler: slurm", "no pool"),
        ("scheduler: pbs\ncpu: {}", "scheduler is 'pbs'"),
        ("cpu: {partitoin: main}", "Did you mean 'partition'"),
        ("acount: lab\ncpu: {}", "Did you mean 'account'"),
        ("cpu: {cores: 0}", "cores is 0"),
        ("cpu: {cores: two}", "cores is 'two'"),
        ("cpu: {memory: much}", "memory is 'much'"),
        ("cpu: {walltime: 4 hours}", "walltime is '4 hours'"),
        ("cpu: {walltime: 12:00:00}", "walltime is 43200"),  # YAML reads it as a number in base 60
        ("gpu: {cores: 4}", "gpu pool has no gpus"),
        ("gpu: {gpus: 2, workers: 3}", "3 workers for 2 GPUs"),
        ("scheduler: kubernetes\ncpu: {}", "a pool has no image"),
        ("cpu: 3", "cpu is 3"),
        ("- cpu", "holds no profile"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said_with_what_would_do(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_profile(str(path))


def test_a_profile_that_is_nowhere_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(SITE)
    with pytest.raises(InputNotFoundError, match="Did you mean 'cluster'"):
        load_profile("clustre", [tmp_path])
    with pytest.raises(InputNotFoundError, match="cannot be read"):
        load_profile(str(tmp_path / "missing.yaml"))


@pytest.mark.parametrize(("units", "jobs"), [(0, 1), (1, 1), (4, 1), (5, 2), (1000, 3)])
def test_there_are_as_many_jobs_as_blocks_keep_busy(units: int, jobs: int) -> None:
    assert Pool(cores=4, jobs=3).jobs_for(units) == jobs


def test_workers_of_the_command_line_are_jobs_of_every_pool() -> None:
    profile = Profile(cpu=Pool(cores=8, jobs=1), gpu=Pool(gpus=2, cores=4, jobs=9)).with_workers(12)
    assert profile.cpu is not None and profile.gpu is not None
    assert (profile.cpu.jobs, profile.gpu.jobs) == (2, 6)
