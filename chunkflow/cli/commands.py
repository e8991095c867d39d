"""The commands: every one is a call of the Python API."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from chunkflow.backend import compute_kind, find_device
from chunkflow.cli import training
from chunkflow.cli.endings import INTERRUPTED, Settings, reported
from chunkflow.cli.show import (
    PLAIN,
    counted,
    fact,
    new_console,
    numbers,
    print_comparisons,
    print_plan,
    print_psf,
    print_status,
    print_summary,
    totals,
)
from chunkflow.errors import ChunkflowError, IncompleteError, UsageError
from chunkflow.geometry.box import Triple
from chunkflow.plan.pipeline import Pipeline
from chunkflow.plan.plan import Plan
from chunkflow.report.psf_picture import png_of_psf
from chunkflow.report.report import write_report
from chunkflow.run import demo as demonstration
from chunkflow.run import demo_network, make_psf, synthesise
from chunkflow.run import status as states
from chunkflow.run.admission import check_admission
from chunkflow.run.check import check as facts_of
from chunkflow.run.driver import reusable, run_plan
from chunkflow.run.engine import chosen_engine
from chunkflow.run.progress import progress, write_json
from chunkflow.run.result import uncertified
from chunkflow.stages.microscope import described
from chunkflow.storage.files import write_atomic
from chunkflow.storage.tiff import import_tiff

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Volumes that do not fit in memory: the answer a whole-volume run would give, from a cluster of chunk tasks.",
)

PipelineFile = Annotated[str, typer.Argument(metavar="PIPELINE.yaml", help="What to do.")]
InputArgument = Annotated[str | None, typer.Argument(metavar="INPUT", help="OME-Zarr image, instead of the file's.")]
InputOption = Annotated[str | None, typer.Option("--input", metavar="IN", help="The same as INPUT.")]
OutputOption = Annotated[str | None, typer.Option("--output", "-o", metavar="OUT", help="Folder of the result.")]
BlockOption = Annotated[
    tuple[int, int, int] | None, typer.Option("--block", metavar="Z Y X", help="Voxels of a block.")
]
OnOption = Annotated[
    str | None, typer.Option("--on", metavar="local|threads|serial|ADDRESS", help="Where units of work are computed.")
]
WorkersOption = Annotated[int | None, typer.Option("--workers", metavar="N", help="How many at a time.")]
DeviceOption = Annotated[Literal["auto", "gpu", "cpu"], typer.Option("--device", help="Never falls back from gpu.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.key=value", help="Change a value of a stage, of input or of output."),
]
RestartOption = Annotated[bool, typer.Option("--restart", help="Compute a run in OUT from the start.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Write where something else is.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines.")]
VoxelOption = Annotated[
    tuple[float, float, float] | None, typer.Option("--voxel-um", metavar="Z Y X", help="Voxel size in micrometers.")
]


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"chunkflow {version('chunkflow-engine')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of all commands."""
    Settings.debug = debug


@app.command()
@reported
def demo(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder to work in.")] = "chunkflow-demo",
    workers: WorkersOption = None,
    on: OnOption = None,
    device: DeviceOption = "auto",
) -> None:
    """The whole pipeline on a synthetic volume with known truth."""
    console = new_console()
    with progress(console) as listener:
        done = demonstration.run_demo(
            folder, workers=workers, on=on, device=device, on_event=listener, command=_command()
        )
    report = _compared(console, done)
    print_summary(console, done.result, report)
    console.print(f"{'change it':<13} edit {done.pipeline}, then: chunkflow run {done.pipeline}", **PLAIN)
    parts = [done]
    if missing := demo_network.why_not():
        console.print(f"\nThe network that comes with chunkflow is left out: {missing}", **PLAIN)
    else:
        console.print("\nThe network that comes with chunkflow, on a stack of mitochondria", **PLAIN)
        with progress(console) as listener:
            parts.append(
                demo_network.run_network_demo(folder, on=on, device=device, on_event=listener, command=_command())
            )
        console.print(f"{'report':<13} {_compared(console, parts[1])}", **PLAIN)
    if not all(part.is_within for part in parts):
        raise IncompleteError("the demo is outside its tolerance", "The table above says where")


def _compared(console: Console, done: demonstration.Demo) -> Path:
    """A table of what was found beside the truth, and the report that holds it."""
    print_comparisons(console, done.rows)
    return write_report(
        done.result,
        truth={row.name: row.truth for row in done.rows},
        found={row.name: row.found for row in done.rows},
        tolerance={row.name: row.tolerance for row in done.rows},
    )


