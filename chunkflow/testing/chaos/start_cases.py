"""Cases of runs that start, stop and are killed at the wrong moment: P2 kills, P6 starts at once, zombies."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from chunkflow.run.status import status
from chunkflow.testing.chaos import world
from chunkflow.testing.chaos.matrix import Case

STARTS = 20
GRACE = 60.0


def _cases() -> list[Case]:
    found = [
        Case(
            promise="P2", name="4 kills of the group, workers are processes", run=partial(_group_kills, "local", 4, 1)
        ),
        Case(promise="P2", name="6 kills of the group, serial", run=partial(_group_kills, "serial", 6, 2)),
        Case(
            promise="P2",
            name="10 kills of the group, threads",
            run=partial(_group_kills, "threads", 10, 3),
            quick=False,
        ),
        Case(
            promise="P2",
            name="10 kills of the group, workers are processes",
            run=partial(_group_kills, "local", 10, 4),
            quick=False,
        ),
        Case(promise="P6", name=f"{STARTS} starts at once", run=_starts_at_once),
        Case(promise="P6", name="a start beside a stopped run, then after its death", run=_beside_a_stopped_run),
        Case(promise="P6", name="the output is deleted under a run and begun anew", run=_deleted_under_a_run),
    ]
    return found


RUNNER = """
import json, sys
from pathlib import Path
from chunkflow.testing.chaos import world
task = json.loads(sys.argv[1])
plan = world.planned(world.long_pipeline(), Path(task["source"]), Path(task["output"]))
world.run(plan, on=task["on"], workers=2)
"""


def _group_kills(on: str, kills: int, seed: int, folder: Path) -> int:
    """The whole process group is killed at random moments, again and again, then left alone."""
    rng, source, output, fired = random.Random(seed), world.source_in(folder), folder / "out", 0
    task = json.dumps({"source": str(source), "output": str(output), "on": on})
    longest = 6.0
    while fired < kills:
        began = time.monotonic()
        run = subprocess.Popen([sys.executable, "-c", RUNNER, task], start_new_session=True, stderr=subprocess.DEVNULL)
        wait = rng.uniform(1.0, longest)
        try:
            code = run.wait(wait)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            fired += 1
            if output.exists():
                assert status(output).state in ("killed", "complete", "not started")
            continue
        assert code == 0, f"a run after {fired} kills ended with {code}"
        world.check_equal(output, world.clean_hash(long=True))
        longest = max(1.2, min(longest, time.monotonic() - began))
        shutil.rmtree(output)  # it was faster than the kill: begin anew
    ended = subprocess.run([sys.executable, "-c", RUNNER, task], check=False, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()[-500:]
    world.check_equal(output, world.clean_hash(long=True))
    return fired


STARTER = """
import os, sys, time
from pathlib import Path
from chunkflow.errors import ChunkflowError
from chunkflow.testing.chaos import world
source, output, marks, count = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
children = []
for number in range(count):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            plan = world.planned(world.short_pipeline(), source, output)
            (marks / f"ready-{number}").touch()
            until = time.monotonic() + 120
            while len(list(marks.glob("ready-*"))) < count and time.monotonic() < until:
                time.sleep(0.005)
            def wait_for_the_others(event):
                if event["event"] == "plan":
                    (marks / f"won-{number}").touch()
                    while len(list(marks.glob("ended-*"))) < count - 1 and time.monotonic() < until:
                        time.sleep(0.01)
            world.run(plan, on_event=wait_for_the_others)
            code = 0
        except ChunkflowError as error:
            code = error.exit_code
        finally:
            (marks / f"ended-{number}").touch()
            os._exit(code)
    children.append(child)
print(*[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def _starts_at_once(folder: Path) -> int:
    """One wins, the others end with 5, and the winner's result is whole."""
    source, marks = world.source_in(folder), folder / "marks"
    marks.mkdir()
    command = [sys.executable, "-c", STARTER, str(source), str(folder / "out"), str(marks), str(STARTS)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    codes = [int(code) for code in ran.stdout.split()]
    assert sorted(codes) == [0] + [5] * (STARTS - 1), f"{codes} {ran.stderr[-500:]}"
    assert len(list(marks.glob("won-*"))) == 1
    world.check_equal(folder / "out", world.clean_hash())
    return STARTS


STOPPER = """
import os, signal, sys
from pathlib import Path
from chunkflow.testing.chaos import world
def stop(event):
    if event["event"] == "unit" and event["pass"] == "label" and event["done"] == 4:
        print("stopped", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
plan = world.planned(world.short_pipeline(), Path(sys.argv[1]), Path(sys.argv[2]))
world.run(plan, on_event=stop)
"""


def _stopped_run(source: Path, output: Path) -> subprocess.Popen[str]:
    run = subprocess.Popen(
        [sys.executable, "-c", STOPPER, str(source), str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "stopped\n"
    return run


def _beside_a_stopped_run(folder: Path) -> int:
    source, output = world.source_in(folder), folder / "out"
    run = _stopped_run(source, output)
    plan = world.planned(world.short_pipeline(), source, output)
    try:
        error = world.run_or_error(plan)
        assert getattr(error, "exit_code", 0) == 5, f"a second run started: {error!r}"
        assert str(run.pid) in str(error), "the one that runs is not named"
        assert status(output).state == "running"
    finally:
        run.kill()
        run.communicate()
    assert status(output).state == "killed"
    world.check_ends_well(plan, world.clean_hash(), runs=1)
    return 2


def _deleted_under_a_run(folder: Path) -> int:
    """The first run wakes up in a folder that another one has begun, and leaves it alone."""
    source, output = world.source_in(folder), folder / "out"
    run = _stopped_run(source, output)
    try:
        shutil.rmtree(output)
        plan = world.planned(world.short_pipeline(), source, output)
        assert isinstance(world.run_or_error(plan, on_event=world.Interrupts("relabel", 3)), KeyboardInterrupt)
        before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
        run.send_signal(signal.SIGCONT)
        run.communicate(timeout=GRACE)
        assert run.returncode not in (0, None), "a run whose output was deleted ended well"
        after = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
        assert after == before, f"it wrote {sorted(str(p) for p in after.keys() ^ before.keys())[:3]}"
    finally:
        run.kill()
        run.communicate()
    world.check_ends_well(plan, world.clean_hash(), runs=1)
    return 1


CASES = _cases()
