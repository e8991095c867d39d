"""Workers in jobs of SLURM, by dask-jobqueue: asked for as blocks need them, replaced when they end, encrypted.

    driver (scheduler inside) --sbatch--> job: dask worker, one process per core or per GPU
             |  <------------- TLS --------------  each takes blocks until shortly before its walltime (`run/drain.py`)
             `--squeue--> jobs that ended, were cancelled or never began: replaced

dask's own adaptive scaling counts the tasks that a scheduler knows, which are a window here, and does not notice that
a job with several workers is gone; so the driver looks itself, which also tells waiting in the queue from being lost.
"""

from __future__ import annotations

import logging
import shlex
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import dask
from distributed import Client
from distributed.security import Security

from chunkflow.errors import ClusterError, UsageError
from chunkflow.run.dashboard import ADDRESS, can_draw
from chunkflow.run.dask import WORKER_ENVIRONMENT, DaskEngine, workers_awaited
from chunkflow.run.flight import RESUME, THREADS, Members
from chunkflow.run.profiles import Pool, Profile
from chunkflow.run.watchdog import Patience, Since

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # between two questions to SLURM
IDLE_SECONDS = 300.0  # that jobs nobody needs are kept, since a merge is short and the next pass may want them
BARREN_JOBS = 3  # that end one after the other without a worker, until that is an error
COMMAND_SECONDS = 60.0  # for a command of SLURM

ENVIRONMENT = {
    **WORKER_ENVIRONMENT,
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",  # results are tiny: there is nothing to spill
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
}

END_OF_JOB = (
    # Asked of SLURM, not computed from the walltime: partitions have limits of their own, and jobs wait to begin.
    'export DASK_CHUNKFLOW__END_TIME="${SLURM_JOB_END_TIME:-$(date -d '
    '"$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e)" +%s 2>/dev/null || true)}"'
)


def slurm_engine(pool: Pool, profile: Profile, *, device: str = "cpu", patience: Patience | None = None) -> DaskEngine:
    """An engine on jobs that are like `pool`. None is submitted before the first unit.

    Raises
    ------
    UsageError : dask-jobqueue or SLURM is missing, or SLURM refuses such a job.
    """
    cluster = _cluster(pool, profile)
    try:
        _try_out(cluster.job_script())
    except BaseException:
        cluster.close()
        _drop_certificates(cluster)
        raise
    keeper = Jobs(cluster, pool)
    client = Client(cluster, set_as_default=False)
    # Jobs are given up by `Jobs`, which asks SLURM, not by how long a worker of them has been missing.
    give_up = workers_awaited()

    def close() -> None:
        client.close()
        with suppress(TimeoutError):
            cluster.close(timeout=COMMAND_SECONDS)
        give_up()
        _drop_certificates(cluster)

    return DaskEngine(client, device=device, owned=close, patience=patience, keeper=keeper)


def _drop_certificates(cluster: Any) -> None:
    """dask-jobqueue leaves the files with its keys to the collector of garbage."""
    for name in ("cert", "key", "ca_file"):
        file = getattr(cluster, f"_job_{name}", None)
        if file is not None:
            file.close()


def job_script(pool: Pool, profile: Profile) -> str:
    """The script of one job, with a place-holder for the scheduler's address."""
    from dask_jobqueue.slurm import SLURMJob

    options = _job_options(pool, profile)
    with _quiet():
        script: str = SLURMJob("tls://SCHEDULER:PORT", name="chunkflow", config_name="slurm", **options).job_script()
    return script


