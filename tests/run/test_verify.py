"""A verified run: equal where nobody touched it; whatever is changed by hand is found and named by its coordinates."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import chunkflow as cf
from chunkflow.errors import InputChangedError, IntegrityError, UsageError
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.run.result import open_result
from chunkflow.run.verify import pieces_of, raise_if_different, stored_verification, verify
from chunkflow.storage.volume import open_array
from chunkflow.testing import suites

VOXEL_UM = (0.2, 0.08, 0.08)
SAVED = ("image", "mask", "labels", "skeleton")


@pytest.fixture(scope="module")
def finished(demo_volume: Path, tmp_path_factory: Any) -> Path:
    """A run in 18 blocks, the skeleton's too."""
    out = Path(tmp_path_factory.mktemp("verify") / "out")
    stages = [cf.Threshold(smooth_um=0.06), cf.Label(min_voxels=20), cf.Skeleton(), cf.Measure()]
    pipeline = cf.Pipeline(stages, output=cf.OutputOptions(save=SAVED))
    pipeline.plan(demo_volume, out, block=(16, 48, 48)).run(on="serial")
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def _change(array: Path, change: Callable[[np.ndarray], None]) -> None:
    volume = open_array(array, Scale((1.0, 1.0, 1.0)))
    data = volume.read(volume.box)
    change(data)
    volume.write(volume.box, data)


def _objects(out: Path) -> Path:
    return out / "image.ome.zarr" / "labels" / "objects" / "0"


def test_a_run_that_nobody_touched_is_equal_in_every_block(finished: Path) -> None:
    found = verify(finished, blocks=None)
    assert found.differences == []
    assert found.is_equal
    assert found.checked == list(range(18))
    assert set(found.voxels) == set(SAVED) - {"skeleton"}
    assert found.objects == found.skeletons == len(open_result(finished).objects) >= 4
    assert found.sentence() == "verified: 18 of 18 blocks recomputed on another grid: equal"
    raise_if_different(found)
    stored = stored_verification(open_result(finished))
    assert stored is not None
    assert stored["sentence"] == found.sentence()


def test_deconvolved_and_resampled_voxels_are_computed_again_from_the_input(
    demo_pipeline: Callable[..., cf.Pipeline], tiny_volume: Path, tmp_path: Path
) -> None:
    demo_pipeline(save=SAVED).plan(tiny_volume, tmp_path / "out", block=(32, 32, 32)).run(on="serial")
    found = verify(tmp_path / "out", blocks=2)
    assert found.differences == []
    assert found.voxels["image"] > 30**3


def test_a_sample_holds_as_many_blocks_as_asked_for_and_the_same_again(finished: Path) -> None:
    first, again = verify(finished, blocks=2), verify(finished, blocks=2)
    assert len(first.checked) == 2
    assert first.checked == again.checked != verify(finished, blocks=2, seed=1).checked
    assert first.is_equal


def test_flipped_labels_are_found_where_they_are(copied: Path) -> None:
    labels = open_array(_objects(copied), Scale((1.0, 1.0, 1.0)))
    data = labels.read(labels.box)
    at = tuple(int(v) for v in np.argwhere(data)[500])

    def flip(data: np.ndarray) -> None:
        data[at] = data[at] % 4 + 1

    _change(_objects(copied), flip)
    found = verify(copied, blocks=None)
    assert at in {d.at for d in found.differences if d.what == "labels"}
    with pytest.raises(IntegrityError, match="differences in 18 of 18 blocks"):
        raise_if_different(found)


def test_labels_that_are_lost_or_invented_are_found(copied: Path) -> None:
    data = open_array(_objects(copied), Scale((1.0, 1.0, 1.0)))[:]
    lost = tuple(int(v) for v in np.argwhere(data)[0])
    invented = tuple(int(v) for v in np.argwhere(data == 0)[0])

    def change(data: np.ndarray) -> None:
        data[lost], data[invented] = 0, 1

    _change(_objects(copied), change)
    texts = " ".join(d.text for d in verify(copied, blocks=None).differences)
    assert "outside the foreground" in texts
    assert "another id than their object" in texts


