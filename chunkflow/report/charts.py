"""Charts of columns of numbers as SVG, which takes its colours from the page.

      12 +-----------------+      One size for all, in units of the SVG; y runs down, as in every SVG:
         |  __             |      bars or lines between x = LEFT and RIGHT, foot at y = 172, labels left and below.
         | |  |__   __     |      Axes are linear or logarithmic, with ticks at 1, 2, 5 times a power of ten.
     172 +-----------------+
       LEFT              RIGHT

A bar is one path, so a chart is small for the hundreds of bars it is made for; histograms of more are shortened first.
What a bar stands for is its title, which browsers show under the pointer: no script is needed, and the page prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAME_VALUE = 1e-6
"""Relative difference below which values are drawn as one: they differ by rounding."""
CHART_BINS = 240
LEFT, RIGHT = 72, 448
"""Of the axes; ticks of five digits and the label turned upright fit to the left."""
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#b8a800")
"""Told apart by the colour-blind (Okabe and Ito, Color Universal Design, 2008), the yellow darkened for white pages."""
OTHERS = "#8a8f94"
DASHES = ("", "6 3", "2 2", "8 3 2 3")
SHOWN_SHARE = 0.999
"""Of the values in a histogram; the largest few would squeeze the rest."""


def round_length(longest: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten up to `longest`: for scale bars and ticks."""
    power = 10.0 ** floor(log10(longest))
    return power * max(step for step in (1, 2, 5) if step * power <= longest * (1 + 1e-9))


def distribution(values: Callable[[], Iterable[NDArray[np.float64]]], label: str, *, what: str) -> str:
    """An SVG histogram of a column; logarithmic where it spans more than a factor of 50.

    Parameters
    ----------
    values : gives all values, some at a time; is called twice, for their range and to count them.
    """
    span = span_of(values())
    if not span.count:
        return ""
    edges, is_log = bins_of(span)
    return chart(counts_in(values(), edges), edges, x_label=label, y_label=what, log_x=is_log)


@dataclass(frozen=True, slots=True)
class Span:
    """How many finite values there are, and the least and the largest."""

    count: int
    low: float
    high: float


def span_of(values: Iterable[NDArray[np.float64]]) -> Span:
    """Of values that come some at a time, those that are finite."""
    each = (some[np.isfinite(some)] for some in values)
    known = [Span(len(some), float(some.min()), float(some.max())) for some in each if len(some)]
    if not known:
        return Span(0, 0.0, 0.0)
    return Span(sum(s.count for s in known), min(s.low for s in known), max(s.high for s in known))


def bins_of(span: Span) -> tuple[NDArray[np.float64], bool]:
    """Edges of the bars for finite values (at least one), and whether they are logarithmic."""
    low, high = span.low, span.high
    if high - low <= SAME_VALUE * max(abs(low), abs(high)):
        half = abs(low) / 10 or 0.5
        return np.array([low - half, high + half]), False
    bins = int(np.clip(np.sqrt(span.count) * 1.5, 8, 40))
    is_log = low > 0 and high / low > 50
    edges = np.geomspace(low, high, bins + 1) if is_log else np.linspace(low, high, bins + 1)
    edges[0], edges[-1] = low, high
    return edges, is_log


def counts_in(values: Iterable[NDArray[np.float64]], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of the finite values lie in each bin."""
    counts = np.zeros(len(edges) - 1, np.int64)
    for some in values:
        counts += np.histogram(some[np.isfinite(some)], edges)[0]
    return counts


def counts_of(number: Mapping[int, int], label: str, *, what: str) -> str:
    """An SVG of how often each whole number occurs; logarithmic upwards where that differs by more than 50 times."""
    if not number:
        return ""
    low, high = min(number), max(number)
    counts = np.zeros(high - low + 1, np.int64)
    for value, times in number.items():
        counts[value - low] = times
    edges = np.arange(low, high + 2, dtype=np.float64) - np.float64(0.5)
    if len(counts) > CHART_BINS:
        counts, edges, _ = shortened(counts, edges, float(high))
    is_log = int(counts.max()) > 50 * int(counts[counts > 0].min())
    return chart(counts, edges, x_label=label, y_label=what, log_y=is_log, whole=True)


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of a chart: from values to positions on the page."""

    low: float
    high: float
    start: float
    stop: float
    log: bool

    def at(self, value: Any) -> Any:
        a, b, v = (np.log10(n) if self.log else np.asarray(n, float) for n in (self.low, self.high, value))
        return self.start + (v - a) / (b - a) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        if self.log:
            powers = range(ceil(log10(self.low) - 1e-9), floor(log10(self.high) + 1e-9) + 1)
            if len(powers) > 2:
                return [10.0**power for power in powers]
            decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
            return [step * 10.0**p for p in decades for step in (1, 2, 5) if self.low <= step * 10.0**p <= self.high]
        step = round_length((self.high - self.low) / 4)
        return [step * k for k in range(ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9) + 1)]