class Jobs:
    """Keeps as many jobs as there are blocks for. See `chunkflow.run.flight.Keeper`."""

    def __init__(
        self,
        cluster: Any,
        pool: Pool,
        *,
        states: Callable[[], dict[str, str] | None] | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._cluster = cluster
        self._pool = pool
        self._states = states or job_states
        self._look_seconds = look_seconds
        self._next_look = 0.0
        self._fruitful: set[str] = set()
        self._barren = 0
        self._queued = False
        self._idle = Since()

    def tend(self, units: int, members: Members) -> None:
        """See `Keeper`."""
        if monotonic() < self._next_look:
            return
        self._next_look = monotonic() + self._look_seconds
        names = [str(facts.get("name", "")) for facts in members.values()]
        jobs = dict(self._cluster.workers)
        self._fruitful |= {job for job in jobs if any(_is_of(name, job) for name in names)}
        states = self._states()
        if states is not None:  # else SLURM does not answer at the moment
            self._queued = any(states.get(str(job.job_id)) in ("PENDING", "CONFIGURING") for job in jobs.values())
            for name in [n for n, job in jobs.items() if job.job_id and str(job.job_id) not in states]:
                self._count_ended(name)
                self._forget(name)
        self._scale(self._pool.jobs_for(units), names)

    def expects_workers(self) -> bool:
        """See `Keeper`."""
        return self._queued

    def evict(self, name: str) -> None:
        """See `Keeper`: cancels the whole job."""
        for job in [job for job in dict(self._cluster.workers) if _is_of(name, job)]:
            log.warning("job %s is cancelled: its worker %s cannot be ended", job, name)
            with suppress(OSError, subprocess.SubprocessError):
                _slurm("scancel", str(self._cluster.workers[job].job_id))
            self._forget(job)

    def _count_ended(self, name: str) -> None:
        log.warning("job %s (%s) has ended and is replaced", self._cluster.workers[name].job_id, name)
        self._barren = 0 if name in self._fruitful else self._barren + 1
        if self._barren >= BARREN_JOBS:
            raise ClusterError(
                f"{self._barren} jobs have ended before a worker of them came; the last was "
                f"{self._cluster.workers[name].job_id}{_last_words(self._cluster, name)}",
                f"Look at the logs of the jobs, and at their script with --print-job. {RESUME}",
            )

    def _forget(self, name: str) -> None:
        self._fruitful.discard(name)
        self._cluster.worker_spec.pop(name, None)
        self._cluster.workers.pop(name, None)

    def _scale(self, wanted: int, names: list[str]) -> None:
        have = len(self._cluster.worker_spec)
        if wanted > have or (wanted == have and len(self._cluster.workers) < have):  # or sbatch failed for some
            self._cluster.scale(jobs=wanted)
        if self._idle.seconds(wanted < have) > IDLE_SECONDS:
            idle = [job for job in self._cluster.worker_spec if not self._is_busy(job)][: have - wanted]
            log.info("%d jobs are not needed any more", len(idle))
            self._cluster.scale_down(idle)

    def _is_busy(self, job: str) -> bool:
        workers = list(self._cluster.scheduler.workers.values())
        return any(worker.processing for worker in workers if _is_of(str(worker.name), job))


def job_states() -> dict[str, str] | None:
    """State of each job of this user by its number, those that have ended left out; None where SLURM does not say."""
    try:
        lines = _slurm("squeue", "--me", "--noheader", "--format=%A %T").splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("squeue does not answer: %s", error)
        return None
    states = dict(line.split(maxsplit=1) for line in lines if " " in line)
    ended = ("COMPLETED", "COMPLETING", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED")
    return {job: state for job, state in states.items() if state not in ended}


def _cluster(pool: Pool, profile: Profile) -> Any:
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise UsageError(
            f"--on slurm needs dask-jobqueue ({error})", "pip install 'chunkflow-engine[cluster]'"
        ) from error
    profile.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    scheduler: dict[str, Any] = {"dashboard": can_draw(), "dashboard_address": ADDRESS, "port": 0}
    if pool.interface is not None:
        scheduler["interface"] = pool.interface
    with _quiet(), dask.config.set({"distributed.scheduler.allowed-failures": 2}):
        return SLURMCluster(
            n_workers=0,
            security=None if profile.insecure else Security.temporary(),
            shared_temp_directory=str(profile.folder),
            scheduler_options=scheduler,
            silence_logs=logging.CRITICAL,
            **_job_options(pool, profile),
        )


def _job_options(pool: Pool, profile: Profile) -> dict[str, Any]:
    workers = pool.processes
    extra = ["--preload", "chunkflow.run.drain", "--no-dashboard"]
    if pool.gpus > 1:
        extra += ["--preload-nanny", "chunkflow.run.drain"]  # a GPU for each
    settings = {**ENVIRONMENT, "DASK_CHUNKFLOW__DRAIN_SECONDS": f"{pool.drain_seconds:g}"}
    directives = [*([f"--gres={pool.gres}"] if pool.gres else []), *pool.directives]
    skip = [*pool.skip, *([] if pool.walltime else ["#SBATCH -t "])]
    return {
        "cores": workers * THREADS,
        "processes": workers,
        "job_cpu": pool.cores,
        "memory": f"{pool.memory_bytes}B",
        "queue": pool.partition,
        "account": pool.account,
        "walltime": pool.walltime or "00:00:00",
        "interface": pool.interface,
        "python": pool.python,
        "local_directory": pool.local_directory,
        "log_directory": str(profile.folder / "logs"),
        "job_name": "chunkflow",
        "job_extra_directives": directives,
        "job_directives_skip": skip,
        "job_script_prologue": [
            *(f"export {name}={shlex.quote(value)}" for name, value in settings.items()),
            END_OF_JOB,
            *pool.prologue,
        ],
        "worker_extra_args": extra,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what dask-jobqueue says of certificates in memory, which are meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _try_out(script: str) -> None:
    """Let SLURM look at a job's script without submitting it."""
    with tempfile.NamedTemporaryFile("w", suffix=".sh", prefix="chunkflow-") as file:
        file.write(script)
        file.flush()
        try:
            _slurm("sbatch", "--test-only", file.name)
        except FileNotFoundError as error:
            raise UsageError(f"there is no SLURM here ({error})", "Run this where sbatch works") from error
        except subprocess.CalledProcessError as error:
            said = " ".join(str(error.stderr or error.stdout).split())
            raise UsageError(f"SLURM refuses such jobs: {said}", "Change the profile; see --print-job") from error
        except subprocess.SubprocessError as error:
            raise ClusterError(f"sbatch does not answer ({error})", "Try again when SLURM does") from error


def _slurm(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    return done.stdout


def _is_of(worker: str, job: str) -> bool:
    """Whether a worker is of a job: it has the job's name, with a number where the job has several."""
    return worker == job or worker.rpartition("-")[0] == job


def _last_words(cluster: Any, name: str) -> str:
    """The last line that a job wrote to its log, where it can be read from here."""
    job = cluster.workers[name]
    path = Path(str(job.log_directory), f"{job.job_name}-{job.job_id}.err")
    with suppress(OSError, UnicodeDecodeError):
        lines = path.read_text().split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f", which said {said[-1][:200]!r} in {path}" if said else f" (log: {path})"
    return f" (log: {path})"
