"""A synthetic volume through all stages on two workers, at a size that no stage holds at once.

The pipeline, the volume and the runs are those of `pipeline.py`; what is compared here is what was found with what was
drawn, and the memory that workers took with what the plan said before. Kernels are compiled by a small volume first.
The full size is 512^3 and takes a few minutes, half of it to draw the volume.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from common import Report, Row, in_fresh_process, options
from pipeline import QUICK_BLOCK, QUICK_SIDE, make_volume, our_run

LARGE_SIDE, QUICK_LARGE_SIDE = 512, 128
LARGE_BLOCK, QUICK_LARGE_BLOCK = 128, 64
WORKERS = 2


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    protocol = f"one compute thread per worker, {WORKERS} workers; one run"
    packages = ["numba", "zarr", "distributed", "scipy"]
    report = Report("large", "All stages on a volume of many blocks", given, packages, protocol)
    side, block = (QUICK_LARGE_SIDE, QUICK_LARGE_BLOCK) if given.quick else (LARGE_SIDE, LARGE_BLOCK)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn(folder / "small.ome.zarr", QUICK_SIDE)
        in_fresh_process(our_run, folder / "small.ome.zarr", folder / "small", QUICK_BLOCK, WORKERS)
        truth = drawn(folder / "in.ome.zarr", side)
        run = in_fresh_process(our_run, folder / "in.ome.zarr", folder / "out", block, WORKERS)
    add_rows(report, run, truth, f"{side}^3, blocks of {block}^3")
    report.finish()


def drawn(path: Path, side: int) -> dict[str, float]:
    """Store a volume; what is in it. In a process of its own, since drawing takes more memory than a run."""
    found: dict[str, float] = in_fresh_process(draw, path, side)
    return found


def draw(path: Path, side: int) -> dict[str, float]:
    """Objects, loops and length of the volume that is stored at `path`."""
    truth = make_volume(path, side)
    return {"objects": truth.objects, "loops": truth.loops, "length_um": truth.length_um}


def add_rows(report: Report, run: dict[str, Any], truth: dict[str, float], what: str) -> None:
    """What was found beside what was drawn, seconds, and memory beside the plan's."""
    for name, unit in (("objects", ""), ("loops", ""), ("length_um", " [um]")):
        found = f"{what}: {name.removesuffix('_um')} found{unit}"
        report.rows.append(Row(name=found, ours=run[name], peer="the truth", peer_value=truth[name]))
    report.rows.append(Row(name=f"{what}: all [s]", ours=run["total"]))
    peak, projected = run["peak"] / 2**20, run["projected"] / 2**20
    name = f"{what}: peak memory of a worker [MiB]"
    report.rows.append(Row(name=name, ours=peak, peer="the plan's projection", peer_value=projected))
    spent = sorted(run["seconds"].items(), key=lambda item: -item[1])
    report.notes += [
        f"{run['objects']} objects and {run['loops']} loops found of {truth['objects']} and {truth['loops']}; every "
        f"object certified: {'yes' if run['certified'] else 'no'}; a ratio of 1 is right for what was found",
        f"{run['units']} units; seconds by stage: " + ", ".join(f"{stage} {s:.1f}" for stage, s in spent if s),
        "the start of a local cluster is in scan, its end in publish",
    ]


if __name__ == "__main__":
    main()
