"""What the benchmarks share: options, timing, the row format, and a report that says where its figures come from.

A figure without its machine, its versions and its peer says nothing, so every report carries them. Contenders take
turns, round after round, so that a busy minute of the machine hits all of them; the median of the rounds counts, and
the spread is printed beside it.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import importlib
import json
import multiprocessing
import os
import platform
import pstats
import sys
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import psutil

from chunkflow.run.journal import Journal

T = TypeVar("T")

RESULTS = Path(__file__).parent / "results"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
ROUNDS = 3
LONG_SECONDS = 30.0
"""A contender whose round took longer is not run again, and its remark says "one round"."""


@dataclass(frozen=True, slots=True)
class Options:
    """quick : small data, under two minutes on two cores; json : where the rows go too; rounds : runs per contender."""

    quick: bool
    json: Path | None
    rounds: int


def options(description: str, arguments: Sequence[str] | None = None) -> Options:
    """The command line, or those `arguments` of it that are for all scripts.

    Starts the script again with one compute thread where that was not set.
    """
    _with_one_thread()
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small data, under two minutes on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="runs per contender; the median counts")
    given = parser.parse_args(arguments)
    return Options(given.quick, given.json, given.rounds)


def _with_one_thread() -> None:
    """Libraries read these variables when they are loaded, so the process starts over."""
    if any(os.environ.get(name) != "1" for name in THREAD_VARIABLES):
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
        os.execv(sys.executable, [sys.executable, *sys.argv])


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure beside the peer's, in one unit, less being better; `goal` is the least ratio asked for."""

    name: str
    ours: float
    peer: str | None = None
    peer_value: float | None = None
    goal: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times less ours is."""
        return self.peer_value / self.ours if self.peer_value is not None and self.ours else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is no goal."""
        return None if self.goal is None or self.ratio is None else self.ratio >= self.goal

    def to_dict(self) -> dict[str, Any]:
        """The row as it is stored."""
        return {
            "name": self.name,
            "ours": _rounded(self.ours),
            "peer": self.peer,
            "peer_value": _rounded(self.peer_value),
            "ratio": _rounded(self.ratio),
            "goal": self.goal,
            "met": self.met,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Figures by name and column; None where there is none. `best` marks the "most" of each column, or nothing."""

    title: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[float | None]]
    digits: int
    best: str | None = None

    def lines(self) -> list[str]:
        """The table as text."""
        columns = zip(*self.rows.values(), strict=True)
        tops = [max((v for v in column if v is not None), default=None) for column in columns]
        width = max(len(name) for name in self.rows)
        lines = [self.title, " " * width + " ".join(f"{column:>9}" for column in self.columns)]
        for name, values in self.rows.items():
            marks = [
                "*" if self.best and v is not None and v == top else " " for v, top in zip(values, tops, strict=True)
            ]
            cells = ["-" if v is None else f"{v:.{self.digits}f}" for v in values]
            line = "".join(f"{cell:>9}{mark}" for cell, mark in zip(cells, marks, strict=True))
            lines.append((name.ljust(width) + line).rstrip())
        return lines

    def to_dict(self) -> dict[str, Any]:
        """The table as it is stored."""
        rows = {name: [_rounded(value) for value in values] for name, values in self.rows.items()}
        return {"title": self.title, "columns": list(self.columns), "rows": rows}


@dataclass(slots=True)
class Report:
    """Rows and remarks of one benchmark.

    name : of the files under results/; title : one sentence; packages : whose versions matter
    protocol : what a figure is; by default the median of rounds in turn, on one thread
    """

    name: str
    title: str
    options: Options
    packages: Sequence[str]
    protocol: str = ""
    rows: list[Row] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    header: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.header = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "machine": machine(),
            "load_at_start": round(os.getloadavg()[0], 2),  # above 0 something else ran too
            "protocol": self.protocol
            or f"one compute thread per process; median of {self.options.rounds} rounds in turn",
            "quick": self.options.quick,
            "versions": versions(self.packages),
        }

    def finish(self) -> None:
        """Print the report and store it as text and JSON."""
        self.header["load_at_end"] = round(os.getloadavg()[0], 2)
        text = self.text()
        print(text)
        RESULTS.mkdir(exist_ok=True)
        stem = self.name + ("-quick" if self.options.quick else "")
        rows = [row.to_dict() for row in self.rows]
        content: dict[str, Any] = {"title": self.title, **self.header, "rows": rows, "notes": self.notes}
        if self.tables:
            content["tables"] = [table.to_dict() for table in self.tables]
        (RESULTS / f"{stem}.txt").write_text(text + "\n", encoding="utf-8")
        (RESULTS / f"{stem}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if self.options.json is not None:
            self.options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

    def text(self) -> str:
        """The report to read: where it was made, the table, the remarks."""
        h = self.header
        lines = [
            self.title + (" (quick)" if h["quick"] else ""),
            "",
            f"{h['date']}, {h['machine']}, load {h['load_at_start']} at the start, {h['load_at_end']} at the end",
            ", ".join(f"{name} {number}" for name, number in h["versions"].items()),
            f"{h['protocol']}; ratio = peer's / ours: above 1, ours is faster or smaller",
            "",
            *_table(self.rows),
        ]
        for table in self.tables:
            lines += ["", *table.lines()]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)]).rstrip()


def _table(rows: Sequence[Row]) -> list[str]:
    cells: list[tuple[str, ...]] = [("", "ours", "peer's", "ratio", "goal", "met", "peer")]
    for row in rows:
        shown = row.to_dict()
        numbers = [_shown(shown[key]) for key in ("ours", "peer_value", "ratio", "goal", "met")]
        cells.append((row.name, *numbers, row.peer or ""))
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    return [
        "  ".join(
            cell.ljust(width) if k in (0, 6) else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def machine() -> str:
    """Processor, cores, memory and system, in words."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown processor"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Versions of Python and of the distributions that are installed."""
    found = {"python": platform.python_version()}
    for name in ("chunkflow-engine", "numpy", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def peer(module: str, report: Report) -> Any:
    """A peer's module, or None with a remark on how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        report.notes.append(f"{module} is not installed: see benchmarks/README.md")
        return None


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of the rounds of one contender."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.rounds)

    def __str__(self) -> str:
        if len(self.rounds) == 1:
            return f"{self.median:.3g} s (one round)"
        return f"{self.median:.3g} s ({min(self.rounds):.3g} to {max(self.rounds):.3g})"


def take_turns(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Timing]:
    """Seconds of every contender, round after round. Let each run once on little data before: caches, compilers."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            if max(seconds[name], default=0.0) > LONG_SECONDS:
                continue
            gc.collect()
            began = perf_counter()
            contender()
            seconds[name].append(perf_counter() - began)
    return {name: Timing(tuple(runs)) for name, runs in seconds.items()}


def spread(timings: Mapping[str, Timing]) -> str:
    """A remark: the medians with their ranges."""
    return "rounds: " + "; ".join(f"{name} {timing}" for name, timing in timings.items())


@dataclass(slots=True)
class PassClock:
    """A listener of a run's events that tells how long each pass took. A pass ends with its last unit."""

    began: float = field(default_factory=perf_counter)
    moments: list[tuple[float, str]] = field(default_factory=list)

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] in ("pass", "unit"):
            self.moments.append((perf_counter(), str(event["pass"])))

    def seconds(self) -> dict[str, float]:
        """Wall seconds by pass, from the end of the one before; "the end" is from the last unit until now."""
        spent: dict[str, float] = {}
        before = self.began
        for moment, name in self.moments:
            spent[name] = spent.get(name, 0.0) + moment - before
            before = moment
        return {**spent, "the end": perf_counter() - before}

    def text(self, least: float = 0.03) -> str:
        """The passes that took most, down to a share of the whole."""
        spent = self.seconds()
        total = sum(spent.values())
        shown = sorted((s, name) for name, s in spent.items() if s >= least * total)[::-1]
        return ", ".join(f"{name} {s:.2f}" for s, name in shown) + f"; all {total:.2f} s"


