"""Boxes read straight from shards, beside zarr's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from chunkflow.errors import IntegrityError
from chunkflow.geometry.box import Box
from chunkflow.storage.shards import shards_of

CHECKED = ZstdCodec(level=1, checksum=True)


def stored(path: Path, data: np.ndarray, **options: Any) -> zarr.Array[Any]:
    """An array as `zarr.create_array` makes it, by default with empty chunks left out."""
    array = zarr.create_array(path, shape=data.shape, dtype=data.dtype, **({"compressors": [CHECKED]} | options))
    array[...] = data
    return array


def noise(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Values with empty parts."""
    data = (rng.random(shape) * 200).astype(dtype)
    data[rng.random(shape) < 0.3] = 0
    data[: shape[0] // 2, : shape[1] // 2] = 0
    return data


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint64", "float32"])
@pytest.mark.parametrize("sharded", [True, False])
def test_every_box_is_what_zarr_reads(dtype: str, sharded: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(len(dtype))
    for trial in range(2):
        shape = tuple(int(n) for n in rng.integers(1, 24, 3))
        chunk = tuple(int(n) for n in rng.integers(1, 9, 3))
        shard = tuple(c * int(rng.integers(1, 4)) for c in chunk) if sharded else None
        array = stored(tmp_path / str(trial), noise(rng, shape, dtype), chunks=chunk, shards=shard, fill_value=3)
        reader = shards_of(array, str(tmp_path / str(trial)))
        assert reader is not None
        for _ in range(8):
            a, b = np.sort([rng.integers(0, n + 1, 2) for n in shape]).T
            box = Box(tuple(map(int, a)), tuple(map(int, np.maximum(b, a + 1).clip(max=shape))))
            if box.size:
                found = reader.read(box)
                assert found.dtype == np.dtype(dtype)
                np.testing.assert_array_equal(found, array[box.slices])


def test_files_that_are_absent_hold_the_fill_value(tmp_path: Path) -> None:
    array = stored(tmp_path, np.ones((16, 16, 16), np.uint16), chunks=(4, 4, 4), shards=(8, 8, 8), fill_value=7)
    (tmp_path / "c" / "1" / "0" / "1").unlink()
    reader = shards_of(array, str(tmp_path))
    assert reader is not None
    found = reader.read(Box((0, 0, 0), (16, 16, 16)))
    np.testing.assert_array_equal(found, array[...])
    assert set(np.unique(found)) == {1, 7}


def test_no_flipped_bit_is_read_as_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    data = noise(rng, (8, 8, 8), "uint16")
    array = stored(tmp_path, data, chunks=(4, 4, 4), shards=(8, 8, 8))
    reader = shards_of(array, str(tmp_path))
    assert reader is not None
    file = tmp_path / "c" / "0" / "0" / "0"
    whole = file.read_bytes()
    for bit in rng.choice(8 * len(whole), 150, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(damaged)
        try:
            found = reader.read(Box.of_shape(data.shape))
        except IntegrityError:
            continue
        np.testing.assert_array_equal(found, data)  # a bit that zstd ignores
    for length in (0, 3, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(IntegrityError):
            reader.read(Box.of_shape(data.shape))


@pytest.mark.parametrize(
    "options",
    [
        {"zarr_format": 2, "compressors": {"id": "zstd", "level": 1}},
        {"compressors": [BloscCodec()]},
        {"compressors": [ZstdCodec(level=1, checksum=False)]},
        {"compressors": None},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
    ],
    ids=["format 2", "blosc", "no checksum", "not compressed", "other names"],
)
def test_other_arrays_are_left_to_zarr(options: dict[str, Any], tmp_path: Path) -> None:
    array = stored(tmp_path, np.ones((6, 6, 6), np.uint16), chunks=(3, 3, 3), **options)
    assert shards_of(array, str(tmp_path)) is None
    assert shards_of(stored(tmp_path / "plane", np.ones((6, 6), np.uint8), chunks=(3, 3)), "") is None


def test_a_shard_that_is_deleted_while_it_is_read_is_not_taken_for_one_that_never_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = stored(tmp_path / "a", np.ones((8, 8, 8), np.uint8), chunks=(4, 4, 4), shards=(8, 8, 8))
    reader = shards_of(array, str(tmp_path / "a"))
    assert reader is not None

    def gone(*_: Any) -> list[bytes]:
        raise FileNotFoundError("deleted")

    monkeypatch.setattr("chunkflow.storage.shards._LocalFile.parts", gone)
    with pytest.raises(IntegrityError, match="was deleted while it was read"):
        reader.read(Box((0, 0, 0), (8, 8, 8)))
