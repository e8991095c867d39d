"""Charts of columns of numbers as SVG, which takes its colours from the page.

      12 +-----------------+      One size for all, in units of the SVG; y runs down, as in every SVG:
         |  __             |      bars or a line between x = 58 and 448, foot at y = 172, labels left and below.
         | |  |__   __     |      Axes are linear or logarithmic, with ticks at 1, 2, 5 times a power of ten.
     172 +-----------------+
        58               448

A bar is one path, so a chart is small for the hundreds of bars it is made for; histograms of more are shortened first.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAME_VALUE = 1e-6
"""Relative difference below which values are drawn as one: they differ by rounding."""
CHART_BINS = 240
SHOWN_SHARE = 0.999
"""Of the values in a histogram; the largest few would squeeze the rest."""


def round_length(longest: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten up to `longest`: for scale bars and ticks."""
    power = 10.0 ** floor(log10(longest))
    return power * max(step for step in (1, 2, 5) if step * power <= longest * (1 + 1e-9))


def distribution(values: NDArray[np.float64], label: str, *, what: str) -> str:
    """An SVG histogram of a column; logarithmic where it spans more than a factor of 50."""
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    low, high = float(values.min()), float(values.max())
    if high - low <= SAME_VALUE * max(abs(low), abs(high)):
        half = abs(low) / 10 or 0.5
        edges = np.array([low - half, high + half])
        return chart(np.array([len(values)]), edges, x_label=label, y_label=what)
    bins = int(np.clip(np.sqrt(len(values)) * 1.5, 8, 40))
    is_log = low > 0 and high / low > 50
    edges = np.geomspace(low, high, bins + 1) if is_log else np.linspace(low, high, bins + 1)
    edges[0], edges[-1] = low, high
    return chart(np.histogram(values, edges)[0], edges, x_label=label, y_label=what, log_x=is_log)


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
) -> str:
    """Bars as SVG.

    Parameters
    ----------
    counts, edges : (N,) and (N + 1,), ascending.
    marker : an x value to draw a line at.
    """
    x = _Axis(float(edges[0]), float(edges[-1]), 58, 448, log_x)
    top = max(1.0, float(counts.max()))
    y = _Axis(0.5 if log_y else 0.0, top * (1.6 if log_y else 1.05), 172, 12, log_y)
    bars = "".join(
        f"<path d='M{left:.1f} 172V{y.at(count):.1f}H{right:.1f}V172Z'/>"
        for left, right, count in zip(x.at(edges[:-1]), x.at(edges[1:]), counts, strict=True)
        if count > 0
    )
    y_ticks = [t for t in y.ticks() if t == round(t)]
    marker_at = None if marker is None else (marker, marker_label)
    return _drawn(f"<g class='bars'>{bars}</g>", (x, x.ticks()), (y, y_ticks), (x_label, y_label), marker_at)


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
    x = _Axis(first, first + len(values) - 1, 58, 448, False)
    y = _Axis(low / 1.2, high * 1.2, 172, 12, True) if is_log else _Axis(low - margin, high + margin, 172, 12, False)
    points = " ".join(f"{x.at(first + k):.1f},{y.at(value):.1f}" for k, value in zip(known, values[known], strict=True))
    marker_at = None if marker is None else (float(marker), marker_label)
    x_ticks = [t for t in x.ticks() if t == round(t)]
    content = f"<polyline class='line' points='{points}'/>"
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
        f"<line class='grid' x1='58' x2='448' y1='{y_axis.at(t):.1f}' y2='{y_axis.at(t):.1f}'/>"
        f"<text x='52' y='{y_axis.at(t) + 4:.1f}' text-anchor='end'>{tick_text(t)}</text>"
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
        f"{content}<line class='axis' x1='58' x2='448' y1='172' y2='172'/>{over}"
        f"<text x='253' y='210' text-anchor='middle'>{escape(x_label)}</text>"
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