def test_an_object_that_was_not_joined_over_a_seam_is_found(copied: Path) -> None:
    def cut(data: np.ndarray) -> None:
        """What an object has behind the face at x = 48 gets an id of its own."""
        crossing = data[:, :, 47][(data[:, :, 47] != 0) & (data[:, :, 47] == data[:, :, 48])]
        right = data[:, :, 48:]
        right[right == crossing[0]] = 999

    _change(_objects(copied), cut)
    texts = [d.text for d in verify(copied, blocks=None).differences]
    assert any("another id than their object" in text for text in texts)
    assert any("id 999" in text and "is not there" in text for text in texts)


def test_two_objects_that_were_joined_are_found(copied: Path) -> None:
    def join(data: np.ndarray) -> None:
        data[data == 2] = 1

    _change(_objects(copied), join)
    differences = verify(copied, blocks=None).differences
    assert any("object 1: it falls into 2 pieces" in d.text or "id 1 lies in" in d.text for d in differences)
    assert any("object 2 of the table has no voxel" in d.text or "id 1 lies in" in d.text for d in differences)


@pytest.mark.parametrize("name", ["image", "mask", "skeleton"])
def test_a_voxel_of_any_array_that_changed_is_found(name: str, copied: Path) -> None:
    array = copied / "image.ome.zarr" / ("0" if name == "image" else f"labels/{name}/0")
    at = (20, 50, 60)

    def change(data: np.ndarray) -> None:
        place = at if name != "skeleton" else tuple(np.argwhere(data)[7])
        data[place] = data[place] * 2 + 1 if name == "image" else data[place] == 0

    _change(array, change)
    differences = verify(copied, blocks=None).differences
    assert differences
    if name == "skeleton":
        assert "voxels of its skeleton that differ: 1" in differences[0].text
    else:
        assert {d.at for d in differences} == {at}
        assert {d.what for d in differences} == {name}


