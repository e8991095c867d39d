"""A preview as one picture: a row for each setting, a column for what becomes of the region.

    deconvolve.iterations=5
    [before xy] [after xy] [labels xy] [skeleton xy]   grey values ---|---
    [before xz] [after xz] [labels xz] [skeleton xz]   PSF xy  xz
    2 um        black, white           objects         widths

All at one scale, voxels as they are. Planes lie where most light is; the skeleton is drawn over the brightest voxels.

Colours are told apart without seeing red or green: those of objects are Paul Tol's bright ones, objects that touch are
parted by a dark line, and the skeleton is orange on grey.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunkflow.geometry.scale import MicrometerTriple
from chunkflow.report.charts import round_length, shortened, tick_text
from chunkflow.report.page import ACCENT, FAINT, FINER, INK, Color, Page, Pixels, Point
from chunkflow.report.pictures import contrast_window, gray
from chunkflow.report.psf_picture import section_pixels
from chunkflow.run.preview import MARK, Histogram, Layer, Preview, Shown, ShownPsf, borders

COLUMN, GAP, MARGIN, TOP = 330, 12, 24, 78
"""Width of a column, space between them, around them, and above them, in pixels."""
SECTIONS_GAP = 4
TALLEST = 620
"""Pixels that a column may be high; narrower where the region is deeper."""
CHARTS = 330
"""Width of the column of charts; a chart is so high:"""
CHART = 190
HEAD, FOOT = 34, 44
"""Above the pictures of a setting, its name; below, what they say."""
TOL = np.array(
    [(68, 119, 170), (102, 204, 238), (34, 136, 51), (204, 187, 68), (238, 102, 119), (170, 51, 119), (187, 187, 187)]
)
"""Paul Tol's bright scheme, whose colours differ for every kind of colour vision."""
FILL, LINE = 0.62, (20, 20, 20)
CURVE: Color = (255, 150, 20)
DARK = 25
"""Grey behind labels that are the input."""
ABOVE, BELOW = (120, 160, 200), (175, 175, 175)
SHOWN_BINS = 120
BY = "  x  "  # wide, since the kerning of the font draws an x to what stands beside it


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where the sections of the region lie in um, and how many um a pixel of the picture is.

    low, high : corners of the region, the outer faces of its voxels
    at : where the sections cut
    """

    low: MicrometerTriple
    high: MicrometerTriple
    at: MicrometerTriple
    pixel: float

    @classmethod
    def of(cls, preview: Preview) -> _Frame:
        scale, data = preview.before.scale, preview.before.data
        low = [t - v / 2 for t, v in zip(scale.translation_um, scale.voxel_um, strict=True)]
        high = [a + n * v for a, n, v in zip(low, data.shape, scale.voxel_um, strict=True)]
        at = _busiest(preview)
        size = [b - a for a, b in zip(low, high, strict=True)]
        deep = size[0] if data.shape[0] > 1 else 0.0
        pixel = max(size[2] / COLUMN, (size[1] + deep) / (TALLEST - SECTIONS_GAP))
        return cls(_triple(low), _triple(high), at, pixel)

    @property
    def width(self) -> float:
        """Of a section, in pixels of the picture."""
        return (self.high[2] - self.low[2]) / self.pixel

    def height(self, axis: int) -> float:
        return (self.high[axis] - self.low[axis]) / self.pixel

    @property
    def sections(self) -> tuple[tuple[int, int, float], ...]:
        """(normal, rows, top) of xy and, below it, xz."""
        both = ((0, 1, 0.0), (1, 0, self.height(1) + SECTIONS_GAP))
        return both if self.has_depth else both[:1]

    @property
    def has_depth(self) -> bool:
        return self.height(0) >= 2

    @property
    def total(self) -> float:
        return self.height(1) + (self.height(0) + SECTIONS_GAP if self.has_depth else 0)

    def index(self, layer: Layer, axis: int, *, cells: int) -> NDArray[np.int64]:
        """The voxel of a layer under each of some pixels along an axis."""
        step = (self.high[axis] - self.low[axis]) / cells
        centres = self.low[axis] + step * (np.arange(cells) + 0.5)
        found = np.round((centres - layer.scale.translation_um[axis]) / layer.scale.voxel_um[axis])
        return np.clip(found, 0, layer.data.shape[axis] - 1).astype(np.int64)

    def cut(self, layer: Layer, normal: int, rows: int, *, projected: bool = False) -> NDArray[Any]:
        """(rows, columns) values at the finer pixels: of the plane, or the largest along its normal."""
        cells = max(1, round(self.height(rows) * FINER)), max(1, round(self.width * FINER))
        if projected:
            plane = layer.data.max(axis=normal)
        else:
            position = (self.at[normal] - layer.scale.translation_um[normal]) / layer.scale.voxel_um[normal]
            plane = layer.data.take(int(np.clip(round(position), 0, layer.data.shape[normal] - 1)), axis=normal)
        cut: NDArray[Any] = plane[np.ix_(self.index(layer, rows, cells=cells[0]), self.index(layer, 2, cells=cells[1]))]
        return cut


def _busiest(preview: Preview) -> MicrometerTriple:
    """Where the planes lie that hold most foreground of the first setting; without any, those of most contrast."""
    labels = preview.settings[0].labels
    layer = labels if labels is not None and labels.data.any() and preview.kind == "image" else preview.before
    meeting = borders(layer.data) if preview.kind == "labels" else None
    at = []
    for axis, origin, voxel in zip(range(3), layer.scale.translation_um, layer.scale.voxel_um, strict=True):
        others = tuple(other for other in range(3) if other != axis)
        if meeting is not None:
            much = meeting.sum(axis=others)
        elif layer is labels:
            much = (layer.data > 0).sum(axis=others)
        else:
            much = layer.data.std(axis=others, dtype=np.float64)
        inside = _inside(layer, preview.before, axis)
        at.append(origin + voxel * int(np.where(inside, much, -1).argmax()))
    return _triple(at)


def _inside(layer: Layer, region: Layer, axis: int) -> NDArray[np.bool_]:
    """Which planes of a layer lie in the region: borrowed statistics widen what is run."""
    centres = layer.scale.translation_um[axis] + layer.scale.voxel_um[axis] * np.arange(layer.data.shape[axis])
    half = region.scale.voxel_um[axis] / 2
    low = region.scale.translation_um[axis] - half
    inside: NDArray[np.bool_] = (centres >= low) & (centres <= low + 2 * half * region.data.shape[axis])
    return inside


def _triple(values: Sequence[float]) -> MicrometerTriple:
    return float(values[0]), float(values[1]), float(values[2])


def png_of_preview(preview: Preview) -> bytes:
    """The picture as the bytes of a PNG."""
    frame = _Frame.of(preview)
    columns = _columns(preview)
    has_charts = any(shown.histogram or shown.psf for shown in preview.settings)
    rows = [max(frame.total, _charts_height(shown)) + HEAD + FOOT for shown in preview.settings]
    width = 2 * MARGIN + len(columns) * (frame.width + GAP) - GAP + (CHARTS + 4 * GAP if has_charts else 0)
    image, about = _titles(preview)
    widest = max(width, 2 * MARGIN + Page.blank((1, 1)).text_width(about, size=15))
    page = Page.blank((round(widest), round(TOP + sum(rows) + MARGIN / 2)))
    page.text((MARGIN, 14), image, size=21)
    page.text((MARGIN, 44), about, FAINT, size=15)
    top = float(TOP)
    for shown, height in zip(preview.settings, rows, strict=True):
        title = shown.title or "as the pipeline says"
        page.text((MARGIN, top + 4), title, size=18)
        spent = page.text_width(title, size=18) + 14
        page.text((MARGIN + spent, top + 7), f"{shown.facts['time']} for the region", FAINT, size=14)
        for number, column in enumerate(columns):
            left = MARGIN + number * (frame.width + GAP)
            _draw_column(page, frame, (left, top + HEAD), column, preview, shown)
        if has_charts:
            left = MARGIN + len(columns) * (frame.width + GAP) + 4 * GAP - GAP
            _draw_charts(page, (left, top + HEAD), shown)
        top += height
    return page.png(software=MARK.decode(), smallest=False)


def _columns(preview: Preview) -> tuple[str, ...]:
    """Those that some setting has something for."""
    some = preview.settings
    wanted = {
        "before": True,
        "after": any(shown.after for shown in some),
        "probability": any(shown.probability for shown in some),
        "labels": any(shown.labels for shown in some) and preview.kind != "labels",
        "skeleton": any(shown.curves_um is not None for shown in some),
    }
    return tuple(name for name, there in wanted.items() if there)


def _titles(preview: Preview) -> tuple[str, str]:
    """The name of the image, and which part of it is shown."""
    scale, shape = preview.before.scale, preview.before.data.shape
    size = BY.join(tick_text(float(f"{n * v:.3g}")) for n, v in zip(shape, scale.voxel_um, strict=True))
    voxel = BY.join(f"{v:.4g}" for v in scale.voxel_um)
    image = next((part for part in reversed(Path(preview.source).parts) if not part.isdecimal()), preview.source)
    box = str(preview.box).replace(",", ", ")
    of = BY.join(map(str, preview.shape))
    return image, f"region {box} of {of} voxels: {size} um, voxels of {voxel} um (z, y, x)"


def _draw_column(page: Page, frame: _Frame, at: Point, column: str, preview: Preview, shown: Shown) -> None:
    """The sections of one column, their name and what they say."""
    image = shown.after or preview.before
    layer = {"before": preview.before, "after": shown.after, "probability": shown.probability}.get(column, image)
    left, top = at
    if layer is None or (column == "labels" and shown.labels is None):
        page.text((left, top), "no stage makes it", FAINT, size=14)
        return
    planes = [frame.cut(layer, n, r, projected=column == "skeleton") for n, r, _ in frame.sections]
    window = contrast_window(planes)
    is_labels = preview.kind == "labels"
    for (normal, rows, below), plane in zip(frame.sections, planes, strict=True):
        shades = np.full(plane.shape, DARK, np.uint8) if is_labels else gray(plane, window)
        pixels = np.repeat(shades[..., None], 3, axis=2)
        if is_labels and column == "before":
            pixels = _colored(pixels, plane)
        elif column == "labels" and shown.labels is not None:
            pixels = _colored(pixels, frame.cut(shown.labels, normal, rows))
        page.paste(pixels, (left, top + below))
        if column == "skeleton" and shown.curves_um is not None:
            colors = [_color(number) if is_labels else CURVE for number in shown.curve_objects]
            _draw_curves(page, frame, (left, top + below), rows, shown.curves_um, colors)
        called = "labels" if is_labels and column == "before" else column
        name = f"{called} xy" if normal == 0 else "xz"
        _outlined(page, (left + 8, top + below + 5), name if column != "skeleton" else _projected(name))
    if column == "before":
        _draw_bar(page, frame, (left, top))
    said = _said("labels" if preview.kind == "labels" and column == "before" else column, shown, window)
    page.text((left, top + frame.total + 7), said, FAINT, size=14)


def _projected(name: str) -> str:
    return f"{name} (projection)" if name.endswith("xy") else name


def _said(column: str, shown: Shown, window: tuple[float, float]) -> str:
    facts = shown.facts
    if column == "labels":
        return ", ".join(facts[name] for name in ("objects", "foreground") if name in facts)
    if column == "skeleton":
        return facts.get("skeleton", "")
    return f"black {window[0]:.4g}, white {window[1]:.4g}"


def _colored(pixels: Pixels, labels: NDArray[Any]) -> Pixels:
    """The picture with objects in their colours, a dark line between those that touch and a plain one around."""
    own = TOL[_hashed(labels)]
    found = np.where((labels > 0)[..., None], FILL * own + (1 - FILL) * pixels, pixels)
    full = np.where((labels > 0)[..., None], own, pixels)
    outer, between = _borders(labels)
    found[outer] = full[outer]
    found[between] = LINE
    return np.round(found).astype(np.uint8)


def _hashed(labels: NDArray[Any]) -> NDArray[np.int64]:
    """A colour for each id, by multiplicative hashing (Knuth): neighbouring ids get unlike ones."""
    mixed = labels.astype(np.uint64) * np.uint64(2654435761) % np.uint64(2**32)
    return (mixed * np.uint64(len(TOL)) >> np.uint64(32)).astype(np.int64)


def _color(number: int) -> Color:
    red, green, blue = (int(value) for value in TOL[_hashed(np.array(number))])
    return red, green, blue


def _borders(labels: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels of objects beside background, and beside other objects."""
    outer, between = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
    for axis in (0, 1):
        for width in (1, 2):
            if labels.shape[axis] <= width:
                continue
            ahead = labels.take(range(width, labels.shape[axis]), axis)
            behind = labels.take(range(labels.shape[axis] - width), axis)
            differ, objects = ahead != behind, (ahead > 0) & (behind > 0)
            first = tuple(slice(0, -width) if a == axis else slice(None) for a in (0, 1))
            second = tuple(slice(width, None) if a == axis else slice(None) for a in (0, 1))
            outer[first] |= differ & ~objects & (behind > 0)
            outer[second] |= differ & ~objects & (ahead > 0)
            if width == 1:
                between[first] |= differ & objects
                between[second] |= differ & objects
    return outer, between


