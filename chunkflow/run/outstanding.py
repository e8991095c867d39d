"""Which passes have to run, and what of them: looks at plan, journal and files, and changes nothing.

a pass is to run    where it never finished, where units of it were lost, where they are of a kind that is not
                    accepted now (holes, another kind of compute), where arrays of it that were deleted are needed
... all of it       where what it read was not what it will be: it stands behind a pass whose holes are filled or
                    whose units are computed on another kind; or it read an array of which units were lost, and no
                    audit says that they were there when it did
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from chunkflow.geometry.box import Box
from chunkflow.geometry.grid import Grid
from chunkflow.plan.passes import Pass
from chunkflow.plan.plan import Plan
from chunkflow.run.digests import Trust, unit_is_intact
from chunkflow.run.intact import Files
from chunkflow.run.journal import Journal, PassState
from chunkflow.run.places import Places, run_folder
from chunkflow.storage.layout import ArrayLayout, objects_of
from chunkflow.storage.stores import Place, listed_once


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What a run takes over from earlier ones.

    kind : of compute; mixed : units of other kinds too
    holes : blocks that were set aside and stand as background
    doubt : units of the session of this number, and of later ones, are compared byte by byte
    """

    kind: str
    mixed: bool = False
    holes: bool = False
    doubt: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What a pass left on disk, as the journal and a plan say.

    arrays : folder and layout of each that it writes, in their order
    """

    state: PassState
    records: Place
    grid: Grid
    arrays: Mapping[str, tuple[Place, ArrayLayout]]
    is_merge: bool

    def is_intact(self, unit: int, trust: Trust) -> bool:
        """Whether the record and the files of a unit that is done are as they were. Dropped arrays are let be."""
        if unit not in range(1 if self.is_merge else len(self.grid)):
            return False
        files = None if self.is_merge else self._files(self.grid.core_of(unit))
        return unit_is_intact(self.state.done[unit], self.records, unit, files, trust)

    def _files(self, core: Box) -> list[Files]:
        dropped = self.state.dropped
        return [
            Files(None if name in dropped else folder, objects_of(layout, core))
            for name, (folder, layout) in self.arrays.items()
        ]


@dataclass(frozen=True, slots=True)
class Outstanding:
    """A pass that has to run.

    lost : units that were done and whose files are not as they were
    refused : units that were done, and are holes or of another kind, which this run does not accept
    starts_over : whether none of its units stands
    """

    what: Pass
    lost: tuple[int, ...]
    refused: tuple[int, ...]
    starts_over: bool


def outstanding(plan: Plan, places: Places, journal: Journal, accepted: Accepted) -> list[Outstanding]:
    """Passes to run, in order. Goes backwards in the end: whoever runs may need arrays that were deleted since."""
    lost = {p.name: lost_units(plan, places, journal, p, accepted.doubt) for p in plan.passes}
    refused = {p.name: _refused_units(places, journal, p, accepted) for p in plan.passes}
    stale = _stale(plan, places, journal, lost, refused)
    found: list[Outstanding] = []
    wanted: set[str] = {a.name for a in plan.arrays.values() if a.kept}
    for p in reversed(plan.passes):
        state = journal.state(places.fingerprints[p.name])
        dropped = bool(state.dropped & wanted & {spec.name for spec in p.draft.writes})
        starts_over = p.name in stale or dropped
        is_whole = state.finished and len(state.done) == p.units
        if starts_over or lost[p.name] or refused[p.name] or not is_whole:
            found.append(Outstanding(p, lost[p.name], refused[p.name], starts_over))
            wanted |= set(p.reads)
    return found[::-1]


def reusable(plan: Plan, kind: str) -> tuple[str, ...]:
    """Names of the passes that a run on this kind of compute would take from the output as they are; looks only."""
    path = run_folder(plan.output) / "journal.jsonl"
    if not path.exists():
        return ()
    journal = Journal.read(path)
    accepted = Accepted(kind=kind, doubt=journal.unclean_session)
    with listed_once(plan.output):
        tasks = outstanding(plan, Places(plan, plan.fingerprints(kind)), journal, accepted)
    needed = {task.what.name for task in tasks}
    return tuple(p.name for p in plan.passes if p.name not in needed)


def forget(places: Places, journal: Journal, tasks: Sequence[Outstanding]) -> None:
    """Journal what is to be computed again. Readers go first: a kill in between must not leave them done."""
    for task in reversed(tasks):
        if task.starts_over:
            journal.append("reset", **{"pass": places.fingerprints[task.what.name]})
    for task in tasks:
        for unit in () if task.starts_over else (*task.lost, *task.refused):
            journal.append("lost", **{"pass": places.fingerprints[task.what.name], "unit": unit})


def lost_units(plan: Plan, places: Places, journal: Journal, p: Pass, doubt: int | None = None) -> tuple[int, ...]:
    """Units of a pass that are done and whose files are not as the journal says."""
    left = Left(
        state=journal.state(places.fingerprints[p.name]),
        records=places.records(p.name),
        grid=p.draft.grid,
        arrays={s.name: (places.locate(s.name, journal.locations), plan.arrays[s.name].layout) for s in p.draft.writes},
        is_merge=p.draft.merge is not None,
    )
    trust = replace(journal.trust, doubt=doubt)
    return tuple(u for u in left.state.done if not left.is_intact(u, trust))


def _refused_units(places: Places, journal: Journal, p: Pass, accepted: Accepted) -> tuple[int, ...]:
    state = journal.state(places.fingerprints[p.name])
    holes = set() if accepted.holes else set(state.holes)
    others = set() if accepted.mixed else {unit for unit, done in state.done.items() if done["kind"] != accepted.kind}
    return tuple(sorted(holes | others))


def _stale(
    plan: Plan,
    places: Places,
    journal: Journal,
    lost: dict[str, tuple[int, ...]],
    refused: dict[str, tuple[int, ...]],
) -> set[str]:
    """Passes that read what will be otherwise."""
    audited = set(journal.published_passes.values())
    found: set[str] = set()
    for p in plan.passes:
        read_from = {plan.arrays[name].producer for name in p.reads if name in plan.arrays}
        # A record that is gone is an error to whoever reads it; a file of an array, or a part of a merge, is nothing.
        parts_from = {name for name in p.draft.needs if plan.pass_named(name).draft.merge is not None}
        changed = any(name in found or refused[name] for name in read_from | set(p.draft.needs))
        is_audited = places.fingerprints[p.name] in audited
        misread = not is_audited and any(lost[name] for name in read_from | parts_from)
        if changed or misread:
            found.add(p.name)
    return found
