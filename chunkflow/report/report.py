"""The report of a run: one HTML file that a browser opens anywhere, and that may ask nothing of the network.

    facts.py  -->  trouble.py        blocks set aside, a run that is not complete: first   -->  report.html
    what the       checks.py         are the skeletons right; the part for experts              all of it, or one error
    run left       slices.py, projections.py, turning.py       pictures
                   distributions.py, restoration.py, speed.py  charts and what was done
                   provenance.py, methods.py                   what ran, and how to go on

Text, tables and charts come from the plan, the journal, the records and the tables of the run; the pictures from three
planes and from the coarsest level of the arrays. What a pipeline did not make is left out with a sentence. Tables and
the graph's curves are gone through some rows at a time, so neither the page nor the memory that it takes grows with
objects or blocks: tables end, charts have at most a few hundred bars, curves are thinned.

The one script turns the skeleton, and lies in the page. A policy in its head forbids every request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from html import escape
from importlib.resources import files
from string import Template
from typing import TypeAlias

import pandas as pd

from chunkflow.errors import ChunkflowError, InputNotFoundError, IntegrityError
from chunkflow.report.checks import checked, expert
from chunkflow.report.distributions import distributions, threshold, tile_seams
from chunkflow.report.facts import QUANTITIES, RunFacts
from chunkflow.report.html import (
    counted,
    date,
    html_table,
    number,
    sides,
    table_cell,
    table_heading,
)
from chunkflow.report.methods import methods_section
from chunkflow.report.projections import projections
from chunkflow.report.provenance import how_to_open, reproduce, what_ran
from chunkflow.report.restoration import expansion_line, restoration
from chunkflow.report.slices import slices
from chunkflow.report.speed import speed
from chunkflow.report.trouble import boxes, trouble, unfinished, warnings_of
from chunkflow.report.truth import Truth, against_truth, keep_truth, kept_truth
from chunkflow.report.turning import turning
from chunkflow.report.verified import verified
from chunkflow.report.viewer_picture import viewer_place
from chunkflow.run.batch_status import check_one_result
from chunkflow.run.places import run_folder
from chunkflow.run.result import Result
from chunkflow.storage.files import write_atomic
from chunkflow.storage.stores import Place, place_of
from chunkflow.storage.tables import StoredTable

Section: TypeAlias = tuple[str | None, Callable[[], str]]
"""Title, "" for none, and what makes the content; None for content that stands as it is."""

ROWS = 20
"""Rows of a table that are shown."""
THREADS = 2
"""Parts of the page that are made at once."""
POLICY = (
    "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">"
)
"""What is in the page is all that it may use."""

OBJECT_COLUMNS = {
    "object_id": ("object", ""),
    "volume_um3": ("volume", "µm³"),
    "b1_filled": ("loops", ""),
    "b2": ("cavities", ""),
    "certified": ("passed the check", ""),
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
) -> Place:
    """Write report.html into the folder of a result and return its path.

    A comparison with the truth is kept beside the run, so that a report that is written again has it too.

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
        known = Truth(truth=truth or {}, found=found or {}, tolerance=tolerance or {})
        if truth:
            keep_truth(run, known)
        sections = _sections(run, known if truth else kept_truth(run)) if run.is_complete else _so_far(run)
        with ThreadPoolExecutor(THREADS) as pool:  # most of the time goes into reading and packing pictures
            parts = list(pool.map(part, sections))
        path = result.path / "report.html"
        write_atomic(path, page(f"chunkflow: {run.name}", _lead(run), "\n".join(parts), _footer(run)).encode())
        return path
    except ChunkflowError:
        raise
    except Exception as error:  # a result edited by hand can break anything here, and must not break the run
        raise IntegrityError(
            f"the report of {result.path} cannot be written ({type(error).__name__}: {error})",
            "The arrays and tables are complete without it",
        ) from error


def rebuild_report(output: str | Place) -> Place:
    """Write the report of an output folder anew, also of a run that is not complete, and return its path.

    Raises
    ------
    InputNotFoundError : the folder holds no run.
    UsageError : it holds a batch.
    """
    folder = place_of(output)
    check_one_result(folder)
    if not (run_folder(folder) / "journal.jsonl").exists():
        raise InputNotFoundError(f"{output} holds no run", "Give the output folder of chunkflow run")
    return write_report(Result(folder))


