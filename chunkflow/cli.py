"""The command line: every command is one call of the Python API, its errors one sentence and an exit code.

0 complete and checked, 1 unexpected, 2 bad usage or configuration, 3 blocks set aside or a result that is not
certified (or a demo outside its tolerance), 4 disk full, 5 output in use, 6 input changed, 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NoReturn, ParamSpec

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from chunkflow.backend import compute_kind, find_device
from chunkflow.errors import ChunkflowError, IncompleteError, UsageError
from chunkflow.geometry.box import Triple
from chunkflow.plan.pipeline import Pipeline
from chunkflow.plan.plan import Plan
from chunkflow.report.facts import RunFacts
from chunkflow.report.psf_picture import png_of_psf
from chunkflow.report.report import write_report
from chunkflow.report.restoration import restoration_numbers, restored_with
from chunkflow.run import demo as demonstration
from chunkflow.run import make_psf, synthesise
from chunkflow.run import status as states
from chunkflow.run.admission import check_admission
from chunkflow.run.check import check as facts_of
from chunkflow.run.driver import reusable, run_plan
from chunkflow.run.engine import chosen_engine
from chunkflow.run.progress import progress, write_json
from chunkflow.run.result import Result, uncertified
from chunkflow.stages.microscope import described
from chunkflow.storage.files import write_atomic
from chunkflow.storage.tiff import import_tiff

P = ParamSpec("P")

INTERRUPTED = 130
DISK_FULL = 4
WIDE = 160  # columns where the output is no terminal: tables are not to be cut

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


class _Settings:
    """What the options before the command say."""

    debug = False


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
    _Settings.debug = debug


def reported(command: Callable[P, None]) -> Callable[P, None]:
    """A command whose errors become a sentence on stderr and an exit code."""

    @wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        with _terminated_like_interrupted():
            try:
                command(*args, **kwargs)
            except (typer.Exit, typer.Abort):
                raise
            except KeyboardInterrupt as error:
                _fail("interrupted; the same command goes on where this one stopped", INTERRUPTED, error)
            except ChunkflowError as error:
                _fail(str(error), error.exit_code, error)
            except OSError as error:
                if error.errno == errno.EPIPE:
                    raise
                _fail_of_system(error)
            except Exception as error:
                _unexpected(error)

    return wrapper


def _fail_of_system(error: OSError) -> NoReturn:
    """Full disks and paths that cannot be used are the user's to change; everything else is unexpected."""
    said = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        _fail(f"{said}. Free some space and run the same command again", DISK_FULL, error)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
        _fail(f"{said}. Choose another path, or change its permissions", UsageError.exit_code, error)
    _unexpected(error)


def _fail(message: str, code: int, error: BaseException) -> NoReturn:
    if _Settings.debug:
        traceback.print_exception(error)
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


def _unexpected(error: Exception) -> NoReturn:
    traceback.print_exception(error)
    typer.echo(
        f"error: unexpected {type(error).__name__}; this is a fault of chunkflow, please report the lines above",
        err=True,
    )
    raise typer.Exit(ChunkflowError.exit_code)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which schedulers send, ends a command as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@app.command()
