"""The commands `plan`, `run` and `status`: every one is a call of the Python API."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from chunkflow.cli import batches, checking, cluster, upkeep
from chunkflow.cli.endings import INTERRUPTED, reported
from chunkflow.cli.options import (
    BlockOption,
    BlockSecondsOption,
    DeviceOption,
    HolesOption,
    InputArgument,
    InputOption,
    InsecureOption,
    JsonOption,
    MixOption,
    OnOomOption,
    OnOption,
    OutputOption,
    OverwriteOption,
    PipelineFile,
    PrintJobOption,
    ProfileOption,
    RegionOption,
    RestartOption,
    SetOption,
    StatisticsOption,
    VoxelOption,
    WorkersOption,
)
from chunkflow.cli.show import fact, new_console, print_plan, print_status, print_summary, totals
from chunkflow.errors import ChunkflowError, UsageError

if TYPE_CHECKING:
    from chunkflow.geometry.box import Triple
    from chunkflow.plan.plan import Plan


def add_commands(app: typer.Typer) -> None:
    """Put the commands of this module among the others."""
    app.command("run")(run_command)
    app.command("plan")(plan_command)
    app.command("status")(status_command)


@reported
def run_command(
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
    profile: ProfileOption = None,
    block_seconds: BlockSecondsOption = None,
    insecure: InsecureOption = False,
    print_job: PrintJobOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a pipeline, on one image or many; the same command goes on with it."""
    from chunkflow.plan.pipeline import Pipeline
    from chunkflow.run.batch import Options as BatchOptions
    from chunkflow.run.driver import run_plan
    from chunkflow.run.progress import progress, write_json
    from chunkflow.run.result import shortfall

    console = new_console()
    site = cluster.cluster_options(profile, block_seconds, insecure)
    if print_job:
        return cluster.print_jobs(site)
    changes = batches.overrides_of(set, voxel_um)
    described = Pipeline.from_yaml(pipeline, changes)
    inputs = batches.sources_of(described, sources, input)
    if batches.is_several(described, inputs):
        options = BatchOptions(
            samples=samples,
            conditions=conditions,
            reports=reports,
            on=on,
            cluster=site,
            workers=workers,
            device=device,
            restart=restart,
            overwrite=overwrite,
            allow_holes=allow_holes,
            mix_kinds=mix_kinds,
            command=typed_command(),
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
            command=typed_command(),
        )
    short = shortfall(result)
    if as_json:
        code = short.exit_code if short else 0
        write_json(console, {"event": "end", "code": code, "output": str(result.path), **totals(result)})
    else:
        print_summary(console, result, result.path / "report.html")
    if short:
        raise short


@reported
def plan_command(
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
    profile: ProfileOption = None,
    probe: checking.ProbeOption = False,
    scratch: checking.ScratchOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would do and take; reads no voxel without --probe, of a file all of them."""
    from chunkflow.backend import compute_kind
    from chunkflow.run.driver import reusable
    from chunkflow.run.engine import chosen_device, engine_for

    site = cluster.cluster_options(profile)
    changes = batches.overrides_of(set, voxel_um)
    with batches.one_image(pipeline, source, input, output, changes) as (image, more, named):
        planned = _planned(
            pipeline, image, output, block, workers, more, restart, region, statistics_from, site.worker_memory
        )
        found = chosen_device(device, on=on, options=site)
        short = checking.admitted(planned, overwrite=overwrite, restart=restart)
        engine_for(planned, found, on=on, workers=workers, options=site).close()
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


@reported
def status_command(
    output: Annotated[str, typer.Argument(metavar="OUT", help="Folder of a result, or of several.")],
    as_json: JsonOption = False,
) -> None:
    """Say what a run has done, and what is left; of a folder of results, what each has."""
    from chunkflow.run.status import status

    if upkeep.is_folder_of_results(output):
        upkeep.show_statuses(output, as_json=as_json)
        return
    found = status(output)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
    else:
        print_status(new_console(), found)


def typed_command() -> str:
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
            from chunkflow.run.progress import write_json

            code = error.exit_code if isinstance(error, ChunkflowError) else INTERRUPTED
            write_json(console, {"event": "end", "code": code, "error": str(error) or "interrupted"})
        raise


def _planned(
    pipeline: str,
    source: str | None,
    output: str | None,
    block: Triple | None,
    workers: int | None,
    overrides: Sequence[str] | None,
    restart: bool,
    region: str | None,
    statistics_from: str | None,
    memory: int | None = None,
) -> Plan:
    from chunkflow.plan.pipeline import Pipeline
    from chunkflow.plan.region import in_region

    if block is not None and min(block) < 1:
        raise UsageError(f"--block {fact(block)} is not positive", "Give voxels for z, y, x")
    described = in_region(Pipeline.from_yaml(pipeline, overrides or ()), region, statistics_from)
    return described.plan(source, output, block=block, memory=memory, workers=workers, resume=not restart)
