"""Many images at once: the batch part of `run` and `import`, and `compare`. Each is a call of the Python API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from chunkflow.cli.endings import reported
from chunkflow.cli.show import PLAIN, counted, new_console
from chunkflow.errors import IncompleteError, UsageError

if TYPE_CHECKING:
    from chunkflow.geometry.box import Triple
    from chunkflow.geometry.scale import MicrometerTriple
    from chunkflow.plan.pipeline import Pipeline
    from chunkflow.run.batch import BatchResult, Options
    from chunkflow.run.compare import Comparison
    from chunkflow.run.events import Listener

InputsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="INPUT...", help="OME-Zarr image or TIFF; files, folders, 'patterns' make a batch."),
]
SamplesOption = Annotated[str | None, typer.Option("--samples", metavar="CSV", help="Of a batch: its conditions.")]
ConditionsOption = Annotated[
    str | None,
    typer.Option("--conditions", metavar="PATTERN", help="Of a batch: '{condition}/*.tif'."),
]
ReportsOption = Annotated[bool, typer.Option("--reports", help="Of a batch: a report of each.")]

NAMED_FAILURES = 5


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module among the others."""
    app.command("compare")(compare_command)


def overrides_of(set: Sequence[str] | None, voxel_um: MicrometerTriple | None) -> list[str]:
    """What the command line changes of a pipeline file."""
    return [*(set or ()), *([] if voxel_um is None else [f"input.voxel_um={list(voxel_um)}"])]


def sources_of(described: Pipeline, named: Sequence[str] | None, option: str | None) -> list[str]:
    """The inputs of a run: those named, else the pipeline's.

    Raises
    ------
    UsageError : they are named twice, or nowhere.
    """
    if named and option is not None:
        raise UsageError(f"two inputs are named, {named[0]} and {option}", "Name one")
    found = list(named or ([option] if option is not None else []))
    if not found and described.input.path is not None:
        found = [described.input.path]
    if not found:
        raise UsageError("no input is named", "Give --input IN, or input: {path: IN} in the pipeline")
    return found


def is_several(described: Pipeline, sources: Sequence[str]) -> bool:
    """Whether sources are a batch."""
    from chunkflow.run.batch_inputs import is_batch
    from chunkflow.run.batch_threshold import shared_stage

    return is_batch(sources, time=described.input.time) or shared_stage(described) is not None


@contextmanager
def imported(described: Pipeline, source: str, output: str | None) -> Iterator[tuple[str, list[str]]]:
    """A source as an OME-Zarr image, with what that changes of the pipeline; a file is imported while the run lasts."""
    from chunkflow.run.batch_import import readable
    from chunkflow.run.batch_inputs import check_there

    check_there(source)
    out = output or described.output.path
    if out is None or not Path(source).is_file():
        yield source, []
        return
    target = Path(out)
    folder = target.with_name(f".{target.name}.input")
    with readable(source, folder, voxel_um=described.input.voxel_um) as image:
        yield str(image), [f"input.path={Path(source).resolve()}"]


@contextmanager
def one_image(
    pipeline: str, source: str | None, option: str | None, output: str | None, changes: list[str]
) -> Iterator[tuple[str, list[str], str]]:
    """The only input of a command that takes one, as an OME-Zarr image, all changes of the pipeline, and its own name.

    Raises
    ------
    UsageError : there is none, or it is several images.
    """
    from chunkflow.plan.pipeline import Pipeline
    from chunkflow.run.batch_inputs import check_single

    described = Pipeline.from_yaml(pipeline, changes)
    (named,) = sources_of(described, None if source is None else [source], option)
    if "://" not in named:
        check_single(named, "plan")
    with imported(described, named, output) as (image, more):
        yield image, [*changes, *more], named


