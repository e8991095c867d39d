"""The report of a finished run: one HTML file that a browser opens anywhere, without scripts or network.

    facts.py  -->  report.py       warnings, certificate, truth, charts, tables  -->  report.html
    what the       restoration.py  light corrected, blur taken out                    all of it, or one error
    run left       slices.py       pictures of three planes
                   provenance.py   what ran, and how to go on

Text, tables and charts come from the plan, the journal, the records and the tables of the run; the pictures from three
planes of the arrays. What a pipeline did not make is left out with a sentence. The tables and the graph's curves are
held in memory, as the merges of the run held them; voxels never are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
import pandas as pd

from chunkflow.errors import ChunkflowError, IntegrityError
from chunkflow.report import charts
from chunkflow.report.facts import QUANTITIES, RunFacts
from chunkflow.report.html import (
    counted,
    date,
    html_table,
    number,
    percent,
    short,
    sides,
    table_cell,
    table_heading,
)
from chunkflow.report.provenance import how_to_open, passes, reproduce, what_ran
from chunkflow.report.restoration import expansion_line, restoration
from chunkflow.report.slices import slices
from chunkflow.run.result import Result
from chunkflow.storage.files import write_atomic

ROWS = 50
"""Rows of a table that are shown."""
NAMED = 20
"""Objects that are named where something is wrong with them."""

OBJECT_COLUMNS = {
    "object_id": ("object", ""),
    "volume_um3": ("volume", "µm³"),
    "volume_vox": ("volume", "voxels"),
    "b1_filled": ("loops", ""),
    "b1_graph": ("loops of the graph", ""),
    "b2": ("cavities", ""),
    "certified": ("certified", ""),
    "touches_border": ("touches border", ""),
    "intensity_mean": ("mean intensity", ""),
    "intensity_sd": ("sd of intensity", ""),
    "centroid_z_um": ("centre z", "µm"),
    "centroid_y_um": ("centre y", "µm"),
    "centroid_x_um": ("centre x", "µm"),
}
BRANCH_COLUMNS = {
    "branch_id": ("branch", ""),
    "object_id": ("object", ""),
    "node_a": ("from node", ""),
    "node_b": ("to node", ""),
    "kind": ("kind", ""),
    "length_um": ("length", "µm"),
    "chord_um": ("end to end", "µm"),
    "tortuosity": ("tortuosity", ""),
    "radius_mean_um": ("mean radius", "µm"),
    "radius_min_um": ("least radius", "µm"),
    "radius_max_um": ("largest radius", "µm"),
}
REGION_COLUMNS = {
    "region_id": ("region", ""),
    "name": ("name", ""),
    "volume_um3": ("volume", "µm³"),
    "objects": ("objects", ""),
    "objects_crossing": ("crossing its border", ""),
    "objects_volume_um3": ("volume of objects", "µm³"),
    "length_um": ("length", "µm"),
    "radius_mean_um": ("mean radius", "µm"),
    "branches": ("branches", ""),
    "junctions": ("junctions", ""),
    "ends": ("ends", ""),
    "loops": ("loops", ""),
}


def write_report(
    result: Result,
    *,
    truth: Mapping[str, float] | None = None,
    found: Mapping[str, float] | None = None,
    tolerance: Mapping[str, float] | None = None,
) -> Path:
    """Write report.html into the folder of a result and return its path.

    Parameters
    ----------
    truth : known values, by the names in `QUANTITIES` or others.
    found : values measured outside the run, such as "dice"; the others are taken from the result.
    tolerance : largest difference between found and true that is accepted, relative to the truth; by name.

    Raises
    ------
    ChunkflowError : and no other kind, so that a caller can tell a missing report from a failed run.
    """
    try:
        run = RunFacts(result)
        values = {"title": escape(f"chunkflow: {run.name}"), "lead": _lead(run), "footer": _footer(run)}
        body = "\n".join(_sections(run, truth or {}, found or {}, tolerance or {}))
        template = Template(files("chunkflow.report").joinpath("template.html").read_text(encoding="utf-8"))
        path = result.path / "report.html"
        write_atomic(path, template.substitute(values, body=body).encode())
        return path
    except ChunkflowError:
        raise
    except Exception as error:  # a result edited by hand can break anything here, and must not break the run
        raise IntegrityError(
            f"the report of {result.path} cannot be written ({type(error).__name__}: {error})",
            "The arrays and tables are complete without it",
        ) from error


def _sections(
    run: RunFacts, truth: Mapping[str, float], found: Mapping[str, float], tolerance: Mapping[str, float]
) -> Iterable[str]:
    yield _part("", lambda: _warnings(run))
    yield _part("", lambda: _boxes(run.findings.all()))
    yield _part("", lambda: _tiles(run))
    yield _part("", lambda: expansion_line(run))
    yield _part("Certificate", lambda: _certificate(run))
    if truth:
        yield _part("Found against truth", lambda: _against_truth({**run.numbers, **found}, truth, tolerance))
    yield _part("Slices", lambda: slices(run))
    yield _part("Restoration", lambda: restoration(run))
    yield _part("Threshold", lambda: _threshold(run))
    yield _part("Seams of tiles", lambda: _seams(run))
    yield _part("Distributions", lambda: _distributions(run))
    yield _part("Regions", lambda: _rows(run, "regions", REGION_COLUMNS))
    yield _part("Objects", lambda: _rows(run, "objects", OBJECT_COLUMNS))
    yield _part("Branches", lambda: _rows(run, "branches", BRANCH_COLUMNS))
    yield _part("What ran", lambda: what_ran(run))
    yield _part("Passes", lambda: passes(run))
    yield _part("Reproduce", lambda: reproduce(run))
    yield _part("Open the result", lambda: how_to_open(run))


def _part(title: str, make: Callable[[], str]) -> str:
    """A section, or why it is missing: one damaged file does not cost the page."""
    try:
        content = make()
    except ChunkflowError as error:
        content = f"<div class='warning'>This part could not be made: {escape(str(error))}</div>"
    heading = f"<h2>{escape(title)}</h2>\n" if title and content else ""
    return f"<section>{heading}{content}</section>" if content else ""


def _lead(run: RunFacts) -> str:
    numbers = run.numbers
    size = run.plan["output"]
    if "objects" not in numbers:
        found = "A restored image"
    elif numbers["objects"] == 0:
        found = "No objects"
    else:
        found = counted(numbers["objects"], "object")
        if "loops" in numbers:
            found += f" with {counted(numbers['loops'], 'loop')}"
        if "length_um" in numbers:
            found += f" and {number(numbers['length_um'])} µm of length"
    side = [n * v for n, v in zip(size["shape"], size["voxel_um"], strict=True)]
    return f"{found} in {sides(side)} µm (z × y × x) of {escape(run.name)}."


def _footer(run: RunFacts) -> str:
    return f"Written by chunkflow {escape(str(run.stored['chunkflow']))} on {date(run.written)}."


def _tiles(run: RunFacts) -> str:
    tiles = [
        f"<div><b>{number(value)}{' ' + unit if unit else ''}</b><span>{escape(words)}</span></div>"
        for name, value in run.numbers.items()
        for words, unit in [QUANTITIES[name]]
    ]
    if not tiles:
        return ""
    notes = []
    if "loops" in run.numbers:
        notes.append("Loops are those of the objects with their closed cavities filled.")
    if "mean_diameter_um" in run.numbers:
        notes.append("The mean diameter is twice the mean radius along the skeleton, weighted by length.")
    return f"<div class='numbers'>{''.join(tiles)}</div><p class='caption'>{' '.join(notes)}</p>"


def _certificate(run: RunFacts) -> str:
    objects, graph = run.table("objects"), run.values("graph")
    if "label-merge" not in run.stored["fingerprints"]:
        return ""
    if objects is None:
        return "<p>This pipeline measures no objects, so there is nothing to certify.</p>"
    if not len(objects):
        return "<p>No objects were found, so there is nothing to certify.</p>"
    if graph is None:
        return "<p>This pipeline makes no skeleton, so there is nothing to certify.</p>"
    equal = objects["b1_graph"] == objects["b1_filled"]
    certified = objects["certified"].astype(bool)
    open_voxels = int(graph["open_count"].sum())
    lines = [
        f"{_of_all(int(equal.sum()), len(objects))} the skeleton graph has exactly as many loops as the object itself: "
        f"{number(int(objects['b1_graph'].sum()))} in the graph, {number(int(objects['b1_filled'].sum()))} in the "
        "objects. Nothing was cut, closed or joined by working in blocks."
        if equal.all()
        else f"{_of_all(int(equal.sum()), len(objects))} the skeleton graph has as many loops as the object itself; "
        f"in {number(int((~equal).sum()))} it has not: {_named(objects[~equal])}.",
        "No voxel of the skeleton was left undecided where a block ends."
        if open_voxels == 0
        else f"{counted(open_voxels, 'voxel')} of the skeleton could not be decided: objects thicker than "
        "distances in 32 bits can tell. Resample to larger voxels.",
    ]
    if not certified.all():
        lines.append(f"Not certified: {_named(objects[~certified])}.")
    cavities = int(objects["b2"].sum())
    if cavities:
        lines.append(f"The objects have {counted(cavities, 'closed cavity', 'closed cavities')}.")
    state = "good" if certified.all() else "bad"
    headline = f"{number(int(certified.sum()))} of {counted(len(objects), 'object')} certified"
    text = "".join(f"<p>{line}</p>" for line in lines)
    return f"<div class='verdict {state}'><p><b>{headline}</b></p>{text}</div>"


def _of_all(count: int, total: int) -> str:
    if count == total:
        return {1: "In the one object", 2: "In both objects"}.get(total, f"In all {number(total)} objects")
    return f"In {number(count)} of {number(total)} objects"


def _named(objects: pd.DataFrame) -> str:
    ids = ", ".join(str(value) for value in objects["object_id"][:NAMED])
    more = f" and {number(len(objects) - NAMED)} more" if len(objects) > NAMED else ""
    return f"{'object' if len(objects) == 1 else 'objects'} {ids}{more}"


def _against_truth(found: Mapping[str, float], truth: Mapping[str, float], tolerance: Mapping[str, float]) -> str:
    head = ("quantity", "truth", "found", "difference", "difference, %", "allowed, %", "verdict")
    rows = []
    for name, true in truth.items():
        words, unit = QUANTITIES.get(name, (name, ""))
        value, allowed = found.get(name), tolerance.get(name)
        off = None if value is None else value - true
        relative = None if off is None else 0.0 if off == 0 else abs(off / true) if true else float("inf")
        verdict = ""
        if relative is not None and allowed is not None:
            # The bound is a decimal fraction; a difference of just that must not fail by its last bit.
            inside = relative <= allowed * (1 + 1e-12)
            verdict = "<span class='good-text'>within</span>" if inside else "<span class='bad-text'>outside</span>"
        cells = [short(true), short(value), short(off, sign=True), percent(relative), percent(allowed), verdict]
        rows.append([escape(f"{words}, {unit}" if unit else words), *cells])
    return html_table(head, rows, texts={0, 6})


def _threshold(run: RunFacts) -> str:
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


def _seams(run: RunFacts) -> str:
    """How well neighbouring tiles of a segmenter agreed."""
    seams = run.table("seams")
    if seams is None or not len(seams):
        return ""
    pairs, merged, ambiguous = (int(seams[name].sum()) for name in ("pairs", "merged", "ambiguous"))
    text = (
        f"At {counted(len(seams), 'seam')} between tiles, {number(merged)} of {counted(pairs, 'pair')} of objects that "
        f"overlap are one object, and {number(ambiguous)} are ambiguous: alike enough, but one of the two is more like "
        "another. Every seam is in <a href='tables/seams.csv'>tables/seams.csv</a>."
    )
    return f"<p>{text}</p>"


def _distributions(run: RunFacts) -> str:
    wanted = (
        ("objects", "volume_um3", "volume of an object, µm³", "objects"),
        ("branches", "length_um", "length of a branch, µm", "branches"),
        ("branches", "radius_mean_um", "mean radius of a branch, µm", "branches"),
    )
    figures = []
    for table, column, label, what in wanted:
        rows = run.table(table)
        if rows is not None and len(rows):
            figures.append(charts.distribution(rows[column].to_numpy(np.float64), label, what=what))
    return f"<div class='charts'>{''.join(figures)}</div>" if figures else ""


def _rows(run: RunFacts, name: str, columns: Mapping[str, tuple[str, str]]) -> str:
    """The first rows of a table, with a link to all of it."""
    table = run.table(name)
    if table is None:
        return ""
    present = {column: words for column, words in columns.items() if column in table and not table[column].isna().all()}
    links = [f"tables/{name}.{kind}" for kind in ("csv", "parquet")]
    there = " and ".join(f"<a href='{link}'>{link}</a>" for link in links if (run.result.path / link).is_file())
    shown = table.head(ROWS)
    which = f"All {number(len(table))}" if len(table) <= ROWS else f"The first {ROWS} of {number(len(table))}"
    text = f"<p>{which} {name}; every column is in {there}.</p>" if len(table) else f"<p>There are no {name}.</p>"
    if not len(table):
        return text
    records = shown[list(present)].to_dict("records")
    rows = [[table_cell(value, column) for column, value in row.items()] for row in records]
    texts = {index for index, column in enumerate(present) if column in ("kind", "name")}
    return text + html_table([table_heading(*words) for words in present.values()], rows, texts=texts, is_html=True)


def _warnings(run: RunFacts) -> str:
    found = [str(text) for text in run.plan["warnings"]]
    for p in run.plan["passes"]:
        for unit, report in sorted(run.state(p["name"]).failed.items()):
            place = f"at {report.get('core', 'unknown')} (z,y,x in voxels)"
            found.append(f"Block {unit} of pass {p['name']} {place} was set aside: {report.get('error', '')}")
    return _boxes(found)


def _boxes(texts: Iterable[str]) -> str:
    return "".join(f"<div class='warning'>{escape(text)}</div>" for text in texts)
