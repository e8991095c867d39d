"""Loops of a network that is cut into chunks: chunkflow, kimimaro with its own merge, and Lee's thinning per chunk.

The network is one object of bent tubes of radius 3 to 8 voxels between random points; its loops follow from its Euler
characteristic. Everybody gets it whole and in chunks of 64, 100 and 128 voxels a side:

    chunkflow    the pipeline in blocks of that size, spurs pruned
    kimimaro     chunks that overlap by a voxel, with `fix_borders`; joined by its skeletons' own simple_merge and
                 consolidate, as igneous does; then postprocess, which removes loops that a tree should not have
    skeletonize  chunks thinned one by one and put together; its loops are those of the voxels that are left

kimimaro makes trees: on the whole volume it has none of the loops. In chunks it has those that cutting makes, not those
that the network has.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from common import Report, Row, Table, options, peer
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import euler_number
from skimage.morphology import skeletonize

import chunkflow as cf
from chunkflow.testing.suites import differences, write_volume

SIDE, QUICK_SIDE = 256, 96
CHUNKS, QUICK_CHUNKS = (64, 100, 128), (32, 50)
POINTS, QUICK_POINTS = 30, 12
NEIGHBOURS = 4
RADII = (3.0, 8.0)
SEED = 0
BEND = 0.2
TEASAR = {"scale": 1.5, "const": 4.0}  # in voxels
WHOLE = 4096

Mask = NDArray[np.bool_]
Found = tuple[int, int]


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    packages = ["numba", "scikit-image", "kimimaro"]
    protocol = "one compute thread per process; each once"
    report = Report("networks", "Loops of a network in chunks", given, packages, protocol)
    side, points = (QUICK_SIDE, QUICK_POINTS) if given.quick else (SIDE, POINTS)
    mask = network(side, points=points, seed=SEED)
    chunks = QUICK_CHUNKS if given.quick else CHUNKS
    kimimaro = peer("kimimaro", report)
    truth = count_of_mask(mask)
    table: dict[str, list[Found | None]] = {"truth": [truth] * (1 + len(chunks))}
    seconds: dict[str, list[float | None]] = {}

    def add(name: str, function: Callable[[Mask, int], Found], sizes: list[int]) -> None:
        function(np.ones((40, 6, 6), bool), 32)  # compilers
        found, spent = zip(*(_timed(function, mask, size) for size in sizes), strict=True)
        table[name], seconds[name] = list(found), list(spent)

    sizes = [WHOLE, *chunks]
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        add("chunkflow", runs.count, sizes)
        report.notes.append(runs.agreement())
    if kimimaro is not None:
        teasar = Teasar(kimimaro)
        add("kimimaro, merged", teasar.merged, sizes)
        add("kimimaro, merged and post-processed", teasar.postprocessed, sizes)
    add("skeletonize", lee, sizes)
    columns = ["whole", *(f"{size}^3" for size in chunks)]
    for k, title in enumerate(("pieces", "loops")):
        rows = {name: [None if pair is None else float(pair[k]) for pair in found] for name, found in table.items()}
        report.tables.append(Table(title=f"{title} found, chunks of", columns=columns, rows=rows, digits=0))
    report.tables.append(Table(title="seconds, chunks of", columns=columns, rows=seconds, digits=1))
    _add_rows(report, table, truth, columns)
    report.notes += [
        f"{mask.sum()} voxels ({mask.mean():.1%}) of {side}^3, seed {SEED}; kimimaro with {TEASAR}",
        "chunkflow's seconds are those of whole runs, from file to file, journal, tables and report included; the "
        "others hold the volume in memory; post-processing alone, without the skeletons it works on",
    ]
    report.finish()


def network(side: int, *, points: int, seed: int) -> Mask:
    """(side, side, side) tubes bent as quadratic curves from each point to its nearest ones, cavities filled."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((side,) * 3, bool)
    ends = rng.uniform(0.08 * side, 0.92 * side, (points, 3))
    nearest = [np.argsort(np.linalg.norm(ends - end, axis=1))[1 : NEIGHBOURS + 1] for end in ends]
    low, high = RADII
    for i, near in enumerate(nearest):
        for j in near:
            if i > j and i in nearest[j]:
                continue  # drawn from the other end
            curve = _bent(ends[i], ends[j], rng)
            curve = np.clip(curve, high + 1, side - high - 2)
            thick = rng.uniform(low, high) * (1 + 0.25 * np.sin(np.linspace(0, 6, len(curve)) + rng.uniform(0, 6)))
            _draw(mask, curve, np.clip(thick, low, high))
    return np.asarray(ndimage.binary_fill_holes(mask))


