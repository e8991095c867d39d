"""`chunkflow report`: the report of a run written again, or several runs compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chunkflow.cli.endings import reported
from chunkflow.errors import UsageError

COMPARED = "runs-compared.html"


def add_commands(app: typer.Typer) -> None:
    """Put the command of this module among the others."""
    app.command("report")(report_command)


@reported
def report_command(
    outputs: Annotated[list[str], typer.Argument(metavar="OUT...", help="Output folders; several are compared.")],
    page: Annotated[
        str | None,
        typer.Option("--page", metavar="FILE.html", help=f"Of a comparison; {COMPARED} here by default."),
    ] = None,
) -> None:
    """Write report.html of a run again, also of one that did not end; or compare several runs on a page."""
    if len(outputs) > 1:
        from chunkflow.report.runs_compared import write_runs_compared

        typer.echo(write_runs_compared(outputs, Path(page or COMPARED)))
        return
    if page is not None:
        raise UsageError(
            f"--page {page} is for several runs", "The report of a run is its report.html: leave --page out"
        )
    from chunkflow.report.report import rebuild_report

    typer.echo(rebuild_report(outputs[0]))
