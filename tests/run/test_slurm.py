"""A real SLURM on this machine: jobs that are cancelled, end and are replaced, and the bytes of a local run."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import get_worker

import chunkflow as cf
from chunkflow.errors import ClusterError, UsageError
from chunkflow.run import visit
from chunkflow.run.drain import Longest, device_of
from chunkflow.run.engine import ClusterOptions
from chunkflow.run.profiles import Pool, Profile, load_profile
from chunkflow.run.slurm import slurm_engine
from chunkflow.run.watchdog import Patience

DEPLOY = Path(__file__).parents[2] / "deploy" / "slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
OverTimeLimit=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/daemon.log
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/daemon.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""

IMPATIENT = Patience(lonely_seconds=60.0, silent_seconds=60.0, answer_seconds=30.0)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a cluster of one node, on ports and sockets of its own."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"SLURM is not installed ({', '.join(missing)}): apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("slurmd and munged of a test need to be root")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    ports = {"controller": _free_port(), "daemon": _free_port()}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, user="root", folder=folder, **ports))
    munge = [
        f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "log-file", "seed-file")
    ]
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", *munge]
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D"]):
            started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            _wait(lambda: (folder / "munge.socket").exists(), 20)
        _wait(lambda: "idle" in _said("sinfo", "--noheader", "--format=%T"), 40)
        yield folder
        _said("scancel", "--user=root")
        _wait(_is_empty, 30)
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.environ.pop("SLURM_CONF") if before is None else os.environ.update(SLURM_CONF=before)


def _wait(holds: Callable[[], Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"it did not come true in {seconds} s")
        time.sleep(0.2)


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


def _is_empty() -> bool:
    """Whether SLURM says, and does not fail to say, that there are no jobs."""
    done = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode == 0 and not done.stdout.strip()


def _jobs() -> list[str]:
    return _said("squeue", "--noheader", "--states=RUNNING", "--format=%A").split()


@pytest.fixture
def profile(slurm: Path) -> Profile:
    """Two jobs of one worker, that take blocks for 45 seconds, on the loopback."""
    pool = Pool(
        cores=1, memory="1GB", jobs=2, walltime="00:02:00", partition="main", interface="lo", drain_seconds=75.0
    )
    return Profile(name="test", cpu=pool, shared_folder=str(slurm / "shared"))


class SlowUnit:
    """`attempt_unit`, slowed; from the sixth on, a worker waits for the end of its job, once in a run.

    It pickles by its module.
    """

    units = 0  # in this process

    def __init__(self, drained: Path) -> None:
        self.drained = drained  # exists once a worker has come to its end

    def __call__(self, job: Any, lanes: Any, unit: int) -> Any:
        time.sleep(0.8)
        SlowUnit.units += 1
        while SlowUnit.units > 5 and not self.drained.exists():
            if get_worker().status.name != "running":
                self.drained.touch()
            time.sleep(0.2)
        return visit.attempt_unit(job, lanes, unit)


@pytest.mark.thorough
def test_a_cancelled_job_and_jobs_whose_time_is_up_leave_the_bytes_of_a_local_run(
    profile: Profile, tiny_volume: Path, tmp_path: Path, tree_hash: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = cf.Pipeline([cf.Threshold(smooth_um=0.1), cf.Label(), cf.Measure()])
    pipeline.plan(tiny_volume, tmp_path / "local", block=(16, 24, 24)).run(on="serial", device="cpu")
    monkeypatch.setattr(visit, "attempt_unit", SlowUnit(tmp_path / "drained"))  # else the run is over before a job is
    cancelled: list[str] = []
    seen: set[str] = set()

    def listen(event: Any) -> None:
        if event["event"] == "unit":
            seen.update(_jobs())
            if event["done"] == 3 and not cancelled:
                cancelled.extend(_jobs()[:1])
                _said("scancel", *cancelled)

    pipeline.plan(tiny_volume, tmp_path / "slurm", block=(16, 24, 24)).run(
        on="slurm", device="cpu", options=ClusterOptions(profile=profile, patience=IMPATIENT), on_event=listen
    )
    assert tree_hash(tmp_path / "slurm") == tree_hash(tmp_path / "local")
    assert cancelled, "no job was cancelled"
    drained = [path for path in (profile.folder / "logs").glob("*.err") if "job ends" in path.read_text()]
    assert drained, "no job came to its end in the middle"
    assert len(seen) >= 4, f"jobs were not replaced: {seen}"


@pytest.mark.thorough
def test_several_workers_of_a_job_get_a_gpu_each(slurm: Path) -> None:
    """On the CPU: what is checked is which devices each worker sees."""
    pool = Pool(
        cores=2,
        gpus=2,
        memory="1GB",
        partition="main",
        interface="lo",
        prologue=("export CUDA_VISIBLE_DEVICES=4,7",),
    )
    engine = slurm_engine(pool, Profile(gpu=pool, shared_folder=str(slurm / "shared")), patience=IMPATIENT)
    try:
        seen = dict(engine.map(_visible, range(24)))
        assert set(seen.values()) == {"4", "7"}
    finally:
        engine.close()


def _visible(unit: int) -> str:
    time.sleep(0.3)
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.thorough
def test_jobs_that_end_without_a_worker_end_the_run_with_what_they_said(profile: Profile) -> None:
    assert profile.cpu is not None
    pool = replace(profile.cpu, prologue=("echo no such module >&2; exit 3",))
    engine = slurm_engine(pool, profile, patience=IMPATIENT)
    try:
        with pytest.raises(ClusterError, match="ended before a worker of them came.*no such module"):
            list(engine.map(_visible, range(4)))
    finally:
        engine.close()


@pytest.mark.thorough
def test_what_slurm_refuses_is_said_before_anything_begins(profile: Profile) -> None:
    assert profile.cpu is not None
    with pytest.raises(UsageError, match="SLURM refuses such jobs.*partition"):
        slurm_engine(replace(profile.cpu, partition="moon"), profile)


@pytest.mark.thorough
def test_a_submitted_driver_runs_the_command_on_jobs_of_its_own(slurm: Path, tiny_volume: Path, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(f"""
scheduler: slurm
partition: main
interface: lo
shared_folder: {slurm / "shared"}
cpu: {{cores: 1, memory: 1GB, walltime: "00:05:00"}}
""")
    (tmp_path / "pipeline.yaml").write_text("version: 1\nstages: [threshold, label, measure]\n")
    words = ["pipeline.yaml", str(tiny_volume), "-o", "out", "--profile", "./site.yaml", "--block", "16", "24", "24"]
    command = [str(Path(sys.executable).with_name("chunkflow")), "submit", "--driver-memory", "1G", *words]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "chunkflow status out" in said
    _wait(_is_empty, 240)
    log = next((slurm / "shared" / "logs").glob("driver-*.out")).read_text()
    assert cf.open_result(tmp_path / "out").objects is not None, log


@pytest.mark.thorough
def test_a_run_in_one_allocation_is_encrypted_and_complete(
    slurm: Path, tiny_volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "pipeline.yaml").write_text("version: 1\nblock: [16, 24, 24]\nstages: [threshold, label, measure]\n")
    words = ["--cpus-per-task=2", "--mem=2G", "--time=5", f"--chdir={tmp_path}", "--output=log"]
    monkeypatch.setenv("CHUNKFLOW_SHARED", str(tmp_path))
    job = [str(DEPLOY / "run.sbatch"), "pipeline.yaml", str(tiny_volume), str(tmp_path / "out")]
    subprocess.run(["sbatch", *words, *job], check=True, capture_output=True, timeout=60)
    _wait(_is_empty, 240)
    log = (tmp_path / "log").read_text()
    assert cf.open_result(tmp_path / "out").objects is not None, log
    assert "Scheduler at:     tls://" in log
    assert not list(tmp_path.glob(".chunkflow-tls.*"))


def test_the_longest_block_is_remembered() -> None:
    longest = Longest()
    for key, seconds in (("a", 0.05), ("b", 0.2), ("c", 0.0)):
        longest.transition(key, "ready", "executing")
        time.sleep(seconds)
        longest.transition(key, "executing", "memory")
    longest.transition("d", "ready", "executing")
    assert 0.2 <= longest.seconds < 0.4


def test_the_profile_that_comes_with_it_is_one() -> None:
    profile = load_profile(str(DEPLOY / "profile.yaml"))
    assert {name: pool.processes for name, pool in profile.pools.items()} == {"cpu": 16, "gpu": 4}


@pytest.mark.parametrize(
    ("name", "visible", "device"),
    [
        ("x-0-3", "0,1,2,3", "3"),
        ("x-1", "GPU-a,GPU-b", "GPU-b"),
        ("x-5", "2,4", "4"),
        ("x-1", "3", None),
        ("x", "1,2", None),
    ],
)
def test_a_worker_sees_the_gpu_of_its_number(name: str, visible: str, device: str | None) -> None:
    assert device_of(name, visible).get("CUDA_VISIBLE_DEVICES") == device
