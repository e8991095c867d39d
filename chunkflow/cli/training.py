"""Commands that train what stages apply. Each is a call of the Python API."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from chunkflow.cli.endings import reported
from chunkflow.cli.show import PLAIN, counted, new_console, numbers
from chunkflow.errors import UsageError

if TYPE_CHECKING:
    from chunkflow.run.train_pixels import TrainedPixels

SHOWN_FEATURES = 10


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module among the others."""
    app.command("train")(train_command)
    app.command("train-pixels")(train_pixels_command)


@reported
def train_command(
    description: Annotated[str, typer.Argument(metavar="TRAIN.yaml", help="What is trained on what, and how.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="MODEL", help="Folder of the network.")],
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="key=value", help="Change a value of the file.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start over what is in MODEL.")] = False,
    device: Annotated[Literal["auto", "gpu", "cpu"], typer.Option("--device", help="Never falls back from gpu.")] = (
        "auto"
    ),
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Processes, each on a GPU of its own.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Train a network on images and labels, or go on with it."""
    from chunkflow.run.train import Training, train
    from chunkflow.run.training_processes import started_processes
    from chunkflow.run.training_progress import training_progress

    training = Training.from_yaml(description, set or ())
    started = started_processes(os.environ)
    if started is not None and not started.is_first:
        train(training, output, device=device, workers=workers, started=started)
        return
    console = new_console()
    with training_progress(console, as_json=as_json) as listener:
        done = train(
            training, output, device=device, workers=workers, restart=restart, on_event=listener, started=started
        )
    if as_json:
        return
    lines = {
        "scores": ", ".join(f"{name} {value:.4g}" for name, value in done.scores.items()) or "nothing was validated",
        "written": str(done.path),
        "report": str(done.path / "report.html"),
        "use it": f"- predict: {{path: {done.path}}}",
    }
    for name, text in lines.items():
        console.print(f"{name:<13} {text}", **PLAIN)


@reported
def train_pixels_command(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="OME-Zarr image, as the stage pixels will see it.")],
    scribbles: Annotated[
        str, typer.Argument(metavar="SCRIBBLES", help="Label image on its grid: 0 nothing said, 1, 2, ... classes.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", metavar="FOREST.npz", help="Classifier to write.")],
    scales_um: Annotated[
        str | None,
        typer.Option("--scales-um", metavar="S,S,...", help="Of the features; 1, 2, 4 and 8 voxels by default."),
    ] = None,
    trees: Annotated[int, typer.Option("--trees", metavar="N", help="Of the forest.")] = 100,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed grows the same forest.")] = 0,
    names: Annotated[
        str | None, typer.Option("--names", metavar="NAME,NAME,...", help="Of the classes 1, 2, ...")
    ] = None,
    per_class: Annotated[
        int, typer.Option("--per-class", metavar="N", help="Voxels of a class learnt from, at most.")
    ] = 20_000,
    percentiles: Annotated[
        tuple[float, float], typer.Option("--percentiles", metavar="LOW HIGH", help="Of the volume, become 0 and 1.")
    ] = (1.0, 99.0),
    channel: Annotated[str | None, typer.Option("--channel", metavar="NAME|N", help="Of the image.")] = None,
    nodata: Annotated[float | None, typer.Option("--nodata", help="Voxels of this value do not count.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", help="Threads; change no result.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write where something else is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Train a pixel classifier on scribbles."""
    from chunkflow.run.train_pixels import Options, train_pixels

    options = Options(
        scales_um=None if scales_um is None else _numbers(scales_um),
        trees=trees,
        seed=seed,
        per_class=per_class,
        percentiles=percentiles,
        names=None if names is None else [name.strip() for name in names.split(",")],
        nodata=nodata,
        jobs=jobs,
    )
    number = int(channel) if channel is not None and channel.isdecimal() else channel
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        done = train_pixels(
            image, scribbles, output, channel=number, options=options, overwrite=overwrite, on_step=tell
        )
    if as_json:
        typer.echo(json.dumps(_facts(done), indent=1))
    else:
        _print_trained(new_console(), done)


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--scales-um {text!r} is not a list of numbers", "Write 0.1,0.2,0.4") from error


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _facts(done: TrainedPixels) -> dict[str, object]:
    """JSON values."""
    return {
        "output": str(done.path),
        "digest": done.classifier.digest,
        "classes": [
            {
                "label": c.label,
                "name": c.name,
                "annotated": done.annotated[c.name],
                "used": c.voxels,
                "out_of_bag": done.recalls[c.name],
            }
            for c in done.classifier.classes
        ],
        "scales_um": list(done.classifier.scales_um),
        "out_of_bag": done.out_of_bag,
        "importances": dict(done.importances),
    }


def _print_trained(console: Console, done: TrainedPixels) -> None:
    table = Table("class", "name", "voxels annotated", "learnt from", "right, out of bag")
    for known in done.classifier.classes:
        right = _percent(done.recalls[known.name])
        table.add_row(str(known.label), known.name, f"{done.annotated[known.name]:,}", f"{known.voxels:,}", right)
    console.print(table)
    first = list(done.importances.items())[:SHOWN_FEATURES]
    lines = {
        "out of bag": f"{_percent(done.out_of_bag)} of the voxels are told right by trees that did not see them; "
        "neighbours are alike, so look at the result too",
        "features": f"{counted(len(done.importances), 'feature')} at {numbers(done.classifier.scales_um)} um; "
        + ", ".join(f"{name} {share:.1%}" for name, share in first),
        "written": str(done.path),
        "use it": f"- pixels: {{path: {done.path}, foreground: {done.classifier.classes[-1].name}}}",
    }
    for name, text in lines.items():
        console.print(f"{name:<13} {text}", **PLAIN)
