"""How the values of a result are distributed: grey values and the threshold, objects, branches, nodes.

    column of a table  -->  at most 40 bars  -->  a chart of a few kB, for 10 objects and for 10^7

A column is gone through twice, some rows at a time: for its range, and to count.

Bars are logarithmic where values span more than a factor of 50; what each stands for shows under the pointer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from html import escape

import numpy as np
from numpy.typing import NDArray

from chunkflow.report import charts
from chunkflow.report.facts import RunFacts
from chunkflow.report.html import counted, number, percent, short
from chunkflow.storage.tables import StoredTable

SHOWN = (
    ("objects", "volume_um3", "volume of an object, µm³", "objects"),
    ("branches", "length_um", "length of a branch, µm", "branches"),
    ("branches", "radius_mean_um", "mean radius of a branch, µm", "branches"),
)
"""(table, column, what it is, what is counted)."""


def threshold(run: RunFacts) -> str:
    """The histogram of the volume with the value that divides it, or the value that was given."""
    merged, stage = run.values("threshold"), run.stages.get("threshold")
    if merged is None:
        predicted = run.plan["facts"].get("network") or run.stages.get("pixels") or {}
        fixed = predicted.get("threshold") if stage is None else stage.get("value")
        return "" if fixed is None else f"<p>Foreground is what lies above {short(fixed)}, fixed by the pipeline.</p>"
    counts, edges = merged["histogram"], merged["edges"]
    value = float(merged["threshold"][0])
    method = str((stage or {}).get("method", ""))
    total = int(counts.sum())
    above = int(counts[edges[:-1] > value].sum())
    bars, bounds, hidden = charts.shortened(counts, edges, value)
    text = (
        f"<p>The threshold is {short(value, 5)} ({escape(method)}, from the histogram of the whole volume). "
        f"{percent(above / max(total, 1))} % of the {number(total)} voxels lie above it.</p>"
    )
    chart = charts.chart(
        bars, bounds, x_label="value", y_label="voxels", log_y=True, marker=value, marker_label="threshold"
    )
    note = f"<p class='caption'>{number(hidden)} brighter voxels are beyond the right end.</p>" if hidden else ""
    return text + chart + note


def tile_seams(run: RunFacts) -> str:
    """How well neighbouring tiles of a segmenter agreed."""
    seams = run.table("seams")
    if seams is None or not len(seams):
        return ""
    names = ("pairs", "merged", "ambiguous")
    sums = [rows.sum() for rows in seams.batches(*names)]
    pairs, merged, ambiguous = (sum(int(some[name]) for some in sums) for name in names)
    text = (
        f"At {counted(len(seams), 'seam')} between tiles, {number(merged)} of {counted(pairs, 'pair')} of objects that "
        f"overlap are one object, and {number(ambiguous)} are ambiguous: alike enough, but one of the two is more like "
        "another. Every seam is in <a href='tables/seams.csv'>tables/seams.csv</a>."
    )
    return f"<p>{text}</p>"


def distributions(run: RunFacts) -> str:
    """Sizes of objects, lengths and radii of branches, and how many branches meet in a node."""
    figures = []
    for table, column, label, what in SHOWN:
        rows = run.table(table)
        if rows is not None and len(rows):
            figures.append(charts.distribution(partial(values_of, rows, column), label, what=what))
    nodes = run.table("nodes")
    if nodes is not None and len(nodes):
        counted_nodes = sum((Counter(rows["degree"].tolist()) for rows in nodes.batches("degree")), Counter[int]())
        figures.append(charts.counts_of(counted_nodes, "branches that meet in a node (degree)", what="nodes"))
    return f"<div class='charts'>{''.join(figures)}</div>" if figures else ""


def values_of(table: StoredTable, column: str) -> Iterator[NDArray[np.float64]]:
    """A column, some values at a time."""
    return (rows[column].to_numpy(np.float64) for rows in table.batches(column))
