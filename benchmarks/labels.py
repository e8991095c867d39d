"""Connected components of an OME-Zarr mask, written as OME-Zarr labels: the pipeline beside cc3d, dask-image and scipy.

All read the same file (chunks of 64^3) and write zarr; cc3d and scipy write the same shards as we do, dask-image writes
chunks. dask-image works out of core as we do; cc3d and scipy hold the whole volume in memory and label it in one call.
Ours also journals every block, checks what it wrote, and can be resumed.

A run ends with an HTML report, whose pictures take a second or so however small the volume is; where a goal stands, a
row of its own leaves the report out. Four workers are threads, and processes of a local cluster that stands already.
zarr reads and writes in threads of its own, for every contender.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cc3d
import dask
import dask.array as da
import numpy as np
from common import PassClock, Report, Row, options, peer, profile_of, spread, take_turns
from distributed import Client, LocalCluster
from numpy.typing import NDArray
from scipy import ndimage

import chunkflow as cf
from chunkflow.geometry.box import Box
from chunkflow.geometry.scale import Scale
from chunkflow.kernels import components
from chunkflow.storage.layout import ArrayLayout
from chunkflow.storage.omezarr_write import write_image_group
from chunkflow.storage.volume import create_array, open_array
from chunkflow.synth import phantoms

SIDE, QUICK_SIDE = 256, 128
LARGE_SIDE = 512
CHUNK = 64
BLOCKS, QUICK_BLOCKS = (64, 128), (64,)
LARGE_BLOCKS = (128, 256)
WORKERS = 4
GOAL_OF_BLOCK = {64: 20.0, 128: 3.0}  # dask-image's time over ours
ONE_WORKER_GOAL = 1 / 2.5  # cc3d's time over ours, on the whole volume in one call
FOUR_WORKERS_GOAL = 1.0
VOXEL_UM = (0.1, 0.1, 0.1)
EVERY_NEIGHBOUR = np.ones((3, 3, 3), bool)
CC3D = "read, cc3d, write; whole volume, one call"


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    packages = ["zarr", "connected-components-3d", "scipy", "dask", "dask-image"]
    report = Report("labels", "Labels of an OME-Zarr mask beside cc3d, dask-image and scipy", given, packages)
    measure = peer("dask_image.ndmeasure", report)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        _warm_up(measure, here)
        mask = make_mask(QUICK_SIDE if given.quick else SIDE)
        compare_kernel(report, mask)
        compare_blocks(report, Volume.stored(here / "small", mask), measure)
        del mask
        if not given.quick:
            compare_workers(report, Volume.stored(here / "large", make_mask(LARGE_SIDE)))
    report.finish()


@dataclass(frozen=True, slots=True)
class Volume:
    """A mask on disk and in memory, with scipy's labels of it, and the folder where contenders write."""

    source: Path
    folder: Path
    truth: NDArray[np.int32]
    count: int
    share: float

    @classmethod
    def stored(cls, folder: Path, mask: NDArray[np.bool_]) -> Volume:
        """Write the mask and label it."""
        folder.mkdir()
        truth, count = ndimage.label(mask, EVERY_NEIGHBOUR)
        return cls(write_mask(folder / "mask.ome.zarr", mask), folder, truth, count, float(mask.mean()))

    def __str__(self) -> str:
        side = len(self.truth)
        return f"{self.count} components in {self.share:.1%} of {side}^3, 26-connected"


def make_mask(side: int) -> NDArray[np.bool_]:
    """Tubes, and specks: thousands of components."""
    mask = phantoms.mitochondria((side,) * 3, VOXEL_UM, seed=1).labels > 0
    mask |= np.random.default_rng(1).random(mask.shape, np.float32) < 1e-3
    return mask


def write_mask(path: Path, mask: NDArray[np.bool_]) -> Path:
    """An OME-Zarr image of the mask, a file per chunk."""
    write_image_group(path, name="mask", levels={"0": Scale(VOXEL_UM)})
    z, y, x = mask.shape
    layout = ArrayLayout((z, y, x), "uint8", (CHUNK,) * 3, None)
    create_array(path / "0", layout, Scale(VOXEL_UM)).write(Box.of_shape((z, y, x)), mask.astype(np.uint8))
    return path


def compare_kernel(report: Report, mask: NDArray[np.bool_]) -> None:
    """The kernel of one block, in memory."""
    components.label_block(mask[:32, :32, :32], 26)
    times = take_turns(
        {
            "ours": lambda: components.label_block(mask, 26),
            "cc3d": lambda: cc3d.connected_components(mask, connectivity=26),
            "scipy": lambda: ndimage.label(mask, EVERY_NEIGHBOUR),
        },
        report.options.rounds,
    )
    name = f"one block of {len(mask)}^3 in memory [s]"
    ours = times["ours"].median
    for key, title in (("cc3d", "cc3d, numbers in no fixed order"), ("scipy", "scipy.ndimage.label")):
        report.rows.append(Row(name=name, ours=ours, peer=title, peer_value=times[key].median))
    report.notes.append(f"in memory: {spread(times)}")


