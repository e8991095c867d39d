"""status against runs that are going on, killed, interrupted, failed, complete and damaged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkflow.errors import IncompleteError, InputNotFoundError
from chunkflow.plan.pipeline import Pipeline
from chunkflow.plan.plan import Plan
from chunkflow.run.driver import reusable, run_plan
from chunkflow.run.status import PassStatus, Status, status
from chunkflow.stages.label import Label
from chunkflow.stages.threshold import Threshold
from chunkflow.testing.suites import write_volume

KILLED_AT = "label"


def write_image(folder: Path, *, nan_at: tuple[int, int, int] | None = None) -> Path:
    rng = np.random.default_rng(5)
    image = rng.random((20, 33, 35)).astype(np.float32)
    if nan_at:
        image[nan_at] = np.nan
    write_volume(folder, image, (1.0, 1.0, 1.0))
    return folder


def planned(source: Path, output: Path) -> Plan:
    pipeline = Pipeline([Threshold(method="fixed", value=0.9), Label()])
    return pipeline.plan(source, output, block=(16, 16, 32))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_image(tmp_path / "in.ome.zarr")


def run_serially(plan: Plan, **options: Any) -> None:
    run_plan(plan, on="serial", device="cpu", **options)


def pass_of(found: Status, name: str) -> PassStatus:
    return next(p for p in found.passes if p.name == name)


def test_a_folder_without_a_run_is_said_to_hold_none(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="holds no run"):
        status(tmp_path)


def test_a_complete_run_has_every_unit_of_every_pass_done(source: Path, tmp_path: Path) -> None:
    plan = planned(source, tmp_path / "out")
    run_serially(plan)
    found = status(tmp_path / "out")
    assert (found.state, found.code) == ("complete", 0)
    assert [(p.name, p.state, p.units, p.done) for p in found.passes] == [
        (p.name, "done", p.units, p.units) for p in plan.passes
    ]


def test_a_running_pass_is_running_with_the_units_that_are_done(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[Status, int]] = []

    def look(event: Any) -> None:
        if event["event"] == "unit" and event["pass"] == "label" and event["done"] == 3:
            seen.append((status(tmp_path / "out"), event["done"]))

    run_serially(planned(source, tmp_path / "out"), on_event=look)
    ((found, done),) = seen
    assert found.state == "running" and found.code is None
    states = {p.name: p.state for p in found.passes}
    assert (states["scan"], states["label"], states["relabel"]) == ("done", "running", "waiting")
    assert pass_of(found, "label").done == done


def test_an_interrupted_run_says_so_and_names_the_command(source: Path, tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        if event["event"] == "unit" and event["pass"] == "label":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_serially(planned(source, tmp_path / "out"), on_event=interrupt, command="the command")
    found = status(tmp_path / "out")
    assert (found.state, found.code, found.command) == ("interrupted", 130, "the command")
    assert (pass_of(found, "label").state, pass_of(found, "label").done) == ("unknown", 1)


def test_a_failed_unit_is_shown_with_its_coordinates_until_it_is_computed(tmp_path: Path) -> None:
    source = write_image(tmp_path / "in.ome.zarr", nan_at=(17, 2, 3))
    with pytest.raises(IncompleteError):
        run_serially(planned(source, tmp_path / "out"))
    found = status(tmp_path / "out")
    assert (found.state, found.code) == ("failed", 3)
    (failed,) = pass_of(found, "scan").quarantined
    assert pass_of(found, "scan").state == "quarantined"
    assert "(17, 2, 3)" in failed.error and "16:20" in failed.core.replace(" ", "")
    assert (failed.kind, failed.attempts, failed.is_hole) == ("NotANumberError", 1, False)
    assert pass_of(found, "label").state == "waiting"


def test_a_killed_run_is_killed_and_then_complete_after_the_same_command(source: Path, tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_status import planned, run_serially
def die(event):
    if event["event"] == "unit" and event["pass"] == {KILLED_AT!r} and event["done"] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
run_serially(planned(Path({str(source)!r}), Path({str(tmp_path / "out")!r})), on_event=die)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=120)
    assert ended.returncode == -signal.SIGKILL
    found = status(tmp_path / "out")
    assert (found.state, found.code) == ("killed", None)
    assert (pass_of(found, KILLED_AT).state, pass_of(found, KILLED_AT).done) == ("unknown", 4)
    run_serially(planned(source, tmp_path / "out"))
    assert status(tmp_path / "out").state == "complete"


def test_a_deleted_file_of_the_result_is_missed_and_healed(source: Path, tmp_path: Path) -> None:
    plan = planned(source, tmp_path / "out")
    run_serially(plan)
    files = sorted((tmp_path / "out" / "image.ome.zarr" / "labels" / "objects" / "0" / "c").rglob("*"))
    next(file for file in files if file.is_file()).unlink()
    found = status(tmp_path / "out")
    assert found.state == "damaged"
    damaged = pass_of(found, "relabel")
    assert (damaged.state, damaged.missing, damaged.done) == ("missing", 1, damaged.units - 1)
    run_serially(plan)
    assert status(tmp_path / "out").state == "complete"


def test_what_would_be_reused_is_what_a_run_reuses(source: Path, tmp_path: Path) -> None:
    plan = planned(source, tmp_path / "out")
    assert reusable(plan, "any") == ()
    run_serially(plan)
    changed = Pipeline([Threshold(method="fixed", value=0.8), Label()]).plan(source, tmp_path / "out")
    assert changed.block == plan.block  # the stored one
    events: list[Any] = []
    kind = json.loads((tmp_path / "out" / "run" / "plan.json").read_text())["kind"]
    promised = reusable(changed, kind)
    run_serially(changed, on_event=events.append)
    assert promised == tuple(event["pass"] for event in events if event["event"] == "reused")
    assert "scan" in promised and "label" not in promised
