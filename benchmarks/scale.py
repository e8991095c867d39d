"""One network through every block, from 8 to 512 blocks: what a block costs, and what the driver holds.

A lattice of wavy tubes fills the volume: one object, whose loops are those of the lattice but for a few holes that
voxels leave where tubes cross. Its mask goes through label, skeleton and measure in blocks of 128^3 on four workers. A
block should cost the same however many there are, and the driver should not grow. Every size runs in a fresh process,
which is the driver. The largest takes 20 minutes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from common import Report, Row, in_fresh_process, options, stage_of, units_of
from numpy.typing import NDArray

import chunkflow as cf
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.run.resident import peak_bytes
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.volume import create_array

BLOCK = 128
SIDES, QUICK_SIDES = (256, 512, 1024), (128, 256)
PERIOD, RADIUS = 64, 4.5
"""Voxels from tube to tube, and their radius."""
WAVE, WAVE_PERIOD = 5.0, 150.0
VOXEL_UM = (0.2, 0.2, 0.2)
WORKERS, QUICK_WORKERS = 4, 2
GOAL = round(1 / 1.3, 3)


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    protocol = "one compute thread per worker; one run per size; seconds of all workers together, over blocks"
    report = Report("scale", "What a block costs as volumes grow", given, ["numba", "zarr", "distributed"], protocol)
    workers, block = (QUICK_WORKERS, BLOCK // 2) if given.quick else (WORKERS, BLOCK)
    with tempfile.TemporaryDirectory() as folder:
        measured(Path(folder), BLOCK, block // 2, workers)  # kernels are compiled
        runs = [measured(Path(folder), side, block, workers) for side in (QUICK_SIDES if given.quick else SIDES)]
    first = runs[0]
    for side, run in zip(QUICK_SIDES if given.quick else SIDES, runs, strict=True):
        what = f"{side}^3, {run['blocks']} blocks"
        peer, goal = (None, None) if run is first else (f"at {first['blocks']} blocks", GOAL)
        for stage, seconds in run["seconds"].items():
            base = first["seconds"][stage] / first["blocks"] if peer and stage in first["seconds"] else None
            name = f"{what}: {stage} [s per block]"
            asked = goal if stage == "all" else None
            report.rows.append(Row(name=name, ours=seconds / run["blocks"], peer=peer, peer_value=base, goal=asked))
        for name in ("driver", "worker"):
            value = None if peer is None else first[name]
            report.rows.append(Row(name=f"{what}: peak of a {name} [MiB]", ours=run[name], peer=peer, peer_value=value))
        report.notes.append(
            f"{what}: {run['wall']:.0f} s on {workers} workers, {run['objects']} object, {run['loops']} loops in the "
            f"graph, {run['loops_of_mask']} in the mask, {loops_of(side)} in the lattice, certified "
            f"{run['certified']}, {run['branches']} branches, {run['length_um']:.0f} um; projected peak "
            f"{run['projected']:.0f} MiB"
        )
    report.finish()


def measured(folder: Path, side: int, block: int, workers: int) -> dict[str, Any]:
    """One size: the volume is drawn, and run in a process of its own."""
    source, out = folder / "in.ome.zarr", folder / "out"
    draw(source, side)
    found: dict[str, Any] = in_fresh_process(run, source, out, block, workers)
    shutil.rmtree(source)
    shutil.rmtree(out)
    return found


def draw(path: Path, side: int) -> None:
    """The network as an OME-Zarr mask, slab by slab."""
    write_image_group(path, name="in", levels={"0": Scale(VOXEL_UM)})
    shape = (side, side, side)
    volume = create_array(path / "0", layout_for_core((BLOCK,) * 3, shape, "uint8"), Scale(VOXEL_UM))
    for start in range(0, side, BLOCK):
        stop = min(start + BLOCK, side)
        volume.write(Box((start, 0, 0), (stop, side, side)), network(start, stop, side).astype(np.uint8))


def network(start: int, stop: int, side: int) -> NDArray[np.bool_]:
    """Planes of the volume: voxels near a line of the lattice, whose lines are bent by waves of the other axes."""
    z, y, x = np.ogrid[start:stop, 0:side, 0:side]
    turn = 2 * np.pi / WAVE_PERIOD
    bent = [
        z + WAVE * (np.sin(turn * y) + np.sin(turn * x + 1)),
        y + WAVE * (np.sin(turn * z + 2) + np.sin(turn * x)),
        x + WAVE * (np.sin(turn * z) + np.sin(turn * y + 3)),
    ]
    away = [np.square((axis.astype(np.float32) % PERIOD) - PERIOD / 2) for axis in bent]
    near = np.zeros((stop - start, side, side), bool)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        near |= away[a] + away[b] < RADIUS**2
    return near


def loops_of(side: int) -> int:
    """Loops of the lattice: edges - nodes + 1."""
    n = side // PERIOD
    return 3 * n * n * (n - 1) - n**3 + 1


def run(source: Path, out: Path, block: int, workers: int) -> dict[str, Any]:
    """What the run took and found."""
    pipeline = cf.Pipeline(
        [cf.Label(min_voxels=1000), cf.Skeleton(), cf.Measure()],
        input=cf.InputOptions(kind="mask"),
        output=cf.OutputOptions(save=("labels", "skeleton")),
    )
    plan = pipeline.plan(source, out, block=(block,) * 3)
    began = perf_counter()
    result = plan.run(on="local", workers=workers)
    wall = perf_counter() - began
    seconds: dict[str, float] = defaultdict(float)
    units = units_of(out)
    for name, unit in units:
        seconds[stage_of(name)] += sum(unit["spent"])
    return {
        "seconds": {"all": sum(seconds.values()), **seconds},
        "blocks": prod(-(-n // block) for n in plan.shape),
        "wall": wall,
        "driver": peak_bytes() / 2**20,
        "worker": max(unit["peak"] for _, unit in units) / 2**20,
        "projected": plan.peak_bytes / 2**20,
        "objects": len(result.objects),
        "loops": int(result.objects.b1_graph.sum()),
        "loops_of_mask": int(result.objects.b1_filled.sum()),
        "certified": bool(result.objects.certified.all()),
        "branches": len(result.branches),
        "length_um": float(result.branches.length_um.sum()),
    }


if __name__ == "__main__":
    main()
