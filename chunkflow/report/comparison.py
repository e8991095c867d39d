"""Plots of a comparison, the page that holds them, and its methods paragraph.

     500 |    .            Left, values in their unit: files are small and pale, replicates large and in a colour of
         |   :O.    .      their own with a shape, the line is the mean over replicates. Right, what each condition
         |   .O    :O:     differs from the control by, with its interval; the dashed line is no difference.
       0 +----ctrl---drug  Every point of a file lies beside its replicate's; jitter is fixed, so the same data draw the
                           same picture. Colours are Okabe and Ito's, told apart by shape too.

Each plot is an SVG file of its own, black on white, text as text, for papers and slides; the page holds them all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from importlib.resources import files
from math import ceil, floor, isfinite
from pathlib import Path
from string import Template
from time import time
from typing import Any

import pandas as pd

from chunkflow.errors import InputNotFoundError
from chunkflow.report.charts import round_length, tick_text
from chunkflow.report.html import counted, date, html_table, number, short
from chunkflow.report.methods import Citations, Scope, methods_text
from chunkflow.run.batch_state import RUN, STATE
from chunkflow.run.batch_summary import read_summary
from chunkflow.run.compare import Comparison, unit_of, words_of
from chunkflow.run.places import run_folder
from chunkflow.storage.files import write_atomic

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
"""Okabe & Ito, Color Universal Design, 2008; the yellow last."""
SHAPES = ("circle", "square", "triangle", "diamond", "down")
COLUMN_PX, TOP, FOOT, LEFT = 92, 14, 214, 66
GAP = 84
JITTER_PX = 13

STYLE = """
<style>
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(430px, 1fr)); gap: 18px; }
.plots figure { margin: 0; }
.plots svg { background: #fff; border: 1px solid var(--line); border-radius: 6px; max-width: 100%; height: auto; }
.scroll td { white-space: nowrap; }
pre.methods { white-space: pre-wrap; }
</style>
"""


def write_comparison(found: Comparison) -> Path:
    """Write comparison.html, a plot per measure and methods.txt into OUT/comparison; returns the page."""
    plots = {measure: plot(found, measure) for measure in found.measures}
    for measure, svg in plots.items():
        write_atomic(found.path / f"{measure}.svg", svg.encode())
    methods = methods_of(found)
    write_atomic(found.path / "methods.txt", methods.encode())
    body = STYLE + "".join(f"<div class='warning'>{escape(text)}</div>" for text in found.warnings)
    body += "<h2>Effects</h2>" + _table(found) + "<h2>Plots</h2><div class='plots'>"
    body += "".join(f"<figure>{svg}</figure>" for svg in plots.values()) + "</div>" + _caption(found)
    body += f"<h2>Methods</h2><pre class='methods'>{escape(methods)}</pre>"
    template = Template(files("chunkflow.report").joinpath("template.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=f"chunkflow: comparison of {escape(', '.join(found.conditions))}",
        lead=_lead(found),
        body=body,
        footer=f"Written by chunkflow {version('chunkflow-engine')} on {date(time())}.",
    )
    path = found.path / "comparison.html"
    write_atomic(path, page.encode())
    return path


def _lead(found: Comparison) -> str:
    counts = []
    for name in found.conditions:
        rows = found.tidy[found.tidy["condition"] == name]
        counts.append(f"{escape(name)}: {rows['replicate'].nunique()} replicates of {rows['file'].nunique()} files")
    return "; ".join(counts) + "."


def _caption(found: Comparison) -> str:
    share = f"{found.questions.confidence:.0%}"
    return (
        "<p class='caption'>Small pale points are files, large ones replicates (means of their files), the line is the "
        f"mean over replicates. On the right: difference from {escape(found.conditions[0])} with its {share} interval "
        "over replicates. Every plot is an SVG file beside this page, every value in <a href='tidy.csv'>tidy.csv</a>, "
        "every effect in <a href='comparison.csv'>comparison.csv</a>.</p>"
    )


def _table(found: Comparison) -> str:
    share = f"{found.questions.confidence:.0%}"
    has_test = found.questions.test != "none"
    head = ["measure", "condition", "n", "mean", "difference", f"{share} interval", "ratio", "Hedges' g"]
    head += ["p", "p, corrected"] if has_test else []
    rows = []
    for row in found.effects.to_dict("records"):
        cells = [
            escape(words_of(str(row["measure"])) + (f", {row['unit']}" if row["unit"] else "")),
            escape(f"{row['condition']} − {row['control']}"),
            f"{row['n_condition']}, {row['n_control']}",
            f"{number(row['mean_condition'])}, {number(row['mean_control'])}",
            f"{number(row['difference'], sign=True)}",
            _span(row["low"], row["high"]),
            f"{number(row['ratio'], 3)}<br>{_span(row['ratio_low'], row['ratio_high'])}",
            f"{number(row['hedges_g'], 3)}<br>{_span(row['hedges_g_low'], row['hedges_g_high'])}",
        ]
        cells += [number(row["p"], 3), number(row["p_corrected"], 3)] if has_test else []
        rows.append(cells)
    return html_table(head, rows, texts={0, 1})


def _span(low: float, high: float) -> str:
    return f"{number(low, 3)} to {number(high, 3)}" if isfinite(low) and isfinite(high) else "no interval"


def methods_of(found: Comparison) -> str:
    """The methods paragraph of batch and comparison, from the run of its first image."""
    table = read_summary(found.batch)
    done = table[table["status"] == "done"]
    plans = [run_folder(found.batch / str(name)) / "plan.json" for name in done["result"]]
    first = next((plan for plan in plans if plan.is_file()), None)
    if first is None:
        raise InputNotFoundError(
            f"no result of {found.batch} is there any more", "Run the batch again into that folder"
        )
    stored = json.loads(first.read_text(encoding="utf-8"))
    state = json.loads((found.batch / RUN / STATE).read_text(encoding="utf-8"))
    shared = None
    if state.get("threshold") is not None:
        shared = float(state["threshold"]), str(state.get("threshold_method", ""))
    scope = Scope(
        images=int(done["file"].nunique()), shared_threshold=shared, more=(lambda cite: _statistics(found, cite),)
    )
    return methods_text(stored, scope)


def _statistics(found: Comparison, cite: Citations) -> str:
    """How conditions were compared."""
    asked, effects = found.questions, found.effects
    kinds = list(dict.fromkeys(effects["interval"])) if len(effects) else []
    share = f"{asked.confidence:.0%}"
    counts = ", ".join(
        f"{name}: {rows['replicate'].nunique()} replicates, {rows['file'].nunique()} images"
        for name in found.conditions
        for rows in [found.tidy[found.tidy["condition"] == name]]
    )
    text = f"Replicates were the unit of analysis{cite('superplots')} ({counts}): values of images were averaged within"
    text += f" each replicate. Differences from {found.conditions[0]} are given with {share} confidence intervals"
    text += " (bootstrap over replicates, 4,999 resamples, percentiles widened by Student's t"
    if asked.paired:
        text += f" with one less than pairs degrees of freedom{cite('davison')}"
    else:
        text += f" with Welch's degrees of freedom{cite('davison', 'welch')}"
    text += ")" if "bootstrap" in kinds else "; none, with one replicate)"
    text += f"; Hedges' g with intervals of the noncentral t distribution{cite('hedges')}."
    if asked.test == "permutation":
        within = "swapping the members of pairs" if asked.paired else "permuting the labels of replicates"
        text += f" P values are two-sided, from {within}."
    if asked.test == "mixed":
        text += (
            f" P values are from linear mixed models with replicates as random intercepts (REML){cite('statsmodels')}, "
            "referred to t with replicates minus two degrees of freedom."
        )
    names = {"bh": "Benjamini and Hochberg", "holm": "Holm"}
    if asked.test != "none" and asked.correction in names:
        text += f" They were corrected for {counted(len(effects), 'test')} after {names[asked.correction]}"
        text += f"{cite(asked.correction)}."
    return text


@dataclass(frozen=True, slots=True)
class _Scale:
    """Values from the foot of a plot to its top."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> _Scale:
        """The values with some room; from 0 where they are near it."""
        known = [value for value in values if isfinite(value)] or [0.0, 1.0]
        low, high = min(known), max(known)
        if low >= 0 and low < 0.5 * high:
            low = 0.0
        room = 0.06 * (high - low) or abs(high) / 10 or 0.5
        return cls(low if low == 0 else low - room, high + room)

    def at(self, value: float) -> float:
        return FOOT - (value - self.low) / (self.high - self.low) * (FOOT - TOP)

    def ticks(self) -> list[float]:
        step = round_length((self.high - self.low) / 4)
        return [step * k for k in range(ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9) + 1)]