def run_many(
    described: Pipeline,
    sources: Sequence[str],
    output: str | None,
    *,
    block: Triple | None,
    region: str | None,
    statistics_from: str | None,
    options: Options,
    as_json: bool,
    console: Console,
) -> None:
    """The batch part of `run`."""
    from dataclasses import replace

    from chunkflow.plan.region import in_region
    from chunkflow.run.batch import run_batch
    from chunkflow.run.progress import write_json

    out = output or described.output.path
    if out is None:
        raise UsageError("no output is named", "Give -o OUT, or output: {path: OUT} in the pipeline")
    pipeline = in_region(described, region, statistics_from)
    if block is not None:
        pipeline = replace(pipeline, block=block)
    with _batch_progress(console, as_json=as_json) as listener:
        done = run_batch(pipeline, sources, out, options=options, on_event=listener)
    failed, incomplete = done.failed, done.incomplete
    if as_json:
        code = IncompleteError.exit_code if len(failed) or len(incomplete) else 0
        facts = {"images": len(done.summary), "failed": len(failed), "incomplete": len(incomplete)}
        write_json(console, {"event": "end", "code": code, "output": str(done.path), **facts})
    else:
        _print_batch(console, done)
    if len(failed):
        raise IncompleteError(
            f"{len(failed)} of {counted(len(done.summary), 'image')} failed; the others are complete",
            f"See the column error of {done.path / 'summary.csv'}; the same command tries them again",
        )
    if len(incomplete):
        raise IncompleteError(
            f"{counted(len(incomplete), 'image')} lack something; all results are written",
            f"See the column incomplete of {done.path / 'summary.csv'}",
        )


def _print_batch(console: Console, done: BatchResult) -> None:
    from chunkflow.run.batch_summary import common_warnings

    table = done.summary
    for row in done.failed.head(NAMED_FAILURES).to_dict("records"):
        console.print(f"failed: {row['file']}: {row['error']}", **PLAIN)
    for text in common_warnings(table):
        console.print(f"warning: {text}", **PLAIN)
    odd = int((table["outlier"] != "").sum())
    words = [counted(len(table), "image"), f"{len(done.failed)} failed"]
    words += [f"{len(done.reused)} done before"] if done.reused else []
    words += [f"{odd} unusual"] if odd else []
    lines = {"found": ", ".join(words)}
    if done.threshold is not None:
        lines["threshold"] = f"{done.threshold:.6g}, shared by all"
    lines |= {"table": str(done.path / "summary.csv"), "pictures": str(done.path / "index.html")}
    if (table["condition"] != "").any() and table["condition"].nunique() > 1:
        lines["compare"] = f"chunkflow compare {done.path}"
    for name, text in lines.items():
        console.print(f"{name:<13} {text}", **PLAIN)


