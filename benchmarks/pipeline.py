"""A synthetic volume through all stages, on one and two workers, beside the same computed at once in memory.

The peer is what one would write today for a volume that fits in memory: scikit-image and scipy, one array after the
other, one process. It reads the same OME-Zarr and stores the same arrays. Every contender runs in a fresh process,
whose start and imports are not timed; what the project adds (a local cluster, journal, audit, publishing) is.

The memory that a plan projects is compared with the peak that the workers had.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from common import STAGES, Report, Row, in_fresh_process, options, peer, stage_of, units_of
from numpy.typing import NDArray
from scipy import ndimage
from skimage import filters, measure, morphology, restoration

import chunkflow as cf
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.kernels import psf
from chunkflow.run.resident import peak_bytes
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.volume import create_array, open_array
from chunkflow.synth import optics, phantoms

SIDE, QUICK_SIDE = 256, 96
BLOCK, QUICK_BLOCK = 128, 48
VOXEL_UM = (0.1, 0.1, 0.1)
FWHM_UM = (0.6, 0.25, 0.25)
ITERATIONS = 10
BACKGROUND = 10.0
SMOOTH_UM = 0.06
MIN_VOXELS = 64

WALL = (*STAGES, "publish")

PEERS = {
    "scan": "read",
    "deconvolve": "skimage richardson_lucy",
    "threshold": "skimage gaussian, threshold_otsu",
    "label": "scipy label, small ones dropped",
    "skeleton": "skimage skeletonize, skan graph",
    "measure": "skimage regionprops_table",
    "publish": "write image, labels, skeleton",
}

Seconds = Mapping[str, float]


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    packages = ["numba", "zarr", "distributed", "scipy", "scikit-image", "skan"]
    report = Report("pipeline", "All stages beside scikit-image and scipy on the whole volume", given, packages)
    side, block = (QUICK_SIDE, QUICK_BLOCK) if given.quick else (SIDE, BLOCK)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.ome.zarr")
        truth = make_volume(source, side)
        has_skan = peer("skan", report) is not None
        runs = measured(source, Path(folder), block, given.rounds, has_skan)
    _add_rows(report, runs, side, PEERS if has_skan else {**PEERS, "skeleton": "skimage skeletonize, no graph"})
    _add_notes(report, runs, truth, block)
    report.finish()


def make_volume(path: Path, side: int) -> phantoms.Phantom:
    """An OME-Zarr image of tubes, blurred and noisy."""
    truth = phantoms.mitochondria((side,) * 3, VOXEL_UM, seed=1)
    image = optics.acquire(truth.labels, voxel_um=VOXEL_UM, seed=1, fwhm_um=FWHM_UM, background=BACKGROUND)
    _store(path, image, "in")
    return truth


def measured(source: Path, folder: Path, block: int, rounds: int, has_skan: bool) -> dict[str, list[dict[str, Any]]]:
    """What every contender reports, round after round; a first round fills caches and does not count."""
    contenders = {
        "1 worker": partial(our_run, source, folder / "ours-1", block, 1),
        "2 workers": partial(our_run, source, folder / "ours-2", block, 2),
        "peer": partial(peer_run, source, folder / "peer", has_skan),
    }
    in_fresh_process(contenders["1 worker"])
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            found[name].append(in_fresh_process(contender))
    return found


def pipeline() -> cf.Pipeline:
    """The stages of the README."""
    return cf.Pipeline(
        [
            cf.Deconvolve(psf=cf.Psf(fwhm_um=FWHM_UM), iterations=ITERATIONS, background=BACKGROUND),
            cf.Threshold(smooth_um=SMOOTH_UM),
            cf.Label(min_voxels=MIN_VOXELS),
            cf.Skeleton(),
            cf.Measure(),
        ]
    )


def our_run(source: Path, out: Path, block: int, workers: int) -> dict[str, Any]:
    """Seconds per stage, peak and projected bytes, and what was found."""
    shutil.rmtree(out, ignore_errors=True)
    events: list[tuple[float, str]] = []

    def listen(event: Mapping[str, Any]) -> None:
        if event["event"] in ("pass", "unit"):
            events.append((perf_counter(), event["pass"]))

    began = perf_counter()
    plan = pipeline().plan(str(source), out, block=(block,) * 3)
    result = plan.run(on="serial" if workers == 1 else "local", workers=workers, on_event=listen)
    total = perf_counter() - began
    units = [line for _, line in units_of(out)]
    peaks: dict[int, int] = defaultdict(int)
    for unit in units:
        peaks[unit["worker"]] = max(peaks[unit["worker"]], unit["peak"])
    return {
        "seconds": _by_stage(events, began, total),
        "total": total,
        "kernels": sum(sum(unit["spent"]) for unit in units),
        "units": len(units),
        "peak": max(peaks.values()),
        "projected": plan.peak_bytes,
        "objects": len(result.objects),
        "loops": int(result.objects.b1.sum()),
        "certified": bool(result.objects.certified.all()),
        "length_um": float(result.branches.length_um.sum()),
    }


def _by_stage(events: list[tuple[float, str]], began: float, total: float) -> dict[str, float]:
    """Wall seconds: a pass lasts from the event before its first to its last; what follows them all is publishing."""
    seconds: dict[str, float] = dict.fromkeys(WALL, 0.0)
    before = began
    for moment, name in events:
        seconds[stage_of(name)] += moment - before
        before = moment
    seconds["publish"] = began + total - before
    return seconds


def peer_run(source: Path, out: Path, has_skan: bool) -> dict[str, Any]:
    """The same stages on the whole volume, in memory."""
    shutil.rmtree(out, ignore_errors=True)
    if has_skan:
        import skan  # noqa: F401  # slow to import: not part of what is timed
    seconds: dict[str, float] = dict.fromkeys(WALL, 0.0)
    began = perf_counter()
    with _timed(seconds, "scan"):
        volume = open_array(source / "0", Scale(VOXEL_UM))
        raw = volume.read(volume.box)
    with _timed(seconds, "deconvolve"):
        above = np.maximum(raw.astype(np.float32) - BACKGROUND, 0)
        kernel = psf.gaussian(FWHM_UM, VOXEL_UM)
        image = restoration.richardson_lucy(above, kernel, num_iter=ITERATIONS, clip=False, filter_epsilon=1e-6)
    with _timed(seconds, "threshold"):
        smooth = filters.gaussian(image, SMOOTH_UM / VOXEL_UM[0], preserve_range=True)
        mask = smooth > filters.threshold_otsu(smooth, nbins=2**16)
    with _timed(seconds, "label"):
        labels, count = _labelled(mask)
    with _timed(seconds, "skeleton"):
        skeleton = morphology.skeletonize(labels > 0, method="lee") > 0
        length = _length_um(skeleton) if has_skan else float("nan")
    with _timed(seconds, "measure"):
        columns = ("label", "area", "bbox", "centroid", "intensity_mean", "intensity_min", "intensity_max")
        table = measure.regionprops_table(labels, raw, properties=(*columns, "intensity_std", "euler_number"))
    with _timed(seconds, "publish"):
        _store(out / "image.ome.zarr", image, "image")
        _store(out / "labels.ome.zarr", labels, "labels")
        _store(out / "skeleton.ome.zarr", np.where(skeleton, labels, 0).astype(labels.dtype), "skeleton")
        pd.DataFrame(table).to_csv(out / "objects.csv")
    total = perf_counter() - began
    loops = int(count - table["euler_number"].sum())  # of objects without cavities
    found = {"objects": count, "loops": loops, "length_um": length}
    return {"seconds": seconds, "total": total, "peak": peak_bytes(), **found}


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    began = perf_counter()
    yield
    seconds[stage] += perf_counter() - began


def _labelled(mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint16], int]:
    """26-connected components of at least MIN_VOXELS, numbered 1..N."""
    labels, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    kept = np.bincount(labels.ravel()) >= MIN_VOXELS
    kept[0] = False
    return (np.cumsum(kept) * kept).astype(np.uint16)[labels], int(kept.sum())


def _length_um(skeleton: NDArray[np.bool_]) -> float:
    import skan

    return float(skan.summarize(skan.Skeleton(skeleton, spacing=VOXEL_UM), separator="_")["branch_distance"].sum())


def _store(path: Path, data: NDArray[Any], name: str) -> None:
    scale = Scale(VOXEL_UM)
    shape = (data.shape[0], data.shape[1], data.shape[2])
    write_image_group(path, name=name, levels={"0": scale})
    create_array(path / "0", layout_for_core((BLOCK,) * 3, shape, data.dtype), scale).write(Box.of_shape(shape), data)


def _add_rows(report: Report, runs: Mapping[str, list[dict[str, Any]]], side: int, peers: Mapping[str, str]) -> None:
    whole = "scikit-image and scipy, whole volume, 1 process"
    for workers in ("1 worker", "2 workers"):
        for stage in WALL:
            ours, theirs = (median(run["seconds"][stage] for run in runs[name]) for name in (workers, "peer"))
            name = f"{side}^3, {workers}, {stage} [s]"
            value = theirs if stage in peers else None
            report.rows.append(Row(name=name, ours=ours, peer=peers.get(stage), peer_value=value))
        total, peers_total = (median(run["total"] for run in runs[name]) for name in (workers, "peer"))
        report.rows += [
            Row(name=f"{side}^3, {workers}, all [s]", ours=total, peer=whole, peer_value=peers_total),
            Row(
                name=f"{side}^3, {workers}, all [s per 10^6 voxels]",
                ours=total / side**3 * 1e6,
                peer=whole,
                peer_value=peers_total / side**3 * 1e6,
            ),
        ]
        peak = max(run["peak"] for run in runs[workers]) / 2**20
        name = f"{side}^3, {workers}, peak memory of a worker [MiB]"
        report.rows += [
            Row(name=name, ours=peak, peer=whole, peer_value=max(run["peak"] for run in runs["peer"]) / 2**20),
            Row(name=name, ours=peak, peer="the plan's projection", peer_value=runs[workers][0]["projected"] / 2**20),
        ]


def _add_notes(report: Report, runs: Mapping[str, list[dict[str, Any]]], truth: phantoms.Phantom, block: int) -> None:
    voxels = truth.labels.size
    for name, found in runs.items():
        totals = [run["total"] for run in found]
        report.notes.append(
            f"{name}: {median(totals):.3g} s ({min(totals):.3g} to {max(totals):.3g}), "
            f"{voxels / median(totals) / 1e6:.2f} million voxels/s; {_counts(found[0])}"
        )
    ours = runs["1 worker"][0]
    report.notes += [
        f"truth: {truth.objects} objects, {truth.loops} loops, {truth.length_um:.0f} um",
        f"blocks of {block}^3, {ours['units']} units; on 1 worker {ours['kernels'] / ours['total']:.0%} of the time is "
        "spent inside units (reading, kernels, writing)",
        "2 workers: the start of a local cluster is in scan, its end in publish; peaks are those of the processes that "
        "computed units",
        "publish: audit, moving arrays, tables, GraphML, SWC, precomputed skeletons and the HTML report",
        "deconvolve reads tiles with a halo and estimates beyond the edges: more voxels than the peer's one FFT",
        f"every object certified: {'yes' if ours['certified'] else 'no'}",
    ]


def _counts(run: Mapping[str, Any]) -> str:
    return f"{run['objects']} objects, {run['loops']} loops, {run['length_um']:.0f} um"


if __name__ == "__main__":
    main()
