"""TIFFs of arrays on disk: what is in memory is a slab, whatever the volume."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.run import export_tiff as module
from chunkflow.run.export_tiff import Layer, export_tiff
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.tiff_image import read_tiff
from chunkflow.storage.volume import Volume, create_array

SCALE = Scale((0.3, 0.1, 0.1))


def volume(folder: Path, data: np.ndarray) -> Volume:
    shape = (data.shape[0], data.shape[1], data.shape[2])
    made = create_array(folder / "0", layout_for_core((32, 32, 32), shape, data.dtype), SCALE)
    made.write(made.box, data)
    return made


def test_a_tiff_takes_the_memory_of_a_slab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).integers(0, 60_000, (160, 128, 130)).astype(np.uint16)
    labels = volume(tmp_path, data)
    monkeypatch.setattr(module, "SLAB_BYTES", data[0].nbytes * 16)
    told: list[tuple[int, int]] = []
    export_tiff(  # once before, so that nothing is imported or compiled meanwhile
        tmp_path / "a.tif", [Layer(labels, None, "a")], SCALE, labels.box, on_plane=lambda *at: told.append(at)
    )
    assert told[-1] == (320, 320)  # for the range, and to write
    tracemalloc.start()
    export_tiff(tmp_path / "a.tif", [Layer(labels, None, "a", is_labels=True)], SCALE, labels.box)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < data.nbytes / 2
    np.testing.assert_array_equal(read_tiff(tmp_path / "a.tif").array, data)


@pytest.mark.parametrize("depth", [1, 5, 64])
def test_slabs_change_no_voxel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int) -> None:
    data = np.random.default_rng(1).random((37, 21, 23)).astype(np.float32)
    data[3, 4, 5] = np.nan
    image = volume(tmp_path, data)
    monkeypatch.setattr(module, "SLAB_BYTES", data[0].nbytes * depth)
    region = Box((2, 3, 4), (35, 20, 22))
    export_tiff(tmp_path / "a.tif", [Layer(image, None, "a")], SCALE, region)
    found = read_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(found.array, data[region.slices])
    assert found.styles[0].window == (float(np.nanmin(data[region.slices])), float(np.nanmax(data[region.slices])))
    assert found.translation_um == pytest.approx((0.6, 0.3, 0.4))
