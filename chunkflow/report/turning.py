"""The skeleton in three dimensions, to turn with the mouse: curves on a canvas, drawn by a script in the page.

    branches -> those that are longest, up to POINTS points -> steps of 1 / 65535 of the volume -> base64 in the page
                thinned evenly, ends kept                      (6 bytes a point)

The script asks nothing of anybody: the page forbids itself all requests. Depth is told by shade, far is dark;
branches have the colours of their objects in the slices. What is drawn stays under 250 kB whatever the graph.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from chunkflow.report.distributions import values_of
from chunkflow.report.facts import RunFacts
from chunkflow.report.html import counted, number, sides
from chunkflow.report.pictures import label_colors

POINTS = 30_000
"""Drawn at most: 180 kB, 240 kB as text, and smooth to turn without a graphics card."""
FEWEST = 2
"""Points of a branch."""
STEPS = 65_535


@dataclass(frozen=True, slots=True)
class Drawn:
    """Curves that are drawn.

    points : (N, 3) uint16, x, y, z in steps of the longest side of the volume
    lengths : (curves,) points of each; colors : (curves, 3) uint8
    curves : of all that there are
    """

    points: NDArray[np.uint16]
    lengths: NDArray[np.uint16]
    colors: NDArray[np.uint8]
    curves: int


def turning(run: RunFacts) -> str:
    """The section; empty where there is no graph."""
    if run.values("graph") is None or run.numbers.get("objects") == 0:
        return ""
    size = _size_um(run)
    drawn = curves_to_draw(run, size)
    if not len(drawn.lengths):
        return ""
    shown = {
        "points": _text(drawn.points.astype("<u2")),
        "lengths": _text(drawn.lengths.astype("<u2")),
        "colors": _text(drawn.colors),
        "size": [round(float(s / size.max()), 5) for s in size[::-1]],
    }
    script = files("chunkflow.report").joinpath("turning.js").read_text(encoding="utf-8")
    which = "all" if len(drawn.lengths) == drawn.curves else f"the {number(len(drawn.lengths))} longest of"
    return (
        "<canvas class='turn' id='turn' width='1032' height='560'>The skeleton, drawn by a script.</canvas>"
        f"<p class='caption'>Drag to turn, wheel to zoom, double click to begin again. Shown are {which} "
        f"{counted(drawn.curves, 'branch', 'branches')}, in the colours of their objects, near ones brighter; "
        f"the box is the volume, {sides(size)} µm (z × y × x).</p>"
        f"<script type='application/json' id='turn-data'>{json.dumps(shown)}</script><script>{script}</script>"
    )


def _size_um(run: RunFacts) -> NDArray[np.float64]:
    output = run.plan["output"]
    return np.array(output["shape"], np.float64) * np.array(output["voxel_um"], np.float64)


def curves_to_draw(run: RunFacts, size_um: NDArray[np.float64], *, most: int = POINTS) -> Drawn:
    """The longest branches, as many as have two points each in half of `most`; their points thinned to fit."""
    branches = run.table("branches")
    count = 0 if branches is None else len(branches)
    least = -np.inf if branches is None or count <= most // 4 else _longest(values_of(branches, "length_um"), most // 4)
    corner = _corner_um(run)
    curves: list[NDArray[np.float64]] = []
    objects: list[int] = []
    room = most // 4
    for part in run.result.graph_pieces():
        points, offsets = part.curves["points_um"], part.curves["offsets"]
        for k in np.flatnonzero(part.branches["length_um"] >= least)[: room - len(curves)].tolist():
            curves.append(points[offsets[k] : offsets[k + 1]])
            objects.append(int(part.branches["object_id"][k]))
    thinned = _thinned(curves, most)
    keep = [k for k, curve in enumerate(thinned) if len(curve) >= FEWEST]
    flat = np.concatenate([thinned[k] for k in keep]) if keep else np.zeros((0, 3))
    steps = np.clip(np.round((flat - corner) / size_um.max() * STEPS), 0, STEPS).astype(np.uint16)[:, ::-1]
    colors = label_colors(np.array([objects[k] for k in keep], np.uint64)) if keep else np.zeros((0, 3), np.uint8)
    return Drawn(steps, np.array([len(thinned[k]) for k in keep], np.uint16), colors, count)


def _corner_um(run: RunFacts) -> NDArray[np.float64]:
    """Of the volume: half a voxel before the centre of the first. Of the nodes, where no array tells."""
    if run.scale is not None:
        return np.array(run.scale.translation_um, np.float64) - np.array(run.scale.voxel_um, np.float64) / 2
    nodes = run.table("nodes")
    if nodes is None or not len(nodes):
        return np.zeros(3)
    each = (rows.to_numpy(np.float64) for rows in nodes.batches("z_um", "y_um", "x_um"))
    return np.asarray(np.stack([places.min(axis=0) for places in each]).min(axis=0), np.float64)


def _longest(lengths: Iterable[NDArray[np.float64]], count: int) -> float:
    """The least of the `count` largest."""
    kept = np.zeros(0)
    for some in lengths:
        kept = np.concatenate((kept, some))
        kept = np.partition(kept, -count)[-count:] if len(kept) > count else kept
    return float(kept.min())


def _thinned(curves: list[NDArray[np.float64]], most: int) -> list[NDArray[np.float64]]:
    """Every so manieth point of each curve, with both ends, at most `most` in all."""
    total = sum(len(curve) for curve in curves)
    step = 1
    while total > most:
        step *= 2
        total = sum(-(-(len(curve) - 1) // step) + 1 for curve in curves)
    if step == 1:
        return curves
    return [curve[np.unique(np.append(np.arange(0, len(curve), step), len(curve) - 1))] for curve in curves]


def _text(values: NDArray[np.unsignedinteger]) -> str:
    return b64encode(np.ascontiguousarray(values).tobytes()).decode()
