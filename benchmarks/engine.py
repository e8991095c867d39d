"""What the engine itself costs: blocks that do nothing, and the share of a real run that is kernels.

    blocks that do nothing    ours: the local engine and the journal, as a run has them
                              client.map: everything handed to the same kind of dask cluster at once
                              daisy 2: its Rust scheduler, with and without its record of blocks that are done
    kernels                   seconds inside kernels, summed over workers, by workers x wall, of all stages but the
                              start of the workers; and how much faster four workers are than one, beside what four
                              processes gain over one at FFTs and nothing else (the machine's own limit)

Memory is the resident size of the process of the driver, in which the schedulers run. It is read when a tenth
of the blocks is done, and at the end: what is flat can go on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import psutil
from common import Report, Row, in_fresh_process, options, peer, units_of

import chunkflow as cf

BLOCKS, QUICK_BLOCKS = (10_000, 100_000), (1_000,)
SIDE, QUICK_SIDE = 512, 128
BLOCK, QUICK_BLOCK = 128, 48
WORKERS = 4
PSFS: Mapping[str, Mapping[str, Any]] = {
    "gaussian": {"fwhm_um": (0.5, 0.25, 0.25)},
    "confocal": {
        "microscope": "confocal",
        "objective": "63x/1.4 oil",
        "emission_nm": 520,
        "excitation_nm": 488,
        "pinhole_au": 1,
    },
}
"""A Gaussian is applied by direct sums along the axes, any other by FFTs, which take longer."""
SHARE_GOAL, SCALING_GOAL = 0.85, 3.2


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--blocks", type=int, nargs="*", help="numbers of blocks that do nothing")
    mine, others = parser.parse_known_args()
    given = options(str(__doc__), others)
    packages = ["dask", "distributed", "daisy", "numpy", "numba", "scipy"]
    report = Report("engine", "What the engine itself costs", given, packages, f"{WORKERS} workers, local processes")
    has_daisy = peer("daisy", report) is not None
    for count in (QUICK_BLOCKS if given.quick else BLOCKS) if mine.blocks is None else mine.blocks:
        _add_idle(report, count, has_daisy)
    _add_kernels(report, QUICK_SIDE if given.quick else SIDE, QUICK_BLOCK if given.quick else BLOCK)
    report.finish()


def _add_idle(report: Report, count: int, has_daisy: bool) -> None:
    found = {"ours": in_fresh_process(ours, count), "client.map": in_fresh_process(client_map, count)}
    if has_daisy:
        found["daisy 2"] = in_fresh_process(daisy, count, False)
        found["daisy 2, blocks recorded"] = in_fresh_process(daisy, count, True)
    mine = found["ours"]
    for name, theirs in found.items():
        if name == "ours":
            continue
        report.rows += [
            Row(
                name=f"{count} blocks that do nothing [ms each]",
                ours=mine["seconds"] / count * 1e3,
                peer=name,
                peer_value=theirs["seconds"] / count * 1e3,
            ),
            Row(
                name=f"{count} blocks: driver and scheduler, at the end [MiB]",
                ours=mine["end"],
                peer=name,
                peer_value=theirs["end"],
            ),
        ]
    report.notes += [
        f"{count} blocks, {name}: {count / run['seconds']:.0f} blocks/s; {run['tenth']:.0f} MiB after a tenth, "
        f"{run['end']:.0f} MiB at the end"
        for name, run in found.items()
    ]


def nothing(unit: int) -> int:
    """What a block does."""
    return unit


def ours(count: int) -> dict[str, float]:
    """The local engine, each block journaled."""
    from chunkflow.run.dask import local_engine
    from chunkflow.run.journal import Journal

    with tempfile.TemporaryDirectory() as folder:
        engine = local_engine(WORKERS, 2**30)
        journal = Journal.open(Path(folder, "journal.jsonl"))
        _ready(engine.client)

        def finished() -> Iterator[int]:
            for unit, _ in engine.map(nothing, range(count)):
                journal.append("unit", **{"pass": "nothing", "unit": unit}, objects=[1], record=1, spent=[0, 0, 0])
                yield unit

        found = _watched(finished(), count)
        journal.close()
        engine.close()
        return found


def client_map(count: int) -> dict[str, float]:
    """All blocks handed to dask at once."""
    from distributed import Client, LocalCluster, as_completed

    cluster = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=":0", silence_logs=50)
    with cluster, Client(cluster) as client:
        _ready(client)

        def finished() -> Iterator[int]:
            for _, unit in as_completed(client.map(nothing, range(count), pure=False), with_results=True):
                yield unit

        return _watched(finished(), count)


def _ready(client: Any) -> None:
    client.wait_for_workers(WORKERS)
    client.gather([client.submit(nothing, k, pure=False) for k in range(4 * WORKERS)])


def daisy(count: int, recorded: bool) -> dict[str, float]:
    """daisy's block-wise run; its blocks are intervals."""
    import os

    import daisy.v2 as peer_module

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # it writes logs and records below
        peer_module.set_done_marker_basedir(folder)
        task = peer_module.Task(
            "nothing",
            total_roi=peer_module.Roi((0,), (count,)),
            read_roi=peer_module.Roi((0,), (1,)),
            write_roi=peer_module.Roi((0,), (1,)),
            process_function=lambda block: None,  # goes to its workers by value
            read_write_conflict=False,
            max_workers=WORKERS,
        )
        began = perf_counter()
        done = peer_module.run_blockwise(task, progress=False, block_tracking=recorded, summary=False, host="127.0.0.1")
        seconds = perf_counter() - began
        if not done:
            raise RuntimeError("daisy did not finish")
        end = psutil.Process().memory_info().rss / 2**20
        return {"seconds": seconds, "tenth": float("nan"), "end": end}


