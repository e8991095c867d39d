"""Options that several commands have, each declared once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import typer


def beginning_with(*words: str) -> Callable[[str], list[str]]:
    """What the Tab key offers for a value: those of some words that begin with what is typed."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


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
OnOption = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="PLACE",
        help="local, threads, serial, cuda, slurm, kubernetes, or an address.",
        autocompletion=beginning_with("local", "threads", "serial", "cuda", "slurm", "kubernetes"),
    ),
]
ProfileOption = Annotated[str | None, typer.Option("--profile", metavar="NAME|FILE", help="A site (docs/clusters.md).")]
BlockSecondsOption = Annotated[
    float | None,
    typer.Option("--block-seconds", metavar="S", help="Limit of a block; else by their median."),
]
InsecureOption = Annotated[bool, typer.Option("--insecure", help="No TLS, on networks you trust.")]
PrintJobOption = Annotated[bool, typer.Option("--print-job", help="Print the jobs' script, and stop.")]
