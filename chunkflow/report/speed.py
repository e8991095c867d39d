"""How fast a run went: voxels per second over time, what each worker was busy with, and the blocks that took longest.

    worker 1  |##label##|  |=====thin=====|        A unit is known by when it ended and by the seconds it read, computed
    worker 2  |##label####||==thin==|              and wrote. It is taken to have worked evenly from its start to its
              0 s                      40 s        end, and what falls into a bar of the time axis is added up there.

Runs that were stopped and gone on with are put one behind the other, without the time between them. All of it comes
from the journal: an entry per block and pass, 10^6 of which take a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from chunkflow.geometry.box import triple
from chunkflow.geometry.grid import Grid
from chunkflow.report import charts
from chunkflow.report.facts import RunFacts
from chunkflow.report.html import counted, duration, html_table, number, sides
from chunkflow.storage.retry import KINDS, added

BARS = 90
"""Of the time axis."""
"""Passes with a colour of their own, those that took longest; the others share one."""
WORKERS_SHOWN = 24
SLOWEST = 12
FAINT = 0.02
"""Share of a bar's time that is not drawn."""
STRIP_LEFT, STRIP_RIGHT, STRIP_WIDTH, ROW = 96, 910, 1000, 20
"""Of the picture of workers, in pixels at full width."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Units of a run that said how long they took, in the order of the plan's passes.

    units : a row each: name (of the pass), unit, worker, device, start, stop (seconds of work since the first start),
        read, compute, write (seconds), voxels (of its core; 0 where a pass has no arrays), peak (bytes)
    """

    units: pd.DataFrame

    @property
    def seconds(self) -> float:
        """From the first start to the last end, without the time between runs."""
        return float(self.units["stop"].max()) if len(self.units) else 0.0

    @property
    def colors(self) -> dict[str, str]:
        """Colour of each pass that has one of its own, those that took longest first."""
        spent = (self.units["stop"] - self.units["start"]).groupby(self.units["name"]).sum()
        return dict(zip(spent.sort_values(ascending=False, kind="stable").index, charts.PALETTE, strict=False))


def pace_of(run: RunFacts) -> Pace:
    """What the journal says of the units of the passes in the plan."""
    parts = [_units_of(run, planned) for planned in run.plan["passes"]]
    units = pd.concat(parts, ignore_index=True)
    offsets = _session_offsets(run, units)
    shift = units["session"].map(offsets).to_numpy(np.float64) if len(units) else np.zeros(0)
    units["stop"] = np.maximum(units["at"].to_numpy(np.float64) + shift, 0)
    spent = units[["read", "compute", "write"]].to_numpy(np.float64).sum(axis=1)
    units["start"] = np.maximum(units["stop"].to_numpy(np.float64) - spent, 0)
    return Pace(units)


def _units_of(run: RunFacts, planned: Mapping[str, Any]) -> pd.DataFrame:
    done = [unit for unit in run.state(planned["name"]).done.values() if "spent" in unit and "at" in unit]
    index = np.array([unit["unit"] for unit in done], np.int64)
    spent = np.array([unit["spent"] for unit in done], np.float64).reshape(-1, 3)
    return pd.DataFrame(
        {
            "name": np.full(len(done), planned["name"], object),
            "unit": index,
            "at": np.array([unit["at"] for unit in done], np.float64),
            "session": np.array([unit.get("session", 1) for unit in done], np.int64),
            "worker": np.array([str(unit.get("worker", "")) for unit in done], object),
            "device": np.array([str(unit.get("device", "")) for unit in done], object),
            "peak": np.array([unit.get("peak") or 0 for unit in done], np.int64),
            "read": spent[:, 0],
            "compute": spent[:, 1],
            "write": spent[:, 2],
            "voxels": _voxels(planned, index)
            if planned["reads"] or planned["writes"]
            else np.zeros(len(done), np.int64),
        }
    )


def _voxels(planned: Mapping[str, Any], units: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) voxels of the cores of blocks."""
    grid = Grid(triple(planned["shape"]), triple(planned["core"]))
    places = np.unravel_index(units, grid.counts)
    lengths = [np.minimum(c, n - p * c) for p, c, n in zip(places, grid.core, grid.shape, strict=True)]
    found: NDArray[np.int64] = np.prod(np.array(lengths, np.int64).reshape(3, -1), axis=0)
    return found


def _session_offsets(run: RunFacts, units: pd.DataFrame) -> dict[int, float]:
    """Seconds to add to a time of each run of this folder, so that runs follow on each other."""
    starts = [float(start["time"]) for start in run.journal.starts]
    ends = {int(str(session)): float(at) for session, at in units.groupby("session")["at"].max().items()}
    offsets: dict[int, float] = {}
    before = 0.0
    for session in sorted(ends):
        began = starts[session - 1] if 0 < session <= len(starts) else ends[session]
        offsets[session] = before - began
        before += max(0.0, ends[session] - began)
    return offsets


def spread(units: pd.DataFrame, amount: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) what of the amounts of units falls between (N + 1,) times, each spread evenly over the time of its unit."""
    start, stop = (units[name].to_numpy(np.float64) for name in ("start", "stop"))
    length = np.maximum(stop - start, 1e-6)
    until = [float((amount * np.clip((edge - start) / length, 0, 1)).sum()) for edge in edges[1:-1]]
    return np.diff([0.0, *until, float(amount.sum())])


