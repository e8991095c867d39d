"""Training of pixel classifiers from scribbles, on volumes that do not fit in memory.

    1  image, block by block          -> exact range, histogram -> the two percentiles that become 0 and 1
    2  scribbles, block by block      -> voxels of each class, and where they are
    3  blocks that hold scribbles     -> features of the voxels drawn, from a box around them
    4  scikit-learn's random forest   -> plain arrays, .npz (`models.pixels`)

Steps 1 to 3 are `run.scribbles`. Percentiles are those that a run takes of the same volume.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ConfigError, InputError, ModelError, UsageError
from chunkflow.kernels import features
from chunkflow.models import pixels
from chunkflow.models.usage import Normalization
from chunkflow.run.normalising import Progress, histogram_of
from chunkflow.run.scribbles import count_scribbles, drawn_from, samples_of
from chunkflow.stages.normalize import scale_of
from chunkflow.stages.pixels import check_scales
from chunkflow.storage.files import write_atomic
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.volume import Volume

OCTAVES = (1, 2, 4, 8)  # default scales, in sides of a voxel where they are shortest
MOST_CLASSES = 64  # more are objects, not classes
PERCENTILES = (1.0, 99.0)
PER_CLASS = 20_000
WHERE = "train-pixels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a forest is trained.

    scales_um : of the features; by default 1, 2, 4 and 8 times the shortest side of a voxel
    trees, seed : of the forest; the seed also draws voxels
    per_class : voxels of a class that are learnt from, at most
    percentiles : of the whole volume, which become 0 and 1
    names : of the classes 1, 2, ... in the scribbles
    nodata : voxels of the image of this value do not count for the percentiles
    jobs : threads; changes no result
    """

    scales_um: Sequence[float] | None = None
    trees: int = 100
    seed: int = 0
    per_class: int = PER_CLASS
    percentiles: tuple[float, float] = PERCENTILES
    names: Sequence[str] | None = None
    nodata: float | None = None
    jobs: int = 1

    def __post_init__(self) -> None:
        if min(self.trees, self.per_class, self.jobs) < 1 or self.seed < 0:
            raise ConfigError(
                f"{WHERE}: trees {self.trees}, per_class {self.per_class}, jobs {self.jobs} or seed {self.seed} is "
                "too small",
                "Use 1 or more, and a seed of 0 or more",
            )
        if self.scales_um is not None and not (self.scales_um and all(0 < s < np.inf for s in self.scales_um)):
            raise ConfigError(f"{WHERE}: scales_um {list(self.scales_um)} are not positive", "Give lengths in um")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ConfigError(f"{WHERE}: percentiles {self.percentiles} are not in order", "Use (1, 99), say")
        if self.names is not None and len(set(self.names)) < len(self.names):
            raise ConfigError(f"{WHERE}: names {list(self.names)} repeat themselves", "Name every class once")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPixels:
    """A trained classifier, and how well it knows what it was shown.

    annotated : voxels of each class in the scribbles; those drawn are in the classifier's classes
    out_of_bag : share of the voxels drawn that trees which did not see them get right; neighbours in a scribble are
        alike, so that it says more of the scribbles than of the volume
    recalls : the same of each class; None where every tree saw all of its voxels
    importances : share of each feature in what the splits gain, the largest first
    """

    path: Path
    classifier: pixels.PixelClassifier
    annotated: Mapping[str, int]
    out_of_bag: float | None
    recalls: Mapping[str, float | None]
    importances: Mapping[str, float]


def train_pixels(
    image: str | Path | Volume,
    scribbles: str | Path | Volume,
    out: str | Path,
    *,
    channel: int | str | None = None,
    options: Options | None = None,
    overwrite: bool = False,
    on_step: Progress | None = None,
) -> TrainedPixels:
    """Train a random forest on scribbles and write it.

    Parameters
    ----------
    image : OME-Zarr image, as the stage `pixels` will see it; scribbles : label image on its grid, 0 where nothing is
        said, 1, 2, ... for classes.
    on_step : is told (what, done, of how many).

    Raises
    ------
    UsageError : and its kinds, where something does not fit; nothing is written then.
    """
    options, tell = options or Options(), on_step or _silent
    target = _free(Path(out), overwrite=overwrite)
    sklearn = _import_sklearn()
    source = image if isinstance(image, Volume) else open_volume(image, channel=channel)
    marks = scribbles if isinstance(scribbles, Volume) else open_volume(scribbles)
    _check_grid(source, marks)
    voxel_um = source.scale.voxel_um
    scales = tuple(options.scales_um or (n * min(voxel_um) for n in OCTAVES))
    check_scales(scales, voxel_um, WHERE)
    counts = count_scribbles(marks, tell)
    names = _names(sorted({label for here in counts.values() for label in here}), options.names)
    limits = limits_of(source, options, tell)
    drawn = drawn_from(counts, per_class=options.per_class, seed=options.seed)
    samples, labels = samples_of(source, marks, counts, scales, limits, drawn, tell)
    tell("forest", 0, 1)
    model = _fitted(sklearn, samples, labels, options)
    classes = tuple(pixels.Class(label, names[label], int((labels == label).sum())) for label in sorted(names))
    judged = _judged(model, labels, classes, features.names(scales))
    classifier = pixels.PixelClassifier(
        features=features.names(scales),
        scales_um=scales,
        voxel_um=voxel_um,
        percentiles=options.percentiles,
        classes=classes,
        training={
            "digest": _digest(samples, labels),
            "trees": options.trees,
            "seed": options.seed,
            "per_class": options.per_class,
            **judged,
        },
        versions={
            "scikit-learn": sklearn.__version__,
            "numpy": np.__version__,
            "chunkflow": version("chunkflow-engine"),
        },
        forest=forest_of(model),
    )
    content = pixels.content_of(classifier)
    write_atomic(target, content)
    tell("forest", 1, 1)
    annotated = {names[label]: sum(here.get(label, 0) for here in counts.values()) for label in sorted(names)}
    digest = hashlib.sha256(content).hexdigest()
    return TrainedPixels(path=target, classifier=replace(classifier, digest=digest), annotated=annotated, **judged)


