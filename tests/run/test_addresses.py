"""Whoever reaches a scheduler runs code as its user: nothing leaves the machine unencrypted unasked."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

import chunkflow as cf
from chunkflow.errors import UsageError
from chunkflow.run.addresses import check_address
from chunkflow.run.engine import ClusterOptions


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1:8786",
        "tcp://localhost:1",
        "tcp://[::1]:8786",
        "tls://node7:8786",
        "inproc://x/1/2",
        "wss://a:1",
    ],
)
def test_addresses_of_this_machine_and_encrypted_ones_are_fine(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize("address", ["tcp://node7:8786", "tcp://10.1.2.3:8786", "ws://node:1", "ucx://10.0.0.1:1"])
def test_addresses_that_leave_this_machine_unencrypted_need_a_word(address: str) -> None:
    with pytest.raises(UsageError, match=r"without encryption.*--insecure"):
        check_address(address)
    check_address(address, insecure=True)


@pytest.mark.parametrize("address", ["", "://", "node7", "tcp://"])
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(UsageError, match="no address"):
        check_address(address)


def test_a_run_refuses_such_an_address_before_it_writes(tiny_volume: Path, tmp_path: Path) -> None:
    plan = cf.Pipeline([cf.Threshold(), cf.Label()]).plan(tiny_volume, tmp_path / "out")
    with pytest.raises(UsageError, match="--insecure"):
        plan.run(on="tcp://192.0.2.1:8786", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_scheduler_with_tls_needs_certificates_here(tiny_volume: Path, tmp_path: Path) -> None:
    plan = cf.Pipeline([cf.Threshold(), cf.Label()]).plan(tiny_volume, tmp_path / "out")
    options: Any = ClusterOptions()
    with pytest.raises(UsageError, match=r"distributed\.comm\.tls"):
        plan.run(on="tls://127.0.0.1:9", device="cpu", options=options)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1", "tcp://127.0.0.1:x"])
def test_an_address_without_a_port_is_refused_at_once(address: str, tiny_volume: Path, tmp_path: Path) -> None:
    plan = cf.Pipeline([cf.Threshold(), cf.Label()]).plan(tiny_volume, tmp_path / "out")
    began = time.monotonic()
    with pytest.raises(UsageError, match="no dask scheduler answers"):
        plan.run(on=address, device="cpu")
    assert time.monotonic() - began < 10


def test_workers_may_have_been_started_in_another_folder(
    tiny_volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with LocalCluster(host="127.0.0.1", silence_logs=50, **settings) as cluster, Client(cluster) as client:
        client.run(os.chdir, "/")
        result = cf.Pipeline([cf.Threshold(), cf.Label(), cf.Measure()]).plan(tiny_volume, "out").run(client=client)
    assert len(result.objects) > 0
    assert (tmp_path / "out" / "tables").is_dir()