def test_a_damaged_file_is_a_difference(copied: Path) -> None:
    file = max((_objects(copied) / "c").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 255
    file.write_bytes(content)
    assert any(d.what == "files" for d in verify(copied, blocks=None).differences)


def test_a_table_that_says_otherwise_is_a_difference(copied: Path) -> None:
    path = copied / "tables" / "objects.parquet"
    table = pd.read_parquet(path)
    table.loc[1, "volume_vox"] += 1
    table.to_parquet(path)
    assert any("the table says" in d.text for d in verify(copied, blocks=None).differences)


def test_another_input_is_refused(finished: Path, demo_image: np.ndarray, tmp_path: Path) -> None:
    suites.write_volume(tmp_path / "other.ome.zarr", demo_image + np.uint16(1), VOXEL_UM)
    with pytest.raises(InputChangedError):
        verify(finished, source=tmp_path / "other.ome.zarr")
    with pytest.raises(UsageError, match="0 blocks"):
        verify(finished, blocks=0)


def test_what_was_verified_before_a_change_is_not_shown_after_it(copied: Path) -> None:
    verify(copied, blocks=1)
    assert stored_verification(open_result(copied)) is not None
    path = copied / "run" / "verify.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"passes": {}}))
    assert stored_verification(open_result(copied)) is None


def test_pieces_cover_a_window_once_and_are_no_blocks() -> None:
    window = Box((31, 0, 63), (65, 9, 97))
    seen = np.zeros(window.shape, int)
    for piece in pieces_of(window):
        seen[piece.relative_to(window.start).slices] += 1
        assert piece.start[0] % 32
    assert (seen == 1).all()


def hollow_boxes(kind: str) -> np.ndarray:
    """Boxes with holes of 8 and of 432 voxels, one of them with a box inside, and one open at a side."""
    data = np.zeros((20, 22, 30), np.uint16)
    for k, (start, stop, wall) in enumerate(
        [
            ((1, 1, 1), (13, 19, 11), 3),
            ((2, 2, 13), (8, 8, 19), 2),
            ((1, 10, 13), (11, 20, 23), 2),
            ((15, 1, 1), (20, 9, 9), 2),
        ],
        start=1,
    ):
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        data[box] = k
        data[tuple(slice(s.start + wall, s.stop - wall if s.stop < 20 else s.stop) for s in box)] = 0
    data[5, 14, 17] = 5
    return data if kind == "labels" else (data != 0).astype(np.uint8)


HOLES: dict[str, tuple[cf.Label | cf.Instances, str]] = {
    "mask, without specks": (cf.Label(fill_holes=True, min_voxels=10), "mask"),
    "labels, without specks": (cf.Label(fill_holes=True, min_voxels=10), "labels"),
    "mask": (cf.Label(fill_holes=True), "mask"),
    "labels": (cf.Label(fill_holes=True, max_hole_um3=0.1), "labels"),
    "instances": (cf.Instances(fill_holes=True, min_seed_distance_um=100.0), "mask"),
}


@pytest.mark.parametrize("case", HOLES)
def test_filled_holes_are_verified(case: str, tmp_path: Path) -> None:
    stage, kind = HOLES[case]
    suites.write_volume(tmp_path / "in.ome.zarr", hollow_boxes(kind), VOXEL_UM)
    pipeline = cf.Pipeline([stage, cf.Measure()], input=cf.InputOptions(kind=kind))  # type: ignore[arg-type]
    pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / "out", block=(16, 16, 16)).run(on="serial")
    assert verify(tmp_path / "out", blocks=None).differences == []

    def open_a_hole(data: np.ndarray) -> None:
        assert data[5, 5, 16] != 0
        data[5, 5, 16] = 0

    _change(_objects(tmp_path / "out"), open_a_hole)
    assert any("background" in d.text for d in verify(tmp_path / "out", blocks=None).differences)


MASKS = {
    "mask": (cf.Label(connectivity=6, clear_border=True), "mask"),
    "labels": (cf.Label(min_voxels=30), "labels"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_inputs_of_masks_and_labels_are_verified_too(kind: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    mask = rng.random((20, 22, 30)) < 0.1
    data = mask.astype(np.uint8) if kind == "mask" else mask * rng.integers(1, 5, mask.shape).astype(np.uint16)
    suites.write_volume(tmp_path / "in.ome.zarr", data, VOXEL_UM)
    stages = [MASKS[kind][0], cf.Measure()]
    pipeline = cf.Pipeline(stages, input=cf.InputOptions(kind=kind), output=cf.OutputOptions(save=("labels",)))
    pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / "out", block=(16, 16, 16)).run(on="serial")
    found = verify(tmp_path / "out", blocks=3)
    assert found.differences == []

    def swap(data: np.ndarray) -> None:
        first = tuple(np.argwhere(data)[-1])
        data[first] = 0

    _change(_objects(tmp_path / "out"), swap)
    assert not verify(tmp_path / "out", blocks=None).is_equal


def test_levels_of_a_pyramid_are_compared_with_the_level_below(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 50, (6, 40, 300), np.uint8)
    suites.write_volume(tmp_path / "in.ome.zarr", data, VOXEL_UM)
    pipeline = cf.Pipeline([cf.Threshold(method="fixed", value=45), cf.Label()])
    pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / "out", block=(32, 32, 64)).run(on="serial")
    found = verify(tmp_path / "out", blocks=None)
    assert {"image@1", "labels@1"} <= set(found.voxels)
    assert found.differences == []

    def change(data: np.ndarray) -> None:
        data[1, 5, 7] += 1

    _change(tmp_path / "out" / "image.ome.zarr" / "1", change)
    differences = verify(tmp_path / "out", blocks=None).differences
    assert {(d.what, d.at) for d in differences} == {("image@1", (1, 5, 7))}
