"""Temporary arrays: how long they stay, what that spares, and that results do not depend on it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import chunkflow as cf
from chunkflow.errors import InputNotFoundError, OutputInUseError
from chunkflow.run.leftovers import probe_folder, sweep_probes
from chunkflow.run.lock import OutputLock
from chunkflow.run.status import status
from chunkflow.run.temporaries import clean

BLOCK = (16, 50, 60)
Trees = Callable[[Path], dict[str, str]]


def pipeline(scratch: str = "keep", smooth_um: float = 0.0) -> cf.Pipeline:
    return cf.Pipeline(
        [cf.Threshold(smooth_um=smooth_um), cf.Label(), cf.Skeleton(), cf.Measure()],
        output=cf.OutputOptions(save=("labels",), scratch=scratch),
    )


def arrays(out: Path) -> set[str]:
    """Temporary arrays on disk, by name."""
    return {path.name for path in (out / "run" / "arrays").glob("*/*") if any(path.rglob("c"))}


def run_again(wanted: cf.Pipeline, volume: Path, out: Path) -> set[str]:
    """Run, and say which passes were computed."""
    computed: set[str] = set()
    wanted.plan(volume, out, block=BLOCK).run(
        on="serial", on_event=lambda event: computed.add(event["pass"]) if event["event"] == "unit" else None
    )
    return computed


def test_kept_arrays_spare_a_late_change_what_does_not_depend_on_it(demo_volume: Path, tmp_path: Path) -> None:
    kept, dropped = tmp_path / "kept", tmp_path / "dropped"
    without = cf.Pipeline([cf.Threshold(), cf.Label(), cf.Skeleton()], output=cf.OutputOptions(save=("labels",)))
    for out in (kept, dropped):
        run_again(without, demo_volume, out)
    assert {"filled", "pieces", "provisional"} <= arrays(kept)
    clean(dropped)
    assert not arrays(dropped)
    spared = run_again(pipeline(), demo_volume, kept)
    assert "distance" not in spared and "measure" in spared
    assert "distance" in run_again(pipeline(), demo_volume, dropped)


def test_dropped_arrays_are_gone_after_their_last_reader_and_change_nothing(
    demo_volume: Path, tmp_path: Path, tree_hash: Trees
) -> None:
    run_again(pipeline("keep"), demo_volume, tmp_path / "keep")
    seen: dict[str, set[str]] = {}

    def listen(event: dict[str, object]) -> None:
        if event["event"] == "pass":
            seen[str(event["pass"])] = arrays(tmp_path / "drop")

    plan = pipeline("drop").plan(demo_volume, tmp_path / "drop", block=BLOCK)
    plan.run(on="serial", on_event=listen)
    assert not arrays(tmp_path / "drop")
    assert tree_hash(tmp_path / "drop") == tree_hash(tmp_path / "keep")
    readers = {name: [p.name for p in plan.passes if name in p.reads] for name in ("provisional", "filled")}
    order = [p.name for p in plan.passes]
    for name, reading in readers.items():
        after = order[order.index(reading[-1]) + 1]
        assert name in seen[reading[-1]] and name not in seen[after], name


@pytest.mark.parametrize("stop", ["distance", "thin", "measure"])
def test_a_run_that_drops_goes_on_after_a_stop(stop: str, demo_volume: Path, tmp_path: Path, tree_hash: Trees) -> None:
    run_again(pipeline(), demo_volume, tmp_path / "whole")

    def interrupt(event: dict[str, object]) -> None:
        if event["event"] == "unit" and event["pass"] == stop:
            raise KeyboardInterrupt

    plan = pipeline("drop").plan(demo_volume, tmp_path / "out", block=BLOCK)
    with pytest.raises(KeyboardInterrupt):
        plan.run(on="serial", on_event=interrupt)
    computed = run_again(pipeline("drop"), demo_volume, tmp_path / "out")
    assert "label" not in computed
    assert tree_hash(tmp_path / "out") == tree_hash(tmp_path / "whole")


def test_what_other_settings_left_goes_at_the_end_of_a_run(demo_volume: Path, tmp_path: Path) -> None:
    run_again(pipeline(), demo_volume, tmp_path / "out")
    before = set((tmp_path / "out" / "run" / "arrays").iterdir())
    run_again(pipeline(smooth_um=0.2), demo_volume, tmp_path / "out")
    after = set((tmp_path / "out" / "run" / "arrays").iterdir())
    assert before and after and not before & after


def test_cleaning_says_what_it_freed_and_leaves_the_result(demo_volume: Path, tmp_path: Path, tree_hash: Trees) -> None:
    out = tmp_path / "out"
    run_again(pipeline(), demo_volume, out)
    before = tree_hash(out)
    size = sum(path.stat().st_size for path in (out / "run" / "arrays").rglob("*") if path.is_file())
    assert clean(out) == size > 0
    assert clean(out) == 0
    assert tree_hash(out) == before
    assert not run_again(pipeline(), demo_volume, out)  # the result stands without them


def test_cleaning_wants_a_result_that_nobody_writes(tmp_path: Path, demo_volume: Path) -> None:
    with pytest.raises(InputNotFoundError, match="holds no run"):
        clean(tmp_path / "nothing")
    run_again(pipeline(), demo_volume, tmp_path / "out")
    with OutputLock(tmp_path / "out" / "run"), pytest.raises(OutputInUseError):
        clean(tmp_path / "out")


def test_cleaning_takes_what_a_run_with_other_settings_left_and_a_way_back_computes_it_again(
    demo_volume: Path, tmp_path: Path, tree_hash: Trees
) -> None:
    out = tmp_path / "out"
    run_again(pipeline(), demo_volume, out)
    before, result = {path.name for path in (out / "run" / "arrays").iterdir()}, tree_hash(out)

    def interrupt(event: dict[str, object]) -> None:
        if event["event"] == "unit" and event["pass"] == "distance":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline(smooth_um=0.2).plan(demo_volume, out, block=BLOCK).run(on="serial", on_event=interrupt)
    assert before <= {path.name for path in (out / "run" / "arrays").iterdir()}
    (out / "run" / "arrays" / "of-somebody").mkdir()
    assert clean(out) > 0
    left = {path.name for path in (out / "run" / "arrays").iterdir()}
    assert "of-somebody" in left and not left & before
    (out / "run" / "arrays" / "of-somebody").rmdir()
    run_again(pipeline(), demo_volume, out)
    assert tree_hash(out) == result
    assert status(out).state == "complete"


@pytest.mark.parametrize("harm", ["another type", "another fill", "gone", "no JSON"])
def test_metadata_of_temporaries_are_those_of_the_plan_whatever_became_of_them(
    harm: str, demo_volume: Path, tmp_path: Path, tree_hash: Trees
) -> None:
    out = tmp_path / "out"
    without = cf.Pipeline([cf.Threshold(), cf.Label(), cf.Skeleton()], output=cf.OutputOptions(save=("labels",)))
    run_again(without, demo_volume, out)
    (file,) = (out / "run" / "arrays").glob("distance-*/distance/zarr.json")
    content = file.read_text()
    if harm == "another type":
        file.write_text(content.replace('"data_type": "int32"', '"data_type": "float32"'))
    elif harm == "another fill":
        file.write_text(content.replace('"fill_value": 0', '"fill_value": 9'))
    elif harm == "no JSON":
        file.write_text(content[:40])
    else:
        file.unlink()
    assert not file.exists() or file.read_text() != content
    spared = run_again(pipeline(), demo_volume, out)
    assert "measure" in spared
    assert file.read_text() == content
    run_again(pipeline(), demo_volume, tmp_path / "fresh")
    assert tree_hash(out) == tree_hash(tmp_path / "fresh")


def test_what_killed_probes_left_is_swept_and_a_probe_that_goes_on_is_not(demo_volume: Path, tmp_path: Path) -> None:
    names = ("left", "fresh", "going-on")
    folders = {name: tmp_path / f".chunkflow-probe-{name}" for name in names}
    for name, folder in folders.items():
        (folder / "out").mkdir(parents=True)
        if name != "fresh":
            os.utime(folder, (0, 0))
    with OutputLock(folders["going-on"]):
        os.utime(folders["going-on"], (0, 0))
        run_again(pipeline(), demo_volume, tmp_path / "before")
    assert not folders["left"].exists() and folders["going-on"].exists()
    folders["left"].mkdir()
    with OutputLock(folders["going-on"]):
        for folder in (folders["left"], folders["going-on"]):
            os.utime(folder, (0, 0))
        clean(tmp_path / "before")
        assert [name for name in names if folders[name].exists()] == ["fresh", "going-on"]
    with probe_folder(tmp_path) as mine:
        assert mine.is_dir() and not folders["going-on"].exists()
        os.utime(mine, (0, 0))
        assert sweep_probes(tmp_path) == 0
    assert not mine.exists() and folders["fresh"].exists()