def plot(found: Comparison, measure: str) -> str:
    """One measure as an SVG: files and replicates of every condition, and differences with intervals."""
    rows = found.tidy[(found.tidy["measure"] == measure) & found.tidy["value"].notna()]
    effects = found.effects[found.effects["measure"] == measure] if len(found.effects) else found.effects
    count = len(found.conditions)
    right = LEFT + count * COLUMN_PX
    width = right + GAP + max(1, count - 1) * COLUMN_PX + 16
    label = words_of(measure) + (f" ({unit_of(measure)})" if unit_of(measure) else "")
    parts = [_values(found, rows, label), _differences(found, effects, right + GAP, measure)]
    title = escape(f"{label}: {', '.join(found.conditions)}", quote=True)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} 268' width='{width}' height='268' role='img' "
        f"aria-label='{title}' font-family='Helvetica, Arial, sans-serif' font-size='12' fill='#222'>"
        f"<rect width='{width}' height='268' fill='#fff'/>{''.join(parts)}</svg>"
    )


def _values(found: Comparison, rows: pd.DataFrame, label: str) -> str:
    scale = _Scale.over(rows["value"])
    right = LEFT + len(found.conditions) * COLUMN_PX
    drawn = [_axis(scale, LEFT, right, label)]
    styles = _styles(found, rows)
    for place, name in enumerate(found.conditions):
        centre = LEFT + (place + 0.5) * COLUMN_PX
        own = rows[rows["condition"] == name]
        means = own.groupby("replicate", sort=True)["value"].mean()
        drawn += [_files(own, means, centre, scale, styles, name), _replicates(means, centre, scale, styles, name)]
        if len(means):
            y = scale.at(float(means.mean()))
            drawn.append(
                f"<line x1='{centre - 32:.1f}' x2='{centre + 32:.1f}' y1='{y:.1f}' y2='{y:.1f}' stroke='#222' "
                "stroke-width='2'/>"
            )
        drawn.append(_name(name, centre, f"n = {len(means)}"))
    return "".join(drawn)


