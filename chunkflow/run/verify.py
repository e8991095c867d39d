"""A finished run looked at again: sampled blocks are computed once more, on another grid, and compared bit for bit.

    |---- block ----|---- block ----|
             |-- cut --|                    a block is computed with one voxel of its neighbours, in pieces that the run
    [ piece ][ piece ]                      never computed: they begin and end elsewhere, and cross the block's faces

image, probability, mask   from the input (`run/recompute.py`), bit for bit; pyramid levels from the level below
labels                     components of that mask: each has one id, all of its voxels have it, and only what the
                           filters take is missing; so also across faces (`run/verify_objects.py`)
whole objects              of those in sampled blocks that fit: one piece, their voxels, loops and cavities as in the
                           table, their skeleton voxel for voxel, from a crop of the stored labels
seams                      whether ends of branches and objects are denser near the faces of all blocks

Not checked: values of the whole volume (ranges, thresholds), which are taken from the run's records, ids as such,
lengths and intensities. Instances and `apply` are compared up to their foreground.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from time import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.analysis.seams import SeamCount
from chunkflow.backend import compute_kind, find_device
from chunkflow.errors import ChunkflowError, InputChangedError, IntegrityError, UsageError
from chunkflow.geometry.box import Box, Triple, triple
from chunkflow.geometry.grid import Grid
from chunkflow.plan.pipeline import Pipeline, numbering_of
from chunkflow.plan.plan import Plan
from chunkflow.run.events import Listener
from chunkflow.run.journal import Journal
from chunkflow.run.places import Places, run_folder, target_of
from chunkflow.run.recompute import Recomputation
from chunkflow.run.result import Result, open_result
from chunkflow.run.seam_report import seam_report
from chunkflow.run.verify_objects import (
    Difference,
    ObjectChecks,
    check_background,
    check_objects,
    check_partition,
    first_of,
)
from chunkflow.stages.instances import Instances
from chunkflow.stages.label import Label
from chunkflow.storage.files import write_atomic
from chunkflow.storage.hierarchy import zarr_kind
from chunkflow.storage.stores import Place, place_of
from chunkflow.storage.volume import Volume, open_array

BLOCKS = 12
"""Blocks that are sampled, if nobody says otherwise."""
PIXELS = ("image", "probability", "classes", "mask")
"""Arrays whose voxels follow from those around them."""
MOST_DIFFERENCES = 100
"""That are told one by one."""


@dataclass(slots=True, kw_only=True)
class Verification:
    """What was compared, and what differs.

    blocks : of the run; checked : those that were sampled
    voxels : compared bit for bit, by array
    objects, skeletons : whole ones that were looked at again
    differences : the first of them; difference_count : all
    notes : what was not compared, and why
    seams : densities near the faces of blocks
    passes : fingerprints of the result that was verified
    """

    blocks: int
    checked: list[int]
    passes: Mapping[str, str]
    voxels: dict[str, int] = field(default_factory=dict)
    objects: int = 0
    skeletons: int = 0
    differences: list[Difference] = field(default_factory=list)
    difference_count: int = 0
    notes: list[str] = field(default_factory=list)
    seams: list[SeamCount] = field(default_factory=list)
    at: float = field(default_factory=time)

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return self.difference_count == 0

    def sentence(self) -> str:
        """What is said of it in one line."""
        found = "equal" if self.is_equal else f"{self.difference_count} differences"
        return f"verified: {len(self.checked)} of {self.blocks} blocks recomputed on another grid: {found}"

    def add(self, differences: Sequence[Difference]) -> None:
        """Take in what differs."""
        self.difference_count += len(differences)
        self.differences += differences[: MOST_DIFFERENCES - len(self.differences)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: what run/verify.json holds and `verify --json` prints."""
        seams = [
            asdict(row) | {"ratio": row.ratio, "p_value": row.p_value, "is_suspicious": row.is_suspicious}
            for row in self.seams
        ]
        plain = {name: getattr(self, name) for name in ("blocks", "checked", "voxels", "objects", "skeletons", "notes")}
        differences = [asdict(difference) for difference in self.differences]
        return {
            "sentence": self.sentence(),
            "is_equal": self.is_equal,
            **plain,
            "difference_count": self.difference_count,
            "differences": differences,
            "seams": seams,
            "at": self.at,
            "passes": dict(self.passes),
        }