def _watched(finished: Iterator[int], count: int) -> dict[str, float]:
    """Seconds until all is done, and this process's resident size after a tenth and at the end, MiB."""
    process = psutil.Process()
    began, tenth, done = perf_counter(), 0.0, 0
    for _ in finished:
        done += 1
        if done == max(1, count // 10):
            tenth = process.memory_info().rss / 2**20
    seconds = perf_counter() - began
    if done != count:
        raise RuntimeError(f"{done} of {count} blocks were done")
    return {"seconds": seconds, "tenth": tenth, "end": process.memory_info().rss / 2**20}


def _add_kernels(report: Report, side: int, block: int) -> None:
    from alternative import make_volume

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = in_fresh_process(make_volume, folder / "small", 64)
        for psf in PSFS:
            in_fresh_process(all_stages, small, folder / psf, 32, 2, psf)
        source = in_fresh_process(make_volume, folder / "in", side)
        asked = [(psf, n) for psf in PSFS for n in (1, WORKERS)]
        runs = {(psf, n): in_fresh_process(all_stages, source, folder / "out", block, n, psf) for psf, n in asked}
    limit = machine_limit()
    report.rows += [
        Row(
            name=f"{side}^3, {psf} PSF: kernels / (workers x wall)",
            ours=1,
            peer="share",
            peer_value=runs[psf, WORKERS]["share"],
            goal=SHARE_GOAL,
        )
        for psf in PSFS
    ]
    report.rows += [
        *(
            Row(
                name=f"{side}^3, {psf} PSF: 1 -> {WORKERS} workers",
                ours=1,
                peer="times as fast",
                peer_value=runs[psf, 1]["wall"] / runs[psf, WORKERS]["wall"],
                goal=SCALING_GOAL,
            )
            for psf in PSFS
        ),
        Row(name=f"1 -> {WORKERS} processes, FFTs alone", ours=1, peer="times as fast", peer_value=limit),
    ]
    for (psf, n), run in runs.items():
        report.notes.append(
            f"{side}^3, {psf} PSF, {n} workers: {run['wall']:.1f} s wall; workers read for {run['read']:.1f}, computed "
            f"for {run['kernels']:.1f}, wrote for {run['write']:.1f} s; longest passes {run['passes']}"
        )


def all_stages(source: Path, out: Path, block: int, workers: int, psf: str) -> Mapping[str, Any]:
    """Wall seconds of a run on workers that are there, and what they spent."""
    from distributed import Client

    from chunkflow.run.dask import local_engine

    stages = [
        cf.Deconvolve(psf=cf.Psf(**PSFS[psf]), iterations=10, background=10),
        cf.Threshold(),
        cf.Label(min_voxels=64),
        cf.Skeleton(),
        cf.Measure(),
    ]
    shutil.rmtree(out, ignore_errors=True)
    plan = cf.Pipeline(stages).plan(str(source), out, block=(block,) * 3, workers=WORKERS)
    engine = local_engine(workers, plan.memory)
    client: Client = engine.client
    client.wait_for_workers(workers)
    client.run(_imported)
    began = perf_counter()
    plan.run(client)
    wall = perf_counter() - began
    engine.close()
    units = units_of(out)
    read, kernels, write = (sum(line["spent"][k] for _, line in units) for k in range(3))
    by_pass: dict[str, float] = {}
    for name, line in units:
        by_pass[name] = by_pass.get(name, 0.0) + line["spent"][1]
    longest = sorted(by_pass.items(), key=lambda item: -item[1])[:6]
    return {
        "wall": wall,
        "read": read,
        "kernels": kernels,
        "write": write,
        "share": kernels / (workers * wall),
        "passes": ", ".join(f"{name} {seconds:.1f}" for name, seconds in longest),
    }


def _imported() -> None:
    import chunkflow.run.worker  # noqa: F401


def machine_limit() -> float:
    """How many times the FFTs of one process four processes do in the same time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
        list(pool.map(transforms, range(WORKERS)))
        alone = median(pool.submit(transforms, 0).result() for _ in range(3))
        together = median(_longest(partial(pool.map, transforms, range(WORKERS))) for _ in range(3))
    return WORKERS * alone / together


def _longest(run: Callable[[], Iterator[float]]) -> float:
    return max(run())


def transforms(_: int) -> float:
    """Seconds of some FFTs of the size of a tile."""
    import scipy.fft

    image = np.random.default_rng(0).random((160, 160, 160), np.float32)
    began = perf_counter()
    for _ in range(10):
        image = scipy.fft.irfftn(scipy.fft.rfftn(image), image.shape)
    return perf_counter() - began


if __name__ == "__main__":
    main()
