"""Cases of settings and kinds of compute that change between runs: P7."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from chunkflow import backend
from chunkflow.errors import UsageError
from chunkflow.plan.pipeline import InputOptions, OutputOptions, Pipeline, resolved
from chunkflow.plan.plan import Plan
from chunkflow.run import worker
from chunkflow.run.status import status
from chunkflow.stages.correct import Correct
from chunkflow.stages.deconvolve import Deconvolve
from chunkflow.stages.label import Label
from chunkflow.stages.measure import Measure
from chunkflow.stages.psf import Psf
from chunkflow.stages.resample import Resample
from chunkflow.stages.skeleton import Skeleton
from chunkflow.stages.threshold import Threshold
from chunkflow.testing.chaos import world
from chunkflow.testing.chaos.matrix import Case

PSF = Psf(fwhm_um=(0.6, 0.25, 0.25))
STAGES: Mapping[str, Any] = {
    "correct": Correct(dark=1.0),
    "deconvolve": Deconvolve(psf=PSF, iterations=2, background=1.0, tile=(20, 32, 32), halo=(4, 4, 4), tolerance=0.5),
    "resample": Resample(),
    "threshold": Threshold(smooth_um=0.1),
    "label": Label(min_voxels=5),
    "skeleton": Skeleton(),
    "measure": Measure(),
}
OTHER = "other.ome.zarr"
"""An image beside the input."""
# Every field with another value that is legal beside the others: stage, field, value.
CHANGES: tuple[tuple[str, str, Any], ...] = (
    ("correct", "dark", 2.0),
    ("correct", "gain", "slice"),
    ("deconvolve", "psf", Psf(fwhm_um=(0.6, 0.25, 0.3))),
    ("deconvolve", "iterations", 3),
    ("deconvolve", "background", 5.0),
    ("deconvolve", "tile", (20, 16, 32)),
    ("deconvolve", "halo", (4, 5, 4)),
    ("deconvolve", "dtype", "uint16"),
    ("deconvolve", "edges", "reflect"),
    ("deconvolve", "algorithm", "landweber"),
    ("resample", "voxel_um", (0.2, 0.11, 0.1)),
    ("threshold", "smooth_um", 0.15),
    ("threshold", "method", "li"),
    ("label", "min_voxels", 60),
    ("label", "connectivity", 6),
    ("label", "clear_border", True),
    ("label", "fill_holes", True),
    ("skeleton", "prune_radii", 0.0),
    ("skeleton", "max_halo", 4),
    ("measure", "intensity", "image"),
    ("measure", "image", OTHER),
    ("input", "nodata", 1.0),
    ("input", "nan", "zero"),
    ("output", "save", ("image", "labels")),
    ("output", "format", "0.4"),
    ("output", "chunk", (16, 16, 16)),
)
FIRST = {  # the first pass of each stage that may change; passes of stages before stay
    "correct": "correct",
    "deconvolve": "deconvolve-probe",
    "resample": "resample",
    "threshold": "histogram",
    "label": "label",
    "skeleton": "shortcuts",
    "measure": "measure",
}
QUICK = (("threshold", "smooth_um"), ("label", "min_voxels"), ("skeleton", "prune_radii"), ("output", "format"))


def _cases() -> list[Case]:
    found = [
        Case(promise="P7", name="every field: exactly the passes behind it have another fingerprint", run=_closure)
    ]
    for stage, name, value in CHANGES:
        run = partial(_changed, stage, name, value)
        found.append(Case(promise="P7", name=f"{stage}.{name}", run=run, quick=(stage, name) in QUICK))
    found.append(Case(promise="P7", name="the order of workers and the log level run nothing", run=_nothing))
    found.append(Case(promise="P7", name="settings A, B half published, C half published, A", run=_a_b_c_a))
    found.append(Case(promise="P7", name="another kind of compute", run=_other_kind))
    found.append(Case(promise="P7", name="another kind, mixed, and not mixed again", run=_mixed))
    found.append(Case(promise="P7", name="a worker of another kind is refused", run=_odd_worker))
    return found


def _pipeline(stage: str = "", name: str = "", value: Any = None) -> Pipeline:
    stages = {key: replace(old, **{name: value}) if key == stage else old for key, old in STAGES.items()}
    options: dict[str, Any] = {"input": InputOptions(), "output": OutputOptions(save=("image", "labels", "skeleton"))}
    if stage in options:
        options[stage] = replace(options[stage], **{name: value})
    return Pipeline(list(stages.values()), **options)


def _planned(folder: Path, output: str, *change: Any) -> Plan:
    source = folder / "in.ome.zarr"
    if not source.exists():
        world.source_in(folder)
        world.source_in(folder, OTHER, seed=6)
    pipeline = _pipeline(*change)
    stages = [resolved(stage, folder) for stage in pipeline.stages]
    return world.planned(replace(pipeline, stages=stages), source, folder / output)


def _closure(folder: Path) -> int:
    """By fingerprints alone: nothing before the stage changes, something of it does, and all that reads it does."""
    before = _planned(folder, "out")
    old = before.fingerprints("kind")
    order = [p.name for p in before.passes]
    for stage, name, value in CHANGES:
        after = _planned(folder, "out", stage, name, value)
        new = after.fingerprints("kind")
        changed = {p for p in new if new[p] != old.get(p)} - {"input", "input_mask"}
        assert changed, f"{stage}.{name} changes nothing"
        reused = world.dependents(after, changed) - changed
        assert not reused, f"{stage}.{name}: {sorted(reused)} depend on a changed pass and are re-used"
        if stage in FIRST:
            earlier = set(order[: order.index(FIRST[stage])]) & changed
            assert not earlier, f"{stage}.{name} changes {sorted(earlier)}"
    return len(CHANGES)


def _changed(stage: str, name: str, value: Any, folder: Path) -> int:
    """A run with the field changed computes exactly those passes, and leaves what a clean run leaves."""
    world.run(_planned(folder, "out"))
    before = _planned(folder, "out").fingerprints(_kind())
    plan = _planned(folder, "out", stage, name, value)
    after = plan.fingerprints(_kind())
    events: list[dict[str, Any]] = []
    world.run(plan, on_event=events.append)
    computed = {event["pass"] for event in events if event["event"] == "unit"}
    due = {p.name for p in plan.passes if after[p.name] != before.get(p.name)}
    assert due <= computed, f"{sorted(due - computed)} were re-used"
    again = computed - due  # only for temporaries that were deleted and are read by others
    read = {plan.arrays[a].producer for p in plan.passes if p.name in computed for a in p.reads if a in plan.arrays}
    assert again <= read, f"{sorted(again - read)} were computed again for nothing"
    clean = _planned(folder, "clean", stage, name, value)
    world.run(clean)
    world.check_equal(plan.output, world.tree_hash(clean.output))
    return 1


def _kind() -> str:
    return backend.compute_kind(backend.find_device("cpu"))


def _nothing(folder: Path) -> int:
    import logging

    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    world.run(plan)
    count = 0
    for options in ({"on": "threads", "workers": 3}, {"on": "serial"}, {"on": "threads", "workers": 1}):
        events: list[dict[str, Any]] = []
        level = logging.getLogger().level
        logging.getLogger().setLevel(logging.DEBUG)
        try:
            world.run(plan, on_event=events.append, **options)
        finally:
            logging.getLogger().setLevel(level)
        assert not [event for event in events if event["event"] == "unit"]
        count += 1
    world.check_equal(folder / "out", world.clean_hash())
    return count


def _killed_in_publish(plan: Plan, moves: int) -> None:
    """Run, and stop dead after so many arrays were moved to their places."""
    from chunkflow.run import publish

    move, seen = publish._move, list[Any]()

    def moving(*arguments: Any) -> None:
        if len(seen) == moves:
            raise KeyboardInterrupt
        seen.append(arguments)
        move(*arguments)

    with mock.patch.object(publish, "_move", moving):
        assert isinstance(world.run_or_error(plan), KeyboardInterrupt), "the run was not stopped"
    assert len(seen) == moves


def _a_b_c_a(folder: Path) -> int:
    """B leaves some of its arrays in the places of A's, C none, and A finds which are its own."""
    source, count = world.source_in(folder), 0
    save_mask = OutputOptions(save=("image", "labels", "mask"), format="0.4")

    def settings(value: float, output: OutputOptions) -> Pipeline:
        return Pipeline([Threshold(method="fixed", value=value), Label()], output=output)

    for moves_b in range(1, 6):
        out = folder / f"out-{moves_b}"
        a = settings(30000.0, save_mask)
        world.run(world.planned(a, source, out))
        clean = world.tree_hash(out)
        try:
            _killed_in_publish(world.planned(settings(20000.0, save_mask), source, out), moves_b)
        except AssertionError:
            break  # fewer arrays than that
        c = settings(25000.0, replace(save_mask, save=("labels",)))
        _killed_in_publish(world.planned(c, source, out), 0)
        world.run(world.planned(a, source, out))
        world.check_equal(out, clean)
        shutil.rmtree(out)
        count += 1
    return count


