"""Connected components of an OME-Zarr mask, written as OME-Zarr labels: the pipeline beside dask-image and scipy.

All read the same file (chunks of 64^3) and write sharded or chunked zarr. dask-image works out of core as we do; scipy
holds the whole volume in memory. Ours also journals every block, checks what it wrote, and can be resumed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dask  # noqa: TID251
import dask.array as da  # noqa: TID251
import numpy as np
from common import Options, Report, Row, options, peer, spread, take_turns
from numpy.typing import NDArray
from scipy import ndimage

import chunkflow as cf
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.kernels import components
from chunkflow.storage.layout import ArrayLayout
from chunkflow.storage.omezarr import write_image_group
from chunkflow.storage.volume import create_array, open_array
from chunkflow.synth import phantoms

SIDE, QUICK_SIDE = 256, 128
CHUNK = 64
BLOCKS, QUICK_BLOCKS = (64, 128), (64,)
VOXEL_UM = (0.1, 0.1, 0.1)
EVERY_NEIGHBOUR = np.ones((3, 3, 3), bool)


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    packages = ["zarr", "connected-components-3d", "scipy", "dask", "dask-image"]
    report = Report("labels", "Labels of an OME-Zarr mask beside dask-image and scipy", given, packages)
    side = QUICK_SIDE if given.quick else SIDE
    mask = phantoms.mitochondria((side,) * 3, VOXEL_UM, seed=1).labels > 0
    mask |= np.random.default_rng(1).random(mask.shape) < 1e-3  # specks: thousands of components
    truth, count = ndimage.label(mask, EVERY_NEIGHBOUR)
    with tempfile.TemporaryDirectory() as folder:
        source = write_mask(Path(folder, "mask.ome.zarr"), mask)
        compare_kernel(report, mask)
        compare_runs(report, given, source, Path(folder), truth)
    report.notes.append(f"{count} components in {mask.sum()} voxels ({mask.mean():.1%}) of {side}^3, 26-connected")
    report.finish()


def write_mask(path: Path, mask: NDArray[np.bool_]) -> Path:
    """An OME-Zarr image of the mask, a file per chunk."""
    write_image_group(path, name="mask", levels={"0": Scale(VOXEL_UM)})
    layout = ArrayLayout(mask.shape, "uint8", (CHUNK,) * 3, None)
    create_array(path / "0", layout, Scale(VOXEL_UM)).write(Box.of_shape(mask.shape), mask.astype(np.uint8))
    return path


def compare_kernel(report: Report, mask: NDArray[np.bool_]) -> None:
    """The kernel of one block, in memory."""
    components.label_block(mask[:32, :32, :32], 26)
    times = take_turns(
        {"ours": lambda: components.label_block(mask, 26), "scipy": lambda: ndimage.label(mask, EVERY_NEIGHBOUR)},
        report.options.rounds,
    )
    name = f"one block of {len(mask)}^3 in memory [s]"
    report.rows.append(
        Row(name=name, ours=times["ours"].median, peer="scipy.ndimage.label", peer_value=times["scipy"].median)
    )
    report.notes.append(f"in memory: {spread(times)}")


def compare_runs(report: Report, given: Options, source: Path, folder: Path, truth: NDArray[np.int32]) -> None:
    """Whole runs from file to file."""
    measure = peer("dask_image.ndmeasure", report)
    contenders: dict[str, Callable[[], Any]] = {"scipy": lambda: scipy_run(source, folder / "scipy")}
    rows: list[tuple[str, str, str, str]] = []
    for block in QUICK_BLOCKS if given.quick else BLOCKS:
        for workers in (1, 2):
            key = f"{block}^3 x {workers}"
            contenders[f"ours {key}"] = partial(our_run, source, folder / f"ours-{block}-{workers}", block, workers)
            what = f"{len(truth)}^3 in blocks of {block}^3, {workers} worker{'s' * (workers > 1)} [s]"
            rows.append((what, f"ours {key}", f"dask-image {key}", f"dask-image label, {workers} thread(s)"))
            if measure is not None:
                out = folder / f"peer-{block}-{workers}"
                contenders[f"dask-image {key}"] = partial(dask_run, measure, source, out, block, workers)
            if workers == 1:
                rows.append((what, f"ours {key}", "scipy", "read, scipy.ndimage.label, write; whole volume"))
    _warm_up(measure, folder)
    times = take_turns(contenders, given.rounds)
    for what, ours, theirs, name in rows:
        value = times[theirs].median if theirs in times else None
        report.rows.append(Row(name=what, ours=times[ours].median, peer=name, peer_value=value))
    report.notes += [f"from file to file: {spread(times)}", *_checks(folder, truth)]


def _warm_up(measure: Any, folder: Path) -> None:
    """Each way once on a small volume: imports, compilers, caches."""
    small = np.random.default_rng(1).random((CHUNK, CHUNK, 2 * CHUNK)) < 1e-2
    source = write_mask(folder / "small.ome.zarr", small)
    our_run(source, folder / "small-ours", CHUNK, 1)
    scipy_run(source, folder / "small-scipy")
    if measure is not None:
        dask_run(measure, source, folder / "small-peer", CHUNK, 1)


def our_run(source: Path, out: Path, block: int, workers: int) -> None:
    """The pipeline `label` alone; workers are threads."""
    shutil.rmtree(out, ignore_errors=True)
    pipeline = cf.Pipeline(
        [cf.Label()],
        input=cf.InputOptions(kind="mask"),
        output=cf.OutputOptions(save=("labels",), pyramid="none"),
    )
    plan = pipeline.plan(str(source), out, block=(block,) * 3)
    plan.run(on="serial" if workers == 1 else "threads", workers=workers)


def dask_run(measure: Any, source: Path, out: Path, block: int, workers: int) -> None:
    """dask-image on the same chunks (joined to larger ones where the block is), written to zarr."""
    shutil.rmtree(out, ignore_errors=True)
    image = da.from_zarr(str(source / "0")).rechunk((block,) * 3)
    labels, count = measure.label(image, EVERY_NEIGHBOUR)
    scheduler = {"scheduler": "synchronous"} if workers == 1 else {"scheduler": "threads", "num_workers": workers}
    dask.compute(da.to_zarr(labels.astype(np.uint32), str(out), compute=False), count, **scheduler)


def scipy_run(source: Path, out: Path) -> None:
    """The whole volume at once, through the same storage."""
    shutil.rmtree(out, ignore_errors=True)
    scale = Scale(VOXEL_UM)
    volume = open_array(source / "0", scale)
    labels, _ = ndimage.label(volume.read(volume.box), EVERY_NEIGHBOUR)
    layout = ArrayLayout(volume.shape, "uint32", (CHUNK,) * 3, (2 * CHUNK,) * 3)
    create_array(out, layout, scale).write(volume.box, labels.astype(np.uint32))


def _checks(folder: Path, truth: NDArray[np.int32]) -> list[str]:
    """What the last run of each contender left, against scipy's labels."""
    opened = [cf.open_result(path).labels for path in sorted(folder.glob("ours-*"))]
    ours = [labels is not None and np.array_equal(labels[:], truth) for labels in opened]
    found = [f"our labels equal scipy's id for id in {sum(ours)} of {len(ours)} runs"]
    peers = [_same_partition(np.asarray(da.from_zarr(str(path))), truth) for path in sorted(folder.glob("peer-*"))]
    if peers:
        found.append(f"dask-image's labels equal scipy's up to their numbers in {sum(peers)} of {len(peers)} runs")
    return found


def _same_partition(labels: NDArray[Any], truth: NDArray[np.int32]) -> bool:
    """Whether two labellings differ by a renaming only."""
    pairs = np.unique(np.stack((labels.ravel().astype(np.int64), truth.ravel())), axis=1)
    return all(len(np.unique(ids)) == len(ids) for ids in pairs)


if __name__ == "__main__":
    main()
