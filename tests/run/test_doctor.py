"""The checks of a machine, and the bundle that explains a run without its data."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import InputNotFoundError
from chunkflow.run import doctor as module
from chunkflow.run.doctor import bundle, doctor


def by_name(folder: Path) -> dict[str, module.Check]:
    return {check.name: check for check in doctor(folder=folder, trial=False)}


def test_a_machine_that_runs_these_tests_is_well(tmp_path: Path) -> None:
    found = by_name(tmp_path)
    assert found["packages"].verdict == "ok" and "dask 2026.7.1" in found["packages"].found
    assert "cores" in found["memory"].found
    assert "MiB/s" in found["disk"].found


def test_another_dask_is_a_problem_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(module.PINNED, "dask", "1.0")
    check = by_name(tmp_path)["packages"]
    assert check.verdict == "problem" and "pip install dask==1.0" in check.remedy


def test_too_little_memory_per_core_names_the_workers_that_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "available_cores", lambda: 10**6)
    check = by_name(tmp_path)["memory"]
    assert check.verdict == "problem" and check.remedy.startswith("Use fewer workers: --workers ")


@pytest.mark.thorough
def test_the_trial_run_counts_what_was_drawn() -> None:
    check = module._trial()
    found, _, drawn = check.found.split(",")[0].removesuffix(" objects").partition(" of ")
    assert check.verdict == "ok" and found == drawn


def test_a_bundle_holds_no_voxel_and_no_secret(
    demo_volume: Path, demo_image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-1")
    monkeypatch.setenv("SLURM_AUTH_TOKEN", "hush-2")
    monkeypatch.setenv("OMP_PLACES", "cores")
    out = tmp_path / "out"
    cf.Pipeline([cf.Threshold(), cf.Label()]).plan(demo_volume, out, block=demo_image.shape).run(on="serial")
    journal = out / "run" / "journal.jsonl"
    journal.write_text(journal.read_text() + "s3://user:hush-3@bucket/in and https://x/y?sig=hush-4\n")
    with zipfile.ZipFile(bundle(out, tmp_path / "bundle.zip")) as archive:
        contents = {name: archive.read(name).decode() for name in archive.namelist()}
    assert {"checks.json", "environment.json", "run/plan.json", "run/journal.jsonl"} <= contents.keys()
    assert json.loads(contents["environment.json"])["variables"]["OMP_PLACES"] == "cores"
    assert "s3://bucket/in" in contents["run/journal.jsonl"]
    assert not any("hush" in text for text in contents.values())
    assert not any(name.startswith(("image", "run/arrays", "tables")) for name in contents)


def test_a_bundle_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="holds no run"):
        bundle(tmp_path, tmp_path / "bundle.zip")
