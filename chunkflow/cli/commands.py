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

from chunkflow.backend import compute_kind
from chunkflow.cli import batches, checking, cluster, files, reporting, starting, training, upkeep, viewing
from chunkflow.cli.cluster import OnOption
from chunkflow.cli.endings import INTERRUPTED, Settings, reported
from chunkflow.cli.panels import Commands, group_commands
from chunkflow.cli.show import (
    PLAIN,
    counted,
    fact,
    new_console,
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
from chunkflow.plan.region import in_region
from chunkflow.report.psf_picture import png_of_psf
from chunkflow.report.report import write_report
from chunkflow.run import demo as demonstration
from chunkflow.run import demo_network, make_psf, synthesise
from chunkflow.run import status as states
from chunkflow.run.batch import Options as BatchOptions
from chunkflow.run.check import check as facts_of
from chunkflow.run.driver import reusable, run_plan
from chunkflow.run.engine import chosen_device, chosen_engine
from chunkflow.run.progress import progress, write_json
from chunkflow.run.result import shortfall
from chunkflow.stages.microscope import described
from chunkflow.storage.files import write_atomic
from chunkflow.storage.stores import Place

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The answer a whole-volume run would give, from a cluster of chunk tasks.",
)

PipelineFile = Annotated[str, typer.Argument(metavar="PIPELINE.yaml", help="What to do.")]
InputArgument = Annotated[
    str | None, typer.Argument(metavar="INPUT", help="OME-Zarr image or TIFF, instead of the file's.")
]
InputOption = Annotated[str | None, typer.Option("--input", metavar="IN", help="The same as INPUT.")]
OutputOption = Annotated[str | None, typer.Option("--output", "-o", metavar="OUT", help="Folder of the result.")]
BlockOption = Annotated[
    tuple[int, int, int] | None, typer.Option("--block", metavar="Z Y X", help="Voxels of a block.")
]
WorkersOption = Annotated[int | None, typer.Option("--workers", metavar="N", help="How many at a time.")]
DeviceOption = Annotated[
    Literal["auto", "gpu", "cpu"], typer.Option("--device", help="Never falls back from gpu.", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.key=value", help="A value of a stage or of input."),
]
RegionOption = Annotated[
    str | None, typer.Option("--region", metavar="Z,Y,X", help="A part: 10:60,0:256,: voxels, or 10-15um,0-25um,:")
]
StatisticsOption = Annotated[
    str | None, typer.Option("--statistics-from", metavar="OUT", help="Thresholds of the whole volume.")
]
RestartOption = Annotated[bool, typer.Option("--restart", help="Compute OUT from the start.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Write where something else is.")]
HolesOption = Annotated[bool, typer.Option("--allow-holes", help="Failed blocks become background.")]
OnOomOption = Annotated[
    Literal["fail", "host"], typer.Option("--on-oom", help="For blocks too large for the GPU.", show_default=False)
]
MixOption = Annotated[bool, typer.Option("--mix-kinds", help="Take over another kind's blocks.")]
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


def _compared(console: Console, done: demonstration.Demo) -> Place:
    """A table of what was found beside the truth, and the report that holds it."""
    print_comparisons(console, done.rows)
    return write_report(
        done.result,
        truth={row.name: row.truth for row in done.rows},
        found={row.name: row.found for row in done.rows},
        tolerance={row.name: row.tolerance for row in done.rows},
    )


@app.command()
@reported
def run(
    pipeline: PipelineFile,
    sources: batches.InputsArgument = None,
    input: InputOption = None,
    output: OutputOption = None,
    voxel_um: VoxelOption = None,
    samples: batches.SamplesOption = None,
    conditions: batches.ConditionsOption = None,
    reports: batches.ReportsOption = False,
    block: BlockOption = None,
    on: OnOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    set: SetOption = None,
    region: RegionOption = None,
    statistics_from: StatisticsOption = None,
    restart: RestartOption = False,
    overwrite: OverwriteOption = False,
    allow_holes: HolesOption = False,
    mix_kinds: MixOption = False,
    on_oom: OnOomOption = "fail",
    profile: cluster.ProfileOption = None,
    block_seconds: cluster.BlockSecondsOption = None,
    insecure: cluster.InsecureOption = False,
    print_job: cluster.PrintJobOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a pipeline on an image, or on many; the same command goes on where it was stopped."""
    console = new_console()
    site = cluster.cluster_options(profile, block_seconds, insecure)
    if print_job:
        return cluster.print_jobs(site)
    changes = batches.overrides_of(set, voxel_um)
    described = Pipeline.from_yaml(pipeline, changes)
    inputs = batches.sources_of(described, sources, input)
    if batches.is_several(described, inputs):
        cluster.check_one_machine(site)
        options = BatchOptions(
            samples=samples,
            conditions=conditions,
            reports=reports,
            on=on,
            workers=workers,
            device=device,
            restart=restart,
            overwrite=overwrite,
            allow_holes=allow_holes,
            mix_kinds=mix_kinds,
            command=_command(),
        )
        with _end_in_json(console, as_json):
            batches.run_many(
                described,
                inputs,
                output,
                block=block,
                region=region,
                statistics_from=statistics_from,
                options=options,
                as_json=as_json,
                console=console,
            )
        return
    with (
        _end_in_json(console, as_json),
        progress(console, as_json=as_json) as listener,
        batches.imported(described, inputs[0], output) as (source, more),
    ):
        changes += more
        plan = _planned(
            pipeline,
            source,
            None,
            output,
            block,
            workers,
            changes,
            restart,
            region,
            statistics_from,
            site.worker_memory,
        )
        result = run_plan(
            plan,
            on=on,
            workers=workers,
            device=device,
            options=site,
            restart=restart,
            overwrite=overwrite,
            allow_holes=allow_holes,
            mix_kinds=mix_kinds,
            on_oom=on_oom,
            on_event=listener,
            command=_command(),
        )
    short = shortfall(result)
    if as_json:
        code = short.exit_code if short else 0
        write_json(console, {"event": "end", "code": code, "output": str(result.path), **totals(result)})
    else:
        print_summary(console, result, result.path / "report.html")
    if short:
        raise short


@app.command()
@reported
def plan(
    pipeline: PipelineFile,
    source: InputArgument = None,
    input: InputOption = None,
    output: OutputOption = None,
    voxel_um: VoxelOption = None,
    block: BlockOption = None,
    on: OnOption = None,
    workers: WorkersOption = None,
    device: DeviceOption = "auto",
    set: SetOption = None,
    region: RegionOption = None,
    statistics_from: StatisticsOption = None,
    restart: RestartOption = False,
    overwrite: OverwriteOption = False,
    profile: cluster.ProfileOption = None,
    probe: checking.ProbeOption = False,
    scratch: checking.ScratchOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would do and take; reads no voxel without --probe, of a file all of them."""
    site = cluster.cluster_options(profile)
    changes = batches.overrides_of(set, voxel_um)
    with batches.one_image(pipeline, source, input, output, changes) as (image, more, named):
        planned = _planned(
            pipeline, image, None, output, block, workers, more, restart, region, statistics_from, site.worker_memory
        )
        found = chosen_device(device, on=on, options=site)
        short = checking.admitted(planned, overwrite=overwrite, restart=restart)
        chosen_engine(
            client=None,
            on=on,
            workers=workers,
            units=planned.largest_grid,
            is_small=planned.is_small,
            memory=planned.memory,
            device=found,
            options=site,
        ).close()
        reused = () if restart else reusable(planned, compute_kind(found))
        console = new_console()
        estimate = None
        if probe:
            estimate = checking.probed(planned, on=on, workers=workers, device=device, scratch=scratch, options=site)
        if as_json:
            taken = {} if estimate is None else {"probe": estimate.to_dict()}
            typer.echo(json.dumps({**planned.to_dict(), "reused": list(reused), **taken}, indent=1))
        else:
            print_plan(console, planned, reused, source=named)
            if estimate is not None:
                checking.print_estimate(console, estimate)
    if short is not None:
        raise short


@app.command()
@reported
def status(
    output: Annotated[str, typer.Argument(metavar="OUT", help="Folder of a result, or of several.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a run has done, and what is left; of a folder of results, what each has."""
    if upkeep.is_folder_of_results(output):
        upkeep.show_statuses(output, as_json=as_json)
        return
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


batches.add_commands(app)
starting.add_commands(app)
files.add_commands(app)
training.add_commands(app)
checking.add_commands(app)
cluster.add_commands(app)
viewing.add_commands(app)
reporting.add_commands(app)
upkeep.add_commands(app)
group_commands(app)


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
    region: str | None,
    statistics_from: str | None,
    memory: int | None = None,
) -> Plan:
    if source is not None and named_source is not None:
        raise UsageError(f"two inputs are named, {source} and {named_source}", "Name one")
    if block is not None and min(block) < 1:
        raise UsageError(f"--block {fact(block)} is not positive", "Give voxels for z, y, x")
    described = in_region(Pipeline.from_yaml(pipeline, overrides or ()), region, statistics_from)
    return described.plan(
        source or named_source, output, block=block, memory=memory, workers=workers, resume=not restart
    )
