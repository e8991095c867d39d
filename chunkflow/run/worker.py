"""One unit of work: read, compute, write. In a run only this module reads and writes voxels.

A unit is a pure function of its job and its index, writes whole files that nobody else writes, and never writes what
it reads; so it may run any number of times, anywhere, and leave the same bytes. Its three parts are timed apart: only
the second needs a lane (`run/lanes.py`), so the next unit is read and the last written while one computes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chunkflow.backend import (
    compute_kind,
    find_device,
    release_memory,
    to_device,
    to_host,
)
from chunkflow.errors import IntegrityError, NotANumberError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.geometry.scale import Scale
from chunkflow.run.digests import Seal, parts_of, sealed
from chunkflow.run.gpu_use import Use, take_gpu_use
from chunkflow.run.lanes import Lanes
from chunkflow.run.out_of_memory import is_of_device, ran_out, refusal
from chunkflow.run.resident import peak_bytes
from chunkflow.stages.base import (
    BlockStep,
    MergeStep,
    Record,
    Region,
    ShelvingMerge,
    View,
    boxes_of_chain,
    is_idle,
    spared,
)
from chunkflow.storage.files import object_sizes, remove_files
from chunkflow.storage.layout import objects_of
from chunkflow.storage.records import RecordFolder, merged_path, read_record, record_path, shelf_in, write_record
from chunkflow.storage.retry import take_counts
from chunkflow.storage.stores import Place, place_of
from chunkflow.storage.tiff_stack import TiffStack, open_tiff_stack
from chunkflow.storage.volume import Volume, open_array

OnOom: TypeAlias = Literal["fail", "host"]

LANES = Lanes()
"""Of this process, unless its engine hands others to its units."""


@dataclass(frozen=True, slots=True)
class Source:
    """An array to read, or a TIFF: a location, not a handle, so that it travels in a hundred bytes."""

    path: str
    axes: str = "zyx"
    at: tuple[int, ...] = ()
    window: Box | None = None


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
    ahead : whether there is memory to read the next unit while one computes
    needs_bytes : of a worker process, as the plan projects
    on_oom : what becomes of a unit that does not fit a GPU: "fail" sets it aside, "host" computes it on the CPU
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
    ahead: bool = False
    needs_bytes: int = 0
    on_oom: OnOom = "fail"


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What a unit reports, under a kilobyte.

    objects : size of each file of its arrays, in the order of `Job.writes` and of `objects_of`; 0 where there is none.
        Of a merge: the number of its parts and their size together
    record : size of its record
    spent : seconds of reading, computing and writing
    peak_bytes : largest resident size of the process so far
    device : "cpu" or "gpu", on which it was computed
    kind : of compute, of the process (see `chunkflow.backend.compute_kind`)
    requests : to object stores, of its process since the unit before (see `storage.retry`)
    seal : what its files are known by (see `run.digests`)
    gpu : use of its process's GPU since the unit before, where it was computed on one that tells (see `run.gpu_use`)
    """

    unit: int
    objects: tuple[int, ...]
    record: int
    spent: tuple[float, float, float]
    peak_bytes: int
    device: str
    kind: str
    seal: Seal
    worker: int = field(default_factory=os.getpid)
    gpu: Use | None = None
    requests: Mapping[str, int] = field(default_factory=take_counts)

    @property
    def written_bytes(self) -> int:
        """Of its files."""
        return self.record + sum(self.objects)


class StaleRunError(IntegrityError):
    """Another run has taken the output over since this unit was sent out."""


def run_unit(job: Job, unit: int, lanes: Lanes | None = None) -> UnitResult:
    """Compute one unit and store what it yields.

    Raises
    ------
    BlockMemoryError : it does not fit the memory, alone in its process.
    """
    lanes = lanes or LANES
    try:
        with lanes.inside():
            return _attempt(job, unit, lanes)
    except Exception as error:
        if not ran_out(error):
            raise
    # Outside of the handler: the error holds the frames, and those the arrays.
    release_memory()
    with lanes.alone():
        return _attempt_alone(job, unit, lanes)


def _attempt(job: Job, unit: int, lanes: Lanes) -> UnitResult:
    if job.merge is None and job.ahead:
        return _run_block(job, unit, lanes.lane())
    with lanes.lane():
        return _run_merge(job, unit) if job.merge is not None else _run_block(job, unit, nullcontext())


