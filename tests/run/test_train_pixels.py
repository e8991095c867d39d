"""Training from scribbles: it learns, the same seed learns the same, and what cannot be learnt from is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import chunkflow as cf
from chunkflow.errors import ConfigError, InputError, UsageError
from chunkflow.kernels import features
from chunkflow.models import pixels
from chunkflow.run import normalising, scribbles
from chunkflow.run.check import check
from chunkflow.run.train_pixels import Options, TrainedPixels, limits_of, train_pixels
from chunkflow.stages.normalize import scaled
from chunkflow.testing.suites import write_volume

pytest.importorskip("sklearn.ensemble", reason="scikit-learn is not installed")

SHAPE = (18, 90, 85)
VOXEL_UM = (0.3, 0.1, 0.1)
FEW = Options(scales_um=(0.1, 0.3), trees=15, names=("background", "blob", "stripe"))


def scene(seed: int = 0) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """An image of bright blobs, and stripes as bright, on a dark ground; and what each voxel is, 1 to 3."""
    rng = np.random.default_rng(seed)
    what = np.ones(SHAPE, np.uint8)
    blobs = ndimage.gaussian_filter(rng.standard_normal(SHAPE), (1.3, 4, 4))
    what[blobs > 1.2 * blobs.std()] = 2
    stripes = (np.arange(SHAPE[2]) % 4 < 2) & (np.arange(SHAPE[2]) > 45)
    what[:, 45:][:, :, stripes] = 3
    grey = np.where(what == 1, 200, 500) + 40 * rng.standard_normal(SHAPE)
    return np.clip(grey, 0, 65535).astype(np.uint16), what


def scribbled(what: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Every voxel of some lines of some planes."""
    marks = np.zeros_like(what)
    marks[4, ::9] = what[4, ::9]
    marks[13, :, ::11] = what[13, :, ::11]
    return marks


def stored(folder: Path, image: NDArray[Any], marks: NDArray[Any]) -> tuple[Path, Path]:
    write_volume(folder / "image.ome.zarr", image, VOXEL_UM)
    write_volume(folder / "marks.ome.zarr", marks, VOXEL_UM)
    return folder / "image.ome.zarr", folder / "marks.ome.zarr"


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainedPixels]:
    folder = tmp_path_factory.mktemp("learnt")
    image, what = scene()
    return folder, train_pixels(*stored(folder, image, scribbled(what)), folder / "forest.npz", options=FEW)


def test_a_forest_knows_another_volume_of_the_kind_it_learnt_from(
    learnt: tuple[Path, TrainedPixels], tmp_path: Path
) -> None:
    _, done = learnt
    image, what = scene(1)
    source = write_volume(tmp_path / "in.ome.zarr", 3 * image + 1000, VOXEL_UM)  # of other grey values too
    for foreground, least in (("blob", 0.8), (3, 0.8)):
        stages = [cf.PixelClassifier(path=str(done.path), foreground=foreground), cf.Label()]
        pipeline = cf.Pipeline(stages, output=cf.OutputOptions(save=("probability",)))
        result = pipeline.plan(source, tmp_path / str(foreground)).run(on="serial")
        assert result.probability is not None
        found, truth = result.probability[:] > 0.5, what == (2 if foreground == "blob" else 3)
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > least
    assert (done.out_of_bag or 0) > 0.85
    assert min(share or 0 for share in done.recalls.values()) > 0.7


def test_what_was_learnt_from_is_said(learnt: tuple[Path, TrainedPixels]) -> None:
    _, done = learnt
    marks = scribbled(scene()[1])
    counts = {name: int((marks == n).sum()) for n, name in enumerate(FEW.names or (), 1)}
    assert done.annotated == counts
    assert {c.name: c.voxels for c in done.classifier.classes} == counts
    assert sum(done.importances.values()) == pytest.approx(1)
    assert list(done.importances.values()) == sorted(done.importances.values(), reverse=True)
    assert set(done.importances) == set(features.names((0.1, 0.3)))
    read = pixels.load_pixels(done.path)
    assert read.digest == done.classifier.digest
    assert read.training["out_of_bag"] == done.out_of_bag
    facts = check(done.path)
    assert facts["kind"] == "pixel classifier"
    assert facts["trees"] == 15
    assert facts["digest"] == read.digest


def test_the_same_seed_writes_the_same_file_with_any_number_of_threads(
    learnt: tuple[Path, TrainedPixels], tmp_path: Path
) -> None:
    folder, done = learnt
    names = {"scales_um": FEW.scales_um, "trees": FEW.trees, "names": FEW.names}
    image, marks = folder / "image.ome.zarr", folder / "marks.ome.zarr"
    train_pixels(image, marks, tmp_path / "again.npz", options=Options(**names, jobs=2))
    assert (tmp_path / "again.npz").read_bytes() == done.path.read_bytes()
    train_pixels(image, marks, tmp_path / "other.npz", options=Options(**names, seed=1))
    assert (tmp_path / "other.npz").read_bytes() != done.path.read_bytes()


