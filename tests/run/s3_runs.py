"""One run in a process of its own, for tests that kill it: a JSON task as argument, what happened as lines of JSON.

task : input, output, smooth_um, on; and where it dies: "units" done, or arrays "copied" while it publishes;
    "worker_at": after so many units a worker process is killed instead; "pause": seconds to sleep at that moment
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

import psutil

import chunkflow as cf
from chunkflow.errors import ChunkflowError
from chunkflow.run import publish
from chunkflow.run.driver import run_plan

TASK = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
DONE = {"units": 0, "copied": 0}


def pipeline(smooth_um: float) -> cf.Pipeline:
    stages = [cf.Threshold(smooth_um=smooth_um), cf.Label(min_voxels=20), cf.Skeleton(), cf.Measure()]
    return cf.Pipeline(stages, output=cf.OutputOptions(save=("image", "labels", "skeleton")))


def workers() -> list[psutil.Process]:
    """Of the local cluster: forked from a server, whose command line they have."""

    def is_forked(process: psutil.Process | None) -> bool:
        return process is not None and "multiprocessing.forkserver" in " ".join(process.cmdline())

    return [p for p in psutil.Process().children(recursive=True) if is_forked(p) and is_forked(p.parent())]


def reached(what: str) -> None:
    DONE[what] += 1
    if DONE[what] == TASK.get(what):
        if "pause" in TASK:
            print(json.dumps({"paused": os.getpid()}), flush=True)
            time.sleep(TASK["pause"])
        else:
            os.kill(os.getpid(), signal.SIGKILL)
    if what == "units" and DONE[what] == TASK.get("worker_at"):
        youngest = max(workers(), key=lambda p: p.create_time())
        print(json.dumps({"killed": youngest.pid}), flush=True)
        youngest.kill()


def heard(event: Any) -> None:
    if event["event"] == "unit":
        reached("units")


def main() -> None:
    copy = publish._copy

    def copy_and_tell(*places: Any) -> None:
        copy(*places)
        reached("copied")

    publish._copy = copy_and_tell
    plan = pipeline(TASK.get("smooth_um", 0.06)).plan(TASK["input"], TASK["output"], block=(24, 24, 24))
    try:
        run_plan(plan, on=TASK.get("on", "serial"), workers=2, on_event=heard, report=False)
    except ChunkflowError as error:
        print(json.dumps({"code": error.exit_code, "error": str(error)}), flush=True)
        sys.exit(error.exit_code)
    print(json.dumps({"code": 0}), flush=True)


if __name__ == "__main__":
    main()