def limits_of(source: Volume, options: Options, tell: Progress) -> tuple[float, float]:
    """The percentiles of the whole volume, as the stage `pixels` takes them."""
    counts, bins = histogram_of(source, nodata=options.nodata, tell=tell)
    low, scale = scale_of(Normalization(kind="percentiles", percentiles=options.percentiles), counts, bins, WHERE)
    return low, low + scale


def forest_of(model: Any) -> pixels.Forest:
    """The trees of a fitted RandomForestClassifier as plain arrays."""
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in ("feature", "threshold", "left", "right", "value")}
    roots, first = [], 0
    for tree in (estimator.tree_ for estimator in model.estimators_):
        is_leaf = tree.children_left < 0
        roots.append(first)
        parts["feature"].append(np.where(is_leaf, 0, tree.feature))
        parts["threshold"].append(np.where(is_leaf, 0.0, tree.threshold))
        parts["left"].append(np.where(is_leaf, -1, tree.children_left + first))
        parts["right"].append(np.where(is_leaf, -1, tree.children_right + first))
        shares = tree.value[:, 0, :]
        parts["value"].append(np.where(is_leaf[:, None], shares / shares.sum(axis=1, keepdims=True), 0.0))
        first += tree.node_count
    arrays = {name: np.concatenate(part) for name, part in parts.items()}
    for name in ("feature", "left", "right"):
        arrays[name] = arrays[name].astype(np.int32)
    return pixels.Forest(roots=np.array(roots, np.int64), **arrays)


def _silent(what: str, done: int, total: int) -> None:
    pass


def _free(target: Path, *, overwrite: bool) -> Path:
    if target.suffix != pixels.SUFFIX:
        raise UsageError(f"{target} does not end in {pixels.SUFFIX}", "Name the classifier to write: forest.npz, say")
    if target.is_dir() or (target.exists() and not overwrite):
        raise UsageError(
            f"{target} exists", "Choose another name" + ("" if target.is_dir() else ", or add --overwrite")
        )
    return target


def _import_sklearn() -> ModuleType:
    try:
        import_module("sklearn.ensemble")
        return import_module("sklearn")
    except ImportError as error:
        raise ModelError(
            f"training a pixel classifier needs scikit-learn: {error}", "Run: pip install 'chunkflow-engine[models]'"
        ) from error


def _check_grid(source: Volume, marks: Volume) -> None:
    if marks.dtype.kind not in "iu":
        raise InputError(f"the scribbles are {marks.dtype}, not labels", "Give integers: 0 not annotated, 1, 2, ...")
    alike = all(abs(a - b) <= 1e-3 * b for a, b in zip(marks.scale.voxel_um, source.scale.voxel_um, strict=True))
    if marks.shape != source.shape or not alike:
        raise InputError(
            f"the scribbles have {marks.shape} voxels of {marks.scale.voxel_um} um, the image {source.shape} of "
            f"{source.scale.voxel_um} um",
            "Give scribbles on the image's grid",
        )


def _names(labels: list[int], given: Sequence[str] | None) -> dict[int, str]:
    if not 2 <= len(labels) <= MOST_CLASSES:
        listed = "nothing" if not labels else f"{len(labels)} class{'es' if len(labels) > 1 else ''}"
        raise InputError(f"the scribbles hold {listed}", f"Draw 2 to {MOST_CLASSES} classes, background being one")
    if given is None:
        return {label: f"class {label}" for label in labels}
    if labels[-1] > len(given):
        raise InputError(
            f"the scribbles hold class {labels[-1]}, and {len(given)} names are given", "Name the classes 1, 2, ..."
        )
    return {label: given[label - 1] for label in labels}


def _fitted(sklearn: ModuleType, samples: NDArray[Any], labels: NDArray[Any], options: Options) -> Any:
    """A forest in which every voxel weighs alike.

    Weights of classes would decide which voxels a tree draws, in scikit-learn 1.9 and not before: one of a rare class
    is then in every tree and never out of bag.
    """
    model = sklearn.ensemble.RandomForestClassifier(
        n_estimators=options.trees,
        oob_score=True,
        n_jobs=options.jobs,
        random_state=options.seed % 2**32,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some inputs do not have OOB scores")  # they are left out below
        return model.fit(samples, labels)


def _judged(
    model: Any, labels: NDArray[np.int64], classes: Sequence[pixels.Class], names: Sequence[str]
) -> dict[str, Any]:
    """Out-of-bag accuracy, in all and by class, and the importance of features; voxels that every tree saw left out."""
    votes = np.nan_to_num(model.oob_decision_function_)
    is_judged = votes.sum(axis=1) > 0
    is_right = model.classes_[votes.argmax(axis=1)] == labels
    order = np.argsort(-model.feature_importances_, kind="stable")
    return {
        "out_of_bag": _share(is_right[is_judged]),
        "recalls": {c.name: _share(is_right[is_judged & (labels == c.label)]) for c in classes},
        "importances": {names[i]: float(model.feature_importances_[i]) for i in order},
    }


def _share(is_right: NDArray[np.bool_]) -> float | None:
    return float(is_right.mean()) if is_right.size else None


def _digest(samples: NDArray[np.float32], labels: NDArray[np.int64]) -> str:
    """What was learnt from, wherever it lay."""
    total = hashlib.sha256(samples.tobytes())
    total.update(labels.tobytes())
    return total.hexdigest()
