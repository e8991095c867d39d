"""Whoever reaches a scheduler runs code as its user: nothing leaves the machine unencrypted unasked."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster
from distributed.security import Security

import chunkflow as cf
from chunkflow.errors import UsageError
from chunkflow.run import dask as dask_engine
from chunkflow.run.addresses import check_address
from chunkflow.run.dask import check_certificates


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


CERTIFICATES = "distributed.comm.tls"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of one set of certificates, and the key of another."""
    folder = tmp_path_factory.mktemp("tls")
    made, other = Security.temporary(), Security.temporary()
    texts = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    texts |= {"other": other.tls_client_key, "none": "no certificate"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {name: str(folder / name) for name in (*texts, "missing")}


def settings(ca: str | None, cert: str | None, key: str | None) -> dict[str, Any]:
    return {f"{CERTIFICATES}.ca-file": ca, f"{CERTIFICATES}.client.cert": cert, f"{CERTIFICATES}.client.key": key}


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ((None, None, None), r"needs certificates, and \S+tls.ca-file and \S+tls.client.cert are not set"),
        (("ca", None, None), r"and distributed.comm.tls.client.cert is not set"),
        (("ca", "missing", "key"), r"No such file.*missing"),
        (("none", "cert", "key"), r"they are no certificates"),
        (("ca", "cert", "other"), r"the key is another's"),
    ],
)
def test_a_scheduler_with_tls_is_refused_at_once_without_certificates(
    certificates: dict[str, str],
    named: tuple[str | None, ...],
    words: str,
    tiny_volume: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dask_engine, "Client", lambda *_, **__: pytest.fail("a client was made"))
    plan = cf.Pipeline([cf.Threshold(), cf.Label()]).plan(tiny_volume, tmp_path / "out")
    files = [None if name is None else certificates[name] for name in named]
    began = time.monotonic()
    with dask.config.set(settings(*files)), pytest.raises(UsageError, match=words) as caught:
        plan.run(on="tls://127.0.0.1:9", device="cpu")
    assert time.monotonic() - began < 5
    assert "Name them in dask's settings" in caught.value.remedy and "docs/clusters.md" in caught.value.remedy
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["tls://127.0.0.1:9", "wss://127.0.0.1:9"])
def test_certificates_that_belong_together_are_taken(certificates: dict[str, str], address: str) -> None:
    with dask.config.set(settings(*(certificates[name] for name in ("ca", "cert", "key")))):
        check_certificates(address)


def test_other_addresses_need_no_certificates() -> None:
    check_certificates("tcp://127.0.0.1:9")
    check_certificates("inproc://x/1/2")


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
    options: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
    with LocalCluster(host="127.0.0.1", silence_logs=50, **options) as cluster, Client(cluster) as client:
        client.run(os.chdir, "/")
        result = cf.Pipeline([cf.Threshold(), cf.Label(), cf.Measure()]).plan(tiny_volume, "out").run(client=client)
    assert len(result.objects) > 0
    assert (tmp_path / "out" / "tables").is_dir()