def speed(run: RunFacts) -> str:
    """The section: throughput over time, workers, slowest blocks, passes."""
    pace = pace_of(run)
    if not len(pace.units):
        return passes(run, pace)
    voxels, spent = int(pace.units["voxels"].sum()), float(pace.units[["read", "compute", "write"]].to_numpy().sum())
    text = (
        f"<p>{counted(len(pace.units), 'block')} in {duration(pace.seconds)}; {duration(spent)} of work by "
        f"{counted(pace.units['worker'].nunique(), 'worker process', 'worker processes')}, in which "
        f"{number(voxels)} voxels were visited, those of every pass counted. The first block began after "
        f"{duration(float(pace.units['start'].min()))}.</p>"
    )
    names = {name: color for name, color in pace.colors.items()}
    shown = [*names.items(), *([("others", charts.OTHERS)] if pace.units["name"].nunique() > len(names) else [])]
    drawn = "".join(charts_of(pace)) + f"<h3>Workers</h3>{workers(pace)}"
    return (
        f"{text}<h3>Over time</h3>{charts.legend(shown)}{drawn}<h3>Slowest blocks</h3>{slowest(run, pace)}"
        f"<h3>Passes</h3>{passes(run, pace)}"
    )


def charts_of(pace: Pace) -> list[str]:
    """Voxels per second and blocks per second over time, by pass."""
    edges = np.linspace(0, max(pace.seconds, 1e-3), BARS + 1)
    width = float(edges[1])
    colors = pace.colors
    group = pace.units["name"].where(pace.units["name"].isin(colors), "others")
    found = []
    for amounts, label, unit in (
        (pace.units["voxels"].to_numpy(np.float64) / 1e6, "million voxels / s", "million voxels / s"),
        (np.ones(len(pace.units)), "blocks / s", "blocks / s"),
    ):
        series = [
            charts.Series(
                name=name,
                color=color,
                values=spread(pace.units[rows], amounts[rows.to_numpy()], edges) / width,
            )
            for name, color in [*colors.items(), ("others", charts.OTHERS)]
            if (rows := group == name).any()
        ]
        found.append(charts.stacked(series, edges, x_label="time, s", y_label=label, unit=unit))
    return [f"<div class='charts'>{''.join(found)}</div>"]


def workers(pace: Pace) -> str:
    """A strip per worker, coloured by what took most of its time, as dark as it was busy."""
    busy = (pace.units["stop"] - pace.units["start"]).groupby(pace.units["worker"]).sum().sort_values(ascending=False)
    shown = list(busy.index[:WORKERS_SHOWN])
    edges = np.linspace(0, max(pace.seconds, 1e-3), BARS + 1)
    height = ROW * len(shown)
    rows = "".join(
        _strip(pace, str(worker), edges, k * ROW, float(busy[worker]) / pace.seconds) for k, worker in enumerate(shown)
    )
    left = f"; {number(len(busy) - len(shown))} more are not shown" if len(busy) > len(shown) else ""
    return (
        f"<svg class='wide' viewBox='0 0 {STRIP_WIDTH} {height + 34}' role='img' aria-label='Workers over time'>{rows}"
        f"{_time_axis(edges, height)}</svg><p class='caption'>Colours are those above: what took most of a worker's "
        "time. Pale is idle. On the right the share of the time in which it read, computed or wrote; reading the next "
        f"block while one computes can make that more than 100 %{left}.</p>"
    )


def _strip(pace: Pace, worker: str, edges: NDArray[np.float64], top: float, share: float) -> str:
    units = pace.units[pace.units["worker"] == worker]
    colors = [*pace.colors.values(), charts.OTHERS]
    names = [*pace.colors]
    parts = [units[units["name"] == name] for name in names] + [units[~units["name"].isin(names)]]
    by_pass = np.array([spread(p, (p["stop"] - p["start"]).to_numpy(np.float64), edges) for p in parts])
    amount, most = by_pass.sum(axis=0) / (edges[1] - edges[0]), by_pass.argmax(axis=0)
    step = (STRIP_RIGHT - STRIP_LEFT) / (len(edges) - 1)
    cells = "".join(
        f"<rect x='{STRIP_LEFT + step * k:.1f}' y='{top + 2:.0f}' width='{step + 0.1:.1f}' height='{ROW - 4}' "
        f"fill='{colors[most[k]]}' opacity='{min(1.0, 0.25 + 0.75 * amount[k]):.2f}'>"
        f"<title>{escape([*names, 'others'][most[k]])}: busy {amount[k]:.0%} of {edges[k]:.3g} to "
        f"{edges[k + 1]:.3g} s</title></rect>"
        for k in np.flatnonzero(amount > FAINT).tolist()
    )
    return (
        f"<text x='{STRIP_LEFT - 8}' y='{top + 14:.0f}' text-anchor='end'>{escape(worker[-12:])}</text>"
        f"<rect x='{STRIP_LEFT}' y='{top + 2:.0f}' width='{STRIP_RIGHT - STRIP_LEFT}' height='{ROW - 4}' "
        f"fill='currentColor' opacity='.06'/>{cells}<text x='{STRIP_RIGHT + 8}' y='{top + 14:.0f}'>{share:.0%}</text>"
    )


