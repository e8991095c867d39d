"""The pipeline beside what people would write today, out of core and in memory, as whole processes.

All take the same OME-Zarr of tubes (uint16, Gaussian PSF) through 10 iterations of Richardson-Lucy, Otsu's threshold,
26-connected labels and a skeleton, and store image, labels and skeleton. Ours also finds the graph with its tables,
cavities and a certificate, keeps a journal and writes a report.

    out of core   dask.array map_overlap with scikit-image's richardson_lucy, Otsu by a histogram of the whole,
                  dask-image's label, then a skeleton of the whole volume: nobody has one in chunks
    in memory     the best kernels there are on the whole volume: Richardson-Lucy by 4-thread scipy.fft, cc3d,
                  scikit-image's skeletonize

Peak memory is the proportional set size, summed over a contender's processes, looked at 10 times a second. "warm" is a
second run on workers that are there already. Beside the out-of-core way, on its four threads, ours also runs on
two workers, which hold less. 1024^3 is what the in-memory way cannot hold: asked for by --huge, which takes half an
hour. The out-of-core way runs once per size, and at 512^3 takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np
import psutil
from common import Options, Report, Row, options, peer, units_of
from numpy.typing import NDArray

import chunkflow as cf
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.kernels import psf
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.volume import create_array, open_array

# What one contender alone needs, it imports itself: modules are memory too.

SIDES, QUICK_SIDES = (256, 512), (96,)
BLOCK, QUICK_BLOCK = 128, 48
VOXEL_UM = (0.1, 0.1, 0.1)
FWHM_UM = (0.5, 0.25, 0.25)
ITERATIONS = 10
WORKERS = 4
FEW = 2
FEW_BYTES = 480 * 2**20
"""Workers of ours and the limit of each, where there is little memory: what does not fit is not read ahead. Without
pyramids, of which neither of the others writes any."""
TILE = 256
"""Side of what is drawn; larger volumes are made of several, mirrored, so that tubes go on over the faces."""
OUT_OF_CORE_GOAL, MEMORY_GOAL, IN_MEMORY_GOAL = 10, 4, 1 / 1.3


@dataclass(frozen=True, slots=True)
class Ran:
    """What a contender took. seconds : whole process; more : named figures"""

    seconds: float
    peak_mib: float
    found: Mapping[str, Any]


def main() -> None:
    """Measure and report."""
    given, huge, sides, skips = _options()
    packages = ["numpy", "scipy", "numba", "zarr", "scikit-image", "dask", "dask-image", "connected-components-3d"]
    protocol = f"{WORKERS} workers or threads; whole processes, imports aside; peak memory summed over processes"
    report = Report("alternative", "The pipeline beside what people would write", given, packages, protocol)
    has_dask_image = not skips and peer("dask_image", report) is not None
    block = QUICK_BLOCK if given.quick else BLOCK
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured(partial(ours, make_volume(folder / "small", 64), folder / "compiled", 32))
        peaks = {}
        for side in sides:
            source = make_volume(folder / f"{side}", side)
            peaks[side] = _add_size(report, source, side, block, folder, given.rounds, has_dask_image)
        if huge:
            run = measured(partial(ours, make_volume(folder / "1024", 1024), folder / "huge", block, warm=False))
            row = Row(name="1024^3, ours, peak [MiB]", ours=run.peak_mib, peer="ours at 512^3", peer_value=peaks[512])
            report.rows += [Row(name="1024^3, ours [s]", ours=run.found["cold"]), row]
    report.finish()


def _options() -> tuple[Options, bool, tuple[int, ...], bool]:
    """The common options, --huge, --sides, and --in-memory-only."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--huge", action="store_true")
    parser.add_argument("--sides", type=int, nargs="+")
    parser.add_argument("--in-memory-only", action="store_true", help="leave the out-of-core way out")
    mine, others = parser.parse_known_args()
    given = options(str(__doc__), others)
    sides = tuple(mine.sides or (QUICK_SIDES if given.quick else SIDES))
    return given, mine.huge, sides, mine.in_memory_only