def _other_kind(folder: Path) -> int:
    """A resume on another kind says so and computes again; back on the first one, too."""
    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    assert isinstance(world.run_or_error(plan, on_event=world.Interrupts("relabel", 3)), KeyboardInterrupt)
    with _processor("another one"):
        events: list[dict[str, Any]] = []
        world.run(plan, on_event=events.append)
        said = [event["text"] for event in events if event["event"] == "warning"]
        assert any("another one" in text and "computed again" in text for text in said), said
        assert {event["pass"] for event in events if event["event"] == "unit"} == {p.name for p in plan.passes}
        found = status(folder / "out")
        assert (found.state, found.is_mixed) == ("complete", False)
        assert "another one" in found.kinds[0]
    world.check_equal(folder / "out", world.clean_hash())
    return 1


def _mixed(folder: Path) -> int:
    """Mixed goes on, and says so in status and report; not mixed any more, what the other kind computed goes."""
    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    assert isinstance(world.run_or_error(plan, on_event=world.Interrupts("label", 5)), KeyboardInterrupt)
    events: list[dict[str, Any]] = []
    with _processor("another one"):
        world.run(plan, on_event=events.append, mix_kinds=True, report=True)
    done = [event for event in events if event["event"] == "unit" and event["pass"] == "label"]
    assert len(done) == plan.pass_named("label").units - 5, "units of the first kind were not taken over"
    found = status(folder / "out")
    assert (found.is_mixed, len(found.kinds)) == (True, 2)
    assert "mixed: computed on 2 kinds" in (folder / "out/report.html").read_text()
    world.check_equal(folder / "out", world.clean_hash())  # the processors are one in truth
    events.clear()
    world.run(plan, on_event=events.append)
    computed = {event["pass"] for event in events if event["event"] == "unit"}
    assert "scan" not in computed, "a pass of this kind alone was computed again"
    assert {"label", "label-merge", "relabel"} <= computed, "what stood on units of another kind was re-used"
    assert not status(folder / "out").is_mixed
    world.check_equal(folder / "out", world.clean_hash())
    return 2


def _odd_worker(folder: Path) -> int:
    """A cluster whose workers are not alike."""
    plan = world.planned(world.short_pipeline(), world.source_in(folder), folder / "out")
    kind_of = worker.kind_of
    with mock.patch.object(worker, "kind_of", return_value="gpu of a colleague"):
        error = world.run_or_error(plan)
        assert isinstance(error, UsageError), repr(error)
        assert "gpu of a colleague" in str(error)
        assert status(folder / "out").state == "failed"
        world.run(plan, mix_kinds=True)
        assert status(folder / "out").kinds == ("gpu of a colleague",)
    assert worker.kind_of is kind_of
    world.check_ends_well(plan, world.clean_hash())
    return 2


def _processor(name: str) -> Any:
    """This process computes on another processor, as far as anybody asks."""
    worker.kind_of.cache_clear()

    class Other:
        def __enter__(self) -> None:
            self.patch = mock.patch.object(backend, "processor_name", return_value=name)
            self.patch.start()

        def __exit__(self, *_: object) -> None:
            self.patch.stop()
            worker.kind_of.cache_clear()

    return Other()


CASES = _cases()
