"""A probe: samples of a volume are run as the plan would, leave nothing behind, and their times scale to all of it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import UsageError
from chunkflow.geometry.box import Box
from chunkflow.run import estimate
from chunkflow.run.estimate import Seen, estimated
from chunkflow.run.probe import PLACES, Sample, probe, sample_of
from chunkflow.stages.base import Uneven
from chunkflow.testing import suites

VOXEL_UM = (0.1, 0.1, 0.1)
STAGES = [cf.Threshold(smooth_um=0.1), cf.Label(), cf.Skeleton(), cf.Measure()]


def _volume(folder: Path, shape: tuple[int, int, int] = (26, 90, 120)) -> Path:
    """Noise that is brighter towards larger x."""
    rng = np.random.default_rng(0)
    image = rng.poisson(np.linspace(5, 60, shape[2]), shape).astype(np.uint16)
    suites.write_volume(folder / "in.ome.zarr", image, VOXEL_UM)
    return folder / "in.ome.zarr"


def _plan(source: Path, out: Path, block: tuple[int, int, int] = (24, 24, 24), **pipeline: Any) -> cf.Plan:
    return cf.Pipeline(STAGES, **pipeline).plan(source, out, block=block)


def test_samples_are_places_of_the_volume_from_dark_to_bright(tmp_path: Path) -> None:
    plan = _plan(_volume(tmp_path), tmp_path / "out")
    sample = sample_of(plan)
    assert len(sample.boxes) == PLACES
    assert sample.shape == (PLACES * 24, 36, 36)
    assert [box.start[2] for box in sample.boxes] == sorted(box.start[2] for box in sample.boxes)
    assert all(plan.input.box.contains(box) for box in sample.boxes)
    assert sample_of(plan) == sample


def test_a_volume_hardly_larger_than_its_samples_is_run_whole(tmp_path: Path) -> None:
    plan = _plan(_volume(tmp_path, (26, 40, 50)), tmp_path / "out")
    assert sample_of(plan).boxes == (plan.input.box,)


def test_samples_side_by_side_are_read_like_one_volume(tmp_path: Path) -> None:
    plan = _plan(_volume(tmp_path), tmp_path / "out")
    sample = Sample((Box((0, 5, 6), (8, 25, 26)), Box((15, 60, 90), (23, 80, 110))))
    whole = np.concatenate([plan.input.read(box) for box in sample.boxes])
    assert sample.shape == whole.shape
    box = Box((3, 2, 4), (13, 19, 20))
    np.testing.assert_array_equal(sample.read(plan.input, box), whole[box.slices])


@pytest.mark.thorough
def test_a_probe_says_what_a_run_takes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    source = _volume(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    plan = _plan(source, tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    found = probe(plan, on="serial", scratch=scratch)
    assert sorted(tmp_path.rglob("*")) == before
    low, expected, high = found.seconds
    assert 0 < low < expected < high
    assert set(found.passes) == {p.name for p in plan.passes}
    assert found.sampled_share == pytest.approx(prod(sample_of(plan).shape) / prod(plan.shape))
    assert found.gpu_hours is None
    assert found.workers == 1
    json.dumps(found.to_dict())
    plan.run(on="serial")
    kept = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert found.kept_bytes == pytest.approx(kept, rel=0.5)
    assert found.peak_bytes >= 0.9 * found.kept_bytes


def test_masks_and_resampled_grids_are_probed_too(tmp_path: Path) -> None:
    source = _volume(tmp_path)
    suites.write_volume(tmp_path / "mask.ome.zarr", np.ones((26, 90, 120), np.uint8), VOXEL_UM)
    options = cf.InputOptions(mask=str(tmp_path / "mask.ome.zarr"))
    stages = [cf.Resample(voxel_um=(0.2, 0.1, 0.1)), cf.Threshold(), cf.Label()]
    plan = cf.Pipeline(stages, input=options).plan(source, tmp_path / "out", block=(24, 24, 24))
    assert probe(plan, on="serial").seconds[1] > 0


def test_a_scratch_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    plan = _plan(_volume(tmp_path), tmp_path / "out")
    with pytest.raises(UsageError, match="is not there"):
        probe(plan, scratch=tmp_path / "nowhere")


def test_a_failing_probe_leaves_nothing_behind_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _plan(_volume(tmp_path), tmp_path / "out")

    def fail(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("chunkflow.run.probe.run_plan", fail)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        probe(plan, on="serial")
    assert sorted(tmp_path.rglob("*")) == before


# From seconds of units to those of the run.


def _seen(plan: cf.Plan, seconds: Any, *, workers: int = 1, walls: Mapping[str, float] | None = None) -> Seen:
    """Units that took `seconds(pass, unit)`, one after the other on each worker."""
    units: dict[str, Any] = {}
    for p in plan.passes:
        size = {"objects": [100], "record": 50} if p.draft.merge is None else {"objects": [1, 10], "record": 50}
        units[p.name] = {
            unit: {"spent": [0.0, seconds(p, unit), 0.0], "worker": unit % workers, **size} for unit in range(p.units)
        }
    total = {n: sum(sum(u["spent"]) for u in lines.values()) / workers for n, lines in units.items()}
    return Seen(plan=plan, units=units, walls=walls or total, seconds=sum(total.values()), places=1)


def _small_and_large(folder: Path) -> tuple[cf.Plan, cf.Plan]:
    return _plan(_volume(folder / "a", (30, 50, 60)), folder / "a" / "out"), _plan(
        _volume(folder / "b", (50, 100, 120)), folder / "b" / "out"
    )


def test_what_units_and_voxels_take_is_told_apart_and_scaled(tmp_path: Path) -> None:
    small, large = _small_and_large(tmp_path)

    def seconds(p: Any, unit: int) -> float:
        if p.draft.merge is not None or p.name == "graph-parts":
            return 0.0
        return 0.01 + 1e-6 * p.draft.grid.read_of(unit, p.halo).size

    found = estimated(large, _seen(small, seconds), on="serial", workers=None, kind="cpu")
    names = {q.name for q in small.passes if q.draft.grid.core == small.block}
    known = [p for p in large.passes if p.name in names]
    assert len(known) > 5
    for p in known:
        expected = sum(seconds(p, unit) for unit in range(p.units))
        assert found.passes[p.name] == pytest.approx(expected, rel=0.02, abs=1e-9), p.name


def test_merges_grow_with_the_volume_beyond_what_the_quickest_takes(tmp_path: Path) -> None:
    small, large = _small_and_large(tmp_path)
    seen = _seen(small, lambda p, unit: 1.0 if p.name == "label-merge" else 0.25)
    found = estimated(large, seen, on="serial", workers=None, kind="cpu")
    merges = [p.name for p in large.passes if p.draft.merge is not None]
    assert found.passes["label-merge"] == pytest.approx(0.25 + 0.75 * prod(large.shape) / prod(small.shape), rel=0.01)
    assert found.merge_seconds == pytest.approx(found.passes["label-merge"] + 0.25 * (len(merges) - 1), rel=0.01)


def test_a_pass_of_which_a_few_units_take_nearly_all_is_told_by_these(tmp_path: Path) -> None:
    plans = []
    for name, shape in (("a", (60, 64, 64)), ("b", (60, 128, 128))):
        volume = _volume(tmp_path / name, shape)
        deconvolve = cf.Deconvolve(psf=cf.Psf(fwhm_um=(0.6, 0.25, 0.25)), iterations=2, tile=(32, 32, 32))
        plans.append(cf.Pipeline([deconvolve]).plan(volume, tmp_path / name / "out", block=(32, 32, 32)))
    small, large = plans

    def seconds(p: Any, unit: int) -> float:
        first = any(isinstance(s, Uneven) and s.comes_first(p.draft.grid.core_of(unit)) for s in p.draft.steps)
        return 2.0 if first else 0.001

    few, many = (plan.pass_named("deconvolve-probe") for plan in plans)
    found = estimated(large, _seen(small, seconds), on="serial", workers=None, kind="cpu")
    expected = sum(seconds(many, unit) for unit in range(many.units))
    assert many.units > 2 * few.units
    assert found.passes["deconvolve-probe"] == pytest.approx(expected, rel=0.01)


def test_workers_share_units_and_the_last_round_is_filled_up(tmp_path: Path) -> None:
    small, large = _small_and_large(tmp_path)
    seen = _seen(small, lambda p, unit: 1.0 if p.name == "scan" else 0.0, workers=4)
    found = estimated(large, seen, on="threads", workers=4, kind="cpu")
    units = large.pass_named("scan").units
    alone = estimated(large, replace(seen, walls={}), on="threads", workers=4, kind="cpu")
    assert found.workers == 4
    assert alone.passes["scan"] == pytest.approx(-(-units // 4) * 1.0, rel=0.05)


def test_the_first_units_of_a_worker_are_not_taken_for_all_of_them(tmp_path: Path) -> None:
    small, large = _small_and_large(tmp_path)
    seen = _seen(small, lambda p, unit: (5.0 if unit < 2 else 0.1) if p.name == "scan" else 0.0)
    found = estimated(large, replace(seen, walls={}), on="serial", workers=None, kind="cpu")
    units = large.pass_named("scan").units
    assert found.passes["scan"] < 5.0 + 0.2 * units + 1


def test_places_that_differ_widen_the_range(tmp_path: Path) -> None:
    plan = _plan(_volume(tmp_path, (72, 30, 30)), tmp_path / "out")
    even = replace(_seen(plan, lambda p, unit: 0.1), places=3)
    third = {unit: plan.pass_named("scan").draft.grid.core_of(unit).start[0] // 24 for unit in range(12)}
    uneven = replace(_seen(plan, lambda p, unit: 0.1 * (1 + third.get(unit, 0))), places=3)
    assert estimate._spread(even) == estimate.LEAST_RANGE
    assert estimate._spread(uneven) > 2 * estimate.LEAST_RANGE


def test_gpu_hours_are_those_of_all_workers(tmp_path: Path) -> None:
    small, large = _small_and_large(tmp_path)
    found = estimated(large, _seen(small, lambda p, unit: 1.0), on=None, workers=2, kind="gpu")
    assert found.gpu_hours == pytest.approx(found.seconds[1] * 2 / 3600)
