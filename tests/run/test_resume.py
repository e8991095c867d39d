"""The same command goes on; a changed parameter computes what depends on it; damage is healed; other input refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import IncompleteError, InputChangedError, OutputInUseError, UsageError
from chunkflow.run.lock import OutputLock, is_locked, next_epoch
from chunkflow.run.status import status
from chunkflow.testing import suites

BLOCK = (24, 24, 24)
VOXEL = [
    "scan",
    "deconvolve",
    "resample",
    "histogram",
    "label",
    "seams",
    "relabel",
    "distance",
    "thin",
    "skeleton",
    "measure",
]


class Events:
    """All events of a run."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def __call__(self, event: Any) -> None:
        self.all.append(event)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.all)

    @property
    def computed(self) -> set[str]:
        """Passes of which a unit was computed."""
        return {e["pass"] for e in self if e["event"] == "unit"}

    @property
    def reused(self) -> set[str]:
        return {e["pass"] for e in self if e["event"] == "reused"}

    def units(self, name: str) -> int:
        return sum(e["event"] == "unit" and e["pass"] == name for e in self)


def _run(pipeline: cf.Pipeline, source: Any, output: Path, **how: Any) -> Events:
    events = Events()
    pipeline.plan(source, output, block=BLOCK).run(on="serial", on_event=events, **how)
    return events


@pytest.fixture(scope="module")
def finished(demo_pipeline: Callable[..., cf.Pipeline], tiny_volume: Path, tmp_path_factory: Any) -> Path:
    """A complete run of the demo pipeline; tests work on copies."""
    output: Path = tmp_path_factory.mktemp("finished") / "out"
    _run(demo_pipeline(), tiny_volume, output)
    return output


