"""Whole runs on a real S3 protocol that refuses, delays and cuts lines, killed and resumed: bytes of a local run."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import AccessError, InputChangedError, OutputInUseError, UsageError
from chunkflow.report import speed
from chunkflow.report.facts import RunFacts
from chunkflow.run import journal as journals
from chunkflow.run import owner, publish
from chunkflow.run.driver import run_plan
from chunkflow.run.journal import Journal, forget_journal
from chunkflow.run.lock import OutputLock, is_locked
from chunkflow.run.status import status
from chunkflow.storage import retry
from chunkflow.storage.stores import ObjectPath
from chunkflow.testing.object_store import (
    ENVIRONMENT,
    PASS,
    SECRET,
    Answer,
    Asked,
    Proxy,
)

pytestmark = pytest.mark.thorough

SCRIPT = Path(__file__).with_name("s3_runs.py")
BLOCK = (24, 24, 24)


@pytest.fixture(scope="module")
def runs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("s3_runs", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    arguments, sys.argv = sys.argv, sys.argv[:1]
    spec.loader.exec_module(module)
    sys.argv = arguments
    return module


@pytest.fixture
def bucket(bucket: ObjectPath, tiny_volume: Path) -> ObjectPath:
    """A bucket with the input at data/in.ome.zarr."""
    for path in tiny_volume.rglob("*"):
        if path.is_file():
            (bucket / "data/in.ome.zarr" / path.relative_to(tiny_volume).as_posix()).upload(path)
    retry.take_counts()
    return bucket


@pytest.fixture(scope="module")
def local(runs: ModuleType, tiny_volume: Path, tmp_path_factory: pytest.TempPathFactory, tree_hash: Any) -> Any:
    """(smooth_um) -> digests of the files of a local run that nobody disturbed."""
    known: dict[float, dict[str, str]] = {}

    def hashes(smooth_um: float = 0.06) -> dict[str, str]:
        if smooth_um not in known:
            output = tmp_path_factory.mktemp("local") / "out"
            run_plan(runs.pipeline(smooth_um).plan(tiny_volume, output, block=BLOCK), on="serial", report=False)
            known[smooth_um] = tree_hash(output)
        return known[smooth_um]

    return hashes


def hashes_of(output: ObjectPath) -> dict[str, str]:
    found = {str(path.relative_to(output)): path for path, _ in output.walk()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sorted(found.items())
        if not name.startswith("run/") and name != "report.html"
    }


def plan_of(runs: ModuleType, bucket: ObjectPath, smooth_um: float = 0.06, out: str = "out") -> cf.Plan:
    plan: cf.Plan = runs.pipeline(smooth_um).plan(str(bucket / "data/in.ome.zarr"), str(bucket / out), block=BLOCK)
    return plan


def in_process(bucket: ObjectPath, **task: Any) -> subprocess.Popen[str]:
    task = {"input": str(bucket / "data/in.ome.zarr"), "output": str(bucket / "out"), **task}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(SCRIPT), json.dumps(task)], env=environment, **pipes)


def ended(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]], str]:
    out, err = process.communicate(timeout=150)
    return process.returncode, [json.loads(line) for line in out.splitlines() if line.startswith("{")], err


def every(**rules: int) -> Callable[[Asked], Answer]:
    """Refuse, lose or delay every n-th request."""

    def rule(asked: Asked) -> Answer:
        if asked.number % rules.get("refuse", 10**9) == 0:
            return Answer(503)
        if asked.number % rules.get("lose", 10**9) == 0:
            return Answer(lost=True)
        return Answer(delay=0.3) if asked.number % rules.get("delay", 10**9) == 0 else PASS

    return rule


def test_a_run_whose_worker_is_killed_on_a_store_that_refuses_and_delays_is_a_local_run(
    bucket: ObjectPath, proxy: Proxy, local: Any
) -> None:
    proxy.rule = every(refuse=9, lose=83, delay=37)
    code, said, err = ended(in_process(bucket, on="local", worker_at=12))
    assert code == 0, err
    assert "killed" in said[0]
    assert proxy.counts["refused"] > 50
    proxy.rule = lambda asked: PASS
    assert hashes_of(bucket / "out") == local()
    assert status(str(bucket / "out")).state == "complete"


def test_a_driver_killed_again_and_again_leaves_the_bytes_of_a_local_run(
    bucket: ObjectPath, proxy: Proxy, local: Any
) -> None:
    proxy.rule = every(refuse=31, lose=97)
    for moment in ({"units": 5}, {"units": 20}, {"copied": 1}, {"copied": 3}):
        code, _, err = ended(in_process(bucket, **moment))
        assert code == -signal.SIGKILL, err
        assert not is_locked(bucket / "out" / "run")  # its process has ended on this machine
        assert status(str(bucket / "out")).state == "killed"
    code, _, err = ended(in_process(bucket))
    assert code == 0, err
    assert hashes_of(bucket / "out") == local()
    left = {path.parts[-5] for path, _ in (bucket / "out/run/arrays").walk() if path.name.isdecimal()}
    assert not left & {"image", "labels", "skeleton"}


def test_publishing_that_was_killed_anywhere_is_finished_by_doing_it_again(bucket: ObjectPath) -> None:
    names = ["zarr.json", "c/0/0/0", "c/0/0/1"]
    for done in range(14):  # requests that delete or copy, as far as the first attempt comes
        staged, target = bucket / f"{done}/staged", bucket / f"{done}/target"
        for name in names:
            (staged / name).write_bytes(f"new {name}".encode())
        for name in (*names, "c/0/1/0"):
            (target / name).write_bytes(f"old {name}".encode())
        left = iter(range(done))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ObjectPath, "unlink", _until(left, ObjectPath.unlink))
            patch.setattr(ObjectPath, "copy_to", _until(left, ObjectPath.copy_to))
            patch.setattr(publish, "remove_tree", _remove_tree)
            patch.setattr(publish, "remove_files", _remove_files)
            with contextlib.suppress(InterruptedError):
                publish._copy(staged, target)
        publish._copy(staged, target)
        found = {str(path.relative_to(target)): path.read_bytes() for path, _ in target.walk()}
        assert found == {name: f"new {name}".encode() for name in names}
        assert not staged.exists()


def _remove_tree(folder: ObjectPath) -> None:
    """One by one, where the real one deletes a thousand at once."""
    for path, _ in list(folder.walk()):
        path.unlink()


def _remove_files(folder: ObjectPath, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).unlink()


def _until(left: Iterator[int], function: Any) -> Any:
    """The function, which fails once nothing is left."""

    def limited(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise InterruptedError
        return function(*arguments)

    return limited


def test_of_two_drivers_at_once_exactly_one_writes(bucket: ObjectPath, local: Any) -> None:
    both = [in_process(bucket), in_process(bucket)]
    ends = [ended(process) for process in both]
    assert sorted(code for code, _, _ in ends) == [0, OutputInUseError.exit_code], [err for *_, err in ends]
    (said,) = [said[-1]["error"] for code, said, _ in ends if code]
    assert f"another run writes {bucket / 'out'}" in said
    assert hashes_of(bucket / "out") == local()


def test_a_driver_that_was_taken_over_is_stopped_at_its_next_line(
    bucket: ObjectPath, local: Any, monkeypatch: pytest.MonkeyPatch, runs: ModuleType
) -> None:
    stale = in_process(bucket, units=10, pause=6)
    assert stale.stdout is not None
    assert "paused" in stale.stdout.readline()
    with pytest.raises(OutputInUseError, match="can be taken over in"):
        run_plan(plan_of(runs, bucket), on="serial", report=False)
    monkeypatch.setattr(owner, "EXPIRY_SECONDS", -1.0)
    run_plan(plan_of(runs, bucket), on="serial", report=False)
    code, said, err = ended(stale)
    assert code == OutputInUseError.exit_code, (said, err)
    assert "another run has taken" in said[-1]["error"]
    assert hashes_of(bucket / "out") == local()
    assert status(str(bucket / "out")).state == "complete"


def test_only_one_of_two_journals_goes_on(bucket: ObjectPath) -> None:
    path = bucket / "out/run/journal.jsonl"
    first = Journal.open(path)
    first.append("start", time=1.0)
    second = Journal.open(path)
    second.append("start", time=2.0)
    with pytest.raises(OutputInUseError, match="has taken .* over"):
        first.append("end", code=0)
    first.close()
    second.append("end", code=3)
    found = Journal.read(path)
    assert [start["time"] for start in found.starts] == [1.0, 2.0]
    assert found.ended is not None and found.ended["code"] == 3


def test_a_journal_that_begins_anew_leaves_no_number_to_a_stale_driver(bucket: ObjectPath) -> None:
    path = bucket / "out/run/journal.jsonl"
    stale = Journal.open(path)
    stale.append("start", time=1.0)
    forget_journal(path)
    again = Journal.open(path)
    assert again.starts == []
    again.append("start", time=2.0)
    with pytest.raises(OutputInUseError):
        stale.append("end", code=0)
    assert [start["time"] for start in Journal.read(path).starts] == [2.0]


def test_units_are_put_in_batches_and_a_kill_loses_only_those_that_were_not(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SYNC_SEGMENTS", (4, 5.0))
    path = bucket / "out/run/journal.jsonl"
    journal = Journal.open(path)
    for unit in range(10):
        journal.append("unit", **{"pass": "p", "unit": unit}, objects=[1], record=1)
    assert sorted(Journal.read(path).state("p").done) == list(range(8))
    journal.close()
    assert sorted(Journal.read(path).state("p").done) == list(range(10))
    assert len(list(path.walk())) == 3
    (path / "00000002").unlink()
    with pytest.raises(Exception, match="segments of the journal .* are missing"):
        Journal.read(path)


def test_an_output_is_taken_over_when_it_was_not_renewed_and_not_before(
    bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bucket / "out/run"
    elsewhere = {"machine": "another", "space": "machine", "process": 1, "began": 0.0}
    monkeypatch.setattr(owner, "_here", lambda: elsewhere)
    with OutputLock(run):
        monkeypatch.undo()
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        assert is_locked(run)
        with pytest.raises(OutputInUseError, match=r"another run writes .*\"machine\": \"another\".* taken over in"):
            OutputLock(run).__enter__()
        monkeypatch.setattr(owner, "EXPIRY_SECONDS", 0.0)
        with OutputLock(run):
            monkeypatch.setattr(owner, "EXPIRY_SECONDS", 300.0)
            assert is_locked(run)  # and the first one gives nothing back that is not its own
    assert not is_locked(run)
    with OutputLock(run):
        assert is_locked(run)


def test_a_hold_is_renewed_while_the_run_goes_on(bucket: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "BEAT_SECONDS", 0.05)
    run = bucket / "out/run"
    with OutputLock(run):
        tags = set()
        while len(tags) < 4:
            stamp = (run / "lock").stamp()
            assert stamp is not None
            tags.add(stamp.tag)


def test_a_store_that_ignores_conditions_is_refused_before_anything_is_written(
    bucket: ObjectPath, proxy: Proxy, runs: ModuleType
) -> None:
    proxy.rule = lambda asked: Answer(without=("if-none-match", "if-match"))
    with pytest.raises(UsageError, match="ignores conditional puts"):
        run_plan(plan_of(runs, bucket), on="serial", report=False)
    assert not (bucket / "out").exists()


@pytest.mark.parametrize("what", ["deleted", "truncated"])
def test_an_object_lost_between_two_runs_is_healed(bucket: ObjectPath, runs: ModuleType, local: Any, what: str) -> None:
    run_plan(plan_of(runs, bucket), on="serial", report=False)
    labels = bucket / "out/image.ome.zarr/labels/objects/0"
    chosen = max((path for path, _ in (labels / "c").walk()), key=lambda path: path.size() or 0)
    content = chosen.read_bytes()
    chosen.unlink() if what == "deleted" else chosen.write_bytes(content[:-7])
    assert status(str(bucket / "out")).state == "damaged"
    run_plan(plan_of(runs, bucket), on="serial", report=False)
    assert hashes_of(bucket / "out") == local()


def test_a_changed_parameter_replaces_the_result_and_a_restart_computes_it_anew(
    bucket: ObjectPath, runs: ModuleType, local: Any
) -> None:
    run_plan(plan_of(runs, bucket), on="serial", report=False)
    code, _, err = ended(in_process(bucket, smooth_um=0.15, copied=2))
    assert code == -signal.SIGKILL, err
    result = run_plan(plan_of(runs, bucket, 0.15), on="serial", report=False)
    assert hashes_of(bucket / "out") == local(0.15) != local()
    assert len(result.objects) == int(np.max(result.labels[:])) > 0
    assert result.graph.number_of_nodes() == len(result.nodes)
    run_plan(plan_of(runs, bucket), on="serial", restart=True, report=False)
    assert hashes_of(bucket / "out") == local()


def test_an_input_that_changed_in_the_store_is_refused(bucket: ObjectPath, runs: ModuleType) -> None:
    code, _, err = ended(in_process(bucket, units=5))
    assert code == -signal.SIGKILL, err
    chosen = next(path for path, _ in (bucket / "data/in.ome.zarr/0/c").walk())
    chosen.write_bytes(chosen.read_bytes() + b"x")
    with pytest.raises(InputChangedError, match="was rewritten"):
        run_plan(plan_of(runs, bucket), on="serial", report=False)


def test_a_store_that_refuses_is_named_with_the_remedy_and_ends_the_run(
    bucket: ObjectPath, proxy: Proxy, runs: ModuleType
) -> None:
    plan = plan_of(runs, bucket)
    proxy.rule = lambda asked: Answer(403, "AccessDenied") if "/in.ome.zarr/0/c" in asked.path else PASS
    with pytest.raises(AccessError, match=r"status 403, AccessDenied\)\. Check the credentials in the environment"):
        run_plan(plan, on="serial", report=False)
    with pytest.raises(AccessError):
        plan_of(runs, bucket)


def test_requests_are_counted_as_the_store_saw_them_and_no_credential_is_left_or_said(
    bucket: ObjectPath, proxy: Proxy, runs: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    seen: list[str] = []
    before = proxy.counts["all"]
    proxy.rule = every(refuse=13)  # whose bodies hold the secret
    heard: Any = {"on_event": lambda event: seen.append(str(event)), "report": False}
    result = run_plan(plan_of(runs, bucket), on="threads", workers=2, **heard)
    proxy.rule = lambda asked: PASS
    everything = proxy.counts["all"] - before
    total: dict[str, int] = {}
    for state in Journal.read(bucket / "out/run/journal.jsonl").passes.values():
        total = retry.added(total, state.all_requests)
    asked = sum(total.get(kind, 0) for kind in retry.KINDS)
    assert 0.4 * everything < asked <= everything  # the rest: publishing and the report
    assert 0 < total["retries"] <= proxy.counts["refused"]
    assert total["bytes_written"] > 0 < total["bytes_read"]
    assert "Requests to object stores: " in speed._requests(RunFacts(result))
    left = b"".join(path.read_bytes() for path, _ in (bucket / "out").walk())
    for secret in (SECRET, ENVIRONMENT["AWS_ACCESS_KEY_ID"]):
        assert secret.encode() not in left
        assert secret not in caplog.text + "".join(seen)


def test_a_local_run_makes_no_request_and_its_journal_says_nothing_of_them(
    tiny_volume: Path, tmp_path: Path, runs: ModuleType
) -> None:
    retry.take_counts()
    run_plan(runs.pipeline(0.06).plan(tiny_volume, tmp_path / "out", block=BLOCK), on="serial", report=False)
    assert retry.take_counts() == {}
    assert "requests" not in (tmp_path / "out/run/journal.jsonl").read_text()