def page(title: str, lead: str, body: str, footer: str) -> str:
    """The frame around sections; everything but the title is HTML."""
    template = Template(files("chunkflow.report").joinpath("template.html").read_text(encoding="utf-8"))
    text = template.substitute(title=escape(title), lead=lead, body=body, footer=footer)
    return text.replace("<title>", f"{POLICY}\n<title>", 1)


def _sections(run: RunFacts, known: Truth | None) -> Iterable[Section]:
    yield "", lambda: trouble(run)
    yield "", lambda: _tiles(run)
    yield "", lambda: expansion_line(run)
    yield "Checks", lambda: checked(run)
    yield "Verified", lambda: verified(run)
    if known is not None:
        yield "Found against truth", lambda: against_truth(run, known)
    yield "Slices", lambda: slices(run)
    yield "Projections", lambda: projections(run)
    yield "Skeleton", lambda: turning(run)
    yield None, lambda: viewer_place(run)
    yield "Restoration", lambda: restoration(run)
    yield "Threshold", lambda: threshold(run)
    yield "Seams of tiles", lambda: tile_seams(run)
    yield "Distributions", lambda: distributions(run)
    yield "Regions", lambda: _rows(run, "regions", REGION_COLUMNS)
    yield "Objects", lambda: _rows(run, "objects", OBJECT_COLUMNS)
    yield "Branches", lambda: _rows(run, "branches", BRANCH_COLUMNS)
    yield "What ran", lambda: what_ran(run)
    yield "Speed", lambda: speed(run)
    yield "Methods", lambda: methods_section(run.stored)
    yield "Reproduce", lambda: reproduce(run)
    yield "Open the result", lambda: how_to_open(run)
    yield "", lambda: expert(run)


def _so_far(run: RunFacts) -> Iterable[Section]:
    """Of a run that is not complete: no picture and no table is its own yet."""
    yield "", lambda: unfinished(run)
    yield "", lambda: boxes(warnings_of(run))
    yield "What ran", lambda: what_ran(run)
    yield "Speed", lambda: speed(run)
    yield "Reproduce", lambda: reproduce(run)
    yield "", lambda: expert(run)


def part(section: Section) -> str:
    """A section, or why it is missing: one damaged file does not cost the page."""
    title, make = section
    if title is None:
        return make()
    try:
        content = make()
    except ChunkflowError as error:
        content = f"<div class='warning'>This part could not be made: {escape(str(error))}</div>"
    heading = f"<h2>{escape(title)}</h2>\n" if title and content else ""
    return f"<section>{heading}{content}</section>" if content else ""


def _lead(run: RunFacts) -> str:
    numbers = run.numbers
    size = run.plan["output"]
    if not run.is_complete:
        found = "A run that is not complete"
    elif "objects" not in numbers:
        found = "A restored image" if {"correct", "deconvolve"} & set(run.stages) else "An image"
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


def _rows(run: RunFacts, name: str, columns: Mapping[str, tuple[str, str]]) -> str:
    """The first rows of a table, with a link to all of it."""
    table = run.table(name)
    if table is None:
        return ""
    shown = table.head(ROWS)
    present = {name: words for name, words in columns.items() if name in shown and not _is_missing(table, shown, name)}
    links = [f"tables/{name}.{kind}" for kind in ("csv", "parquet")]
    there = " and ".join(f"<a href='{link}'>{link}</a>" for link in links if (run.result.path / link).is_file())
    which = f"All {number(len(table))}" if len(table) <= ROWS else f"The first {ROWS} of {number(len(table))}"
    text = f"<p>{which} {name}; every column is in {there}.</p>" if len(table) else f"<p>There are no {name}.</p>"
    if not len(table):
        return text
    records = shown[list(present)].to_dict("records")
    rows = [[table_cell(value, column) for column, value in row.items()] for row in records]
    texts = {index for index, column in enumerate(present) if column in ("kind", "name")}
    return text + html_table([table_heading(*words) for words in present.values()], rows, texts=texts, is_html=True)


def _is_missing(table: StoredTable, shown: pd.DataFrame, column: str) -> bool:
    """Whether no row of the table has a value in a column."""
    return bool(shown[column].isna().all()) and all(rows[column].isna().all() for rows in table.batches(column))