def _bent(a: NDArray[np.float64], b: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Points along a quadratic curve, four to a voxel."""
    length = float(np.linalg.norm(b - a))
    middle = (a + b) / 2 + rng.normal(size=3) * BEND * length
    t = np.linspace(0, 1, int(length * 4) + 4)[:, None]
    return np.asarray((1 - t) ** 2 * a + 2 * t * (1 - t) * middle + t**2 * b)


def _draw(mask: Mask, curve: NDArray[np.float64], radii: NDArray[np.float64]) -> None:
    """Balls along a curve."""
    for centre, radius in zip(curve, radii, strict=True):
        start = np.ceil(centre - radius).astype(int)
        axes = [np.arange(a, int(np.floor(c + radius)) + 1) for a, c in zip(start, centre, strict=True)]
        z, y, x = np.ix_(*(axis - c for axis, c in zip(axes, centre, strict=True)))
        part = mask[tuple(slice(axis[0], axis[-1] + 1) for axis in axes)]
        part |= z * z + y * y + x * x <= radius * radius


def count_of_mask(mask: Mask) -> Found:
    """Components and loops of a mask without cavities."""
    pieces = int(ndimage.label(mask, np.ones((3, 3, 3)))[1])
    return pieces, pieces - int(euler_number(mask, connectivity=3))


def _timed(function: Callable[[Mask, int], Found], mask: Mask, size: int) -> tuple[Found, float]:
    began = perf_counter()
    return function(mask, size), perf_counter() - began


def chunks_of(mask: Mask, size: int, overlap: int) -> Iterator[tuple[tuple[int, ...], Mask]]:
    """First voxels and voxels of the chunks; each reaches `overlap` voxels into the next."""
    for start in product(*(range(0, n, size) for n in mask.shape)):
        yield start, mask[tuple(slice(a, a + size + overlap) for a in start)]


class Runs:
    """Runs of the pipeline, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._results: list[cf.Result] = []

    def count(self, mask: Mask, size: int) -> Found:
        """Components and loops of the graph of a run in blocks of that size."""
        here = self._folder / str(len(self._results))
        source = write_volume(here / "in.ome.zarr", mask.astype(np.uint8))
        pipeline = cf.Pipeline(
            [cf.Label(), cf.Skeleton(), cf.Measure()],
            input=cf.InputOptions(kind="mask"),
            output=cf.OutputOptions(save=("labels", "skeleton"), pyramid="none"),
        )
        result = pipeline.plan(source, here / "out", block=(size,) * 3).run(on="serial", device="cpu")
        self._results.append(result)
        return len(result.objects), int(result.objects.b1_graph.sum())

    def agreement(self) -> str:
        """Whether runs in blocks left what the run in one block left; the first run was the compilers'."""
        whole, *others = self._results[1:]
        equal = sum(not differences(result, whole) for result in others)
        return f"chunkflow: {equal} of {len(others)} runs in blocks equal the run in one block bit for bit, tables too"


class Teasar:
    """kimimaro in chunks, and its merge."""

    def __init__(self, kimimaro: Any) -> None:
        self._kimimaro = kimimaro
        self._merged: dict[tuple[int, int], Any] = {}

    def merged(self, mask: Mask, size: int) -> Found:
        """Components and loops of the chunks' skeletons joined where they share a vertex."""
        return self._count(self._of(mask, size))

    def postprocessed(self, mask: Mask, size: int) -> Found:
        """The same after its own cleaning."""
        skeleton = self._of(mask, size).clone()
        return self._count(self._kimimaro.postprocess(skeleton, dust_threshold=0, tick_threshold=0))

    def _of(self, mask: Mask, size: int) -> Any:
        key = (len(mask), size)
        if key not in self._merged:
            parts = [self._of_chunk(start, chunk) for start, chunk in chunks_of(mask, size, overlap=1) if chunk.any()]
            found = [part for part in parts if part is not None]
            self._merged[key] = type(found[0]).simple_merge(found).consolidate()
        return self._merged[key]

    def _of_chunk(self, start: tuple[int, ...], chunk: Mask) -> Any:
        found = self._kimimaro.skeletonize(
            chunk.astype(np.uint8), teasar_params=TEASAR, dust_threshold=0, fix_borders=True, progress=False, parallel=1
        )
        if 1 not in found:
            return None
        found[1].vertices = found[1].vertices + np.array(start, np.float32)
        return found[1]

    @staticmethod
    def _count(skeleton: Any) -> Found:
        pieces = len(skeleton.components())
        return pieces, len(skeleton.edges) - len(skeleton.vertices) + pieces


def lee(mask: Mask, size: int) -> Found:
    """Components and loops of chunks thinned one by one."""
    found = np.zeros(mask.shape, bool)
    for start, chunk in chunks_of(mask, size, overlap=0):
        part = found[tuple(slice(a, a + n) for a, n in zip(start, chunk.shape, strict=True))]
        part[...] = skeletonize(chunk, method="lee") > 0
    return count_of_mask(found)


def _add_rows(report: Report, table: dict[str, list[Found | None]], truth: Found, columns: list[str]) -> None:
    """Loops lost or invented: ours beside each peer's."""
    ours = table["chunkflow"]
    for name, found in table.items():
        if name in ("truth", "chunkflow"):
            continue
        for column, own, theirs in zip(columns, ours, found, strict=True):
            if own is not None and theirs is not None:
                off = (abs(pair[1] - truth[1]) for pair in (own, theirs))
                row = f"{column}, loops lost or invented"
                report.rows.append(Row(name=row, ours=float(next(off)), peer=name, peer_value=float(next(off))))


if __name__ == "__main__":
    main()