def _time_axis(edges: NDArray[np.float64], top: float) -> str:
    seconds = float(edges[-1])
    step = charts.round_length(seconds / 5)
    at = [
        (k * step, STRIP_LEFT + (STRIP_RIGHT - STRIP_LEFT) * k * step / seconds) for k in range(int(seconds / step) + 1)
    ]
    ticks = "".join(
        f"<text x='{x:.1f}' y='{top + 14:.0f}' text-anchor='middle'>{charts.tick_text(t)}</text>" for t, x in at
    )
    middle = (STRIP_LEFT + STRIP_RIGHT) / 2
    return f"{ticks}<text x='{middle}' y='{top + 30:.0f}' text-anchor='middle'>time, s</text>"


def slowest(run: RunFacts, pace: Pace) -> str:
    """The blocks that took longest, with where they lie and what they spent it on."""
    units = pace.units.assign(total=pace.units["read"] + pace.units["compute"] + pace.units["write"])
    usual = units.groupby("name")["total"].median()
    merges = {p["name"] for p in run.plan["passes"] if p["merge"]}
    grids = {p["name"]: Grid(triple(p["shape"]), triple(p["core"])) for p in run.plan["passes"]}
    head = ("pass", "voxels z, y, x", "read, s", "compute, s", "write, s", "times the median", "worker", "on")
    rows = []
    for row in units.nlargest(SLOWEST, "total").to_dict("records"):
        name = str(row["name"])
        times = row["total"] / usual[name] if usual[name] > 0 else 1.0
        seconds = [f"{row[part]:,.2f}" for part in ("read", "compute", "write")]
        where = "whole volume" if name in merges else str(grids[name].core_of(int(row["unit"])))
        worker, device = (escape(str(row[key])) for key in ("worker", "device"))
        rows.append([escape(name), escape(where), *seconds, number(times, 2), worker, device])
    return html_table(head, rows, texts={0, 1, 6, 7})


def passes(run: RunFacts, pace: Pace) -> str:
    """What each pass did and cost; seconds and memory are those that the units reported."""
    asked = {p["name"]: run.state(p["name"]).all_requests for p in run.plan["passes"]}
    has_requests = any(asked.values())
    head = [
        "pass",
        "blocks",
        "halo, voxels",
        "read / written",
        "work, s",
        "elapsed, s",
        "million voxels / s",
        "blocks / s",
    ]
    head += ["peak memory, MiB", *(["requests"] if has_requests else [])]
    by_pass = dict(list(pace.units.groupby("name")))
    rows = []
    for p in run.plan["passes"]:
        name, amplification = p["name"], p["read_amplification"]
        units = by_pass.get(name, pace.units[:0])
        took = float(units["stop"].max() - units["start"].min()) if len(units) else 0.0
        peak, voxels = (int(units[column].max()) if len(units) else 0 for column in ("peak", "voxels"))
        rows.append(
            [
                escape(name),
                number(p["units"]),
                sides(p["halo"]) if any(p["halo"]) and min(p["halo"]) >= 0 else "",
                "" if amplification is None else number(amplification, 3),
                f"{units[['read', 'compute', 'write']].to_numpy().sum():,.2f}",
                f"{took:,.2f}" if len(units) else "",
                number(units["voxels"].sum() / 1e6 / took, 3) if took and voxels else "",
                number(len(units) / took, 3) if took and voxels else "",
                number(round(peak / 2**20)) if peak else "",
                *(
                    [number(sum(asked[name].get(kind, 0) for kind in KINDS)) if asked[name] else ""]
                    if has_requests
                    else []
                ),
            ]
        )
    projected = run.plan["peak_bytes_per_worker"] / 2**20
    text = (
        "<p>Peak memory is the most that one process had held by the end of the pass; the plan projected at most "
        f"{number(round(projected))} MiB. Elapsed is from the first start to the last end of a block.</p>"
    )
    return text + _requests(run) + html_table(head, rows, texts={0})


def _asked(requests: Mapping[str, int]) -> str:
    return number(sum(requests.get(kind, 0) for kind in KINDS)) if requests else ""


def _requests(run: RunFacts) -> str:
    """What object stores were asked for, if they were."""
    total: dict[str, int] = {}
    for p in run.plan["passes"]:
        total = added(total, run.state(p["name"]).all_requests)
    asked = {kind: total[kind] for kind in KINDS if kind in total}
    if not asked:
        return ""
    listed = ", ".join(f"{number(count)} {kind}" for kind, count in asked.items())
    moved = " and ".join(f"{total.get(f'bytes_{way}', 0) / 2**20:,.1f} MiB {way}" for way in ("read", "written"))
    return (
        f"<p>Requests to object stores: {number(sum(asked.values()))} ({listed}), {number(total.get('retries', 0))} of "
        f"them tried again; {moved}.</p>"
    )
