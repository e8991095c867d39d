"""The stage `pixels`: blocks equal the whole, the forest's own probabilities, and what does not fit together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from scipy import ndimage

import chunkflow as cf
from chunkflow.errors import ConfigError, IncompleteError, ModelError
from chunkflow.kernels import features, threshold
from chunkflow.models import pixels
from chunkflow.plan.plan import Plan
from chunkflow.stages.normalize import scaled
from chunkflow.testing.suites import check_stage, random_volume, write_volume

forests = pytest.importorskip("sklearn.ensemble", reason="scikit-learn is not installed")

VOXEL_UM = (0.3, 0.1, 0.1)
SCALES = (0.1, 0.2)


def trained(path: Path, seed: int = 0, **values: Any) -> tuple[Path, Any]:
    """A forest of 10 trees that tells three levels of a smoothed image apart, written; and scikit-learn's own."""
    from chunkflow.run.train_pixels import forest_of

    image = random_volume("image", (10, 30, 30), np.random.default_rng(seed))
    found = features_of(image)
    levels = np.digitize(ndimage.gaussian_filter(image.astype(float), 1), (350, 500))
    model = forests.RandomForestClassifier(10, random_state=seed).fit(
        found.reshape(-1, found.shape[-1]), 1 + levels.ravel()
    )
    classifier = pixels.PixelClassifier(
        features=features.names(SCALES),
        scales_um=SCALES,
        voxel_um=VOXEL_UM,
        percentiles=(2.0, 98.0),
        classes=tuple(pixels.Class(n, name, 1) for n, name in enumerate(("dark", "grey", "bright"), 1)),
        training={},
        versions={},
        forest=forest_of(model),
    )
    path.write_bytes(pixels.content_of(replace(classifier, **values)))
    return path, model


def features_of(image: NDArray[Any]) -> NDArray[Any]:
    bins = threshold.Bins.of_range(float(image.min()), float(image.max()), image.dtype, smoothed=False)
    low, high = (threshold.percentile(threshold.histogram(image, bins), bins, q) for q in (2, 98))
    shape: Any = image.shape
    return features.features(
        scaled(image, low, high - low),
        (0, 0, 0),
        start=(0, 0, 0),
        stop=shape,
        shape=shape,
        scales_um=SCALES,
        voxel_um=VOXEL_UM,
    )


def planned(folder: Path, stages: list[Any], image: NDArray[Any], **options: Any) -> Plan:
    folder = folder / str(len(list(folder.iterdir())))
    source = write_volume(folder / "in.ome.zarr", image, VOXEL_UM)
    kept = cf.OutputOptions(save=("probability", "labels") if len(stages) > 1 else ("probability",))
    return cf.Pipeline(stages, input=cf.InputOptions(**options), output=kept).plan(
        source, folder / "out", block=(6, 17, 13)
    )


def test_probabilities_do_not_depend_on_blocks(tmp_path: Path) -> None:
    path, _ = trained(tmp_path / "forest.npz")
    stages = [cf.PixelClassifier(path=str(path), foreground="grey", threshold=0.4), cf.Label(), cf.Measure()]
    check_stage(stages, folder=tmp_path / "runs", cases=2, grids=2, largest=(12, 32, 32), options={"nodata": 410})


@pytest.mark.parametrize(("foreground", "column"), [("bright", 2), (1, 0)])
def test_a_run_gives_the_probabilities_of_scikit_learn(tmp_path: Path, foreground: int | str, column: int) -> None:
    path, model = trained(tmp_path / "forest.npz")
    image = random_volume("image", (9, 33, 29), np.random.default_rng(5))
    stages = [cf.PixelClassifier(path=str(path), foreground=foreground), cf.Label()]
    result = planned(tmp_path, stages, image).run(on="serial")
    found = features_of(image)
    truth = model.predict_proba(found.reshape(-1, found.shape[-1]))[:, column].reshape(image.shape)
    assert result.probability is not None
    assert result.labels is not None
    probability = np.asarray(result.probability[:])
    np.testing.assert_allclose(probability, truth, atol=1e-6)
    assert 0.05 < (probability > 0.5).mean() < 0.95
    assert np.array_equal(result.labels[:], ndimage.label(probability > 0.5, np.ones((3, 3, 3)))[0])


def test_a_threshold_stage_looks_at_the_probability(tmp_path: Path) -> None:
    path, _ = trained(tmp_path / "forest.npz")
    image = random_volume("image", (9, 33, 29), np.random.default_rng(5))
    fixed = [cf.PixelClassifier(path=str(path), foreground=3, threshold=0.3), cf.Label()]
    apart = [
        cf.PixelClassifier(path=str(path), foreground=3, threshold=None),
        cf.Threshold(method="fixed", value=0.3),
        cf.Label(),
    ]
    ours, theirs = (planned(tmp_path, stages, image).run(on="serial").labels for stages in (fixed, apart))
    assert ours is not None
    assert theirs is not None
    assert np.array_equal(ours[:], theirs[:])