def _styles(found: Comparison, rows: pd.DataFrame) -> dict[tuple[str, str], tuple[str, str]]:
    """Colour and shape of each replicate; of pairs, the same in every condition."""
    styles = {}
    paired = found.questions.paired
    names = sorted(rows["replicate"].unique())
    for condition in found.conditions:
        own = names if paired else sorted(rows.loc[rows["condition"] == condition, "replicate"].unique())
        for k, name in enumerate(own):
            styles[condition, name] = (PALETTE[k % len(PALETTE)], SHAPES[k % len(SHAPES)])
    return styles


def _spread(count: int) -> list[float]:
    """Where points stand side by side: evenly, from the left."""
    return [0.0] if count == 1 else [-1 + 2 * k / (count - 1) for k in range(count)]


def _files(rows: pd.DataFrame, means: pd.Series[Any], centre: float, scale: _Scale, styles: Any, condition: str) -> str:
    drawn = []
    offsets = dict(zip(means.index, _spread(len(means)), strict=True))
    crowd = min(JITTER_PX, 26 / max(1, len(means)))
    for name, own in rows.groupby("replicate", sort=True):
        if len(own) == 1:
            continue  # the replicate's point is the file's
        color, _ = styles[condition, name]
        middle = centre + 26 * offsets[name]
        for k, value in enumerate(own["value"]):
            x = middle + crowd * ((k * 0.6180339887) % 1 * 2 - 1)
            drawn.append(f"<circle cx='{x:.1f}' cy='{scale.at(value):.1f}' r='2.4' fill='{color}' fill-opacity='.4'/>")
    return "".join(drawn)


