"""Runs one plan again and again, killed with SIGKILL each time at the next of a list of moments; then once to its end.

    python killed_runs.py '{"source": ..., "output": ..., "pipeline": {...}, "moments": [["torn", "label"], ...], ...}'

Each run is a fork of this process, so that only the first pays for the imports. Prints a JSON line per run: how it
ended, and what `status` says afterwards.

    unit PASS     the line of half of the pass's units is in the journal
    torn PASS     half of the line of that unit is
    record PASS   the unit's arrays are written, its record is not
    line EVENT    the first line of that event is in the journal
    publish N     N folders or files were renamed or deleted while the result is put in its place
"""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chunkflow as cf
from chunkflow.backend import compute_kind, find_device
from chunkflow.run import journal, publish, worker
from chunkflow.run.status import status


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _half(units: int) -> int:
    return max(1, units // 2)


def _kill_at(kind: str, what: str, plan: cf.Plan) -> Callable[[Any], None]:
    """Arrange for this process to die; returns a listener for the run's events."""
    seen = 0

    def happens(last: int) -> bool:
        nonlocal seen
        seen += 1
        return seen == last

    units = {p.name: p.units for p in plan.passes}
    if kind == "unit":
        return lambda e: _die() if e["event"] == "unit" and e["pass"] == what and happens(_half(units[what])) else None
    if kind in ("torn", "line"):
        append = journal.Journal.append

        def append_and_die(self: journal.Journal, event: str, **facts: Any) -> None:
            if kind == "line":
                append(self, event, **facts)
                if event == what:
                    _die()
                return
            name = next((n for n, f in plan.fingerprints(_kind()).items() if f == facts.get("pass")), "")
            if event == "unit" and name == what and happens(_half(units[what])):
                self._file.write(b'01234567 {"event": "unit", "pass": "')
                self._file.flush()
                _die()
            append(self, event, **facts)

        journal.Journal.append = append_and_die  # type: ignore[method-assign]
    if kind == "record":
        write = worker.write_record

        def write_or_die(path: Path, arrays: Any) -> int:
            name = path.relative_to(plan.output / "run" / "records").parts[0][:-17]
            if name == what and happens(_half(units[what])):
                _die()
            return write(path, arrays)

        worker.write_record = write_or_die
    if kind == "publish":
        publish_whole = publish.publish

        def publish_and_die(*arguments: Any) -> None:
            for owner, name in ((Path, "rename"), (Path, "replace"), (shutil, "rmtree")):
                setattr(owner, name, _dying(getattr(owner, name), lambda: happens(int(what))))
            publish_whole(*arguments)

        publish.publish = publish_and_die
        assert publish.shutil is shutil
    return lambda event: None


def _dying(function: Any, is_last: Callable[[], bool]) -> Any:
    def called(*arguments: Any, **options: Any) -> Any:
        found = function(*arguments, **options)
        if is_last():
            _die()
        return found

    return called


def _kind() -> str:
    return compute_kind(find_device("cpu"))


def _run(task: dict[str, Any], moment: list[str] | None) -> None:
    pipeline = cf.Pipeline.from_dict(task["pipeline"])
    plan = pipeline.plan(task["source"], task["output"], block=tuple(task["block"]))
    listener = _kill_at(*moment, plan) if moment else None
    plan.run(on=task["on"], workers=task["workers"], on_event=listener)


def main() -> None:
    task = json.loads(sys.argv[1])
    for moment in [*task["moments"], None]:
        child = os.fork()
        if child == 0:
            try:
                _run(task, moment)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = status(task["output"]).to_dict() if Path(task["output"], "run").is_dir() else None
        print(json.dumps({"moment": moment, "ended": ended, "status": found}), flush=True)
        if ended not in (0, -signal.SIGKILL):
            return


if __name__ == "__main__":
    main()