def compare_blocks(report: Report, volume: Volume, measure: Any) -> None:
    """Whole runs from file to file, on one and two workers."""
    given = report.options
    contenders: dict[str, Callable[[], Any]] = {
        "cc3d": lambda: one_shot(volume.source, volume.folder / "cc3d", label_cc3d),
        "scipy": lambda: one_shot(volume.source, volume.folder / "scipy", label_scipy),
    }
    rows: list[tuple[str, str, str, str, float | None]] = []
    for block in QUICK_BLOCKS if given.quick else BLOCKS:
        for workers in (1, 2):
            key = f"{block}^3 x {workers}"
            out = volume.folder / f"ours-{block}-{workers}"
            contenders[f"ours {key}"] = partial(our_run, volume.source, out, block, workers)
            what = f"{len(volume.truth)}^3 in blocks of {block}^3, {workers} worker{'s' * (workers > 1)} [s]"
            goal = None if given.quick else GOAL_OF_BLOCK[block]
            rows.append((what, f"ours {key}", f"dask-image {key}", f"dask-image label, {workers} thread(s)", goal))
            if measure is not None:
                theirs = volume.folder / f"peer-{block}-{workers}"
                contenders[f"dask-image {key}"] = partial(dask_run, measure, volume.source, theirs, block, workers)
            if workers == 1:
                # the goal is for blocks of the size that a run would choose: few, for a volume this small
                goal = ONE_WORKER_GOAL if block == max(BLOCKS) and not given.quick else None
                rows.append((what, f"ours {key}", "cc3d", CC3D, goal))
                bare = f"{out.name}-bare"
                contenders[bare] = partial(our_run, volume.source, out.with_name(bare), block, 1, report=False)
                rows.append((what.replace(" [s]", ", no report [s]"), bare, "cc3d", CC3D, goal))
                rows.append((what, f"ours {key}", "scipy", "read, scipy.ndimage.label, write; whole volume", None))
    times = take_turns(contenders, given.rounds)
    for what, ours, theirs, name, goal in rows:
        value = times[theirs].median if theirs in times else None
        report.rows.append(Row(name=what, ours=times[ours].median, peer=name, peer_value=value, goal=goal))
    report.notes += [f"{volume}; from file to file: {spread(times)}", *_checks(volume)]
    report.notes += _profiles(volume, QUICK_BLOCKS[0] if given.quick else max(BLOCKS))


def compare_workers(report: Report, volume: Volume) -> None:
    """The larger volume on four workers."""
    source, folder = volume.source, volume.folder
    with local_cluster() as client:
        our_run(folder.parent / "warm.ome.zarr", folder / "warm", CHUNK, WORKERS, client)
        contenders: dict[str, Callable[[], Any]] = {"cc3d": lambda: one_shot(source, folder / "cc3d", label_cc3d)}
        for block, report_too in product(LARGE_BLOCKS, (True, False)):
            end = "" if report_too else ", no report"
            for kind, using in (("threads", None), ("processes", client)):
                out = folder / f"ours-{block}-{kind}-{int(report_too)}"
                run = partial(our_run, source, out, block, WORKERS, using, report=report_too)
                contenders[f"{block}^3, {kind}{end}"] = run
        times = take_turns(contenders, report.options.rounds)
    for name in contenders:
        if name != "cc3d":
            what = f"{len(volume.truth)}^3 in blocks of {name.replace(', ', f', {WORKERS} ', 1)} [s]"
            value = times["cc3d"].median
            ours = times[name].median
            report.rows.append(Row(name=what, ours=ours, peer=CC3D, peer_value=value, goal=FOUR_WORKERS_GOAL))
    report.notes += [f"{volume}; from file to file: {spread(times)}", *_checks(volume)]
    for block in LARGE_BLOCKS:
        clock = PassClock()
        our_run(source, folder / f"clocked-{block}", block, WORKERS, on_event=clock)
        passes = clock.text()
        name = f"{len(volume.truth)}^3, {block}^3, {WORKERS} threads"
        report.notes.append(f"{name}, seconds by pass, the report at the end: {passes}")


@contextmanager
def local_cluster() -> Iterator[Client]:
    """A cluster of four processes."""
    quiet = logging.CRITICAL  # workers complain when the scheduler stops before them
    cluster = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, silence_logs=quiet)
    with cluster, Client(cluster) as client:
        yield client


def _profiles(volume: Volume, block: int) -> list[str]:
    """Where the time of one worker goes: passes, then functions."""
    clock = PassClock()
    out = volume.folder / "clocked"
    our_run(volume.source, out, block, 1, on_event=clock)
    passes = clock.text()
    name = f"{len(volume.truth)}^3, {block}^3, one worker"
    profile = profile_of(lambda: our_run(volume.source, out, block, 1))
    return [f"{name}, seconds by pass, the report at the end: {passes}", f"{name}: {profile}"]


