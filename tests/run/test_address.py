"""A scheduler that is already running does the work, named by its address."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import UsageError

PIPELINE = cf.Pipeline([cf.Threshold(smooth_um=0.1), cf.Label(), cf.Skeleton(), cf.Measure()])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler with two workers, as `dask scheduler` and `dask worker` start them."""
    folder = tmp_path_factory.mktemp("dask")
    found = folder / "scheduler.json"
    local = ["--scheduler-file", str(found), "--host", "127.0.0.1"]
    commands = [
        ["scheduler", *local, "--port", "0", "--no-dashboard", "--no-jupyter", "--no-show"],
        ["worker", *local, "--nworkers", "2", "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder)],
    ]
    started = [
        subprocess.Popen([sys.executable, "-m", "dask", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in commands
    ]
    try:
        from distributed import Client

        with Client(scheduler_file=str(found), timeout="60s", set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
            running = client.scheduler.address
        yield running
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)


@pytest.mark.thorough
def test_a_run_by_address_gives_the_bits_of_a_serial_one(address: str, tiny_volume: Path, tmp_path: Path) -> None:
    remote = PIPELINE.plan(tiny_volume, tmp_path / "remote", block=(16, 32, 32)).run(on=address, device="cpu")
    serial = PIPELINE.plan(tiny_volume, tmp_path / "serial", block=(16, 32, 32)).run(on="serial", device="cpu")
    for name in ("image", "labels", "skeleton"):
        np.testing.assert_array_equal(getattr(remote, name)[...], getattr(serial, name)[...])
    assert remote.objects.equals(serial.objects)


def test_an_address_where_nobody_answers_is_named(tiny_volume: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:9"):
        PIPELINE.plan(tiny_volume, tmp_path / "out").run(on="tcp://127.0.0.1:9", device="cpu")
    assert not (tmp_path / "out").exists()
