"""What `plan` says before a run, beside what the run then takes.

plan       a volume of 10^15 voxels, metadata alone, every stage: seconds and peak memory; the peers are the goals
memory     projected over measured peak of a worker, for six sizes of blocks, every stage, one worker process
probe      the time that `plan --probe` names, beside that of the run, 512^3 on as many workers as there are cores

The synthetic tubes are those of `large.py`. Wants a quiet machine: the probe and its run must have the same one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter

from common import Report, Row, in_fresh_process, options

import chunkflow as cf
from chunkflow.backend import available_cores
from chunkflow.geometry.scale import Scale
from chunkflow.run.dask import local_engine
from chunkflow.run.journal import Journal
from chunkflow.run.probe import probe
from chunkflow.run.resident import peak_bytes
from chunkflow.storage import omezarr_write
from chunkflow.storage.layout import ArrayLayout
from chunkflow.storage.volume import create_array
from chunkflow.synth import optics, phantoms
from chunkflow.testing import suites

PETABYTE = 100_000
"""Side of a volume of 10^15 bytes."""
BLOCKS = (64, 80, 96, 128, 160, 192)
QUICK_BLOCKS = (64, 96)
VOXEL_UM = (0.1, 0.1, 0.1)
MOST_SECONDS, MOST_MIB, MOST_RATIO, WITHIN = 10.0, 500.0, 1.3, 0.25
LIMIT = 4 * 2**30


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    report = Report("planning", "What a plan says, beside what a run takes", given, ["dask", "zarr", "numba"])
    seconds, mib, blocks = in_fresh_process(petabyte)
    report.rows += [
        Row(name="plan of 10^15 voxels [s]", ours=seconds, peer="the goal", peer_value=MOST_SECONDS, goal=1.0),
        Row(name="plan of 10^15 voxels, peak [MiB]", ours=mib, peer="the goal", peer_value=MOST_MIB, goal=1.0),
    ]
    report.notes.append(f"the plan of 10^15 voxels has {blocks:.3g} blocks in its largest pass, and lists none")
    with tempfile.TemporaryDirectory() as folder:
        side, edge = (160, 256) if given.quick else (384, 512)
        in_fresh_process(peak_of, tubes(Path(folder, "small.ome.zarr"), 64), Path(folder, "compiled"), 32)
        source = tubes(Path(folder, "memory.ome.zarr"), side)
        for block in QUICK_BLOCKS if given.quick else BLOCKS:
            projected, measured = in_fresh_process(peak_of, source, Path(folder, f"out-{block}"), block)
            name = f"blocks of {block}^3 of {side}^3: peak of a worker [MiB]"
            row = Row(name=name, ours=measured, peer="projected", peer_value=projected, goal=1.0)
            report.rows.append(row)
            if not 1.0 <= projected / measured <= MOST_RATIO:
                report.notes.append(f"blocks of {block}^3: projected over measured is {projected / measured:.2f}")
        source = tubes(Path(folder, "probe.ome.zarr"), edge)
        place = (source, Path(folder, "out"), 64 if given.quick else 128)
        low, said, high, spent = in_fresh_process(estimated, *place)
        took = in_fresh_process(ran, *place)
        off = abs(said - took) / took
        report.rows.append(Row(name=f"run of {edge}^3 [s]", ours=took, peer="as the probe said", peer_value=said))
        report.notes += [
            f"the probe took {spent:.0f} s and said {said:.0f} s ({low:.0f} to {high:.0f}); the run took {took:.0f} s: "
            f"{off:.0%} off, {'within' if off <= WITHIN else 'outside'} {WITHIN:.0%}",
            f"peaks: projected over measured is asked to be between 1 and {MOST_RATIO}; one round each",
        ]
    report.finish()


def stages() -> list[object]:
    """All of a usual pipeline."""
    psf = cf.Psf(fwhm_um=(0.6, 0.25, 0.25))
    found = [cf.Deconvolve(psf=psf, iterations=5), cf.Threshold(smooth_um=0.06), cf.Label(min_voxels=20)]
    return [*found, cf.Skeleton(), cf.Measure()]


def tubes(path: Path, side: int) -> Path:
    """An image of tubes, `side` voxels along each axis."""
    phantom = phantoms.mitochondria((side,) * 3, VOXEL_UM, seed=4, density=0.1)
    suites.write_volume(path, optics.acquire(phantom.labels, voxel_um=VOXEL_UM, seed=4), VOXEL_UM)
    return path


def petabyte() -> tuple[float, float, int]:
    """Seconds and peak MiB of planning, and the units of the largest pass."""
    with tempfile.TemporaryDirectory() as folder:
        image, scale = Path(folder, "in.ome.zarr"), Scale(VOXEL_UM)
        create_array(image / "0", ArrayLayout((PETABYTE,) * 3, "uint8", (128,) * 3, (1024,) * 3), scale)
        omezarr_write.write_image_group(image, name="image", levels={"0": scale}, format="0.5")
        began = perf_counter()
        plan = cf.Pipeline(stages()).plan(image, Path(folder, "out"), memory=2 * LIMIT, workers=8)
        plan.to_dict()
        return perf_counter() - began, peak_bytes() / 2**20, plan.largest_grid


def peak_of(source: Path, output: Path, side: int) -> tuple[float, float]:
    """Projected and measured peak MiB of a worker."""
    plan = cf.Pipeline(stages()).plan(source, output, block=(side,) * 3, memory=LIMIT)
    engine = local_engine(1, LIMIT)
    try:
        plan.run(client=engine.client)
    finally:
        engine.close()
    journal = Journal.read(output / "run" / "journal.jsonl")
    lines = (line for known in journal.published_passes.values() for line in journal.state(known).done.values())
    return plan.peak_bytes / 2**20, max(line["peak"] for line in lines) / 2**20


def estimated(source: Path, output: Path, side: int) -> tuple[float, float, float, float]:
    """Seconds: low, expected, high; and of the probe."""
    plan = cf.Pipeline(stages()).plan(source, output, block=(side,) * 3, workers=available_cores())
    found = probe(plan, on="local", workers=available_cores())
    low, said, high = map(float, found.seconds)
    return low, said, high, found.probe_seconds


def ran(source: Path, output: Path, side: int) -> float:
    """Seconds of the run: of a process of its own, as after `chunkflow plan --probe`."""
    plan = cf.Pipeline(stages()).plan(source, output, block=(side,) * 3, workers=available_cores())
    began = perf_counter()
    plan.run(on="local", workers=available_cores())
    return perf_counter() - began


if __name__ == "__main__":
    main()
