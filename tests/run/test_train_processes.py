"""`train` in processes that torchrun started: the weights of one process, one folder, one voice, and an end for all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")

from chunkflow.errors import ConfigError  # noqa: E402
from chunkflow.run.train import Training, train  # noqa: E402
from chunkflow.run.training_processes import device_of, started_processes  # noqa: E402

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29400",
}
COMMAND = "from chunkflow.cli import main; main()"


def test_what_torchrun_sets_says_which_process_this_is() -> None:
    group = started_processes(TORCHRUN)
    assert group is not None
    assert (group.rank, group.count, group.beside, group.is_first, group.address) == (3, 4, 2, False, "env://")
    assert (group.own("cuda"), group.own("cpu")) == ("cuda:1", "cpu")  # of its machine, not of all
    assert started_processes({}) is None
    assert started_processes({**TORCHRUN, "WORLD_SIZE": "1"}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MASTER_ADDR": ""}, "is missing: MASTER_ADDR"),
        ({"RANK": "", "LOCAL_RANK": "x"}, "is missing: RANK, LOCAL_RANK"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many'"),
    ],
)
def test_half_of_what_torchrun_sets_is_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        started_processes({**TORCHRUN, **change})


def test_processes_must_share_a_batch_and_are_started_once() -> None:
    training = Training.from_dict({"version": 1, "pairs": [{"image": "a", "labels": "b"}], "batch": 6})
    group = started_processes(TORCHRUN)
    with pytest.raises(ConfigError, match="a batch of 6 patches for 4 processes"):
        device_of("cpu", 1, training, group)
    with pytest.raises(ConfigError, match="2 workers, and torchrun started 4 processes"):
        device_of("cpu", 2, training, group)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, write_volume: Any) -> Path:
    """A training of a network without batch norm, whose statistics are of what one process sees."""
    folder = tmp_path_factory.mktemp("torchrun")
    rng = np.random.default_rng(0)
    labels = np.kron(rng.random((4, 8, 8)) > 0.5, np.ones((4, 5, 6))).astype(np.uint8)
    write_volume(folder / "image.ome.zarr", rng.poisson(np.where(labels, 400, 100)).astype(np.uint16), (0.2, 0.1, 0.1))
    write_volume(folder / "labels.ome.zarr", labels, (0.2, 0.1, 0.1))
    description = {
        "version": 1,
        "pairs": [{"image": "image.ome.zarr", "labels": "labels.ome.zarr"}],
        "network": {"widths": [8], "norm": "none"},
        "patch": [8, 16, 16],
        "validation": {"share": 0.25},
        "steps": 40,
        "validate_every": 20,
        "threads": 1,
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(description))
    return path


def torchrun(file: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    """Two processes of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    words = [sys.executable, "-c", COMMAND, "train", str(file), "-o", str(output), "--device", "cpu", *more]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*launcher, *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, said


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "weights.safetensors"))


@pytest.mark.thorough
def test_processes_of_torchrun_train_as_one_and_go_on_where_they_were_stopped(file: Path, tmp_path: Path) -> None:
    code, said = ended(torchrun(file, tmp_path / "both"))
    assert code == 0, said
    assert "2 processes, 40 steps" in said and said.count("step 20: dice") == 1  # one voice
    alone = train(Training.from_yaml(file), tmp_path / "alone", device="cpu")
    for name, value in weights(alone.path).items():
        torch.testing.assert_close(weights(tmp_path / "both")[name], value, rtol=1e-3, atol=1e-4)

    code, said = ended(torchrun(file, tmp_path / "both"))  # complete: the second process is let go
    assert code == 0 and "step 1 " not in said, said

    process = torchrun(file, tmp_path / "stopped")
    assert process.stdout is not None
    while "step 2" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)  # torchrun passes it on to both
    ended(process)
    assert (tmp_path / "stopped" / "training" / "checkpoint.pt").is_file()
    assert not (tmp_path / "stopped" / "training.json").exists()
    code, said = ended(torchrun(file, tmp_path / "stopped"))
    assert code == 0, said
    for name, value in weights(tmp_path / "both").items():
        assert torch.equal(weights(tmp_path / "stopped")[name], value)


@pytest.mark.thorough
def test_what_the_first_process_refuses_ends_all_of_them(file: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    code, said = ended(torchrun(file, tmp_path))
    assert code != 0 and said.count("holds something that is no training") == 1, said
