"""Several runs beside each other: what they were asked, what they found, and how long they took.

    OUT, OUT, ...  -->  parameters that differ; inputs, versions and kinds of compute that differ
                        numbers and their differences from the first run
                        distributions over each other
                        seconds of each pass

The first run is what the others are compared with. Values that all runs share are left out: what is not named is equal.
Numbers that are equal to the last bit say so; whether bits are equal is known from the fingerprints of passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any

from chunkflow.errors import UsageError
from chunkflow.report import charts
from chunkflow.report.distributions import SHOWN, values_of
from chunkflow.report.facts import QUANTITIES, RunFacts
from chunkflow.report.html import counted, date, duration, html_table, number, short, sides
from chunkflow.report.report import Section, page, part
from chunkflow.report.speed import pace_of
from chunkflow.run.result import open_result
from chunkflow.storage.files import write_atomic
from chunkflow.storage.stores import Place

MOST_RUNS = len(charts.PALETTE)
PASSES = 12
"""Passes that are named, those that took longest."""
NOT_ASKED = ("input.path", "output.path", "version")
"""Settings that are places, which differ without a meaning."""


def write_runs_compared(outputs: Sequence[str | Place], target: Path) -> Path:
    """Write a page that compares complete runs, and return its path.

    Raises
    ------
    UsageError : there are fewer than two runs, or more than there are colours.
    InputNotFoundError, IncompleteError : a folder holds no run, or one that has not ended well.
    """
    if not 2 <= len(outputs) <= MOST_RUNS:
        raise UsageError(
            f"{counted(len(outputs), 'run')} cannot be compared", f"Name two to {MOST_RUNS} output folders"
        )
    runs = [RunFacts(open_result(output)) for output in outputs]
    names = names_of([str(run.result.path) for run in runs])
    parts: tuple[Section, ...] = (
        ("Runs", lambda: _runs(runs, names)),
        ("What was asked differently", lambda: _asked(runs, names)),
        ("What was found", lambda: _found(runs, names)),
        ("Distributions", lambda: _distributions(runs, names)),
        ("Time", lambda: _time(runs, names)),
    )
    body = "\n".join(map(part, parts))
    lead = f"{counted(len(runs), 'run')}; differences are from the first, {escape(names[0])}."
    title = "chunkflow: " + " and ".join(names)
    footer = f"Written by chunkflow {escape(str(runs[0].stored['chunkflow']))} on {date(runs[0].written)}."
    write_atomic(target, page(title, lead, body, footer).encode())
    return target


def names_of(paths: Sequence[str]) -> list[str]:
    """The last parts of paths, as few as tell them apart; numbered where nothing does."""
    split = [path.rstrip("/").split("/") for path in paths]
    for count in range(1, max(len(parts) for parts in split) + 1):
        names = ["/".join(parts[-count:]) for parts in split]
        if len(set(names)) == len(names):
            return names
    return [f"{path} ({k})" for k, path in enumerate(paths, 1)]


def settings_of(run: RunFacts) -> dict[str, Any]:
    """Every parameter that a run was asked for by its name, as `--set` names it; and its blocks."""
    found: dict[str, Any] = {}
    for section in ("input", "output"):
        found |= dict(_flat(run.pipeline[section], section))
    for stage, values in run.stages.items():
        found |= {stage: "yes"} | dict(_flat(values, stage))
    return {name: value for name, value in found.items() if name not in NOT_ASKED} | {"block": run.plan["block"]}


def _flat(values: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{above}.{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, value


def _runs(runs: Sequence[RunFacts], names: Sequence[str]) -> str:
    """Which runs they are, and what beside their settings differs: input, versions, kind of compute."""
    rows = []
    facts: dict[str, Callable[[RunFacts], str]] = {
        "folder": lambda run: str(run.result.path),
        "input": lambda run: str(run.input_path),
        "voxels": lambda run: sides(run.plan["input"]["shape"]),
        "voxel, µm": lambda run: sides(run.plan["input"]["voxel_um"]),
        "chunkflow": lambda run: str(run.stored["chunkflow"]),
        "computed on": lambda run: str(run.stored["kind"]),
        "ended": lambda run: date(float(run.journal.ended["time"])) if run.journal.ended else "",
    }
    for words, tell in facts.items():
        cells = [tell(run) for run in runs]
        rows.append([escape(words), *(escape(cell) for cell in cells)])
    colors = charts.legend(zip(names, charts.PALETTE, strict=False))
    same = _same_passes(runs)
    return colors + html_table(("", *names), rows, texts=set(range(len(runs) + 1)), kind="facts") + f"<p>{same}</p>"


def _same_passes(runs: Sequence[RunFacts]) -> str:
    """How much of the runs is the same to the last bit, by fingerprints."""
    prints = [{p["name"]: run.stored["fingerprints"][p["name"]] for p in run.plan["passes"]} for run in runs]
    every = list(dict.fromkeys(name for known in prints for name in known))
    same = [name for name in every if len({known.get(name) for known in prints}) == 1]
    if len(same) == len(every):
        return (
            "All passes have the same input, parameters and kind of compute: the results are the same to the last bit."
        )
    if not same:
        return "No pass has the same input, parameters and kind of compute in all runs."
    return f"The same in all runs, to the last bit: {escape(', '.join(same))}."


def _asked(runs: Sequence[RunFacts], names: Sequence[str]) -> str:
    settings = [settings_of(run) for run in runs]
    every = list(dict.fromkeys(name for known in settings for name in known))
    rows = []
    for name in every:
        values = [None if known.get(name) == [] else known.get(name) for known in settings]  # shown alike
        if any(value != values[0] for value in values):
            rows.append([f"<code>{escape(name)}</code>", *(escape(_value(value)) for value in values)])
    if not rows:
        return "<p>Nothing: all parameters are equal.</p>"
    return html_table(("parameter", *names), rows, texts=set(range(len(runs) + 1)))


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_value(each) for each in value)
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return short(value, 6) if isinstance(value, int | float) else str(value)


def _found(runs: Sequence[RunFacts], names: Sequence[str]) -> str:
    """Totals of each run, with the difference from the first in its unit and in percent."""
    numbers = [run.numbers for run in runs]
    rows = []
    for name, (words, unit) in QUANTITIES.items():
        values = [known.get(name) for known in numbers]
        if all(value is None for value in values):
            continue
        cells = [number(values[0])]
        for value in values[1:]:
            cells += [number(value), _difference(values[0], value)]
        rows.append([escape(f"{words}, {unit}" if unit else words), *cells])
    if not rows:
        return "<p>These runs measured nothing.</p>"
    head = ["quantity", names[0]]
    for name in names[1:]:
        head += [name, "difference"]
    return html_table(head, rows, texts={0})


def _difference(first: float | None, value: float | None) -> str:
    if first is None or value is None:
        return ""
    if first == value:
        return "equal"
    share = f" ({'+' if value > first else '−'}{number(100 * abs((value - first) / first), 3)} %)" if first else ""
    return number(value - first, 3, sign=True).replace("-", "−", 1) + share


def _distributions(runs: Sequence[RunFacts], names: Sequence[str]) -> str:
    """Shares of objects and branches per bar, in the same bars for all runs."""
    drawn = []
    for table, column, label, what in SHOWN:
        given = [run.table(table) for run in runs]
        columns = [iter(()) if rows is None else values_of(rows, column) for rows in given]
        whole = charts.span_of(chain.from_iterable(columns))
        if not whole.count:
            continue
        edges, is_log = charts.bins_of(whole)
        series = []
        for name, color, rows in zip(names, charts.PALETTE, given, strict=False):
            counts = charts.counts_in([] if rows is None else values_of(rows, column), edges)
            series.append(charts.Series(name=name, color=color, values=100 * counts / max(1, int(counts.sum()))))
        drawn.append(charts.overlaid(series, edges, x_label=label, y_label=f"{what}, %", log_x=is_log))
    return charts.legend(zip(names, charts.PALETTE, strict=False)) + f"<div class='charts'>{''.join(drawn)}</div>"


def _time(runs: Sequence[RunFacts], names: Sequence[str]) -> str:
    """Seconds of work of the passes that took longest, and of everything."""
    paces = [pace_of(run) for run in runs]
    spent = [
        (p.units[["read", "compute", "write"]].sum(axis=1)).groupby(p.units["name"]).sum().to_dict() for p in paces
    ]
    every = sorted(
        {str(name) for known in spent for name in known}, key=lambda name: -max(s.get(name, 0) for s in spent)
    )
    rows = [[escape(name), *(_seconds(known.get(name)) for known in spent)] for name in every[:PASSES]]
    if len(every) > PASSES:
        rest = [sum(known.get(name, 0) for name in every[PASSES:]) for known in spent]
        rows.append([f"{number(len(every) - PASSES)} others", *map(_seconds, rest)])
    rows.append(["<b>all work</b>", *(_seconds(sum(known.values())) for known in spent)])
    rows.append(["<b>elapsed</b>", *(duration(pace.seconds) for pace in paces)])
    rows.append(["workers", *(number(pace.units["worker"].nunique()) for pace in paces)])
    return html_table(("seconds of work", *names), rows, texts={0})


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"
