"""Progress of a run for people and for machines, from the driver's events.

terminal     a bar per pass with blocks, voxels and bytes written per second, use of GPUs, and time to go
elsewhere    a line per finished pass
--json       a line of JSON per event
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from chunkflow.run.events import Event, Listener
from chunkflow.run.gpu_use import gpu_words


@contextmanager
def progress(console: Console, *, as_json: bool = False) -> Iterator[Listener]:
    """A listener for `chunkflow.run.driver.run_plan` that shows what happens on a console."""
    if as_json:
        yield lambda event: write_json(console, event)
    elif console.is_terminal:
        bars = _bars(console)
        with bars:
            yield Bars(bars)
    else:
        yield Lines(console)


def write_json(console: Console, event: Event) -> None:
    """One line: the event and the time in seconds since 1970."""
    line = json.dumps({"time": round(time(), 3), **event})
    console.file.write(line + "\n")
    console.file.flush()


class Lines:
    """A line when a pass is finished, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began: dict[str, float] = {}
        self._gpu = ""

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if event["event"] == "pass":
            self._began[event["pass"]], self._gpu = monotonic(), ""
        elif event["event"] == "gpu":
            self._gpu = gpu_words(event["workers"])
        elif event["event"] == "unit" and event["done"] == event["units"]:
            seconds = monotonic() - self._began[event["pass"]]
            line = f"{event['pass']:<20} {_blocks(event['units']):<12} {seconds:7.1f} s"
            words = (line, throughput(seconds, event["voxels"], event["bytes"]), self._gpu)
            self._say(" ".join(word for word in words if word))
        else:
            for line in _sentences(event):
                self._say(line)

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """A bar for each pass that is computed."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if event["event"] == "pass":
            name, done = event["pass"], event["done"]
            self._tasks[name] = self._bars.add_task(name, total=event["units"], completed=done)
        elif event["event"] == "unit":
            task = self._tasks[event["pass"]]
            self._bars.update(task, completed=event["done"], voxels=event["voxels"], bytes=event["bytes"])
        elif event["event"] == "gpu":
            self._bars.update(self._tasks[event["pass"]], gpu=gpu_words(event["workers"]))
        for line in _sentences(event):
            self._bars.console.print(line, markup=False, highlight=False)


class Speed(ProgressColumn):
    """Blocks per second, voxels and bytes written per second of the whole pass, and use of GPUs."""

    def render(self, task: Task) -> Text:
        """See `rich.progress.ProgressColumn`."""
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("")
        shown = throughput(task.elapsed or 0.0, task.fields.get("voxels", 0), task.fields.get("bytes", 0))
        return Text(" ".join(word for word in (f"{speed:.3g} blocks/s", shown, task.fields.get("gpu", "")) if word))


def throughput(seconds: float, voxels: int, written: int) -> str:
    """Millions of voxels and of bytes written per second; nothing of a merge, which has no voxels."""
    return f"{voxels / seconds / 1e6:.3g} Mvoxel/s {written / seconds / 1e6:.3g} MB/s" if voxels and seconds > 0 else ""


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Speed(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
    )


def _sentences(event: Event) -> list[str]:
    """What an event says to people beyond its count."""
    match event["event"]:
        case "device":
            return [event["text"]]
        case "warning":
            return [f"warning: {event['text']}"]
        case "plan":
            reused = [name for name in event["passes"] if name not in event["needed"]]
            return [f"re-used: {', '.join(reused)}"] if reused else []
        case "dashboard":
            return [f"dask dashboard: {event['url']}"]
        case "report":
            return [f"report: {event['path']}"]
        case "failed":
            return [f"set aside: {event['pass']} block {event['unit']} at {event['core']}: {event['error']}"]
        case "hole":
            return [f"hole: {event['pass']} block {event['unit']} at {event['core']} is background to what follows"]
        case _:
            return []


def _blocks(units: int) -> str:
    return "1 block" if units == 1 else f"{units} blocks"
