"""Small files: what a batch adds to each beyond its kernels.

TIFFs of 24 x 64 x 64 voxels go through threshold, labels, skeleton and measures, in one process. Overhead is what a
file takes in all, from its import to its row and picture, less the computing of its units of work. The goal is half a
second.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import numpy as np
import tifffile
from common import Report, Row, options

import chunkflow as cf
from chunkflow.report.contact_sheet import write_contact_sheet
from chunkflow.run.batch import BatchResult, Options, run_batch
from chunkflow.synth import optics, phantoms

SHAPE = (24, 64, 64)
VOXEL_UM = (0.2, 0.08, 0.08)
FILES, QUICK_FILES = 200, 30
GOAL_SECONDS = 0.5
STAGES = [{"threshold": {"smooth_um": 0.08}}, {"label": {"min_voxels": 30}}, "skeleton", "measure"]


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    report = Report("batch", "Small files, one command", given, ["tifffile", "zarr", "pandas"])
    count = QUICK_FILES if given.quick else FILES
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root / "in", count)
        began, cpu_began = perf_counter(), process_time()
        done = run(root / "in", root / "out")
        total, cpu = perf_counter() - began, process_time() - cpu_began
        again = timed(lambda: run(root / "in", root / "out"))
        sheet = timed(lambda: write_contact_sheet(done))
        size = (root / "out" / "index.html").stat().st_size / 2**20
    spent = done.summary["seconds"] - done.summary["kernel_seconds"]
    overhead = float(spent.iloc[1:].median())  # the first loads and compiles
    report.rows += [
        Row(name="overhead per file [s]", ours=overhead, peer="half a second", peer_value=GOAL_SECONDS, goal=1.0),
        Row(name="kernels per file [s]", ours=median(done.summary["kernel_seconds"])),
        Row(name="processor time per file, kernels included [s]", ours=cpu / count),
        Row(name=f"{count} files [s]", ours=total),
        Row(name=f"{count} files, all done before [s]", ours=again),
        Row(name="contact sheet [s]", ours=sheet),
        Row(name="contact sheet [MiB]", ours=size),
    ]
    report.finish()


def write_files(folder: Path, count: int) -> None:
    """Synthetic mitochondria with blur and noise."""
    folder.mkdir()
    for seed in range(count):
        labels = phantoms.mitochondria(SHAPE, VOXEL_UM, seed=seed % 10).labels
        image = optics.acquire(labels, voxel_um=VOXEL_UM, seed=seed)
        metadata = {"axes": "ZYX", "spacing": VOXEL_UM[0], "unit": "um"}
        resolution = (1 / VOXEL_UM[1], 1 / VOXEL_UM[2])
        tifffile.imwrite(
            folder / f"{seed}.tif", np.asarray(image), imagej=True, resolution=resolution, metadata=metadata
        )


def run(source: Path, out: Path) -> BatchResult:
    """The batch, in this process."""
    pipeline = cf.Pipeline.from_dict({"version": 1, "stages": STAGES})
    return run_batch(pipeline, [source], out, options=Options(on="serial", device="cpu"))


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = perf_counter()
    function()
    return perf_counter() - began


if __name__ == "__main__":
    main()
