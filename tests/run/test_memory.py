"""What a plan says of memory is what the workers take: never less, and not half as much again."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chunkflow as cf
from chunkflow.geometry.box import Box, Triple
from chunkflow.geometry.grid import Grid
from chunkflow.plan import memory
from chunkflow.run.dask import local_engine
from chunkflow.run.journal import Journal
from chunkflow.stages.base import boxes_of_chain
from chunkflow.stages.restoration import ALGORITHMS
from chunkflow.synth import optics, phantoms
from chunkflow.testing import suites

MIB = 2**20
VOXEL_UM = (0.16, 0.1, 0.1)


def _image(kind: str, shape: Triple) -> np.ndarray:
    if kind == "tubes":
        phantom = phantoms.mitochondria(shape, VOXEL_UM, seed=2, density=0.2)
        return optics.acquire(phantom.labels, voxel_um=VOXEL_UM, seed=2)
    rng = np.random.default_rng(1)
    return rng.poisson(100 + 300 * phantoms.noise_blobs(shape, 1, 3.0)).astype(np.uint16) + np.uint16(1)


def _stages() -> list[Any]:
    psf = cf.Psf(fwhm_um=(0.6, 0.25, 0.25))
    stages = [cf.Deconvolve(psf=psf, iterations=2), cf.Resample(), cf.Threshold(smooth_um=0.06)]
    return [*stages, cf.Label(), cf.Skeleton(max_halo=24), cf.Measure()]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a pass is told by Linux alone")
@pytest.mark.parametrize("kind", ["blobs", pytest.param("tubes", marks=pytest.mark.slow)])
def test_no_pass_takes_more_than_is_projected(kind: str, tmp_path: Path) -> None:
    blocks = _passes_of(_stages(), _image(kind, (80, 128, 132)), tmp_path, block=128)
    largest = max(facts["measured"] for facts in blocks.values())
    assert largest > 30 * MIB  # or the comparison says nothing


PSF = cf.Psf(fwhm_um=(0.6, 0.25, 0.25))
DEPTH = cf.Psf(microscope="confocal", objective="60x/1.2 water", emission_nm=525, slab_um=4.0, size=(13, 11, 11))
RESTORATIONS = {
    **{
        name: cf.Deconvolve(
            psf=PSF, algorithm=name, tile=(64, 64, 64), bounds=(0.0, 900.0) if name == "bounded-landweber" else None
        )
        for name in ALGORITHMS
        if name != "naive-inverse"
    },
    "momentum": cf.Deconvolve(psf=PSF, momentum=True, tile=(64, 64, 64), iterations=3),
    "reflect": cf.Deconvolve(psf=PSF, edges="reflect", tile=(64, 64, 64), iterations=3),
    "uint16": cf.Deconvolve(psf=PSF, dtype="uint16", tile=(64, 64, 64), iterations=3),
    "stop": cf.Deconvolve(psf=PSF, stop="auto", tile=(64, 64, 64), iterations=3),
    "depth": cf.Deconvolve(psf=DEPTH, tile=(64, 64, 64), iterations=3, tolerance=0.5),
}
FAST = ("richardson-lucy",)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a pass is told by Linux alone")
@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in RESTORATIONS])
def test_no_restoration_takes_more_than_is_projected(name: str, tmp_path: Path) -> None:
    image = _image("blobs", (96, 128, 132))
    found = _passes_of([RESTORATIONS[name]], image, tmp_path, block=64)
    assert found["deconvolve"]["measured"] > 0.4 * found["deconvolve"]["projected"]


def _passes_of(stages: list[Any], image: np.ndarray, folder: Path, *, block: int) -> dict[str, dict[str, Any]]:
    """Bytes projected and measured of every pass over blocks; none may take more than projected."""
    suites.write_volume(folder / "in.ome.zarr", image, VOXEL_UM)
    suites.write_volume(folder / "small.ome.zarr", image[:20, :36, :36], VOXEL_UM)
    stored = cf.Pipeline(stages).to_dict()
    (folder / "pipeline.json").write_text(json.dumps(stored))
    script = Path(__file__).with_name("measured_passes.py")
    arguments = [folder / name for name in ("in.ome.zarr", "small.ome.zarr", "", "pipeline.json")]
    run = subprocess.run(
        [sys.executable, str(script), *map(str, arguments), str(block)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "65536"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    blocks = {name: facts for name, facts in found.items() if not facts["merge"]}
    over = {name: facts for name, facts in blocks.items() if facts["measured"] > facts["projected"] + 2 * MIB}
    assert over == {}
    return blocks


def _measured(plan: cf.Plan, workers: int) -> int:
    """Largest peak of a worker process."""
    engine = local_engine(workers, 4 * 2**30)
    try:
        plan.run(client=engine.client)
    finally:
        engine.close()
    journal = Journal.read(plan.output / "run" / "journal.jsonl")
    states = [journal.state(fingerprint) for fingerprint in journal.published_passes.values()]
    return max(unit["peak"] for state in states for unit in state.done.values())


@pytest.mark.thorough
def test_a_worker_takes_no_more_than_a_process_for_a_tiny_volume(tiny_volume: Path, tmp_path: Path) -> None:
    plan = cf.Pipeline(_stages()).plan(tiny_volume, tmp_path / "out", block=(24, 24, 24))
    measured = _measured(plan, 2)
    assert measured <= plan.peak_bytes <= 1.6 * measured  # a plan counts workers that are not forked: 50 MiB more


@pytest.mark.slow
@pytest.mark.parametrize(("side", "most"), [(96, 1.5), (192, 2.0)])  # large blocks are projected as if full of objects
def test_the_projection_is_at_least_the_peak_and_not_much_more(side: int, most: float, tmp_path: Path) -> None:
    suites.write_volume(tmp_path / "in.ome.zarr", _image("tubes", (160, 192, 384)), VOXEL_UM)
    plan = cf.Pipeline(_stages()).plan(tmp_path / "in.ome.zarr", tmp_path / "out", block=(side,) * 3)
    measured = _measured(plan, 1)  # which reads ahead, of as many blocks
    assert measured <= plan.peak_bytes <= most * measured


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "options"), [("batch", {}), ("batch", {"mode": "crop", "patch": 64, "batch": 4}), ("group", {"patch": 64})]
)
def test_the_projection_of_a_network_holds_too(norm: str, options: dict[str, Any], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from chunkflow.models import load, unet

    torch.manual_seed(0)
    config = unet.UNetConfig(widths=(16, 32, 64), norm=norm)
    load.save_model(unet.UNet(config), config, tmp_path / "model")
    suites.write_volume(tmp_path / "in.ome.zarr", _image("blobs", (80, 100, 110)), VOXEL_UM)
    stages = [cf.Predict(path=str(tmp_path / "model"), **options), cf.Label()]
    plan = cf.Pipeline(stages).plan(tmp_path / "in.ome.zarr", tmp_path / "out", block=(96, 96, 96))
    measured = _measured(plan, 2)
    assert measured <= plan.peak_bytes <= 1.5 * measured


# The projection of boxes, without running anything.


@dataclass(frozen=True)
class _Step:
    """A step that reads so much further than it writes."""

    source: str
    product: str
    halo: int
    working: int = 0

    version = 1
    on_device = False

    @property
    def produces(self) -> tuple[str, ...]:
        return (self.product,)

    def reads(self, out: Box) -> dict[str, Box]:
        return {self.source: out.grow((self.halo,) * 3)}

    def run(self, view: Any, out: Box) -> Any:
        raise NotImplementedError

    def working_bytes(self, out: Triple) -> int:
        return self.working * int(np.prod(out))


@pytest.mark.parametrize("shape", [(64, 64, 64), (65, 90, 100), (40, 130, 500)])
def test_the_block_that_is_budgeted_reads_as_much_as_any(shape: Triple) -> None:
    grid = Grid(shape, (32, 48, 64))
    for halo in (0, 3, 40):
        reads = [grid.read_of(index, (halo,) * 3).size for index in range(len(grid))]
        assert grid.read_of(memory.widest_block(grid), (halo,) * 3).size == max(reads)
        sizes = sorted((grid.core_of(index).size for index in range(len(grid))), reverse=True)
        assert grid.core_of(memory.next_widest_block(grid)).size == (sizes[1:] or sizes)[0]


def test_peaks_add_up_what_is_held_at_one_time() -> None:
    grid = Grid((100, 100, 100), (20, 20, 20))
    first, second = _Step("input", "a", 2, working=3), _Step("a", "b", 5, working=7)
    found = memory.unit_bytes((first, second), grid, {"b": "uint8"}, {"input": ((100,) * 3, "uint16")})
    read, middle, core = 34**3, 30**3, 20**3
    assert found == max(2 * read + 4 * middle + 3 * middle, 2 * read + 4 * middle + core + 7 * core)


def test_what_is_stored_is_held_once_more_while_it_is_compressed() -> None:
    grid = Grid((100, 100, 100), (20, 20, 20))
    found = memory.unit_bytes((_Step("input", "a", 0),), grid, {"a": "uint32"}, {"input": ((100,) * 3, "uint8")})
    assert found == 2 * 4 * 20**3


def test_a_halo_of_a_chain_is_the_sum_of_those_of_its_steps() -> None:
    steps = (_Step("input", "a", 2), _Step("a", "b", 5))
    outs, wanted = boxes_of_chain(steps, Box((20, 20, 20), (40, 40, 40)), Box.of_shape((100, 100, 100)), ["b"])
    assert outs == [Box((15, 15, 15), (45, 45, 45)), Box((20, 20, 20), (40, 40, 40))]
    assert wanted == {"input": Box((13, 13, 13), (47, 47, 47))}


def test_auto_takes_smaller_blocks_for_less_memory_and_says_when_none_fits(
    demo_pipeline: Callable[..., cf.Pipeline], demo_volume: Path, tmp_path: Path
) -> None:
    def block_for(limit: int) -> tuple[Triple, int]:
        plan = demo_pipeline().plan(demo_volume, tmp_path / "out", memory=limit)
        return plan.block, plan.peak_bytes

    block, peak = block_for(2**36)
    assert all(side >= length for side, length in zip(block, (32, 100, 120), strict=True))
    sizes = [prod(block)]
    while min(block) > 32:
        block, smaller = block_for(peak - 1)
        assert smaller < peak
        sizes.append(prod(block))
        peak = smaller
    assert len(sizes) > 2 and sizes == sorted(sizes, reverse=True)
    with pytest.raises(cf.errors.PlanError, match="MiB"):
        block_for(100 * MIB)
