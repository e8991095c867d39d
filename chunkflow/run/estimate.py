"""From the units of a sample's run to the time, the bytes and the disk of the whole run.

    seconds of a unit  =  a  +  b * voxels that it reads (halo too)  +  s, where it is its worker's first in the pass

a, b and s are fitted to the units of each pass (least squares, none negative), so that blocks cut short by the sample's
sides tell about whole ones. A pass of n units on w workers takes their seconds over w, the last round filled up. What
a worker does at the same time (reading the next unit, writing the last) and what the driver adds is one factor: the
sample's measured time over what this would have said of it. Passes of which a few units cost most are told by what
those take, and how many they are. Merges, beyond what the quickest takes, and parts of the graph grow with the volume;
levels of a pyramid or a tree that the sample does not have follow from the level below.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil, prod, sqrt
from typing import Any

import numpy as np
from scipy.optimize import nnls

from chunkflow.plan.disk import disk_of
from chunkflow.plan.passes import Pass
from chunkflow.plan.plan import Plan
from chunkflow.run.engine import ClusterOptions, workers_for
from chunkflow.stages.base import Uneven
from chunkflow.stages.graph import PARTS

LEAST_RANGE = 0.15
"""Of the estimate, on either side: what a quiet machine varies by."""
MOST_RANGE = 0.6
FIRST_UNITS = 2
"""Of a worker in a pass, which load what the others find loaded: one computes, the next is read."""
TIE = 0.03
"""Weight of the preference for voxels where a fit is undecided; its square is what it costs where it is not."""
TREE_SHARE = 0.5
"""Of a level's time that the level above takes: an eighth of the joints, each with four times the surface."""
SMALLEST_PASS = 0.05
"""Seconds below which a pass tells nothing of how workers keep busy."""

Units = Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The run of the samples.

    plan : on the samples; units : lines of the journal, by pass and unit
    walls : seconds of each pass, without those until its first unit could begin
    seconds : of all of it; places : how many were sampled, side by side along z
    """

    plan: Plan
    units: Mapping[str, Units]
    walls: Mapping[str, float]
    seconds: float
    places: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run will take.

    seconds : low, expected, high, of the wall clock; merge_seconds : of it, in merges, where one worker is busy
    gpu_hours : of all workers, expected; None on a CPU
    read_bytes, written_bytes : of files, compressed; read_files, written_files : opened (requests, of an object store)
    kept_bytes, peak_bytes : of disk, compressed; the peak with temporary arrays deleted after their last reader
    workers : that it holds for; units : all of them
    passes : expected seconds of each
    sampled_share : of the volume; probe_seconds : what that took
    notes : what is not in it
    """

    seconds: tuple[float, float, float]
    merge_seconds: float
    gpu_hours: float | None
    read_bytes: int
    written_bytes: int
    read_files: int
    written_files: int
    kept_bytes: int
    peak_bytes: int
    workers: int
    units: int
    passes: Mapping[str, float]
    sampled_share: float
    probe_seconds: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(slots=True)
class _Fit:
    """Seconds of the units of a pass: a + b * voxels + s of a worker's first."""

    unit: float = 0.0
    voxel: float = 0.0
    first: float = 0.0
    few: float = 0.0
    """More than that, of each of the few that cost most (`stages.base.Uneven`)."""
    busy: list[float] = field(default_factory=list)

    def total(self, p: Pass) -> float:
        return self.unit * p.units + self.voxel * _all_voxels(p) + self.few * _count_few(p)