def _attempt_alone(job: Job, unit: int, lanes: Lanes) -> UnitResult:
    """The second attempt of a unit that ran out of memory, and on the host the third where that is wanted."""
    try:
        return _attempt(job, unit, lanes)
    except Exception as error:
        if not ran_out(error):
            raise
        is_of_gpu = _device_of(job) == "gpu" and is_of_device(error)
        refused = refusal(error, is_of_gpu=is_of_gpu, needs_bytes=job.needs_bytes)
    if job.on_oom == "fail" or not is_of_gpu:
        raise refused
    release_memory()
    return _attempt_alone(replace(job, device="cpu"), unit, lanes)


def _device_of(job: Job) -> str:
    """On which the units of a job compute: in a job for a GPU some have no step that does, and merges never do."""
    return job.device if any(step.on_device for step in job.steps) else "cpu"


def _run_merge(job: Job, unit: int) -> UnitResult:
    assert job.merge is not None
    began = perf_counter()
    folder = place_of(job.records)
    with shelf_in(folder) as shelf:
        more = (shelf,) if getattr(job.merge, "shelves", False) else ()
        merged = job.merge.run(_records(job), _values(job, None), *more)
        _check_epoch(job)
        sizes: dict[Place, int] = {}
        for block, part in merged.parts:
            path = record_path(folder, block)
            sizes[path] = write_record(path, part)
    for path in set(parts_of(folder)) - sizes.keys():
        path.unlink()  # of an attempt on other inputs, as holes that were filled since
    record = write_record(merged_path(folder), merged.values)
    seal = sealed([parts_of(folder), [merged_path(folder)]])
    spent = (0.0, perf_counter() - began, 0.0)
    objects = (len(sizes), sum(sizes.values()))
    return UnitResult(unit, objects, record, spent, peak_bytes(), "cpu", kind_of(job.device), seal)


def _run_block(job: Job, unit: int, lane: AbstractContextManager[None]) -> UnitResult:
    """Read, compute in the lane, write."""
    began = perf_counter()
    arrays: dict[str, Any] = {}
    record: Record = {}
    device = "cpu"
    read = computing = computed = began
    if not is_idle(job.steps, partial(_values, job, unit), job.grid.core_of(unit)):
        work = _read_block(job, unit)
        read = perf_counter()
        with lane:
            computing = perf_counter()
            arrays, record = _compute(job, work)
            computed = perf_counter()
        device = work.device
        del work  # what was read: writing takes its place
    _check_epoch(job)
    core = job.grid.core_of(unit)
    sizes: list[int] = []
    files: list[list[Place]] = []
    for product, target in job.writes.items():
        volume = _open(target, job.epoch)
        made = _store(volume, core, arrays.pop(product, None))
        sizes += made
        names = zip(objects_of(volume.layout, core), made, strict=True)
        files.append([place_of(volume.path) / name for name, size in names if size])
    stored = record_path(place_of(job.records), unit)
    written = write_record(stored, record)
    seal = sealed([*files, [stored]])
    spent = (read - began, computed - computing, perf_counter() - computed)
    kind = kind_of(job.device)
    use = take_gpu_use() if device == "gpu" else None
    return UnitResult(unit, tuple(sizes), written, spent, peak_bytes(), device, kind, seal, gpu=use)


def _store(volume: Volume, core: Box, data: NDArray[Any] | None) -> list[int]:
    """Write one core and return the sizes of its files. A core of zeros, and one that nobody wants, leave no file."""
    names = objects_of(volume.layout, core)
    if data is not None and data.any():
        volume.write(core, np.ascontiguousarray(data.astype(volume.dtype, copy=False)))
        return [size or 0 for size in object_sizes(volume.path, names)]
    remove_files(volume.path, names)  # of an attempt that was killed, or of damaged files
    return [0] * len(names)


def _check_epoch(job: Job) -> None:
    file, number = job.epoch
    if file and int(place_of(file).read_text(encoding="ascii")) != number:
        raise StaleRunError("another run has taken this output over")


def _records(job: Job) -> dict[str, Sequence[Record]]:
    return {name: RecordFolder(place_of(need.folder), need.units) for name, need in job.needs.items()}


