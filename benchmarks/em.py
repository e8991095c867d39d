"""Every neurite of a dense EM segmentation, skeletonised and measured in blocks of 128^3 on four workers.

There is no peer that does the task: kimimaro gives trees, `regionprops` no contacts, and neither a proof. Reported are
the time by pass, the peaks of the workers and of the process that drives them beside what the plan projected, and that
every object is certified. tests/run/test_real_data.py holds the tables to cc3d, scikit-image and counting.

The volume is that of the folder of shared data beside the repository; without it, a synthetic one of touching cells
stands in, and the report says so.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import cc3d
import numpy as np
from common import Options, PassClock, Report, Row, in_fresh_process, options
from numpy.typing import NDArray
from scipy.spatial import cKDTree

import chunkflow as cf
from chunkflow.run.journal import Journal
from chunkflow.run.resident import peak_bytes
from chunkflow.testing.suites import write_volume

NEURITES = Path(__file__).parents[2] / "shared" / "data" / "em_segmentation_256x512x512.tif"
VOXEL_UM = (0.04, 0.016, 0.016)
BLOCK, QUICK_BLOCK = 128, 48
QUICK_SHAPE = (64, 128, 128)
WORKERS = 4


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    packages = ["numba", "zarr", "distributed", "connected-components-3d"]
    report = Report("em", "All neurites of an EM segmentation", given, packages, "one run; one thread per process")
    labels = load(report, given)
    block = QUICK_BLOCK if given.quick else BLOCK
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "labels.ome.zarr")
        write_volume(source, labels, VOXEL_UM)
        in_fresh_process(warm_up, folder)
        found = in_fresh_process(run, source, Path(folder, "out"), block)
        result = cf.open_result(Path(folder, "out"))
        name = " x ".join(map(str, labels.shape)) + f", blocks of {block}^3, {WORKERS} workers"
        report.rows += [
            Row(name=f"{name} [s]", ours=found["seconds"]),
            Row(
                name=f"{name}, peak memory of a worker [MiB]",
                ours=found["peak"] / 2**20,
                peer="the plan's projection",
                peer_value=found["projected"] / 2**20,
            ),
            Row(name=f"{name}, peak memory of the driver [MiB]", ours=found["driver"] / 2**20),
        ]
        report.notes += [f"seconds by pass: {found['passes']}", *checks(result, labels)]
    report.finish()


def load(report: Report, given: Options) -> NDArray[np.uint32]:
    """The segmentation, or cells that fill a volume."""
    if NEURITES.is_file():
        import tifffile

        labels = np.asarray(tifffile.imread(NEURITES), np.uint32)
        z, y, x = QUICK_SHAPE
        return np.ascontiguousarray(labels[:z, :y, :x]) if given.quick else labels
    report.notes.append("../shared/data is not there: cells around random points stand in for the neurites")
    shape = QUICK_SHAPE if given.quick else (256, 512, 512)
    seeds = np.random.default_rng(1).uniform(0, shape, (int(np.prod(shape) / 60_000), 3))
    tree = cKDTree(seeds)
    planes = (np.stack(np.meshgrid([z], *map(np.arange, shape[1:]), indexing="ij"), -1) for z in range(shape[0]))
    return np.concatenate([tree.query(plane)[1] + 1 for plane in planes]).astype(np.uint32)


def pipeline() -> cf.Pipeline:
    """Skeletons and tables of all labels."""
    return cf.Pipeline(
        [cf.Skeleton(), cf.Measure()],
        input=cf.InputOptions(kind="labels"),
        output=cf.OutputOptions(save=("labels", "skeleton"), pyramid="none"),
    )


def warm_up(folder: str) -> None:
    """Compilers and the table of thinning."""
    small = np.zeros((20, 24, 40), np.uint32)
    small[3:9, 3:9, 3:35], small[9:15, 3:9, 3:35] = 1, 2
    source = Path(folder, "small.ome.zarr")
    write_volume(source, small, VOXEL_UM)
    pipeline().plan(str(source), Path(folder, "small"), block=(16, 16, 16)).run(on="serial", device="cpu")


def run(source: Path, out: Path, block: int) -> dict[str, Any]:
    """Seconds, peaks in bytes, and seconds by pass; in a process of its own."""
    clock = PassClock()
    began = perf_counter()
    plan = pipeline().plan(str(source), out, block=(block,) * 3)
    plan.run(on="local", workers=WORKERS, device="cpu", on_event=clock)
    seconds = perf_counter() - began
    journal = Journal.read(out / "run" / "journal.jsonl")
    fingerprints = json.loads((out / "run" / "plan.json").read_text(encoding="utf-8"))["fingerprints"]
    peak = max(line["peak"] for key in fingerprints.values() for line in journal.state(key).done.values())
    return {
        "seconds": seconds,
        "passes": clock.text(0.02),
        "peak": peak,
        "driver": peak_bytes(),
        "projected": plan.peak_bytes,
    }


def checks(result: cf.Result, labels: NDArray[np.uint32]) -> list[str]:
    """Certificates, and components beside cc3d's."""
    objects = result.objects
    pieces, count = cc3d.connected_components(labels, connectivity=26, return_N=True)
    of_piece = np.zeros(count + 1, np.uint32)
    of_piece[pieces.ravel()] = labels.ravel()
    ids, components = np.unique(of_piece[1:], return_counts=True)
    same = np.array_equal(objects.object_id, ids) and np.array_equal(objects.b0, components)
    return [
        f"{int(objects.certified.sum())} of {len(objects)} objects certified; {int(objects.b0.sum())} components "
        f"({'as many of each object as' if same else 'NOT those that'} cc3d finds), {int(objects.b1.sum())} loops, "
        f"{int(objects.b2.sum())} cavities",
        f"{len(result.branches)} branches of {result.branches.length_um.sum():.0f} um, {len(result.nodes)} nodes; "
        f"{float((labels > 0).mean()):.0%} of the volume is labelled",
    ]


if __name__ == "__main__":
    main()
