"""Files of pixel classifiers: what is written is read, and what is damaged, foreign or hostile is one clear error."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunkflow.errors import ConfigError, ModelError
from chunkflow.models import pixels

STUMPS = pixels.Forest(  # two trees: a root with two leaves, and one that asks again on its right
    roots=np.array([0, 3], np.int64),
    feature=np.array([1, 0, 0, 0, 0, 1, 0, 0], np.int32),
    threshold=np.array([0.5, 0, 0, -1, 0, 2, 0, 0], np.float64),
    left=np.array([1, -1, -1, 4, -1, 6, -1, -1], np.int32),
    right=np.array([2, -1, -1, 5, -1, 7, -1, -1], np.int32),
    value=np.array([[0, 0], [0.25, 0.75], [1, 0], [0, 0], [0, 1], [0, 0], [0.5, 0.5], [1, 0]], np.float64),
)
CLASSIFIER = pixels.PixelClassifier(
    features=("a", "b"),
    scales_um=(0.1, 0.2),
    voxel_um=(0.3, 0.1, 0.1),
    percentiles=(1.0, 99.0),
    classes=(pixels.Class(1, "background", 20), pixels.Class(2, "mitochondria", 10)),
    training={"digest": "0", "out_of_bag": 0.9},
    versions={"numpy": "2"},
    forest=STUMPS,
)


def stored(folder: Path, classifier: pixels.PixelClassifier = CLASSIFIER) -> Path:
    path = folder / "forest.npz"
    path.write_bytes(pixels.content_of(classifier))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = stored(tmp_path)
    found = pixels.load_pixels(path)
    assert replace(found, forest=STUMPS, digest="") == replace(CLASSIFIER, forest=STUMPS)
    for name in pixels.ARRAYS:
        assert np.array_equal(getattr(found.forest, name), getattr(STUMPS, name))
    assert found.digest == pixels.digest_of(path)
    assert pixels.content_of(found) == path.read_bytes()


def test_a_file_opens_with_numpy_alone_and_without_pickle(tmp_path: Path) -> None:
    with np.load(stored(tmp_path), allow_pickle=False) as opened:
        assert json.loads(opened["header"].tobytes())["scales_um"] == [0.1, 0.2]


def test_classes_are_found_by_name_and_by_number() -> None:
    assert CLASSIFIER.column(None) == CLASSIFIER.column("mitochondria") == CLASSIFIER.column(2) == 1
    assert CLASSIFIER.column("background") == 0
    with pytest.raises(ConfigError, match="no class 'mitochondrion'. Did you mean 'mitochondria'"):
        CLASSIFIER.column("mitochondrion")
    with pytest.raises(ConfigError, match="no class 0. Known: 1 background, 2 mitochondria"):
        CLASSIFIER.column(0)
    three = replace(CLASSIFIER, classes=(*CLASSIFIER.classes, pixels.Class(3, "er", 5)))
    with pytest.raises(ConfigError, match="tells 3 classes apart: 1 background, 2 mitochondria, 3 er. Name one"):
        three.column(None)


def changed(**arrays: Any) -> pixels.PixelClassifier:
    return replace(CLASSIFIER, forest=replace(STUMPS, **arrays))


def put(array: Any, at: Any, value: Any) -> Any:
    copy = array.copy()
    copy[at] = value
    return copy


@pytest.mark.parametrize(
    ("classifier", "words"),
    [
        (changed(left=put(STUMPS.left, 5, 3)), "does not stand behind its parent"),  # a cycle
        (changed(right=put(STUMPS.right, 0, 0)), "does not stand behind its parent"),  # itself
        (changed(right=put(STUMPS.right, 0, 4)), "in its own tree"),
        (changed(right=put(STUMPS.right, 5, 8)), "in its own tree"),  # beyond the end
        (changed(left=put(STUMPS.left, 1, -7)), "does not stand behind its parent"),
        (changed(right=put(STUMPS.right, 1, 2)), "does not stand behind its parent"),  # half a leaf
        (changed(feature=put(STUMPS.feature, 0, 2)), "asks for a feature beyond 2"),
        (changed(feature=put(STUMPS.feature, 3, -1)), "asks for a feature beyond 2"),
        (changed(threshold=put(STUMPS.threshold, 5, np.nan)), "compares it with no number"),
        (changed(value=put(STUMPS.value, 2, np.nan)), "shares that add up to 1"),
        (changed(value=put(STUMPS.value, 2, (2, -1))), "shares that add up to 1"),
        (changed(value=STUMPS.value[:, :1]), "values for 1 classes, and 2 names"),
        (changed(left=STUMPS.left[:-1]), "arrays are of different lengths"),
        (changed(roots=np.array([0, 9])), "roots are not the first nodes"),
        (changed(roots=np.array([3, 0])), "roots are not the first nodes"),
        (changed(roots=np.array([-1, 3])), "roots are not the first nodes"),
        (changed(roots=np.zeros(0, np.int64)), "roots are not the first nodes"),
        (replace(CLASSIFIER, scales_um=(0.1, -0.2)), "not positive"),
        (replace(CLASSIFIER, scales_um=()), "not positive"),
        (replace(CLASSIFIER, percentiles=(99.0, 1.0)), "not in order"),
        (replace(CLASSIFIER, classes=CLASSIFIER.classes[:1]), "not two or more"),
        (replace(CLASSIFIER, classes=CLASSIFIER.classes[:1] * 2), "names of their own"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, classifier: pixels.PixelClassifier, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        pixels.load_pixels(stored(tmp_path, classifier))


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], **how: Any) -> Path:
    """The file with its members changed; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: change(name, archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)
    return path