def verify(
    output: str | Path,
    *,
    blocks: int | None = BLOCKS,
    source: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    on_event: Listener | None = None,
) -> Verification:
    """Compute sampled blocks of a finished run again and compare; writes run/verify.json, and no voxel.

    Parameters
    ----------
    blocks : how many, half of them with objects where there are; None for all.
    source : the input, where it is no longer where it was.
    device : "auto", "gpu" or "cpu"; bits are compared on the kind of compute that the run had.
    seed : other seeds sample other blocks.
    on_event : called with {"event": "block", "done", "blocks"} after each block.

    Raises
    ------
    InputNotFoundError, IncompleteError : there is no finished run, or no input.
    InputChangedError : the input is not the one of the run.
    UsageError : the run is of another version of chunkflow.
    """
    if blocks is not None and blocks < 1:
        raise UsageError(f"{blocks} blocks verify nothing", "Use 1 or more, or --all")
    result = open_result(output)
    verifier = _Verifier.of(result, source, device)
    grid = Grid(verifier.plan.shape, verifier.plan.block)
    chosen = verifier.sampled(grid, blocks, seed)
    found = Verification(blocks=len(grid), checked=chosen, passes=verifier.published)
    found.notes += verifier.notes()
    for done, block in enumerate(chosen, start=1):
        verifier.check(grid, block, found, np.random.default_rng((seed, block)))
        if on_event is not None:
            on_event({"event": "block", "block": block, "done": done, "blocks": len(chosen)})
    found.seams = seam_report(result, verifier.plan)
    write_atomic(run_folder(result.path) / "verify.json", json.dumps(found.to_dict(), indent=1).encode())
    return found


