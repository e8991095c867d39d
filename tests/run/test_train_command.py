"""`chunkflow train`: a file, a bar, a folder; Ctrl-C and the same command again; a sentence for what is wrong."""

import json
import os
import signal
import subprocess
import sys
from io import StringIO

import numpy as np
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.cli import app
from chunkflow.run.training_progress import training_progress
from chunkflow.synth import optics, phantoms

UM = (0.2, 0.1, 0.1)


@pytest.fixture(scope="module")
def file(tmp_path_factory, write_volume):
    folder = tmp_path_factory.mktemp("train")
    phantom = phantoms.mitochondria((16, 64, 72), UM, seed=0, radius_um=(0.25, 0.3), gap_um=(0.4, 0.3, 0.3))
    write_volume(folder / "image.ome.zarr", optics.acquire(phantom.labels, voxel_um=UM, seed=0), UM)
    write_volume(folder / "labels.ome.zarr", phantom.labels, UM)
    description = {
        "version": 1,
        "pairs": [{"image": "image.ome.zarr", "labels": "labels.ome.zarr"}],
        "network": {"widths": [4, 8], "norm": "batch"},
        "patch": [8, 16, 16],
        "validation": {"share": 0.25},
        "steps": 12,
        "validate_every": 6,
        "checkpoint_every": 4,
        "threads": 1,
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(description))
    return path


def command(*words):
    return CliRunner().invoke(app, ["train", *map(str, words)])


def test_from_a_file_to_a_pipeline(file, tmp_path, write_volume):
    done = command(file, "-o", tmp_path / "model", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "step 12: dice" in done.output
    assert "- predict: {path:" in done.output
    pipeline = tmp_path / "pipeline.yaml"
    stages = [{"predict": {"path": str(tmp_path / "model"), "patch": [8, 16, 16]}}, "label"]
    pipeline.write_text(yaml.safe_dump({"version": 1, "stages": stages}))
    out = tmp_path / "out"
    words = ["run", pipeline, "--input", file.parent / "image.ome.zarr", "-o", out, "--on", "serial"]
    ran = CliRunner().invoke(app, [*map(str, words)])
    assert ran.exit_code == 0, ran.output


def test_json_is_a_line_per_event(file, tmp_path):
    done = command(file, "-o", tmp_path / "model", "--json", "--set", "steps=2")
    events = [json.loads(line) for line in done.output.splitlines()]
    assert [event["event"] for event in events] == ["reading", "start", "step", "step", "validation", "end"]
    assert events[-1]["scores"].keys() == {"dice", "iou"}


@pytest.mark.thorough
def test_interrupted_and_run_again_it_goes_on(file, tmp_path):
    code = "import sys; from chunkflow.cli import main; sys.argv[0] = 'chunkflow'; main()"
    words = [sys.executable, "-c", code, "train", str(file), "-o", str(tmp_path / "model"), "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if '"step": 5,' in line:
            os.kill(process.pid, signal.SIGINT)
    assert process.wait() == 130
    assert process.stderr is not None
    assert "the same command goes on" in process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert (tmp_path / "model" / "training" / "checkpoint.pt").is_file()
    again = command(file, "-o", tmp_path / "model", "--json")
    steps = [e["step"] for e in map(json.loads, again.output.splitlines()) if e["event"] == "step"]
    assert steps[0] > 5
    assert steps[-1] == 12


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--set", "stps=3"), "Did you mean 'steps'"),
        (("--set", "patch=[8, 16, 15]"), "Use [8, 16, 16]"),
        (("--set", "steps"), "not key=value"),
        (("--workers", "3"), "a batch of 2 patches for 3 processes"),
        (("--device", "gpu"), "torch finds no GPU"),
    ],
)
def test_what_is_wrong_is_a_sentence_and_exit_code_2(file, tmp_path, words, says):
    import torch

    if "gpu" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = command(file, "-o", tmp_path / "model", *words)
    assert done.exit_code == 2
    assert says in done.output
    assert not (tmp_path / "model").exists()


def test_a_bar_is_drawn_on_a_terminal():
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with training_progress(console) as listener:
        listener({"event": "start", "device": "cpu", "workers": 1, "steps": 4})
        for step in range(1, 5):
            event = {"event": "step", "step": step, "steps": 4, "loss": 1 / step, "learning_rate": 0.1, "waited": 0}
            listener(event)
        listener({"event": "validation", "step": 4, "scores": {"dice": np.float64(0.5)}, "is_best": True})
    assert "4/4" in out.getvalue()
    assert "dice 0.5 (best)" in out.getvalue()
