from itertools import product
from math import prod

import numpy as np
import pytest

from chunkflow.errors import PlanError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.storage.layout import ArrayLayout, check_aligned, layout_for_core, objects_of


def test_chunk_and_shard_are_the_largest_that_divide_the_core() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        core = triple(tuple(int(n) for n in rng.integers(1, 300, 3)))
        layout = layout_for_core(core, (1000, 1000, 1000), "uint8")
        assert layout.shard is not None
        for length, chunk, shard in zip(core, layout.chunk, layout.shard, strict=True):
            assert chunk == max(d for d in range(1, 65) if length % d == 0)
            assert shard == max(s for s in range(chunk, max(129, chunk + 1), chunk) if length % s == 0)


def test_every_block_of_a_grid_is_aligned_and_files_have_one_writer() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        shape = triple(tuple(int(n) for n in rng.integers(1, 200, 3)))
        core = triple(tuple(int(n) * 8 for n in rng.integers(3, 12, 3)))
        layout = layout_for_core(core, shape, "uint8")
        names: list[str] = []
        starts = product(*(range(0, n, c) for n, c in zip(shape, core, strict=True)))
        for start in starts:
            box = Box(start, triple(tuple(min(s + c, n) for s, c, n in zip(start, core, shape, strict=True))))
            check_aligned(layout, box)
            names += objects_of(layout, box)
        whole = prod(-(-n // u) for n, u in zip(shape, layout.write_unit, strict=True))
        assert len(names) == len(set(names)) == whole


def test_an_axis_that_one_block_covers_counts_as_a_multiple_of_32() -> None:
    layout = layout_for_core((256, 256, 64), (200, 41, 500), "float32")
    assert layout.chunk == (56, 64, 64)
    assert layout.shard == (112, 64, 64)


def test_a_single_plane_is_not_padded() -> None:
    assert layout_for_core((128, 128, 128), (1, 500, 500), "uint8").write_unit == (1, 128, 128)


def test_a_given_chunk_and_shard_are_used() -> None:
    layout = layout_for_core((128, 96, 64), (500, 500, 40), "uint8", chunk=(16, 16, 16), shard=(64, 32, 128))
    assert (layout.chunk, layout.shard) == ((16, 16, 16), (64, 32, 128))


def test_a_given_shard_gets_a_chunk_that_divides_it() -> None:
    layout = layout_for_core((128, 96, 100), (500, 500, 500), "uint8", shard=(128, 96, 50))
    assert (layout.chunk, layout.shard) == ((64, 48, 50), (128, 96, 50))


@pytest.mark.parametrize(
    ("chunk", "shard", "message"),
    [
        (None, (48, 32, 32), "block of 64 voxels along z is not a multiple of the shard of 48"),
        ((64, 64, 48), None, "block of 64 voxels along x is not a multiple of the chunk of 48"),
        ((16, 32, 16), (32, 16, 32), "shard of 16 along y is not a multiple of the chunk of 32"),
        ((0, 32, 16), None, "is not positive"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(chunk: Triple | None, shard: Triple | None, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        layout_for_core((64, 64, 64), (500, 500, 500), "uint8", chunk=chunk, shard=shard)


def test_old_zarr_has_no_shards() -> None:
    assert layout_for_core((64, 64, 64), (500, 500, 500), "uint8", 2).shard is None
    with pytest.raises(PlanError, match=r"needs zarr format 3"):
        layout_for_core((64, 64, 64), (500, 500, 500), "uint8", 2, shard=(64, 64, 64))
    with pytest.raises(PlanError, match=r"needs zarr format 3"):
        ArrayLayout((9, 9, 9), "uint8", (8, 8, 8), (8, 8, 8), 2)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (Box((0, 0, 0), (32, 32, 33)), "reaches outside"),
        (Box((0, 0, 0), (0, 32, 32)), "is empty"),
        (Box((0, 8, 0), (16, 16, 32)), "cuts through files .* along y"),
        (Box((0, 0, 0), (16, 24, 32)), "cuts through files .* along y"),
    ],
)
def test_a_box_that_is_not_a_union_of_files_is_refused(box: Box, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_aligned(ArrayLayout((40, 40, 32), "uint8", (8, 8, 8), (16, 16, 16)), box)
