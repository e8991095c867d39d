"""The section of the report that shows the result: three planes with outlines and skeleton, as layers to switch.

    gray      the image (or probability)   PNG        One grid of planes that meet along their edges; the layers of a
    outlines  labels or mask               PNG        plane lie above each other at the same size, and check boxes
    curves    the skeleton near the plane  PNG        hide them by style alone: the page has no scripts.
    cuts      where the other planes pass  SVG

Which voxels make a picture, and what that costs, is told in `chunkflow.report.pictures`; the curves of the whole graph
are held in memory, 24 bytes a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from chunkflow.report import charts, pictures
from chunkflow.report.facts import RunFacts
from chunkflow.report.html import short
from chunkflow.run.result import ResultVolume
from chunkflow.storage.omezarr import open_volume
from chunkflow.storage.stores import place_of
from chunkflow.storage.volume import Volume

PIXELS_OF_THICK = 4
"""Where a voxel is larger than so many pixels, outlines are two pixels wide."""


def slices(run: RunFacts) -> str:
    """Pictures, switches and caption; a sentence where nothing was saved."""
    result = run.result
    light = next((v for v in (result.image, result.probability) if v is not None), None)
    objects = next((v for v in (result.labels, result.mask) if v is not None), None)
    first = objects or light
    if first is None:
        return "<p>Neither an image nor labels were saved, so there is nothing to show.</p>"
    light_levels, object_levels = levels_of(light), levels_of(objects)
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
    has_graph = run.numbers.get("objects") != 0 and run.values("graph") is not None
    if has_graph:
        for cut, stack in zip(cuts, layers, strict=True):
            drawn = (
                pictures.curves(cut, part.curves["points_um"], part.curves["offsets"], near_um=near_um)
                for part in result.graph_pieces()
            )
            stack.append(("curves", reduce(np.maximum, drawn)))
    shown_planes = figure(cuts, layers)
    shown = _caption(cuts, first, window if light is not None else None, near_um if has_graph else None)
    return _switches(objects is not None, has_graph, len(cuts) > 1) + shown_planes + shown


def levels_of(volume: ResultVolume | None) -> list[Volume]:
    """All levels of an array, finest first."""
    if volume is None:
        return []
    group = place_of(volume.volume.path).parent
    count = 0
    while (group / str(count)).is_dir():
        count += 1
    return [open_volume(group, level=level) for level in range(count)]


def _near_um(run: RunFacts, voxel_um: Sequence[float]) -> float:
    """How far from a plane the skeleton is shown: about the radius of what the plane cuts."""
    return max(run.numbers.get("mean_diameter_um", 0.0) / 2, *voxel_um)


def _switches(has_objects: bool, has_graph: bool, has_cuts: bool) -> str:
    wanted = (("outlines", "objects", has_objects), ("curves", "skeleton", has_graph), ("cuts", "planes", has_cuts))
    return "".join(
        f"<input class='switch' type='checkbox' id='show-{name}' checked><label for='show-{name}'>{words}</label>"
        for name, words, there in wanted
        if there
    )


def figure(
    cuts: Sequence[pictures.Cut], layers: Sequence[Sequence[tuple[str, pictures.Pixels]]], *, lines: bool = True
) -> str:
    """The planes side by side as they meet: xy, zy to its right, xz below; `lines` are where they cut each other."""
    by_name = dict(zip((cut.name for cut in cuts), zip(cuts, layers, strict=True), strict=True))
    planes = []
    for name in ("xy", "zy", "xz"):
        if name in by_name:
            cut, stack = by_name[name]
            what = f"{name} {'slice' if lines else 'projection'}"
            images = "".join(
                f"<img class='{kind}' src='{pictures.png_uri(pixels)}' alt='{what}: {kind}'>" for kind, pixels in stack
            )
            bar = _scale_bar(cut) if name == "xy" else ""
            cross = _cut_lines(cut, cuts) if lines else ""
            planes.append(f"<div class='plane'>{images}{cross}<span class='name'>{name}</span>{bar}</div>")
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
    length = charts.round_length(width_um / 5)
    return f"<span class='scale' style='width: {100 * length / width_um:.2f}%'>{charts.tick_text(length)} µm</span>"


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
