"""A region that borrows the whole volume's statistics equals the whole volume's run where it was asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

import chunkflow as cf
from chunkflow.errors import ChunkflowError, ConfigError, InputNotFoundError, UsageError
from chunkflow.geometry.box import Box
from chunkflow.geometry.region import parse_region
from chunkflow.plan.region import in_region
from chunkflow.stages.base import Stage
from chunkflow.storage.omezarr import open_volume
from chunkflow.testing import suites

SHAPE, VOXEL_UM = (37, 111, 135), (0.2, 0.08, 0.08)
PSF = cf.Psf(fwhm_um=(0.6, 0.25, 0.25))
SAVED = ("image", "mask", "labels", "skeleton")


def restore(**more: Any) -> cf.Deconvolve:
    return cf.Deconvolve(psf=PSF, iterations=3, tile=(16, 32, 32), halo=(4, 6, 6), tolerance=0.5, **more)


def around_mean(image: np.ndarray) -> np.ndarray:
    """Differs everywhere where the tile differs: it is no filter."""
    return np.asarray(image, np.float32) - np.float32(image.mean())


PIPELINES: dict[str, list[Stage]] = {
    "threshold": [cf.Threshold(smooth_um=0.16), cf.Label(), cf.Skeleton(t0=0), cf.Measure()],
    "restored": [restore(), cf.Threshold(smooth_um=0.1, method="li"), cf.Label(), cf.Skeleton(), cf.Measure()],
    "stopped": [restore(stop="auto"), cf.Threshold(), cf.Label()],
    "corrected": [
        cf.Correct(background_percentile=5, gain="slice"),
        restore(dtype="uint16"),
        cf.Threshold(method="sauvola", window_um=2.0),
        cf.Label(),
        cf.Skeleton(),
    ],
    "resampled": [cf.Resample(voxel_um=(0.16, 0.08, 0.1)), cf.Threshold(), cf.Label(), cf.Skeleton()],
    "tubes": [cf.Vesselness(radii_um=(0.2, 0.3), filter="frangi"), cf.Threshold(method="otsu"), cf.Label()],
    "applied": [
        cf.Apply(function=f"{__name__}:around_mean", output="image", tile=(16, 32, 24), halo=3),
        cf.Threshold(),
        cf.Label(),
    ],
    "depths": [
        restore(),
        cf.Threshold(),
        cf.Label(),
    ],
}
PIPELINES["depths"][0] = cf.Deconvolve(
    psf=cf.Psf(microscope="confocal", objective="63x/1.4 oil", emission_nm=525, sample_index=1.36, slab_um=4),
    iterations=2,
    tile=(16, 64, 64),
    halo=(4, 6, 6),
    tolerance=0.9,
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    spots = np.zeros(SHAPE)
    spots[tuple(rng.integers(0, n, 90) for n in SHAPE)] = rng.uniform(0.5, 1, 90)
    light = ndimage.gaussian_filter(spots, (1.2, 3, 3)) * np.linspace(0.6, 1, SHAPE[0])[:, None, None]
    path = tmp_path_factory.mktemp("region") / "in.ome.zarr"
    suites.write_volume(path, rng.poisson(2000 * light / light.max() + 100).astype(np.uint16), VOXEL_UM)
    return path


def pipeline_of(name: str) -> cf.Pipeline:
    return cf.Pipeline(PIPELINES[name], output=cf.OutputOptions(save=SAVED, pyramid="none"))


def run(pipeline: cf.Pipeline, source: Path, output: Path, block: Any = (40, 80, 72)) -> cf.Result:
    result: cf.Result = pipeline.plan(source, output, block=block).run(on="serial")
    return result


def read(result: cf.Result, name: str) -> Any:
    array = getattr(result, name)
    return None if array is None else array[...]


def place(part: cf.Result, whole: cf.Result) -> Box:
    """Where the part lies in the whole, by the metadata alone."""
    assert part.image is not None
    assert whole.image is not None
    a, b = part.image.volume.scale, whole.image.volume.scale
    shift = (np.array(a.translation_um) - b.translation_um) / np.array(b.voxel_um)
    start = np.round(shift).astype(int)
    assert np.allclose(shift, start, atol=1e-6)
    return Box(tuple(start.tolist()), tuple((start + part.image.shape).tolist()))


def partition(labels: np.ndarray) -> set[bytes]:
    """Objects as sets of voxels, numbers aside."""
    flat = labels.ravel()
    order = np.argsort(flat, kind="stable")
    cuts = np.flatnonzero(np.diff(flat[order])) + 1
    return {group.tobytes() for group in np.split(order, cuts) if flat[group[0]]}


def inside(labels: np.ndarray) -> np.ndarray:
    """The labels of objects that touch no face."""
    faces = [np.take(labels, side, axis) for axis in range(3) for side in (0, -1)]
    return np.where(np.isin(labels, np.concatenate([f.ravel() for f in faces])), 0, labels)


MIDDLE, CORNER = "9:30,41:101,39:120", "0:14,71:111,80:135"
FAST = {("restored", MIDDLE)}


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        pytest.param(name, asked, marks=() if (name, asked) in FAST else pytest.mark.thorough)
        for name in PIPELINES
        for asked in (MIDDLE, CORNER)
    ],
)
def test_what_was_asked_for_equals_the_whole_run_bit_for_bit(
    name: str, asked: str, source: Path, tmp_path: Path, wholes: dict[str, cf.Result]
) -> None:
    whole = wholes.setdefault(name, run(pipeline_of(name), source, tmp_path / "whole"))
    part = run(in_region(pipeline_of(name), asked, whole.path), source, tmp_path / "part", block=(24, 64, 96))
    there = place(part, whole)
    wanted = parse_region(asked, open_volume(source).scale, SHAPE)
    plan = json.loads((part.path / "run" / "plan.json").read_text())["plan"]
    assert plan["facts"]["region"]["asked"] == str(wanted)
    if name == "resampled":
        wanted = Box(
            tuple(np.ceil(np.multiply(wanted.start, (1.25, 1, 0.8))).astype(int)),
            tuple(np.floor(np.multiply(np.subtract(wanted.stop, 1), (1.25, 1, 0.8))).astype(int) + 1),
        )
    inner = wanted.relative_to(there.start)
    assert there.contains(wanted)
    assert name not in ("threshold", "tubes") or there.shape < whole.image.shape  # type: ignore[union-attr]
    for array in ("image", "mask"):
        assert read(part, array)[inner.slices].tobytes() == read(whole, array)[wanted.slices].tobytes(), array
    found, expected = (inside(read(part, "labels")[inner.slices]), inside(read(whole, "labels")[wanted.slices]))
    assert partition(found) == partition(expected)
    assert found.any() or asked == CORNER
    if part.skeleton is not None:
        own, theirs = read(part, "skeleton")[inner.slices] > 0, read(whole, "skeleton")[wanted.slices] > 0
        closed = _closed(read(whole, "labels"), wanted)
        assert np.array_equal(own & closed, theirs & closed)
        assert (own & closed).any() or asked == CORNER


@pytest.fixture(scope="module")
def wholes() -> dict[str, cf.Result]:
    return {}


def _closed(labels: np.ndarray, wanted: Box) -> np.ndarray:
    """Voxels of objects that lie in the box altogether and touch no face of it."""
    inner = labels[wanted.slices]
    ids = np.unique(inside(inner))
    outside = labels.copy()
    outside[wanted.slices] = 0
    return np.isin(inner, np.setdiff1d(ids, np.unique(outside))) & (inner > 0)


@pytest.fixture(scope="module")
def thresholded(source: Path, tmp_path_factory: pytest.TempPathFactory) -> cf.Result:
    """The whole volume, by a threshold of its own."""
    return run(simple(), source, tmp_path_factory.mktemp("thresholded") / "out", block=SHAPE)


def simple(**threshold: Any) -> cf.Pipeline:
    stages: list[Stage] = [cf.Threshold(**threshold), cf.Label(), cf.Measure()]
    return cf.Pipeline(stages, output=cf.OutputOptions(save=("image", "mask", "labels"), pyramid="none"))


def test_a_region_alone_is_what_a_file_with_its_voxels_would_give(source: Path, tmp_path: Path, tree_hash: Any) -> None:
    volume, asked = open_volume(source), Box((5, 30, 20), (30, 90, 101))
    suites.write_volume(tmp_path / "crop.ome.zarr", volume.read(asked), VOXEL_UM)
    cut = run(simple(), tmp_path / "crop.ome.zarr", tmp_path / "cut")
    part = run(in_region(simple(), str(asked)), source, tmp_path / "part")
    for array in ("image", "mask", "labels"):
        assert read(part, array).tobytes() == read(cut, array).tobytes()
    shifts = [n * v for n, v in zip(asked.start, VOXEL_UM, strict=True)]
    for axis, shift in zip("zyx", shifts, strict=True):
        found = part.objects[f"centroid_{axis}_um"] - cut.objects[f"centroid_{axis}_um"]
        assert np.allclose(found, shift)
    assert part.labels is not None
    assert np.allclose(part.labels.volume.scale.translation_um, shifts)


def test_micrometers_name_the_voxels_whose_centres_lie_between(source: Path, tmp_path: Path) -> None:
    by_um = in_region(simple(), "1-3.1um,2.4-4.81um,:").plan(source, tmp_path / "out")
    assert str(by_um.input.window) == f"5:16,30:61,0:{SHAPE[2]}"


def test_a_borrowed_threshold_is_that_of_the_whole_volume(source: Path, thresholded: cf.Result, tmp_path: Path) -> None:
    part = run(in_region(simple(), "0:20,0:50,0:60", thresholded.path), source, tmp_path / "lent")
    alone = run(in_region(simple(), "0:20,0:50,0:60"), source, tmp_path / "alone")
    whole = float(thresholded.pass_values("threshold")["threshold"][0])
    assert float(part.pass_values("threshold")["threshold"][0]) == whole
    assert float(alone.pass_values("threshold")["threshold"][0]) != whole
    assert (part.path / "report.html").is_file()


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([cf.Threshold(method="li"), cf.Label()], "threshold: method is 'li' here and 'otsu' there"),
        ([restore(), cf.Threshold(), cf.Label()], "it has no stage deconvolve"),
    ],
)
def test_statistics_of_other_settings_are_refused_with_the_setting(
    stages: list[Stage], said: str, source: Path, thresholded: cf.Result, tmp_path: Path
) -> None:
    pipeline = in_region(cf.Pipeline(stages), "0:20,0:50,0:60", thresholded.path)
    with pytest.raises(ConfigError, match=said):
        pipeline.plan(source, tmp_path / "out")


def test_settings_behind_what_is_borrowed_may_differ(source: Path, thresholded: cf.Result, tmp_path: Path) -> None:
    pipeline = cf.Pipeline([cf.Threshold(), cf.Label(min_voxels=5), cf.Skeleton()])
    plan = in_region(pipeline, "0:20,0:50,0:60", thresholded.path).plan(source, tmp_path / "out")
    assert [p.name for p in plan.passes if p.name in ("histogram", "range", "threshold")] == ["range", "threshold"]


def test_statistics_of_another_input_are_refused(source: Path, thresholded: cf.Result, tmp_path: Path) -> None:
    volume = open_volume(source)
    suites.write_volume(tmp_path / "other.ome.zarr", volume.read(volume.box) + 1, VOXEL_UM)
    with pytest.raises(ConfigError, match="its input is not this one"):
        in_region(simple(), "0:20,0:50,0:60", thresholded.path).plan(tmp_path / "other.ome.zarr", tmp_path / "out")


def test_statistics_from_a_folder_without_a_run_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="it holds no run"):
        in_region(simple(), "0:20,0:50,0:60", tmp_path).plan(source, tmp_path / "out")


def test_statistics_without_a_region_are_refused() -> None:
    with pytest.raises(ConfigError, match="without a region"):
        in_region(simple(), None, "out")


def test_another_region_in_the_same_output_is_refused(source: Path, tmp_path: Path) -> None:
    run(in_region(simple(), "0:20,0:50,0:60"), source, tmp_path / "out", block=SHAPE)
    with pytest.raises(ChunkflowError, match="region"):
        run(in_region(simple(), "0:20,0:50,0:61"), source, tmp_path / "out", block=SHAPE)


@pytest.mark.parametrize("asked", ["0:20,0:50,0:600", "5:5,:,:", "0:20,0:50"])
def test_a_region_that_is_none_is_refused_before_anything_is_written(asked: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="region"):
        in_region(simple(), asked).plan(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "crop", "blend"])
def test_a_region_of_a_network_equals_the_whole_run_bit_for_bit(
    mode: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'chunkflow-engine[models]'")
    from chunkflow.models import Normalization, Usage, save_model
    from chunkflow.models.unet import UNet, UNetConfig
    from chunkflow.stages import patches

    monkeypatch.setattr(patches, "SIDES", (16,))  # several patches in a small volume
    torch.manual_seed(0)
    config = UNetConfig(widths=(4, 6), norm="none" if mode == "exact" else "group")
    usage = Usage(activation="none", normalization=Normalization(kind="percentiles"))
    save_model(UNet(config).eval(), config, tmp_path / "network", usage=usage)
    stage = cf.Predict(path=str(tmp_path / "network"), mode=mode, threshold=None)
    saved = cf.OutputOptions(save=("probability", "mask"), pyramid="none")
    pipeline = cf.Pipeline([stage, cf.Threshold(smooth_um=0.1), cf.Label()], output=saved)
    whole = run(pipeline, source, tmp_path / "whole")
    asked = Box((14, 51, 49), (25, 75, 80))
    part = run(in_region(pipeline, str(asked), whole.path), source, tmp_path / "part")
    assert part.probability is not None
    assert part.probability.shape < SHAPE
    start = np.round(np.divide(part.probability.volume.scale.translation_um, VOXEL_UM)).astype(int)
    inner = asked.relative_to(tuple(start.tolist())).slices
    for array in ("probability", "mask"):
        assert read(part, array)[inner].tobytes() == read(whole, array)[asked.slices].tobytes(), array