@app.command("import")
@reported
def import_(
    paths: Annotated[list[str], typer.Argument(metavar="SRC... DST", help="TIFF files, or a folder; then OME-Zarr.")],
    voxel_um: VoxelOption = None,
    axes: Annotated[str | None, typer.Option("--axes", metavar="ZYX", help="Axes, instead of the file's.")] = None,
    format: Annotated[Literal["0.5", "0.4"], typer.Option("--format", help="OME-Zarr version.")] = "0.5",
    overwrite: OverwriteOption = False,
) -> None:
    """Make an OME-Zarr image of TIFF, ImageJ or OME-TIFF."""
    if len(paths) < 2:
        raise UsageError("a source and a destination are needed", "Give SRC... DST")
    *sources, destination = paths
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("planes")
        done = import_tiff(
            sources,
            destination,
            voxel_um=voxel_um,
            axes=axes,
            format=format,
            overwrite=overwrite,
            on_plane=lambda count, total: bar.update(task, completed=count, total=total),
        )
    shape = " ".join(f"{letter}={length}" for letter, length in zip(done.axes, done.shape, strict=True))
    typer.echo(f"{done.destination}: {shape}, {done.dtype}, from {counted(done.files, 'file')}")
    if len(done.channels) > 1:
        typer.echo(f"channels: {', '.join(done.channels)}")
    typer.echo(f"voxel size {numbers(done.voxel_um)} um (z y x), {done.voxel_source}")
    for name, facts in zip(done.channels, done.optics, strict=True):
        if facts:
            typer.echo(f"optics of {name}: {', '.join(f'{k} {fact(v)}' for k, v in facts.items())}, from the file")