def _draw_curves(
    page: Page,
    frame: _Frame,
    at: Point,
    rows: int,
    curves: Sequence[NDArray[np.float64]],
    colors: Sequence[Color],
) -> None:
    """Branches projected onto a section, as far as they lie in the region."""
    low, high = np.array(frame.low), np.array(frame.high)
    for points, color in zip(curves, colors, strict=True):
        inside: NDArray[np.bool_] = np.all((points >= low) & (points <= high), axis=1)
        x, y = ((points[:, axis] - frame.low[axis]) / frame.pixel for axis in (2, rows))
        placed = [(at[0] + float(a), at[1] + float(b)) for a, b in zip(x, y, strict=True)]
        for first, last in _runs(inside):
            if last - first == 1:
                page.dot(placed[first], 1.4, color)
            else:
                page.line(placed[first:last], color, 1.5)


def _runs(flags: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Starts and ends of what is true."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _outlined(page: Page, at: Point, text: str, *, size: int = 15, anchor: str = "la") -> None:
    """White words with a dark rim, which are read on any grey."""
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            page.text((at[0] + dx, at[1] + dy), text, (0, 0, 0), size=size, anchor=anchor)
    page.text(at, text, (255, 255, 255), size=size, anchor=anchor)


def _draw_bar(page: Page, frame: _Frame, at: Point) -> None:
    """A length of 1, 2 or 5 times a power of ten um, about a quarter of the section."""
    length = round_length(frame.width * frame.pixel / 4)
    wide = length / frame.pixel
    right, foot = at[0] + frame.width - 12, at[1] + frame.height(1) - 12
    page.rectangle((right - wide - 1.5, foot - 6.5), (right + 1.5, foot + 1.5), (0, 0, 0))
    page.rectangle((right - wide, foot - 5), (right, foot), (255, 255, 255))
    _outlined(page, (right - wide / 2, foot - 9), f"{tick_text(length)} um", anchor="md")


def _charts_height(shown: Shown) -> float:
    return (CHART + 56 if shown.histogram else 0) + (CHART + 24 if shown.psf else 0)


def _draw_charts(page: Page, at: Point, shown: Shown) -> None:
    left, top = at
    if shown.histogram is not None:
        _draw_histogram(page, (left, top), shown.histogram)
        top += CHART + 56
    if shown.psf is not None:
        _draw_psf(page, (left, top), shown.psf)


def _draw_histogram(page: Page, at: Point, histogram: Histogram) -> None:
    """Counts on a logarithmic axis, and where the threshold is."""
    value = histogram.threshold
    counts, edges, _ = shortened(histogram.counts, histogram.edges, float(edges_high(histogram)))
    counts, edges = _coarser(counts, edges)
    left, foot, width, height = at[0], at[1] + CHART, CHARTS, CHART - 24
    tallest = log10(max(float(counts.max()), 1.0)) + 0.15
    low, high = float(edges[0]), float(edges[-1])

    def x(grey: float) -> float:
        return left + width * (grey - low) / (high - low)

    for n, a, b in zip(counts, edges[:-1], edges[1:], strict=True):
        if n > 0:
            is_above = value is not None and (a + b) / 2 > value
            bar = height * (log10(float(n)) + 0.15) / (tallest + 0.15)
            page.rectangle((x(float(a)), foot - bar), (x(float(b)), foot), ABOVE if is_above else BELOW)
    page.line([(left, foot), (left + width, foot)], INK)
    step = round_length((high - low) / 3)
    for k in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1):
        page.line([(x(k * step), foot), (x(k * step), foot + 5)], INK)
        page.text((x(k * step), foot + 8), tick_text(k * step), size=13, anchor="ma")
    page.text((left, foot + 26), "grey values that the threshold sees; voxels, log scale", FAINT, size=13)
    if value is None:
        page.text((left, at[1]), f"{histogram.name}: a threshold for each voxel", INK, size=15)
        return
    page.text((left, at[1]), f"threshold {value:.5g} ({histogram.name})", ACCENT, size=15)
    if low <= value <= high:
        page.line([(x(value), at[1] + 22), (x(value), foot + 4)], ACCENT, 2)


