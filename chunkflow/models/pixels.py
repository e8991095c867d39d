"""Pixel classifiers on disk: a random forest as plain arrays in one .npz, with a header that says what it is for.

    header       JSON: format, features, scales_um, voxel_um, percentiles, classes, training, versions
    roots        (T,) int64      first node of each tree; nodes of a tree stand together, children behind their parents
    feature      (N,) int32      which feature a node asks for     threshold   (N,) float64    left where at most this
    left, right  (N,) int32      children; -1 in a leaf            value       (N, C) float64  shares of the classes

There is no pickle in it, and none is read. A file is checked before anything follows it: every array against the size
of what holds it, every child against its tree, so that a walk from a root ends at a leaf whatever the numbers are.
Read into memory whole, about 30 bytes and 8 per class for each node.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.errors import ConfigError, ModelError, nearest

SUFFIX = ".npz"
FORMAT = "chunkflow pixel classifier 1"
ARRAYS = {"roots": "<i8", "feature": "<i4", "threshold": "<f8", "left": "<i4", "right": "<i4", "value": "<f8"}
HEADER = "header"
MAGIC_BYTES = 4096  # of a .npy, more than its own header takes
SUM_TOLERANCE = 1e-6
TRAIN = "Train one with chunkflow train-pixels"


@dataclass(frozen=True, slots=True)
class Class:
    """What a voxel can be: the value it had in the scribbles, its name and how many voxels of it were learnt from."""

    label: int
    name: str
    voxels: int


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """The trees (see the module)."""

    roots: NDArray[np.int64]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelClassifier:
    """A forest and what it was trained for.

    features : names, in the order that nodes count them by
    scales_um : of the features; voxel_um : of the image it was trained on
    percentiles : of the whole volume, which become 0 and 1 before features are computed
    classes : as the columns of `Forest.value`
    training : facts for people (digest of the samples, out-of-bag accuracy, importances); versions : of what made it
    digest : SHA-256 (hex) of the file, "" before it is written
    """

    features: tuple[str, ...]
    scales_um: tuple[float, ...]
    voxel_um: tuple[float, float, float]
    percentiles: tuple[float, float]
    classes: tuple[Class, ...]
    training: Mapping[str, Any]
    versions: Mapping[str, str]
    forest: Forest
    digest: str = ""

    def column(self, wanted: int | str | None) -> int:
        """Which column of the forest's values a class is, by its name or its value in the scribbles.

        None is the second of two classes.

        Raises
        ------
        ConfigError : there is no such class, or more than two to choose from.
        """
        listed = ", ".join(f"{c.label} {c.name}" for c in self.classes)
        if wanted is None:
            if len(self.classes) != 2:
                raise ConfigError(f"the classifier tells {len(self.classes)} classes apart: {listed}", "Name one")
            return 1
        for column, known in enumerate(self.classes):
            if wanted in (known.label, known.name):
                return column
        remedy = f"Known: {listed}" if isinstance(wanted, int) else nearest(wanted, [c.name for c in self.classes])
        raise ConfigError(f"the classifier has no class {wanted!r}", remedy)


def is_pixel_classifier(path: str | Path) -> bool:
    """Whether a file is to be read as one, by its name."""
    return Path(path).suffix == SUFFIX


def digest_of(path: str | Path) -> str:
    """SHA-256 (hex) of the file.

    Raises
    ------
    ModelError : there is no such file.
    """
    try:
        with Path(path).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"there is no pixel classifier at {path} ({error.strerror})", TRAIN) from error


def content_of(classifier: PixelClassifier) -> bytes:
    """The bytes of the file: the same for the same classifier."""
    header = {
        "format": FORMAT,
        "features": list(classifier.features),
        "scales_um": list(classifier.scales_um),
        "voxel_um": list(classifier.voxel_um),
        "percentiles": list(classifier.percentiles),
        "classes": [{"label": c.label, "name": c.name, "voxels": c.voxels} for c in classifier.classes],
        "training": dict(classifier.training),
        "versions": dict(classifier.versions),
    }
    arrays = {name: np.asarray(getattr(classifier.forest, name), dtype) for name, dtype in ARRAYS.items()}
    text = np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)
    written = io.BytesIO()
    np.savez(written, allow_pickle=False, **{HEADER: text}, **arrays)
    return written.getvalue()


def load_pixels(path: str | Path) -> PixelClassifier:
    """Read a pixel classifier.

    Raises
    ------
    ModelError : there is none, or the file is damaged, foreign or inconsistent.
    """
    digest = digest_of(path)
    try:
        arrays = _arrays(Path(path))
        header = json.loads(bytes(arrays.pop(HEADER).astype(np.uint8)).decode("utf-8"))
        if header["format"] != FORMAT:
            raise _UnfitError(f"its format is {header['format']!r}, not {FORMAT!r}")
        forest = Forest(**arrays)
        classifier = _described(header, forest, digest)
        _check_forest(forest, len(classifier.features), len(classifier.classes))
    except _UnfitError as error:
        raise ModelError(f"{path} is no pixel classifier that can be used: {error}", TRAIN) from error
    except Exception as error:  # whatever readers raise on a foreign file (a dozen kinds) means the same here
        what = (str(error).strip().splitlines() or [""])[0][:200]
        raise ModelError(
            f"{path} cannot be read as a pixel classifier: {type(error).__name__} {what}".rstrip(), TRAIN
        ) from error
    return classifier


class _UnfitError(Exception):
    """What is wrong with a file."""


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of the file, none of which is larger than the file."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        for name in (HEADER, *ARRAYS):
            info = infos.get(f"{name}.npy")
            if info is None:
                raise _UnfitError(f"{name} is missing")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > path.stat().st_size:
                raise _UnfitError(f"{name} is compressed")
            found[name] = _array(archive.read(info), name)
    return found


def _array(content: bytes, name: str) -> NDArray[Any]:
    opened = io.BytesIO(content)
    version = np.lib.format.read_magic(opened)
    if version != (1, 0):
        raise _UnfitError(f"{name} is of version {version} of .npy")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(opened, max_header_size=MAGIC_BYTES)
    wanted = np.dtype(ARRAYS.get(name, "u1"))
    dimensions = 2 if name == "value" else 1
    if dtype != wanted or len(shape) != dimensions or fortran:
        raise _UnfitError(f"{name} is {dtype} of shape {shape}, not {wanted} of {dimensions} dimensions")
    if min(shape) < 0 or prod(shape) * dtype.itemsize != len(content) - opened.tell():
        raise _UnfitError(f"{name} of shape {shape} does not have the size of what is stored")
    return np.frombuffer(content, dtype, offset=opened.tell()).reshape(shape)


def _described(header: Mapping[str, Any], forest: Forest, digest: str) -> PixelClassifier:
    """What the header says, checked."""
    scales = _numbers(header["scales_um"], "scales_um")
    voxel_um = _numbers(header["voxel_um"], "voxel_um")
    percentiles = _numbers(header["percentiles"], "percentiles")
    if not scales or min(*scales, *voxel_um) <= 0 or len(voxel_um) != 3:
        raise _UnfitError(f"scales_um {scales} or voxel_um {voxel_um} are not positive")
    if len(percentiles) != 2 or not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise _UnfitError(f"percentiles {percentiles} are not in order")
    classes = tuple(Class(int(c["label"]), str(c["name"]), int(c["voxels"])) for c in header["classes"])
    if (
        len(classes) < 2
        or len({c.name for c in classes}) < len(classes)
        or len({c.label for c in classes}) < len(classes)
    ):
        raise _UnfitError(f"classes {[c.name for c in classes]} are not two or more with names of their own")
    return PixelClassifier(
        features=tuple(str(name) for name in header["features"]),
        scales_um=scales,
        voxel_um=(voxel_um[0], voxel_um[1], voxel_um[2]),
        percentiles=(percentiles[0], percentiles[1]),
        classes=classes,
        training=dict(header["training"]),
        versions=dict(header["versions"]),
        forest=forest,
        digest=digest,
    )


def _numbers(values: Any, name: str) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(isinstance(v, int | float) and isfinite(v) for v in values):
        raise _UnfitError(f"{name} is {values!r}, not a list of numbers")
    return tuple(float(v) for v in values)


def _check_forest(forest: Forest, features: int, classes: int) -> None:
    """Refuse trees that a walk could leave, circle in, or end in something else than shares of the classes."""
    roots, left, right = forest.roots, forest.left.astype(np.int64), forest.right.astype(np.int64)
    count = len(forest.feature)
    if any(len(array) != count for array in (forest.threshold, left, right, forest.value)):
        raise _UnfitError("its arrays are of different lengths")
    if forest.value.shape[1] != classes:
        raise _UnfitError(f"it has values for {forest.value.shape[1]} classes, and {classes} names")
    if not len(roots) or roots[0] != 0 or roots[-1] >= count or any(b <= a for a, b in pairwise(roots.tolist())):
        raise _UnfitError("its roots are not the first nodes of trees, in order")
    node = np.arange(count)
    end = np.append(roots[1:], count)[np.searchsorted(roots, node, side="right") - 1]
    inner = left != -1
    for child in (left, right):
        if not ((child[~inner] == -1).all() and (child[inner] > node[inner]).all() and (child < end)[inner].all()):
            raise _UnfitError("a child does not stand behind its parent in its own tree")
    asked, threshold = forest.feature[inner], forest.threshold[inner]
    if ((asked < 0) | (asked >= features)).any() or not np.isfinite(threshold).all():
        raise _UnfitError(f"a node asks for a feature beyond {features}, or compares it with no number")
    shares = forest.value[~inner]
    if not ((shares >= 0).all() and (np.abs(shares.sum(axis=1) - 1) <= SUM_TOLERANCE).all()):
        raise _UnfitError("a leaf does not hold shares that add up to 1")
