"""Commands that look after machines and results: doctor, clean. Each is a call of the Python API."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from chunkflow.cli.endings import reported
from chunkflow.cli.show import PLAIN, counted, new_console
from chunkflow.errors import ChunkflowError

if TYPE_CHECKING:
    from chunkflow.run.batch_status import BatchStatus
    from chunkflow.run.doctor import Check
    from chunkflow.run.status import Status

SHOWN = 20
"""Failures of a batch that are named."""
MARKS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module among the others."""
    app.command("doctor")(doctor_command)
    app.command("clean")(clean_command)


@reported
def doctor_command(
    stores: Annotated[
        list[str] | None,
        typer.Argument(metavar="URL", help="Places of object stores, where every kind of request is tried."),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--bundle", metavar="OUT", help="Pack what explains this run; no voxels, no secrets.")
    ] = None,
    to: Annotated[
        str, typer.Option("--to", metavar="FILE.zip", help="Where the bundle goes.")
    ] = "chunkflow-bundle.zip",
    folder: Annotated[str, typer.Option("--folder", metavar="DIR", help="Where results are to be written.")] = ".",
    trial: Annotated[bool, typer.Option(help="Run a tiny volume on two workers.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say whether this machine can do the work: versions, GPU, memory, disk, object stores, a trial run."""
    from chunkflow.run.doctor import bundle, doctor

    console = new_console()
    if out is not None:
        console.print(f"written {bundle(out, to)}", **PLAIN)
        return
    checks = []
    for check in doctor(folder=Path(folder), stores=stores or (), trial=trial):
        checks.append(check)
        if not as_json:
            _show(console, check)
    if as_json:
        console.file.write(json.dumps([asdict(check) for check in checks]) + "\n")
    _refuse_problems(checks)


@reported
def clean_command(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder of a result.")],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Delete a result's temporary arrays; a later change computes again what it needs of them."""
    from chunkflow.run.temporaries import clean

    freed = clean(out)
    if as_json:
        typer.echo(json.dumps({"output": out, "freed_bytes": freed}))
    else:
        new_console().print(f"{freed / 2**20:.1f} MiB of temporary arrays deleted from {out}", **PLAIN)


def is_folder_of_results(path: str) -> bool:
    """Whether a path is a folder that is no result itself."""
    from chunkflow.run.runs import is_result

    return "://" not in path and Path(path).is_dir() and not is_result(Path(path))


def show_statuses(folder: str, *, as_json: bool) -> None:
    """What batches below a folder hold, a line per other result, and the commands that go on with what is not done."""
    from chunkflow.run.batch_status import batch_status
    from chunkflow.run.runs import batches_below, statuses

    found = statuses(folder)
    batches = [batch_status(path) for path in batches_below(folder)]
    if as_json:
        typer.echo(json.dumps([*(one.to_dict() for one in batches), *(one.to_dict() for one in found)], indent=1))
        return
    console = new_console()
    for batch in batches:
        _show_batch(console, batch)
    if found:
        _show_results(console, found)


def _show_batch(console: Console, found: BatchStatus) -> None:
    words = [f"{found.done} done", f"{len(found.failed)} failed"]
    words += [f"{found.left} to do"] if found.left else []
    words += [f"{len(found.incomplete)} lack something"] if found.incomplete else []
    images = "a batch" if found.images is None else counted(found.images, "image")
    console.print(f"{found.output} ({found.state}): {images}, {', '.join(words)}", **PLAIN)
    for image in found.failed[:SHOWN]:
        console.print(f"failed: {image.file}: {image.error}", **PLAIN)
    if len(found.failed) > SHOWN:
        console.print(f"and {len(found.failed) - SHOWN} more: see the column error of summary.csv", **PLAIN)
    if found.state in ("failed", "interrupted") and found.command:
        console.print(f"what has no result is tried again by: {found.command}", **PLAIN)


def _show_results(console: Console, found: Sequence[Status]) -> None:
    table = Table("result", "state", "passes done", "blocks set aside")
    for one in found:
        done = sum(p.state in ("done", "holes") for p in one.passes)
        aside = sum(len(p.quarantined) for p in one.passes)
        table.add_row(str(one.output), one.state, f"{done} of {len(one.passes)}", str(aside) if aside else "")
    console.print(table)
    for one in found:
        if one.state == "unreadable":
            console.print(
                f"{one.output} (unreadable): chunkflow status {shlex.quote(str(one.output))} says why", **PLAIN
            )
        if one.state not in ("complete", "running") and one.command:
            console.print(f"{one.output} ({one.state}) goes on with: {one.command}", **PLAIN)


def _show(console: Console, check: Check) -> None:
    console.print(f"{MARKS[check.verdict]} {check.name:<16} {check.found}", **PLAIN)
    if check.remedy:
        console.print(f"{'':<24} {check.remedy}", **PLAIN)


def _refuse_problems(checks: Sequence[Check]) -> None:
    wrong = [check.name for check in checks if check.verdict == "problem"]
    if wrong:
        raise ChunkflowError(f"not all is well: {', '.join(wrong)}", "The lines above say what to do")
