"""Boxes of a sharded store, read by our direct reader beside zarr's own, which reads every other kind of array.

Both read the same boxes of the same files, which the operating system has in memory: what is timed is opening, index,
checksums and decompression. Ours reads chunk after chunk on one thread, as each worker of a run does; zarr decodes on
threads of its own, as many as it likes. So there are two figures: what one waits for a box on a machine that does
nothing else, and the processor time it takes, which is what counts where every core has a worker. An image of photon
noise hardly compresses; labels of thin tubes are mostly background.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
from common import Report, Row, Timing, options, spread, take_turns
from numpy.typing import NDArray
from scale import network

from chunkflow.geometry.box import Box
from chunkflow.geometry.grid import Grid
from chunkflow.geometry.scale import Scale
from chunkflow.storage.layout import layout_for_core
from chunkflow.storage.shards import Shards, shards_of
from chunkflow.storage.volume import Volume, create_array

SIDE, QUICK_SIDE = 384, 256
SHARD = 128
HALO = 8
PEER = "zarr, threads of its own"


def main() -> None:
    """Measure and report."""
    given = options(str(__doc__))
    protocol = f"ours on one thread, zarr on its own; median of {given.rounds} rounds in turn"
    report = Report("reading", "Reading boxes beside zarr", given, ["zarr", "numcodecs"], protocol)
    side = QUICK_SIDE if given.quick else SIDE
    with tempfile.TemporaryDirectory() as folder:
        for name, voxels in volumes(side).items():
            compare(report, name, stored(Path(folder, name), voxels))
    report.finish()


def volumes(side: int) -> dict[str, NDArray[Any]]:
    """An image and labels."""
    bright = 100 + 80 * np.sin(np.arange(side) / 15)
    image = np.random.default_rng(0).poisson(bright, (side,) * 3).astype(np.uint16)
    return {"image": image, "labels": network(0, side, side).astype(np.uint32)}


def stored(path: Path, voxels: NDArray[Any]) -> Volume:
    """An array as runs write it."""
    z, y, x = voxels.shape
    layout = layout_for_core((SHARD,) * 3, (z, y, x), voxels.dtype)
    volume = create_array(path, layout, Scale((1.0, 1.0, 1.0)))
    volume.write(volume.box, voxels)
    return volume


def boxes(volume: Volume) -> dict[str, list[Box]]:
    """What runs and pictures read."""
    blocks, small = (Grid(volume.shape, (core,) * 3) for core in (SHARD, SHARD // 2))
    some = range(0, len(small), max(1, len(small) // len(blocks)))
    depth, height, width = volume.shape
    halo = (HALO, HALO, HALO)
    return {
        f"blocks of {SHARD}^3": [blocks.core_of(block) for block in range(len(blocks))],
        f"blocks of {SHARD}^3, halo {HALO}": [blocks.read_of(block, halo) for block in range(len(blocks))],
        f"blocks of {SHARD // 2}^3, halo {HALO}": [small.read_of(block, halo) for block in some],
        "planes": [Box((z, 0, 0), (z + 1, height, width)) for z in range(SHARD // 2, depth, SHARD)],
    }


def compare(report: Report, name: str, volume: Volume) -> None:
    """One row for each kind of box."""
    reader = shards_of(volume.array, volume.path)
    assert reader is not None
    agree, timings = True, {}
    for what, chosen in boxes(volume).items():
        agree &= all(np.array_equal(reader.read(box), volume.array[box.slices]) for box in chosen)
        contenders: dict[str, Callable[[], None]] = {
            "ours": partial(read_ours, reader, chosen),
            "zarr": partial(read_by_zarr, volume, chosen),
        }
        times = take_turns(contenders, report.options.rounds)
        ours, theirs = (1e3 * times[who].median / len(chosen) for who in ("ours", "zarr"))
        row = f"{name}, {volume.dtype}, {what}"
        report.rows.append(Row(name=f"{row} [ms per box]", ours=ours, peer=PEER, peer_value=theirs))
        ours, theirs = (1e3 * processor_seconds(contenders[who], report) / len(chosen) for who in ("ours", "zarr"))
        report.rows.append(Row(name=f"{row} [processor ms per box]", ours=ours, peer=PEER, peer_value=theirs))
        timings |= {f"{what}, {who}": Timing(tuple(s / len(chosen) for s in t.rounds)) for who, t in times.items()}
    report.notes.append(f"{name}: both read the same voxels: {'yes' if agree else 'no'}; {spread(timings)}")


def processor_seconds(contender: Callable[[], None], report: Report) -> float:
    """Processor time of all threads of this process, the median of rounds."""
    spent = []
    for _ in range(report.options.rounds):
        began = process_time()
        contender()
        spent.append(process_time() - began)
    return median(spent)


def read_ours(reader: Shards, chosen: list[Box]) -> None:
    """Boxes by the direct reader."""
    for box in chosen:
        reader.read(box)


def read_by_zarr(volume: Volume, chosen: list[Box]) -> None:
    """Boxes by zarr."""
    for box in chosen:
        np.asarray(volume.array[box.slices])


if __name__ == "__main__":
    main()