def estimated(
    plan: Plan,
    seen: Seen,
    *,
    on: str | None,
    workers: int | None,
    kind: str,
    options: ClusterOptions | None = None,
    notes: Sequence[str] = (),
) -> Estimate:
    """The estimate for a plan. Parameters as for `run.probe.probe`; `kind` of the device, "cpu" or "gpu"."""
    count = workers_for(plan, kind, on=on, workers=workers, options=options)
    small = workers_for(seen.plan, kind, on=on, workers=workers, options=options)
    growth = prod(plan.shape) / prod(seen.plan.shape)
    fits = {p.name: _fitted(p, seen.units.get(p.name, {})) for p in seen.plan.passes}
    known = {p.name: p for p in seen.plan.passes}
    factor = _factor(seen, fits, small)
    merging = [p.name for p in seen.plan.passes if p.draft.merge is not None and seen.units.get(p.name)]
    quickest = min((fits[name].unit for name in merging), default=0.0)
    passes: dict[str, float] = {}
    for p in plan.passes:
        if p.name in known:
            passes[p.name] = _wall(p, fits[p.name], growth, count, quickest) * factor
        else:
            passes[p.name] = _from_below(p, plan, passes)
    merges = sum(passes[p.name] for p in plan.passes if p.draft.merge is not None)
    around = max(0.0, seen.seconds - sum(seen.walls.values()))  # start of workers, audit, publishing
    total = float(sum(passes.values())) + around
    spread = _spread(seen)
    ratios, present, records = _sizes(seen)
    sizes = {name: ratios.get(name.partition("@")[0], 1.0) * array.nbytes for name, array in plan.arrays.items()}
    disk = disk_of(plan.passes, plan.arrays, sizes)
    traffic = [plan.traffic(p) for p in plan.passes]
    known_ratio = {**ratios, "input": _input_ratio(plan)}
    read = sum(n * known_ratio.get(name.partition("@")[0], 1.0) for t in traffic for name, n in t.read_of.items())
    units = sum(p.units for p in plan.passes)
    return Estimate(
        seconds=(total * (1 - spread), total, total * (1 + spread)),
        merge_seconds=merges,
        gpu_hours=total * count / 3600 if kind == "gpu" else None,
        read_bytes=int(read),
        written_bytes=int(sum(sizes.values()) + records * growth),
        read_files=int(sum(t.read_files for t in traffic) * present),
        written_files=int(sum(t.written_files for t in traffic) * present) + units,
        kept_bytes=int(disk.kept + records * growth),
        peak_bytes=int(disk.peak + records * growth),
        workers=count,
        units=units,
        passes=passes,
        sampled_share=min(1.0, 1 / growth),
        probe_seconds=seen.seconds,
        notes=tuple(notes),
    )


def _seconds(line: Mapping[str, Any]) -> float:
    return float(sum(line.get("spent", ())))


def _voxels(p: Pass, unit: int) -> int:
    """Voxels that a unit looks at."""
    return p.draft.grid.read_of(unit, p.halo).size


def _all_voxels(p: Pass) -> float:
    return prod(p.draft.grid.shape) * p.draft.grid.read_amplification(p.halo)


def _fitted(p: Pass, units: Units) -> _Fit:
    lines = [(unit, line) for unit, line in units.items()]
    if not lines:
        return _Fit()
    took = np.array([_seconds(line) for _, line in lines])
    if p.draft.merge is not None or p.name == PARTS:
        return _Fit(unit=float(took.sum()), busy=[float(took.sum())])
    if few := _count_few(p):
        is_few = np.array([_comes_first(p, unit) for unit, _ in lines])
        light = float(took[~is_few].mean()) if not is_few.all() else 0.0
        return _Fit(unit=light, few=float(took[is_few].sum()) / few - light, busy=took.tolist())
    seen = Counter(line.get("worker") for _, line in lines)
    early = FIRST_UNITS if len(lines) > 3 * len(seen) else 1
    met: Counter[Any] = Counter()
    first = np.zeros(len(lines))
    for row, (_, line) in enumerate(lines):
        first[row] = met[line.get("worker")] < early
        met[line.get("worker")] += 1
    voxels = np.array([_voxels(p, unit) for unit, _ in lines], np.float64)
    scale = voxels.max()
    columns = np.stack((np.ones(len(lines)), voxels / scale, first), axis=1)
    if first.all():
        columns[:, 2] = 0.0  # nothing tells first units from others
    # Where units are all alike, nothing tells what a unit takes from what its voxels take: it is the voxels then.
    rather_not = TIE * sqrt(len(lines)) * np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    a, b, s = nnls(np.concatenate((columns, rather_not)), np.concatenate((took, np.zeros(2))))[0].tolist()
    return _Fit(unit=a, voxel=b / scale, first=s, busy=took.tolist())


def _comes_first(p: Pass, unit: int) -> bool:
    return any(isinstance(step, Uneven) and step.comes_first(p.draft.grid.core_of(unit)) for step in p.draft.steps)


def _count_few(p: Pass) -> int:
    """How many units of a pass cost far more than the others."""
    return sum(step.count_first() for step in p.draft.steps if isinstance(step, Uneven))