def edges_high(histogram: Histogram) -> float:
    """What must not be cut off a histogram: the threshold."""
    return float(histogram.edges[0]) if histogram.threshold is None else histogram.threshold


def _coarser(counts: NDArray[Any], edges: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Equal bars of whole bins, about `SHOWN_BINS` of them."""
    each = max(1, -(-len(counts) // SHOWN_BINS))
    starts = np.arange(0, len(counts), each)
    return np.add.reduceat(counts, starts).astype(np.int64), np.append(edges[starts], edges[-1]).astype(np.float64)


def _draw_psf(page: Page, at: Point, psf: ShownPsf) -> None:
    """Its xy and xz sections at one scale, and the full widths at half maximum."""
    peak = np.unravel_index(int(psf.voxels.argmax()), psf.voxels.shape)
    part, start = _around(psf, [int(p) for p in peak])
    size = [n * v for n, v in zip(part.shape, psf.voxel_um, strict=True)]
    height = CHART - 44
    scale = min((CHARTS - GAP) / (2 * size[2]), height / max(size[1], size[0]))
    left, top = at[0], at[1] + 24
    page.text(at, "PSF, xy and xz", INK, size=15)
    centre = [p - s for p, s in zip(peak, start, strict=True)]
    for rows, section in ((1, part[centre[0]]), (0, part[:, centre[1]])):
        if rows == 0 and part.shape[0] == 1:
            continue
        shape = (max(1, round(size[rows] * scale * FINER)), max(1, round(size[2] * scale * FINER)))
        page.paste(section_pixels(section / part.max(), shape), (left, top))
        left += size[2] * scale + GAP
    widths = BY.join("?" if w is None or not isfinite(w) else f"{w:.3g}" for w in psf.fwhm_um)
    page.text((at[0], top + max(size[1], size[0]) * scale + 7), f"FWHM {widths} um (z, y, x)", FAINT, size=14)


def _around(psf: ShownPsf, peak: Sequence[int]) -> tuple[NDArray[np.float32], list[int]]:
    """The part of a PSF that is a few widths around its peak, and where it begins."""
    spans = []
    for p, n, voxel, width in zip(peak, psf.voxels.shape, psf.voxel_um, psf.fwhm_um, strict=True):
        reach = n if width is None or not isfinite(width) else max(2, round(1.5 * width / voxel))
        spans.append(slice(max(0, p - reach), min(n, p + reach + 1)))
    return psf.voxels[tuple(spans)], [span.start for span in spans]