@reported
def demo(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder to work in.")] = "chunkflow-demo",
    workers: WorkersOption = None,
    on: OnOption = None,
    device: DeviceOption = "auto",
) -> None:
    """The whole pipeline on a synthetic volume with known truth."""
    console = _console()
    with progress(console) as listener:
        done = demonstration.run_demo(
            folder, workers=workers, on=on, device=device, on_event=listener, command=_command()
        )
    table = Table("", "found", "truth", "tolerance", "")
    for row in done.rows:
        allowed = f"within {row.tolerance:.0%}" if row.tolerance else "exact"
        verdict = "ok" if row.is_within else "outside"
        table.add_row(row.name, f"{row.found:.4g}", f"{row.truth:.4g}", allowed, verdict)
    console.print(table)
    report = write_report(
        done.result,
        truth={row.name: row.truth for row in done.rows},
        found={row.name: row.found for row in done.rows},
        tolerance={row.name: row.tolerance for row in done.rows},
    )
    _print_summary(console, done.result, report)
    console.print(f"{'change it':<13} edit {done.pipeline}, then: chunkflow run {done.pipeline}", **PLAIN)
    if not done.is_within:
        raise IncompleteError("the demo is outside its tolerance", "The table above says where")


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
    typer.echo(f"{done.destination}: {shape}, {done.dtype}, from {_counted(done.files, 'file')}")
    if len(done.channels) > 1:
        typer.echo(f"channels: {', '.join(done.channels)}")
    typer.echo(f"voxel size {_numbers(done.voxel_um)} um (z y x), {done.voxel_source}")
    for name, facts in zip(done.channels, done.optics, strict=True):
        if facts:
            typer.echo(f"optics of {name}: {', '.join(f'{k} {_fact(v)}' for k, v in facts.items())}, from the file")


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
    console = _console()
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
        write_json(console, {"event": "end", "code": code, "output": str(result.path), **_totals(result)})
    else:
        _print_summary(console, result, result.path / "report.html")
    if count:
        raise IncompleteError(
            f"the skeletons of {_counted(count, 'object')} are not certified; all results are written",
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
        _print_plan(_console(), planned, reused)


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
        _print_status(_console(), found)


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
        typer.echo(f"{name:<15} {_fact(value)}")


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
    typer.echo(f"{Path(destination) / 'image.ome.zarr'}: {_fact(truth['shape'])} voxels, with labels/truth")
    typer.echo(
        f"{_counted(truth['objects'], 'object')}, {_counted(truth['loops'], 'loop')}, "
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
    """Make a PSF from optics, for a pipeline or from beads; write and draw it."""
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
        _print_psf(_console(), made, tiff, picture)


PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDE)


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
        raise UsageError(f"--block {_fact(block)} is not positive", "Give voxels for z, y, x")
    described = Pipeline.from_yaml(pipeline, overrides or ())
    return described.plan(source or named_source, output, block=block, workers=workers, resume=not restart)


def _totals(result: Result) -> dict[str, Any]:
    """What a run found, as far as it measured it."""
    tables = result.path / "tables"
    found: dict[str, Any] = {}
    if (tables / "objects.parquet").is_file():
        found |= {"objects": len(result.objects), "volume_um3": float(result.objects.volume_um3.sum())}
    if (tables / "branches.parquet").is_file():
        found["length_um"] = float(result.branches.length_um.sum())
    if len(found) == 3:
        found |= {"loops": int(result.objects.b1_graph.sum()), "certified": int(result.objects.certified.sum())}
    if restored := restoration_numbers(RunFacts(result)):
        found["restoration"] = restored
    return found


def _print_summary(console: Console, result: Result, report: Path) -> None:
    found = _totals(result)
    words = []
    if "objects" in found:
        words += [_counted(found["objects"], "object"), f"volume {found['volume_um3']:.1f} um3"]
    if "length_um" in found:
        words.append(f"total length {found['length_um']:.1f} um")
    if "loops" in found:
        words += [_counted(found["loops"], "loop"), f"certified {found['certified']} of {found['objects']}"]
    out = result.path
    restored = restored_with(RunFacts(result)).removeprefix("restored ")
    lines = {"found": ", ".join(words), "restored": restored, "result": str(out), "report": str(report)}
    if (out / "image.ome.zarr").is_dir():
        lines["napari"] = f"napari --plugin napari-ome-zarr {shlex.quote(str(out / 'image.ome.zarr'))}"
    if (out / "graph" / "precomputed").is_dir():
        lines["neuroglancer"] = f"serve {out}, then zarr://URL/image.ome.zarr and precomputed://URL/graph/precomputed"
    if (out / "tables").is_dir():
        lines["pandas"] = f'import chunkflow; chunkflow.open_result("{out}").objects'
    for name, text in lines.items():
        if text:
            console.print(f"{name:<13} {text}", **PLAIN)


def _print_plan(console: Console, plan: Plan, reused: Sequence[str]) -> None:
    console.print(
        f"input {plan.input.path}: {_fact(plan.input.shape)} voxels of {_numbers(plan.input.scale.voxel_um)} um; "
        f"output {plan.output}: {_fact(plan.shape)} voxels of {_numbers(plan.scale.voxel_um)} um",
        **PLAIN,
    )
    console.print(f"block {_fact(plan.block)}", **PLAIN)
    passes = Table("pass", "units", "core", "halo", "read x", "peak MiB", "")
    for p in plan.to_dict()["passes"]:
        is_merge = p["merge"]
        passes.add_row(
            p["name"],
            str(p["units"]),
            "" if is_merge else _fact(p["core"]),
            "" if is_merge else _fact(p["halo"]),
            "" if p["read_amplification"] is None else f"{p['read_amplification']:.2f}",
            _mib(p["peak_bytes"]),
            "re-used" if p["name"] in reused else "",
        )
    console.print(passes)
    arrays = Table("array", "shape", "type", "chunk", "shard", "MiB", "")
    for a in plan.to_dict()["arrays"]:
        kept = "kept" if a["kept"] else "temporary"
        shard = "" if a["shard"] is None else _fact(a["shard"])
        size = _mib(a["bytes"])
        arrays.add_row(a["name"], _fact(a["shape"]), a["dtype"], _fact(a["chunk"]), shard, size, kept)
    console.print(arrays)
    for word, is_kept in (("kept", True), ("temporary", False)):
        total = sum(a.nbytes for a in plan.arrays.values() if a.kept == is_kept)
        console.print(f"arrays {word}: {_mib(total)} MiB before compression", **PLAIN)
    console.print(
        f"projected peak per worker: {_mib(plan.peak_bytes)} MiB of the {_mib(plan.memory)} MiB it may take", **PLAIN
    )
    if "psf" in plan.facts:
        console.print(f"PSF: {described(plan.facts['psf'])}", **PLAIN)
    for warning in plan.warnings:
        console.print(f"warning: {warning}", **PLAIN)


def _print_psf(console: Console, made: make_psf.MadePsf, tiff: Path, picture: Path) -> None:
    table = Table("", "value", "source")
    for name, (value, origin) in made.facts.items():
        table.add_row(name, _fact(value), origin)
    console.print(table)
    if made.beads is not None:
        quality = Table("beads", "")
        for name, text in make_psf.quality_rows(made.beads):
            quality.add_row(name, text)
        console.print(quality)
    for warning in made.warnings:
        console.print(f"warning: {warning}", **PLAIN)
    console.print(f"{tiff}: {_fact(made.voxels.shape)} voxels of {_numbers(made.voxel_um)} um (z y x)", **PLAIN)
    console.print(f"{'picture':<13} {picture}", **PLAIN)
    console.print(f"{'use it':<13} deconvolve: {{psf: {{path: {tiff}}}}}", **PLAIN)


def _print_status(console: Console, found: states.Status) -> None:
    ended = "" if found.code is None else f" (exit code {found.code})"
    console.print(f"{found.output}: {found.state}{ended}", **PLAIN)
    table = Table("pass", "state", "done", "failed", "missing")
    for p in found.passes:
        failed, missing = (str(count) if count else "" for count in (len(p.failed), p.missing))
        table.add_row(p.name, p.state, f"{p.done} of {p.units}", failed, missing)
    if found.passes:
        console.print(table)
    for p in found.passes:
        for unit in p.failed:
            console.print(f"failed: {p.name} block {unit.unit} at {unit.core}: {unit.error}", **PLAIN)
    if found.passes and found.state != "complete" and all(p.state == "done" for p in found.passes):
        console.print("every pass is done; the results are not in their places yet", **PLAIN)
    if found.state not in ("running", "complete") and found.command:
        console.print(f"to go on: {found.command}", **PLAIN)


def _fact(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_fact, value)) if any(isinstance(v, list | str) for v in value) else _numbers(value)
    return "none" if value is None else str(value)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f}" if count >= 10 * 2**20 else f"{count / 2**20:.1f}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
