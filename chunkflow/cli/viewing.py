"""`chunkflow view`: a result in Neuroglancer or napari, as a picture, or as a state to hand on."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chunkflow.cli.endings import reported
from chunkflow.cli.options import beginning_with
from chunkflow.errors import UsageError
from chunkflow.view.browser import LOOPBACK, SIZE

if TYPE_CHECKING:
    from chunkflow.view.state import Look


def add_commands(app: typer.Typer) -> None:
    """Put the command of this module among the others."""
    app.command("view")(view_command)


@reported
def view_command(
    location: Annotated[str, typer.Argument(metavar="OUT", help="Folder of a result, an OME-Zarr image, or its URL.")],
    napari: Annotated[bool, typer.Option("--napari", help="In napari, with the tables as features.")] = False,
    picture: Annotated[
        str | None, typer.Option("--screenshot", metavar="FILE.png", help="Write a picture; needs no display.")
    ] = None,
    into_report: Annotated[
        bool, typer.Option("--into-report", help="Put a picture into report.html; needs no display.")
    ] = False,
    state: Annotated[
        str | None, typer.Option("--state", metavar="FILE.json", help="Write a state of Neuroglancer, print its link.")
    ] = None,
    url_base: Annotated[
        str | None, typer.Option("--url-base", metavar="URL", help="Where others find OUT, for --state.")
    ] = None,
    size: Annotated[tuple[int, int], typer.Option("--size", metavar="W H", help="Pixels of the picture.")] = SIZE,
    at: Annotated[
        tuple[float, float, float] | None, typer.Option("--at", metavar="Z Y X", help="Voxel in the middle.")
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            metavar="NAME",
            help="Panels: 4panel, xy, xz, yz, 3d or xy-3d.",
            autocompletion=beginning_with("4panel", "xy", "xz", "yz", "3d", "xy-3d"),
        ),
    ] = "4panel",
    port: Annotated[int, typer.Option("--port", metavar="N", help="Of the viewer; any free one by default.")] = 0,
    bind: Annotated[
        str, typer.Option("--bind", metavar="ADDRESS", help="Who may connect: by default this machine alone.")
    ] = LOOPBACK,
    browser: Annotated[str | None, typer.Option("--browser", metavar="PROGRAM", help="For pictures.")] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Print the address only.")] = False,
) -> None:
    """Look at a result in Neuroglancer or napari, or write a picture of it."""
    if min(size) < 1:
        raise UsageError(f"--size {size[0]} {size[1]} is not positive", "Give width and height in pixels")
    if picture is not None and Path(picture).suffix.lower() != ".png":
        raise UsageError(f"--screenshot {picture}: a picture is written as PNG", "Give a name that ends in .png")
    from chunkflow.run.batch_status import check_one_result
    from chunkflow.storage.stores import place_of
    from chunkflow.view import neuroglancer
    from chunkflow.view.state import Look

    check_one_result(place_of(location))
    look = Look(at=at, layout=layout)
    if state is not None:
        typer.echo(neuroglancer.write_state(state, location, look, url_base=url_base))
    if picture is not None or into_report:
        _write_picture(location, look, picture, size, browser, into_report=into_report)
    if state is not None or picture is not None or into_report:
        return
    if napari:
        _run_napari(location)
        return
    with suppress(KeyboardInterrupt), neuroglancer.showing(location, look, bind=bind, port=port) as shown:
        typer.echo(shown.url)
        typer.echo("Ctrl-C ends it.", err=True)
        if not no_open and _has_display():
            webbrowser.open(shown.url)
        ended = threading.Event()
        while not ended.wait(1):  # a signal that another thread is given does not end a wait without a limit
            pass


def _write_picture(
    location: str, look: Look, picture: str | None, size: tuple[int, int], browser: str | None, *, into_report: bool
) -> None:
    from chunkflow.report.viewer_picture import check_report, put_picture
    from chunkflow.storage.files import write_atomic
    from chunkflow.view.neuroglancer import screenshot

    if into_report:
        check_report(location)
    png = screenshot(location, look, size=size, browser=browser)
    if picture is not None:
        write_atomic(Path(picture), png)
        typer.echo(picture)
    if into_report:
        typer.echo(str(put_picture(location, png)))


def _run_napari(location: str) -> None:
    if not _has_display():
        raise UsageError("napari needs a display, and there is none", "Without one: --screenshot FILE.png")
    from chunkflow.view.plugin import open_napari  # reads no dask where Neuroglancer is enough

    open_napari(location)
    import napari

    napari.run()


def _has_display() -> bool:
    """Whether a window can be opened; a browser of text would be no help."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