def _values(job: Job, unit: int | None) -> dict[str, Record]:
    found: dict[str, Record] = {"": _read_cached(job.constants, job.epoch)} if job.constants else {}
    for name, need in job.needs.items():
        if not need.merged:
            continue
        values = _read_cached(str(merged_path(place_of(need.folder))), job.epoch)
        part = record_path(place_of(need.folder), unit) if unit is not None and need.same_grid else None
        found[name] = {**values, **read_record(part)} if part is not None and part.is_file() else values
    return found


@lru_cache(maxsize=16)
def _read_cached(path: str, epoch: tuple[str, int]) -> Record:
    """A record, once per process and run: where a hole was filled, the next run leaves another there."""
    return read_record(place_of(path))


@lru_cache(maxsize=2)
def kind_of(device: str) -> str:
    """The kind of compute of this process."""
    return compute_kind(find_device(device))


@lru_cache(maxsize=64)
def _open(source: Source, epoch: tuple[str, int]) -> Volume:
    """The array, once per process and run: the next run may find another at the same path."""
    # The scale is of no interest to a unit: steps get it as their parameters.
    whole = open_array(source.path, Scale((1.0, 1.0, 1.0)), axes=source.axes, at=source.at)
    return whole if source.window is None else whole.cropped(source.window)


@lru_cache(maxsize=64)
def _open_to_read(source: Source, epoch: tuple[str, int]) -> Volume | TiffStack:
    if not Path(source.path).is_file():
        return _open(source, epoch)
    at = dict(zip(source.axes, source.at, strict=False))
    whole = open_tiff_stack(source.path, channel=at.get("c"), time=at.get("t"))
    return whole if source.window is None else whole.cropped(source.window)


@dataclass(slots=True, kw_only=True)
class BlockWork:
    """A block that is ready to be computed.

    outs : what each step is asked for; products : what is stored
    regions : the arrays read, in host memory
    device : on which its steps run
    """

    unit: int
    outs: Sequence[Box]
    products: Sequence[str]
    regions: dict[str, Region]
    device: str


def _read_block(job: Job, unit: int) -> BlockWork:
    products = [name for step in job.steps for name in step.produces if name in job.writes]
    core = job.grid.core_of(unit)
    outs, wanted = boxes_of_chain(job.steps, core, Box.of_shape(job.grid.shape), products)
    without = spared(job.steps, partial(_values, job, unit), unit)
    regions = {name: _read(job, name, box) for name, box in wanted.items() if name not in without}
    return BlockWork(unit=unit, outs=outs, products=products, regions=regions, device=_device_of(job))


def _compute(job: Job, work: BlockWork) -> tuple[dict[str, Any], Record]:
    """Arrays over the core, in host memory, and the record of one block. Takes the regions out of `work`."""
    core = job.grid.core_of(work.unit)
    regions = {name: Region(r.box, to_device(r.data, work.device)) for name, r in work.regions.items()}
    work.regions.clear()
    values, records = _values(job, work.unit), _records(job)
    record: Record = {}
    for step, out in zip(job.steps, work.outs, strict=True):
        view = View(
            block=work.unit,
            core=core,
            grid=job.grid,
            regions=regions,
            values=values,
            records=records,
            device=work.device,
        )
        output = step.run(view, out)
        regions |= {name: Region(out, data) for name, data in output.arrays.items()}
        record = _with(record, output.record, job)
    return {name: to_host(regions[name].cut(core)) for name in work.products}, record


def _with(record: Record, more: Record, job: Job) -> Record:
    """One record of what two steps of a pass leave."""
    twice = record.keys() & more.keys()
    if twice:
        raise IntegrityError(f"two steps of pass {job.name} record {sorted(twice)}", "Rename one of them")
    return {**record, **more}


def _read(job: Job, name: str, box: Box) -> Region:
    volume = _open_to_read(job.reads[name], job.epoch)
    inside = box.clip(volume.box)
    data = volume.read(inside)
    called = _called(name)
    if called and data.dtype.kind == "f":
        data = _finite(data, inside, job.nan, called)
    return Region(inside, data)


def _called(name: str) -> str:
    """What people know an image of the user's as, "" for masks and regions, and for what passes made."""
    array, _, channel = name.partition(":")
    known = {"input": "the input", "input_image": "the image that measure looks at"}.get(array, "")
    return f"channel {channel} of {known}" if known and channel else known


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
