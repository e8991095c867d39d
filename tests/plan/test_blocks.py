"""Blocks that are chosen: what fits, moves least and keeps workers busy; the arithmetic behind them counts voxels."""

import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.scale import Scale
from chunkflow.plan import blocks
from chunkflow.plan.reading import files_of, traffic_of
from chunkflow.stages.base import boxes_of_chain
from chunkflow.storage import omezarr_write
from chunkflow.storage.layout import ArrayLayout
from chunkflow.storage.volume import create_array

SCALE = Scale((0.1, 0.1, 0.1))
PSF = cf.Psf(fwhm_um=(0.6, 0.25, 0.25))
FULL = [cf.Deconvolve(psf=PSF), cf.Threshold(smooth_um=0.06), cf.Label(), cf.Skeleton(), cf.Measure()]


def _metadata(folder: Path, shape: Triple, chunk: Triple, shard: Triple | None = None) -> Path:
    """An image without a single file of voxels."""
    create_array(folder / "0", ArrayLayout(shape, "uint8", chunk, shard), SCALE)
    omezarr_write.write_image_group(folder, name="image", levels={"0": SCALE}, format="0.5")
    return folder


def test_a_petabyte_is_planned_in_seconds_and_enumerates_no_block(tmp_path: Path) -> None:
    source = _metadata(tmp_path / "in.ome.zarr", (100_000,) * 3, (128,) * 3, (1024,) * 3)
    began = time.perf_counter()
    plan = cf.Pipeline(FULL).plan(source, tmp_path / "out", memory=2**33, workers=8)
    json.dumps(plan.to_dict())
    assert time.perf_counter() - began < 10
    assert plan.largest_grid > 10**7
    assert plan.input_identity["missing"] == 98**3
    assert plan.peak_of_blocks <= 2**33
    assert any("may take" in warning for warning in plan.warnings)  # merges of so many blocks


def test_what_a_pass_reads_is_what_its_blocks_touch(tmp_path: Path, demo_pipeline: Any, demo_volume: Path) -> None:
    plan = demo_pipeline().plan(demo_volume, tmp_path / "out", block=(24, 40, 32))
    layouts = plan.layouts
    for p in (p for p in plan.passes if p.draft.merge is None and p.name != "deconvolve-probe"):
        grid = p.draft.grid
        products = [spec.source for spec in p.draft.writes]
        found = traffic_of(p, layouts)
        voxels = dict.fromkeys(found.read_of, 0)
        files = 0
        for unit in range(len(grid)):
            wanted = boxes_of_chain(p.draft.steps, grid.core_of(unit), Box.of_shape(grid.shape), products)[1]
            for name, box in wanted.items():
                if name in found.read_of:
                    voxels[name] += _touched(box, layouts[name], layouts[name].chunk)[0]
                    files += _touched(box, layouts[name], layouts[name].write_unit)[1]
        for name, count in voxels.items():
            size = np.dtype(layouts[name].dtype).itemsize
            assert found.read_of[name] == pytest.approx(count * size, rel=0.12), (p.name, name)
        assert found.read_files == pytest.approx(files, rel=0.2)


