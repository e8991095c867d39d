"""The command line: what is asked for first, and the commands of the other modules."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from chunkflow.cli import batches, checking, cluster, files, reporting, running, starting, training, upkeep, viewing
from chunkflow.cli.endings import Settings, reported
from chunkflow.cli.options import (
    DeviceOption,
    JsonOption,
    OnOption,
    OverwriteOption,
    VoxelOption,
    WorkersOption,
    beginning_with,
)
from chunkflow.cli.panels import Commands, group_commands
from chunkflow.cli.running import typed_command
from chunkflow.cli.show import PLAIN, counted, fact, new_console, print_comparisons, print_psf, print_summary
from chunkflow.errors import IncompleteError

if TYPE_CHECKING:
    from chunkflow.run.demo import Demo
    from chunkflow.storage.stores import Place

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The answer a whole-volume run would give, from a cluster of chunk tasks.",
)


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
    from chunkflow.run import demo_network
    from chunkflow.run.demo import run_demo
    from chunkflow.run.progress import progress

    console = new_console()
    with progress(console) as listener:
        done = run_demo(folder, workers=workers, on=on, device=device, on_event=listener, command=typed_command())
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
                demo_network.run_network_demo(folder, on=on, device=device, on_event=listener, command=typed_command())
            )
        console.print(f"{'report':<13} {_compared(console, parts[1])}", **PLAIN)
    if not all(part.is_within for part in parts):
        raise IncompleteError("the demo is outside its tolerance", "The table above says where")


def _compared(console: Console, done: Demo) -> Place:
    """A table of what was found beside the truth, and the report that holds it."""
    from chunkflow.report.report import write_report

    print_comparisons(console, done.rows)
    return write_report(
        done.result,
        truth={row.name: row.truth for row in done.rows},
        found={row.name: row.found for row in done.rows},
        tolerance={row.name: row.tolerance for row in done.rows},
    )


@app.command()
@reported
def check(
    path: Annotated[str, typer.Argument(metavar="PATH", help="OME-Zarr image, TIFF or network.")],
    as_json: JsonOption = False,
) -> None:
    """Say what an image or a network is; reads no voxel."""
    from chunkflow.run.check import check as facts_of

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
    shape: Annotated[tuple[int, int, int], typer.Option("--shape", metavar="Z Y X", help="Voxels.")] = (64, 256, 256),
    voxel_um: Annotated[
        tuple[float, float, float], typer.Option("--voxel-um", metavar="Z Y X", help="Voxel size in micrometers.")
    ] = (0.2, 0.08, 0.08),
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed draws the same volume.")] = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Draw a volume of tubes with known objects, loops and lengths."""
    from chunkflow.run.synthesise import synthesise

    truth = synthesise(destination, shape=shape, voxel_um=voxel_um, seed=seed, overwrite=overwrite)
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
        str | None,
        typer.Option(
            "--microscope",
            help="widefield, confocal, spinning-disk or light-sheet.",
            autocompletion=beginning_with("widefield", "confocal", "spinning-disk", "light-sheet"),
        ),
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
    from chunkflow.report.psf_picture import png_of_psf
    from chunkflow.run import make_psf
    from chunkflow.stages.microscope import described
    from chunkflow.storage.files import write_atomic

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


batches.add_commands(app)
running.add_commands(app)
starting.add_commands(app)
files.add_commands(app)
training.add_commands(app)
checking.add_commands(app)
cluster.add_commands(app)
viewing.add_commands(app)
reporting.add_commands(app)
upkeep.add_commands(app)
group_commands(app)
