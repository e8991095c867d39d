"""The seeded watershed in blocks of 64^3, merge included, beside scikit-image's on the whole volume.

Both get the same relief, mask and seeds in memory and give an array of labels. Ours runs the steps of the pipeline one
block after the other, as one worker would, without reading and writing files; scikit-image cannot work in blocks. The
numbers are ours to choose: ours ranks instances by their first voxel.

With a seed in every minimum and no equal values the two agree on every voxel. Otherwise a few differ: where a voxel has
several lower neighbours, ours follows the lowest, by definition of the forest, and scikit-image the one flooded first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import Report, Row, options, spread, take_turns
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from chunkflow.geometry.box import Box, triple
from chunkflow.geometry.grid import Grid
from chunkflow.stages.base import BlockStep, Record, Region, View
from chunkflow.stages.instances import FindSeeds, Flood, SeamEdges
from chunkflow.stages.instances_merge import MergeFlood, MergeSeeds
from chunkflow.stages.naming import Name
from chunkflow.storage.records import shelf_in

SIDE, QUICK_SIDE = 256, 128
BLOCK = 64
GOAL = 3.0
VOXEL_UM = (1.0, 1.0, 1.0)
Arrays = Mapping[str, NDArray[Any]]
Records = Mapping[str, Sequence[Record]]


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    report = Report("watershed", "Watershed in blocks beside scikit-image's", given, ["scikit-image", "numba"])
    side = QUICK_SIDE if given.quick else SIDE
    blobs, filled = nuclei(side), boundaries(side)
    compare(report, "nuclei, 6 neighbours", blobs, 0.25, 6)
    compare(report, "nuclei, 26 neighbours", blobs, 0.25, 26)
    compare(report, "cell boundaries, 6 neighbours", filled, 0.02, 6)
    report.finish()


def nuclei(side: int) -> Arrays:
    """Blobs that touch: minus their smoothed distance to the background."""
    noise = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((side,) * 3), 4)
    mask = noise > 0
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask).astype(np.float32), 1)
    return {"relief": -depth, "mask": mask.astype(np.uint8)}


def boundaries(side: int) -> Arrays:
    """A relief that fills the volume."""
    noise = ndimage.gaussian_filter(np.random.default_rng(2).standard_normal((side,) * 3), 3).astype(np.float32)
    return {"relief": noise / noise.std(), "mask": np.ones(noise.shape, np.uint8)}


def compare(report: Report, name: str, arrays: Arrays, h: float, connectivity: int) -> None:
    """One row for flooding, one for the seeds."""
    grid = Grid(triple(arrays["relief"].shape), (BLOCK,) * 3)
    small = {key: array[:20, :20, :20] for key, array in arrays.items()}
    warm = Grid((20, 20, 20), (10, 10, 20))
    flood(warm, small, find_seeds(warm, small, h, connectivity), connectivity)
    seeds: dict[str, Any] = {}
    times = take_turns(
        {"seeds": lambda: seeds.update(find_seeds(grid, arrays, h, connectivity))}, report.options.rounds
    )
    count = len(seeds["seeds"])
    markers = np.zeros(grid.shape, np.int32)
    markers.ravel()[seeds["seeds"]] = np.arange(1, count + 1)
    left: dict[str, NDArray[Any]] = {}

    def keep(key: str, run: Callable[[], NDArray[Any]]) -> None:
        left[key] = run()

    peer = partial(
        watershed, arrays["relief"], markers, connectivity=1 if connectivity == 6 else 3, mask=arrays["mask"] > 0
    )
    times |= take_turns(
        {
            "ours": lambda: keep("ours", lambda: flood(grid, arrays, seeds, connectivity)),
            "scikit-image": lambda: keep("scikit-image", peer),
        },
        report.options.rounds,
    )
    flooding = f"{name}: {grid.shape[0]}^3 from {count} seeds [s]"
    theirs = times["scikit-image"].median
    report.rows.append(
        Row(name=flooding, ours=times["ours"].median, peer="scikit-image watershed", peer_value=theirs, goal=GOAL)
    )
    report.rows.append(Row(name=f"{name}: finding the seeds, h {h} [s]", ours=times["seeds"].median))
    unlike = unlike_share(left["ours"], left["scikit-image"], seeds["seeds"])
    report.notes.append(f"{name}: {spread(times)}; {unlike:.4%} of the foreground in another basin than scikit-image's")


def unlike_share(ours: NDArray[Any], theirs: NDArray[Any], seeds: NDArray[np.int64]) -> float:
    """Share of the foreground that belongs to different seeds."""
    of_seed = np.zeros(len(seeds) + 1, ours.dtype)
    of_seed[1:] = ours.ravel()[seeds]
    return float((of_seed[theirs] != ours).sum() / (theirs > 0).sum())


def find_seeds(grid: Grid, arrays: Arrays, h: float, connectivity: int) -> dict[str, Any]:
    """Seeds of the whole volume, and of each block under "parts"."""
    find, seams = FindSeeds(h=h, connectivity=connectivity), SeamEdges(source="seeds", connectivity=connectivity)
    found = [record for _, record in visit(find, grid, arrays, {}, {})]
    beside = [record for _, record in visit(seams, grid, arrays, {"seeds": found}, {})]
    merge = MergeSeeds(grid=grid, h=h, distance_um=0.0, voxel_um=VOXEL_UM)
    merged = merge.run({"seeds": found, "seeds-seams": beside}, {})
    return {**merged.values, "parts": dict(merged.parts)}


def flood(grid: Grid, arrays: Arrays, seeds: Mapping[str, Any], connectivity: int) -> NDArray[Any]:
    """Instances of the volume, block by block, and the merge."""
    step, seams = (
        Flood(connectivity=connectivity, sides=(1, 1, 1)),
        SeamEdges(source="flood", connectivity=connectivity),
    )
    each = {block: {"seeds-merge": {"seeds": seeds["seeds"], **part}} for block, part in seeds["parts"].items()}
    basins = np.zeros(grid.shape, np.uint32)
    records = []
    none = {"seeds-merge": {"seeds": seeds["seeds"]}}
    for block, (products, record) in enumerate(visit(step, grid, arrays, {}, each, none)):
        basins[grid.core_of(block).slices] = products["basins"]
        records.append(record)
    beside = [record for _, record in visit(seams, grid, arrays, {"flood": records}, {})]
    merge = MergeFlood(grid=grid, min_voxels=0)
    with tempfile.TemporaryDirectory() as folder, shelf_in(Path(folder)) as shelf:
        merged = merge.run({"flood": records, "flood-seams": beside}, none, shelf)
        ids = {block: {"flood-merge": {**merged.values, **part}} for block, part in merged.parts}
    labels = np.zeros(grid.shape, np.uint32)
    name = Name(array="basins", merge="flood-merge")
    for block, (products, _) in enumerate(visit(name, grid, {"basins": basins}, {}, ids)):
        labels[grid.core_of(block).slices] = products["labelled"]
    return labels


def visit(
    step: BlockStep,
    grid: Grid,
    arrays: Arrays,
    records: Records,
    values: Mapping[int, Mapping[str, Record]],
    otherwise: Mapping[str, Record] | None = None,
) -> list[tuple[Mapping[str, Any], Record]]:
    """What a step leaves of every block: arrays and a record."""
    found = []
    for block in range(len(grid)):
        core = grid.core_of(block)
        boxes = {name: box.clip(Box.of_shape(grid.shape)) for name, box in step.reads(core).items()}
        regions = {name: Region(box, np.ascontiguousarray(arrays[name][box.slices])) for name, box in boxes.items()}
        given = values.get(block, otherwise or {})
        view = View(block=block, core=core, grid=grid, regions=regions, values=given, records=records)
        output = step.run(view, core)
        found.append((output.arrays, output.record))
    return found


if __name__ == "__main__":
    main()