@contextmanager
def _batch_progress(console: Console, *, as_json: bool) -> Iterator[Listener]:
    """A line per image, below a bar in a terminal."""
    if as_json:
        from chunkflow.run.progress import write_json

        yield lambda event: write_json(console, event)
        return
    with Progress(
        TextColumn("images"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        yield _Lines(console, bar)


class _Lines:
    """What the events of a batch say to people."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self._console, self._bar = console, bar
        self._task = bar.add_task("images", total=None)
        self._began = monotonic()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event."""
        match event["event"]:
            case "device":
                self._say(event["text"])
            case "warning":
                self._say(f"warning: {event['text']}")
            case "batch":
                self._bar.update(self._task, total=event["total"], completed=event["done"])
                if event["done"]:
                    self._say(f"done before: {counted(event['done'], 'image')}")
            case "threshold":
                self._say(f"threshold of all images: {event['value']:.6g} ({event['method']})")
            case "file":
                self._bar.update(self._task, completed=event["done"])
                self._say(self._line(event))
            case "histogram" if event["status"] == "failed":
                self._say(f"{event['file']:<32} failed: {event['error']}")

    def _line(self, event: Mapping[str, Any]) -> str:
        if event["status"] != "done":
            return f"{event['file']:<32} failed: {event['error']}"
        words = [counted(event["objects"], "object")] if "objects" in event else ["done"]
        words += [f"{event['length_um']:.1f} um"] if "length_um" in event else []
        words += [counted(event["loops"], "loop")] if event.get("loops") else []
        return f"{event['file']:<32} {', '.join(words):<40} {event['seconds']:7.1f} s"

    def _say(self, line: str) -> None:
        self._bar.console.print(line, **PLAIN)


@reported
def compare_command(
    output: Annotated[str, typer.Argument(metavar="OUT", help="Output of a batch.")],
    measure: Annotated[
        list[str] | None, typer.Option("--measure", metavar="COLUMN", help="Of summary.csv; several may be given.")
    ] = None,
    control: Annotated[
        str | None, typer.Option("--control", metavar="CONDITION", help="The one others are compared with.")
    ] = None,
    test: Annotated[
        Literal["none", "permutation", "mixed"], typer.Option("--test", help="Beside the intervals.")
    ] = "none",
    correction: Annotated[
        Literal["bh", "holm", "none"], typer.Option("--correction", help="Of p values, for their number.")
    ] = "bh",
    paired: Annotated[bool, typer.Option("--paired", help="Replicates of the same name are pairs.")] = False,
    confidence: Annotated[float, typer.Option("--confidence", metavar="C", help="Of the intervals.")] = 0.95,
    samples: SamplesOption = None,
    conditions: ConditionsOption = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="FILE", help="Leave a file out; several may be given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Compare the conditions of a batch: effect sizes with intervals, plots, a table for R, a methods paragraph."""
    from chunkflow.report.comparison import write_comparison
    from chunkflow.run.compare import Questions, compare

    questions = Questions(
        measures=tuple(measure or ()),
        control=control,
        test=test,
        correction=correction,
        paired=paired,
        confidence=confidence,
        without=tuple(without or ()),
    )
    done = compare(output, questions, samples=samples, conditions=conditions)
    page = write_comparison(done)
    if as_json:
        rows = json.loads(done.effects.to_json(orient="records"))
        typer.echo(json.dumps({"output": str(done.path), "effects": rows, "warnings": list(done.warnings)}, indent=1))
        return
    console = new_console()
    _print_effects(console, done)
    for warning in done.warnings:
        console.print(f"warning: {warning}", **PLAIN)
    lines = {
        "plots": str(page),
        "effects": str(done.path / "comparison.csv"),
        "for R": str(done.path / "tidy.csv"),
        "methods": str(done.path / "methods.txt"),
    }
    for name, text in lines.items():
        console.print(f"{name:<13} {text}", **PLAIN)


def _print_effects(console: Console, done: Comparison) -> None:
    share = f"{done.questions.confidence:.0%}"
    has_test = done.questions.test != "none"
    table = Table(
        "measure",
        "condition",
        "n",
        "difference",
        f"{share} interval",
        "ratio",
        "Hedges' g",
        "" if not has_test else "p",
    )
    for row in done.effects.to_dict("records"):
        interval = "one replicate" if row["low"] != row["low"] else f"{row['low']:.4g} to {row['high']:.4g}"
        p = f"{row['p_corrected']:.3g}" if has_test else ""
        table.add_row(
            str(row["measure"]),
            f"{row['condition']} - {row['control']}",
            f"{row['n_condition']}, {row['n_control']}",
            f"{row['difference']:+.4g}",
            interval,
            "" if row["ratio"] != row["ratio"] else f"{row['ratio']:.3g}",  # of a control that is zero
            "" if row["hedges_g"] != row["hedges_g"] else f"{row['hedges_g']:.2g}",
            p,
        )
    console.print(table)


def import_many(
    sources: Sequence[str],
    destination: str,
    *,
    voxel_um: MicrometerTriple | None,
    axes: str | None,
    format: Any,
    overwrite: bool,
) -> None:
    """The batch part of `import`: each file becomes an image of its own in the destination."""
    from chunkflow.run.batch_import import import_each

    failed = 0
    for name, error in import_each(
        sources, destination, voxel_um=voxel_um, axes=axes, format=format, overwrite=overwrite
    ):
        typer.echo(f"{name:<32} {'failed: ' + error if error else 'done'}")
        failed += bool(error)
    if failed:
        raise IncompleteError(f"{counted(failed, 'file')} could not be imported; the others are", "See above")
