"""The report of a finished run: one HTML file that a browser opens anywhere, without scripts or network.

Text, tables and charts come from the plan, the journal, the records and the tables of the run; the pictures from three
planes of the arrays (see `chunkflow.report.pictures`). What a pipeline did not make is left out with a sentence. The
tables and the graph's curves are held in memory, as the merges of the run held them; voxels never are.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from html import escape
from importlib.resources import files
from math import floor, isfinite, log10
from pathlib import Path
from string import Template
from time import time
from typing import Any

import numpy as np
import pandas as pd
import yaml

from chunkflow.errors import ChunkflowError, IntegrityError
from chunkflow.report import pictures
from chunkflow.run.journal import Journal, PassState
from chunkflow.run.places import run_folder
from chunkflow.run.result import Result, ResultVolume
from chunkflow.storage.files import write_atomic
from chunkflow.storage.omezarr import open_volume, zarr_kind
from chunkflow.storage.volume import Volume

ROWS = 50
"""Rows of a table that are shown."""
NAMED = 20
"""Objects that are named where something is wrong with them."""
PIXELS_OF_THICK = 4
"""Where a voxel is larger than so many pixels, outlines are two pixels wide."""
CHART_BINS = 240
SHOWN_SHARE = 0.999
"""Of the voxels in the histogram; the brightest few would squeeze the rest."""

QUANTITIES = {
    "objects": ("objects", ""),
    "loops": ("loops", ""),
    "free_ends": ("free ends", ""),
    "junctions": ("junctions", ""),
    "length_um": ("total length", "µm"),
    "volume_um3": ("total volume", "µm³"),
    "mean_diameter_um": ("mean diameter", "µm"),
    "dice": ("Dice overlap of the masks", ""),
}
"""What is counted, in words and units."""

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
        run = _Run(result)
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


@dataclass
class _Run:
    """A result and what the run left beside it. Missing parts are None or empty."""

    result: Result
    written: float = field(default_factory=time)

    @cached_property
    def stored(self) -> Mapping[str, Any]:
        """run/plan.json."""
        path = run_folder(self.result.path) / "plan.json"
        try:
            content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise IntegrityError(f"{path} cannot be read ({error})", "Run the same command again") from error
        return content

    @cached_property
    def journal(self) -> Journal:
        return Journal.read(run_folder(self.result.path) / "journal.jsonl")

    @property
    def plan(self) -> Mapping[str, Any]:
        return dict(self.stored["plan"])

    @property
    def pipeline(self) -> Mapping[str, Any]:
        return dict(self.stored["pipeline"])

    @property
    def stages(self) -> dict[str, Mapping[str, Any]]:
        return {key: values for stage in self.pipeline["stages"] for key, values in stage.items()}

    @cached_property
    def input_path(self) -> Path:
        """The image that was read: the group around the array."""
        array = Path(self.plan["input"]["path"])
        groups = (folder for folder in array.parents if zarr_kind(folder) == "group")
        return next(groups, array)

    @property
    def name(self) -> str:
        return self.input_path.name

    def state(self, name: str) -> PassState:
        """What the journal knows of a pass of the stored plan."""
        return self.journal.passes.get(self.stored["fingerprints"][name], PassState())

    def table(self, name: str) -> pd.DataFrame | None:
        """A table of the result, if this pipeline makes it."""
        makes = {"objects": "objects", "branches": "graph", "nodes": "graph"}[name]
        if makes not in self.stored["fingerprints"]:
            return None  # a file may be there from earlier settings
        rows: pd.DataFrame = getattr(self.result, name)
        return rows

    def values(self, name: str) -> Mapping[str, Any] | None:
        """What a merge left, if this pipeline has it."""
        return self.result.pass_values(name) if name in self.stored["fingerprints"] else None

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The result in numbers, by the names in `QUANTITIES`, as far as it goes."""
        objects, branches, nodes = (self.table(name) for name in ("objects", "branches", "nodes"))
        found: dict[str, float] = {}
        if objects is not None:
            found |= {"objects": len(objects), "loops": int(objects["b1_filled"].sum())}
        elif (merged := self.values("label-merge")) is not None and "count" in merged:
            found["objects"] = int(merged["count"][0])
        if nodes is not None:
            found |= {"free_ends": int((nodes["kind"] == "end").sum())}
            found |= {"junctions": int((nodes["kind"] == "junction").sum())}
        if branches is not None:
            found["length_um"] = float(branches["length_um"].sum())
        if objects is not None:
            found["volume_um3"] = float(objects["volume_um3"].sum())
        if branches is not None and found["length_um"] > 0:
            found["mean_diameter_um"] = float(
                2 * (branches["radius_mean_um"] * branches["length_um"]).sum() / branches["length_um"].sum()
            )
        return found