@dataclass(slots=True)
class _Verifier:
    plan: Plan
    result: Result
    journal: Journal
    places: Places
    again: Recomputation
    same_kind: bool
    kind: str
    looked_at: set[int] = field(default_factory=set)  # whole objects

    @classmethod
    def of(cls, result: Result, source: str | Path | None, device: str) -> _Verifier:
        run = run_folder(result.path)
        stored = json.loads((run / "plan.json").read_text(encoding="utf-8"))
        journal = Journal.read(run / "journal.jsonl")
        plan = _planned_again(stored, result.path, source)
        kind = stored["kind"]
        fingerprints = plan.fingerprints(kind)
        changed = [name for name, known in journal.published_passes.items() if fingerprints.get(name) != known]
        if changed:
            _refuse(plan, run, changed)
        places = Places(plan, fingerprints)
        here = find_device("cpu" if str(kind).startswith("cpu") else device)
        again = Recomputation(plan, places, device=here.kind)
        return cls(plan, result, journal, places, again, compute_kind(here) == kind, kind)

    @property
    def published(self) -> Mapping[str, str]:
        return self.journal.published_passes

    @property
    def kept(self) -> dict[str, Volume]:
        """Arrays of the result, all levels, by name."""
        names = [name for name, array in self.plan.arrays.items() if array.kept]
        return {name: open_array(self.plan.output / target_of(name), self.plan.scale) for name in names}

    def notes(self) -> list[str]:
        """What cannot be compared."""
        found = []
        if not self.same_kind:
            found.append(
                f"the run was computed on {self.kind}, which this is not: voxels are not compared bit for bit, objects "
                "are compared with the foreground that is stored"
            )
        if self._is_other:
            found.append("objects of instances and apply are compared with their foreground alone")
        return found

    @property
    def _is_other(self) -> bool:
        """Whether objects are not components of the foreground."""
        return bool({"instances", "apply"} & set(numbering_of(self.plan.pipeline.stages)))

    def sampled(self, grid: Grid, count: int | None, seed: int) -> list[int]:
        """Blocks to check, increasing: half of them among those that hold objects."""
        if count is None or count >= len(grid):
            return list(range(len(grid)))
        rng = np.random.default_rng(seed)
        done = self.journal.state(self.published.get("relabel", "")).done
        full = np.array([unit for unit, line in sorted(done.items()) if any(line["objects"])], np.int64)
        picked = set(rng.permutation(full)[: count // 2].tolist())
        while len(picked) < count:
            picked.add(int(rng.integers(len(grid))))
        return sorted(picked)

    def check(self, grid: Grid, block: int, found: Verification, rng: np.random.Generator) -> None:
        """One block: its voxels, its objects, its levels."""
        core = grid.core_of(block)
        window = core.grow((1, 1, 1)).clip(Box.of_shape(grid.shape))
        kept = self.kept
        try:
            if self.same_kind:
                for name in (n for n in PIXELS if n in kept):
                    found.add(self._voxels(name, kept[name], window, found))
                for name in (n for n in kept if "@" in n):
                    found.add(self._level(name, kept, core, found))
            if "labels" in kept:
                self._labels(kept, window, found, rng)
        except IntegrityError as error:  # a file that cannot be read
            found.add([Difference(what="files", at=core.start, count=core.size, text=str(error))])
        self.again.forget_tiles()

    def _voxels(self, name: str, volume: Volume, window: Box, found: Verification) -> list[Difference]:
        differences = []
        for piece in pieces_of(window):
            ours, stored = self.again.array(name, piece), volume.read(piece)
            differences += _unlike(name, ours, stored, piece)
            found.voxels[name] = found.voxels.get(name, 0) + piece.size
        return differences

    def _level(self, name: str, kept: Mapping[str, Volume], core: Box, found: Verification) -> list[Difference]:
        """The part of a pyramid level over a block, from the level below as it is stored."""
        shape = kept[name].shape
        factors = [-(-n // m) for n, m in zip(self.plan.shape, shape, strict=True)]
        start = triple(tuple(min(a // f, n - 1) for a, f, n in zip(core.start, factors, shape, strict=True)))
        stop = triple(tuple(min(-(-b // f), n) for b, f, n in zip(core.stop, factors, shape, strict=True)))
        box = Box(start, stop)
        below = Recomputation(self.plan, self.places, {n: v for n, v in kept.items() if n != name})
        found.voxels[name] = found.voxels.get(name, 0) + box.size
        return _unlike(name, below.array(name, box), kept[name].read(box), box)

    def _labels(self, kept: Mapping[str, Volume], window: Box, found: Verification, rng: np.random.Generator) -> None:
        labels = kept["labels"].read(window)
        kind = self.plan.pipeline.input.kind
        foreground = self._foreground(window, labels)
        stages = self.plan.pipeline.stages
        label = next((s for s in stages if isinstance(s, Label)), Label())
        names = next((s.holes for s in stages if isinstance(s, Instances)), label)
        largest_hole = names.largest_hole(self.plan.scale.voxel_um)
        differences = check_background(foreground, labels, window, self.plan.shape, largest_hole=largest_hole)
        if not self._is_other:
            differences += check_partition(
                foreground,
                labels,
                window,
                self.plan.shape,
                connectivity=26 if kind == "labels" else label.connectivity,
                least=label.smallest(self.plan.scale.voxel_um),
                clear_border=label.clear_border,
                keeps_ids=kind == "labels",
                fills=largest_hole != 0,
            )
        found.voxels["labels"] = found.voxels.get("labels", 0) + window.size
        found.add(differences)
        checks = check_objects(
            self.result, self.plan, kept, window, rng, components=not self._is_other, looked_at=self.looked_at
        )
        self._count(checks, found)

    def _count(self, checks: ObjectChecks, found: Verification) -> None:
        found.objects += checks.objects
        found.skeletons += checks.skeletons
        found.add(checks.differences)
        found.notes += [note for note in checks.notes if note not in found.notes]

    def _foreground(self, window: Box, labels: NDArray[Any]) -> NDArray[Any]:
        """What objects are made of: a mask, or labels that came in."""
        if not self.same_kind or (self._is_other and "mask" not in _made(self.plan)):
            return np.asarray(labels != 0, np.uint8)
        name = "labelled" if self.plan.pipeline.input.kind == "labels" else "mask"
        parts = {piece: self.again.array(name, piece) for piece in pieces_of(window)}
        whole: NDArray[Any] = np.zeros(window.shape, next(iter(parts.values())).dtype)
        for piece, data in parts.items():
            whole[piece.relative_to(window.start).slices] = data
        return whole


def _made(plan: Plan) -> set[str]:
    return {name for p in plan.passes for step in p.draft.steps for name in step.produces}


def _planned_again(stored: Mapping[str, Any], output: Place, source: str | Path | None) -> Plan:
    """The plan of a run, from what it stored."""
    named = stored["pipeline"]["input"].get("path")
    if source is None and named and Path(named).is_file():
        source = named  # a file that was imported for the run
    if source is None:
        array = place_of(stored["plan"]["input"]["path"])
        above: Sequence[Place] = array.parents
        source = str(next((folder for folder in above if zarr_kind(folder) == "group"), array))
    pipeline = Pipeline.from_dict(stored["pipeline"])
    return pipeline.plan(source, str(output), block=triple(stored["plan"]["block"]), memory=2**62)


def _refuse(plan: Plan, run: Place, changed: Sequence[str]) -> None:
    before = json.loads((run / "input.json").read_text(encoding="utf-8"))
    if before != json.loads(json.dumps(plan.input_identity)):
        raise InputChangedError(
            f"the input is not the one {plan.output} was made from", "Restore it, or name it with --input"
        )
    raise UsageError(
        f"{plan.output} was made by another version of chunkflow, or what its pipeline names has changed "
        f"(pass {changed[0]} is another)",
        "Verify it with that version, or run the same command again",
    )


def pieces_of(window: Box) -> Iterator[Box]:
    """A box cut once along every axis, off its middle, so that the pieces are no blocks."""
    cuts = []
    for start, stop in zip(window.start, window.stop, strict=True):
        middle = start + (stop - start) * 3 // 7 + 1
        cuts.append([(start, middle), (middle, stop)] if stop - start > 16 else [(start, stop)])
    for z in cuts[0]:
        for y in cuts[1]:
            for x in cuts[2]:
                yield Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))


def _unlike(name: str, ours: NDArray[Any], stored: NDArray[Any], box: Box) -> list[Difference]:
    """Where two arrays over a box are not the same, bit for bit."""
    if ours.dtype != stored.dtype:
        text = f"{name} is stored as {stored.dtype}, and is {ours.dtype}"
        return [Difference(what=name, at=box.start, count=box.size, text=text)]
    unlike = ours != stored
    if stored.dtype.kind == "f":
        unlike &= ~(np.isnan(ours) & np.isnan(stored))
    count = int(unlike.sum())
    if not count:
        return []
    at = first_of(unlike, box)
    place: Triple = triple(tuple(a - b for a, b in zip(at, box.start, strict=True)))
    text = f"{name}: {count} of the {prod(box.shape)} voxels of {box} differ, the first at z, y, x = {at}: "
    return [Difference(what=name, at=at, count=count, text=f"{text}{stored[place]} is stored, {ours[place]} computed")]


def raise_if_different(found: Verification) -> None:
    """Raise IntegrityError, with coordinates, where something differs."""
    if found.is_equal:
        return
    first = found.differences[0]
    raise IntegrityError(
        f"{found.difference_count} differences in {len(found.checked)} of {found.blocks} blocks; the first: "
        f"{first.text}",
        "The result was changed or damaged since it was computed: run the same command again",
    )


def stored_verification(result: Result) -> Mapping[str, Any] | None:
    """What `verify` last found of this very result; None where it did not look, or the result is another now."""
    try:
        content: Mapping[str, Any] = json.loads((run_folder(result.path) / "verify.json").read_text(encoding="utf-8"))
        published = Journal.read(run_folder(result.path) / "journal.jsonl").published_passes
    except (OSError, ValueError, ChunkflowError):
        return None
    return content if content.get("passes") == published else None