def _warm_up(measure: Any, folder: Path) -> None:
    """Each way once on a small volume: imports, compilers, caches."""
    small = np.random.default_rng(1).random((CHUNK, CHUNK, 2 * CHUNK)) < 1e-2
    source = write_mask(folder / "warm.ome.zarr", small)
    our_run(source, folder / "warm-ours", CHUNK, 1)
    for name, label in (("cc3d", label_cc3d), ("scipy", label_scipy)):
        one_shot(source, folder / f"warm-{name}", label)
    if measure is not None:
        dask_run(measure, source, folder / "warm-peer", CHUNK, 1)


def our_run(
    source: Path,
    out: Path,
    block: int,
    workers: int,
    client: Client | None = None,
    *,
    report: bool = True,
    on_event: Any = None,
) -> None:
    """The pipeline `label` alone; workers are threads, or those of a client."""
    shutil.rmtree(out, ignore_errors=True)
    pipeline = cf.Pipeline(
        [cf.Label()],
        input=cf.InputOptions(kind="mask"),
        output=cf.OutputOptions(save=("labels",), pyramid="none"),
    )
    plan = pipeline.plan(str(source), out, block=(block,) * 3)
    on = None if client is not None else "serial" if workers == 1 else "threads"
    with nullcontext() if report else patch("chunkflow.report.report.write_report"):
        plan.run(client=client, on=on, workers=workers, device="cpu", on_event=on_event)


def dask_run(measure: Any, source: Path, out: Path, block: int, workers: int) -> None:
    """dask-image on the same chunks (joined to larger ones where the block is), written to zarr."""
    shutil.rmtree(out, ignore_errors=True)
    image = da.from_zarr(str(source / "0")).rechunk((block,) * 3)
    labels, count = measure.label(image, EVERY_NEIGHBOUR)
    scheduler = {"scheduler": "synchronous"} if workers == 1 else {"scheduler": "threads", "num_workers": workers}
    dask.compute(da.to_zarr(labels.astype(np.uint32), str(out), compute=False), count, **scheduler)


def label_cc3d(mask: NDArray[np.uint8]) -> tuple[NDArray[Any], int]:
    """Labels and their number."""
    labels, count = cc3d.connected_components(mask, connectivity=26, return_N=True)
    return labels, int(count)


def label_scipy(mask: NDArray[np.uint8]) -> tuple[NDArray[Any], int]:
    """Labels and their number."""
    labels, count = ndimage.label(mask, EVERY_NEIGHBOUR)
    return labels, int(count)


def one_shot(source: Path, out: Path, label: Callable[[NDArray[np.uint8]], tuple[NDArray[Any], int]]) -> None:
    """The whole volume at once, through the same storage, in the type and the shards of our labels."""
    shutil.rmtree(out, ignore_errors=True)
    scale = Scale(VOXEL_UM)
    volume = open_array(source / "0", scale)
    labels, count = label(volume.read(volume.box))
    dtype = "uint16" if count <= np.iinfo(np.uint16).max else "uint32"
    layout = ArrayLayout(volume.shape, dtype, (CHUNK,) * 3, (2 * CHUNK,) * 3)
    create_array(out, layout, scale).write(volume.box, labels.astype(dtype, copy=False))


def _checks(volume: Volume) -> list[str]:
    """What the last run of each contender left, against scipy's labels."""
    runs = sorted(volume.folder.glob("ours-*"))
    ours = [_equals(cf.open_result(path).labels, volume.truth) for path in runs]
    found = [f"{len(volume.truth)}^3: our labels equal scipy's id for id in {sum(ours)} of {len(ours)} runs"]
    theirs = [*sorted(volume.folder.glob("peer-*")), volume.folder / "cc3d"]
    same = [_same_partition(np.asarray(da.from_zarr(str(path))), volume.truth) for path in theirs]
    return [*found, f"the labels of dask-image and cc3d equal them up to their numbers in {sum(same)} of {len(same)}"]


def _equals(labels: Any, truth: NDArray[np.int32]) -> bool:
    """Slab by slab."""
    slabs = [slice(z, z + 128) for z in range(0, len(truth), 128)]
    return labels is not None and all(np.array_equal(labels[slab], truth[slab]) for slab in slabs)


def _same_partition(labels: NDArray[Any], truth: NDArray[np.int32]) -> bool:
    """Whether two labellings differ by a renaming only."""
    both = np.unique(labels.ravel().astype(np.int64) << 32 | truth.ravel())
    return all(len(np.unique(ids)) == len(both) for ids in (both >> 32, both & 0xFFFFFFFF))


if __name__ == "__main__":
    main()