def _sections(
    run: _Run, truth: Mapping[str, float], found: Mapping[str, float], tolerance: Mapping[str, float]
) -> Iterable[str]:
    yield _part("", lambda: _warnings(run))
    yield _part("", lambda: _tiles(run))
    yield _part("Certificate", lambda: _certificate(run))
    if truth:
        yield _part("Found against truth", lambda: _against_truth({**run.numbers, **found}, truth, tolerance))
    yield _part("Slices", lambda: _slices(run))
    yield _part("Threshold", lambda: _threshold(run))
    yield _part("Distributions", lambda: _distributions(run))
    yield _part("Objects", lambda: _rows(run, "objects", OBJECT_COLUMNS))
    yield _part("Branches", lambda: _rows(run, "branches", BRANCH_COLUMNS))
    yield _part("What ran", lambda: _what_ran(run))
    yield _part("Passes", lambda: _passes(run))
    yield _part("Reproduce", lambda: _reproduce(run))
    yield _part("Open the result", lambda: _open(run))


def _part(title: str, make: Callable[[], str]) -> str:
    """A section, or why it is missing: one damaged file does not cost the page."""
    try:
        content = make()
    except ChunkflowError as error:
        content = f"<div class='warning'>This part could not be made: {escape(str(error))}</div>"
    heading = f"<h2>{escape(title)}</h2>\n" if title and content else ""
    return f"<section>{heading}{content}</section>" if content else ""


def _lead(run: _Run) -> str:
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
    return f"{found} in {_times(side)} µm (z × y × x) of {escape(run.name)}."


def _footer(run: _Run) -> str:
    return f"Written by chunkflow {escape(str(run.stored['chunkflow']))} on {_date(run.written)}."


def _tiles(run: _Run) -> str:
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


def _certificate(run: _Run) -> str:
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
        else f"{counted(open_voxels, 'voxel')} of the skeleton could not be decided from what a block may look at. "
        "A larger max_halo of the skeleton stage, or larger blocks, settle it.",
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
        cells = [short(true), short(value), short(off, sign=True), _percent(relative), _percent(allowed), verdict]
        rows.append([escape(f"{words}, {unit}" if unit else words), *cells])
    return _table(head, rows, texts={0, 6})


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3g}" if isfinite(value) else "∞"


def _levels(volume: ResultVolume | None) -> list[Volume]:
    """All levels of an array, finest first."""
    if volume is None:
        return []
    group = Path(volume.volume.path).parent
    count = 0
    while (group / str(count)).is_dir():
        count += 1
    return [open_volume(group, level=level) for level in range(count)]


def _slices(run: _Run) -> str:
    result = run.result
    light = next((v for v in (result.image, result.probability) if v is not None), None)
    objects = next((v for v in (result.labels, result.mask) if v is not None), None)
    first = objects or light
    if first is None:
        return "<p>Neither an image nor labels were saved, so there is nothing to show.</p>"
    light_levels, object_levels = _levels(light), _levels(objects)
    point = pictures.busiest_point_um(object_levels or light_levels, foreground=objects is not None)
    if objects is not None and light is not None and run.numbers.get("objects") == 0:
        point = pictures.busiest_point_um(light_levels, foreground=False)
    cuts = pictures.cuts_through(point, first.shape, first.volume.scale)
    grays = [pictures.sampled(cut, light_levels) for cut in cuts] if light else [np.zeros(c.shape) for c in cuts]
    window = pictures.contrast_window(grays)
    layers = [[("gray", pictures.gray(picture, window))] for picture in grays]
    if objects is not None:
        for cut, stack in zip(cuts, layers, strict=True):
            labels = pictures.sampled(cut, object_levels)
            width = 2 if min(first.voxel_um) > PIXELS_OF_THICK * cut.pixel_um else 1
            stack.append(("outlines", pictures.outlines(labels, width=width, fill=0.0 if light else 0.45)))
    near_um = _near_um(run, first.voxel_um)
    graph = run.values("graph") if run.numbers.get("objects") != 0 else None
    if graph is not None:
        for cut, stack in zip(cuts, layers, strict=True):
            lines = pictures.curves(cut, graph["curves.points_um"], graph["curves.offsets"], near_um=near_um)
            stack.append(("curves", lines))
    figure = _figure(cuts, layers)
    shown = _caption(cuts, first, window if light is not None else None, near_um if graph is not None else None)
    return _switches(objects is not None, graph is not None, len(cuts) > 1) + figure + shown