def chart(
    counts: NDArray[Any],
    edges: NDArray[np.float64],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    marker: float | None = None,
    marker_label: str = "",
    whole: bool = False,
) -> str:
    """Bars as SVG.

    Parameters
    ----------
    counts, edges : (N,) and (N + 1,), ascending.
    marker : an x value to draw a line at.
    whole : bars stand for whole numbers, in the middle between edges.
    """
    x = _Axis(float(edges[0]), float(edges[-1]), LEFT, RIGHT, log_x)
    top = max(1.0, float(counts.max()))
    y = _Axis(0.5 if log_y else 0.0, top * (1.6 if log_y else 1.05), 172, 12, log_y)
    bars = "".join(
        f"<path d='M{left:.1f} 172V{y.at(count):.1f}H{right:.1f}V172Z'><title>{escape(title)}</title></path>"
        for left, right, count, title in zip(
            x.at(edges[:-1]), x.at(edges[1:]), counts, _titles(counts, edges, y_label, whole), strict=True
        )
        if count > 0
    )
    y_ticks = [t for t in y.ticks() if t == round(t)]
    marker_at = None if marker is None else (marker, marker_label)
    x_ticks = [t for t in x.ticks() if t == round(t)] if whole else x.ticks()
    return _drawn(f"<g class='bars'>{bars}</g>", (x, x_ticks), (y, y_ticks), (x_label, y_label), marker_at)


def _titles(counts: NDArray[Any], edges: NDArray[np.float64], what: str, whole: bool) -> list[str]:
    """What each bar stands for."""
    ends = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    if whole and len(edges) > 1 and edges[1] - edges[0] == 1:
        return [f"{round(low + 0.5):,}: {count:,} {what}" for low, _, count in ends]
    return [f"{low:.4g} to {high:.4g}: {count:,} {what}" for low, high, count in ends]


def line(
    values: NDArray[np.float64],
    *,
    first: int,
    x_label: str,
    y_label: str,
    marker: int | None = None,
    marker_label: str = "",
) -> str:
    """Values of successive whole numbers as an SVG; logarithmic where they span more than a factor of 50.

    Parameters
    ----------
    values : (N,), the first at x = `first`. Those that are not finite are left out; empty with fewer than two others.
    marker : an x value to draw a line at.
    """
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 2:
        return ""
    low, high = float(values[known].min()), float(values[known].max())
    is_log = low > 0 and high / low > 50
    margin = 0.05 * (high - low) if high - low > SAME_VALUE * max(abs(low), abs(high)) else abs(low) / 10 or 0.5
    x = _Axis(first, first + len(values) - 1, LEFT, RIGHT, False)
    y = _Axis(low / 1.2, high * 1.2, 172, 12, True) if is_log else _Axis(low - margin, high + margin, 172, 12, False)
    places = [(f"{x.at(first + k):.1f}", f"{y.at(value):.1f}") for k, value in zip(known, values[known], strict=True)]
    points = " ".join(f"{across},{up}" for across, up in places)
    marker_at = None if marker is None else (float(marker), marker_label)
    x_ticks = [t for t in x.ticks() if t == round(t)]
    content = f"<polyline class='line' points='{points}'/>"
    if len(known) <= CHART_BINS:
        told = [f"{first + k:,}: {tick_text(float(f'{values[k]:.4g}'))} {y_label}" for k in known.tolist()]
        dots = (
            f"<circle cx='{across}' cy='{up}' r='6' fill='transparent'><title>{escape(text)}</title></circle>"
            for (across, up), text in zip(places, told, strict=True)
        )
        content += "".join(dots)
    return _drawn(content, (x, x_ticks), (y, y.ticks()), (x_label, y_label), marker_at)


def _drawn(
    content: str,
    x: tuple[_Axis, list[float]],
    y: tuple[_Axis, list[float]],
    labels: tuple[str, str],
    marker: tuple[float, str] | None,
) -> str:
    """An SVG of axes with ticks, labels of x and y, what is drawn between them, and a marker."""
    (x_axis, x_ticks), (y_axis, y_ticks), (x_label, y_label) = x, y, labels
    marks = [
        f"<line class='grid' x1='{LEFT}' x2='{RIGHT}' y1='{y_axis.at(t):.1f}' y2='{y_axis.at(t):.1f}'/>"
        f"<text x='{LEFT - 6}' y='{y_axis.at(t) + 4:.1f}' text-anchor='end'>{tick_text(t)}</text>"
        for t in y_ticks
    ]
    marks += [
        f"<line class='axis' x1='{x_axis.at(t):.1f}' x2='{x_axis.at(t):.1f}' y1='172' y2='176'/>"
        f"<text x='{x_axis.at(t):.1f}' y='190' text-anchor='middle'>{tick_text(t)}</text>"
        for t in x_ticks
    ]
    over = "" if marker is None else _marker(float(x_axis.at(marker[0])), marker[1])
    label = escape(f"{y_label} against {x_label}", quote=True)
    return (
        f"<svg class='chart' viewBox='0 0 460 216' role='img' aria-label='{label}'>{''.join(marks)}"
        f"{content}<line class='axis' x1='{LEFT}' x2='{RIGHT}' y1='172' y2='172'/>{over}"
        f"<text x='{(LEFT + RIGHT) / 2}' y='210' text-anchor='middle'>{escape(x_label)}</text>"
        f"<text transform='translate(12 92) rotate(-90)' text-anchor='middle'>{escape(y_label)}</text></svg>"
    )


