"""Progress of a training for people and for machines, from its events.

terminal     a bar with the loss, and a line per validation
elsewhere    a line per validation, and every so many steps
--json       a line of JSON per event
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from chunkflow.run.events import Event, Listener
from chunkflow.run.progress import write_json

LINES = 20
"""In a log, of steps, over a whole training."""
SMOOTHING = 0.95
"""Share of the loss shown that is kept from step to step: single batches jump about."""


@contextmanager
def training_progress(console: Console, *, as_json: bool = False) -> Iterator[Listener]:
    """A listener for `chunkflow.run.train.train` that shows what happens on a console."""
    if as_json:
        yield lambda event: write_json(console, event)
    elif console.is_terminal:
        bar = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
        )
        with bar:
            yield _Shown(console, bar)
    else:
        yield _Shown(console, None)


class _Shown:
    """Events as lines, and as a bar where there is one."""

    def __init__(self, console: Console, bar: Progress | None) -> None:
        self._console, self._bar = console, bar
        self._task = None if bar is None else bar.add_task("training", total=None, loss="")
        self._loss: float | None = None

    def __call__(self, event: Event) -> None:
        match event["event"]:
            case "reading":
                self._say(f"reading {event['volumes']} volumes once, for their numbers and objects")
            case "start":
                many = f", {event['workers']} processes" if event["workers"] > 1 else ""
                self._say(f"training on {event['device']}{many}, {event['steps']} steps")
            case "step":
                self._step(event)
            case "validation":
                best = " (best)" if event["is_best"] else ""
                self._say(f"step {event['step']}: {_words(event['scores'])}{best}")

    def _step(self, event: Mapping[str, Any]) -> None:
        before = event["loss"] if self._loss is None else self._loss
        self._loss = SMOOTHING * before + (1 - SMOOTHING) * event["loss"]
        step, steps = event["step"], event["steps"]
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, total=steps, loss=f"loss {self._loss:.4f}")
        elif step % max(1, steps // LINES) == 0:
            self._say(f"step {step} of {steps}: loss {self._loss:.4f}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _words(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