def _near_um(run: _Run, voxel_um: Sequence[float]) -> float:
    """How far from a plane the skeleton is shown: about the radius of what the plane cuts."""
    return max(run.numbers.get("mean_diameter_um", 0.0) / 2, *voxel_um)


def _switches(has_objects: bool, has_graph: bool, has_cuts: bool) -> str:
    wanted = (("outlines", "objects", has_objects), ("curves", "skeleton", has_graph), ("cuts", "planes", has_cuts))
    return "".join(
        f"<input class='switch' type='checkbox' id='show-{name}' checked><label for='show-{name}'>{words}</label>"
        for name, words, there in wanted
        if there
    )


def _figure(cuts: Sequence[pictures.Cut], layers: Sequence[Sequence[tuple[str, pictures.Pixels]]]) -> str:
    """The planes side by side as they meet: xy, zy to its right, xz below."""
    by_name = dict(zip((cut.name for cut in cuts), zip(cuts, layers, strict=True), strict=True))
    planes = []
    for name in ("xy", "zy", "xz"):
        if name in by_name:
            cut, stack = by_name[name]
            images = "".join(
                f"<img class='{kind}' src='{pictures.png_uri(pixels)}' alt='{name} slice: {kind}'>"
                for kind, pixels in stack
            )
            bar = _scale_bar(cut) if name == "xy" else ""
            planes.append(
                f"<div class='plane'>{images}{_cut_lines(cut, cuts)}<span class='name'>{name}</span>{bar}</div>"
            )
    width = cuts[0].shape[1]
    columns = f"{width}fr {by_name['zy'][0].shape[1]}fr" if "zy" in by_name else "1fr"
    return f"<div class='planes' style='grid-template-columns: {columns}'>{''.join(planes)}</div>"


def _cut_lines(cut: pictures.Cut, cuts: Sequence[pictures.Cut]) -> str:
    """Where the other planes pass, as dashed lines."""
    lines = []
    for other in cuts:
        if other.normal == cut.rows:
            at = (other.at_um - cut.origin_um[0]) / cut.pixel_um
            lines.append(f"<line x1='0' x2='{cut.shape[1]}' y1='{at:.1f}' y2='{at:.1f}'/>")
        elif other.normal == cut.columns:
            at = (other.at_um - cut.origin_um[1]) / cut.pixel_um
            lines.append(f"<line x1='{at:.1f}' x2='{at:.1f}' y1='0' y2='{cut.shape[0]}'/>")
    height, width = cut.shape
    return f"<svg viewBox='0 0 {width} {height}' preserveAspectRatio='none'>{''.join(lines)}</svg>"


def _scale_bar(cut: pictures.Cut) -> str:
    width_um = cut.shape[1] * cut.pixel_um
    length = pictures.round_length(width_um / 5)
    return f"<span class='scale' style='width: {100 * length / width_um:.2f}%'>{pictures.tick_text(length)} µm</span>"