def _replicates(means: pd.Series[Any], centre: float, scale: _Scale, styles: Any, condition: str) -> str:
    places = [centre + 26 * offset for offset in _spread(len(means))]
    return "".join(
        _mark(x, scale.at(float(value)), *styles[condition, name], title=f"{name}: {short(value)}")
        for x, (name, value) in zip(places, means.items(), strict=True)
    )


def _mark(x: float, y: float, color: str, shape: str, *, title: str) -> str:
    """A replicate's mean."""
    outline = f"fill='{color}' stroke='#fff' stroke-width='1.2'"
    words = f"<title>{escape(title)}</title>"
    if shape == "circle":
        return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='5.2' {outline}>{words}</circle>"
    corners = {
        "square": ((-4.6, -4.6), (4.6, -4.6), (4.6, 4.6), (-4.6, 4.6)),
        "triangle": ((0, -6.2), (5.6, 4.2), (-5.6, 4.2)),
        "diamond": ((0, -6.4), (5.4, 0), (0, 6.4), (-5.4, 0)),
        "down": ((0, 6.2), (5.6, -4.2), (-5.6, -4.2)),
    }[shape]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f"<polygon points='{points}' {outline}>{words}</polygon>"


def _differences(found: Comparison, effects: pd.DataFrame, left: float, measure: str) -> str:
    ends = [*effects["difference"], *effects["low"], *effects["high"]] if len(effects) else []
    known = [float(value) for value in ends if isfinite(value)]
    scale = _Scale.over([0.0, *known] if min([0.0, *known]) < 0 else [0.0, *known, -0.04 * max([0.0, *known, 1e-12])])
    right = left + max(1, len(found.conditions) - 1) * COLUMN_PX
    unit = unit_of(measure)
    zero = scale.at(0.0)
    drawn = [_axis(scale, left, right, f"difference ({unit})" if unit else "difference")]
    drawn.append(
        f"<line x1='{left}' x2='{right}' y1='{zero:.1f}' y2='{zero:.1f}' stroke='#222' stroke-dasharray='4 3'/>"
    )
    for place, row in enumerate(effects.to_dict("records")):
        centre = left + (place + 0.5) * COLUMN_PX
        if isfinite(row["low"]) and isfinite(row["high"]):
            drawn.append(
                f"<line x1='{centre:.1f}' x2='{centre:.1f}' y1='{scale.at(row['low']):.1f}' "
                f"y2='{scale.at(row['high']):.1f}' stroke='#222' stroke-width='2.4'/>"
            )
        drawn.append(f"<circle cx='{centre:.1f}' cy='{scale.at(row['difference']):.1f}' r='4.6' fill='#222'/>")
        p = f"p = {short(row['p_corrected'], 2)}" if "p_corrected" in row and isfinite(row["p_corrected"]) else ""
        drawn.append(_name(f"{row['condition']} − {row['control']}", centre, p))
    return "".join(drawn)


def _axis(scale: _Scale, left: float, right: float, label: str) -> str:
    marks = "".join(
        f"<line x1='{left}' x2='{right}' y1='{scale.at(t):.1f}' y2='{scale.at(t):.1f}' stroke='#e3e3e3'/>"
        f"<text x='{left - 6}' y='{scale.at(t) + 4:.1f}' text-anchor='end'>{tick_text(t).replace('-', '−')}</text>"
        for t in scale.ticks()
    )
    middle = (TOP + FOOT) / 2
    return (
        f"{marks}<line x1='{left}' x2='{left}' y1='{TOP}' y2='{FOOT}' stroke='#222'/>"
        f"<text transform='translate({left - 52} {middle}) rotate(-90)' text-anchor='middle'>{escape(label)}</text>"
    )


def _name(name: str, centre: float, below: str) -> str:
    """What a column is, under it; long names are cut, and whole on hovering."""
    cut = name if len(name) <= 16 else f"{name[:15]}…"
    return (
        f"<text x='{centre:.1f}' y='234' text-anchor='middle'>{escape(cut)}<title>{escape(name)}</title></text>"
        f"<text x='{centre:.1f}' y='251' text-anchor='middle' fill='#555' font-size='11'>{escape(below)}</text>"
    )