def _wall(p: Pass, fit: _Fit, growth: float, workers: int, quickest: float = 0.0) -> float:
    """Seconds of a pass of the whole run, or of the samples' (growth 1).

    quickest : seconds that a merge of nothing takes
    """
    if p.draft.merge is not None:
        return quickest + max(0.0, fit.unit - quickest) * growth
    if p.name == PARTS:
        return fit.unit * growth / min(workers, p.units)
    total = fit.total(p)
    if few := _count_few(p):  # these go out first, the others fill the gaps
        return max(total / workers, fit.few * ceil(few / workers))
    rounds = ceil(p.units / workers) * workers / p.units
    return total / workers * rounds + fit.first


def _factor(seen: Seen, fits: Mapping[str, _Fit], workers: int) -> float:
    """Measured seconds of the samples' passes over what is said of them."""
    measured = said = 0.0
    for p in seen.plan.passes:
        wall = seen.walls.get(p.name, 0.0)
        if p.draft.merge is not None or p.units < workers or wall < SMALLEST_PASS:
            continue
        measured += wall
        # The longest unit bounds a pass of few and unequal ones, which a whole run does not have.
        said += max(_wall(p, fits[p.name], 1.0, workers), max(fits[p.name].busy, default=0.0))
    return min(1.5, max(0.5, measured / said)) if said > 0 else 1.0


def _from_below(p: Pass, plan: Plan, passes: Mapping[str, float]) -> float:
    """Seconds of a level that the samples do not have."""
    if found := re.fullmatch(r"residual-(\d+)", p.name):
        return TREE_SHARE * passes.get(f"residual-{int(found[1]) - 1}", 0.0)
    if found := re.fullmatch(r"(pyramid-.+)@(\d+)", p.name):
        below = f"{found[1]}@{int(found[2]) - 1}"
        if below in passes:
            shrunk = prod(p.draft.grid.shape) / prod(plan.pass_named(below).draft.grid.shape)
            return passes[below] * shrunk
    # A first level, of samples too small for one: as fast per byte as all that was seen.
    moved = sum(plan.traffic(plan.pass_named(name)).moved_bytes for name in passes)
    return sum(passes.values()) * plan.traffic(p).moved_bytes / moved if moved else 0.0


def _spread(seen: Seen) -> float:
    """Half the width of the range, relative: two standard errors of the rates of the places."""
    seconds, voxels = np.zeros(seen.places), np.zeros(seen.places)
    for p in seen.plan.passes:
        if p.draft.merge is not None or p.name == PARTS or not p.holds_voxels:
            continue
        grid = p.draft.grid
        if grid.core[0] * seen.places > grid.shape[0]:
            continue  # pencils along z go through all places
        for unit, line in seen.units.get(p.name, {}).items():
            core = grid.core_of(unit)
            middle = (core.start[0] + core.stop[0]) / 2 / grid.shape[0]
            place = min(seen.places - 1, int(middle * seen.places))
            seconds[place] += _seconds(line)
            voxels[place] += core.size
    if seen.places < 2 or not voxels.all():
        return LEAST_RANGE
    rates = seconds / voxels
    error = float(rates.std(ddof=1) / sqrt(seen.places) / rates.mean()) if rates.mean() > 0 else 0.0
    return float(min(MOST_RANGE, max(LEAST_RANGE, 2 * error)))


def _sizes(seen: Seen) -> tuple[dict[str, float], float, float]:
    """Bytes on disk per byte by array, the share of files that are there at all, and bytes of records."""
    ratios: dict[str, float] = {}
    files = present = records = 0
    for p in seen.plan.passes:
        lines = seen.units.get(p.name, {})
        records += sum(int(line["record"]) for line in lines.values())
        if p.draft.merge is not None:
            records += sum(sum(line["objects"][1:]) for line in lines.values())
            continue
        stored = [sum(line["objects"]) for line in lines.values()]
        files += sum(len(line["objects"]) for line in lines.values())
        present += sum(sum(1 for size in line["objects"] if size) for line in lines.values())
        plain = sum(seen.plan.arrays[spec.name].nbytes for spec in p.draft.writes)
        for spec in p.draft.writes:
            if "@" not in spec.name and plain:
                ratios[spec.name] = sum(stored) / plain
    return ratios, present / files if files else 1.0, float(records)


def _input_ratio(plan: Plan) -> float:
    """Bytes on disk per byte of the input; channels and time points share what is stored."""
    plain = prod(plan.input.array.shape) * plan.input.dtype.itemsize
    stored = plan.input_identity.get("image", {}).get("bytes", plain)
    return min(1.0, stored / plain) if plain else 1.0
