"""What was checked, in two tones: a sentence for everybody, and the numbers behind it for those who look them up.

    checked    did the skeletons keep every loop of the objects, did anything stay undecided
    expert     Betti numbers, the certificate of the skeletons, densities near faces of blocks, units that were
               computed elsewhere or again, fingerprints

Everybody reads of objects, loops and cavities. The words of topology, and what only matters to those who doubt the
engine, are in one part of the page that is closed until it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any

import pandas as pd

from chunkflow.geometry.box import triple
from chunkflow.report.facts import RunFacts
from chunkflow.report.html import counted, date, html_table, number
from chunkflow.report.verified import seam_table
from chunkflow.run.seam_report import seam_counts
from chunkflow.run.verify import stored_verification
from chunkflow.storage.tables import StoredTable

NAMED = 20
"""Objects that are named where something is wrong with them."""
COUNTED = {
    "b0": "pieces of the objects (b0)",
    "b1": "loops of the objects as they are (b1)",
    "b1_filled": "loops with closed cavities filled (b1_filled)",
    "b1_graph": "loops of the graph, its cyclomatic number (b1_graph)",
    "b2": "closed cavities (b2)",
}
"""Columns of the table of objects that count, in words."""


def checked(run: RunFacts) -> str:
    """Whether the skeleton of every object is right, in words of the objects."""
    objects, graph = run.table("objects"), run.values("graph")
    if "label-merge" not in run.stored["fingerprints"]:
        return ""
    if objects is None:
        return "<p>This pipeline measures no objects, so there is nothing to check.</p>"
    if not len(objects):
        return "<p>No objects were found, so there is nothing to check.</p>"
    if graph is None:
        return "<p>This pipeline makes no skeleton, so there is nothing to check.</p>"
    found = _looked_at(objects)
    equal = len(objects) - found.unequal.count
    open_voxels = int(graph["open_count"].sum())
    lines = [
        f"{_of_all(equal, len(objects))} the skeleton has exactly as many loops as the object itself: "
        f"{number(found.sums['b1_graph'])} in the skeletons, {number(found.sums['b1_filled'])} in the "
        f"objects. {_cuts(run)}"
        if not found.unequal.count
        else f"{_of_all(equal, len(objects))} the skeleton has as many loops as the object itself; "
        f"in {number(found.unequal.count)} it has not: {_named(found.unequal)}.",
        "No voxel of the skeleton was left undecided where a block ends."
        if open_voxels == 0
        else f"{counted(open_voxels, 'voxel')} of the skeleton could not be decided: objects thicker than "
        "distances in 32 bits can tell. Resample to larger voxels.",
    ]
    if found.wrong.count:
        lines.append(f"Do not rely on the skeleton of {_named(found.wrong)}.")
    if cavities := found.sums["b2"]:
        lines.append(f"The objects have {counted(cavities, 'closed cavity', 'closed cavities')}.")
    right = len(objects) - found.wrong.count
    headline = f"{number(right)} of {counted(len(objects), 'object')} passed the check of skeletons"
    return verdict(headline, lines, is_good=not found.wrong.count)


@dataclass(slots=True)
class _Some:
    """How many objects there are of a kind, and the first of them."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, object_ids: pd.Series[Any]) -> None:
        self.count += len(object_ids)
        self.first += object_ids[: NAMED - len(self.first)].tolist()


@dataclass(slots=True)
class _LookedAt:
    """What the table of objects says of topology.

    sums : of the columns that count; unequal, wrong : objects whose skeleton has other loops, or is not certified
    """

    sums: dict[str, int]
    unequal: _Some = field(default_factory=_Some)
    wrong: _Some = field(default_factory=_Some)


def _looked_at(objects: StoredTable) -> _LookedAt:
    names = [name for name in COUNTED if name in objects.columns]
    found = _LookedAt(dict.fromkeys(names, 0))
    for rows in objects.batches("object_id", "certified", *names):
        for name in names:
            found.sums[name] += int(rows[name].sum())
        found.unequal.add(rows["object_id"][rows["b1_graph"] != rows["b1_filled"]])
        found.wrong.add(rows["object_id"][~rows["certified"].astype(bool)])
    return found


def _cuts(run: RunFacts) -> str:
    if any(run.state(p["name"]).holes for p in run.plan["passes"]):
        return "Blocks that were set aside cut the objects that reach into them."
    return "Nothing was cut, closed or joined by working in blocks."


