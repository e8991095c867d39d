"""Files in and out: `import` and `export`. Each is a call of the Python API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from chunkflow.cli.batches import import_many
from chunkflow.cli.endings import reported
from chunkflow.cli.options import OverwriteOption
from chunkflow.cli.show import counted, fact, numbers
from chunkflow.errors import UsageError
from chunkflow.geometry.scale import doubt_of

if TYPE_CHECKING:
    from chunkflow.storage.importing import ImportReport


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module among the others."""
    app.command("import")(import_command)
    app.command("export")(export_command)


@reported
def import_command(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="SRC... [DST]", help="A file, a folder of planes or planes; then OME-Zarr, or -o."),
    ],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="DST", help="The OME-Zarr image to write.")
    ] = None,
    voxel_um: Annotated[
        tuple[float, float, float] | None,
        typer.Option("--voxel-um", metavar="Z Y X", help="Voxel size in micrometers."),
    ] = None,
    axes: Annotated[str | None, typer.Option("--axes", metavar="ZYX", help="Axes, instead of the file's.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", "--image", metavar="NAME", help="Of HDF5, N5, zarr; image of an OME-TIFF, CZI, LIF or ND2."
        ),
    ] = None,
    channels: Annotated[
        str | None, typer.Option("--channels", metavar="NAME,NAME,...", help="Names, instead of the file's.")
    ] = None,
    format: Annotated[Literal["0.5", "0.4"], typer.Option("--format", help="OME-Zarr version.")] = "0.5",
    each: Annotated[
        bool, typer.Option("--each", help="Files, folders and patterns: an image DST/NAME.ome.zarr of every file.")
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Make an OME-Zarr image of TIFF, HDF5, N5, another zarr, CZI, LIF or ND2."""
    from chunkflow.storage.importing import import_image

    if output is None and len(paths) < 2:
        raise UsageError("a source and a destination are needed", "Give SRC... DST, or SRC... -o DST")
    sources, destination = (paths, output) if output is not None else (paths[:-1], paths[-1])
    if each:
        if dataset is not None or channels is not None:
            raise UsageError("--dataset and --channels are of one image", "Leave them out, or leave --each out")
        import_many(sources, destination, voxel_um=voxel_um, axes=axes, format=format, overwrite=overwrite)
        return
    with _bar("planes") as tell:
        done = import_image(
            sources,
            destination,
            voxel_um=voxel_um,
            axes=axes,
            dataset=dataset,
            channels=None if channels is None else [name.strip() for name in channels.split(",")],
            format=format,
            overwrite=overwrite,
            on_plane=tell,
        )
    _print_import(done)


def _print_import(done: ImportReport) -> None:
    shape = " ".join(f"{letter}={length}" for letter, length in zip(done.axes, done.shape, strict=True))
    typer.echo(f"{done.destination}: {shape}, {done.dtype}, from {counted(done.files, 'file')}")
    if len(done.channels) > 1:
        typer.echo(f"channels: {', '.join(done.channels)}")
    typer.echo(f"voxel size {numbers(done.voxel_um)} um (z y x), {done.voxel_source}")
    if doubt := doubt_of(done.voxel_um, done.shape[-3:]):
        typer.echo(f"warning: {doubt}")
    if any(done.translation_um):
        typer.echo(f"voxel 0 at {numbers(done.translation_um)} um (z y x)")
    for name, facts in zip(done.channels, done.optics, strict=True):
        if facts:
            typer.echo(f"optics of {name}: {', '.join(f'{k} {fact(v)}' for k, v in facts.items())}, from the file")


@reported
def export_command(
    path: Annotated[
        str, typer.Argument(metavar="OUT", help="Folder of a result; for tiff and mesh an OME-Zarr image too.")
    ],
    to: Annotated[Literal["tiff", "csv", "xlsx", "swc", "mesh"], typer.Option("--to", help="What to write.")],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="DIR", help="Folder to write to, instead of OUT/export.")
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", metavar="Z,Y,X", help="A part: 10:60,0:256,: voxels, or 10-15um,0-25um,:")
    ] = None,
    objects: Annotated[
        str | None, typer.Option("--objects", metavar="ID,ID,...", help="Of csv, xlsx, swc and mesh: these alone.")
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option("--channels", metavar="all|NAME,...", help="Of tiff: channels of the input beside the labels."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--input", metavar="IN", help="Where the input is now, for --channels.")
    ] = None,
    mesh_format: Annotated[
        Literal["ply", "stl", "precomputed"], typer.Option("--mesh-format", help="Of mesh.")
    ] = "ply",
    mesh_surface: Annotated[
        Literal["volume", "halfway"],
        typer.Option("--mesh-surface", help="Of mesh: hold the voxels' volume, or plain marching cubes."),
    ] = "volume",
    overwrite: OverwriteOption = False,
) -> None:
    """Write a result as TIFF, CSV, Excel, SWC or meshes."""
    from chunkflow.run.exporting import export

    with _bar("exported") as tell:
        done = export(
            path,
            to,
            output,
            region=region,
            objects=None if objects is None else _ids(objects),
            channels=None if channels is None else [name.strip() for name in channels.split(",")],
            source=source,
            mesh_format=mesh_format,
            mesh_surface=mesh_surface,
            overwrite=overwrite,
            on_step=tell,
        )
    shown = done.files if len(done.files) <= 8 else (*done.files[:3], *done.files[-1:])
    for file in shown:
        typer.echo(file)
    if len(done.files) > len(shown):
        typer.echo(f"{len(done.files)} files in all")
    for note in done.notes:
        typer.echo(note)


def _ids(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--objects {text!r} is not a list of object ids", "Write 3,17,20") from error


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr, if somebody looks."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name)
        yield lambda done, total: bar.update(task, completed=done, total=total)