def test_samples_are_the_features_of_the_whole_volume_at_the_voxels_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scribbles, "BLOCK_SIDE", 16)  # scribbles cross many blocks
    image, what = scene()
    source, marks = (cf.open_volume(path) for path in stored(tmp_path, image, scribbled(what)))
    scales, shape = (0.1, 0.3), image.shape
    counts = scribbles.count_scribbles(marks, quiet)
    drawn = scribbles.drawn_from(counts, per_class=100, seed=3)
    found, labels = scribbles.samples_of(source, marks, counts, scales, (100.0, 600.0), drawn, quiet)
    assert np.unique(labels, return_counts=True)[1].tolist() == [100] * 3
    whole = features.features(
        scaled(image, 100.0, 500.0),
        (0, 0, 0),
        start=(0, 0, 0),
        stop=shape,  # type: ignore[arg-type]
        shape=shape,  # type: ignore[arg-type]
        scales_um=scales,
        voxel_um=VOXEL_UM,
    )
    known = {row.tobytes(): int(label) for row, label in zip(whole.reshape(-1, 20), what.ravel(), strict=True)}
    assert [known[row.tobytes()] for row in found] == labels.tolist()
    every = scribbles.drawn_from(counts, per_class=10**6, seed=3)
    all_of_them, named = scribbles.samples_of(source, marks, counts, scales, (100.0, 600.0), every, quiet)
    expected = sorted(row.tobytes() for row in whole[scribbled(what) > 0])
    assert sorted(row.tobytes() for row in all_of_them) == expected
    assert len(named) == len(expected)


def quiet(what: str, done: int, total: int) -> None:
    pass


def test_limits_are_those_that_a_run_takes(
    learnt: tuple[Path, TrainedPixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, done = learnt
    monkeypatch.setattr(normalising, "BLOCK", (40, 40, 40))
    source = cf.open_volume(folder / "image.ome.zarr")
    image, _ = scene()
    nodata = int(np.median(image))
    stages = [cf.PixelClassifier(path=str(done.path), foreground=2)]
    pipeline = cf.Pipeline(stages, input=cf.InputOptions(nodata=nodata), output=cf.OutputOptions(save=("probability",)))
    result = pipeline.plan(source, tmp_path / "out", block=(9, 64, 64)).run(on="serial")
    low, high = limits_of(source, Options(nodata=nodata), quiet)
    taken = result.pass_values("pixels-scale")
    assert (low, high - low) == (taken["offset"][0], taken["scale"][0])


def test_what_cannot_be_learnt_from_is_refused(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 900, (5, 9, 11), np.uint16)
    marks = np.zeros((5, 9, 11), np.int16)
    marks[2, 3, :4], marks[2, 5, :3] = 1, 4
    good = write_volume(tmp_path / "image.ome.zarr", image)
    out = tmp_path / "forest.npz"

    def refused(words: str, error: type[Exception] = InputError, **values: Any) -> None:
        array = values.pop("marks", marks)
        voxel_um = values.pop("voxel_um", (1.0, 1.0, 1.0))
        given = write_volume(tmp_path / f"{len(list(tmp_path.iterdir()))}.ome.zarr", array, voxel_um)
        with pytest.raises(error, match=words):
            train_pixels(values.pop("image", good), given, values.pop("out", out), options=Options(**values))
        assert not out.exists()

    refused("scribbles are float32, not labels", marks=marks.astype(np.float32))
    refused("Give scribbles on the image's grid", marks=marks[1:])
    refused("Give scribbles on the image's grid", voxel_um=(1.0, 1.0, 1.1))
    refused("the scribbles hold nothing. Draw 2 to 64 classes", marks=np.zeros_like(marks))
    refused("the scribbles hold 1 class. Draw", marks=np.minimum(marks, 1))
    refused("the scribbles hold 495 classes", marks=np.arange(495, dtype=np.int16).reshape(5, 9, 11) + 1)
    refused("the negative label -1", marks=-np.minimum(marks, 1))
    refused("hold class 4, and 3 names are given", names=("a", "b", "c"))
    refused("names .* repeat themselves", ConfigError, names=("a", "a"))
    refused("trees 0", ConfigError, trees=0)
    refused(r"scales_um \[0.1, -1\] are not positive", ConfigError, scales_um=(0.1, -1))
    refused("features of 100 um look at more than 192 voxels", ConfigError, scales_um=(100.0,))
    refused("percentiles .* are not in order", ConfigError, percentiles=(99.0, 1.0))
    refused("does not end in .npz", UsageError, out=tmp_path / "forest.pkl")
    flat = write_volume(tmp_path / "flat.ome.zarr", np.full((5, 9, 11), 3, np.uint16))
    refused("percentiles .* of the volume are both 3", ConfigError, image=flat)
    refused("no voxel of .* is usable", image=flat, nodata=3)
    holed = np.where(marks == 1, np.nan, image.astype(np.float32))
    broken = write_volume(tmp_path / "holed.ome.zarr", holed)
    refused("holds NaN or infinity in 0:5,0:9,0:11", InputError, image=broken)
    out.write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists. Choose another name, or add --overwrite"):
        train_pixels(good, good, out)
    assert out.read_bytes() == b"mine"


def test_few_trees_judge_by_the_voxels_that_they_did_not_see(tmp_path: Path) -> None:
    image, what = scene()
    paths = stored(tmp_path, image, scribbled(what))
    done = train_pixels(*paths, tmp_path / "one.npz", options=Options(scales_um=(0.1,), trees=1, per_class=100))
    assert 0.5 < (done.out_of_bag or 0) < 1
    assert [c.name for c in done.classifier.classes] == ["class 1", "class 2", "class 3"]
    assert [c.voxels for c in done.classifier.classes] == [100] * 3


def test_a_rare_class_is_judged_out_of_bag_too(tmp_path: Path) -> None:
    image, what = scene()
    marks = scribbled(what)
    marks[marks == 3] = 0
    places = np.flatnonzero(marks == 2)
    marks.ravel()[places[20:]] = 0
    done = train_pixels(*stored(tmp_path, image, marks), tmp_path / "rare.npz", options=Options(scales_um=(0.1,)))
    assert done.annotated["class 1"] > 50 * done.annotated["class 2"]
    assert (done.recalls["class 2"] or 0) > 0.5