def verdict(headline: str, lines: list[str], *, is_good: bool) -> str:
    """A box in green or red; all of it is HTML."""
    text = "".join(f"<p>{line}</p>" for line in lines)
    return f"<div class='verdict {'good' if is_good else 'bad'}'><p><b>{headline}</b></p>{text}</div>"


def expert(run: RunFacts) -> str:
    """The part that is closed: certificate, seams, where units were computed, fingerprints."""
    parts = [_certificate(run), _seams(run), _computed(run), _fingerprints(run)]
    return (
        "<details id='expert'><summary>For experts</summary>"
        "<p>Betti numbers b0, b1 and b2 count the pieces, loops and closed cavities of an object.</p>"
        f"{''.join(parts)}</details>"
    )


def _certificate(run: RunFacts) -> str:
    """The sums that the sentence for everybody stands on."""
    objects, graph = run.table("objects"), run.values("graph")
    if objects is None or not len(objects):
        return ""
    found = _looked_at(objects)
    rows = [[escape(words), number(found.sums[name])] for name, words in COUNTED.items() if name in found.sums]
    if graph is not None:
        rows += [
            ["objects with b1_graph ≠ b1_filled", number(found.unequal.count)],
            ["skeleton voxels left open", number(int(graph["open_count"].sum()))],
            ["objects certified", f"{number(len(objects) - found.wrong.count)} of {number(len(objects))}"],
        ]
    return (
        "<h2>Certificate</h2><p>An object is certified when no voxel of its skeleton stayed open and the cyclomatic "
        "number of its graph equals b1 of the object with its cavities filled, which is known from the Euler "
        f"characteristic without any skeleton.</p>{html_table((), rows, texts={0}, kind='facts')}"
    )


def _seams(run: RunFacts) -> str:
    """Densities near faces of blocks: those that `verify` kept, or counted now."""
    stored = stored_verification(run.result)
    rows = _counted_now(run) if stored is None else stored["seams"]
    return f"<h2>Seams of blocks</h2>{seam_table(rows)}" if rows else ""


def _counted_now(run: RunFacts) -> list[dict[str, Any]]:
    """As `verify` keeps them."""
    if run.scale is None or not run.is_complete:
        return []
    shape, core = triple(run.plan["output"]["shape"]), triple(run.plan["block"])
    names = ("what", "near", "total", "share", "ratio", "p_value", "is_suspicious")
    found = seam_counts(run.result, run.stored["fingerprints"], shape, core, run.scale)
    return [{name: getattr(row, name) for name in names} for row in found]


def _computed(run: RunFacts) -> str:
    """Runs in this folder, kinds of compute, and blocks that stand as background: what a number may be tainted by."""
    states = {p["name"]: run.state(p["name"]) for p in run.plan["passes"]}
    kinds = sorted({kind for state in states.values() for kind in state.kinds})
    holes = {name: state.holes for name, state in states.items() if state.holes}
    rows = [
        [f"run {k}", escape(f"{date(float(start['time']))}, {start.get('host', '')}: {start.get('kind', '')}")]
        for k, start in enumerate(run.journal.starts, 1)
    ]
    rows += [["kinds of compute in this result", escape("; and ".join(kinds))]]
    rows += [
        [f"tainted by background in {escape(name)}", counted(len(units), "block")] for name, units in holes.items()
    ]
    return f"<h2>Where it was computed</h2>{html_table((), rows, texts={0, 1}, kind='facts')}"


def _fingerprints(run: RunFacts) -> str:
    rows = [
        [escape(name), f"<code>{escape(str(value)[:16])}</code>"] for name, value in run.stored["fingerprints"].items()
    ]
    return (
        "<h2>Fingerprints</h2><p>Of each pass, of everything that decides its bits: the first 16 digits of a SHA-256. "
        "Two runs with the same one have the same bytes.</p>" + html_table((), rows, texts={0, 1}, kind="facts")
    )


def _of_all(count: int, total: int) -> str:
    if count == total:
        return {1: "In the one object", 2: "In both objects"}.get(total, f"In all {number(total)} objects")
    return f"In {number(count)} of {number(total)} objects"


def _named(objects: _Some) -> str:
    ids = ", ".join(map(str, objects.first))
    more = f" and {number(objects.count - NAMED)} more" if objects.count > NAMED else ""
    return f"{'object' if objects.count == 1 else 'objects'} {ids}{more}"