@app.command()
@reported
def run(
    pipeline: PipelineFile,
    source: InputArgument = None,
    input: InputOption = None,
    output: OutputOption = None,
    block: BlockOption = None,
    on: OnOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    set: SetOption = None,
    restart: RestartOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a pipeline; the same command goes on where it was stopped."""
    console = new_console()
    with _end_in_json(console, as_json), progress(console, as_json=as_json) as listener:
        plan = _planned(pipeline, source, input, output, block, workers, set, restart)
        result = run_plan(
            plan,
            on=on,
            workers=workers,
            device=device,
            restart=restart,
            overwrite=overwrite,
            on_event=listener,
            command=_command(),
        )
    count = uncertified(result)
    if as_json:
        code = IncompleteError.exit_code if count else 0
        write_json(console, {"event": "end", "code": code, "output": str(result.path), **totals(result)})
    else:
        print_summary(console, result, result.path / "report.html")
    if count:
        raise IncompleteError(
            f"the skeletons of {counted(count, 'object')} are not certified; all results are written",
            "See the column certified of tables/objects",
        )


@app.command()
@reported
def plan(
    pipeline: PipelineFile,
    source: InputArgument = None,
    input: InputOption = None,
    output: OutputOption = None,
    block: BlockOption = None,
    on: OnOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    set: SetOption = None,
    restart: RestartOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would do and take; reads no voxel."""
    planned = _planned(pipeline, source, input, output, block, workers, set, restart)
    found = find_device(device)
    check_admission(planned, overwrite=overwrite, restart=restart)
    chosen_engine(
        client=None, on=on, workers=workers, units=planned.largest_grid, memory=planned.memory, device=found
    ).close()
    reused = () if restart else reusable(planned, compute_kind(found))
    if as_json:
        typer.echo(json.dumps({**planned.to_dict(), "reused": list(reused)}, indent=1))
    else:
        print_plan(new_console(), planned, reused)


@app.command()
@reported
def status(
    output: Annotated[str, typer.Argument(metavar="OUT", help="Folder of a result.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a run has done, and what is left."""
    found = states.status(output)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
    else:
        print_status(new_console(), found)


@app.command()
@reported
def check(
    path: Annotated[str, typer.Argument(metavar="PATH", help="OME-Zarr image, TIFF or network.")],
    as_json: JsonOption = False,
) -> None:
    """Say what an image or a network is; reads no voxel."""
    facts = facts_of(path)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        typer.echo(f"{name:<15} {fact(value)}")


@app.command()
@reported
def synth(
    destination: Annotated[str, typer.Argument(metavar="DST", help="Folder to write to.")],
    shape: Annotated[tuple[int, int, int], typer.Option("--shape", metavar="Z Y X", help="Voxels.")] = synthesise.SHAPE,
    voxel_um: Annotated[
        tuple[float, float, float], typer.Option("--voxel-um", metavar="Z Y X", help="Voxel size in micrometers.")
    ] = synthesise.VOXEL_UM,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed draws the same volume.")] = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Draw a volume of tubes with known objects, loops and lengths."""
    truth = synthesise.synthesise(destination, shape=shape, voxel_um=voxel_um, seed=seed, overwrite=overwrite)
    typer.echo(f"{Path(destination) / 'image.ome.zarr'}: {fact(truth['shape'])} voxels, with labels/truth")
    typer.echo(
        f"{counted(truth['objects'], 'object')}, {counted(truth['loops'], 'loop')}, "
        f"{truth['length_um']:.1f} um, {truth['volume_um3']:.1f} um3 (truth.json)"
    )


@app.command()
@reported
def psf(
    out: Annotated[str, typer.Argument(metavar="OUT.tif", help="PSF to write; its picture is OUT.png.")],
    voxel_um: VoxelOption = None,
    like: Annotated[str | None, typer.Option("--like", metavar="IN", help="Voxel size and optics of an image.")] = None,
    pipeline: Annotated[
        str | None, typer.Option("--pipeline", metavar="PIPELINE.yaml", help="The PSF it uses.")
    ] = None,
    input: Annotated[str | None, typer.Option("--input", metavar="IN", help="Image for the pipeline.")] = None,
    beads: Annotated[str | None, typer.Option("--beads", metavar="IN", help="Image of beads to average.")] = None,
    channel: Annotated[str | None, typer.Option("--channel", metavar="NAME|N", help="Of the image.")] = None,
    fwhm_um: Annotated[
        tuple[float, float, float] | None,
        typer.Option("--fwhm-um", metavar="Z Y X", help="Widths of a Gaussian, or expected of beads."),
    ] = None,
    microscope: Annotated[
        str | None, typer.Option("--microscope", help="widefield, confocal, spinning-disk or light-sheet.")
    ] = None,
    objective: Annotated[str | None, typer.Option("--objective", metavar="'63x/1.4 oil'")] = None,
    emission_nm: Annotated[float | None, typer.Option("--emission-nm", help="Wavelength detected.")] = None,
    pinhole_au: Annotated[float | None, typer.Option("--pinhole-au", help="Diameter in Airy units.")] = None,
    sample_index: Annotated[float | None, typer.Option("--sample-index", help="Refractive index.")] = None,
    shape: Annotated[
        tuple[int, int, int] | None, typer.Option("--shape", metavar="Z Y X", help="Voxels, instead of where light is.")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="key=value", help="Any other key of psf; KEY.key of a pipeline."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make and draw a PSF: of optics, of a pipeline or of beads."""
    tiff, picture = make_psf.check_free(out, overwrite=overwrite)
    values = {"microscope": microscope, "objective": objective, "emission_nm": emission_nm, "pinhole_au": pinhole_au}
    made = make_psf.make_psf(
        {**values, "sample_index": sample_index, "fwhm_um": fwhm_um, "size": shape},
        set or (),
        voxel_um=voxel_um,
        like=like,
        pipeline=pipeline,
        source=input,
        beads=beads,
        channel=channel,
    )
    drawn = png_of_psf(made.voxels, made.voxel_um, made.fwhm_um, described(made.facts))
    make_psf.write_psf(tiff, made)
    write_atomic(picture, drawn)
    if as_json:
        typer.echo(json.dumps({"output": str(tiff), "picture": str(picture), **made.to_dict()}, indent=1))
    else:
        print_psf(new_console(), made, tiff, picture)


training.add_commands(app)


def _command() -> str:
    """What goes on with this run, from any folder: what was typed, but for what starts over."""
    typed = [word for word in sys.argv[1:] if word not in ("--restart", "--overwrite")]
    return f"cd {shlex.quote(os.getcwd())} && {shlex.join(['chunkflow', *typed])}"


@contextmanager
def _end_in_json(console: Console, as_json: bool) -> Iterator[None]:
    """Machines learn of an error on stdout too."""
    try:
        yield
    except (ChunkflowError, KeyboardInterrupt) as error:
        if as_json:
            code = error.exit_code if isinstance(error, ChunkflowError) else INTERRUPTED
            write_json(console, {"event": "end", "code": code, "error": str(error) or "interrupted"})
        raise


def _planned(
    pipeline: str,
    source: str | None,
    named_source: str | None,
    output: str | None,
    block: Triple | None,
    workers: int | None,
    overrides: Sequence[str] | None,
    restart: bool,
) -> Plan:
    if source is not None and named_source is not None:
        raise UsageError(f"two inputs are named, {source} and {named_source}", "Name one")
    if block is not None and min(block) < 1:
        raise UsageError(f"--block {fact(block)} is not positive", "Give voxels for z, y, x")
    described = Pipeline.from_yaml(pipeline, overrides or ())
    return described.plan(source or named_source, output, block=block, workers=workers, resume=not restart)