def test_another_classifier_is_another_result_and_another_place_of_it_is_not(tmp_path: Path) -> None:
    path, _ = trained(tmp_path / "forest.npz")
    image = random_volume("image", (9, 20, 21), np.random.default_rng(5))
    plan = planned(tmp_path, [cf.PixelClassifier(path=str(path), foreground=3)], image)
    moved = path.rename(tmp_path / "moved.npz")
    again = [cf.PixelClassifier(path=str(moved), foreground=3)]
    pipeline = replace(plan.pipeline, stages=again)
    same = pipeline.plan(plan.input, tmp_path / "out", block=plan.block)
    assert same.fingerprints("cpu")["pixels"] == plan.fingerprints("cpu")["pixels"]
    trained(moved, seed=1)
    other = pipeline.plan(plan.input, tmp_path / "out", block=plan.block)
    assert other.fingerprints("cpu")["pixels"] != plan.fingerprints("cpu")["pixels"]
    with pytest.raises((ModelError, IncompleteError), match="is not the one the run was planned with"):
        same.run(on="serial")


def test_what_does_not_fit_is_refused_while_planning(tmp_path: Path) -> None:
    path, _ = trained(tmp_path / "forest.npz")
    image = np.ones((4, 5, 6), np.uint16)
    stage = cf.PixelClassifier(path=str(path), foreground=3)
    for foreground, words in (
        (None, "pixels: foreground None: the classifier tells 3 classes apart: 1 dark, 2 grey, 3 bright"),
        ("brigth", "pixels: foreground 'brigth': the classifier has no class 'brigth'. Did you mean 'bright'"),
    ):
        with pytest.raises(ConfigError, match=words):
            planned(tmp_path, [replace(stage, foreground=foreground)], image)
    with pytest.raises(ConfigError, match="the input is mask"):
        planned(tmp_path, [stage], image, kind="mask")
    with pytest.raises(ModelError, match="there is no pixel classifier"):
        planned(tmp_path, [cf.PixelClassifier(path="nowhere.npz")], image)
    with pytest.raises(ConfigError, match="predict and pixels both make a probability"):
        cf.Pipeline([cf.Predict(path="model"), stage])
    with pytest.raises(ConfigError, match="pixels .*threshold 0.5.* and a threshold stage follows"):
        cf.Pipeline([stage, cf.Threshold()])
    with pytest.raises(ConfigError, match="stage pixels stands behind threshold"):
        cf.Pipeline([cf.Threshold(), stage])
    other, _ = trained(tmp_path / "other.npz", features=("a",) * 20)
    with pytest.raises(ModelError, match="was trained on other features"):
        planned(tmp_path, [replace(stage, path=str(other))], image)
    for scales in ((0.1, 20.0), (0.1, 1e300)):
        wide, _ = trained(tmp_path / "wide.npz", scales_um=scales, features=features.names(scales))
        with pytest.raises(ConfigError, match=r"pixels: features of .* um look at more than 192 voxels of 0.1 um"):
            planned(tmp_path, [replace(stage, path=str(wide))], image)


def test_a_volume_of_one_value_is_refused(tmp_path: Path) -> None:
    path, _ = trained(tmp_path / "forest.npz")
    with pytest.raises(ConfigError, match=r"percentiles \[2.0, 98.0\] of the volume.*are both 7"):
        planned(tmp_path, [cf.PixelClassifier(path=str(path), foreground=3)], np.full((4, 5, 6), 7, np.uint16)).run(
            on="serial"
        )


def test_a_pipeline_file_takes_the_classifier_relative_to_itself(tmp_path: Path) -> None:
    (stage,) = cf.Pipeline.from_dict(
        {"version": 1, "stages": [{"pixels": {"path": "forest.npz", "foreground": "cell"}}]}, folder=tmp_path
    ).stages
    assert stage == cf.PixelClassifier(path=str(tmp_path / "forest.npz"), foreground="cell")


def test_the_pipeline_of_the_documentation_is_read() -> None:
    text = (Path(__file__).parents[2] / "docs" / "pixels.md").read_text(encoding="utf-8")
    (snippet,) = (part.split("```")[0] for part in text.split("```yaml\n")[1:])
    stages = cf.Pipeline.from_dict(yaml.safe_load(snippet)).stages
    assert stages[0] == cf.PixelClassifier(path="forest.npz", foreground="mitochondria")