def _add_size(
    report: Report, source: Path, side: int, block: int, folder: Path, rounds: int, has_dask_image: bool
) -> float:
    """Rows of one size; returns our peak."""
    contenders: dict[str, Callable[[], Mapping[str, Any]]] = {
        "ours": partial(ours, source, folder / "ours", block),
        "in memory": partial(in_memory, source, folder / "memory"),
    }
    runs: dict[str, list[Ran]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            runs[name].append(measured(contender))
    warm, cold = (median(run.found[key] for run in runs["ours"]) for key in ("warm", "cold"))
    peak, theirs = (max(run.peak_mib for run in runs[name]) for name in ("ours", "in memory"))
    whole = median(run.found["seconds"] for run in runs["in memory"])
    name, what = f"{side}^3", "in memory: scipy.fft, cc3d, skeletonize"
    report.rows += [
        Row(name=f"{name}, warm workers [s]", ours=warm, peer=what, peer_value=whole, goal=IN_MEMORY_GOAL),
        Row(name=f"{name}, workers started [s]", ours=cold, peer=what, peer_value=whole),
        Row(name=f"{name}, peak [MiB]", ours=peak, peer=what, peer_value=theirs, goal=1),
    ]
    if has_dask_image:
        run = measured(partial(out_of_core, source, folder / "dask", block))
        what = f"out of core: map_overlap, dask-image, blocks of {block}^3"
        few = [measured(partial(ours, source, folder / "few", block, few=True, warm=False)) for _ in range(rounds)]
        took, held = median(one.found["cold"] for one in few), max(one.peak_mib for one in few)
        goal, share = (OUT_OF_CORE_GOAL, MEMORY_GOAL) if side >= 512 else (None, None)
        seconds, mib = run.found["seconds"], run.peak_mib
        report.rows += [
            Row(name=f"{name}, workers started [s]", ours=cold, peer=what, peer_value=seconds, goal=goal),
            Row(name=f"{name}, peak [MiB]", ours=peak, peer=what, peer_value=mib),
            Row(name=f"{name}, {FEW} workers started [s]", ours=took, peer=what, peer_value=seconds, goal=goal),
            Row(name=f"{name}, {FEW} workers, peak [MiB]", ours=held, peer=what, peer_value=mib, goal=share),
        ]
        report.notes.append(f"{name}: out of core, seconds: {_seconds(run.found)}")
    last = runs["ours"][-1].found
    report.notes += [
        f"{name}: ours found {last['objects']} objects, in memory {runs['in memory'][-1].found['objects']}; "
        f"rounds: {_rounds(runs['ours'], 'warm')} s warm, {_rounds(runs['in memory'], 'seconds')} s in memory",
        f"{name}: in memory, seconds: {_seconds(runs['in memory'][-1].found)}",
        f"{name}: kernels {last['share']:.0%} of workers x wall, warm; by pass: {last['passes']}",
    ]
    return peak


def _rounds(runs: Sequence[Ran], name: str) -> str:
    return ", ".join(f"{run.found[name]:.1f}" for run in runs)


def _seconds(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in found["stages"].items())


def make_volume(path: Path, side: int) -> Path:
    """An OME-Zarr image of blurred, noisy tubes."""
    tile = min(TILE, side)
    from chunkflow.synth import optics, phantoms

    truth = phantoms.mitochondria((tile,) * 3, VOXEL_UM, seed=1)
    image = optics.acquire(truth.labels, voxel_um=VOXEL_UM, seed=1, fwhm_um=FWHM_UM, background=10.0)
    scale = Scale(VOXEL_UM)
    shape = (side,) * 3
    write_image_group(path, name="in", levels={"0": scale})
    volume = create_array(path / "0", layout_for_core((min(BLOCK, side),) * 3, shape, np.dtype(np.uint16)), scale)
    for index in np.ndindex(*[-(-side // tile)] * 3):
        turned = image.astype(np.uint16)[tuple(slice(None, None, -1 if i % 2 else 1) for i in index)]
        start = tuple(i * tile for i in index)
        volume.write(Box(start, tuple(s + tile for s in start)), np.ascontiguousarray(turned))
    return path


def measured(contender: Callable[[], Mapping[str, Any]]) -> Ran:
    """Run a contender in a process of its own, and add up the memory of it and of its children."""
    context = multiprocessing.get_context("spawn")
    ours_end, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(contender, theirs))
    process.start()
    theirs.close()
    peak = [0]
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(process.pid, peak, over))
    watch.start()
    began = perf_counter()
    try:
        found = ours_end.recv()
    finally:
        over.set()
        watch.join()
        process.join()
    return Ran(perf_counter() - began, peak[0] / 2**20, found)


def _child(contender: Callable[[], Mapping[str, Any]], end: Any) -> None:
    end.send(contender())


def _watch(pid: int, peak: list[int], over: threading.Event) -> None:
    """The largest sum of proportional set sizes over a process and all below it."""
    top = psutil.Process(pid)
    while not over.is_set():
        total = 0
        for process in [top, *top.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        peak[0] = max(peak[0], total)
        sleep(0.1)


def ours(source: Path, out: Path, block: int, *, few: bool = False, warm: bool = True) -> Mapping[str, Any]:
    """A run on a local cluster that it starts, and if `warm` another on the same."""
    from distributed import Client

    from chunkflow.run.dask import local_engine

    pipeline = cf.Pipeline(
        [
            cf.Deconvolve(psf=cf.Psf(fwhm_um=FWHM_UM), iterations=ITERATIONS, background=0),
            cf.Threshold(method="otsu"),
            cf.Label(),
            cf.Skeleton(),
        ],
        output=cf.OutputOptions(pyramid="none" if few else "auto"),
    )
    workers, memory = (FEW, FEW_BYTES) if few else (WORKERS, None)
    found: dict[str, Any] = {}
    began = perf_counter()
    plan = pipeline.plan(str(source), out / "cold", block=(block,) * 3, memory=memory, workers=workers)
    engine = local_engine(workers, plan.memory)
    client: Client = engine.client
    for name in ("cold", "warm")[: 1 + warm]:
        shutil.rmtree(out / name, ignore_errors=True)
        plan = pipeline.plan(str(source), out / name, block=(block,) * 3, memory=memory, workers=workers)
        began = perf_counter() if name == "warm" else began
        result = plan.run(client)
        found[name] = perf_counter() - began
    engine.close()
    last = "warm" if warm else "cold"
    kernels: dict[str, float] = {}
    for name, unit in units_of(out / last):
        kernels[name] = kernels.get(name, 0.0) + unit["spent"][1]
    longest = sorted(kernels.items(), key=lambda item: -item[1])[:8]
    return {
        **found,
        "objects": int(result.nodes.object_id.nunique()),
        "share": sum(kernels.values()) / (workers * found[last]),
        "passes": ", ".join(f"{name} {seconds:.1f}" for name, seconds in longest),
    }


def in_memory(source: Path, out: Path) -> Mapping[str, Any]:
    """The best kernels on the whole volume, four threads where they can use them."""
    import cc3d
    from skimage import filters, morphology

    os.environ["OMP_NUM_THREADS"] = str(WORKERS)
    clock = _Clock()
    volume = open_array(source / "0", Scale(VOXEL_UM))
    image = volume.read(volume.box).astype(np.float32)
    clock("read")
    estimate = _richardson_lucy(image, psf.gaussian(FWHM_UM, VOXEL_UM).astype(np.float32))
    clock("deconvolve")
    mask = estimate > filters.threshold_otsu(estimate)
    clock("threshold")
    labels, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    clock("label")
    skeleton = morphology.skeletonize(mask) > 0
    clock("skeleton")
    store(out / "image", estimate)
    store(out / "labels", labels.astype(np.uint32))
    store(out / "skeleton", np.where(skeleton, labels, 0).astype(np.uint32))
    clock("write")
    return {"objects": int(count), "seconds": clock.total, "stages": clock.stages}


def _richardson_lucy(image: NDArray[np.float32], kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Circular edges after padding by the PSF, real FFTs of float32."""
    import scipy.fft

    pad = [(n // 2, n // 2) for n in kernel.shape]
    padded = np.pad(image, pad, mode="reflect")
    shape = tuple(scipy.fft.next_fast_len(n, real=True) for n in padded.shape)
    padded = np.pad(padded, [(0, s - n) for s, n in zip(shape, padded.shape, strict=True)], mode="reflect")
    placed = np.zeros(shape, np.float32)
    placed[tuple(slice(0, n) for n in kernel.shape)] = kernel
    placed = np.roll(placed, [-(n // 2) for n in kernel.shape], (0, 1, 2))
    otf = scipy.fft.rfftn(placed, workers=WORKERS)
    estimate = np.full(shape, padded.mean(), np.float32)
    for _ in range(ITERATIONS):
        blurred = scipy.fft.irfftn(scipy.fft.rfftn(estimate, workers=WORKERS) * otf, shape, workers=WORKERS)
        np.maximum(blurred, 1e-6, out=blurred)
        ratio = np.divide(padded, blurred, out=blurred)
        estimate *= scipy.fft.irfftn(scipy.fft.rfftn(ratio, workers=WORKERS) * otf.conj(), shape, workers=WORKERS)
    cut = tuple(slice(p, p + n) for (p, _), n in zip(pad, image.shape, strict=True))
    return np.ascontiguousarray(estimate[cut])


def out_of_core(source: Path, out: Path, block: int) -> Mapping[str, Any]:
    """dask arrays with a halo, dask-image's label, and a skeleton of the whole volume."""
    import dask
    import dask.array as da
    from dask_image.ndmeasure import label
    from skimage import filters, morphology

    clock = _Clock()
    kernel = psf.gaussian(FWHM_UM, VOXEL_UM).astype(np.float32)
    with dask.config.set(scheduler="threads", num_workers=WORKERS):
        image = da.from_zarr(str(source / "0")).rechunk((block,) * 3).astype(np.float32)
        depth = tuple(min(2 * (n // 2), block // 2) for n in kernel.shape)
        restored = image.map_overlap(_restored, depth=depth, boundary="reflect", dtype=np.float32, kernel=kernel)
        restored.to_zarr(str(out / "image"), overwrite=True)
        restored = da.from_zarr(str(out / "image"))
        clock("deconvolve")
        low, high = dask.compute(restored.min(), restored.max())
        counts, edges = da.histogram(restored, bins=256, range=(float(low), float(high)))
        threshold = filters.threshold_otsu(hist=(counts.compute(), (edges[1:] + edges[:-1]) / 2))
        clock("threshold")
        labels, _ = label(restored > threshold, structure=np.ones((3, 3, 3)))
        labels.astype(np.uint32).to_zarr(str(out / "labels"), overwrite=True)
        clock("label")
        whole = da.from_zarr(str(out / "labels")).compute()
    skeleton = morphology.skeletonize(whole > 0) > 0
    clock("skeleton")
    store(out / "skeleton", np.where(skeleton, whole, 0).astype(np.uint32))
    clock("write")
    return {"objects": int(whole.max()), "seconds": clock.total, "stages": clock.stages}


def _restored(image: NDArray[np.float32], kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    from skimage import restoration

    found = restoration.richardson_lucy(image, kernel, num_iter=ITERATIONS, clip=False, filter_epsilon=1e-6)
    return np.asarray(found, np.float32)


def store(path: Path, data: NDArray[Any]) -> None:
    """An array of shards of 128^3, as ours are."""
    shutil.rmtree(path, ignore_errors=True)
    shape = (data.shape[0], data.shape[1], data.shape[2])
    volume = create_array(path, layout_for_core((BLOCK,) * 3, shape, data.dtype), Scale(VOXEL_UM))
    volume.write(Box.of_shape(shape), data)


class _Clock:
    """Seconds of stages, one after the other."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._began = self._before = perf_counter()

    def __call__(self, stage: str) -> None:
        now = perf_counter()
        self.stages[stage] = now - self._before
        self._before = now

    @property
    def total(self) -> float:
        return self._before - self._began


if __name__ == "__main__":
    main()