def npy(array: Any, **how: Any) -> bytes:
    written = io.BytesIO()
    np.save(written, array, **how)
    return written.getvalue()


def header(**values: Any) -> bytes:
    known = {"format": pixels.FORMAT, "features": ["a"], "scales_um": [0.1], "voxel_um": [1, 1, 1]}
    known |= {"percentiles": [1, 99], "classes": [], "training": {}, "versions": {}}
    return npy(np.frombuffer(json.dumps(known | values).encode(), np.uint8))


@pytest.mark.parametrize(
    ("member", "content", "words"),
    [
        ("left.npy", None, "left is missing"),
        ("header.npy", None, "header is missing"),
        ("left.npy", npy(STUMPS.left.astype(object), allow_pickle=True), "left is object"),
        ("left.npy", npy(STUMPS.left.astype(np.int64)), "left is int64 of shape"),
        ("value.npy", npy(STUMPS.value.ravel()), "value is float64 of shape"),
        ("left.npy", npy(STUMPS.left).replace(b"(8,)", b"(9,)"), "does not have the size of what is stored"),
        ("left.npy", npy(STUMPS.left)[:-3], "does not have the size of what is stored"),
        ("left.npy", b"", "cannot be read as a pixel classifier"),
        ("header.npy", npy(np.frombuffer(b"{", np.uint8)), "cannot be read as a pixel classifier: JSONDecodeError"),
        ("header.npy", npy(np.frombuffer(b"[1]", np.uint8)), "cannot be read as a pixel classifier"),
        ("header.npy", header(format="of somebody else"), "format is 'of somebody else'"),
        ("header.npy", header(scales_um="0.1"), "scales_um is '0.1', not a list of numbers"),
        ("header.npy", header(scales_um=[float("inf")]), "not a list of numbers"),
        ("header.npy", npy(np.frombuffer(b"[" * 10**5, np.uint8)), "cannot be read as a pixel classifier"),
    ],
)
def test_damaged_members_are_refused(tmp_path: Path, member: str, content: bytes | None, words: str) -> None:
    path = rewritten(stored(tmp_path), lambda name, old: content if name == member else old)
    with pytest.raises(ModelError, match=words):
        pixels.load_pixels(path)


def test_a_file_that_unpacks_to_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = rewritten(stored(tmp_path), lambda name, old: old, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="header is compressed"):
        pixels.load_pixels(path)


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    whole = stored(tmp_path).read_bytes()
    for number, content in enumerate((b"", b"PK", whole[:-100], whole[: len(whole) // 2])):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"\.npz (cannot be read as|is no) a? ?pixel classifier"):
            pixels.load_pixels(path)
    with pytest.raises(ModelError, match="there is no pixel classifier at"):
        pixels.load_pixels(tmp_path / "none.npz")
    with pytest.raises(ModelError, match="there is no pixel classifier at"):
        pixels.load_pixels(tmp_path)


@pytest.mark.parametrize("seed", range(40))
def test_no_flipped_byte_makes_a_forest_that_cannot_be_walked(tmp_path: Path, seed: int) -> None:
    from chunkflow.kernels import trees

    rng = np.random.default_rng(seed)
    content = bytearray(stored(tmp_path).read_bytes())
    for at in rng.integers(0, len(content), 3):
        content[at] = rng.integers(0, 256)
    path = tmp_path / "flipped.npz"
    path.write_bytes(content)
    try:
        forest = pixels.load_pixels(path).forest
    except ModelError:
        return
    arrays = {name: getattr(forest, name) for name in ("roots", "feature", "threshold", "left", "right")}
    rows = rng.standard_normal((50, 2)).astype(np.float32)
    found = trees.probability(rows, **arrays, value=np.ascontiguousarray(forest.value[:, 1]))
    assert ((found >= 0) & (found <= 1)).all()
