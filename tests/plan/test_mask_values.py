"""Inputs that are called masks: of one value, of labels, and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.errors import UsageError
from chunkflow.plan.plan import Plan
from chunkflow.testing.suites import random_volume, write_volume

SHAPE = (21, 130, 75)


def planned(folder: Path, voxels: np.ndarray, **options: Any) -> Plan:
    write_volume(folder / "in.ome.zarr", voxels)
    pipeline = cf.Pipeline([cf.Label()], input=cf.InputOptions(**{"kind": "mask", **options}))
    return pipeline.plan(folder / "in.ome.zarr", folder / "out")


def mask() -> np.ndarray:
    return random_volume("mask", SHAPE, np.random.default_rng(1)) > 0


def labels() -> np.ndarray:
    z, y, x = (np.arange(n) // 9 for n in SHAPE)
    return np.where(mask(), 1 + z[:, None, None] * 100 + y[None, :, None] * 10 + x, 0)


@pytest.mark.parametrize(
    ("value", "dtype"), [(1, bool), (1, np.uint8), (255, np.uint8), (-1, np.int16), (0.5, np.float32)]
)
def test_a_mask_of_one_value_is_a_mask(value: float, dtype: type, tmp_path: Path) -> None:
    assert planned(tmp_path, (mask() * value).astype(dtype)).warnings == ()


def test_neither_an_empty_nor_a_full_mask_is_anything_else(tmp_path: Path) -> None:
    assert planned(tmp_path / "empty", np.zeros(SHAPE, np.uint8)).warnings == ()
    assert planned(tmp_path / "full", np.full(SHAPE, 255, np.uint8)).warnings == ()


def test_of_labels_it_is_said_that_they_are_merged(tmp_path: Path) -> None:
    (said,) = planned(tmp_path, labels().astype(np.uint16)).warnings
    assert "several values beside 0 (" in said and "kind: labels" in said and "become one" in said


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_an_image_is_refused_with_what_to_do(dtype: type, tmp_path: Path) -> None:
    image = random_volume("image", SHAPE, np.random.default_rng(1)).astype(np.float64)
    voxels = (image / image.max() * 200).astype(dtype)
    with pytest.raises(
        UsageError, match="holds grey values .*, all of which would be foreground.*kind: image.*threshold"
    ):
        planned(tmp_path, voxels)
    assert not (tmp_path / "out").exists()


def test_an_image_is_told_where_it_is_dark_but_for_a_few_places(tmp_path: Path) -> None:
    image = random_volume("image", SHAPE, np.random.default_rng(1))
    voxels = np.where(mask(), image, 0)
    with pytest.raises(UsageError, match="grey values"):
        planned(tmp_path, voxels)


def test_what_holds_no_data_is_no_value_of_a_mask(tmp_path: Path) -> None:
    voxels = mask().astype(np.uint8)
    voxels[:, :20] = 9
    assert planned(tmp_path, voxels, nodata=9.0).warnings == ()
    write = voxels.astype(np.float32)
    write[:, :20] = np.nan
    assert planned(tmp_path / "nan", write).warnings == ()


def test_a_chunk_that_cannot_be_read_is_left_to_the_run(tmp_path: Path) -> None:
    planned(tmp_path, labels().astype(np.uint16))
    files = [file for file in (tmp_path / "in.ome.zarr" / "0" / "c").rglob("*") if file.is_file()]
    for file in files:
        file.write_bytes(b"damaged")
    pipeline = cf.Pipeline([cf.Label()], input=cf.InputOptions(kind="mask"))
    assert pipeline.plan(tmp_path / "in.ome.zarr", tmp_path / "out").warnings == ()
