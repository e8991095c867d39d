"""Commands before a first run: a pipeline to begin with, a look at what it does. Each is a call of the Python API."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from chunkflow.cli.batches import overrides_of
from chunkflow.cli.endings import reported
from chunkflow.cli.options import OverwriteOption, VoxelOption, beginning_with
from chunkflow.cli.show import PLAIN, new_console
from chunkflow.errors import ConfigError, UsageError
from chunkflow.plan.presets import preset_names

if TYPE_CHECKING:
    from chunkflow.run.init import Missing


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module among the others."""
    app.command("init")(init_command)
    app.command("preview")(preview_command)
    app.command("schema")(schema_command)


@reported
def init_command(
    preset: Annotated[
        str,
        typer.Argument(
            metavar="PRESET",
            help=f"One of {', '.join(preset_names())}.",
            autocompletion=beginning_with(*preset_names()),
        ),
    ],
    source: Annotated[str, typer.Argument(metavar="IN", help="OME-Zarr image or TIFF; its metadata are read.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="PIPELINE.yaml", help="File to write.")] = (
        "pipeline.yaml"
    ),
    voxel_um: VoxelOption = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.key=value", help="A value of a stage or of input.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a commented pipeline from a preset and what an image's metadata says."""
    from chunkflow.run.init import started, write_started

    found = started(preset, source, output, sets=overrides_of(set, voxel_um), ask=_ask if sys.stdin.isatty() else None)
    path = write_started(found, output, overwrite=overwrite)
    typer.echo(f"{path} is written")
    if found.missing:
        listed = "; ".join(str(value) for value in found.missing)
        raise ConfigError(
            f"{path} lacks what nothing says: {listed}",
            "Fill in the lines that say MISSING, or repeat the command with --set and --overwrite",
        )
    typer.echo(f"look first: chunkflow preview {path} -o preview.png")


def _ask(missing: Missing) -> str:
    return str(typer.prompt(f"{missing.key}: {missing.what}, for example {missing.example}", err=True))


@reported
def preview_command(
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE.yaml", help="What to do.")],
    source: Annotated[
        str | None, typer.Argument(metavar="INPUT", help="OME-Zarr image or TIFF, instead of the file's.")
    ] = None,
    input: Annotated[str | None, typer.Option("--input", metavar="IN", help="The same as INPUT.")] = None,
    output: Annotated[str, typer.Option("--output", "-o", metavar="PNG", help="Picture to write.")] = "preview.png",
    voxel_um: VoxelOption = None,
    region: Annotated[
        str | None,
        typer.Option("--region", metavar="Z,Y,X", help="10:60,0:256,: voxels, or 10-15um,0-25um,: (the brightest)."),
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.key=value", help="Change a value; several of one key are compared."),
    ] = None,
    statistics_from: Annotated[
        str | None, typer.Option("--statistics-from", metavar="OUT", help="Thresholds of the whole volume's run.")
    ] = None,
    device: Annotated[Literal["auto", "gpu", "cpu"], typer.Option("--device", help="Never falls back from gpu.")] = (
        "auto"
    ),
    overwrite: OverwriteOption = False,
) -> None:
    """Run one region and draw it: before, after, labels, skeleton, histogram, PSF."""
    from chunkflow.run.preview import check_target, preview_of_file

    if source is not None and input is not None:
        raise UsageError(f"two inputs are named, {source} and {input}", "Name one")
    target = check_target(output, overwrite=overwrite)
    found = preview_of_file(
        pipeline,
        source or input,
        sets=overrides_of(set, voxel_um),
        region=region,
        statistics_from=statistics_from,
        device=device,
        on_event=_Told(),
    )
    found.save(target)
    shown = new_console()
    for setting in found.settings:
        facts = ", ".join(setting.facts.values())
        shown.print(f"{setting.title or 'as the pipeline says'}: {facts}", **PLAIN)
    shown.print(f"{target}: region {found.box}", **PLAIN)


class _Told:
    """Says what it runs on, once; of several settings all passes would be a page of lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, event: Mapping[str, Any]) -> None:
        text = str(event.get("text", "")) if event["event"] in ("device", "warning") else ""
        if text and text not in self.lines:
            self.lines.append(text)
            typer.echo(text if event["event"] == "device" else f"warning: {text}", err=True)


@reported
def schema_command() -> None:
    """Print the JSON schema of pipeline files, for editors: chunkflow schema > chunkflow.schema.json."""
    from chunkflow.plan.schema import pipeline_schema

    typer.echo(json.dumps(pipeline_schema(), indent=1))