def profile_of(function: Callable[[], Any], count: int = 12) -> str:
    """A remark: the functions in which one call spends most of its time, with seconds of their own and calls."""
    profile = cProfile.Profile()
    profile.runcall(function)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    rows = sorted(((own, calls, at) for at, (_, calls, own, _, _) in stats.items()), reverse=True)[:count]
    total = sum(own for _, _, own, _, _ in stats.values())
    shown = [f"{Path(file).stem}.{name} {own:.2f} s ({calls})" for own, calls, (file, _, name) in rows]
    return f"{total:.2f} s under cProfile (which slows small functions): " + ", ".join(shown)


def peak_mib(function: Callable[[], Any]) -> float:
    """Peak of what numpy and Python allocate during a call, MiB, its result included. Slow; not for timed runs."""
    gc.collect()
    tracemalloc.start()
    try:
        kept = function()
        peak = tracemalloc.get_traced_memory()[1]
        del kept
        return peak / 2**20
    finally:
        tracemalloc.stop()


STAGES = {
    "scan": ("scan", "range"),
    "deconvolve": ("deconvolve",),
    "threshold": ("histogram", "threshold"),
    "label": ("label", "seams", "regions", "relabel"),
    "skeleton": ("distance", "thin", "residual", "skeleton", "graph"),
    "measure": ("measure", "objects", "contacts", "networks"),
    "pyramids": ("pyramid",),
}
"""First words of the names of passes, by stage."""


def stage_of(name: str) -> str:
    """The stage that a pass belongs to."""
    word = name.split("-")[0]
    return next((stage for stage, words in STAGES.items() if word in words), word)


def units_of(out: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Pass and journal line of every unit of the last run in a folder."""
    journal = Journal.read(out / "run" / "journal.jsonl")
    fingerprints = json.loads((out / "run" / "plan.json").read_text(encoding="utf-8"))["fingerprints"]
    return [(name, line) for name, key in fingerprints.items() for line in journal.state(key).done.values()]


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """The result of a module-level function in a process of its own, whose peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