def _touched(box: Box, layout: ArrayLayout, unit: Triple) -> tuple[int, int]:
    """Voxels and number of the chunks or files that a box meets, one by one."""
    inside = box.clip(Box.of_shape(layout.shape))
    ranges = [range(a // u, -(-b // u)) for a, b, u in zip(inside.start, inside.stop, unit, strict=True)]
    voxels = count = 0
    for position in product(*ranges) if inside.size else ():
        start = tuple(p * u for p, u in zip(position, unit, strict=True))
        stop = tuple(min(s + u, n) for s, u, n in zip(start, unit, layout.shape, strict=True))
        voxels += Box(start, stop).size
        count += 1
    return voxels, count


def test_files_of_an_array_are_counted_without_listing_them() -> None:
    assert files_of(ArrayLayout((100, 70, 33), "uint8", (32, 32, 32), (64, 64, 32))) == 2 * 2 * 2


def _block(folder: Path, shape: Triple, *, memory: int = 2**36, workers: int = 1, **options: Any) -> Triple:
    source = _metadata(folder / f"{'-'.join(map(str, shape))}.ome.zarr", shape, options.pop("chunk", (64, 64, 64)))
    output = cf.OutputOptions(**options)
    stages = [cf.Threshold(smooth_um=0.06), cf.Label(), cf.Skeleton()]
    return cf.Pipeline(stages, output=output).plan(source, folder / "out", memory=memory, workers=workers).block


def test_small_volumes_are_one_block_and_large_ones_are_shared_among_the_workers(tmp_path: Path) -> None:
    assert _block(tmp_path, (100, 120, 130), workers=8) == (256, 256, 256)
    alone, shared = (_block(tmp_path / str(n), (256, 256, 256), workers=n) for n in (1, 4))
    assert alone == (256, 256, 256)
    assert max(shared) <= 128


def test_less_memory_takes_smaller_blocks_and_more_takes_larger(tmp_path: Path) -> None:
    sides = [_block(tmp_path / str(m), (2000, 2000, 2000), memory=m * 2**20)[0] for m in (600, 1024, 4096, 16384)]
    assert sides == sorted(sides)
    assert sides[0] < 256 < sides[-1]


def test_wide_blocks_of_thin_volumes_fit_where_those_of_thick_ones_do_not(tmp_path: Path) -> None:
    stages = [cf.Threshold(smooth_um=0.06), cf.Label(), cf.Skeleton()]
    thin = _metadata(tmp_path / "thin.ome.zarr", (24, 4000, 4000), (24, 64, 64))
    plan = cf.Pipeline(stages).plan(thin, tmp_path / "out", block=(512, 512, 512), memory=2**30)
    assert plan.pass_named("label").draft.grid.core_of(0).shape == (24, 512, 512)
    thick = _metadata(tmp_path / "thick.ome.zarr", (4000, 4000, 24), (64, 64, 24))
    assert cf.Pipeline(stages).plan(thick, tmp_path / "out", block=(512, 512, 512), memory=2**30).block[0] == 512
    cube = _metadata(tmp_path / "cube.ome.zarr", (800, 800, 800), (64, 64, 64))
    with pytest.raises(cf.errors.PlanError, match="MiB per worker"):
        cf.Pipeline(stages).plan(cube, tmp_path / "out", block=(512, 512, 512), memory=2**30)


def test_blocks_are_multiples_of_the_files_that_the_user_fixed(tmp_path: Path) -> None:
    block = _block(tmp_path, (500, 500, 500), shard=(100, 50, 100), chunk=(50, 50, 50))
    assert all(b % s == 0 for b, s in zip(block, (100, 50, 100), strict=True))


def test_chunks_of_the_input_are_not_cut_where_that_moves_less() -> None:
    tried = blocks.candidates((5000, 5000, 5000), None, (100, 100, 100))
    assert (256, 256, 256) in tried
    assert (200, 200, 200) in tried
    assert all(np.prod(block) <= blocks.MOST_VOXELS for block in tried)


def test_a_block_is_refused_that_does_not_fit_and_merges_are_a_warning(tmp_path: Path) -> None:
    source = _metadata(tmp_path / "in.ome.zarr", (600, 600, 600), (64, 64, 64))
    with pytest.raises(cf.errors.PlanError, match="takes .* MiB per worker"):
        cf.Pipeline(FULL).plan(source, tmp_path / "out", block=(512, 512, 512), memory=2**30)
    large = _metadata(tmp_path / "large.ome.zarr", (1200, 1200, 1200), (64, 64, 64))
    plan = cf.Pipeline(FULL).plan(large, tmp_path / "out", block=(16, 16, 16), memory=2**30)
    said = [warning for warning in plan.warnings if "may take" in warning]
    assert [warning.partition(" in one worker")[0] for warning in said] == ["regions-merge may take 2 GiB"]
    joint = next(p for p in plan.passes if p.name == "residual-7")
    assert joint.peak_bytes > 2**34  # all voxels open, 128 B each: a bound that says too little to warn of
    assert plan.peak_bytes < 2**32


def test_the_peak_of_the_disk_is_that_of_what_lies_there_at_one_time(tmp_path: Path, demo_volume: Path) -> None:
    stages = [cf.Threshold(method="fixed", value=300), cf.Label(), cf.Measure()]
    pipeline = cf.Pipeline(stages, output=cf.OutputOptions(save=("labels",)))
    plan = pipeline.plan(demo_volume, tmp_path / "out", block=(64, 64, 64))
    size = {name: array.nbytes for name, array in plan.arrays.items()}
    assert set(size) == {"provisional", "pieces", "labels", "filled"}
    assert plan.disk.kept == size["labels"]
    assert plan.disk.temporary == size["provisional"] + size["pieces"] + size["filled"]
    assert plan.disk.peak == sum(size.values())  # relabel reads two and writes two
    assert plan.disk.peak_pass == "relabel"
    saved = cf.Pipeline([*stages[:2], cf.Skeleton(), cf.Measure()], output=cf.OutputOptions(save=("labels",)))
    longer = saved.plan(demo_volume, tmp_path / "out", block=(64, 64, 64))
    assert longer.disk.peak < longer.disk.kept + longer.disk.temporary


def test_the_network_of_a_plan_is_hashed_once_whatever_is_tried(tmp_path: Path, monkeypatch: Any) -> None:
    import os

    from chunkflow.models import files

    path = tmp_path / "weights.bin"
    path.write_bytes(b"abc")
    old = time.time() - 60
    os.utime(path, (old, old))
    monkeypatch.setattr(files, "SETTLED_SECONDS", -1.0)
    read = []
    monkeypatch.setattr(files, "_read_digest", lambda file: read.append(file) or "digest")
    assert [files.sha256(path) for _ in range(5)] == ["digest"] * 5
    assert len(read) == 1
    path.write_bytes(b"abd")
    files.sha256(path)
    assert len(read) == 2
