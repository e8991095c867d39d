"""kill -9 of the driver or of a worker in every pass, then the same command: the bytes of an uninterrupted run."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import chunkflow as cf
from chunkflow.backend import compute_kind, find_device
from chunkflow.run.dask import local_engine
from chunkflow.run.engine import SerialEngine
from chunkflow.run.status import status

BLOCK = (24, 24, 24)
SCRIPT = Path(__file__).with_name("killed_runs.py")
PASSES = ["scan", "range", "deconvolve-probe", "deconvolve-check", "deconvolve", "deconvolve-range"]
PASSES += ["resample", "resample-range", "histogram", "threshold"]
PASSES += [
    "label",
    "seams",
    "label-merge",
    "regions-merge",
    "relabel",
    "shortcuts",
    "distance-x",
    "distance-y",
    "distance",
    "thin",
    "residual-1",
    "residual-merge",
    "skeleton",
    "graph-cuts",
    "graph-parts",
    "graph",
    "measure",
    "objects",
    "contacts",
    "networks",
]
TABLES = ("graph", "objects", "contacts", "networks")
MERGES = {
    name
    for name in PASSES
    if name.endswith(("range", "merge", "-check"))
    or name in ("threshold", "shortcuts", "residual-1", "graph-cuts", "graph-parts", *TABLES)
}


@pytest.fixture(scope="module")
def pipeline(demo_pipeline: Callable[..., cf.Pipeline]) -> cf.Pipeline:
    return demo_pipeline(deconvolve={"tile": (16, 32, 32), "halo": (3, 4, 4), "tolerance": 0.1})


@pytest.fixture(scope="module")
def whole(pipeline: cf.Pipeline, tiny_volume: Path, tmp_path_factory: Any) -> Path:
    """The output of an uninterrupted run."""
    output: Path = tmp_path_factory.mktemp("whole") / "out"
    plan = pipeline.plan(tiny_volume, output, block=BLOCK)
    assert [p.name for p in plan.passes] == PASSES
    assert {p.name for p in plan.passes if p.units == 1} == MERGES
    plan.run(on="serial")
    assert status(output).state == "complete"
    return output


def _killed(
    source: Path, output: Path, pipeline: cf.Pipeline, moments: list[list[str]], on: str = "threads"
) -> list[dict[str, Any]]:
    """Run killed at each of the moments in turn and then to the end; what each run left."""
    task = {"source": str(source), "output": str(output), "pipeline": _plain(pipeline), "block": BLOCK}
    task |= {"moments": moments, "on": on, "workers": 2}
    run = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(task)],
        capture_output=True,
        text=True,
        timeout=550,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    ends = [json.loads(line) for line in run.stdout.splitlines()]
    assert [end["moment"] for end in ends] == [*moments, None], run.stderr
    assert [end["ended"] for end in ends] == [-signal.SIGKILL] * len(moments) + [0], run.stderr
    return ends


def _plain(pipeline: cf.Pipeline) -> dict[str, Any]:
    plain = pipeline.to_dict()
    for stage in plain["stages"]:
        if "deconvolve" in stage:
            stage["deconvolve"]["psf"].pop("measured", None)
    return plain


def _check_status(end: dict[str, Any]) -> None:
    """A killed run is said to be killed; what is done comes first, what was not begun last, nothing is missing."""
    found = end["status"]
    if end["moment"] is None:
        assert found["state"] == "complete"
        assert all(p["state"] == "done" and p["done"] == p["units"] for p in found["passes"])
        return
    kind, what = end["moment"]
    assert found["state"] == "killed"
    assert not any(p["missing"] or p["failed"] for p in found["passes"])
    if kind in ("line", "publish"):
        return
    at = PASSES.index(what)
    words = [p["state"] for p in found["passes"]]
    assert words == ["done"] * at + ["unknown"] + ["waiting"] * (len(PASSES) - at - 1)
    here = found["passes"][at]
    # The unit whose line was torn, or whose record was not written, is not done; others may have been by then.
    assert here["done"] < here["units"] or kind == "unit"
    assert here["done"] >= max(1, here["units"] // 2) - (kind != "unit") or kind == "record"


def _check_killed(ends: list[dict[str, Any]], output: Path, whole: Path, tree_hash: Any) -> None:
    for end in ends:
        _check_status(end)
    assert tree_hash(output) == tree_hash(whole)


@pytest.mark.thorough
def test_a_driver_killed_in_every_pass_leaves_the_bytes_of_an_uninterrupted_run(
    pipeline: cf.Pipeline, whole: Path, tiny_volume: Path, tmp_path: Path, tree_hash: Any
) -> None:
    kinds = ("torn", "record")
    moments = [[kinds[i % 2] if name not in MERGES else "record", name] for i, name in enumerate(PASSES)]
    ends = _killed(tiny_volume, tmp_path / "out", pipeline, moments)
    _check_killed(ends, tmp_path / "out", whole, tree_hash)


def test_a_driver_killed_while_it_publishes_leaves_the_bytes_of_an_uninterrupted_run(
    pipeline: cf.Pipeline, whole: Path, tiny_volume: Path, tmp_path: Path, tree_hash: Any
) -> None:
    moments = [["line", "publishing"], *(["publish", str(n)] for n in (1, 2, 3, 5, 8, 12))]
    moments += [["line", "published"], ["line", "end"]]
    ends = _killed(tiny_volume, tmp_path / "out", pipeline, moments)
    for end in ends[:-3]:
        _check_status(end)
    assert [end["status"]["state"] for end in ends[-3:]] == ["complete"] * 3  # the result stands
    assert tree_hash(tmp_path / "out") == tree_hash(whole)


@pytest.mark.thorough
def test_a_driver_killed_while_it_replaces_a_result_leaves_the_new_one_whole(
    demo_pipeline: Callable[..., cf.Pipeline], tiny_volume: Path, tmp_path: Path, tree_hash: Any
) -> None:
    before = demo_pipeline(save=("image", "labels", "skeleton", "mask"), threshold={"smooth_um": 0.0})
    after = demo_pipeline(save=("image", "labels", "skeleton"), threshold={"smooth_um": 0.1})
    before.plan(tiny_volume, tmp_path / "out", block=BLOCK).run(on="serial")
    after.plan(tiny_volume, tmp_path / "new", block=BLOCK).run(on="serial")
    moments = [["record", "label"], ["line", "publishing"], *(["publish", str(n)] for n in range(1, 12))]
    moments += [["publish", "20"], ["line", "published"], ["line", "reset"]]
    _killed(tiny_volume, tmp_path / "out", after, moments)
    assert tree_hash(tmp_path / "out") == tree_hash(tmp_path / "new")


def test_a_run_killed_before_it_publishes_leaves_the_earlier_result_readable(
    pipeline: cf.Pipeline, demo_pipeline: Callable[..., cf.Pipeline], tiny_volume: Path, tmp_path: Path, tree_hash: Any
) -> None:
    first = pipeline.plan(tiny_volume, tmp_path / "out", block=BLOCK).run(on="serial")
    hashes, edges = tree_hash(tmp_path / "out"), [d["points"].tolist() for *_, d in first.graph.edges(data=True)]
    for smooth_um in (0.0, 0.1, 0.15, 0.2):  # the fingerprints of some of them come behind the first one's
        changed = demo_pipeline(threshold={"smooth_um": smooth_um})
        plan = changed.plan(tiny_volume, tmp_path / "out", block=BLOCK)
        with pytest.raises(KeyboardInterrupt):
            plan.run(on="serial", on_event=_interrupt_in("objects"))
    assert tree_hash(tmp_path / "out") == hashes
    assert len(list((tmp_path / "out" / "run" / "records").glob("graph-*"))) == 15
    found = cf.open_result(tmp_path / "out")
    assert [d["points"].tolist() for *_, d in found.graph.edges(data=True)] == edges


def _interrupt_in(name: str) -> Callable[[Any], None]:
    def listen(event: Any) -> None:
        if event["event"] == "pass" and event["pass"] == name:
            raise KeyboardInterrupt

    return listen


@pytest.mark.slow
@pytest.mark.parametrize("on", ["serial", "threads"])
@pytest.mark.parametrize("kind", ["unit", "torn", "record"])
@pytest.mark.parametrize("name", PASSES)
def test_a_driver_killed_once_leaves_the_bytes_of_an_uninterrupted_run(
    name: str, kind: str, on: str, pipeline: cf.Pipeline, whole: Path, tiny_volume: Path, tmp_path: Path, tree_hash: Any
) -> None:
    ends = _killed(tiny_volume, tmp_path / "out", pipeline, [[kind, name]], on=on)
    _check_killed(ends, tmp_path / "out", whole, tree_hash)


def _run_with_dying_workers(plan: cf.Plan, passes: list[str], marks: Path, workers: int) -> None:
    """In each of the passes the worker of the second unit is killed when its arrays are written and its record is not.

    The workers learn it from a function that travels to them whole, those started in place of the dead ones too.
    """
    folder, output = str(marks), plan.output

    def arm() -> None:
        import os
        import signal
        from pathlib import Path

        from chunkflow.run import worker

        write = worker.write_record

        def write_or_die(path: Path, arrays: Any) -> int:
            name = path.relative_to(output / "run" / "records").parts[0][:-17]
            if name in passes and path.name != "0.rec":
                try:
                    os.close(os.open(os.path.join(folder, name), os.O_CREAT | os.O_EXCL))
                    os.kill(os.getpid(), signal.SIGKILL)
                except FileExistsError:
                    pass
            return write(path, arrays)

        worker.write_record = write_or_die

    engine = local_engine(workers, 4 * 2**30)
    try:
        engine.client.register_worker_callbacks(arm)
        plan.run(client=engine.client)
    finally:
        engine.close()


def _check_deaths(
    passes: list[str], pipeline: cf.Pipeline, whole: Path, source: Path, tmp_path: Path, tree_hash: Any, workers: int
) -> None:
    (tmp_path / "marks").mkdir()
    plan = pipeline.plan(source, tmp_path / "out", block=BLOCK)
    _run_with_dying_workers(plan, passes, tmp_path / "marks", workers)
    assert sorted(path.name for path in (tmp_path / "marks").iterdir()) == sorted(passes)
    assert status(tmp_path / "out").state == "complete"
    assert tree_hash(tmp_path / "out") == tree_hash(whole)


@pytest.mark.thorough
def test_workers_killed_in_the_middle_of_units_cost_only_time(
    pipeline: cf.Pipeline, whole: Path, tiny_volume: Path, tmp_path: Path, tree_hash: Any
) -> None:
    passes = ["deconvolve", "label", "label-merge", "thin"]
    _check_deaths(passes, pipeline, whole, tiny_volume, tmp_path, tree_hash, workers=2)


@pytest.mark.slow
def test_a_worker_killed_in_every_pass_costs_only_time(
    pipeline: cf.Pipeline, whole: Path, tiny_volume: Path, tmp_path: Path, tree_hash: Any
) -> None:
    passes = [name for name in PASSES if name not in ("residual-1", "graph-parts")]  # one unit each, the first
    _check_deaths(passes, pipeline, whole, tiny_volume, tmp_path, tree_hash, workers=3)


def test_units_of_a_run_that_was_taken_over_write_nothing(
    pipeline: cf.Pipeline, tiny_volume: Path, tmp_path: Path
) -> None:
    from chunkflow.run import worker
    from chunkflow.run.jobs import job_of
    from chunkflow.run.journal import Journal
    from chunkflow.run.lock import next_epoch
    from chunkflow.run.ongoing import Run
    from chunkflow.run.places import Places

    plan = pipeline.plan(tiny_volume, tmp_path / "out", block=BLOCK)
    with pytest.raises(KeyboardInterrupt):
        plan.run(on="serial", on_event=_interrupt_in("label"))
    device = find_device("cpu")
    places = Places(plan, plan.fingerprints(compute_kind(device)))
    journal = Journal.open(places.run / "journal.jsonl")
    stale = next_epoch(places.run)
    run = Run(plan, places, journal, SerialEngine(), device, stale, lambda event: None)
    job = job_of(run, plan.pass_named("label"))
    next_epoch(places.run)
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(worker.StaleRunError):
        worker.run_unit(job, 0)
    assert sorted((tmp_path / "out").rglob("*")) == before
    journal.close()