def _caption(
    cuts: Sequence[pictures.Cut], volume: ResultVolume, window: tuple[float, float] | None, near_um: float | None
) -> str:
    scale = volume.volume.scale
    places = []
    for cut in cuts:
        a = cut.normal
        plane = int(np.clip(round((cut.at_um - scale.translation_um[a]) / scale.voxel_um[a]), 0, volume.shape[a] - 1))
        places.append(f"{'zyx'[a]} = {short(cut.at_um)} µm (plane {plane} of {volume.shape[a]})")
    text = f"Planes at {', '.join(places)}." if len(cuts) > 1 else "The image is a single plane."
    if window is not None:
        text += f" Black is {short(window[0])}, white {short(window[1])} and above."
    if near_um is not None:
        text += f" The skeleton (red) is shown within {short(near_um, 3)} µm of each plane; each object has its colour."
    return f"<p class='caption'>{text} Proportions are those of the sample.</p>"


def _threshold(run: _Run) -> str:
    merged, stage = run.values("threshold"), run.stages.get("threshold")
    if merged is None:
        fixed = (stage or run.stages.get("predict") or {}).get("threshold" if stage is None else "value")
        return "" if fixed is None else f"<p>Foreground is what lies above {short(fixed)}, fixed by the pipeline.</p>"
    counts, edges = merged["histogram"], merged["edges"]
    value = float(merged["threshold"][0])
    method = str((stage or {}).get("method", ""))
    total = int(counts.sum())
    above = int(counts[edges[:-1] > value].sum())
    bars, bounds, hidden = _shortened(counts, edges, value)
    text = (
        f"<p>The threshold is {short(value, 5)} ({escape(method)}, from the histogram of the whole volume). "
        f"{_percent(above / max(total, 1))} % of the {number(total)} voxels lie above it.</p>"
    )
    chart = pictures.chart(
        bars, bounds, x_label="value", y_label="voxels", log_y=True, marker=value, marker_label="threshold"
    )
    note = f"<p class='caption'>{number(hidden)} brighter voxels are beyond the right end.</p>" if hidden else ""
    return text + chart + note


