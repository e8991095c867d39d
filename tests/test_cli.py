"""The command line as its users meet it: what each command prints, and the exit code of everything that goes wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage
from typer.testing import CliRunner, Result

from chunkflow import cli
from chunkflow.geometry.scale import Scale
from chunkflow.run import demo as demonstration
from chunkflow.run import demo_network, driver, synthesise
from chunkflow.run.lock import OutputLock
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr import Channel
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.volume import create_array
from chunkflow.testing.suites import write_volume

SHAPE = (24, 40, 40)
PIPELINE = """\
version: 1
block: [32, 32, 32]
stages:
  - threshold: {method: fixed, value: 0.62}
  - label: {}
  - skeleton: {}
  - measure: {}
"""

Files = Path


def chunkflow(*arguments: object) -> Result:
    """Run one command in this process."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def image() -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    smooth = ndimage.gaussian_filter(rng.random(SHAPE).astype(np.float32), 2.0)
    return np.asarray((smooth - smooth.min()) / (smooth.max() - smooth.min()), np.float32)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A folder with in.ome.zarr and p.yaml, as the current one."""
    write_volume(tmp_path / "in.ome.zarr", image(), (0.5, 0.5, 0.5))
    (tmp_path / "p.yaml").write_text(PIPELINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*options: object, source: str = "in.ome.zarr") -> Result:
    return chunkflow("run", "p.yaml", source, "-o", "out", "--on", "serial", "--device", "cpu", *options)


def refused(result: Result, code: int, *words: str) -> None:
    """The command ended with this code and one sentence that holds the words, and without a traceback."""
    assert result.exit_code == code, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line, line
    assert "Traceback" not in result.output


# What works


def test_a_run_names_the_device_first_and_the_result_last(here: Files) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    first, *_ = result.stdout.splitlines()
    assert first.startswith("CPU ") and "asked for" in first
    assert "certified" in result.stdout and "napari" in result.stdout and "report.html" in result.stdout
    assert (here / "out" / "report.html").is_file() and (here / "out" / "tables" / "objects.csv").is_file()
    assert "label " in result.stdout and "\x1b" not in result.stdout


def test_a_second_run_computes_nothing_and_a_changed_threshold_what_depends_on_it(here: Files) -> None:
    run()
    again = [json.loads(line) for line in run("--json").stdout.splitlines()]
    (planned,) = [event for event in again if event["event"] == "plan"]
    assert planned["needed"] == []
    assert again[0]["event"] == "device"
    assert again[-1]["event"] == "end" and again[-1]["code"] == 0 and again[-1]["objects"] > 0
    changed = [json.loads(line) for line in run("--json", "--set", "threshold.value=0.7").stdout.splitlines()]
    (planned,) = [event for event in changed if event["event"] == "plan"]
    assert "scan" not in planned["needed"] and "label" in planned["needed"]


def test_a_resume_takes_the_block_of_the_stored_plan(here: Files) -> None:
    (here / "p.yaml").write_text(PIPELINE.replace("block: [32, 32, 32]\n", ""))
    run("--block", 16, 32, 32)
    planned = json.loads(chunkflow("plan", "p.yaml", "in.ome.zarr", "-o", "out", "--device", "cpu", "--json").stdout)
    assert planned["block"] == [16, 32, 32]
    assert len(planned["reused"]) == len(planned["passes"])
    fresh = chunkflow("plan", "p.yaml", "in.ome.zarr", "-o", "out", "--device", "cpu", "--json", "--restart")
    assert json.loads(fresh.stdout)["block"] != [16, 32, 32]


def test_a_plan_states_passes_arrays_and_memory_and_writes_nothing(here: Files) -> None:
    before = sorted(here.rglob("*"))
    result = chunkflow("plan", "p.yaml", "--input", "in.ome.zarr", "--output", "out", "--workers", 2)
    assert result.exit_code == 0, result.output
    for word in ("relabel", "halo", "peak MiB", "temporary", "kept", "projected peak per worker", "32 32 32"):
        assert word in result.stdout
    assert sorted(here.rglob("*")) == before


def test_more_workers_leave_each_less_memory(here: Files) -> None:
    def limit(workers: int) -> int:
        planned = chunkflow("plan", "p.yaml", "in.ome.zarr", "-o", "out", "--workers", workers, "--json")
        return int(json.loads(planned.stdout)["memory_bytes_per_worker"])

    assert abs(limit(2) - 2 * limit(4)) <= 2


def test_the_command_line_wins_over_the_file(here: Files) -> None:
    (here / "p.yaml").write_text(PIPELINE + "input: {path: absent.ome.zarr}\noutput: {path: other}\n")
    assert run().exit_code == 0
    assert (here / "out").is_dir() and not (here / "other").exists()


def test_an_older_format_can_be_named_without_quotes(here: Files) -> None:
    assert run("--set", "output.format=0.4").exit_code == 0
    assert (here / "out" / "image.ome.zarr" / ".zattrs").is_file()


def test_status_tells_a_complete_run_from_none(here: Files) -> None:
    refused(chunkflow("status", "out"), 2, "out holds no run")
    run()
    result = chunkflow("status", "out")
    assert result.exit_code == 0 and "out: complete (exit code 0)" in result.stdout
    assert json.loads(chunkflow("status", "out", "--json").stdout)["state"] == "complete"


def test_import_prints_the_voxel_size_and_where_it_was_read(here: Files) -> None:
    tifffile.imwrite(
        here / "a.tif", np.ones((4, 8, 8), np.uint16), imagej=True, resolution=(10, 10),
        metadata={"axes": "ZYX", "spacing": 0.3, "unit": "um"},
    )  # fmt: skip
    result = chunkflow("import", "a.tif", "a.ome.zarr")
    assert result.exit_code == 0, result.output
    assert "voxel size 0.3 0.1 0.1 um (z y x), " in result.stdout
    given = chunkflow("import", "a.tif", "b.ome.zarr", "--voxel-um", 1, 0.5, 0.5, "--format", "0.4")
    assert "voxel size 1 0.5 0.5 um (z y x), as given" in given.stdout
    assert (here / "b.ome.zarr" / ".zattrs").is_file()
    checked = chunkflow("check", "b.ome.zarr")
    for words in ("OME-Zarr 0.4", "zyx", "4 8 8", "uint16", "1 0.5 0.5"):
        assert words in checked.stdout


def test_check_counts_missing_chunks_channels_and_times(here: Files) -> None:
    write_many(here / "many.ome.zarr", channels=2, times=3)
    facts = json.loads(chunkflow("check", "many.ome.zarr", "--json").stdout)
    assert facts["channels"] == ["red", "green"] and facts["times"] == 3 and facts["shape"] == [3, 2, *SHAPE]
    assert facts["missing_chunks"] == [6]  # nothing was written: one file for each of 3 x 2 positions


def test_check_says_what_a_network_is(here: Files) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from chunkflow.models.load import digest_of, save_model
    from chunkflow.models.unet import UNet, UNetConfig

    torch.manual_seed(0)
    config = UNetConfig()
    save_model(UNet(config), config, here / "net.safetensors")
    facts = json.loads(chunkflow("check", "net.safetensors", "--json").stdout)
    assert facts["kind"] == "network" and facts["stride"] == list(config.stride)
    assert facts["out_channels"] == config.out_channels and facts["digest"] == digest_of(here / "net.safetensors")


def test_synth_writes_labels_that_hold_the_truth_it_states(here: Files) -> None:
    result = chunkflow("synth", "s", "--shape", 32, 80, 80, "--voxel-um", 0.2, 0.1, 0.1, "--seed", 4)
    assert result.exit_code == 0, result.output
    truth = json.loads((here / "s" / "truth.json").read_text())
    facts = json.loads(chunkflow("check", here / "s" / "image.ome.zarr" / "labels" / "truth", "--json").stdout)
    assert facts["shape"] == truth["shape"] == [32, 80, 80]
    from chunkflow import open_volume

    labels = open_volume(here / "s" / "image.ome.zarr" / "labels" / "truth")[...]
    assert labels.max() == truth["objects"] == len(truth["object_loops"])
    assert np.count_nonzero(labels) * 0.2 * 0.1 * 0.1 == pytest.approx(truth["volume_um3"])
    before = (here / "s" / "image.ome.zarr" / "zarr.json").stat().st_mtime_ns
    same = chunkflow("synth", "s", "--shape", 32, 80, 80, "--voxel-um", 0.2, 0.1, 0.1, "--seed", 4)
    assert same.exit_code == 0 and (here / "s" / "image.ome.zarr" / "zarr.json").stat().st_mtime_ns == before
    refused(chunkflow("synth", "s", "--seed", 5), 2, "--overwrite")


def test_the_demo_compares_with_the_truth_and_ends_with_3_outside_its_tolerance(
    here: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demonstration, "DICE_TOLERANCE", 0.0)
    small = synthesise.synthesise("d", shape=(40, 110, 110))
    monkeypatch.setattr(demonstration, "synthesise", lambda folder: small)
    monkeypatch.setattr(demo_network, "why_not", lambda: "nothing is missing but time")
    result = chunkflow("demo", "d", "--on", "serial", "--device", "cpu")
    refused(result, 3, "outside its tolerance")
    assert (here / "d" / "pipeline.yaml").is_file() and (here / "d" / "result" / "report.html").is_file()
    rows = {line.split("│")[1].strip(): line for line in result.stdout.splitlines() if line.startswith("│")}
    found, truth, allowed, verdict = (cell.strip() for cell in rows["objects"].split("│")[2:6])
    assert found == truth == str(small["objects"]) and (allowed, verdict) == ("exact", "ok")
    assert "within 12%" in rows["length_um"] and "outside" in rows["dice"]
    assert "nothing is missing but time" in result.stdout


def test_the_help_of_the_program_fits_a_screen() -> None:
    result = chunkflow("--help")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) <= 40
    assert len(chunkflow("run", "--help").stdout.splitlines()) <= 48


# What does not


def write_many(path: Path, *, channels: int = 1, times: int = 1) -> None:
    """An image of zeros with several channels and time points; no chunk is there."""
    from dataclasses import replace

    scale = Scale((0.5, 0.5, 0.5))
    layout = replace(layout_for_core(SHAPE, SHAPE, "uint16"), leading=(times, channels))
    create_array(path / "0", layout, scale, axes="tczyx")
    names = ("red", "green")[:channels]
    shown = [Channel(name, (0.0, 1.0)) for name in names]
    write_image_group(path, name="many", levels={"0": scale}, axes="tczyx", channels=shown)


def edited(here: Files, old: str, new: str) -> None:
    text = (here / "p.yaml").read_text()
    assert old in text
    (here / "p.yaml").write_text(text.replace(old, new))


def no_scale(here: Files) -> None:
    metadata = here / "in.ome.zarr" / "zarr.json"
    content = json.loads(metadata.read_text())
    content["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"] = []
    metadata.write_text(json.dumps(content))


def zero_scale(here: Files) -> None:
    metadata = here / "in.ome.zarr" / "zarr.json"
    metadata.write_text(metadata.read_text().replace("0.5,", "0.0,"))


def fake_model(here: Files) -> None:
    (here / "fake.pt").write_text("not a network")
    edited(here, "  - threshold: {method: fixed, value: 0.62}\n", "  - predict: {path: fake.pt}\n")


def large_psf(here: Files) -> None:
    voxels = np.zeros((201, 3, 3), np.float32)
    voxels[:, 1, 1] = np.hanning(203)[1:-1]
    tifffile.imwrite(here / "psf.tif", voxels, photometric="minisblack")
    edited(here, "stages:\n", "stages:\n  - deconvolve: {psf: {path: psf.tif}}\n")


PREPARED: list[tuple[str, Callable[[Files], object], tuple[object, ...], tuple[str, ...]]] = [
    ("missing input", lambda h: shutil.rmtree(h / "in.ome.zarr"), (), ("in.ome.zarr does not exist",)),
    ("missing pipeline", lambda h: (h / "p.yaml").unlink(), (), ("p.yaml",)),
    ("no voxel size", no_scale, (), ("no voxel size", "--voxel-um")),
    ("zero voxel size", zero_scale, (), ("not positive",)),
    ("unknown stage", lambda h: edited(h, "threshold", "treshold"), (), ("'treshold'", "Did you mean 'threshold'")),
    ("unknown key", lambda h: edited(h, "method", "metod"), (), ("'metod'", "Did you mean 'method'")),
    ("unknown section", lambda h: edited(h, "version", "versoin"), (), ("Did you mean 'version'",)),
    ("bad value", lambda h: edited(h, "0.62", "high"), (), ("threshold", "value")),
    ("not YAML", lambda h: edited(h, "stages:", "stages: ]"), (), ("not YAML",)),
    ("a core that is no multiple of the shard", lambda h: None, ("--set", "output.shard=[24,24,24]"), ("multiple",)),
    ("a PSF larger than the volume", large_psf, (), ("PSF", "more than the volume")),
    ("a network that is none", fake_model, (), ("fake.pt",)),
    ("set without a stage", lambda h: None, ("--set", "smooth.method=li"), ("'smooth'",)),
    ("set to what is not YAML", lambda h: None, ("--set", "threshold.value=[1"), ("not YAML",)),
    ("set without a value", lambda h: None, ("--set", "threshold"), ("KEY.key=value",)),
    ("a block without voxels", lambda h: None, ("--block", 0, 8, 8), ("not positive",)),
    ("no worker", lambda h: None, ("--workers", 0), ("0 workers",)),
    ("slurm", lambda h: None, ("--on", "slurm"), ("slurm", "--profile")),
    ("pbs", lambda h: None, ("--on", "pbs"), ("pbs", "local, threads, serial")),
    ("no scheduler", lambda h: None, ("--on", "tcp:/nowhere"), ("tcp:/nowhere",)),
    ("two inputs", lambda h: None, ("--input", "in.ome.zarr"), ("two inputs",)),
]  # fmt: skip


@pytest.mark.parametrize(("prepare", "options", "words"), [case[1:] for case in PREPARED], ids=[c[0] for c in PREPARED])
def test_a_run_that_cannot_be_is_refused_with_2_before_anything_is_written(
    here: Files, prepare: Callable[[Files], object], options: tuple[object, ...], words: tuple[str, ...]
) -> None:
    prepare(here)
    refused(run(*options), 2, *words)
    assert not (here / "out").exists()


def test_channels_and_times_that_are_not_chosen_are_listed(here: Files) -> None:
    write_many(here / "channels.ome.zarr", channels=2)
    write_many(here / "times.ome.zarr", times=3)
    refused(run(source="channels.ome.zarr"), 2, "0 (red), 1 (green)", "channel")
    refused(run(source="times.ome.zarr"), 2, "3 time points: 0 to 2", "time")
    assert not (here / "out").exists()


def test_no_input_or_output_anywhere_is_refused_with_2(here: Files) -> None:
    refused(chunkflow("run", "p.yaml", "-o", "out"), 2, "no input is named", "--input")
    refused(chunkflow("run", "p.yaml", "in.ome.zarr"), 2, "no output is named", "-o")


IMPORTS = [
    ("missing", ("absent.tif",), ("absent.tif",)),
    ("unreadable", ("text.tif",), ("text.tif", "TIFF")),
    ("wrong number of axes", ("a.tif", "--axes", "TCZYX"), ("axes",)),
    ("no voxel size", ("a.tif",), ("--voxel-um Z Y X",)),
    ("zero voxel size", ("a.tif", "--voxel-um", 0, 1, 1), ("not positive",)),
    ("negative voxel size", ("a.tif", "--voxel-um", 1, -1, 1), ("not positive",)),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), [case[1:] for case in IMPORTS], ids=[case[0] for case in IMPORTS])
def test_an_import_that_cannot_be_is_refused_with_2_before_anything_is_written(
    here: Files, arguments: tuple[object, ...], words: tuple[str, ...]
) -> None:
    (here / "text.tif").write_text("hello")
    tifffile.imwrite(here / "a.tif", np.ones((6, 8, 8), np.uint16))
    source, *options = arguments
    before = sorted(here.iterdir())
    refused(chunkflow("import", source, "b.ome.zarr", *options), 2, *words)
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("name", ["verify", "view", "preview", "init", "train", "submit"])
def test_commands_that_are_not_there_yet_are_refused_with_2(name: str) -> None:
    assert chunkflow(name).exit_code == 2


@pytest.mark.parametrize("option", ["--region", "--on-oom", "--allow-holes"])
def test_options_that_are_not_there_yet_are_refused_with_2(here: Files, option: str) -> None:
    assert run(option, "x").exit_code == 2


def test_an_output_that_holds_something_else_needs_overwrite(here: Files) -> None:
    (here / "out").mkdir()
    (here / "out" / "thesis.txt").write_text("mine")
    refused(run(), 2, "--overwrite")
    assert run("--overwrite").exit_code == 0
    assert (here / "out" / "thesis.txt").read_text() == "mine"


def test_an_output_in_use_is_refused_with_5(here: Files) -> None:
    with OutputLock(here / "out" / "run"):
        refused(run(), 5, "another run writes out", str(os.getpid()))
    assert run().exit_code == 0


def test_a_changed_input_is_refused_with_6_and_the_difference_named(here: Files) -> None:
    run()
    shutil.rmtree(here / "in.ome.zarr")
    write_volume(here / "in.ome.zarr", image()[:, :, :32], (0.5, 0.5, 0.5))
    refused(run(), 6, "24x40x40 -> 24x40x32", "--restart")
    assert run("--restart").exit_code == 0


def test_a_nan_ends_with_3_and_its_coordinates_and_can_be_read_as_zero(here: Files) -> None:
    data = image()
    data[5, 33, 7] = np.nan
    shutil.rmtree(here / "in.ome.zarr")
    write_volume(here / "in.ome.zarr", data, (0.5, 0.5, 0.5))
    refused(run(), 3, "(5, 33, 7)", "nan: zero")
    found = chunkflow("status", "out")
    assert "(5, 33, 7)" in found.stdout and "failed (exit code 3)" in found.stdout and "to go on: cd" in found.stdout
    assert run("--set", "input.nan=zero").exit_code == 0


def test_a_disk_without_room_is_refused_with_4_before_anything_is_written(
    here: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(here)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    refused(run(), 4, "1 MiB free", "Free some space")
    assert not (here / "out").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_fills_up_ends_with_4_and_the_same_command_goes_on(
    here: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "out").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", here / "out"], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**40))
        refused(run(), 4, "no space left")
        subprocess.run(["mount", "-o", "remount,size=50M", here / "out"], check=True)
        assert run().exit_code == 0
    finally:
        subprocess.run(["umount", here / "out"], check=True)


def test_an_error_of_the_system_that_says_full_ends_with_4(here: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "run_plan", raising(OSError(errno.ENOSPC, "No space left on device", "out/x")))
    refused(run(), 4, "out/x", "No space left")


def test_an_unexpected_error_ends_with_1_and_its_traceback(here: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "run_plan", raising(RuntimeError("surprise")))
    result = run()
    assert result.exit_code == 1
    assert "Traceback" in result.stderr and "surprise" in result.stderr and "please report" in result.stderr


def test_an_interrupt_and_a_termination_end_with_130(here: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "run_plan", raising(KeyboardInterrupt()))
    refused(run(), 130, "the same command goes on")
    monkeypatch.setattr(driver, "run_plan", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    refused(run(), 130, "the same command goes on")


def test_a_traceback_is_shown_when_asked_for(here: Files) -> None:
    result = chunkflow("--debug", "run", "p.yaml", "-o", "out")
    assert result.exit_code == 2 and "Traceback" in result.stderr


def test_skeletons_that_are_not_certified_end_with_3_and_all_results_written(
    here: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunkflow.run.result.uncertified", lambda result: 1)
    result = run("--block", 24, 16, 16, "--set", "threshold.value=0.5")
    refused(result, 3, "not certified", "results are written")
    assert (here / "out" / "tables" / "objects.csv").is_file()
    assert chunkflow("status", "out").stdout.startswith("out: complete")


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


# PSFs

CONFOCAL = ("--microscope", "confocal", "--objective", "63x/1.4 oil", "--emission-nm", 525)


def test_psf_writes_a_file_and_a_picture_and_says_where_every_number_came_from(here: Files) -> None:
    result = chunkflow("psf", "p.tif", "--voxel-um", 0.3, 0.1, 0.1, *CONFOCAL, "--set", "depth_um=5")
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.split("│")[1:4]] for line in result.stdout.splitlines() if "│" in line]
    assert ["na", "1.4", "given"] in rows and ["depth_um", "5.0", "given"] in rows
    assert ["sample_index", "1.333", "assumed"] in rows and ["pinhole_au", "1.0", "assumed"] in rows
    assert [source for name, _, source in rows if name in ("fwhm_um", "shape", "energy")] == ["computed"] * 3
    assert "deconvolve: {psf: {path: p.tif}}" in result.stdout
    assert (here / "p.png").read_bytes().startswith(b"\x89PNG") and (here / "p.tif").is_file()
    refused(chunkflow("psf", "p.tif", "--voxel-um", 0.3, 0.1, 0.1, *CONFOCAL), 2, "p.tif exists", "--overwrite")
    wide = chunkflow("psf", "p.tif", "--voxel-um", 0.6, 0.1, 0.1, *CONFOCAL, "--overwrite", "--json")
    found = json.loads(wide.stdout)
    assert found["voxel_um"] == [0.6, 0.1, 0.1] and found["facts"]["na"] == {"value": 1.4, "source": "given"}
    assert found["beads"] is None
    assert "wide along z" in found["warnings"][0] and "0.183 um wide along y" in found["warnings"][1]


def test_psf_takes_the_voxel_size_of_an_image_and_asks_for_what_it_cannot_assume(here: Files) -> None:
    assert "0.5 0.5 0.5 um" in chunkflow("psf", "p.tif", "--like", "in.ome.zarr", "--fwhm-um", 3, 1.5, 1.5).stdout
    refused(chunkflow("psf", "q.tif", "--like", "in.ome.zarr", "--microscope", "confocal"), 2, "needs na", "objective")
    lens = ("--objective", "63x/1.4 oil", "--microscope", "confocal")
    refused(chunkflow("psf", "q.tif", "--like", "in.ome.zarr", *lens), 2, "needs emission_nm")
    refused(chunkflow("psf", "q.tif", *lens), 2, "--voxel-um")
    refused(chunkflow("psf", "q.png", "--like", "in.ome.zarr", *lens), 2, "does not end in .tif")
    refused(chunkflow("psf", "q.tif", "--like", "in.ome.zarr", "--beads", "in.ome.zarr"), 2, "--like", "--beads")
    assert not list(here.glob("q.*"))


def test_psf_averages_beads_and_prints_their_quality(here: Files) -> None:
    z, y, x = (np.exp(-(((np.arange(n) - n // 2) / 1.5) ** 2) / 2) for n in SHAPE)
    write_volume(here / "beads.ome.zarr", (1000 * z[:, None, None] * y[:, None] * x).astype(np.uint16), (0.2, 0.1, 0.1))
    result = chunkflow("psf", "b.tif", "--beads", "beads.ome.zarr", "--fwhm-um", 0.7, 0.35, 0.35)
    assert result.exit_code == 0, result.output
    rows = dict([cell.strip() for cell in line.split("│")[1:3]] for line in result.stdout.splitlines() if "│" in line)
    assert (rows["found"], rows["used"], rows["rejected"]) == ("1", "1", "none")
    assert rows["FWHM z"].startswith("0.70") and rows["FWHM x"].startswith("0.35")


def test_a_plan_says_which_psf_it_would_use(here: Files) -> None:
    edited(here, "stages:\n", "stages:\n  - deconvolve: {psf: {fwhm_um: [1.5, 1.2, 1.2]}}\n")
    result = chunkflow("plan", "p.yaml", "in.ome.zarr", "-o", "out", "--device", "cpu")
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("PSF: ")]
    assert line.startswith("PSF: gaussian; FWHM 1.5")
    made = chunkflow("psf", "p.tif", "--pipeline", "p.yaml", "--input", "in.ome.zarr", "--json")
    assert json.loads(made.stdout)["facts"]["model"] == {"value": "gaussian", "source": "given"}


def test_import_prints_the_optics_of_each_channel_that_has_any(here: Files) -> None:
    channel = '<Channel ID="C:0" Name="green" EmissionWavelength="525" SamplesPerPixel="1"/>'
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="I:0">'
        '<Pixels ID="P:0" DimensionOrder="XYZCT" Type="uint16" SizeX="8" SizeY="8" SizeZ="4" SizeC="1" SizeT="1" '
        f'PhysicalSizeX="0.1" PhysicalSizeY="0.1" PhysicalSizeZ="0.3">{channel}<TiffData/></Pixels></Image></OME>'
    )
    tifffile.imwrite(
        here / "a.ome.tif", np.ones((4, 8, 8), np.uint16), description=xml, metadata=None, photometric="minisblack"
    )
    result = chunkflow("import", "a.ome.tif", "a.ome.zarr")
    assert result.exit_code == 0, result.output
    assert "optics of green: emission_nm 525.0, from the file" in result.stdout.splitlines()