@pytest.fixture
def output(finished: Path, tmp_path: Path) -> Path:
    """A copy of the complete run."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_the_same_command_again_computes_nothing(
    demo_pipeline: Any, tiny_volume: Path, output: Path, finished: Path, tree_hash: Any
) -> None:
    events = _run(demo_pipeline(), tiny_volume, output)
    assert events.computed == set()
    assert len(events.reused) == 29
    assert tree_hash(output) == tree_hash(finished)


@pytest.mark.parametrize("content", ["no metadata", '"fill_value": 5'])
def test_metadata_of_an_array_that_were_edited_are_written_anew(
    content: str, demo_pipeline: Any, tiny_volume: Path, output: Path, finished: Path, tree_hash: Any
) -> None:
    file = output / "image.ome.zarr" / "labels" / "objects" / "0" / "zarr.json"
    file.write_text(file.read_text().replace('"fill_value": 0', content) if "fill" in content else content)
    assert tree_hash(output) != tree_hash(finished)
    assert _run(demo_pipeline(), tiny_volume, output).computed == set()
    assert tree_hash(output) == tree_hash(finished)


# Each change of the settings: what is computed again at least, and what is not. "" stands for nothing to check.
CHANGES: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "prune_radii": ({"skeleton": {"prune_radii": 0.0}}, {"graph", "objects"}, set(VOXEL)),
    "smooth_um": (
        {"threshold": {"smooth_um": 0.1}},
        {"histogram", "threshold", "label", "objects"},
        {"scan", "deconvolve", "resample"},
    ),
    "method": (
        {"threshold": {"method": "li"}},
        {"threshold", "label"},
        {"scan", "deconvolve", "resample", "histogram"},
    ),
    "min_voxels": (
        {"label": {"min_voxels": 300}},
        {"label-merge", "regions-merge", "relabel", "objects"},
        {"scan", "deconvolve", "resample", "histogram", "threshold"},
    ),
    "connectivity": ({"label": {"connectivity": 6}}, {"label", "seams", "objects"}, {"deconvolve", "threshold"}),
    "max_halo": ({"skeleton": {"max_halo": 4}}, {"thin", "graph"}, {"deconvolve", "threshold"}),
    "intensity": (
        {"measure": {"intensity": "image"}},
        {"measure", "objects"},
        {"deconvolve", "threshold", "graph"},  # inscribed radii need distances, a temporary, and what they are made of
    ),
    "iterations": ({"deconvolve": {"iterations": 4}}, set(VOXEL) - {"scan"}, {"scan"}),
    "voxel_um": ({"resample": {"voxel_um": (0.1, 0.08, 0.08)}}, {"resample", "label"}, {"scan"}),
    "a saved mask": ({"save": ("image", "labels", "skeleton", "mask")}, {"label"}, {"scan", "deconvolve", "resample"}),
    "no saved skeleton": ({"save": ("image", "labels")}, set(), {"scan", "deconvolve", "resample", "threshold"}),
    "no saved image": ({"save": ("labels", "skeleton")}, set(), {"threshold", "label-merge"}),
}


QUICK = ("prune_radii", "smooth_um", "min_voxels", "a saved mask", "no saved skeleton", "no saved image")
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CHANGES]


@pytest.mark.parametrize("name", CASES)
def test_a_changed_setting_computes_what_depends_on_it_and_equals_a_clean_run(
    name: str, demo_pipeline: Any, tiny_volume: Path, output: Path, tmp_path: Path, tree_hash: Any
) -> None:
    changes, again, kept = CHANGES[name]
    pipeline = demo_pipeline(**changes)
    events = _run(pipeline, tiny_volume, output)
    assert again <= events.computed
    assert kept <= events.reused
    assert not kept & events.computed
    _run(pipeline, tiny_volume, tmp_path / "clean")
    assert tree_hash(output) == tree_hash(tmp_path / "clean")
    assert status(output).state == "complete"


def test_back_and_forth_between_settings_equals_clean_runs(
    demo_pipeline: Any, tiny_volume: Path, output: Path, finished: Path, tree_hash: Any
) -> None:
    _run(demo_pipeline(threshold={"smooth_um": 0.1}), tiny_volume, output)
    assert tree_hash(output) != tree_hash(finished)
    _run(demo_pipeline(), tiny_volume, output)
    assert tree_hash(output) == tree_hash(finished)


def test_stages_left_out_later_leave_no_table_and_no_graph(
    demo_pipeline: Any, tiny_volume: Path, output: Path, tmp_path: Path, tree_hash: Any
) -> None:
    shorter = cf.Pipeline(demo_pipeline().stages[:4], output=cf.OutputOptions(save=("image", "labels")))
    _run(shorter, tiny_volume, output)
    _run(shorter, tiny_volume, tmp_path / "clean")
    assert tree_hash(output) == tree_hash(tmp_path / "clean")


def test_other_blocks_later_leave_the_same_voxels_and_tables(
    demo_pipeline: Any, tiny_volume: Path, output: Path, finished: Path
) -> None:
    result = demo_pipeline().plan(tiny_volume, output, block=(32, 64, 64)).run(on="serial")
    assert suites.differences(result, cf.open_result(finished)) == []


# Damage.


def _damage_missing(path: Path) -> None:
    path.unlink()


def _damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def _damage_grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _damage_emptied(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES: list[Any] = [_damage_missing, _damage_cut]
DAMAGES += [pytest.param(damage, marks=pytest.mark.slow) for damage in (_damage_grown, _damage_emptied)]
SHARDS = ["image.ome.zarr/0/c", "image.ome.zarr/labels/objects/0/c", "image.ome.zarr/labels/skeleton/0/c"]
RECORDS = ["run/records/scan-*", "run/records/label-merge-*", "run/records/thin-*", "run/records/graph-*"]


def _file_in(output: Path, pattern: str) -> Path:
    """Some file of an array or of the records of a pass."""
    files = [p for folder in sorted(output.glob(pattern)) for p in sorted(folder.rglob("*")) if p.is_file()]
    assert files
    return files[len(files) // 2]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("pattern", SHARDS[:2])
def test_a_damaged_shard_is_noticed_and_healed_to_the_same_bytes(
    pattern: str, damage: Any, demo_pipeline: Any, tiny_volume: Path, output: Path, finished: Path, tree_hash: Any
) -> None:
    damage(_file_in(output, pattern))
    assert tree_hash(output) != tree_hash(finished)
    assert status(output).state == "damaged"
    events = _run(demo_pipeline(), tiny_volume, output)
    assert events.computed
    assert tree_hash(output) == tree_hash(finished)
    assert status(output).state == "complete"


@pytest.mark.parametrize("pattern", [SHARDS[2], *RECORDS])
def test_a_lost_file_of_any_kind_is_healed(
    pattern: str, demo_pipeline: Any, tiny_volume: Path, output: Path, finished: Path, tree_hash: Any
) -> None:
    _file_in(output, pattern).unlink()
    assert status(output).state == "damaged"
    _run(demo_pipeline(), tiny_volume, output)
    assert tree_hash(output) == tree_hash(finished)
    assert status(output).state == "complete"


def test_a_healed_shard_costs_the_units_that_wrote_it_alone(
    demo_pipeline: Any, tiny_volume: Path, output: Path
) -> None:
    save = ("image", "labels", "skeleton")
    pipeline = cf.Pipeline(demo_pipeline(save=save).stages[2:], output=cf.OutputOptions(save=save[:1]))
    _run(pipeline, tiny_volume, output.with_name("copy"))
    _file_in(output.with_name("copy"), "image.ome.zarr/0/c").unlink()
    events = _run(pipeline, tiny_volume, output.with_name("copy"))
    assert events.computed == {"scan"}
    assert events.units("scan") == 1


def test_lost_tables_graphs_and_metadata_are_written_again(
    demo_pipeline: Any, tiny_volume: Path, output: Path, finished: Path, tree_hash: Any
) -> None:
    shutil.rmtree(output / "tables")
    shutil.rmtree(output / "graph")
    (output / "image.ome.zarr" / "zarr.json").unlink()
    assert _run(demo_pipeline(), tiny_volume, output).computed == set()
    assert tree_hash(output) == tree_hash(finished)


def test_a_unit_whose_files_vanish_during_the_run_stops_it_before_anything_is_published(
    demo_pipeline: Any, tiny_volume: Path, tmp_path: Path, tree_hash: Any, finished: Path
) -> None:
    output = tmp_path / "out"

    def lose(event: Any) -> None:
        if event["event"] == "pass" and event["pass"] == "objects":
            _file_in(output, "run/arrays/skeleton-*/skeleton/c").unlink()

    plan = demo_pipeline().plan(tiny_volume, output, block=BLOCK)
    with pytest.raises(cf.errors.IntegrityError, match="skeleton"):
        plan.run(on="serial", on_event=lose)
    assert not (output / "tables").exists()
    events = _run(demo_pipeline(), tiny_volume, output)
    assert events.computed == {"skeleton"}
    assert events.units("skeleton") == 1
    assert tree_hash(output) == tree_hash(finished)


# Blocks that fail.


def test_a_block_with_nan_is_set_aside_and_computed_when_it_is_repaired(
    demo_image: np.ndarray, demo_pipeline: Any, tmp_path: Path, tree_hash: Any
) -> None:
    image = demo_image[6:26, 30:70, 40:84].astype(np.float32)
    broken = image.copy()
    broken[3, 30, 40] = np.nan
    source = suites.write_volume(tmp_path / "in.ome.zarr", broken, (0.2, 0.08, 0.08))
    events = Events()
    plan = demo_pipeline().plan(source, tmp_path / "out", block=BLOCK)
    with pytest.raises(IncompleteError, match=r"\(3, 30, 40\)"):
        plan.run(on="serial", on_event=events)
    failed = [e for e in events if e["event"] == "failed"]
    assert [(e["pass"], e["core"]) for e in failed] == [("scan", "0:20,24:40,24:44")]
    assert events.units("scan") == plan.pass_named("scan").units
    found = {p.name: p for p in status(tmp_path / "out").passes}["scan"]
    assert (found.state, found.done) == ("quarantined", found.units - 1)
    zeroed = cf.Pipeline(demo_pipeline().stages, input=cf.InputOptions(nan="zero"))
    _run(zeroed, source, tmp_path / "out")
    image[3, 30, 40] = 0
    clean = suites.write_volume(tmp_path / "clean.ome.zarr", image, (0.2, 0.08, 0.08))
    _run(demo_pipeline(), clean, tmp_path / "clean")
    assert tree_hash(tmp_path / "out") == tree_hash(tmp_path / "clean")


# Input.


def test_a_changed_input_is_refused_with_the_difference_named(
    demo_image: np.ndarray, demo_pipeline: Any, tmp_path: Path, tree_hash: Any
) -> None:
    image = demo_image[6:26, 30:70, 40:84]
    path = tmp_path / "in.ome.zarr"
    suites.write_volume(path, image, (0.2, 0.08, 0.08))
    _run(demo_pipeline(), path, tmp_path / "out")
    before = tree_hash(tmp_path / "out")
    changed = image.copy()
    changed[:, 10:20] //= 2
    shutil.rmtree(path)
    suites.write_volume(path, changed, (0.2, 0.08, 0.08))
    with pytest.raises(InputChangedError, match=r"chunk c/0/0/0 was rewritten.*--restart"):
        _run(demo_pipeline(), path, tmp_path / "out")
    assert InputChangedError.exit_code == 6
    assert tree_hash(tmp_path / "out") == before
    _run(demo_pipeline(), path, tmp_path / "out", restart=True)
    _run(demo_pipeline(), path, tmp_path / "clean")
    assert tree_hash(tmp_path / "out") == tree_hash(tmp_path / "clean") != before


def test_another_voxel_size_is_a_changed_input(demo_image: np.ndarray, demo_pipeline: Any, tmp_path: Path) -> None:
    for name, size in (("a", 0.2), ("b", 0.25)):
        suites.write_volume(tmp_path / f"{name}.ome.zarr", demo_image[6:26, 30:70, 40:84], (size, 0.08, 0.08))
    _run(demo_pipeline(), tmp_path / "a.ome.zarr", tmp_path / "out")
    with pytest.raises(InputChangedError, match=r"voxel size \(um\) 0.2x0.08x0.08 -> 0.25x0.08x0.08"):
        _run(demo_pipeline(), tmp_path / "b.ome.zarr", tmp_path / "out")


def test_a_moved_input_is_the_same_input(demo_pipeline: Any, tiny_volume: Path, output: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_volume, tmp_path / "moved.ome.zarr")  # with its modification times
    assert _run(demo_pipeline(), tmp_path / "moved.ome.zarr", output).computed == set()


def test_restart_computes_everything_and_leaves_what_a_clean_run_leaves(
    demo_pipeline: Any, tiny_volume: Path, output: Path, tmp_path: Path, tree_hash: Any
) -> None:
    smaller = demo_pipeline(save=("labels",))
    events = _run(smaller, tiny_volume, output, restart=True)
    assert events.reused == set()
    _run(smaller, tiny_volume, tmp_path / "clean")
    assert tree_hash(output) == tree_hash(tmp_path / "clean")


# One run per output.


def test_an_output_in_use_is_refused_at_once(demo_pipeline: Any, tiny_volume: Path, output: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from chunkflow.run.lock import OutputLock\n"
        "with OutputLock(Path(sys.argv[1]) / 'run'):\n    print('locked', flush=True); sys.stdin.readline()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        before = (output / "run" / "journal.jsonl").read_bytes()
        with pytest.raises(OutputInUseError, match=str(holder.pid)):
            _run(demo_pipeline(), tiny_volume, output, restart=True)
        assert OutputInUseError.exit_code == 5
        assert (output / "run" / "journal.jsonl").read_bytes() == before
        assert is_locked(output / "run")
        assert status(output).state == "running"
        holder.kill()
        holder.wait()
    finally:
        holder.communicate()
    assert _run(demo_pipeline(), tiny_volume, output).computed == set()
    assert not is_locked(output / "run")


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with OutputLock(tmp_path / "run"):
            assert is_locked(tmp_path / "run")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not is_locked(tmp_path / "run")


def test_each_run_has_a_higher_epoch(tmp_path: Path) -> None:
    epochs = [next_epoch(tmp_path)[1] for _ in range(3)]
    assert epochs == sorted(set(epochs))
    (tmp_path / "epoch").unlink()  # the output was deleted: still no epoch twice
    assert next_epoch(tmp_path)[1] > epochs[-1]
    (tmp_path / "epoch").write_text("torn by hand")
    assert next_epoch(tmp_path)[1] > epochs[-1]


def test_a_folder_that_holds_something_else_is_refused(demo_pipeline: Any, tiny_volume: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").touch()
    with pytest.raises(UsageError, match="overwrite"):
        _run(demo_pipeline(), tiny_volume, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["thesis.docx"]
    _run(demo_pipeline(), tiny_volume, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "thesis.docx").exists()


def test_an_unfinished_run_is_not_opened_as_a_result(demo_pipeline: Any, tiny_volume: Path, tmp_path: Path) -> None:
    def stop(event: Any) -> None:
        if event["event"] == "pass" and event["pass"] == "label":
            raise KeyboardInterrupt

    plan = demo_pipeline().plan(tiny_volume, tmp_path / "out", block=BLOCK)
    with pytest.raises(KeyboardInterrupt):
        plan.run(on="serial", on_event=stop)
    with pytest.raises(IncompleteError, match="same command"):
        cf.open_result(tmp_path / "out")
    end = json.loads((tmp_path / "out/run/journal.jsonl").read_text().splitlines()[-1].split(" ", 1)[1])
    assert (end["event"], end["code"]) == ("end", 130)
    assert status(tmp_path / "out").state == "interrupted"


# Padding and nodata.


def _padded(image: np.ndarray) -> np.ndarray:
    """The image, no voxel of it 0, with zeros behind its last voxels on every axis until half of it is zeros."""
    z, y, x = image.shape
    padded = np.zeros((z + z // 4 + 1, y + y // 4 + 1, x + x // 3), image.dtype)
    padded[:z, :y, :x] = image
    assert image.min() > 0
    assert (padded == 0).mean() > 0.5
    return padded


def _without_border(result: cf.Result) -> Any:
    return result.objects.drop(columns="touches_border")


@pytest.mark.parametrize("stages", ["smooth", "resample", pytest.param("li", marks=pytest.mark.slow)])
def test_padding_marked_as_nodata_changes_no_threshold_and_no_object(
    stages: str, demo_image: np.ndarray, tmp_path: Path
) -> None:
    image = demo_image[4:28, 20:80, 30:100] + np.uint16(50)
    found: list[cf.Stage] = [cf.Resample()] if stages == "resample" else []
    method = "li" if stages == "li" else "otsu"
    found += [cf.Threshold(method=method, smooth_um=0.1), cf.Label(min_voxels=20), cf.Skeleton(), cf.Measure()]
    pipeline = cf.Pipeline(found, input=cf.InputOptions(nodata=0))
    results, events = [], Events()
    for name, voxels in (("plain", image), ("padded", _padded(image))):
        source = suites.write_volume(tmp_path / f"{name}.ome.zarr", voxels, (0.2, 0.08, 0.08))
        plan = pipeline.plan(source, tmp_path / name, block=(32, 48, 40))
        results.append(plan.run(on="serial", on_event=events))
    plain, padded = results
    thresholds = [result.pass_values("threshold")["threshold"] for result in results]
    assert thresholds[0].tobytes() == thresholds[1].tobytes()
    assert len(plain.objects) > 1
    assert _without_border(plain).equals(_without_border(padded))
    assert suites.graph_differences(padded.graph, plain.graph) == []
    z, y, x = plain.labels.shape
    np.testing.assert_array_equal(padded.labels[:z, :y, :x], plain.labels[:])
    assert not padded.labels[z:].any()
    assert not [e for e in events if e["event"] == "warning"]


def test_padding_not_marked_is_warned_of_and_moves_the_threshold(demo_image: np.ndarray, tmp_path: Path) -> None:
    image = demo_image[4:28, 20:80, 30:100] + np.uint16(50)
    pipeline = cf.Pipeline([cf.Threshold(), cf.Label()])
    thresholds, warnings = [], []
    for name, voxels in (("plain", image), ("padded", _padded(image))):
        source = suites.write_volume(tmp_path / f"{name}.ome.zarr", voxels, (0.2, 0.08, 0.08))
        events = Events()
        result = pipeline.plan(source, tmp_path / name, block=(32, 48, 40)).run(on="serial", on_event=events)
        thresholds.append(float(result.pass_values("threshold")["threshold"][0]))
        warnings.append([e["text"] for e in events if e["event"] == "warning"])
    assert thresholds[1] < thresholds[0]
    assert warnings[0] == []
    assert len(warnings[1]) == 1
    assert "value 0" in warnings[1][0]
    assert "nodata: 0" in warnings[1][0]
