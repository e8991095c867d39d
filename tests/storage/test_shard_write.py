"""Files written straight: byte by byte those of zarr, whatever the shapes, and nothing of a neighbour is touched."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

from chunkflow.geometry.box import Box
from chunkflow.storage.shard_write import write_box
from chunkflow.storage.shards import shards_of

BOTH = ("by zarr", "by us")


def arrays(folder: Path, **options: Any) -> dict[str, zarr.Array[Any]]:
    """Two empty arrays of one layout; `write_empty_chunks` as all that we create."""
    return {
        name: zarr.create_array(folder / name, config={"write_empty_chunks": True}, **options)  # type: ignore[arg-type]
        for name in BOTH
    }


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int32", "uint64", "float32", ">i2"])
@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("fill", [0, 1])
def test_the_files_are_those_that_zarr_writes(dtype: str, sharded: bool, fill: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(len(dtype) + fill)
    for trial in range(3):
        shape = tuple(int(n) for n in rng.integers(1, 40, 3))
        chunk = tuple(int(n) for n in rng.integers(1, 9, 3))
        shard = tuple(c * int(rng.integers(1, 6)) for c in chunk) if sharded else None
        data = (rng.random(shape) * 200).astype(dtype)
        data[: shape[0] // 2] = fill
        data[rng.random(shape) < 0.5] = fill
        folder = tmp_path / str(trial)
        level = int(rng.integers(1, 7))
        codec = ZstdCodec(level=level, checksum=True)
        both = arrays(
            folder, shape=shape, dtype=dtype, chunks=chunk, shards=shard, fill_value=fill, compressors=[codec]
        )
        both["by zarr"][...] = data
        shards = shards_of(both["by us"], folder / "by us")
        assert shards is not None
        assert shards.level == level
        write_box(shards, Box.of_shape(shape), data)
        assert files(folder / "by us") == files(folder / "by zarr")
        np.testing.assert_array_equal(shards.read(Box.of_shape(shape)), data)


def test_a_negative_zero_is_not_taken_for_fill(tmp_path: Path) -> None:
    data = np.zeros((8, 8, 8), np.float32)
    data[0, 0, 1], data[7, 7, 7] = -0.0, -0.0
    codec = ZstdCodec(level=3, checksum=True)
    both = arrays(tmp_path, shape=data.shape, dtype="float32", chunks=(4, 4, 4), shards=(8, 8, 8), compressors=[codec])
    shards = shards_of(both["by us"], tmp_path / "by us")
    assert shards is not None
    write_box(shards, Box.of_shape(data.shape), data)
    np.testing.assert_array_equal(np.signbit(both["by us"][...]), np.signbit(data))


def test_boxes_of_whole_files_leave_the_others_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    data = rng.integers(0, 9, (24, 20, 30)).astype(np.uint16)
    codec = ZstdCodec(level=1, checksum=True)
    both = arrays(tmp_path, shape=data.shape, dtype="uint16", chunks=(4, 4, 5), shards=(8, 8, 10), compressors=[codec])
    both["by zarr"][...] = data
    shards = shards_of(both["by us"], tmp_path / "by us")
    assert shards is not None
    corners = list(product(range(0, 24, 16), range(0, 20, 16), range(0, 30, 20)))
    before: dict[str, bytes] = {}
    for corner in rng.permutation(corners).tolist():
        start = (corner[0], corner[1], corner[2])
        stop = (min(24, start[0] + 16), min(20, start[1] + 16), min(30, start[2] + 20))
        box = Box(start, stop)
        write_box(shards, box, data[box.slices])
        now = files(tmp_path / "by us")
        assert before.items() <= now.items()
        before = now
    assert before == files(tmp_path / "by zarr")
