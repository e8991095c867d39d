"""Commands and options that check a run: before it (`plan --probe`) and after it (`verify`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from chunkflow.cli.endings import reported
from chunkflow.cli.show import PLAIN, counted, mib, new_console
from chunkflow.errors import DiskFullError, UsageError

if TYPE_CHECKING:
    from chunkflow.plan.plan import Plan
    from chunkflow.run.engine import ClusterOptions
    from chunkflow.run.estimate import Estimate
    from chunkflow.run.verify import Verification

ProbeOption = Annotated[bool, typer.Option("--probe", help="Run samples in a scratch folder, and say what it takes.")]
ScratchOption = Annotated[
    str | None, typer.Option("--scratch", metavar="DIR", help="Where samples are run; beside the output by default.")
]
PASSES_SHOWN = 8


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module among the others."""
    app.command("verify")(verify_command)


def admitted(plan: Plan, *, overwrite: bool, restart: bool) -> DiskFullError | None:
    """Check whether a run may start. A disk too small is returned: what the run takes is to be seen all the same."""
    from chunkflow.run.admission import check_admission

    try:
        check_admission(plan, overwrite=overwrite, restart=restart)
    except DiskFullError as error:
        return error
    return None


def probed(
    plan: Plan,
    *,
    on: str | None,
    workers: int | None,
    device: str,
    scratch: str | None,
    options: ClusterOptions | None,
) -> Estimate:
    """Run samples of a plan, with a bar for people."""
    from chunkflow.run.probe import probe
    from chunkflow.run.progress import progress

    with progress(Console(stderr=True, emoji=False)) as listener:
        return probe(plan, on=on, workers=workers, device=device, scratch=scratch, options=options, on_event=listener)


def print_estimate(console: Console, found: Estimate) -> None:
    """What a run will take."""
    low, expected, high = map(duration, found.seconds)
    console.print(f"probe: {found.sampled_share:.2%} of the volume in {duration(found.probe_seconds)}", **PLAIN)
    table = Table("pass", "time", "share")
    total = found.seconds[1]
    largest = sorted(found.passes.items(), key=lambda item: -item[1])[:PASSES_SHOWN]
    for name, seconds in largest:
        table.add_row(name, duration(seconds), f"{seconds / total:.0%}" if total else "")
    console.print(table)
    lines = {
        "time": f"{expected} ({low} to {high}) with {counted(found.workers, 'worker')}, "
        f"{duration(found.merge_seconds)} of it in merges",
        "GPU-hours": "" if found.gpu_hours is None else f"{found.gpu_hours:.3g}",
        "read": f"{mib(found.read_bytes)} MiB in {found.read_files:,} files or requests",
        "written": f"{mib(found.written_bytes)} MiB in {found.written_files:,} files or requests",
        "disk": f"{mib(found.peak_bytes)} MiB at most, {mib(found.kept_bytes)} MiB in the end",
    }
    for name, text in lines.items():
        if text:
            console.print(f"{name:<13} {text}", **PLAIN)
    for note in found.notes:
        console.print(f"note: {note}", **PLAIN)


def duration(seconds: float) -> str:
    """Seconds in the unit that people would use."""
    for unit, length in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


@reported
def verify_command(
    output: Annotated[str, typer.Argument(metavar="OUT", help="Folder of a result.")],
    blocks: Annotated[int | None, typer.Option("--blocks", metavar="N", help="How many; 12 by default.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every block.")] = False,
    input: Annotated[str | None, typer.Option("--input", metavar="IN", help="The input, if it was moved.")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Another seed samples other blocks.")] = 0,
    device: Annotated[Literal["auto", "gpu", "cpu"], typer.Option("--device", help="As the run had it.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Compute blocks of a result again, on another grid, and compare; looks for traces of blocks."""
    from chunkflow.report.report import write_report
    from chunkflow.run.result import open_result
    from chunkflow.run.verify import BLOCKS, raise_if_different, verify

    if all and blocks is not None:
        raise UsageError(f"--all stands beside --blocks {blocks}", "Keep one of them")
    console = Console(stderr=True)
    with console.status("") as status:

        def listen(event: Any) -> None:
            status.update(f"verify: {event['done']} of {event['blocks']} blocks")

        found = verify(
            output, blocks=None if all else blocks or BLOCKS, source=input, device=device, seed=seed, on_event=listen
        )
    write_report(open_result(output))
    if as_json:
        typer.echo(json.dumps({"output": str(Path(output)), **found.to_dict()}, indent=1))
    else:
        print_verification(new_console(), found)
    raise_if_different(found)


def print_verification(console: Console, found: Verification) -> None:
    """What was compared, what differs, and what the faces of blocks look like."""
    console.print(found.sentence(), **PLAIN)
    voxels = ", ".join(f"{name} {count:,}" for name, count in found.voxels.items())
    console.print(f"voxels compared: {voxels or 'none'}", **PLAIN)
    if found.objects:
        console.print(
            f"{counted(found.objects, 'whole object')} looked at, {counted(found.skeletons, 'skeleton')}", **PLAIN
        )
    for note in found.notes:
        console.print(f"note: {note}", **PLAIN)
    for difference in found.differences:
        console.print(f"difference: {difference.text}", **PLAIN)
    if found.seams:
        table = Table("near faces of blocks", "found", "expected", "density / interior", "p", "")
        for row in found.seams:
            verdict = "a trace of blocks" if row.is_suspicious else ""
            cells = (f"{row.near} of {row.total}", f"{row.expected:.1f}", f"{row.ratio:.2f}", f"{row.p_value:.2g}")
            table.add_row(row.what, *cells, verdict)
        console.print(table)
