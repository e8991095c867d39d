"""Plans: settled without reading a voxel, refused before anything is written, known by their fingerprints."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import ConfigError, InputNotFoundError, PlanError, UsageError
from chunkflow.geometry.box import Box
from chunkflow.plan import memory
from chunkflow.plan.fingerprint import canonical, fingerprint
from chunkflow.storage import volume as volumes
from chunkflow.testing import suites

VOXEL_UM = (0.2, 0.08, 0.08)
KIND = "cpu"


def _wide() -> Any:
    """A measured PSF that no test volume holds."""
    values = np.zeros((201, 3, 3))
    values[:, 1, 1] = np.hanning(203)[1:-1]
    return values


def _plan(pipeline: cf.Pipeline, source: Any, output: Path, block: Any = (24, 24, 24)) -> cf.Plan:
    return pipeline.plan(source, output, block=block)


# What a plan says.


def test_a_plan_reads_no_voxel_and_writes_nothing(
    demo_pipeline: Callable[..., cf.Pipeline], tiny_volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a plan read voxels")

    monkeypatch.setattr(volumes.Volume, "read", refuse)
    plan = _plan(demo_pipeline(), tiny_volume, tmp_path / "out")
    plan.fingerprints(KIND)
    json.dumps(plan.to_dict())
    assert list(tmp_path.iterdir()) == []


def test_passes_stand_behind_what_they_need(demo_pipeline: Any, tiny_volume: Path, tmp_path: Path) -> None:
    plan = _plan(demo_pipeline(), tiny_volume, tmp_path / "out")
    before: set[str] = set()
    written = {"input"}
    for p in plan.passes:
        assert set(p.draft.needs) <= before
        assert set(p.reads) <= written
        before.add(p.name)
        written |= {spec.name for spec in p.draft.writes}


def test_halos_are_what_blocks_read_beyond_their_cores(demo_pipeline: Any, demo_volume: Path, tmp_path: Path) -> None:
    plan = _plan(demo_pipeline(), demo_volume, tmp_path / "out", (24, 24, 24))
    halos = {p.name: p.halo for p in plan.passes}
    assert halos["deconvolve"] == (4, 6, 6)
    assert halos["histogram"] == halos["label"] == (3, 3, 3)  # 4 sigma of 0.06 um at 0.08 um
    assert halos["relabel"] == (0, 0, 0)
    assert halos["distance"] == (0, 0, 0)
    assert halos["thin"] == (20, 20, 20)  # 8 to thin, 12 more to measure distances in


def test_every_read_of_every_block_is_where_the_plan_says(
    demo_pipeline: Any, demo_volume: Path, tmp_path: Path
) -> None:
    plan = _plan(demo_pipeline(), demo_volume, tmp_path / "out")
    for p in plan.passes:
        grid, volume = p.draft.grid, Box.of_shape(p.draft.grid.shape)
        products = [spec.source for spec in p.draft.writes]
        for unit in range(len(grid)) if p.draft.steps else ():
            from chunkflow.stages.base import boxes_of_chain

            core = grid.core_of(unit)
            _, wanted = boxes_of_chain(p.draft.steps, core, volume, products)
            assert tuple(wanted) == p.reads or (p.name == "deconvolve-probe" and not wanted)
            own = [
                box
                for name, box in wanted.items()
                if name in plan.arrays and plan.arrays[name].layout.shape == grid.shape
            ]
            assert all(core.grow(p.halo).contains(box) for box in own)


def test_arrays_are_kept_or_temporary_and_cut_to_fit_one_writer(
    demo_pipeline: Any, demo_volume: Path, tmp_path: Path
) -> None:
    plan = _plan(demo_pipeline(save=("labels",)), demo_volume, tmp_path / "out", (32, 48, 40))
    assert {name for name, array in plan.arrays.items() if array.kept} == {"labels"}
    for p in plan.passes:
        for spec in p.draft.writes:
            unit = plan.arrays[spec.name].layout.write_unit
            for index in range(len(p.draft.grid)):
                core = p.draft.grid.core_of(index)
                assert all(a % u == 0 for a, u in zip(core.start, unit, strict=True))


def test_the_plan_as_json_names_blocks_halos_memory_and_arrays(
    demo_pipeline: Any, demo_volume: Path, tmp_path: Path
) -> None:
    plain = json.loads(json.dumps(_plan(demo_pipeline(), demo_volume, tmp_path / "out", (32, 48, 40)).to_dict()))
    assert plain["block"] == [32, 48, 40]
    label = next(p for p in plain["passes"] if p["name"] == "label")
    assert label["halo"] == [3, 3, 3]
    assert label["read_amplification"] > 1
    assert label["units"] == 27
    arrays = {a["name"]: a for a in plain["arrays"]}
    assert arrays["image"]["kept"]
    assert not arrays["provisional"]["kept"]
    assert arrays["image"]["bytes"] == 4 * np.prod(arrays["image"]["shape"])
    assert plain["peak_bytes_per_worker"] > memory.PROCESS_BYTES


def test_outputs_lie_on_the_grid_of_the_last_resample(demo_pipeline: Any, demo_image: Any, tmp_path: Path) -> None:
    source = suites.write_volume(tmp_path / "in.ome.zarr", demo_image, VOXEL_UM, translation_um=(3.0, 4.0, 5.0))
    plan = _plan(demo_pipeline(), source, tmp_path / "out")
    assert plan.scale.voxel_um == (0.08, 0.08, 0.08)
    assert plan.scale.translation_um == (3.0, 4.0, 5.0)
    assert plan.shape == (int(31 * 0.2 / 0.08 + 1e-9) + 1, 100, 120)


def test_a_pyramid_ends_when_no_halved_axis_is_longer_than_256(tmp_path: Path) -> None:
    source = suites.write_volume(tmp_path / "in.ome.zarr", np.zeros((3, 300, 1100), np.uint8), VOXEL_UM)
    plan = _plan(
        cf.Pipeline([cf.Threshold(method="fixed", value=1), cf.Label()]), source, tmp_path / "out", (32, 64, 64)
    )
    shapes = {name: array.layout.shape for name, array in plan.arrays.items() if name.startswith("labels")}
    assert shapes["labels"] == (3, 300, 1100)
    # z is coarser than y and x until they are 0.32 um, so it is halved from the third level on.
    assert shapes == {
        "labels": (3, 300, 1100),
        "labels@1": (3, 150, 550),
        "labels@2": (3, 75, 275),
        "labels@3": (2, 38, 138),
    }
    assert [scale.voxel_um for scale in plan.levels["labels"]][-1] == pytest.approx((0.4, 0.64, 0.64))


# What is refused.


def _source(folder: Path, shape: tuple[int, int, int] = (20, 40, 44)) -> Path:
    suites.write_volume(folder / "in.ome.zarr", np.ones(shape, np.uint16), VOXEL_UM)
    return folder / "in.ome.zarr"


LABEL = [cf.Threshold(method="fixed", value=3), cf.Label()]


@pytest.mark.parametrize(
    ("pipeline", "block", "kind", "message"),
    [
        (cf.Pipeline(LABEL, output=cf.OutputOptions(shard=(16, 16, 16))), (24, 24, 32), PlanError, "multiple.*shard"),
        (cf.Pipeline(LABEL, output=cf.OutputOptions(chunk=(7, 8, 8))), (16, 32, 32), PlanError, "multiple.*chunk"),
        (cf.Pipeline(LABEL, output=cf.OutputOptions(save=("probability",))), None, ConfigError, "probability.*predict"),
        (cf.Pipeline(LABEL[1:]), None, ConfigError, "what foreground is"),
        (cf.Pipeline([*LABEL[:1], cf.Skeleton()]), None, ConfigError, "no labels"),
        (cf.Pipeline([*LABEL[:1], cf.Measure()]), None, ConfigError, "no labels"),
        (cf.Pipeline(LABEL, input=cf.InputOptions(kind="mask")), None, ConfigError, "mask, not an image"),
        (
            cf.Pipeline([cf.Deconvolve(psf=cf.Psf(measured=_wide()))]),
            None,
            PlanError,
            "PSF has .* more than the volume",
        ),
        (cf.Pipeline([cf.Predict(path="no such model"), cf.Label()]), None, UsageError, "no such model"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    pipeline: cf.Pipeline, block: Any, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    source = _source(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        pipeline.plan(source, tmp_path / "out", block=block)
    assert caught.value.exit_code == 2  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    source = _source(tmp_path)
    suites.write_volume(tmp_path / "mask.ome.zarr", np.ones((20, 40, 43), np.uint8), VOXEL_UM)
    pipeline = cf.Pipeline(LABEL, input=cf.InputOptions(mask=str(tmp_path / "mask.ome.zarr")))
    with pytest.raises(UsageError, match=r"\(20, 40, 43\).*\(20, 40, 44\)"):
        pipeline.plan(source, tmp_path / "out")


def test_labels_must_be_integers(tmp_path: Path) -> None:
    suites.write_volume(tmp_path / "in.ome.zarr", np.ones((8, 8, 8), np.float32), VOXEL_UM)
    pipeline = cf.Pipeline([cf.Skeleton()], input=cf.InputOptions(kind="labels"))
    with pytest.raises(UsageError, match="float32, not labels"):
        pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / "out")


def test_a_missing_input_or_output_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no input"):
        cf.Pipeline(LABEL).plan(None, tmp_path / "out")
    with pytest.raises(UsageError, match="no output"):
        cf.Pipeline(LABEL).plan(_source(tmp_path))
    with pytest.raises(InputNotFoundError):
        cf.Pipeline(LABEL).plan(tmp_path / "nowhere.ome.zarr", tmp_path / "out")


def test_missing_chunks_are_counted_or_refused(tmp_path: Path) -> None:
    image = np.ones((20, 100, 100), np.uint16)
    source = suites.write_volume(tmp_path / "in.ome.zarr", image, VOXEL_UM)
    chunks = sorted(path for path in (Path(source.path) / "c").rglob("*") if path.is_file())
    chunks[0].unlink()
    plan = cf.Pipeline(LABEL).plan(source, tmp_path / "out")
    assert any("1 chunks" in text for text in plan.warnings)
    with pytest.raises(UsageError, match="1 chunks"):
        cf.Pipeline(LABEL, input=cf.InputOptions(missing="fail")).plan(source, tmp_path / "out")


def test_tiny_chunks_are_warned_of(tmp_path: Path) -> None:
    plan = cf.Pipeline(LABEL).plan(_source(tmp_path), tmp_path / "out", block=(7, 32, 32))
    assert any("chunks of" in text for text in plan.warnings)
    assert not any(
        "chunks of" in t for t in cf.Pipeline(LABEL).plan(_source(tmp_path / "b"), tmp_path / "out").warnings
    )


# Fingerprints.


def _changed(plan: cf.Plan, other: cf.Plan) -> set[str]:
    ours, theirs = plan.fingerprints(KIND), other.fingerprints(KIND)
    return {p.name for p in plan.passes if ours[p.name] != theirs.get(p.name)}


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"deconvolve": {"iterations": 4}}, "deconvolve-check"),
        ({"deconvolve": {"background": 9.0}}, "deconvolve-check"),
        ({"deconvolve": {"halo": (4, 6, 7)}}, "deconvolve-check"),
        ({"deconvolve": {"tile": (32, 64, 32)}}, "deconvolve-check"),
        ({"deconvolve": {"psf": cf.Psf(fwhm_um=(0.6, 0.25, 0.26))}}, "deconvolve"),
        ({"resample": {"voxel_um": (0.1, 0.08, 0.08)}}, "resample"),
        ({"threshold": {"smooth_um": 0.07}}, "histogram"),
        ({"threshold": {"method": "li"}}, "threshold"),
        ({"label": {"connectivity": 18}}, "label"),
        ({"label": {"min_voxels": 21}}, "label-merge"),
        ({"skeleton": {"max_halo": 4}}, "shortcuts"),
        ({"skeleton": {"prune_radii": 1.1}}, "graph-parts"),
        ({"measure": {"intensity": "image"}}, "measure"),
    ],
    ids=str,
)
def test_a_parameter_changes_the_passes_that_depend_on_it_and_no_earlier_one(
    change: dict[str, Any], first: str, demo_pipeline: Any, tiny_volume: Path, tmp_path: Path
) -> None:
    plan = _plan(demo_pipeline(), tiny_volume, tmp_path / "out")
    changed = _changed(plan, _plan(demo_pipeline(**change), tiny_volume, tmp_path / "out"))
    names = [p.name for p in plan.passes]
    assert first in changed
    assert not changed & set(names[: names.index(first)])
    assert "objects" in changed


def test_every_field_of_every_step_is_in_the_fingerprint(demo_pipeline: Any, tiny_volume: Path, tmp_path: Path) -> None:
    plan = _plan(demo_pipeline(), tiny_volume, tmp_path / "out")
    for p in plan.passes:
        for part in [*p.draft.steps, *([p.draft.merge] if p.draft.merge else [])]:
            named = canonical(part)
            assert named["class"] == type(part).__name__
            assert {f.name for f in fields(part)} <= set(named) | {"path"}


def test_blocks_kind_format_and_input_are_in_every_fingerprint(
    demo_pipeline: Any, tiny_volume: Path, demo_image: Any, tmp_path: Path
) -> None:
    plan = _plan(demo_pipeline(), tiny_volume, tmp_path / "out")
    ours = plan.fingerprints(KIND)
    assert plan.fingerprints(KIND) == ours
    assert not set(plan.fingerprints("gpu").values()) & set(ours.values()) - {ours["input"], ours["input_mask"]}
    other = suites.write_volume(tmp_path / "in.ome.zarr", demo_image[6:26, 30:70, 40:84], VOXEL_UM)
    assert not set(_plan(demo_pipeline(), other, tmp_path / "out").fingerprints(KIND).values()) & set(ours.values())
    blocks = _plan(demo_pipeline(), tiny_volume, tmp_path / "out", (32, 24, 24))
    assert {"scan", "label", "measure"} <= _changed(plan, blocks)  # scan writes no array: its records are per block
    newer = cf.Pipeline(demo_pipeline().stages, output=cf.OutputOptions(format="0.4"))
    assert "resample" in _changed(plan, _plan(newer, tiny_volume, tmp_path / "out"))


def test_the_output_folder_and_the_place_of_the_input_are_in_none(
    demo_pipeline: Any, tiny_volume: Path, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(tiny_volume, tmp_path / "moved.ome.zarr")
    plan = _plan(demo_pipeline(), tiny_volume, tmp_path / "out")
    moved = _plan(demo_pipeline(), tmp_path / "moved.ome.zarr", tmp_path / "elsewhere")
    assert _changed(plan, moved) == set()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1.0, 1.0 + 2**-52),
        (np.zeros(3, np.float32), np.zeros(3, np.float64)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.array([1, 2]), np.array([2, 1])),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        (cf.Label(), cf.Label(min_voxels=1)),
        (None, 0),
        ("1", 1),
    ],
    ids=str,
)
def test_different_content_has_different_fingerprints(a: Any, b: Any) -> None:
    assert fingerprint({"x": a}) != fingerprint({"x": b})


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, 2), [1, 2]),
        (np.float64(0.1), 0.1),
        (np.int32(3), 3),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({3, 1}, {1, 3}),
        (np.arange(6).reshape(2, 3).T.copy(), np.arange(6).reshape(2, 3).T),
    ],
    ids=str,
)
def test_equal_content_has_equal_fingerprints(a: Any, b: Any) -> None:
    assert fingerprint({"x": a}) == fingerprint({"x": b})


def test_a_block_that_is_auto_is_chosen_whatever_the_pipeline_says(demo_volume: Path, tmp_path: Path) -> None:
    pipeline = cf.Pipeline([cf.Threshold(), cf.Label()], block=(8, 8, 8))
    assert pipeline.plan(demo_volume, tmp_path / "out").block == (8, 8, 8)
    chosen = pipeline.plan(demo_volume, tmp_path / "out", block="auto")
    assert chosen.block == cf.Pipeline([cf.Threshold(), cf.Label()]).plan(demo_volume, tmp_path / "out").block
    assert chosen.block != (8, 8, 8)


def test_a_psf_beyond_all_memory_is_refused_by_name(
    demo_volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drafts(self: Any, flow: Any) -> Any:
        return np.empty(2**60, np.uint8)

    monkeypatch.setattr(cf.Deconvolve, "drafts", drafts)
    wide = cf.Deconvolve(psf=cf.Psf(fwhm_um=(90.0, 90.0, 90.0)), iterations=2)
    with pytest.raises(PlanError, match=r"deconvolve: the PSF is too large for the memory here \(Unable to allocate"):
        cf.Pipeline([wide, cf.Threshold()]).plan(demo_volume, tmp_path / "out")
