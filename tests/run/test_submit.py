"""The driver's own job: what its script says, without a SLURM."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chunkflow.cli import app
from chunkflow.errors import UsageError
from chunkflow.run.profiles import Pool, Profile
from chunkflow.run.submit import Driver, driver_script

PROFILE = Profile(
    name="site",
    cpu=Pool(partition="cpu", account="lab", prologue=("module load x",), skip=("--mem",), directives=("--qos=night",)),
    shared_folder="/shared",
)


def test_a_driver_s_script_follows_the_profile_and_runs_the_same_words(tmp_path: Path) -> None:
    script = driver_script(["p.yaml", "a b.zarr", "-o", "out"], PROFILE, Driver(walltime="1-0"), folder=tmp_path)
    for line in ("#SBATCH --partition=cpu", "#SBATCH --account=lab", "#SBATCH --qos=night", "#SBATCH --time=1-0"):
        assert line in script.splitlines()
    assert "--mem" not in script
    assert "run p.yaml 'a b.zarr' -o out &" in script
    assert script.index("module load x") < script.index("run p.yaml")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("program", "signal", "requeued", "code"),
    [
        ("exit 0", "", False, 0),
        ("exit 3", "", False, 3),
        ("exit 7", "", True, 7),
        ("trap 'exit 130' TERM; while :; do sleep 0.1; done", "USR1", True, 130),
        ("trap 'exit 130' TERM; while :; do sleep 0.1; done", "TERM", False, 130),
        ("exec sleep 60", "USR1", True, 143),  # while it is imported: it has not said yet what SIGTERM shall do
        ("exec sleep 60", "TERM", False, 143),
    ],
)
def test_a_driver_is_queued_again_when_its_time_is_up_or_its_cluster_lost(
    program: str, signal: str, requeued: bool, code: int, tmp_path: Path
) -> None:
    (tmp_path / "chunkflow").write_text(f"#!/usr/bin/env bash\n{program}\n")
    (tmp_path / "scontrol").write_text(f"#!/usr/bin/env bash\necho $* > {tmp_path}/requeued\n")
    for name in ("chunkflow", "scontrol"):
        (tmp_path / name).chmod(0o755)
    profile = Profile(name="site", cpu=Pool(python=str(tmp_path / "python")), shared_folder=str(tmp_path))
    script = driver_script(["p.yaml"], profile, Driver(), folder=tmp_path)
    tell = f"(sleep 0.5; kill -{signal} $$) &\n" if signal else ""
    path = tmp_path / "script"
    path.write_text(script.replace("driver=$!\n", f"driver=$!\n{tell}", 1))
    done = subprocess.run(
        ["bash", str(path)],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "5"},
        check=False,
        timeout=30,
    )
    assert done.returncode == code
    assert (tmp_path / "requeued").exists() == requeued


def test_submit_is_for_slurm() -> None:
    with pytest.raises(UsageError, match=r"driver\.yaml"):
        driver_script([], Profile(scheduler="cuda"), Driver(), folder=Path())


def test_words_that_run_does_not_know_are_refused_before_anything_is_queued(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("cpu: {cores: 1}")
    words = ["submit", "p.yaml", "in", "-o", "out", "--blok", "3", "--profile", str(tmp_path / "site.yaml")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "--blok" in done.output


def test_the_script_of_the_jobs_is_shown_and_nothing_is_run(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="pip install 'chunkflow-engine[cluster]'")
    text = 'shared_folder: SHARED\ngpu: {partition: gpu, gpus: 2, gres: "gpu:2", cores: 4, walltime: "01:00:00"}\n'
    (tmp_path / "site.yaml").write_text(text.replace("SHARED", str(tmp_path)))
    (tmp_path / "p.yaml").write_text("version: 1\nstages: [threshold, label]\n")
    words = ["run", str(tmp_path / "p.yaml"), "in", "--profile", str(tmp_path / "site.yaml"), "--print-job"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "#SBATCH --gres=gpu:2" in done.output
    assert "--nworkers 2" in done.output
    assert "--preload-nanny chunkflow.run.drain" in done.output
