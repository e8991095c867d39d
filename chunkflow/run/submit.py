"""The driver as a job of its own, so that no terminal has to stay open through the night.

The job runs `chunkflow run` with the same words, on workers that it asks for itself. It is requeued when its node dies
or its walltime ends: the same command goes on where it stopped, and a run that is complete computes nothing.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chunkflow.errors import UsageError
from chunkflow.run.profiles import Profile

STOP_SECONDS = 120  # before the walltime, SLURM tells the driver to stop, which then asks to be queued again
REQUEUES = 3  # after a cluster that was lost
FOLLOW = """
driver=$!
# Shortly before the walltime the driver stops in good order, and the job queues up again: the same command goes on.
trap 'again=1; kill -TERM "$driver"' USR1
trap 'kill -TERM "$driver"' TERM INT
while kill -0 "$driver" 2> /dev/null; do wait "$driver"; done  # a trap ends a wait, and the driver may end by a signal
wait "$driver"
code=$?
[ "$code" = 7 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {times} ] && again=1  # the cluster was lost
if [ "${{again:-}}" = 1 ] && [ "$code" != 0 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""

REMEDY = "Run this where sbatch works, or write the script with --print-job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """What the driver's job takes; it computes nothing but merges of a single block. walltime : as in a profile"""

    cores: int = 1
    memory: str = "4G"
    walltime: str = "7-00:00:00"


def driver_script(command: Sequence[str], profile: Profile, driver: Driver, *, folder: Path) -> str:
    """The script of the job.

    command : words after `chunkflow run`; folder : where they hold, for relative paths
    """
    pool = profile.cpu or profile.gpu
    if profile.scheduler != "slurm" or pool is None:
        raise UsageError(
            f"profile {profile.name} is of {profile.scheduler}, submit is for SLURM",
            "On Kubernetes, apply deploy/kubernetes/driver.yaml",
        )
    logs = profile.folder / "logs"
    header = {
        "job-name": "chunkflow-driver",
        "output": f"{logs}/driver-%j.out",
        "partition": pool.partition,
        "account": pool.account,
        "ntasks": 1,
        "cpus-per-task": driver.cores,
        "mem": driver.memory,
        "time": driver.walltime,
        "open-mode": "append",
        "signal": f"B:USR1@{STOP_SECONDS}",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in header.items() if value]
    lines = [line for line in [*lines, "#SBATCH --requeue"] if not any(word in line for word in pool.skip)]
    program = Path(pool.python or sys.executable).with_name("chunkflow")
    words = shlex.join([str(program), "run", *command])
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            *lines,
            *(f"#SBATCH {directive}" for directive in pool.directives),
            *pool.prologue,
            f"cd {shlex.quote(str(folder))}",
            f"{words} &",
            FOLLOW.strip().format(times=REQUEUES),
            "",
        ]
    )


def submit(script: str, profile: Profile) -> str:
    """Hand a script to SLURM. Returns the number of the job.

    Raises
    ------
    UsageError : SLURM is missing, or refuses it.
    """
    (profile.folder / "logs").mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        done = subprocess.run(["sbatch"], input=script, capture_output=True, text=True, check=True, timeout=60)
    except FileNotFoundError as error:
        raise UsageError(f"there is no SLURM here ({error})", REMEDY) from error
    except subprocess.CalledProcessError as error:
        raise UsageError(f"SLURM refuses the job: {' '.join(error.stderr.split())}", REMEDY) from error
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"sbatch did not answer in {error.timeout:g} s", "Try again when SLURM does") from error
    found = re.search(r"\d+", done.stdout)
    if found is None:
        raise UsageError(f"sbatch said {done.stdout!r}, and no number of a job", REMEDY)
    return found.group()