def _marker(x: float, text: str) -> str:
    side, shift = ("end", -5) if x > 300 else ("start", 5)
    return (
        f"<line class='marker' x1='{x:.1f}' x2='{x:.1f}' y1='8' y2='172'/>"
        f"<text class='marker' x='{x + shift:.1f}' y='20' text-anchor='{side}'>{escape(text)}</text>"
    )


def tick_text(value: float) -> str:
    """A round number as short as it can be read."""
    if value != 0 and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}".replace(".0e", "e").replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    return f"{value:,.6f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A row of numbers with a name and a colour of `PALETTE` or `OTHERS`."""

    name: str
    color: str
    values: NDArray[np.float64]


def stacked(series: Sequence[Series], edges: NDArray[np.float64], *, x_label: str, y_label: str, unit: str = "") -> str:
    """Bars on top of each other, one colour each: (N,) values for (N + 1,) edges."""
    total = np.sum([each.values for each in series], axis=0) if series else np.zeros(0)
    if not len(total) or total.max() <= 0:
        return ""
    x, y = (
        _Axis(float(edges[0]), float(edges[-1]), LEFT, RIGHT, False),
        _Axis(0, float(total.max()) * 1.05, 172, 12, False),
    )
    foot = np.zeros(len(total))
    groups = []
    for each in series:
        tops = foot + each.values
        bars = "".join(
            f"<path d='M{left:.1f} {y.at(low):.1f}V{y.at(high):.1f}H{right:.1f}V{y.at(low):.1f}Z'>"
            f"<title>{escape(each.name)}: {tick_text(float(f'{high - low:.3g}'))} {escape(unit)}</title></path>"
            for left, right, low, high in zip(x.at(edges[:-1]), x.at(edges[1:]), foot, tops, strict=True)
            if high - low > 0
        )
        groups.append(f"<g fill='{each.color}' shape-rendering='crispEdges'>{bars}</g>")
        foot = tops
    return _drawn("".join(groups), (x, x.ticks()), (y, y.ticks()), (x_label, y_label), None)


def overlaid(series: Sequence[Series], edges: NDArray[np.float64], *, x_label: str, y_label: str, log_x: bool) -> str:
    """Outlines of histograms over each other, to compare their shapes; dashes tell them apart too."""
    top = max((float(each.values.max()) for each in series if len(each.values)), default=0.0)
    if top <= 0:
        return ""
    x, y = _Axis(float(edges[0]), float(edges[-1]), LEFT, RIGHT, log_x), _Axis(0, top * 1.05, 172, 12, False)
    at = x.at(edges)
    drawn = []
    for number, each in enumerate(series):
        steps = " ".join(
            f"{left:.1f},{y.at(v):.1f} {right:.1f},{y.at(v):.1f}"
            for left, right, v in zip(at[:-1], at[1:], each.values, strict=True)
        )
        dash = f" stroke-dasharray='{DASHES[number % len(DASHES)]}'" if number else ""
        drawn.append(
            f"<polyline class='line' points='{steps}' style='stroke: {each.color}'{dash}>"
            f"<title>{escape(each.name)}</title></polyline>"
        )
    return _drawn("".join(drawn), (x, x.ticks()), (y, y.ticks()), (x_label, y_label), None)


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Names beside their colours, as HTML."""
    items = "".join(f"<span><i style='background: {color}'></i>{escape(name)}</span>" for name, color in entries)
    return f"<p class='legend'>{items}</p>"


def shortened(counts: NDArray[Any], edges: NDArray[Any], value: float) -> tuple[NDArray[Any], NDArray[Any], int]:
    """A histogram of at most `CHART_BINS` bars without its long tail, and how many voxels that leaves out.

    The tail is kept as far as half as many bins again as lie below `value`, which is to be seen.
    """
    last = int(np.searchsorted(np.cumsum(counts), SHOWN_SHARE * counts.sum())) + 1
    last = min(len(counts), max(last, int(1.5 * np.searchsorted(edges, value))))
    together = -(-last // CHART_BINS)
    starts = np.arange(0, last, together)
    bars = np.add.reduceat(counts[:last], starts)
    return bars, edges[np.append(starts, last)], int(counts[last:].sum())