def _shortened(
    counts: np.ndarray[Any, Any], edges: np.ndarray[Any, Any], value: float
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
    """A histogram of at most `CHART_BINS` bars without its long tail, and how many voxels that leaves out."""
    last = int(np.searchsorted(np.cumsum(counts), SHOWN_SHARE * counts.sum())) + 1
    last = min(len(counts), max(last, int(1.5 * np.searchsorted(edges, value))))
    together = -(-last // CHART_BINS)
    starts = np.arange(0, last, together)
    bars = np.add.reduceat(counts[:last], starts)
    return bars, edges[np.append(starts, last)], int(counts[last:].sum())


def _distributions(run: _Run) -> str:
    wanted = (
        ("objects", "volume_um3", "volume of an object, µm³", "objects"),
        ("branches", "length_um", "length of a branch, µm", "branches"),
        ("branches", "radius_mean_um", "mean radius of a branch, µm", "branches"),
    )
    charts = []
    for table, column, label, what in wanted:
        rows = run.table(table)
        if rows is not None and len(rows):
            charts.append(pictures.distribution(rows[column].to_numpy(np.float64), label, what=what))
    return f"<div class='charts'>{''.join(charts)}</div>" if charts else ""


def _rows(run: _Run, name: str, columns: Mapping[str, tuple[str, str]]) -> str:
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
    rows = [[_cell(value, column) for column, value in row.items()] for row in shown[list(present)].to_dict("records")]
    texts = {index for index, column in enumerate(present) if column == "kind"}
    return text + _table([_heading(*words) for words in present.values()], rows, texts=texts, is_html=True)


def _heading(words: str, unit: str) -> str:
    return escape(words) + (f"<small>{escape(unit)}</small>" if unit else "")


def _cell(value: Any, column: Any) -> str:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "<span class='bad-text'>no</span>" if column == "certified" else "no"
    if str(column).endswith("_id") or str(column).startswith("node_"):
        return str(int(value))
    return number(value)


def _what_ran(run: _Run) -> str:
    source, output = run.plan["input"], run.plan["output"]
    device, _, libraries = str(run.stored["kind"]).partition("; ")
    start = run.journal.starts[-1] if run.journal.starts else {}
    end = float(run.journal.ended["time"]) if run.journal.ended else run.written
    limits = run.values("range")
    facts = {
        "input": str(run.input_path),
        "input array": f"{_times(source['shape'])} voxels (z × y × x), {source['dtype']}",
        "input voxel": f"{_times(source['voxel_um'])} µm",
        "values": "" if limits is None else _value_facts(limits),
        "missing chunks": number(source["missing_chunks"]) if source["missing_chunks"] else "",
        "result": f"{_times(output['shape'])} voxels of {_times(output['voxel_um'])} µm",
        "output": output["path"],
        "blocks": f"{_times(run.plan['block'])} voxels",
        "device": device,
        "machine": str(start.get("host", "")),
        "command": str(start.get("command", "")),
        "started": _date(float(start["time"])) if start else "",
        "ended": _date(end) + (f", after {_duration(end - float(start['time']))}" if start else ""),
        "runs in this folder": number(len(run.journal.starts)) if len(run.journal.starts) > 1 else "",
        "chunkflow": str(run.stored["chunkflow"]),
        "libraries": f"python {run.stored['python']}; {libraries}",
    }
    rows = [[escape(name), escape(value)] for name, value in facts.items() if value]
    stages = [[escape(key), escape(_parameters(values)) or "(no parameters)"] for key, values in run.stages.items()]
    return (
        _table((), rows, texts={0, 1}, kind="facts")
        + "<h3>Stages and their parameters</h3>"
        + _table((), stages, texts={0, 1}, kind="facts")
    )


def _value_facts(limits: Mapping[str, Any]) -> str:
    low, high, common = (short(float(limits[name][0])) for name in ("low", "high", "common"))
    share = int(limits["common_count"][0]) / max(1, int(limits["count"][0]))
    return (
        f"{low} to {high}; most common {common}, in {'at least ' if share < 1 else ''}{_percent(share)} % of the voxels"
    )


def _parameters(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {_flow(value)}" for key, value in values.items() if value is not None)


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + _parameters(value) + "}"
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...").strip()


def _passes(run: _Run) -> str:
    head = ("pass", "blocks", "halo, voxels", "read / written", "seconds", "peak memory, MiB")
    rows, workers = [], set()
    for p in run.plan["passes"]:
        units = list(run.state(p["name"]).done.values())
        workers |= {unit["worker"] for unit in units if "worker" in unit}
        seconds = sum(float(unit.get("seconds", 0)) for unit in units)
        peak = max((int(unit.get("peak", 0)) for unit in units), default=0)
        amplification = p["read_amplification"]
        rows.append(
            [
                escape(p["name"]),
                number(p["units"]),
                _times(p["halo"]) if any(p["halo"]) else "",
                "" if amplification is None else number(amplification, 3),
                f"{seconds:,.2f}",
                number(round(peak / 2**20)) if peak else "",
            ]
        )
    projected = run.plan["peak_bytes_per_worker"] / 2**20
    text = (
        f"<p>Seconds are summed over {counted(len(workers), 'worker process', 'worker processes')}; peak memory is "
        "the most that one process had held by the end of the pass. The plan projected at most "
        f"{number(round(projected))} MiB.</p>"
    )
    return text + _table(head, rows, texts={0})


def _warnings(run: _Run) -> str:
    found = [str(text) for text in run.plan["warnings"]]
    for p in run.plan["passes"]:
        for unit, report in sorted(run.state(p["name"]).failed.items()):
            place = f"at {report.get('core', 'unknown')} (z,y,x in voxels)"
            found.append(f"Block {unit} of pass {p['name']} {place} was set aside: {report.get('error', '')}")
    return "".join(f"<div class='warning'>{escape(text)}</div>" for text in found)


def _reproduce(run: _Run) -> str:
    """The pipeline as a file that does the same again: everything spelt out."""
    content = _with_whole_paths(run.pipeline)
    content["input"]["path"] = content["input"]["path"] or str(run.input_path.resolve())
    content["output"]["path"] = str(run.result.path.resolve())
    content["block"] = list(run.plan["block"])
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
    return (
        "<p>Save this as <code>pipeline.yaml</code>; <code>chunkflow run pipeline.yaml</code> then does the same. "
        f"Every default is spelt out.</p><pre id='pipeline'>{escape(text)}</pre>"
    )


def _with_whole_paths(value: Any, key: str = "") -> Any:
    """A copy in which the paths hold wherever the file is put."""
    if isinstance(value, Mapping):
        return {name: _with_whole_paths(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_whole_paths(inner) for inner in value]
    is_path = key in ("path", "mask") and isinstance(value, str) and "://" not in value
    return str(Path(value).resolve()) if is_path else value


def _open(run: _Run) -> str:
    out = run.result.path.resolve()
    parts = []
    if (out / "image.ome.zarr").is_dir():
        command = f"napari --plugin napari-ome-zarr {shlex.quote(str(out / 'image.ome.zarr'))}"
        parts.append(("In napari", "A shell line; needs napari and napari-ome-zarr.", command))
    layers = [
        name for name in ("image", "probability", "mask", "labels", "skeleton") if getattr(run.result, name) is not None
    ]
    if layers:
        parts.append(("In Neuroglancer", "Python; prints a link for the browser.", _neuroglancer(out, layers)))
    names = [name for name in ("objects", "branches", "nodes") if run.table(name) is not None]
    python = [f"result = cf.open_result({str(out)!r})"]
    python += [f"result.{name}  # a pandas.DataFrame" for name in names]
    python += ["result.graph  # a networkx.MultiGraph"] if "branches" in names else []
    python += [f"result.{name}[0]  # the first plane, a numpy array" for name in layers[:1]]
    parts.append(("In Python", "", "\n".join(["import chunkflow as cf", "", *python])))
    if names:
        tables = [f"{name} = pd.read_parquet({str(out / 'tables' / (name + '.parquet'))!r})" for name in names]
        parts.append(("With pandas alone", "", "\n".join(["import pandas as pd", "", *tables])))
    return "".join(
        f"<h3>{escape(title)}</h3>{f'<p>{escape(text)}</p>' if text else ''}<pre>{escape(code)}</pre>"
        for title, text, code in parts
    )


def _neuroglancer(out: Path, layers: Sequence[str]) -> str:
    lines = [
        "import chunkflow as cf",
        "import neuroglancer",
        "",
        f"result = cf.open_result({str(out)!r})",
        f"voxel_um = result.{layers[0]}.voxel_um",
        "space = neuroglancer.CoordinateSpace(names=['z', 'y', 'x'], units='um', scales=voxel_um)",
        "viewer = neuroglancer.Viewer()",
        "with viewer.txn() as state:",
    ]
    for name in layers:
        kind = "ImageLayer" if name in ("image", "probability") else "SegmentationLayer"
        volume = f"neuroglancer.LocalVolume(result.{name}.array, space)"
        lines.append(f"    state.layers['{name}'] = neuroglancer.{kind}(source={volume})")
    return "\n".join([*lines, "print(viewer)"])


def _table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    texts: Iterable[int] = (),
    kind: str = "",
    is_html: bool = False,
) -> str:
    """A table whose cells are HTML already. `texts` are the columns of words, the others hold numbers."""
    words = set(texts)

    def row(cells: Sequence[str], tag: str) -> str:
        marked = (f"<{tag}{' class=text' if i in words else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(marked)}</tr>"

    top = f"<thead>{row(head if is_html else [escape(text) for text in head], 'th')}</thead>" if head else ""
    body = "\n".join(row(cells, "td") for cells in rows)
    return f"<div class='scroll'><table class='{kind}'>{top}<tbody>{body}</tbody></table></div>"


def number(value: Any, digits: int = 4, *, sign: bool = False) -> str:
    """A number as people write it: whole numbers whole, others to so many digits; thousands set apart by commas."""
    if value is None or pd.isna(value):
        return ""
    plus = "+" if sign and value else ""
    if float(value) == round(float(value)) and abs(float(value)) < 1e15:
        return f"{int(value):{plus},}"
    magnitude = floor(log10(abs(float(value)))) if isfinite(float(value)) else 0
    if not -5 < magnitude < 15:
        return f"{float(value):{plus}.{digits - 1}e}"
    return f"{float(value):{plus},.{max(0, digits - 1 - magnitude)}f}"


def short(value: Any, digits: int = 4, *, sign: bool = False) -> str:
    """A number for a sentence: without zeros at the end."""
    text = number(value, digits, sign=sign)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def counted(count: float, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def _times(values: Iterable[float]) -> str:
    return " × ".join(short(value) for value in values)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0.0, seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest:.0f} s" if minutes else f"{rest:.1f} s"
