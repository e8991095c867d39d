"""One unit of work: read, compute, write. In a run only this module reads and writes voxels.

A unit is a pure function of its job and its index, writes whole files that nobody else writes, and never writes what
it reads; so it may run any number of times, anywhere, and leave the same bytes.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import to_device, to_host
from chunkflow.errors import IntegrityError, NotANumberError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.geometry.scale import Scale
from chunkflow.stages.base import BlockStep, MergeStep, Record, Region, ShelvingMerge, View, boxes_of_chain
from chunkflow.storage.files import object_sizes
from chunkflow.storage.layout import objects_of
from chunkflow.storage.records import RecordFolder, merged_path, read_record, record_path, shelf_in, write_record
from chunkflow.storage.tiff_stack import TiffStack, open_tiff_stack
from chunkflow.storage.volume import Volume, open_array


@dataclass(frozen=True, slots=True)
class Source:
    """An array to read, or a TIFF: a location, not a handle, so that it travels in a hundred bytes."""

    path: str
    axes: str = "zyx"
    at: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Needed:
    """Records of an earlier pass: their folder, the number of units, and whether it was a merge on the same grid."""

    folder: str
    units: int
    merged: bool
    same_grid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a unit of one pass needs to know. Paths and numbers only.

    reads : where each array to read lies
    writes : where each product is stored
    records : folder of this pass's records
    constants : file of the arrays the plan fixed, or ""
    epoch : (file, number): the run that may write; a later run changes the file
    """

    name: str
    steps: tuple[BlockStep, ...]
    merge: MergeStep | ShelvingMerge | None
    grid: Grid
    reads: Mapping[str, Source]
    writes: Mapping[str, Source]
    needs: Mapping[str, Needed]
    records: str
    constants: str
    nan: str
    device: str
    epoch: tuple[str, int] = ("", 0)


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What a unit reports, under a kilobyte.

    objects : size of each file of its arrays, in the order of `Job.writes` and of `objects_of`; 0 where there is none.
        Of a merge: the number of its parts and their size together
    record : size of its record
    peak_bytes : largest resident size of the process so far
    """

    unit: int
    objects: tuple[int, ...]
    record: int
    seconds: float
    peak_bytes: int
    worker: int = field(default_factory=os.getpid)


class StaleRunError(IntegrityError):
    """Another run has taken the output over since this unit was sent out."""


def run_unit(job: Job, unit: int) -> UnitResult:
    """Compute one unit and store what it yields."""
    began = perf_counter()
    objects, record = _run_merge(job) if job.merge is not None else _run_block(job, unit)
    return UnitResult(unit, objects, record, perf_counter() - began, peak_rss())


def peak_rss() -> int:
    """Largest resident size of this process so far, in bytes."""
    # Not getrusage where there is better: on Linux a fresh process inherits that figure from the one that started it.
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _run_merge(job: Job) -> tuple[tuple[int, ...], int]:
    assert job.merge is not None
    folder = Path(job.records)
    with shelf_in(folder) as shelf:
        more = (shelf,) if getattr(job.merge, "shelves", False) else ()
        merged = job.merge.run(_records(job), _values(job, None), *more)
        _check_epoch(job)
        sizes = [write_record(record_path(folder, block), part) for block, part in merged.parts]
    return (len(sizes), sum(sizes)), write_record(merged_path(folder), merged.values)


def _run_block(job: Job, unit: int) -> tuple[tuple[int, ...], int]:
    core = job.grid.core_of(unit)
    arrays, record = _compute(job, unit, core)
    _check_epoch(job)
    sizes: list[int] = []
    for product, target in job.writes.items():
        sizes += _store(_open(target, job.epoch), core, to_host(arrays.pop(product)))
    return tuple(sizes), write_record(record_path(Path(job.records), unit), record)


def _store(volume: Volume, core: Box, data: NDArray[Any]) -> list[int]:
    """Write one core and return the sizes of its files. A core of zeros leaves no file."""
    names = objects_of(volume.layout, core)
    if data.any():
        volume.write(core, np.ascontiguousarray(data.astype(volume.dtype, copy=False)))
        return [size or 0 for size in object_sizes(volume.path, names)]
    for name in names:  # of an attempt that was killed, or of damaged files
        Path(volume.path, name).unlink(missing_ok=True)
    return [0] * len(names)


def _check_epoch(job: Job) -> None:
    file, number = job.epoch
    if file and int(Path(file).read_text(encoding="ascii")) != number:
        raise StaleRunError("another run has taken this output over")


def _records(job: Job) -> dict[str, Sequence[Record]]:
    return {name: RecordFolder(Path(need.folder), need.units) for name, need in job.needs.items()}


def _values(job: Job, unit: int | None) -> dict[str, Record]:
    found: dict[str, Record] = {"": _read_cached(job.constants)} if job.constants else {}
    for name, need in job.needs.items():
        if not need.merged:
            continue
        values = _read_cached(str(merged_path(Path(need.folder))))
        part = record_path(Path(need.folder), unit) if unit is not None and need.same_grid else None
        found[name] = {**values, **read_record(part)} if part is not None and part.is_file() else values
    return found


@lru_cache(maxsize=16)
def _read_cached(path: str) -> Record:
    return read_record(Path(path))


@lru_cache(maxsize=64)
def _open(source: Source, epoch: tuple[str, int]) -> Volume:
    """The array, once per process and run: the next run may find another at the same path."""
    # The scale is of no interest to a unit: steps get it as their parameters.
    return open_array(source.path, Scale((1.0, 1.0, 1.0)), axes=source.axes, at=source.at)


@lru_cache(maxsize=64)
def _open_to_read(source: Source, epoch: tuple[str, int]) -> Volume | TiffStack:
    return open_tiff_stack(source.path) if Path(source.path).is_file() else _open(source, epoch)


def _compute(job: Job, unit: int, core: Box) -> tuple[dict[str, Any], Record]:
    """Arrays over the core and the record of one block."""
    products = [name for step in job.steps for name in step.produces if name in job.writes]
    outs, wanted = boxes_of_chain(job.steps, core, Box.of_shape(job.grid.shape), products)
    on_device = job.device == "gpu" and any(step.on_device for step in job.steps)
    regions = {name: _read(job, name, box, on_device) for name, box in wanted.items()}
    values, records = _values(job, unit), _records(job)
    record: Record = {}
    for step, out in zip(job.steps, outs, strict=True):
        view = View(
            block=unit,
            core=core,
            grid=job.grid,
            regions=regions,
            values=values,
            records=records,
            device=job.device if on_device else "cpu",
        )
        output = step.run(view, out)
        regions |= {name: Region(out, data) for name, data in output.arrays.items()}
        record = _with(record, output.record, job)
    return {name: regions[name].cut(core) for name in products}, record


def _with(record: Record, more: Record, job: Job) -> Record:
    """One record of what two steps of a pass leave."""
    twice = record.keys() & more.keys()
    if twice:
        raise IntegrityError(f"two steps of pass {job.name} record {sorted(twice)}", "Rename one of them")
    return {**record, **more}


def _read(job: Job, name: str, box: Box, on_device: bool) -> Region:
    volume = _open_to_read(job.reads[name], job.epoch)
    inside = box.clip(volume.box)
    data = volume.read(inside)
    if (name == "input" or name.startswith("input:")) and data.dtype.kind == "f":  # of any channel
        data = _finite(data, inside, job.nan, "the input" if name == "input" else f"channel {name[6:]} of the input")
    return Region(inside, to_device(data, "gpu") if on_device else data)


def _finite(data: NDArray[Any], box: Box, nan: str, called: str) -> NDArray[Any]:
    is_finite = np.isfinite(data)
    if is_finite.all():
        return data
    if nan == "zero":
        return np.where(is_finite, data, data.dtype.type(0))
    first: Triple = triple([int(v) for v in np.argwhere(~is_finite)[0]])
    at = triple(tuple(a + b for a, b in zip(box.start, first, strict=True)))
    raise NotANumberError(
        f"{called} holds NaN or infinity at z, y, x = {at} ({int((~is_finite).sum())} such voxels in {box})",
        "Repair the input, or read such voxels as 0 with input: {nan: zero}",
    )
