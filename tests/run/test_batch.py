"""Batches of tiny volumes: what one run would give, per file; errors that cost one row; the same command goes on."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

import chunkflow as cf
from chunkflow.analysis.network import volume_network
from chunkflow.errors import ConfigError, OutputInUseError, UsageError
from chunkflow.kernels.threshold import Bins, histogram
from chunkflow.kernels.threshold_rules import otsu
from chunkflow.run import batch_processes
from chunkflow.run.batch import Options, run_batch
from chunkflow.run.batch_summary import outliers, read_summary
from chunkflow.run.lock import OutputLock

VOXEL_UM = (0.2, 0.1, 0.1)
SERIAL = Options(on="serial")
STAGES = [{"threshold": {"method": "otsu"}}, {"label": {"min_voxels": 4}}, {"measure": {}}]


def pipeline(*, stages=STAGES, **input):
    return cf.Pipeline.from_dict({"version": 1, "input": input, "stages": stages})


def cubes(count, *, seed=0, bright=200, shape=(10, 32, 32)):
    """`count` cubes of 3 x 4 x 4 voxels that do not touch, in noise."""
    random = np.random.default_rng(seed)
    image = random.poisson(10, shape).astype(np.uint16)
    for cell in random.permutation(16)[:count]:
        y, x = (8 * int(v) + 2 for v in divmod(int(cell), 4))
        image[4:7, y : y + 4, x : x + 4] += bright
    return image


def write_tiff(path, image, axes="ZYX"):
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"axes": axes, "spacing": VOXEL_UM[0], "unit": "um"}
    tifffile.imwrite(path, image, imagej=True, resolution=(1 / VOXEL_UM[1], 1 / VOXEL_UM[2]), metadata=metadata)


COUNTS = {"ctrl/day1/a.tif": 5, "ctrl/day2/a.tif": 6, "drug/day1/a.tif": 9, "drug/day2/a.tif": 10}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, count) in enumerate(COUNTS.items()):
        write_tiff(folder / name, cubes(count, seed=seed))
    whole = (folder / "ctrl/day1/a.tif").read_bytes()
    (folder / "drug/day2/torn.tif").write_bytes(whole[: len(whole) // 2])
    tifffile.imwrite(folder / "drug/day2/unsized.tif", cubes(3))
    write_tiff(folder / "drug/day1/flat.tif", np.full((4, 16, 16), 7, np.uint16))
    return folder


@pytest.fixture(scope="module")
def batch(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "out"
    events = []
    options = Options(on="serial", conditions="{condition}/{replicate}/*.tif")
    return run_batch(pipeline(), [data], out, options=options, on_event=events.append), events


def by_file(table):
    return table.set_index("file")


def test_every_file_has_a_row_and_good_ones_are_counted(batch):
    done, _ = batch
    rows = by_file(read_summary(done.path))
    assert len(rows) == 7
    assert {name: rows.objects[name] for name in COUNTS} == COUNTS
    assert rows.condition["ctrl/day2/a.tif"] == "ctrl"
    assert rows.replicate["ctrl/day2/a.tif"] == "day2"
    volume = COUNTS["drug/day2/a.tif"] * 3 * 4 * 4 * 0.2 * 0.1 * 0.1
    assert rows.volume_um3["drug/day2/a.tif"] == pytest.approx(volume)
    assert rows.object_volume_median_um3["drug/day2/a.tif"] == pytest.approx(3 * 4 * 4 * 0.2 * 0.1 * 0.1)


def test_bad_files_say_why_and_cost_no_other(batch):
    rows = by_file(batch[0].failed)
    assert set(rows.index) == {"drug/day2/torn.tif", "drug/day2/unsized.tif", "drug/day1/flat.tif"}
    assert "damaged TIFF" in rows.error["drug/day2/torn.tif"]
    assert "voxel size" in rows.error["drug/day2/unsized.tif"]
    assert "one value" in rows.error["drug/day1/flat.tif"]


def test_results_are_those_of_single_runs_and_imports_are_gone(batch, data, tmp_path):
    done, _ = batch
    from chunkflow.storage.importing import import_image

    import_image(data / "drug/day1/a.tif", tmp_path / "in.ome.zarr")
    single = pipeline().plan(tmp_path / "in.ome.zarr", tmp_path / "single").run(on="serial")
    result = cf.open_result(done.path / "drug/day1/a")
    np.testing.assert_array_equal(result.labels[:], single.labels[:])
    pd.testing.assert_frame_equal(result.objects, single.objects)
    assert not list(done.path.rglob("inputs"))


def test_events_tell_of_every_file(batch):
    files = [event for event in batch[1] if event["event"] == "file"]
    assert [event["done"] for event in files] == list(range(1, 8))
    assert files[-1]["failed"] == 3


def test_a_second_call_computes_only_what_has_no_result(data, batch, monkeypatch):
    done, _ = batch
    before = {path: path.stat().st_mtime_ns for path in done.path.rglob("journal.jsonl")}
    again = run_batch(pipeline(), [data], done.path, options=SERIAL)
    assert len(again.reused) == 4
    assert {path: path.stat().st_mtime_ns for path in before if "drug/day1/flat" not in str(path)} == {
        path: time for path, time in before.items() if "drug/day1/flat" not in str(path)
    }
    assert again.summary.condition.eq("").all()  # conditions are asked for each time, results are not


def test_a_file_that_was_repaired_is_run_and_a_changed_parameter_runs_all(tmp_path):
    for name, count in (("a", 4), ("b", 5)):
        write_tiff(tmp_path / "in" / f"{name}.tif", cubes(count))
    good = (tmp_path / "in" / "b.tif").read_bytes()
    write_tiff(tmp_path / "in" / "b.tif", np.full((4, 16, 16), 7, np.uint16))
    first = run_batch(pipeline(), [tmp_path / "in"], tmp_path / "out", options=SERIAL)
    assert by_file(first.summary).status.to_dict() == {"a.tif": "done", "b.tif": "failed"}
    (tmp_path / "in" / "b.tif").write_bytes(good)
    second = run_batch(pipeline(), [tmp_path / "in"], tmp_path / "out", options=SERIAL)
    assert by_file(second.summary).objects.to_dict() == {"a.tif": 4, "b.tif": 5}
    assert second.reused == ("a",)
    other = [*STAGES[:1], {"label": {"min_voxels": 40}}, {"measure": {}}]
    assert run_batch(pipeline(stages=other), [tmp_path / "in"], tmp_path / "out", options=SERIAL).reused == ()


def test_a_done_file_that_changed_is_refused_until_told_to_start_over(tmp_path):
    write_tiff(tmp_path / "in" / "a.tif", cubes(4))
    run_batch(pipeline(), [tmp_path / "in"], tmp_path / "out", options=SERIAL)
    write_tiff(tmp_path / "in" / "a.tif", cubes(7, seed=3))
    changed = run_batch(pipeline(), [tmp_path / "in"], tmp_path / "out", options=SERIAL)
    assert "--restart" in changed.summary.error[0]
    again = run_batch(pipeline(), [tmp_path / "in"], tmp_path / "out", options=SERIAL)
    assert "--restart" in again.summary.error[0]
    again = run_batch(pipeline(), [tmp_path / "in"], tmp_path / "out", options=Options(on="serial", restart=True))
    assert again.summary.objects[0] == 7


def test_networks_of_a_file_are_summed_up_as_one(tmp_path):
    image = cubes(0)
    image[5, 4, 2:28] += 200
    image[5, 4:28, 15] += 200
    write_tiff(tmp_path / "in" / "a.tif", image)
    write_tiff(tmp_path / "in" / "b.tif", image[:, ::-1])
    stages = [*STAGES[:2], {"skeleton": {}}, *STAGES[2:]]
    done = run_batch(pipeline(stages=stages), [tmp_path / "in"], tmp_path / "out", options=SERIAL)
    row = by_file(done.summary).loc["a.tif"]
    expected = volume_network(cf.open_result(tmp_path / "out" / "a").networks)
    assert (row.network_nodes, row.network_branches, row.network_junctions_3) == (4, 3, 1)
    for name in ("components", "degree_mean", "phi", "connectivity_score"):
        assert row[f"network_{name}"] == pytest.approx(expected[name])
    assert "network_phi" not in run_batch(pipeline(), [tmp_path / "in"], tmp_path / "bare", options=SERIAL).summary


def test_a_file_that_vanishes_while_others_are_run_costs_its_own_row(tmp_path):
    for name in ("a", "b", "c"):
        write_tiff(tmp_path / "in" / f"{name}.tif", cubes(4))

    def remove(event):
        if event["event"] == "file":
            (tmp_path / "in" / "b.tif").unlink(missing_ok=True)

    done = run_batch(pipeline(), [tmp_path / "in"], tmp_path / "out", options=SERIAL, on_event=remove)
    assert by_file(done.summary).status.to_dict() == {"a.tif": "done", "b.tif": "failed", "c.tif": "done"}
    assert "does not exist" in by_file(done.summary).error["b.tif"]


def test_every_time_point_is_a_row(tmp_path):
    movie = np.stack([cubes(count, seed=count) for count in (3, 5, 7)])
    write_tiff(tmp_path / "in" / "m.tif", movie, axes="TZYX")
    done = run_batch(pipeline(time="all"), [tmp_path / "in" / "m.tif"], tmp_path / "out", options=SERIAL)
    assert done.summary[["t", "objects"]].to_numpy().tolist() == [[0, 3], [1, 5], [2, 7]]
    with pytest.raises(UsageError, match="time all"):
        pipeline(time="all").plan(tmp_path / "in" / "m.tif", tmp_path / "one")


def test_one_threshold_is_that_of_all_voxels_together(tmp_path):
    images = [cubes(6, seed=1, bright=90), cubes(6, seed=2, bright=400)]
    for k, image in enumerate(images):
        write_tiff(tmp_path / "in" / f"{k}.tif", image)
    (tmp_path / "in" / "torn.tif").write_bytes(b"II*\x00")
    shared = [{"threshold": {"method": "otsu", "from": "batch"}}, *STAGES[1:]]
    done = run_batch(pipeline(stages=shared), [tmp_path / "in"], tmp_path / "out", options=SERIAL)
    everything = np.stack(images)
    bins = Bins.of_range(float(everything.min()), float(everything.max()), np.uint16, smoothed=False)
    assert done.threshold == otsu(histogram(everything, bins), bins)
    good = done.summary[done.summary.status == "done"]
    assert (good.threshold == done.threshold).all()
    for k, image in enumerate(images):
        labels = cf.open_result(tmp_path / "out" / str(k)).labels
        assert set(np.unique(labels[:] > 0)) <= {False, True}
        assert not (labels[:].astype(bool) & (image <= done.threshold)).any()
    again = run_batch(pipeline(stages=shared), [tmp_path / "in"], tmp_path / "out", options=SERIAL)
    assert again.reused == ("0", "1")
    shutil.rmtree(tmp_path / "out" / "run" / "histograms")  # counting again must not leave results without labels
    run_batch(pipeline(stages=shared), [tmp_path / "in"], tmp_path / "out", options=SERIAL)
    assert cf.open_result(tmp_path / "out" / "0").labels is not None


def test_a_shared_threshold_needs_several_images_and_a_rule():
    with pytest.raises(ConfigError, match="looks at no histogram"):
        pipeline(stages=[{"threshold": {"method": "fixed", "from": "batch"}}, "label"])


def test_a_single_image_with_a_shared_threshold_is_refused(tmp_path, write_volume):
    write_volume(tmp_path / "a.ome.zarr", cubes(3), VOXEL_UM)
    shared = pipeline(stages=[{"threshold": {"from": "batch"}}, "label"])
    with pytest.raises(ConfigError, match="several files"):
        shared.plan(tmp_path / "a.ome.zarr", tmp_path / "out")


@pytest.mark.thorough
def test_a_volume_larger_than_a_block_gives_the_same_row(tmp_path):
    write_tiff(tmp_path / "in" / "a.tif", cubes(8, seed=4))
    cut = cf.Pipeline.from_dict({"version": 1, "block": [8, 16, 16], "stages": STAGES})
    small = run_batch(pipeline(), [tmp_path / "in"], tmp_path / "small", options=SERIAL).summary
    large = run_batch(cut, [tmp_path / "in"], tmp_path / "large", options=SERIAL).summary
    plan = json.loads((tmp_path / "large" / "a" / "run" / "plan.json").read_text())["plan"]
    assert plan["block"] == [8, 16, 16]
    machine = ["seconds", "kernel_seconds", "warnings"]  # the last is of small chunks
    pd.testing.assert_frame_equal(small.drop(columns=machine), large.drop(columns=machine))


def test_a_batch_writes_only_where_a_batch_may(tmp_path, batch):
    write_tiff(tmp_path / "in" / "a.tif", cubes(3))
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "thesis.doc").write_text("mine")
    with pytest.raises(UsageError, match="no batch"):
        run_batch(pipeline(), [tmp_path / "in"], tmp_path / "else", options=SERIAL)
    with pytest.raises(UsageError, match="run of one image"):
        run_batch(pipeline(), [tmp_path / "in"], batch[0].path / "ctrl/day1/a", options=SERIAL)
    (tmp_path / "out" / "run").mkdir(parents=True)
    with OutputLock(tmp_path / "out" / "run"), pytest.raises(OutputInUseError):
        run_batch(pipeline(), [tmp_path / "in"], tmp_path / "out", options=SERIAL)


def test_every_image_of_an_ome_tiff_has_a_row_and_the_objects_of_a_file_of_its_own(tmp_path):
    sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", VOXEL_UM, strict=True)}
    with tifffile.TiffWriter(tmp_path / "m.ome.tif", ome=True) as writer:
        for name, count in (("first", 4), ("second", 7)):
            facts = {"axes": "ZYX", "Name": name, **sizes, **{f"{size}Unit": "\u00b5m" for size in sizes}}
            writer.write(cubes(count, seed=count), metadata=facts)
    done = run_batch(pipeline(), [tmp_path / "m.ome.tif"], tmp_path / "out", options=SERIAL)
    rows = by_file(done.summary)
    assert rows["objects"].to_dict() == {"m.ome.tif/first": 4, "m.ome.tif/second": 7}
    again = run_batch(pipeline(), [tmp_path / "m.ome.tif"], tmp_path / "out", options=SERIAL)
    assert set(again.reused) == {"m/first", "m/second"}


def test_counts_are_whole_numbers_in_the_table_also_beside_files_that_failed(batch):
    done, _ = batch
    assert len(done.failed)
    with (done.path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["objects"] for row in rows} == {"", *map(str, COUNTS.values())}


def test_an_image_of_several_blocks_goes_to_the_cluster_of_the_profile_and_a_small_one_does_not(tmp_path, monkeypatch):
    from chunkflow.run import driver
    from chunkflow.run.engine import ClusterOptions, SerialEngine
    from chunkflow.run.profiles import Pool, Profile

    asked = []

    def engine(*_, on, options, **more):
        asked.append(on if options is None or options.profile is None else options.profile.name)
        return SerialEngine()

    write_tiff(tmp_path / "data" / "small.tif", cubes(5, shape=(10, 32, 32)))
    write_tiff(tmp_path / "data" / "large.tif", cubes(6, shape=(40, 32, 32)))
    monkeypatch.setattr(driver, "engine_for", engine)
    cluster = ClusterOptions(profile=Profile(name="site", cpu=Pool()))
    small = cf.Pipeline.from_dict({"version": 1, "block": [16, 32, 32], "stages": STAGES})
    done = run_batch(small, [tmp_path / "data"], tmp_path / "out", options=Options(cluster=cluster, workers=1))
    assert by_file(done.summary)["objects"].to_dict() == {"large.tif": 6, "small.tif": 5}
    assert asked == ["serial", "site"]


def test_samples_beside_the_images_are_read(tmp_path):
    write_tiff(tmp_path / "in" / "a.tif", cubes(3))
    (tmp_path / "in" / "samples.csv").write_text("file;condition;replicate\na.tif;wt;m1\n")
    done = run_batch(pipeline(), [tmp_path / "in"], tmp_path / "out", options=SERIAL)
    assert done.summary.condition[0] == "wt"
    assert done.summary.replicate[0] == "m1"


def test_outliers_are_told_within_their_condition():
    counts = [10, 11, 12, 10, 11, 50, 52, 49, 51, 50, 2]
    table = pd.DataFrame({"objects": counts, "condition": ["a"] * 5 + ["b"] * 6})
    said = outliers(table)
    assert [bool(words) for words in said] == [False] * 10 + [True]
    assert said[-1] == "objects 2 (median 50)"


def double(value):
    return 2 * value


def die_of_three(value):
    if value == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def test_few_tasks_start_no_process(monkeypatch):
    monkeypatch.setattr(batch_processes, "_on_processes", lambda *_: pytest.fail("started"))
    assert list(batch_processes.in_flight(double, [1, 2, 3], workers=4)) == [(1, 2), (2, 4), (3, 6)]


@pytest.mark.thorough
def test_a_task_that_kills_its_process_is_told_and_the_others_finish():
    found = dict(batch_processes.in_flight(die_of_three, list(range(5)), workers=2, at_once=True))
    assert isinstance(found.pop(3), batch_processes.DiedError)
    assert found == {k: k for k in range(5) if k != 3}


@pytest.mark.thorough
def test_processes_give_what_one_process_gives(tmp_path, data):
    found = {}
    for name, options in (("one", SERIAL), ("two", Options(on="local", workers=2))):
        done = run_batch(pipeline(), [data], tmp_path / name, options=options)
        found[name] = done.summary.drop(columns=["seconds", "kernel_seconds"])
    pd.testing.assert_frame_equal(found["one"], found["two"])


@pytest.mark.thorough
def test_a_batch_that_is_killed_goes_on_and_ends_as_one_that_was_not(tmp_path, tree_hash):
    for k in range(6):
        write_tiff(tmp_path / "in" / f"{k}.tif", cubes(3 + k, seed=k))
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\nstages: [{threshold: {from: batch}}, {label: {min_voxels: 4}}, measure]\n")
    code = "from chunkflow.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "run",
        str(file),
        str(tmp_path / "in"),
        "-o",
        str(tmp_path / "out"),
        "--on",
        "serial",
    ]
    kills = 0
    for wanted in ("histograms", "files"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            folder = tmp_path / "out" / "run" / wanted
            if folder.is_dir() and len(list(folder.iterdir())) >= 2:
                process.kill()
                kills += 1
                break
            time.sleep(0.01)
        said = process.communicate()[0]
    assert kills == 2, said
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole = cf.Pipeline.from_yaml(file)
    run_batch(whole, [tmp_path / "in"], tmp_path / "clean", options=SERIAL)
    for k in range(6):
        assert tree_hash(tmp_path / "out" / str(k)) == tree_hash(tmp_path / "clean" / str(k))
    drop = ["seconds", "kernel_seconds"]
    pd.testing.assert_frame_equal(
        read_summary(tmp_path / "out").drop(columns=drop), read_summary(tmp_path / "clean").drop(columns=drop)
    )


YEAST = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.thorough
@pytest.mark.skipif(not (YEAST / "yeast_mito_01.tif").is_file(), reason="shared/data with the yeast stacks is not here")
def test_three_yeast_stacks_in_one_command_have_the_lengths_of_mitograph(tmp_path):
    published = {"yeast_mito_01.tif": 46.57995, "yeast_mito_03.tif": 15.97084, "yeast_mito_05.tif": 16.01066}
    file = Path(__file__).parents[2] / "examples" / "mitochondria.yaml"
    command = [sys.executable, "-c", "from chunkflow.cli import main; main()", "run", str(file)]
    command += [str(YEAST / "yeast_mito_*.tif"), "-o", str(tmp_path / "out"), "--voxel-um", "0.2", "0.056", "0.056"]
    subprocess.run([*command, "--on", "serial"], check=True, stdout=subprocess.DEVNULL)
    found = by_file(read_summary(tmp_path / "out")).length_um.to_dict()
    assert found == pytest.approx(published, rel=0.05)
    shutil.rmtree(tmp_path / "out")


def test_errors_name_the_file_and_not_its_import(tmp_path):
    write_tiff(tmp_path / "data/a.tif", np.stack([cubes(3, seed=t) for t in range(2)]), "TZYX")
    write_tiff(tmp_path / "data/b.tif", cubes(3))
    rows = by_file(run_batch(pipeline(), [tmp_path / "data"], tmp_path / "out", options=SERIAL).summary)
    assert rows.error["a.tif"].startswith("a.tif holds 2 time points: 0 to 1. ")
    assert rows.error["a.tif"].endswith("or run each with time: all")
